"""Catalogues in FITS that is packed: gzip, fpack."""

import gzip
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from catalog_files import (
    append_all,
    fitsverify,
    names_in,
    need,
    parts_of,
    read_all,
    simple_columns,
    write_trap,
)

from astroclip.errors import DataError
from astroclip.tables import append_columns, open_table


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def zip_up(source: Path, target: Path) -> Path:
    target.write_bytes(gzip.compress(source.read_bytes()))
    return target


def test_gzip_gives_what_the_plain_file_gives(tmp_path: Path, out: Path) -> None:
    plain = write_trap(tmp_path / "in.fits")
    append_all(plain, out / "plain.fits")
    append_all(zip_up(plain, tmp_path / "in.fits.gz"), out / "zipped.fits")
    ours, expected = parts_of(out / "zipped.fits", 3), parts_of(out / "plain.fits", 3)
    np.testing.assert_array_equal(ours[1], expected[1])
    assert ours[2:] == expected[2:]
    assert names_in(out) == ["plain.fits", "zipped.fits"]


def test_a_resumed_run_unpacks_again(tmp_path: Path, out: Path) -> None:
    source = zip_up(write_trap(tmp_path / "in.fits"), tmp_path / "in.fits.gz")
    columns, values = simple_columns(17)
    with (
        open_table(source, scratch=out) as catalog,
        pytest.raises(ValueError, match="5 rows written, expected 17"),
        append_columns(catalog, out / "out.fits", columns) as appender,
    ):
        appender.write({name: value[:5] for name, value in values.items()})
    with (
        open_table(source, scratch=out) as catalog,
        append_columns(catalog, out / "out.fits", columns, resume=True) as appender,
    ):
        assert appender.done == 5
        appender.write({name: value[5:] for name, value in values.items()})
    assert names_in(out) == ["out.fits"]


def test_a_changed_gzip_file_is_refused(tmp_path: Path, out: Path) -> None:
    source = zip_up(write_trap(tmp_path / "in.fits"), tmp_path / "in.fits.gz")
    columns, values = simple_columns(17)
    with (
        open_table(source, scratch=out) as catalog,
        pytest.raises(ValueError, match="5 rows"),
        append_columns(catalog, out / "out.fits", columns) as appender,
    ):
        appender.write({name: value[:5] for name, value in values.items()})
    zip_up(write_trap(tmp_path / "in.fits", seed=8), source)
    with pytest.raises(DataError, match="SHA-256 differs"):
        append_all(source, out / "out.fits", resume=True)


def test_an_unpacked_copy_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(out))
    source = zip_up(write_trap(tmp_path / "in.fits"), tmp_path / "in.fits.gz")
    with open_table(source) as catalog:
        assert (catalog.name, catalog.source) == (str(source), source)
        assert names_in(out) == []
        assert len(catalog.read(["Z"])["Z"]) == 17


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_gzip(tmp_path: Path, out: Path, damage: str) -> None:
    source = zip_up(write_trap(tmp_path / "in.fits"), tmp_path / "in.fits.gz")
    data = bytearray(source.read_bytes())
    data[-6] ^= 1
    source.write_bytes(data if damage == "flipped" else data[:-900])
    with pytest.raises(DataError, match="cut short or damaged gzip file"):
        open_table(source, scratch=out)
    assert names_in(out) == []


def pack(source: Path) -> Path:
    subprocess.run([need("fpack"), "-table", source], check=True, capture_output=True)
    return source.with_name(source.name + ".fz")


def write_plain_table(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    rows = np.zeros(500, [("TARGETID", "i8"), ("Z", "f8"), ("FLUX", "f4", (7,)), ("N", "S5")])
    rows["TARGETID"], rows["Z"], rows["N"] = rng.integers(0, 2**62, 500), rng.normal(size=500), b"abc"
    fits.BinTableHDU(rows, name="ZCATALOG").writeto(path)
    return {name: rows[name] for name in rows.dtype.names}


def test_a_packed_table_is_unpacked(tmp_path: Path, out: Path) -> None:
    need("funpack")
    rows = write_plain_table(tmp_path / "in.fits")
    source = pack(tmp_path / "in.fits").rename(tmp_path / "with [brackets] + more.fits.fz")
    append_all(source, out / "out.fits")
    values = read_all(out / "out.fits")
    for name in ("TARGETID", "Z", "FLUX"):
        np.testing.assert_array_equal(values[name], rows[name])
    assert fitsverify(out / "out.fits") == "OK"
    assert names_in(out) == ["out.fits"]


def test_a_packed_table_without_funpack(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plain_table(tmp_path / "in.fits")
    source = pack(tmp_path / "in.fits")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match=r"funpack is not here. Install .*libcfitsio-bin"):
        open_table(source, scratch=out)
    assert names_in(out) == []


def test_a_packed_table_that_is_damaged(tmp_path: Path, out: Path) -> None:
    need("funpack")
    write_plain_table(tmp_path / "in.fits")
    source = pack(tmp_path / "in.fits")
    source.write_bytes(
        source.read_bytes().replace(b"ZFORM1  = '1K'", b"ZFORM1  = '1W'").replace(b"ZTILELEN", b"XTILELEN")
    )
    with pytest.raises(DataError, match="funpack cannot unpack it"):
        open_table(source, scratch=out)
    assert names_in(out) == []


def test_fz_whose_table_is_plain_is_read_where_it_lies(tmp_path: Path) -> None:
    source = write_trap(tmp_path / "in.fits").rename(tmp_path / "in.fits.fz")
    with open_table(source) as catalog:
        assert catalog.read(["Z"])["Z"].shape == (17,)
