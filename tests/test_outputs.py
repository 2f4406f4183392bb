"""Each verb refuses, before anything is read or written, an output that is an input or another output."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.crossmatch.build import build_pairs
from astroclip.errors import UsageError
from astroclip.evaluate import evaluate_table
from astroclip.predict.embed import embed_catalog
from astroclip.predict.tasks import predict_catalog
from astroclip.search.examples import parse_example
from astroclip.search.look_alikes import search_catalog

CASES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (embed_catalog, {"output": "images.fits", "images": "images.fits"}),
    (embed_catalog, {"output": "spectra.fits", "spectra": "spectra.fits"}),
    (embed_catalog, {"output": "link.fits", "images": "images.fits"}),
    (predict_catalog, {"task": "redshift", "output": "reference.fits", "reference": "reference.fits"}),
    (predict_catalog, {"task": "redshift", "output": "new.fits", "pdf": "new.fits"}),
    (predict_catalog, {"task": "redshift", "output": "new.fits", "pdf": "in.fits"}),
    (predict_catalog, {"task": "redshift", "output": "new.fits", "embedding": {"images": "images.fits"},
                       "pdf": "images.fits"}),
    (predict_catalog, {"task": "redshift", "output": "new.fits", "predictor": "folder", "save_to": "folder"}),
    (search_catalog, {"output": "in.fits"}),
    (search_catalog, {"output": "images.fits"}),
    (search_catalog, {"output": "index", "index": "index"}),
    (search_catalog, {"output": "new.fits", "gallery": "new.fits"}),
    (search_catalog, {"output": "new.fits", "gallery": "images.fits"}),
    (build_pairs, {"output": "in.fits", "images": "images.fits"}),
    (build_pairs, {"output": "new.fits", "images": "images.fits", "rejects": "images.fits"}),
    (build_pairs, {"output": "new.fits", "images": "images.fits", "rejects": "new.fits"}),
    (build_pairs, {"output": "spectra", "images": "images.fits", "labels": ["spectra.fits"]}),
    (evaluate_table, {"output": "folder", "images": "folder"}),
    (embed_catalog, {"output": "folder/cutout.fits", "images": "folder"}),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "given"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_no_output_is_an_input_or_another_output(
    verb: Callable[..., Any], given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "cutout.fits").write_text("a cut-out")
    for name in ("in.fits", "images.fits", "spectra.fits", "reference.fits", "index.fits"):
        (tmp_path / name).write_text(name)
    fitsio.write(str(tmp_path / "in.fits"), np.zeros(2, [("RA", "f8"), ("DEC", "f8")]), clobber=True)
    (tmp_path / "link.fits").symlink_to("images.fits")
    given = {name: value + ".fits" if value == "index" else value for name, value in given.items()}
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    examples = [[parse_example("image=images.fits")]] if verb is search_catalog else []
    with pytest.raises(UsageError, match=r"is an input of this run|is named for two|which this run reads"):
        verb("in.fits", *examples, **given, overwrite=True)
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_a_picture_does_not_replace_what_it_shows(tmp_path: Path) -> None:
    picture = tmp_path / "cutout.png"
    picture.write_bytes(b"\x89PNG")
    done = CliRunner().invoke(app, ["inspect", str(picture), "--plot", str(picture), "--overwrite"])
    assert isinstance(done.exception, UsageError) or done.exit_code == 2
    assert picture.read_bytes() == b"\x89PNG"
