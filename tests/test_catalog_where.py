"""Conditions on columns: what they select, and where an error points."""

import ast
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.errors import AstroclipError, DataError, UsageError
from astroclip.tables import open_table
from astroclip.tables.where import MAX_DEPTH, Where

N = 6
COLUMNS = {
    "Z": ("D", np.array([0.1, 0.2, 0.3, 0.4, np.nan, 0.6])),
    "MAG_R": ("E", np.array([18, 19, 20, 21, 17, np.nan], "f4")),
    "TARGETID": ("K", 2**53 + np.arange(N)),
    "CLASS": ("8A", np.array(["GALAXY", "QSO", "GALAXY", "STAR", "", "QSO"])),
    "MAIN": ("L", np.array([True, False, True, True, False, False])),
    "bar_strong-fraction": ("E", np.linspace(0, 1, N, dtype="f4")),
    "BIG": ("K", 2**62 + np.arange(N)),
    "VECTOR": ("3E", np.zeros((N, 3))),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("where") / "t.fits"
    columns = [fits.Column(name, form, array=values) for name, (form, values) in COLUMNS.items()]
    columns.append(fits.Column("COUNT", "J", null=-1, array=np.array([0, 1, 2, -1, 4, 5])))
    fits.BinTableHDU.from_columns(columns).writeto(path)
    with open_table(path) as catalog:
        yield catalog


def rows(text, table) -> list[int]:
    where = Where(text, table)
    return np.flatnonzero(where.select(table.read(where.columns))).tolist()


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("Z < 0.3 & MAG_R < 19", [0]),
        ("z<.3&mag_r<=1.9e1", [0, 1]),
        ("0.1 < Z <= 0.4", [1, 2, 3]),
        ("0.5 > Z", [0, 1, 2, 3]),
        ("Z > -1", [0, 1, 2, 3, 5]),
        ("Z != 0.1", [1, 2, 3, 5]),  # a missing value is neither equal nor unequal
        ("~(Z < 0.3)", [2, 3, 5]),
        ("~~Z < 0.3", [0, 1]),
        ("Z < 0.3 | MAG_R < 18", [0, 1, 4]),
        ("MAG_R < 18 & Z < 0.3 | MAIN", [0, 2, 3]),  # & binds tighter
        ("MAG_R < 18 | Z < 0.3 & MAIN", [0, 4]),
        ("(MAG_R < 18 | Z < 0.3) & MAIN", [0]),
        ("~(Z > 0.5 & MAG_R < 18)", [0, 1, 2, 3]),  # unknown of the last two
        ("CLASS == 'GALAXY'", [0, 2]),
        ('CLASS != "GALAXY" & CLASS != " QSO "', [3]),  # an empty text is missing
        ("~(CLASS == 'GALAXY')", [1, 3, 5]),
        ("CLASS == ''", [4]),
        ("CLASS != ' '", [0, 1, 2, 3, 5]),
        ("CLASS == 'N/A'", [4]),
        ("'GALAXY' == CLASS", [0, 2]),
        ("MAIN", [0, 2, 3]),
        ("~MAIN & MAIN == 0", [1, 4, 5]),
        ("bar_strong-fraction >= 0.8", [4, 5]),
        ("`bar_strong-fraction` < 0.1", [0]),
        ("TARGETID == 9007199254740993", [1]),  # 2^53 + 1 is no float64
        ("BIG > 1" + "0" * 400, []),
        ("MAG_R < 1e300", [0, 1, 2, 3, 4]),
        ("COUNT < 3", [0, 1, 2]),
        ("~(COUNT < 3)", [4, 5]),  # TNULL is missing
        ("COUNT == Z", []),
        ("MAG_R == 18 | MAG_R==+19", [0, 1]),
    ],
)
def test_selects(text, selected, table):
    assert rows(text, table) == selected


@pytest.mark.parametrize("suffix", ["fits", "parquet", "csv"])
@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("MAIN", [0]),
        ("~MAIN", [2]),
        ("MAIN | ~MAIN", [0, 2]),
        ("MAIN == 0", [2]),
        ("COUNT < 9", [0, 2]),
        ("~(COUNT < 9)", []),
        ("COUNT == 0", []),
        ("NAME != 'b'", [0]),
        ("NAME == ''", [1]),
        ("MAIN & COUNT > 0 & NAME == 'a'", [0]),
        ("COUNT > 0 | NAME == ''", [0, 1, 2]),
        ("Z > -1", [0, 2]),
    ],
)
def test_what_is_missing_is_neither_in_any_format(tmp_path, text, selected, suffix):
    """The second row has nothing in any column."""
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        path.write_text("MAIN,COUNT,NAME,Z\ntrue,1,a,0.5\n,,--,\nfalse,2,b,1.5\n")
    elif suffix == "parquet":
        columns = {"MAIN": [True, None, False], "COUNT": [1, None, 2], "NAME": ["a", None, "b"]}
        pq.write_table(pa.table(columns | {"Z": [0.5, None, 1.5]}), path)
    else:
        columns = [
            fits.Column("MAIN", "L", array=np.array([84, 0, 70], "i1")),
            fits.Column("COUNT", "J", null=-7, array=np.array([1, -7, 2])),
            fits.Column("NAME", "3A", array=np.array(["a", "", "b"])),
            fits.Column("Z", "D", array=np.array([0.5, np.nan, 1.5])),
        ]
        fits.BinTableHDU.from_columns(columns).writeto(path)
        data = bytearray(path.read_bytes())
        for row, byte in enumerate(b"T\0F"):
            data[5760 + 16 * row] = byte
        path.write_bytes(data)
    with open_table(path) as catalog:
        assert rows(text, catalog) == selected


def test_times_cannot_be_compared(tmp_path):
    pq.write_table(pa.table({"T": [datetime(2024, 1, 1)], "Z": [1.0]}), tmp_path / "t.parquet")
    with (
        open_table(tmp_path / "t.parquet") as catalog,
        pytest.raises(UsageError, match="column 'T' does not"),
    ):
        Where("T > 3", catalog)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", 1, "expected a column"),
        ("Z <", 4, "expected a column"),
        ("Z << 0.3", 4, "expected a column"),
        ("Z = 0.3", 3, "=="),
        ("Z < 0.3 MAG_R", 9, "& or |"),
        ("Z < 0.3 && MAIN", 10, "expected a column"),
        ("(Z < 0.3", 9, "expected )"),
        ("Z < 0.3)", 8, "the end"),
        ("Z", 2, "comparison"),
        ("Z & MAIN", 3, "comparison"),
        ("Z < 0.3 ; import os", 9, "expected a column, a number"),
        ("__import__('os')", 1, "no column"),
        ("Z.real < 1", 2, "expected"),
        ("Z < 'a'", 1, "number with a text"),
        ("CLASS == 3", 1, "number with a text"),
        ("VECTOR < 3", 1, "one value a row"),
        ("Z < 0.3Z", 5, "expected"),
        ("CLASS == 'a", 10, "expected"),
        ("REDSHIFT < 1", 1, "no column 'REDSHIFT'"),
    ],
)
def test_an_error_points_at_the_place(text, place, says, table):
    with pytest.raises(AstroclipError) as error:
        Where(text, table)
    message = str(error.value)
    assert f"character {place}:" in message
    assert says in message
    if not isinstance(error.value, DataError):
        *_, line, pointer = message.splitlines()
        assert (line, pointer) == (f"  {text}", " " * (place + 1) + "^")


@pytest.mark.parametrize("text", ["1 < 2", "'a' == 'a'"])
def test_a_condition_needs_a_column(text, table):
    with pytest.raises(UsageError, match="names no column"):
        Where(text, table)


@pytest.mark.parametrize("text", ["(" * 5000 + "Z < 1" + ")" * 5000, "~" * 5000 + "MAIN"])
def test_deep_nesting_is_refused(text, table):
    with pytest.raises(UsageError, match=f"more than {MAX_DEPTH}"):
        Where(text, table)


def test_many_conditions_side_by_side_are_fine(table):
    assert rows(" | ".join(["Z < 0.15"] * 3000), table) == [0]


PIECES = [
    "Z",
    "MAG_R",
    "CLASS",
    "MAIN",
    "0.3",
    "19",
    "'QSO'",
    "<",
    ">=",
    "==",
    "&",
    "|",
    "~",
    "(",
    ")",
    " ",
    "=",
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join)))
def test_any_text_is_a_condition_or_a_clear_error(table, text):
    try:
        where = Where(text, table)
    except AstroclipError:
        return
    assert where.select(table.read(where.columns)).shape == (N,)


COMPARISON = st.builds(
    "{} {} {}".format,
    st.sampled_from(["A", "B"]),
    st.sampled_from(["<", ">=", "==", "!="]),
    st.integers(-2, 2),
)
EXPRESSION = st.recursive(
    COMPARISON,
    lambda inner: st.one_of(
        st.builds("({} & {})".format, inner, inner),
        st.builds("({} | {})".format, inner, inner),
        st.builds("~({})".format, inner),
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    path = tmp_path_factory.mktemp("numbers") / "t.fits"
    rng = np.random.default_rng(0)
    columns = [fits.Column(name, "D", array=rng.integers(-2, 3, 40)) for name in "AB"]
    fits.BinTableHDU.from_columns(columns).writeto(path)
    with open_table(path) as catalog:
        yield catalog


def _python(node, row) -> bool:
    """Evaluate the condition as Python's own parser reads it, which binds & and | alike around brackets."""
    if isinstance(node, ast.BinOp):
        left, right = _python(node.left, row), _python(node.right, row)
        return left and right if isinstance(node.op, ast.BitAnd) else left or right
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        return not _python(node.operand, row)
    value = row[node.left.id]
    other = ast.literal_eval(node.comparators[0])
    named = {
        ast.Lt: value < other,
        ast.GtE: value >= other,
        ast.Eq: value == other,
        ast.NotEq: value != other,
    }
    return named[type(node.ops[0])]


@settings(max_examples=100, deadline=None)
@given(EXPRESSION)
def test_agrees_with_python_where_nothing_is_missing(numbers, text):
    # Python's & binds tighter than <: with brackets around each comparison both grammars mean the same
    import re

    tree = ast.parse(re.sub(r"([AB] \S+ -?\d+)", r"(\1)", text), mode="eval").body
    values = numbers.read(["A", "B"])
    want = [_python(tree, {"A": a, "B": b}) for a, b in zip(values["A"], values["B"], strict=True)]
    where = Where(text, numbers)
    np.testing.assert_array_equal(where.select(numbers.read(where.columns)), want)
