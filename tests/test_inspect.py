"""What a file is, what it holds and what is wrong with it: tables, files of no use, the command."""

import gzip
import json
import os

import fitsio
import numpy as np
import pyarrow as pa
import pytest
from builders import (
    truncate,
    write_coadd,
    write_cube,
)
from builders_hdf5 import (
    write_stein,
)
from catalog_files import need
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from pyarrow import csv, parquet
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.data.describe import file_report as report_module
from astroclip.data.describe import inspect_file, read_sample
from astroclip.data.describe.file_report import Repeats, SkyRange
from astroclip.data.kinds import Kind
from astroclip.errors import DataError, UsageError
from astroclip.schema import EmbedFlag


def write_table(path, extname="", header=None, units=None, **columns):
    """Write a FITS table."""
    with fitsio.FITS(path, "rw", clobber=True) as fits:
        fits.write(
            [np.asarray(values) for values in columns.values()],
            names=list(columns),
            extname=extname,
            header=header,
            units=[(units or {}).get(name, "") for name in columns],
        )
    return path


def problems_of(path) -> str:
    return "\n".join(inspect_file(path).problems)


# --- where on the sky -------------------------------------------------------------------------------------


@given(
    centre=st.floats(0, 360),
    width=st.floats(0.5, 200),
    places=st.lists(st.floats(0, 1), max_size=20),
    block=st.integers(1, 7),
)
def test_right_ascension_is_the_shortest_arc_also_across_zero(centre, width, places, block):
    offsets = np.array([0.0, *places, 1.0, *np.arange(0, 1, 0.1)]) * width  # no gap like the one outside
    ra = (centre + offsets) % 360
    sky = SkyRange()
    for start in range(0, len(ra), block):
        sky.add(ra[start : start + block], np.zeros(len(ra[start : start + block])))
    first, last = sky.facts()["ra_deg"]
    assert_allclose([(first - centre + 180) % 360, (last - first) % 360], [180, width], atol=1e-6)
    assert ("across RA 0" in sky.facts()) == (first > last)


def test_positions_that_are_missing_or_off_the_sky_are_counted():
    sky = SkyRange()
    sky.add([10, np.nan, 20, 30, 999, -5], [0, 0, np.nan, 91, 0, 5])
    assert sky.problems() == [
        "2 rows have no position (NaN)",
        "2 rows have a position that is not on the sky",
    ]
    assert sky.facts() == {"ra_deg": [355.0, 10.0], "across RA 0": "yes", "dec_deg": [0.0, 5.0]}


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), max_size=40),
    st.integers(1, 9),
)
def test_repeated_identifiers_are_those_seen_before(ids, at_once):
    seen, again = set(), []
    for row, value in enumerate(ids):
        again += [row] if value in seen else []
        seen.add(value)
    old, report_module._KEYS_AT_ONCE = report_module._KEYS_AT_ONCE, at_once
    try:
        with Repeats() as numbers, Repeats() as texts:
            for part in (ids[:3], ids[3:]):
                numbers.add([np.array(part, np.int64)])
                texts.add([np.array([str(value) for value in part], str), np.zeros(len(part), "u1")])
            assert numbers.find() == texts.find() == (len(again), again[:5])
    finally:
        report_module._KEYS_AT_ONCE = old


def test_identifiers_of_several_columns_repeat_only_as_a_whole():
    with Repeats() as repeats:
        repeats.add([np.array([1, 1, 1, 2]), np.array(["sv3 ", "main", "sv3", "sv3"])])
        assert repeats.find() == (1, [2])


# --- tables -----------------------------------------------------------------------------------------------


def test_a_catalogue_tells_columns_units_coverage_and_redshifts(tmp_path):
    path = write_table(
        tmp_path / "zall.fits", "ZCATALOG", units={"TARGET_RA": "deg", "FLUX_R": "nanomaggy"},
        TARGETID=[1, 2, 1, 4], SURVEY=np.array(["sv3", "sv3", "main", "main"], "S7"),
        PROGRAM=np.full(4, b"dark"), TARGET_RA=[359.0, 0.5, 1.0, 358.0], TARGET_DEC=[-1.0, 0, 1, 2],
        Z=[0.1, 0.2, np.nan, 1.5], ZWARN=[0, 4, 0, 0], FLUX_R=np.ones((4, 2), "f4"),
    )  # fmt: skip
    report = inspect_file(path)
    assert (report.kind, report.rows, report.problems) == (Kind.CATALOGUE, 4, [])
    assert report.columns[0] == ("TARGETID", "int64", (), "")
    assert report.columns[1] == ("SURVEY", "str7", (), "")
    assert report.columns[-1] == ("FLUX_R", "float32", (2,), "nanomaggy")
    assert report.facts["ra_deg"] == [358, 1]
    assert report.facts["identifier"] == "TARGETID, SURVEY, PROGRAM"
    assert report.facts["SURVEY"] == {"main": 2, "sv3": 2}
    assert report.facts["Z"] == [0.1, 1.5]
    assert report.facts["ZWARN not 0"] == "1 rows"


def test_parquet_and_csv_are_catalogues_too(tmp_path):
    table = pa.table({"ra": [10.0, 11.0], "dec": [1.0, 2.0], "iauname": ["J1", "J1"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    csv.write_csv(table, tmp_path / "a.csv")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    for name in ("a.parquet", "a.csv", "a.csv.gz"):
        report = inspect_file(tmp_path / name)
        assert (report.kind, report.rows) == (Kind.CATALOGUE, 2)
        assert report.facts["ra_deg"] == [10, 11]
        assert report.problems == [
            "1 rows repeat the iauname of an earlier row: rows 1 (from 0), the first with J1"
        ]


def test_embeddings_and_predictions_are_recognised(tmp_path):
    vectors = np.ones((4, 8), "f4")
    vectors[[1, 3]] = np.nan
    path = write_table(
        tmp_path / "e.fits", header={"ACMODEL": "mini", "ACHASH": "0123"}, TARGETID=np.arange(4),
        IMAGE_EMBEDDING=vectors, EMBED_FLAG=np.array([0, EmbedFlag.NO_IMAGE | 128, 4, 0], "i4"),
        Z_PRED_MEAN=np.array([0.1, np.nan, 0.3, np.nan], "f4"), PREDICT_FLAG=np.array([0, 1, 0, 1], "i4"),
    )  # fmt: skip
    report = inspect_file(path)
    assert report.facts["model"] == "mini"
    assert report.facts["model hash"] == "0123"
    assert report.facts["embedding width"] == {"IMAGE_EMBEDDING": 8}
    assert report.facts["IMAGE_EMBEDDING missing"] == "2 rows"
    assert report.facts["EMBED_FLAG"] == {"NO_IMAGE": 1, "UNREADABLE_IMAGE": 1, "BAD_IMAGE_PIXELS": 1}
    assert report.facts["PREDICT_FLAG"] == {"NO_EMBEDDING": 2}
    assert_allclose(report.facts["Z_PRED_MEAN"], [0.1, 0.3])
    assert report.problems == ["1 rows have a NaN in IMAGE_EMBEDDING that EMBED_FLAG does not explain"]


def test_what_is_wrong_with_a_catalogue(tmp_path):
    flux = np.ones((3, 500), "f4")
    flux[1] = np.nan
    ivar = np.ones((3, 500), "f4")
    ivar[:2] = 0
    wave = np.tile(np.arange(500.0), (3, 1))
    wave[2, 7] = 0
    path = write_table(
        tmp_path / "bad.fits", units={"RA": "deg", "FLUX": "Jy", "WAVE": "nm"},
        TARGETID=[7, 7, 7], RA=[1.0, np.nan, 3], DEC=[1.0, 2, 95], FLUX=flux, IVAR=ivar, WAVE=wave,
    )  # fmt: skip
    said = problems_of(path)
    for words in (
        "FLUX: flux in 'Jy'",
        "WAVE: wavelengths in 'nm'",
        "1 rows have no position",
        "1 rows have a position that is not on the sky",
        "2 rows repeat the TARGETID of an earlier row: rows 1, 2 (from 0), the first with 7",
        "2 rows have nothing in IVAR",
        "1 rows have nothing in FLUX",
        "1 rows of WAVE are not in rising order",
    ):
        assert words in said
    assert len(said.splitlines()) == 8
    lengths = write_table(
        tmp_path / "lengths.fits", FLUX=flux, IVAR=ivar[:, :499], IMAGE=np.ones((3, 3, 4, 4))
    )
    assert problems_of(lengths).startswith("columns of different length: FLUX 500, IVAR 499 pixels")
    photometry = write_table(tmp_path / "p.fits", units={"FLUX": "nanomaggy"}, FLUX=np.zeros((2, 3)))
    assert problems_of(photometry) == ""
    images = write_table(tmp_path / "i.fits", units={"IMAGE": "Jy"}, IMAGE=np.ones((1, 3, 8, 8)))
    assert "image in 'Jy', expected nanomaggy" in problems_of(images)
    empty = write_table(tmp_path / "empty.fits", RA=np.empty(0), DEC=np.empty(0))
    assert (inspect_file(empty).rows, problems_of(empty)) == (0, "no rows")


def test_a_compressed_table_is_a_table_like_any_other(tmp_path):
    need("fpack")
    need("funpack")
    path = write_table(tmp_path / "t.fits", units={"RA": "deg"}, RA=np.arange(2000.0), ID=np.arange(2000))
    os.spawnlp(os.P_WAIT, "fpack", "fpack", "-table", str(path))
    report = inspect_file(tmp_path / "t.fits.fz")
    assert (report.kind, report.rows) == (Kind.CATALOGUE, 2000)
    assert [column.name for column in report.columns] == ["RA", "ID"]
    assert report.columns[0].unit == "deg"
    assert (report.facts["identifier"], report.problems) == ("ID", [])


def test_positions_are_read_in_their_unit(tmp_path):
    hours = write_table(tmp_path / "h.fits", units={"RA": "h", "DEC": "deg"}, RA=[1.0, 2.0], DEC=[3.0, 4])
    report = inspect_file(hours)
    assert_allclose([*report.facts["ra_deg"], *report.facts["dec_deg"]], [15, 30, 3, 4])
    assert report.facts["position"] == "RA (h), DEC (deg)"
    texts = write_table(
        tmp_path / "s.fits", RA=np.array(["01:00:00.0", "--"]), DEC=np.array(["-05:30:00", ""])
    )
    report = inspect_file(texts)
    assert_allclose([*report.facts["ra_deg"], *report.facts["dec_deg"]], [15, 15, -5.5, -5.5])
    assert report.problems == ["1 rows have no position (NaN)"]


def test_what_cannot_be_read_of_a_row_is_a_problem_and_the_rest_is_told(tmp_path):
    path = write_table(
        tmp_path / "f.fits", TARGETID=[39627770157896513.0, 1.0], RA=[1.0, 2], DEC=[1.0, 2], Z=[0.1, 0.2]
    )
    report = inspect_file(path)
    assert "column 'TARGETID' is float64" in report.problems[0]
    assert report.facts["Z"] == [0.1, 0.2]
    path = write_table(tmp_path / "u.fits", units={"RA": "pc", "DEC": "pc"}, RA=[1.0], DEC=[1.0], Z=[0.1])
    assert ("'pc'" in problems_of(path), inspect_file(path).facts["Z"]) == (True, [0.1, 0.1])


def test_missing_values_and_sentinels_are_counted_by_column(tmp_path):
    path = write_table(
        tmp_path / "l.fits", ID=np.array(["a", "", "c", ""]), LOGMSTAR=[10.0, -999, 0, np.nan],
        MAG_R=[18.0, 99, 19, 20], CLASSES=np.array(["E", "nan", "--", "S"]), Z=[0.1, np.nan, 0.3, -99],
    )  # fmt: skip
    report = inspect_file(path)
    assert report.facts["missing values"] == {"ID": 2, "LOGMSTAR": 1, "CLASSES": 2, "Z": 1}
    assert report.facts["Z"] == [0.1, 0.3]
    assert report.problems == [
        "LOGMSTAR: 1 value of -999, 1 value of 0 taken as missing",
        "MAG_R: 1 value of 99 taken as missing",
        "Z: 1 value of -99 taken as missing",
    ]


def test_all_hdus_of_a_file_are_listed(tmp_path):
    path = tmp_path / "fastspec.fits"
    with fitsio.FITS(path, "rw") as fits:
        for name in ("METADATA", "SPECPHOT", "FASTSPEC"):
            fits.write([np.arange(3)], names=["TARGETID"], extname=name)
        fits.write([np.arange(2)], names=["LINE"], extname="LINES")
        fits.write(np.ones((2, 2)), extname="MODELS")
    facts = inspect_file(path).facts
    assert [name in facts["joined for labels"] for name in ("METADATA", "SPECPHOT", "FASTSPEC", "LINES")] == [
        True, True, True, False,
    ]  # fmt: skip
    assert [name in " ".join(facts["all HDUs"]) for name in ("SPECPHOT", "LINES", "MODELS")] == [True] * 3


# --- files and folders of no use --------------------------------------------------------------------------


def test_a_damaged_file_is_reported_as_what_it_was(tmp_path):
    coadd = tmp_path / "coadd-1.fits"
    write_coadd(coadd)
    table = write_table(tmp_path / "t.fits", RA=np.arange(5000.0), DEC=np.zeros(5000))
    cube = tmp_path / "cube.fits"
    write_cube(cube)
    for path, kind in ((coadd, Kind.COADD), (table, Kind.CATALOGUE), (cube, Kind.IMAGE)):
        report = inspect_file(truncate(path, 0.5))
        assert (report.kind, report.rows, report.columns) == (kind, None, [])
        assert str(path) in report.problems[0]


def test_what_is_nothing_is_an_error(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not data")
    for path, said in (
        (text, "expected FITS, HDF5"),
        (tmp_path / "none", "no such file"),
        (tmp_path, "no model"),
    ):
        with pytest.raises(DataError, match=said):
            inspect_file(path)
    half = tmp_path / "half.h5"
    write_stein(half)
    with pytest.raises(DataError, match="cut short"):
        inspect_file(truncate(half, 0.5))


def test_a_model_directory_points_to_its_own_command(tiny_model):
    report = inspect_file(tiny_model)
    assert (report.kind, report.problems) == (Kind.MODEL, [])
    assert report.facts["see"] == f"astroclip models info {tiny_model}"
    assert "model.safetensors" in report.facts["files"]


# --- samples of catalogues, the command -------------------------------------------------------------------


def test_the_sample_of_a_catalogue_is_its_vector_columns(tmp_path, rng):
    path = write_table(
        tmp_path / "c.fits", TARGETID=np.arange(9), Z=np.arange(9) / 10.0,
        IMAGE=rng.normal(size=(9, 3, 20, 20)).astype("f4"), FLUX=rng.normal(size=(9, 7781)).astype("f4"),
    )  # fmt: skip
    sample = read_sample(path, 4, seed=1)
    assert_allclose(sample.redshifts, np.array(sample.titles, int) / 10)
    assert sample.images.shape == (4, 3, 20, 20)
    assert np.isnan(sample.spectra.ivar).all()
    assert sample.titles != read_sample(path, 4, seed=2).titles
    with pytest.raises(UsageError, match="at least 1"):
        read_sample(path, 0)
    odd = write_table(tmp_path / "odd.fits", FLUX=np.ones((2, 300)))
    with pytest.raises(DataError, match="no column WAVE"):
        read_sample(odd)
    with pytest.raises(UsageError, match="no pixels to draw"):
        read_sample(write_table(tmp_path / "plain.fits", RA=[1.0], DEC=[1.0]))


def test_the_command_prints_a_report_and_draws_a_sample(tmp_path):
    write_cube(tmp_path / "cutout.fits", ra=0.0)
    words = ["inspect", str(tmp_path / "cutout.fits"), "--plot", str(tmp_path / "out.png")]
    text = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert "Legacy Survey image, 1 row" in text
    assert "no problems found" in text
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, UsageError)
    as_json = CliRunner().invoke(app, ["--json", *words, "--overwrite"], catch_exceptions=False).stdout
    report = json.loads(as_json)
    assert report["kind"] == "Legacy Survey image"
    assert report["facts"]["centre_deg"]["dec"] == pytest.approx(-5)


def test_the_command_prints_columns_with_units(tmp_path):
    path = write_table(tmp_path / "t.fits", units={"RA": "deg"}, RA=[1.0, np.nan], DEC=[1.0, 2])
    text = CliRunner().invoke(app, ["inspect", str(path)], catch_exceptions=False).stdout
    assert "RA      float64         deg" in text
    assert "1 problem found\n  - 1 rows have no position (NaN)" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("RA ")] == ["1"]  # missing
    as_json = json.loads(CliRunner().invoke(app, ["--json", "inspect", str(path)]).stdout)
    assert as_json["columns"][0] == {"name": "RA", "dtype": "float64", "shape": [], "unit": "deg"}


def test_real_files_are_what_they_are(survey_data):
    kinds = {
        "desi/coadd-4-80613-thru20210324.fits": Kind.COADD,
        "desi/coadd-sv3-dark-26065.fits.gz": Kind.COADD,
        "desi/redrock-4-80613-thru20210324.fits": Kind.REDROCK,
        "desi/tractor-1054p567.fits": Kind.CATALOGUE,
        "legacysurvey/cutout_59.1067_-30.4848.fits": Kind.IMAGE,
        "legacysurvey/dr5-nsa-cutout-162.fits": Kind.IMAGE,
        "legacysurvey/sweep-310m005-320p000.fits": Kind.CATALOGUE,
        "catalogues/gz-decals-votes.csv.gz": Kind.CATALOGUE,
        "sdss/spec-0295-51585-0596.fits": Kind.SPEC,
    }
    reports = {name: inspect_file(survey_data / name) for name in kinds}
    assert {name: report.kind for name, report in reports.items()} == kinds
    assert [name for name, report in reports.items() if report.problems] == [
        "desi/coadd-sv3-dark-26065.fits.gz"
    ]
    assert reports["desi/coadd-sv3-dark-26065.fits.gz"].facts["rows with data"] == 2
    assert reports["desi/coadd-4-80613-thru20210324.fits"].facts["Z"][0] == pytest.approx(0.368744, abs=1e-6)
