"""`astroclip crossmatch`: options, what is printed, exit codes."""

import json
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from matched_survey import PAIRED, PLANTED, Survey, make_survey
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.errors import AstroclipError


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Survey:
    return make_survey(tmp_path_factory.mktemp("survey"))


def run(*words: object, flags: tuple[str, ...] = ()) -> str:
    done = CliRunner().invoke(app, [*flags, "crossmatch", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_report_is_printed(survey, tmp_path):
    words = (survey.catalogue, survey.images, "-o", tmp_path / "o", "--rejects", tmp_path / "r.fits")
    text = run(*words)
    assert f"PAIRED {len(PAIRED)}" in text
    assert "NOT_IN_COADD 1" in text
    assert "false_match_rate" in text
    assert "no such coadd" in text
    report = json.loads(run(*words, "--overwrite", "--join", "left", flags=("--json",)))
    assert sum(report["reasons"].values()) == report["rows"] == len(PLANTED)
    assert report["problems"][0].startswith(str(survey.folder))
    assert fitsio.read(tmp_path / "o.fits").size == len(PLANTED)
    assert run(*words, "--resume", "--overwrite", flags=("--quiet",)) == ""


def test_options_arrive(survey, tmp_path):
    Table({"east": [10.0, 20.0], "north": [1.0, 2.0], "PMRA": [1e3, 0.0], "PMDEC": [0.0, 0.0]} | {
        "REF_EPOCH": [2016.0, 2016.0]
    }).write(tmp_path / "a.fits")  # fmt: skip
    Table({"x": [10.0 + 10 / 3600, 20.0], "y": [1.0, 2.0]}).write(tmp_path / "b.csv")
    options = ["--ra", "east", "--dec", "north", "--image-ra", "x", "--image-dec", "y", "--cut", "none"]
    options += ["--epoch", 2026.0, "--radius-arcsec", 0.5, "--find", "all", "--fractions", 0, 1, 0]
    options += ["--labels", tmp_path / "c.csv", "--labels", tmp_path / "d.csv", "--seed", 4]
    for name in "cd":
        Table({"ra": [20.0], "dec": [2.0], "mass": [9.0]}).write(tmp_path / f"{name}.csv")
    run(tmp_path / "a.fits", tmp_path / "b.csv", "-o", tmp_path / "o.fits", *options)
    table = fitsio.read(tmp_path / "o.fits")
    assert table["SPECTRA_ROW"].tolist() == [0, 1]
    assert table["SPLIT"].tolist() == [1, 1]
    np.testing.assert_array_equal(table["mass"], [np.nan, 9])
    np.testing.assert_array_equal(table["mass_2"], [np.nan, 9])
    history = " ".join(fits.getheader(tmp_path / "o.fits", 1)["HISTORY"])
    assert '"seed": 4' in history


def test_dry_run_and_no_pairs(survey, tmp_path):
    common = (survey.catalogue, survey.images, "-o", tmp_path / "o")
    assert "written            False" in run(*common, "--dry-run")
    assert list(tmp_path.iterdir()) == []
    run(*common, "--no-pairs", "--coadds", survey.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["o.fits"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["none.fits", "none", "-o", "o"], 3),
        (["none.fits", "none"], 2),
        (["none.fits", "none", "-o", "o", "--find", "some"], 2),
        (["none.fits", "none", "-o", "o", "--radius-arcsec", "-1"], 2),
    ],
)
def test_exit_codes(words, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["crossmatch", *words])
    error = done.exception
    assert (error.exit_code if isinstance(error, AstroclipError) else done.exit_code) == code
    assert list(Path().iterdir()) == []
