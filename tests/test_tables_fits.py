"""What is read from FITS tables is what the bytes say, and broken files say what is wrong with them."""

import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from catalog_files import trap_rows, trap_table, write_trap
from hypothesis import given
from hypothesis import strategies as st

from astroclip.errors import DataError
from astroclip.tables import FitsTable, open_table
from astroclip.tables import fitstable as table

SIGNED = {"I8": ("i1", 2**7), "U16": ("u2", 2**15), "U32": ("u4", 2**31), "U64": ("u8", 2**63)}


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return write_trap(tmp_path / "in.fits", nrows=23)


def read(path: Path, *names: str, hdu: int | str | None = None, **rows: int) -> dict[str, np.ndarray]:
    with open_table(path, hdu) as catalog:
        return catalog.read(names or catalog.columns, **rows)


def test_numbers(trap: Path) -> None:
    stored, _ = trap_rows(23)
    values = read(trap)
    for name, (dtype, offset) in SIGNED.items():
        exact = [int(number) + (-offset if name == "I8" else offset) for number in stored[name]]
        assert values[name].tolist() == exact
        assert values[name].dtype == dtype
    assert values["U64"].tolist()[:2] == [2**63 + 1, 2**63 - 1]
    assert values["NULLED"].tolist() == [None if v == -99 else v for v in stored["NULLED"].tolist()]
    for name in ("TARGETID", "CX", "CM", "FLUXES", "Z", "NOTHING"):
        np.testing.assert_array_equal(values[name], stored[name])
        assert values[name].dtype.isnative
    missing = stored["SCALED"] == -999
    np.testing.assert_array_equal(values["SCALED"][~missing], stored["SCALED"][~missing] * 0.01 + 5)
    assert np.isnan(values["SCALED"][missing]).all()
    np.testing.assert_array_equal(values["FSCALED"], stored["FSCALED"].astype("f8") * 2)


def test_bits_logicals_and_texts(trap: Path) -> None:
    stored, _ = trap_rows(23)
    values = read(trap)
    bits = ["".join(f"{byte:08b}" for byte in row)[:11] for row in stored["BITS"]]
    assert values["BITS"].tolist() == [[bit == "1" for bit in row] for row in bits]
    known = {b"T": True, b"F": False, b"": None}  # a zero byte is an undefined logical
    assert values["GOOD"].tolist() == [known[flag] for flag in stored["GOOD"].tolist()]
    assert np.ma.isMaskedArray(values["GOOD"])
    assert not np.ma.isMaskedArray(values["BITS"])
    assert values["name"].tolist() == [text.decode().strip() for text in stored["name"].tolist()]
    assert values["ARMS"].tolist() == [[t.decode().strip() for t in row] for row in stored["ARMS"].tolist()]


def test_variable_length(trap: Path) -> None:
    stored, heap = trap_rows(23)
    values = read(trap)
    for name, dtype in (("VAR", ">f4"), ("VARQ", ">i4")):
        for row, (length, offset) in enumerate(stored[name].tolist()):
            np.testing.assert_array_equal(values[name][row], np.frombuffer(heap, dtype, length, offset))


def test_variable_length_texts_and_complex_numbers(tmp_path: Path) -> None:
    lists = {"A": ["some text", ""], "M": [np.array([1 + 2j]), np.array([], complex)]}
    columns = [fits.Column(k, f"P{k}()", array=np.array(v, object)) for k, v in lists.items()]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "lists.fits")
    values = read(tmp_path / "lists.fits")
    assert values["A"].tolist() == ["some text", ""]
    assert values["M"][0].tolist() == [1 + 2j]
    assert values["M"][1].size == 0


def test_a_descriptor_outside_the_heap_is_named_only_when_asked_for(tmp_path: Path) -> None:
    data = bytearray(trap_table(3))
    rows, _ = trap_rows(3)
    at = data.index(rows.tobytes()) + rows.dtype.fields["VAR"][1] + 4
    data[at : at + 4] = (1 << 20).to_bytes(4, "big")
    path = tmp_path / "in.fits"
    path.write_bytes(fits.PrimaryHDU().header.tostring().encode() + data)
    assert len(read(path, "TARGETID")["TARGETID"]) == 3
    assert len(read(path, "VAR", start=1)["VAR"]) == 2
    stored, _ = trap_rows(3)
    if stored["VAR"][0, 0] == 0:
        data[at - 4 : at] = (1).to_bytes(4, "big")
        path.write_bytes(fits.PrimaryHDU().header.tostring().encode() + data)
    with pytest.raises(DataError, match="column 'VAR' points outside the heap of HDU 1"):
        read(path, "VAR")


def test_blocks_are_rows_of_the_whole(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(trap)
    monkeypatch.setattr(table, "MAPPED_BYTES", 700)  # a few rows
    for start, stop in ((0, 23), (5, 6), (7, 7), (20, 23), (23, 23)):
        for name, values in read(trap, start=start, stop=stop).items():
            for ours, expected in zip(values, whole[name][start:stop], strict=True):
                np.testing.assert_array_equal(ours, expected)
    with pytest.raises(ValueError, match="rows 5 to 24 of a table with 23"):
        read(trap, start=5, stop=24)


def test_names_in_any_case(trap: Path) -> None:
    with open_table(trap) as catalog:
        assert list(catalog.columns)[10] == "name"
        assert catalog.find("RA", "NAME", "Z") == "name"
        assert catalog.find("RA") is None
        assert catalog.read(["targetid", "Name"]).keys() == {"targetid", "Name"}
        assert catalog.columns["TARGETID"].comment == "unique id"
        assert catalog.columns["FLUXES"].unit == "nanomaggy"
        assert catalog.columns["NULLED"].null == -99
        assert catalog.header["PIXSCALE"] == 0.262
        with pytest.raises(
            DataError, match=r"HDU 3 \(ZCATALOG\) has no column 'TARGET_ID'; close names: TARGETID"
        ):
            catalog.read(["TARGET_ID"])
        with pytest.raises(DataError, match="no column '@@'; columns: TARGETID, I8"):
            catalog.read(["@@"])


def test_a_null_is_given_as_read(tmp_path: Path) -> None:
    column = fits.Column("U", "I", array=np.array([0, 7], "u2"), bzero=32768)
    hdu = fits.BinTableHDU.from_columns([column])
    hdu.header["TNULL1"] = -32768
    hdu.writeto(tmp_path / "in.fits")
    with open_table(tmp_path / "in.fits") as catalog:
        assert catalog.columns["U"].null == 0
        assert catalog.read(["U"])["U"].tolist() == [None, 7]


def test_which_table_is_opened(tmp_path: Path, survey_data: Path) -> None:
    path = write_trap(tmp_path / "in.fits")
    for hdu, name in (
        (None, "ZCATALOG"),
        (1, "BEFORE"),
        ("1", "BEFORE"),
        ("after", "AFTER"),
        (3, "ZCATALOG"),
    ):
        with open_table(path, hdu) as catalog:
            assert catalog.header["EXTNAME"] == name
    for hdu, message in (
        (9, "no HDU 9; it has HDU 0, HDU 1"),
        ("PACKED", "not a binary"),
        ("TEXT", "an ASCII table, expected a binary one. Rewrite it: stilts tcopy"),
    ):
        with pytest.raises(DataError, match=message):
            open_table(path, hdu)
    for name, expected in (
        ("desi/coadd-4-80613-thru20210324.fits", "FIBERMAP"),
        ("sdss/spec-0295-51585-0596.fits", "SPECOBJ"),
        ("legacysurvey/sweep-310m005-320p000.fits", ""),
    ):
        with open_table(survey_data / name) as catalog:
            assert catalog.table.name == expected


def test_the_first_table_with_rows_is_opened(tmp_path: Path) -> None:
    hdus = [fits.BinTableHDU(np.zeros(rows, [("A", "i4")]), name=f"T{rows}") for rows in (0, 2, 3)]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "in.fits")
    with open_table(tmp_path / "in.fits") as catalog:
        assert catalog.table.name == "T2"


@pytest.mark.parametrize("cut", [1, 2880, 9000, -3000])
def test_truncated(trap: Path, cut: int) -> None:
    size = trap.stat().st_size
    os.truncate(trap, size - cut if cut > 0 else -cut)
    with pytest.raises(DataError, match="cut short"):
        open_table(trap)


def test_truncated_says_how_much_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "in.fits"
    fits.BinTableHDU(np.zeros(1000, [("A", "f8")])).writeto(path)
    os.truncate(path, path.stat().st_size - 2881)
    with pytest.raises(DataError, match="2881 bytes of HDU 1 are missing"):
        open_table(path)


def test_bytes_after_the_last_hdu_are_no_error(trap: Path) -> None:
    with trap.open("ab") as file:
        file.write(b"something else")
    assert len(read(trap, "Z")["Z"]) == 23


def patched(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new.ljust(len(old)), 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            b"TFORM1  = 'K       '",
            b"TFORM1  = 'W       '",
            "column 'TARGETID' of .* has TFORM1 = 'W', which is no",
        ),
        (b"TFORM1  = 'K       '", b"TFORM1  = 12", "TFORM1 = '12', which is no FITS format"),
        (b"TFORM1  = 'K       '", b"TFORM1  = '2K      '", "take .* bytes a row, but NAXIS1 is"),
        (
            b"TSCAL6  =                 0.01",
            b"TSCAL6  = 'one'",
            "TSCAL6, TZERO6 = 'one', 5.0, expected numbers",
        ),
        (
            b"NAXIS2  =                   23",
            b"NAXIS2  =                 23.5",
            "card NAXIS2 holds 23.5, expected an",
        ),
        (b"NAXIS2  =                   23", b"NAXIS2  =                  -23", "an axis of negative length"),
        (b"NAXIS2  =                   23", b"NAXIS2  =           2300000000", "cut short"),
        (b"TFIELDS =                   19", b"COMMENT", "card TFIELDS holds None"),
    ],
)
def test_broken_headers(trap: Path, old: bytes, new: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_table(patched(trap, old, new))


def test_not_a_table(tmp_path: Path) -> None:
    cases: dict[str, Any] = {
        "image.fits": fits.PrimaryHDU(np.zeros((3, 3))),
        "ascii.fits": fits.TableHDU.from_columns([fits.Column("T", "I6", ascii=True, array=[7, 8])]),
    }
    for name, hdu in cases.items():
        hdu.writeto(tmp_path / name)
    (tmp_path / "text.fits").write_text("no table at all")
    (tmp_path / "empty.fits").touch()
    for name, message in {
        "image.fits": "not a table, no HDU is a binary table; it has HDU 0",
        "ascii.fits": "an ASCII table.*stilts tcopy",
        "text.fits": "not a table; expected FITS",
        "empty.fits": "not a table; expected FITS",
        "missing.fits": "cannot read it .No such file",
        ".": "cannot read it .Is a directory",
    }.items():
        with pytest.raises(DataError, match=message):
            open_table(tmp_path / name)


@given(
    st.lists(st.sampled_from("LXBIJKAEDCM"), min_size=1, max_size=6), st.integers(1, 20), st.integers(0, 5)
)
def test_the_layout_of_any_columns_fills_the_row(
    tmp_path_factory: pytest.TempPathFactory, letters: list[str], repeat: int, nrows: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "in.fits"
    columns = [fits.Column(f"C{i}", f"{repeat}{letter}") for i, letter in enumerate(letters)]
    fits.BinTableHDU.from_columns(columns, nrows=nrows).writeto(path)
    with FitsTable(path) as catalog:
        for column in catalog.columns.values():
            assert column.stored.itemsize == column.width
            assert column.letter == "A" or repeat in (1, prod(column.shape))
            assert catalog.read([column.name])[column.name].shape == (nrows, *column.shape)
