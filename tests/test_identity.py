"""The one reader of identifiers: exact integers, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from numpy.testing import assert_array_equal

from astroclip.errors import DataError
from astroclip.tables import open_table
from astroclip.tables.identity import Who, exact_integers, find_who

BIG = 39627770157896512  # a TARGETID: more than a float64 can tell from its neighbours


def who(path: Path, **named: Any) -> Who:
    """Check and read a whole table."""
    with open_table(path) as table:
        columns = find_who(table, **named)
        columns.check(table)
        return columns.read(table.read(columns.columns))


@pytest.mark.parametrize("dtype", ["i8", "i4", "i2", "u1", "u4", "u8", "f8", "f4", "U20", "S20", "O"])
def test_exact_values_of_every_type(dtype: str) -> None:
    got = exact_integers(np.array([7, 0, 123]).astype(dtype), "x")
    assert got.dtype == np.int64
    assert_array_equal(got, [7, 0, 123])


@pytest.mark.parametrize(
    "values",
    [
        np.array([5.0, np.nan]), np.array([5.0, np.nan], "f4"), np.ma.array([5, 6], mask=[False, True]),
        np.array(["5", ""]), np.array(["5", "--"]), np.array([b"5", b"N/A"]), np.array([5, None], object),
        np.ma.array([5.0, 6.5], mask=[False, True]), np.array(["5", np.nan], object),
    ],
)  # fmt: skip
def test_missing_is_minus_1(values: np.ndarray) -> None:
    assert_array_equal(exact_integers(values, "x"), [5, -1])


def test_all_digits_are_kept() -> None:
    values = BIG + np.arange(3)
    for dtype in ("i8", "u8", "U20"):
        assert_array_equal(exact_integers(values.astype(dtype), "x"), values)
    assert_array_equal(exact_integers(np.array([f" +00{BIG + 1} ", str(-BIG)]), "x"), [BIG + 1, -BIG])
    assert_array_equal(exact_integers(np.array([str(2**63 - 1), str(-(2**63))]), "x"), [2**63 - 1, -(2**63)])


@pytest.mark.parametrize(
    ("values", "kind", "shown"),
    [
        (np.array([1.0, BIG]), "float64", f"{float(BIG):.17g}"),
        (np.array([1.0, 2**53]), "float64", "9007199254740992"),
        (np.array([1.0, 2**24], "f4"), "float32", "16777216"), (np.array([1.0, 2.5]), "float64", "2.5"),
        (np.array([1.0, np.inf]), "float64", "inf"), (np.array(["1", "abc"]), "text", "'abc'"),
        (np.array(["1", "3.9E16"]), "text", "'3.9E16'"), (np.array(["1", "2.0"]), "text", "'2.0'"),
        (np.array([1, 2**63], "u8"), "uint64", str(2**63)), (np.array(["1", str(2**63)]), "text", str(2**63)),
        (np.array([b"1", b"1_0"]), "text", "'1_0'"), (np.array([1, 2.5], object), "text", "'2.5'"),
    ],
)  # fmt: skip
def test_what_is_no_integer_is_refused(values: np.ndarray, kind: str, shown: str) -> None:
    with pytest.raises(DataError) as caught:
        exact_integers(values, "cat.fits: column 'TARGETID'", first_row=100)
    said = str(caught.value)
    assert said.startswith(f"cat.fits: column 'TARGETID' is {kind}, and row 101 (from 0) holds ")
    assert shown in said
    assert "Rewrite the column as int64, or as text" in said


def test_a_logical_is_no_identifier() -> None:
    with pytest.raises(DataError, match="is bool"):
        exact_integers(np.array([True]), "x")


@pytest.mark.parametrize(
    "key",
    [
        {"TARGETID": [BIG]}, {"TARGETID": [BIG], "SURVEY": ["main"], "PROGRAM": ["dark"], "HEALPIX": [5]},
        {"RELEASE": [9010], "BRICKID": [5], "OBJID": [7]}, {"PLATE": [266], "MJD": [51602], "FIBERID": [3]},
        {"FIELD": [101077], "MJD": [59852], "CATALOGID": [27021598054114233]},
        {"CATALOGID": [27021598054114233]},
        {"OBJECT_ID": ["M31"]}, {"OBJECT_ID": [BIG]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["fits", "parquet", "csv"])
def test_keys_of_several_columns(tmp_path: Path, key: dict[str, list], suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    Table({"X": [1.0], **{name.lower(): values for name, values in key.items()}}).write(path)
    got = who(path)
    assert set(got.ids) == set(key)
    for name, values in key.items():
        assert got.ids[name].tolist() == values
    assert np.isnan(got.ra).all()
    assert len(got.ra) == 1


def test_other_names_of_a_key(tmp_path: Path) -> None:
    Table({"RELEASE": [9010], "BRICKID": [5], "BRICK_OBJID": [7], "HPXPIXEL": [3], "TARGETID": [1]}).write(
        tmp_path / "t.fits"
    )
    got = who(tmp_path / "t.fits")
    assert (got.ids["OBJID"], got.ids["HEALPIX"]) == ([7], [3])
    Table({"PLATE": [266], "MJD": [51602], "FIBER": [3]}).write(tmp_path / "s.fits")
    assert who(tmp_path / "s.fits").ids["FIBERID"] == [3]


def test_a_part_of_a_key_is_none(tmp_path: Path) -> None:
    """SDSS calls a photometric id OBJID; a float there is no harm, nobody uses it."""
    Table({"OBJID": [1.237e18], "MJD": [5.5], "RA": [1.0], "DEC": [2.0]}).write(tmp_path / "t.fits")
    got = who(tmp_path / "t.fits")
    assert got.ids == {}
    assert (got.ra, got.dec) == ([1.0], [2.0])


@pytest.mark.parametrize("name", ["TARGETID", "targetid", "CATALOGID"])
def test_floats_in_a_table_are_refused_wherever_they_are(tmp_path: Path, name: str) -> None:
    ids = np.arange(1000.0)
    ids[777] = BIG
    Table({name: ids}).write(tmp_path / "t.fits")
    with pytest.raises(DataError, match=rf"t\.fits: column '{name}' is float64, and row 777 \(from 0\)"):
        who(tmp_path / "t.fits")
    (tmp_path / "t.csv").write_text(f"{name}\n1\n{BIG:.16E}\n")
    with pytest.raises(DataError, match=f"column '{name}' is float64, and row 1"):
        who(tmp_path / "t.csv")


def test_masked_and_null_identifiers(tmp_path: Path) -> None:
    ids = MaskedColumn([BIG, 1], mask=[False, True], name="TARGETID")
    Table([ids]).write(tmp_path / "t.fits")
    pq.write_table(pa.table({"TARGETID": pa.array([BIG, None])}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text(f"TARGETID,X\n{BIG},1\n,2\n")
    for suffix in ("fits", "parquet", "csv"):
        assert who(tmp_path / f"t.{suffix}").ids["TARGETID"].tolist() == [BIG, -1]


def test_integers_are_not_read_to_be_checked(tmp_path: Path) -> None:
    Table({"TARGETID": [1], "RA": [2.0], "DEC": [3.0]}).write(tmp_path / "t.fits")
    with open_table(tmp_path / "t.fits") as table:
        columns = find_who(table)
        table.read = None  # type: ignore[assignment,method-assign]
        columns.check(table)


def test_positions_are_checked_too(tmp_path: Path) -> None:
    Table({"TARGETID": [1, 2], "RA": ["10:0:0", "x"], "DEC": ["1:0:0", "2:0:0"]}).write(tmp_path / "t.fits")
    with open_table(tmp_path / "t.fits") as table, pytest.raises(DataError, match="column 'RA', row 1"):
        find_who(table).check(table)


def test_a_vector_is_no_identifier(tmp_path: Path) -> None:
    fits.BinTableHDU.from_columns([fits.Column("TARGETID", "2K", array=np.ones((3, 2), int))]).writeto(
        tmp_path / "t.fits"
    )
    with open_table(tmp_path / "t.fits") as table:
        assert find_who(table).ids == {}
