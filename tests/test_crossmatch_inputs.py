"""What the crossmatch takes: labels, cut-outs, tables; what tells an id; how pixels are looked at."""

from pathlib import Path

import fitsio
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import Angle, SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from builders import truncate, write_coadd, write_cube
from builders_hdf5 import write_provabgs, write_stein
from hypothesis import given
from hypothesis import strategies as st
from matched_survey import (
    ARCSEC,
    BRICK,
    NAMES,
    PAIRED,
    PLANTED,
    SIZE,
    Survey,
    counts_of,
    make_survey,
    reasons_by_name,
)

from astroclip.crossmatch.build import build_pairs
from astroclip.crossmatch.image_side import check_images
from astroclip.crossmatch.plan import CrossmatchSettings
from astroclip.data.desi import open_coadd
from astroclip.data.pairs import open_pairs, split_by_healpix
from astroclip.data.stein import open_stein
from astroclip.data.targetid import decode_targetid, encode_targetid
from astroclip.schema import Reason


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Survey:
    return make_survey(tmp_path_factory.mktemp("survey"))


def test_labels_by_id_and_by_position(survey, tmp_path):
    n = len(NAMES)
    write_provabgs(tmp_path / "props.hdf5", n, TARGETID=survey.columns["TARGETID"][::-1])
    votes = {"ra": [*survey.columns["TARGET_RA"][:2], 200.0], "dec": [*survey.columns["TARGET_DEC"][:2], 0.0]}
    votes["dec"][1] += 0.6 * ARCSEC  # outside of the radius of the votes
    votes |= {f"bar_{answer}": [k, k + 1, k + 2] for k, answer in enumerate(("strong", "weak", "no"))}
    Table(votes).write(tmp_path / "votes.csv")
    other = {"TARGETID": survey.columns["TARGETID"][:1], "SFR": np.array([7.0]), "N": np.array([3], "u2")}
    Table(other | {"NOTE": ["yes"], "Z": [0.5]}).write(tmp_path / "own.fits")
    paths = [tmp_path / name for name in ("props.hdf5", "votes.csv", "own.fits")]
    report = build_pairs(survey.catalogue, survey.images, tmp_path / "o", labels=paths)
    table = fitsio.read(tmp_path / "o.fits")
    header = fitsio.read_header(tmp_path / "o.fits", 1)
    row = table["SPECTRA_ROW"]
    with h5py.File(tmp_path / "props.hdf5") as file:
        mass = file["__astropy_table__"]["PROVABGS_LOGMSTAR_BF"][::-1]
    bad = row >= n - 3  # the builder's first rows fail the usual cuts
    np.testing.assert_allclose(table["LOG_MSTAR"][~bad], mass[row][~bad], rtol=1e-6)
    assert np.isnan(table["LOG_MSTAR"][bad]).all()
    assert {"ZERR", "ZERR_2", "Z_2"} <= set(table.dtype.names)
    np.testing.assert_array_equal(np.isfinite(table["bar_total-votes"]), row == 0)
    np.testing.assert_array_equal(table["N"], np.where(row == 0, 3, -1))
    np.testing.assert_array_equal(table["NOTE"].astype(str), np.where(row == 0, "yes", ""))
    assert (header["IMF"], header["LABELSR2"][:11], header["LABELSR3"]) == (
        "Chabrier 2003", "Galaxy Zoo ", "own.fits",
    )  # fmt: skip
    assert report.labels == {"props.hdf5": int((~bad).sum()), "votes.csv": 1, "own.fits": 1}
    with open_pairs(tmp_path / "o.h5") as pairs:
        assert pairs.labels["LOG_MSTAR"].unit == "dex(solMass)"
        assert "Chabrier 2003" in pairs.labels["LOG_MSTAR"].source
        assert "THETA_BF" not in pairs.labels  # a vector
        read = pairs.read(["targetid", "LOG_MSTAR", "NOTE", "N"])
    of_pair = np.argsort(table["PAIR"])[-len(PAIRED) :]
    np.testing.assert_array_equal(read["LOG_MSTAR"], table["LOG_MSTAR"][of_pair])
    assert read["NOTE"].tolist() == np.char.strip(table["NOTE"][of_pair].astype(str)).tolist()


def test_folder_of_cutouts(survey, tmp_path):
    ids, ra, dec = (survey.columns[k] for k in ("TARGETID", "TARGET_RA", "TARGET_DEC"))
    folder, shape = tmp_path / "cutouts", (16, 16)
    at = [NAMES.index(name) for name in ("by id", "no image", "across RA 0", "at the pole", "other program")]
    written = write_cube(folder / f"{ids[at[0]]}.fits", ra=None, shape=shape)
    write_cube(folder / f"9010-{BRICK}-{at[1] + 1}.fits", ra=None, shape=shape, seed=1)
    write_cube(folder / "anything.fits", ra=0.00001, dec=dec[at[2]], shape=shape, seed=2)
    write_cube(
        folder / f"{ids[at[3]]}.fits", ra=ra[at[3]], dec=dec[at[3]], shape=shape, pixel_deg=0.4 * ARCSEC
    )
    write_cube(folder / f"{ids[at[4]]}.fits", ra=None, shape=(64, 64))
    truncate(folder / f"{ids[at[4]]}.fits", 0.5)
    blank = NAMES.index("blank image")
    write_cube(folder / f"{ids[blank]}.fits", ra=None, shape=shape, image=np.zeros((3, 16, 16), "f4"))
    report = build_pairs(survey.catalogue, folder, tmp_path / "o", rejects=tmp_path / "r.fits")
    found = reasons_by_name(tmp_path / "r.fits", len(NAMES))
    expected = ["PAIRED", "PAIRED", "PAIRED", "WRONG_PIXSCALE", "UNREADABLE_IMAGE"]
    assert [found[NAMES[i]] for i in at] == expected
    assert found["blank image"] == "NO_IMAGE_PIXEL"
    assert sum(report.reasons.values()) == len(NAMES)
    with open_pairs(tmp_path / "o.h5") as pairs:
        image = pairs.read(["image"])["image"][0]
    np.testing.assert_array_equal(image[:, 68:84, 68:84], written)
    assert fitsio.read(tmp_path / "o.fits")["IMAGE_FILE"][0] == f"{ids[at[0]]}.fits"


@pytest.mark.parametrize("suffix", ["fits", "csv", "parquet"])
def test_table_as_images(survey, tmp_path, suffix):
    table = Table({k: survey.stein[k] for k in ("ra", "dec", "release", "brickid", "objid")})
    table["ra"].name = "east"
    table.write(tmp_path / f"sweep.{suffix}")
    settings = CrossmatchSettings(image_ra="east", image_dec="dec")
    report = build_pairs(survey.catalogue, tmp_path / f"sweep.{suffix}", tmp_path / "o", settings=settings)
    assert report.pairs is None
    assert not (tmp_path / "o.h5").exists()
    found = fitsio.read(tmp_path / "o.fits")
    assert "PAIR" not in found.dtype.names
    np.testing.assert_array_equal(survey.stein["number"][found["IMAGE_ROW"]], found["SPECTRA_ROW"])
    assert not list(tmp_path.glob(".*"))  # no scratch left


def test_table_with_images_gives_pairs(survey, tmp_path):
    table = Table({k: survey.stein[k] for k in ("ra", "dec", "release", "brickid", "objid")})
    table["IMAGE"] = survey.stein["images"]
    table.write(tmp_path / "stamps.fits")
    report = build_pairs(survey.catalogue, tmp_path / "stamps.fits", tmp_path / "o")
    assert report.reasons == counts_of(list(PLANTED.values()))
    assert report.pair_rows == len(PAIRED)


@pytest.fixture
def sweeps(survey, tmp_path) -> tuple[Path, dict[str, np.ndarray]]:
    """The objects of the cut-outs in three tables, two of one name; with them what is no such table."""
    table = {k: survey.stein[k] for k in ("ra", "dec", "release", "brickid", "objid", "images", "number")}
    names = ("north/sweep-a.fits", "south/sweep-a.fits", "south/sweep-b.fits.gz")
    for name, rows in zip(names, np.array_split(np.arange(len(table["ra"])), 3), strict=True):
        path = tmp_path / "sweeps" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Table({k: v[rows] for k, v in table.items()}).write(path)
    Table({"Z_PHOT_MEAN": [0.1]}).write(tmp_path / "sweeps" / "sweep-a-pz.fits")
    fits.PrimaryHDU().writeto(tmp_path / "sweeps" / "empty.fits")
    return tmp_path / "sweeps", table


def test_folder_of_tables(survey, sweeps, tmp_path):
    folder, table = sweeps
    Table(table).write(tmp_path / "one.fits")
    one = build_pairs(survey.catalogue, tmp_path / "one.fits", tmp_path / "a")
    many = build_pairs(survey.catalogue, folder, tmp_path / "b")
    assert many.pairs is None
    assert many.reasons == one.reasons
    assert [text.split(":")[0] for text in many.problems] == [str(folder / "sweep-a-pz.fits")]
    expected, found = (fitsio.read(tmp_path / f"{name}.fits") for name in "ab")
    assert found.dtype.names == expected.dtype.names
    for name in set(found.dtype.names) - {"IMAGE_FILE", "IMAGE_ROW"}:
        np.testing.assert_array_equal(found[name], expected[name])
    files = sorted({str(name).strip() for name in found["IMAGE_FILE"]})
    assert files == ["north/sweep-a.fits", "south/sweep-a.fits", "south/sweep-b.fits.gz"]
    number = {name: Table.read(folder / name)["number"] for name in files}
    rows = zip(found["IMAGE_FILE"], found["IMAGE_ROW"], strict=True)
    assert [number[str(name).strip()][row] for name, row in rows] == found["SPECTRA_ROW"].tolist()
    history = fits.getheader(tmp_path / "b.fits", 1)["HISTORY"]
    assert any("sweeps: names, sizes and times of 3 files" in line for line in history)
    assert not list(tmp_path.rglob(".*"))  # no scratch left


def test_folder_of_tables_with_images_gives_pairs(survey, sweeps, tmp_path):
    folder, table = sweeps
    for path in sorted(folder.glob("*th/*")):
        part = Table.read(path)
        part.rename_column("images", "IMAGE")
        part.write(path, overwrite=True)
    report = build_pairs(survey.catalogue, folder, tmp_path / "o")
    assert report.reasons == counts_of(list(PLANTED.values()))
    with open_pairs(tmp_path / "o.h5") as pairs:
        image = pairs.read(["image", "targetid"])
    edge = slice((152 - SIZE) // 2, (152 + SIZE) // 2)
    ids = survey.columns["TARGETID"].tolist()
    for targetid, found in zip(image["targetid"], image["image"], strict=True):
        mine = table["images"][table["number"] == ids.index(targetid)]
        assert any(np.array_equal(found[:, edge, edge], one) for one in mine)


def test_plain_tables_on_both_sides(tmp_path, rng):
    ra, dec = rng.uniform(0, 360, 50), rng.uniform(-80, 80, 50)
    Table({"x": ra, "y": dec, "mag": ra}).write(tmp_path / "left.csv")
    Table({"RAJ2000": ra[::-1] % 360, "DEJ2000": dec[::-1] + 0.2 * ARCSEC}).write(tmp_path / "right.fits")
    settings = CrossmatchSettings(ra="x", dec="y")
    report = build_pairs(
        tmp_path / "left.csv", tmp_path / "right.fits", tmp_path / "o.fits", settings=settings
    )
    assert report.reasons == {"PAIRED": 50}
    found = fitsio.read(tmp_path / "o.fits")
    np.testing.assert_array_equal(found["IMAGE_ROW"], np.arange(50)[::-1])
    np.testing.assert_allclose(found["SEPARATION"], 0.2, atol=1e-6)


@given(st.integers(1, 2**16 - 1), st.integers(0, 2**20 - 1), st.integers(0, 2**22 - 1))
def test_targetid_tells_the_id(release, brickid, objid):
    assert tuple(map(int, decode_targetid(encode_targetid(release, brickid, objid)))) == (
        release,
        brickid,
        objid,
    )


@given(st.sampled_from([-1, 0, 1 << 41, 1 << 58, 1 << 59, -(1 << 50)]))
def test_other_targetids_have_no_id(targetid):
    assert tuple(map(int, decode_targetid(targetid))) == (-1, -1, -1)


def test_probing_says_what_reading_says(tmp_path, rng):
    ids = np.arange(1, 13)
    write_coadd(tmp_path / "coadd.fits", targetid=ids)
    with fitsio.FITS(tmp_path / "coadd.fits", "rw") as file:
        for arm, few in (("B", 900), ("R", 10), ("Z", 2800)):  # good pixels at an arm's end only
            ivar = file[f"{arm}_IVAR"].read()
            ivar[:4] = 0
            if arm == "Z":
                ivar[1, few:] = 1
            flux = file[f"{arm}_FLUX"].read()
            flux[4:6] = np.nan
            mask = file[f"{arm}_MASK"].read()
            mask[6] = 4
            mask[1] = 0
            for name, values in (("IVAR", ivar), ("FLUX", flux), ("MASK", mask)):
                file[f"{arm}_{name}"].write(values)
    with open_coadd(tmp_path / "coadd.fits") as coadd:
        rows = rng.permutation(np.r_[np.arange(12), 3, 3])
        measured = coadd.is_measured(rows)
        np.testing.assert_array_equal(measured, (coadd.read(rows).ivar > 0).any(axis=1))
        assert 0 < measured.sum() < len(rows)


@pytest.mark.parametrize("chunks", [None, (1, 3, 9, 9), (4, 3, 9, 9)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2"])
def test_stamps_are_read_alike_however_they_are_stored(tmp_path, rng, chunks, dtype):
    images = rng.normal(0, 1, (9, 3, 9, 9)).astype(dtype)
    images[2], images[5, :, 3:6, 3:6], images[7, 0, 4, 4] = 0, 0, 0
    write_stein(tmp_path / "images_npix152_0_9.h5", 9, replace={"images": images})
    with h5py.File(tmp_path / "images_npix152_0_9.h5", "a") as file:
        del file["images"]
        file.create_dataset("images", data=images, chunks=chunks)
    stein = open_stein(tmp_path)
    rows = rng.permutation(np.r_[np.arange(9), 2, 3])
    expected = np.where((images[rows] == 0).all(axis=1, keepdims=True), np.nan, images[rows].astype("f4"))
    np.testing.assert_array_equal(stein.read(rows, size=9).flux, expected)
    np.testing.assert_array_equal(check_images(stein, rows), Reason.NO_IMAGE_PIXEL * (rows == 2))
    stein.close()


@pytest.mark.parametrize("unit", ["deg", "hourangle", "rad", "sexagesimal", "coord"])
@pytest.mark.parametrize("side", ["spectra", "images"])
def test_positions_in_any_unit_match(tmp_path, rng, unit, side):
    """Each row of one table lies 0.3 arcsec from its partner in the other, whatever the unit of either."""
    ra = np.array([0.0, 359.99999, 10.0, 150.0, 77.0])
    dec = np.array([0.0, 1.0, 89.9999, -45.0, 33.0])
    order = rng.permutation(len(ra))
    tables = {
        "spectra": {"RA": ra, "DEC": dec + 0.3 * ARCSEC},
        "images": {"RA": ra[order], "DEC": dec[order]},
    }
    paths = {}
    for name, columns in tables.items():
        lon, lat = Angle(columns["RA"], "deg"), Angle(columns["DEC"], "deg")
        if name != side or unit == "deg":
            table = Table(columns)
        elif unit == "sexagesimal":
            texts = (
                lon.to_string("hourangle", sep=":", precision=6),
                lat.to_string("deg", sep=" ", precision=5),
            )
            table = Table(texts, names=["RA", "DEC"])
        elif unit == "coord":
            table = Table({"coord": SkyCoord(lon, lat)})
        else:
            table = Table([lon.to_value(unit), lat.deg], names=["ra", "dec"])
        paths[name] = tmp_path / f"{name}.fits"
        table.write(paths[name])
        if name == side and unit in ("hourangle", "rad"):
            fits.setval(paths[name], "TUNIT1", value=unit, ext=1)
            fits.setval(paths[name], "TUNIT2", value="deg", ext=1)
    build_pairs(paths["spectra"], paths["images"], tmp_path / "o")
    found = fitsio.read(tmp_path / "o.fits")
    np.testing.assert_array_equal(order[found["IMAGE_ROW"]], np.arange(len(ra)))
    np.testing.assert_allclose(found["SEPARATION"], 0.3, atol=1e-4)
    np.testing.assert_allclose(found["IMAGE_RA"], ra, atol=1e-9)
    np.testing.assert_array_equal(found["SPLIT"], split_by_healpix(ra, dec))


def test_ambiguous_and_missing_labels_are_counted_and_left_empty(survey, tmp_path):
    ids = survey.columns["TARGETID"][PAIRED]
    columns = {
        "TARGETID": np.r_[ids[:3], ids[2]],
        "LOGMSTAR": np.array([10.0, -999, 11, 12]),
        "AGN": MaskedColumn([1, 0, 1, 0], mask=[False, True, False, False]),
    }
    Table(columns).write(tmp_path / "labels.fits")
    report = build_pairs(survey.catalogue, survey.images, tmp_path / "o", labels=[tmp_path / "labels.fits"])
    assert (report.labels, report.ambiguous_labels) == ({"labels.fits": 2}, {"labels.fits": 1})
    assert any("labels.fits: LOGMSTAR: 1 value of -999" in text for text in report.problems)
    table = Table.read(tmp_path / "o.fits")
    row = {int(i): k for k, i in enumerate(table["TARGETID"])}
    masses = [table["LOGMSTAR"].filled(np.nan)[row[int(i)]] for i in ids[:4]]
    np.testing.assert_array_equal(masses, [10, np.nan, np.nan, np.nan])
    assert [table["AGN"].mask[row[int(i)]] for i in ids[:4]] == [False, True, True, True]
    with open_pairs(tmp_path / "o.h5") as pairs:
        assert "-1 = missing" in pairs.labels["AGN"].comment


def test_labels_of_the_survey_and_program_of_a_spectrum(survey, tmp_path):
    ids = survey.columns["TARGETID"]
    programs = np.char.strip(survey.columns["PROGRAM"].astype(str))
    columns = {"TARGETID": np.repeat(ids, 2), "SURVEY": np.full(2 * len(ids), "main")}
    columns["PROGRAM"] = np.tile(["dark", "bright"], len(ids))
    columns["MASS"] = np.tile([1.0, 2.0], len(ids))
    Table(columns).write(tmp_path / "labels.parquet")
    settings = CrossmatchSettings(cut="none", join="left")
    report = build_pairs(
        survey.catalogue, survey.images, tmp_path / "o", labels=[tmp_path / "labels.parquet"],
        settings=settings, pairs=False,
    )  # fmt: skip
    expected = np.where(programs == "dark", 1.0, np.where(programs == "bright", 2.0, np.nan))
    once = np.array([(ids == i).sum() == 1 for i in ids])
    np.testing.assert_array_equal(fitsio.read(tmp_path / "o.fits")["MASS"][once], expected[once])
    assert report.ambiguous_labels["labels.parquet"] == 0


def test_each_table_may_be_an_hdu_that_is_named(survey, tmp_path):
    tables = {
        "FIRST": Table({"A": [1.0]}),
        "SPECTRA": Table({"RA": [10.0, 20.0], "DEC": [0.0, 0.0]}),
        "IMAGES": Table({"RA": [20.0, 10.0], "DEC": [0.0, 0.0]}),
        "LABELS": Table({"RA": [10.0], "DEC": [0.0], "MASS": [9.0]}),
    }
    hdus = [fits.BinTableHDU(table, name=name) for name, table in tables.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "all.fits")
    spectra, images, labels = (f"{tmp_path}/all.fits#{name}" for name in ("SPECTRA", "IMAGES", "LABELS"))
    build_pairs(spectra, images, tmp_path / "o", labels=[labels])
    table = fitsio.read(tmp_path / "o.fits")
    assert table["IMAGE_ROW"].tolist() == [1, 0]
    np.testing.assert_array_equal(table["MASS"], [9, np.nan])


@pytest.mark.parametrize("suffix", ["fits", "parquet", "ecsv"])
def test_missing_values_of_the_catalogue_are_carried(tmp_path, suffix):
    columns = {
        "RA": [10.0, 20.0, np.nan],
        "DEC": [0.0, 0.0, 0.0],
        "TARGETID": pa.array([2**61 + 1, None, 5]),
        "SURVEY": pa.array(["main", None, "sv3"]),
        "Z": [0.1, -999.0, 0.3],
        "ZWARN": pa.array([0, None, 4], pa.int32()),
    }
    path = tmp_path / f"spectra.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table(columns), path)
    else:
        table = Table()
        for name, column in columns.items():
            values = column.to_pylist() if isinstance(column, pa.Array) else column
            filled = [("" if name == "SURVEY" else 0) if value is None else value for value in values]
            table[name] = MaskedColumn(filled, mask=[value is None for value in values])
        table.write(path)
    Table({"RA": [10.0, 20.0], "DEC": [0.0, 0.0]}).write(tmp_path / "images.fits")
    report = build_pairs(
        path, tmp_path / "images.fits", tmp_path / "o", settings=CrossmatchSettings(join="left")
    )
    assert report.reasons == {"PAIRED": 2, "NO_POSITION": 1}
    table = Table.read(tmp_path / "o.fits")
    assert table["TARGETID"].tolist() == [2**61 + 1, None, 5]
    assert table["ZWARN"].tolist() == [0, None, 4]
    assert ["" if v is None else v for v in table["SURVEY"].tolist()] == ["main", "", "sv3"]
    assert table["Z"][1] == -999
