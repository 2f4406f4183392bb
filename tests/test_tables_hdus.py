"""Which table of a file is read: by number or name, by FILE#HDU, or several that are aligned row by row."""

import gzip
import subprocess
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from catalog_files import append_all, need, read_all

from astroclip.errors import DataError, UsageError
from astroclip.files import check_outputs, split_hdu
from astroclip.tables import open_table

IDS = np.array([7, 5, 9])
KEY = {"TARGETID": IDS, "SURVEY": np.array(["main"] * 3), "PROGRAM": np.array(["dark", "bright", "dark"])}
Tables = dict[str, dict[str, np.ndarray]]


def write_tables(path: Path, tables: Tables) -> Path:
    hdus = [fits.BinTableHDU(fits.FITS_rec.from_columns(columns_of(t)), name=n) for n, t in tables.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def columns_of(table: dict[str, np.ndarray]) -> fits.ColDefs:
    forms = {"i": "K", "f": "D", "U": "8A", "b": "L"}
    return fits.ColDefs([fits.Column(n, forms[v.dtype.kind], array=v) for n, v in table.items()])


@pytest.fixture
def fastspecfit(tmp_path: Path) -> Path:
    return write_tables(
        tmp_path / "fastspec.fits",
        {
            "METADATA": {**KEY, "RA": np.array([1.0, 2, 3]), "Z": np.array([0.1, 0.2, 0.3])},
            "SPECPHOT": {**KEY, "LOGMSTAR": np.array([10.0, 11, 12]), "Z": np.array([9.0, 9, 9])},
            "FASTSPEC": {"TARGETID": IDS, "OII": np.array([1, 2, 3])},
        },
    )


def test_aligned_hdus_are_joined(fastspecfit: Path) -> None:
    with open_table(fastspecfit, join=True) as table:
        assert list(table.columns) == ["TARGETID", "SURVEY", "PROGRAM", "RA", "Z", "LOGMSTAR", "OII"]
        read = table.read(["targetid", "LOGMSTAR", "OII", "Z"], 1, 3)
        assert table.place == "HDU 1 (METADATA) + HDU 2 (SPECPHOT) + HDU 3 (FASTSPEC)"
        with pytest.raises(DataError, match=r"METADATA\) \+ .* has no column 'MASS'"):
            table.column("MASS")
    assert [values.tolist() for values in read.values()] == [[5, 9], [11, 12], [2, 3], [0.2, 0.3]]
    with (
        open_table(fastspecfit) as table,
        pytest.raises(DataError, match=r"HDU 2 \(SPECPHOT\) has 'LOGMSTAR': name it by --hdu 2 or FILE#2"),
    ):
        table.column("logmstar")


OTHER: Tables = {
    "more rows": {"TARGETID": np.array([7, 5, 9, 1])},
    "another order": {"TARGETID": IDS[::-1].copy()},
    "another programme": {**KEY, "PROGRAM": np.array(["dark", "dark", "dark"])},
    "no identifier": {"B": np.array([1, 2, 3])},
    "only the survey": {"SURVEY": KEY["SURVEY"]},
}


@pytest.mark.parametrize("case", OTHER)
def test_hdus_of_other_rows_are_not_joined(tmp_path: Path, case: str) -> None:
    other = {**OTHER[case], "VALUE": np.arange(float(len(next(iter(OTHER[case].values())))))}
    path = write_tables(tmp_path / "t.fits", {"ONE": {**KEY, "Z": np.zeros(3)}, "TWO": other})
    with open_table(path, join=True) as table:
        assert table.find("VALUE") is None
        with pytest.raises(DataError, match=r"no column 'VALUE'; .*the file also has HDU 2 \(TWO\)"):
            table.column("VALUE")


def test_a_part_is_named_as_stilts_does(fastspecfit: Path) -> None:
    for part in ("SPECPHOT", "specphot", "2"):
        with open_table(f"{fastspecfit}#{part}") as table:
            assert table.hdu == 2
            assert table.name == f"{fastspecfit}#{part}"
            assert table.source == fastspecfit
            assert table.fingerprint["size"] == fastspecfit.stat().st_size
    with pytest.raises(DataError, match="no HDU GONE; it has HDU 0, HDU 1"):
        open_table(f"{fastspecfit}#GONE")
    with pytest.raises(DataError, match=r"gone.fits#1: cannot read it \(No such file"):
        open_table(fastspecfit.parent / "gone.fits#1")
    same = fastspecfit.rename(fastspecfit.with_name("fast.fits#2"))
    with open_table(same) as table:  # a file of that very name wins
        assert table.hdu == 1


def test_an_input_that_names_its_part_is_not_overwritten(fastspecfit: Path) -> None:
    assert split_hdu(f"{fastspecfit}#2") == (fastspecfit, "2")
    assert split_hdu(fastspecfit) == (fastspecfit, None)
    with pytest.raises(UsageError, match="is an input of this run"):
        check_outputs([fastspecfit], [f"{fastspecfit}#2"], overwrite=True)


def test_columns_are_added_to_a_named_part(fastspecfit: Path, tmp_path: Path) -> None:
    values = append_all(Path(f"{fastspecfit}#SPECPHOT"), tmp_path / "out.fits")
    with open_table(tmp_path / "out.fits", "SPECPHOT") as table:
        np.testing.assert_array_equal(table.read(["EMBED_FLAG"])["EMBED_FLAG"], values["EMBED_FLAG"])
    assert "EMBED_FLAG" not in read_all(tmp_path / "out.fits")


@pytest.mark.parametrize("first", ["LDAC_IMHEAD", "FIELDS"])
def test_sextractors_objects_are_found(tmp_path: Path, first: str) -> None:
    objects = "OBJECTS" if first == "FIELDS" else "LDAC_OBJECTS"
    tables = {first: {"N": np.array([1])}, objects: {"ALPHA_J2000": np.array([1.0, 2.0])}}
    with open_table(write_tables(tmp_path / "ldac.fits", tables)) as table:
        assert table.place == f"HDU 2 ({objects})"


@pytest.mark.parametrize("form", ["colfits-basic", "colfits-plus", "fits-plus", "fits-var"])
def test_the_forms_that_stilts_writes(tmp_path: Path, form: str) -> None:
    source = write_tables(tmp_path / "in.fits", {"T": {**KEY, "Z": np.array([0.1, 0.2, 0.3])}})
    path = tmp_path / "a [b].fits"
    command = [need("stilts"), "tcopy", f"in={source}", f"out={path}", f"ofmt={form}"]
    subprocess.run(command, check=True, capture_output=True)
    if not form.startswith("col"):
        assert read_all(path)["TARGETID"].tolist() == [7, 5, 9]
        return
    with pytest.raises(DataError, match="column-oriented") as refusal:
        open_table(path)
    command = str(refusal.value).partition("Rewrite it: ")[2]
    subprocess.run(command, shell=True, check=True, capture_output=True, cwd=tmp_path)
    assert read_all(tmp_path / "rows.fits")["TARGETID"].tolist() == [7, 5, 9]


def test_a_row_of_images_is_not_column_oriented(tmp_path: Path) -> None:
    images = [
        fits.Column(name, "75E", dim="(5,5,3)", array=np.zeros((1, 3, 5, 5))) for name in ("IMAGE", "IVAR")
    ]
    fits.BinTableHDU.from_columns(images).writeto(tmp_path / "t.fits")
    assert read_all(tmp_path / "t.fits")["IMAGE"].shape == (1, 3, 5, 5)


def test_an_ascii_table_is_rewritten_by_the_command_that_is_named(tmp_path: Path) -> None:
    column = fits.Column("T", "I6", ascii=True, array=[7, 8])
    path = tmp_path / "it's [1].fits"
    fits.TableHDU.from_columns([column]).writeto(path)
    with pytest.raises(DataError, match="an ASCII table") as refusal:
        open_table(path)
    need("stilts")
    command = str(refusal.value).partition("Rewrite it: ")[2]
    subprocess.run(command, shell=True, check=True, capture_output=True, cwd=tmp_path)
    assert read_all(tmp_path / "binary.fits")["T"].tolist() == [7, 8]


@pytest.mark.parametrize("name", ["cat[a+b].fits", "!c.fits", "J(2).fits", "a+1.fits.gz", "é #1.fits"])
def test_any_name_that_the_file_system_allows(tmp_path: Path, name: str) -> None:

    plain = write_tables(tmp_path / "plain.fits", {"T": {**KEY}})
    data = plain.read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    append_all(tmp_path / name, tmp_path / f"out {name.removesuffix('.gz')}")
    assert read_all(tmp_path / f"out {name.removesuffix('.gz')}")["TARGETID"].tolist() == [7, 5, 9]


def test_columns_of_mixins_are_listed(tmp_path: Path) -> None:
    from astropy.coordinates import SkyCoord
    from astropy.table import QTable
    from astropy.time import Time

    table = QTable({"id": [1, 2], "coord": SkyCoord([1, 2], [3, 4], unit="deg")})
    table["t"] = Time([59000.0, 59001.0], format="mjd")
    table.write(tmp_path / "q.fits")
    with (
        open_table(tmp_path / "q.fits") as opened,
        pytest.raises(DataError, match=r"no column 'RA'; columns: id, coord\.ra, coord\.dec, t"),
    ):
        opened.column("RA")
