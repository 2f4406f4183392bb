"""New tables: what is written is read back, is whole FITS, and is there only when it is complete."""

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip import files as part
from astroclip.errors import DataError, UsageError
from astroclip.schema import ColumnSpec
from astroclip.tables import open_table, write_table

COLUMNS = (
    ColumnSpec("TARGETID", "i8", comment="DESI target"),
    ColumnSpec("FLUX", "f4", (3,), "nanomaggy", "total"),
    ColumnSpec("KIND", "S6"),
    ColumnSpec("GOOD", "bool"),
    ColumnSpec("BITS", "u2"),
)


def make_rows(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "TARGETID": rng.integers(-(2**62), 2**62, n),
        "FLUX": rng.normal(0, 1, (n, 3)).astype("f4"),
        "KIND": rng.choice(["GALAXY", "QSO", ""], n),
        "GOOD": rng.random(n) < 0.5,
        "BITS": rng.integers(0, 2**16, n).astype("u2"),
    }


def in_blocks(rows, edges):
    for a, b in zip([0, *edges], [*edges, len(rows["BITS"])], strict=True):
        yield {name: values[a:b] for name, values in rows.items()}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.data())
def test_what_is_written_is_read(tmp_path_factory, n, data):
    path = tmp_path_factory.mktemp("write") / "t.fits"
    rows = make_rows(n, seed=n)
    edges = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    write_table(path, COLUMNS, n, in_blocks(rows, edges), extname="ROWS", cards={"CUT": ("none", "cut")})
    with open_table(path) as table:
        read = table.read(table.columns)
    for name, values in rows.items():
        np.testing.assert_array_equal(read[name], values)
    with fits.open(path, checksum=True) as file:
        file.verify("exception")
        assert [c.unit for c in file["ROWS"].columns] == [None, "nanomaggy", None, None, None]
        assert file["ROWS"].header["CUT"] == "none"
    assert fitsio.read_header(path, 1)["ACVERS"]


def test_missing_integers_are_marked(tmp_path):
    (column,) = [ColumnSpec("N", "i4")]
    block = {"N": np.array([1, -1], "i4")}
    write_table(tmp_path / "t.fits", [column], 2, [block], extname="T", nulls={"N": -1})
    assert fits.getdata(tmp_path / "t.fits").columns["N"].null == -1
    with open_table(tmp_path / "t.fits") as table:
        assert table.columns["N"].null == -1


def test_parquet(tmp_path):
    rows = make_rows(5)
    write_table(tmp_path / "t.parquet", COLUMNS, 5, [rows], extname="T")
    with open_table(tmp_path / "t.parquet") as table:
        np.testing.assert_array_equal(table.read(["FLUX"])["FLUX"], rows["FLUX"])
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: rows | {"FLUX": rows["FLUX"][:, :2]},
        lambda rows: rows | {"BITS": rows["BITS"].astype("i8")},
        lambda rows: rows | {"KIND": np.array(["spectrum"] * 4)},
        lambda rows: {name: values[:3] for name, values in rows.items()},
    ],
)
def test_other_rows_than_announced_leave_nothing(tmp_path, spoil):
    with pytest.raises(ValueError, match="expected"):
        write_table(tmp_path / "t.fits", COLUMNS, 4, [spoil(make_rows(4))], extname="T")
    assert list(tmp_path.iterdir()) == []


def test_an_output_is_not_replaced_unasked_nor_when_it_fails(tmp_path, monkeypatch):
    path, rows = tmp_path / "t.fits", make_rows(3)
    write_table(path, COLUMNS, 3, [rows], extname="T")
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        write_table(path, COLUMNS, 3, [rows], extname="T")

    def blocks():
        yield {name: values[:1] for name, values in rows.items()}
        raise DataError("the input is damaged")

    with pytest.raises(DataError, match="damaged"):
        write_table(path, COLUMNS, 3, blocks(), extname="T", overwrite=True)
    assert path.read_bytes() == before

    def full(fd: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(part.os, "write", full)
    with pytest.raises(DataError, match="full"):
        write_table(path, COLUMNS, 3, [rows], extname="T", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["t.fits"]
