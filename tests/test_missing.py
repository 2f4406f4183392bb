"""The one rule of missing values: by type, and the sentinels of the data dictionary."""

from collections import Counter

import numpy as np
import pytest
from astropy.table import MaskedColumn, QTable
from numpy.testing import assert_array_equal

from astroclip.errors import DataError
from astroclip.tables import open_table
from astroclip.tables.missing import (
    find_sentinels,
    find_spike,
    is_missing,
    sentinel_lines,
    to_floats,
    to_quantity,
    to_texts,
)

NAN = float("nan")


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0, NAN]), np.array([1.0, NAN], "f4"), np.array([1.0, NAN], "c8"), np.array(["a", ""]),
        np.array(["a", "  "]), np.array([b"a", b""]), np.array([b"a", b"--"]), np.array(["a", None], object),
        np.array(["a", NAN], object), np.array(["a", b"nan"], object),
        np.ma.array([1, 2], mask=[False, True]),
        np.ma.array([True, True], mask=[False, True]), np.ma.array(["a", "b"], mask=[False, True]),
        np.array(["2020-01-01", "NaT"], "M8[s]"), np.ma.array([1.0, 2.0], mask=[False, True]),
    ],
)  # fmt: skip
def test_missing_by_type(values: np.ndarray) -> None:
    assert is_missing(values).tolist() == [False, True]


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "NAN", "--", "-", "---", "N/A", "n/a", "NA", "<NA>", "null", "NULL", " nan "]
)
def test_texts_that_say_so(text: str) -> None:
    assert is_missing(np.array([text])).all()
    assert to_texts(np.array([text])).tolist() == [""]
    assert np.isnan(to_floats(np.array([text]))).all()


@pytest.mark.parametrize("text", ["none", "Na", "nano", "0", "False", "n"])
def test_texts_that_do_not(text: str) -> None:
    assert not is_missing(np.array([text])).any()
    assert to_texts(np.array([f" {text} "])).tolist() == [text]


@pytest.mark.parametrize("values", [np.array([0, -1]), np.array([False, True]), np.array([np.inf, -999.0])])
def test_other_values_are_there(values: np.ndarray) -> None:
    assert not is_missing(values).any()


@pytest.mark.parametrize(
    "values",
    [
        np.ma.array([2, 7], mask=[False, True]), np.array(["2", "--"]), np.array([2.0, NAN], "f4"),
        np.array(["2.0", None], object), np.array([2, None], object), np.array([b"2e0", b""]),
    ],
)  # fmt: skip
def test_numbers_of_every_type(values: np.ndarray) -> None:
    assert_array_equal(to_floats(values), [2.0, NAN])


def test_logicals_are_numbers_and_texts() -> None:
    values = np.ma.array([True, False, True], mask=[False, False, True])
    assert_array_equal(to_floats(values), [1, 0, NAN])
    assert to_texts(values).tolist() == ["True", "False", ""]


def test_vectors_keep_their_shape() -> None:
    values = np.ma.array([[1, 2], [3, 4]], mask=[[False, True], [False, False]])
    assert_array_equal(to_floats(values), [[1, NAN], [3, 4]])
    assert is_missing(np.array([["a", ""]])).shape == (1, 2)


def test_text_that_is_no_number_is_named() -> None:
    with pytest.raises(DataError, match=r"t: column 'A', row 12 \(from 0\): 'x' is no number"):
        to_floats(np.array(["1", "--", "x"]), "t: column 'A'", first_row=10)
    with pytest.raises(DataError, match="expected numbers"):
        to_floats(np.array(["2020-01-01"], "M8[D]"))


@pytest.mark.parametrize(
    ("name", "sentinels", "good"),
    [
        ("LOGMSTAR", [-999, -99, -9999, -1, 0, -99.9, 1e20], [0.5, 7, 10.3]), ("log_mstar", [0, -1], [9]),
        ("AGE", [0, -1, -99], [0.1, 12]), ("Z_MW", [0, -1], [0.001, 0.04]),
        ("METALLICITY", [0, -999], [0.02]),
        ("Z", [-1, -9, -99, -999], [-0.01, 0, 0.3, 7]), ("REDSHIFT", [-1], [0]), ("SFR", [-1, -99], [0, 3]),
        ("LOGSSFR", [0, -99, 3], [-12, -8.5]), ("MAG_R", [99, 99.99, 999, -99], [12, 24]),
        ("EBV", [-1], [0, 0.2]),
        ("PROVABGS_LOGMSTAR_BF", [0], [9]), ("logMass", [0, -1], [9]),
        ("LOGM", [0], [9]), ("lgm_tot_p50", [-1], [9]),
        ("bayes.stellar.m_star", [0], [1e9]), ("stellar_mass", [0], [10]),
        ("NUM_STARS", [-99], [0]), ("MW_AGE", [0], [5]), ("VDISP", [0], [120]),
        ("IMAGE", [-99], [0, -1]), ("PAGES", [-99], [0]),
        ("LOG_SFR", [-99], [0, -1]), ("DELTA_M", [-99], [0, -1]),
        ("ANYTHING", [-99, -999, -9999], [0, -1, -98.5, 99]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_sentinels_of_the_data_dictionary(name: str, sentinels: list, good: list, dtype: str) -> None:
    for one in sentinels:
        values = np.array([one, *good], dtype).astype(float)
        assert find_sentinels(values, name).tolist() == [True] + [False] * len(good), one


def test_a_logarithm_of_metallicity_may_be_negative() -> None:
    values = np.array([-0.3, -1.2, 0.0, 0.1, -999])
    assert find_sentinels(values, "METALLICITY").tolist() == [False] * 4 + [True]


def test_sentinels_are_counted_by_value() -> None:
    taken = Counter[tuple[str, float]]()
    for _ in range(2):  # block by block
        values = np.array([10.0, -999, -999, 0, NAN], "f4")
        assert_array_equal(to_quantity(values, "LOGMSTAR", taken), [10, NAN, NAN, NAN, NAN])
        assert values[1] == -999
    to_quantity(np.ma.array([-99, 5, 6], mask=[False, True, False]), "COUNT", taken)
    assert sentinel_lines(taken) == [
        "LOGMSTAR: 4 values of -999, 2 values of 0 taken as missing",
        "COUNT: 1 value of -99 taken as missing",
    ]
    assert sentinel_lines(Counter()) == []


def test_a_spike_at_an_edge() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(10, 1, 1000)
    assert find_spike(values) is None
    values[:50] = -1
    assert find_spike(values) == (-1, 50)
    assert find_spike(-values) == (1, 50)
    values[:50] = 10.0  # in the midst
    assert find_spike(values) is None
    values[:50] = -1
    values[:45] = NAN
    assert find_spike(values) is None  # 5 of 955
    assert find_spike(rng.integers(0, 3, 1000).astype(float)) is None
    assert find_spike(np.zeros(5)) is None
    assert find_spike(np.full(5, NAN)) is None


@pytest.mark.parametrize("suffix", ["parquet", "ecsv"])
def test_what_astropy_masks_is_missing(tmp_path, suffix):
    values = {"B": [True, False, True], "I": [1, 2, 3], "S": ["a", "b", "c"], "F": [1.0, 2.0, 3.0]}
    columns = {name: MaskedColumn(value, mask=[False, True, False]) for name, value in values.items()}
    QTable(columns | {"WHOLE": [1, 2, 3]}).write(tmp_path / f"t.{suffix}")
    with open_table(tmp_path / f"t.{suffix}") as table:
        read = table.read([*columns, "WHOLE"])
        some = table.read(["I"], 2, 3)["I"]
    for name, value in values.items():
        assert is_missing(read[name]).tolist() == [False, True, False]
        assert [value[0], value[2]] == [read[name][0], read[name][2]]
    assert not is_missing(read["WHOLE"]).any()
    assert some.tolist() == [3]
