"""The three example scripts, one after the other, on a small sky."""

import runpy
from pathlib import Path

import fitsio
import numpy as np
import pytest
from quick_models import copy_mini

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    runpy.run_path(str(EXAMPLES / "1_make_pairs.py"))["main"](folder, galaxies=50)
    return folder


def test_the_walk(folder, capsys):
    model = copy_mini(folder / "mini")
    runpy.run_path(str(EXAMPLES / "2_predict.py"))["main"](folder, str(model))
    runpy.run_path(str(EXAMPLES / "3_search_and_evaluate.py"))["main"](folder)
    said = capsys.readouterr().out
    assert "looks like row 0" in said
    assert "Z_PHOT of" in said
    assert "LOGMSTAR of" in said
    table = fitsio.read(folder / "galaxies.fits")
    assert len(table) == len(fitsio.read(folder / "pairs.fits"))
    paired = table["PAIR"] >= 0
    np.testing.assert_array_equal(np.isfinite(table["Z_PHOT_MEAN"]), paired)
    assert (folder / "look-alikes.html").stat().st_size > 10_000
    assert (folder / "figures-redshift" / "z_phot.png").exists()
