"""The demo, from the command line to the files it leaves."""

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import fitsio
import numpy as np
import pytest
from matplotlib.image import imread
from quick_models import copy_mini
from typer.testing import CliRunner

from astroclip import demo
from astroclip.cli.main import app
from astroclip.errors import CheckpointError, DataError, UsageError
from astroclip.schema import GALAXY_ZOO, EmbedFlag, PredictFlag

GALAXIES = 60
ENDS = ("STD", "L68", "U68", "L95", "U95")


@pytest.fixture(scope="module")
def quick_mini(tmp_path_factory) -> Path:
    return copy_mini(tmp_path_factory.mktemp("models") / "mini")


@pytest.fixture(scope="module")
def ran(tmp_path_factory, quick_mini) -> tuple[Path, str]:
    """The folder of a small demo, and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "my demo"
    words = ["demo", str(out), "--galaxies", str(GALAXIES), "--seed", "3", "--model", str(quick_mini)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    return out, result.stdout


def typed(said: str) -> list[list[str]]:
    """Return the commands that were printed, word by word."""
    return [shlex.split(line[2:]) for line in said.splitlines() if line.startswith("$ ")]


def test_rows_are_those_of_the_pairs(ran):
    out, _ = ran
    pairs, table = fitsio.read(out / "pairs.fits"), fitsio.read(out / demo.RESULT)
    assert len(table) == len(pairs) > GALAXIES / 2
    for name in pairs.dtype.names:
        np.testing.assert_array_equal(table[name], pairs[name])
    assert {"Z_PRED_MEAN", "Z_PHOT_MEAN", "DISAGREEMENT", "smooth-or-featured_answer"} <= {*table.dtype.names}
    for name in ("Z_PRED", "Z_PHOT", "LOGMSTAR", "METALLICITY", "AGE", "LOGSSFR"):
        assert {f"{name}_{end}" for end in ENDS} <= {*table.dtype.names}


def test_every_pair_is_estimated_and_no_other_row(ran):
    table = fitsio.read(ran[0] / demo.RESULT)
    paired = table["PAIR"] >= 0
    assert 0 < paired.sum() < len(table) or paired.all()
    for name in ("Z_PRED_MEAN", "Z_PHOT_L68", "LOGMSTAR_PRED", "AGE_U95", "IMAGE_EMBEDDING"):
        values = table[name].reshape(len(table), -1)
        np.testing.assert_array_equal(np.isfinite(values).all(1), paired)
    missing = int(EmbedFlag.NO_IMAGE | EmbedFlag.NO_SPECTRUM)
    np.testing.assert_array_equal(table["EMBED_FLAG"] & missing == missing, ~paired)
    np.testing.assert_array_equal(table["PREDICT_FLAG"] & PredictFlag.NO_EMBEDDING > 0, ~paired)
    order = [table[f"Z_PHOT_{end}"][paired] for end in ("L95", "L68", "MEDIAN", "U68", "U95")]
    assert (np.diff(order, axis=0) >= 0).all()
    answers = table["smooth-or-featured_answer"][paired].astype(str)
    assert {*np.char.strip(answers)} <= {*GALAXY_ZOO["smooth-or-featured"]}


def test_estimates_are_finite_and_better_than_the_mean(ran):
    found = {(one.what, one.source): one for one in demo.read_estimates(ran[0])}
    assert list(found) == [pair for pair in demo.ESTIMATES.values() if pair in found]
    assert {("redshift", "spectra"), ("redshift", "images"), ("stellar mass", "spectra")} <= {*found}
    paired = (fitsio.read(ran[0] / demo.RESULT, columns="PAIR") >= 0).sum()
    for one in found.values():
        assert 0 < one.galaxies <= paired
        if one.what != "morphology":
            assert np.isfinite([one.r2, one.sigma_nmad]).all()
            assert 0 <= one.coverage_68 <= one.coverage_95 <= 1
    assert found["redshift", "spectra"].galaxies == paired
    assert found["redshift", "spectra"].r2 > 0.3
    assert found["redshift", "images"].r2 > 0.3


def test_look_alikes_and_figures_are_there(ran):
    out, _ = ran
    similar = fitsio.read(out / "look-alikes.fits")
    table = fitsio.read(out / demo.RESULT)
    assert list(similar["RANK"]) == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(table["TARGETID"][similar["CATALOG_ROW"]], similar["TARGETID"])
    figures = sorted(out.glob(f"{demo.FIGURES}-*/*.png"))
    names = {path.name for path in figures}
    assert {"z_pred.png", "z_phot.png", "z_phot-calibration.png", "logmstar.png", "image-map.png"} <= names
    assert not any("fraction" in name for name in names), "votes are no properties"
    for path in (*figures, out / demo.GALLERY):
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 200
        assert pixels[..., :3].std() > 0.01


def test_it_prints_what_one_would_type(ran):
    out, said = ran
    commands = typed(said)
    assert [words[1] for words in commands[:4]] == ["mock", "crossmatch", "embed", "predict"]
    assert all(words[0] == "astroclip" for words in commands)
    assert commands[-1][1:4] == ["predict", "redshift", "CATALOG.fits"]
    assert "mock galaxies" in said
    assert str(out / demo.RESULT) in said
    assert re.search(r"^redshift +spectra +\d+ +0\.\d{3}", said, re.MULTILINE)


def test_what_it_prints_gives_the_same_when_typed(ran, tmp_path):
    out, said = ran
    words = next(words for words in typed(said) if words[1] == "embed")
    again = tmp_path / "embedded.fits"
    words[words.index("-o") + 1] = str(again)
    assert CliRunner().invoke(app, words[1:], catch_exceptions=False).exit_code == 0
    first, second = (fitsio.read(path) for path in (out / "embedded.fits", again))
    assert first.tobytes() == second.tobytes()


def test_a_folder_that_is_there_is_refused(ran, tmp_path):
    with pytest.raises(UsageError, match="--overwrite to replace"):
        demo.demo_commands(ran[0], 60, 3, "mini")
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is not a demo"):
        demo.demo_commands(tmp_path, 60, 3, "mini", overwrite=True)
    with pytest.raises(UsageError, match="a file"):
        demo.demo_commands(tmp_path / "thesis.tex", 60, 3, "mini", overwrite=True)
    assert next(demo.demo_commands(ran[0], 60, 3, "mini", overwrite=True))[-1] == "--overwrite"


def test_what_a_killed_run_left_is_no_obstacle(tmp_path):
    (tmp_path / ".sky.abc").mkdir()
    assert next(demo.demo_commands(tmp_path, 60, 3, "mini"))[0] == "mock"


def test_missing_packages_are_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "galsim" else find_spec(name))
    with pytest.raises(UsageError, match=r"needs galsim: pip install 'astroclip\[mock\]'"):
        demo.demo_commands(tmp_path / "out", 60, 3, "mini")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("galaxies", "seed", "reason"), [(10, 3, "at least 50"), (60, 1, "learned from")])
def test_numbers_that_make_no_sense_are_refused(tmp_path, galaxies, seed, reason):
    with pytest.raises(UsageError, match=reason):
        demo.demo_commands(tmp_path / "out", galaxies, seed, "mini")


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        demo.demo_commands(tmp_path / "out", 60, 3, "nowhere")


def test_an_unfinished_demo_has_no_estimates(tmp_path):
    with pytest.raises(DataError, match="no finished demo"):
        demo.read_estimates(tmp_path)


def test_results_as_json(ran, monkeypatch):
    out, _ = ran
    monkeypatch.setattr("astroclip.demo.demo_commands", lambda *_: iter([["models", "list"]]))
    result = CliRunner().invoke(app, ["--json", "demo", str(out)], catch_exceptions=False)
    said = json.loads(result.stdout)
    assert said["commands"] == ["astroclip models list"]
    assert said["table"] == str(out / demo.RESULT)
    assert {one["what"] for one in said["estimates"]} >= {"redshift", "stellar mass"}
    assert all(Path(path).is_file() for path in said["figures"])
