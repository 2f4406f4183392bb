"""Mock galaxies from end to end: the commands that one would type, and how good their estimates are."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from astroclip.errors import DataError, UsageError
from astroclip.evaluate.report import METRICS_FILE
from astroclip.mock.label_files import PROVABGS_NAME, VOTES_NAME
from astroclip.mock.survey import EXTRA, MIN_GALAXIES
from astroclip.model.hub import find_model
from astroclip.schema import TARGETID
from astroclip.tables import open_table

TRAINING_SEED = 1  # of the mock sky that `mini` learned from
RESULT, GALLERY, FIGURES = "galaxies.fits", "look-alikes.png", "figures"
EVALUATIONS = {
    "redshift": "--truth Z --umap 0",
    "property": "--kind property",
    "morphology": "--kind morphology",
}
# what is estimated, and from what, by the name that `evaluate` gives it
ESTIMATES = {
    "Z_PRED": ("redshift", "spectra"),
    "Z_PHOT": ("redshift", "images"),
    "LOGMSTAR": ("stellar mass", "spectra"),
    "METALLICITY": ("metallicity", "spectra"),
    "AGE": ("age", "spectra"),
    "LOGSSFR": ("specific star formation", "spectra"),
    "morphology": ("morphology", "images"),
}


class Estimated(NamedTuple):
    """How well something was estimated; None where that is no measure of it.

    `galaxies` are those with an estimate and a truth. `sigma_nmad` is that of Δz / (1 + z) for redshifts,
    `coverage_68` and `coverage_95` are the fractions of truths within these intervals, `accuracy` is the
    fraction of answers that most volunteers gave.
    """

    what: str
    source: str
    galaxies: int
    r2: float | None
    sigma_nmad: float | None
    coverage_68: float | None
    coverage_95: float | None
    accuracy: float | None


def demo_commands(
    out: str | Path, galaxies: int, seed: int, model: str, overwrite: bool = False
) -> Iterator[list[str]]:
    """Return the commands of the demo, word by word; each is to be run before the next is asked for.

    A mock sky, its pairs of images and spectra, their embeddings, redshifts (from spectra, and from images
    alone), properties and morphologies, look-alikes of the brightest galaxy, and figures. Estimates rest on
    the model's own reference set: the labels of these galaxies are used in the evaluation only.

    Parameters
    ----------
    out
        Folder to make.
    galaxies, seed
        Of the mock sky. The seed is not that of the sky that `mini` learned from: it has seen none of these.
    model
        A model with a reference set of its own.
    overwrite
        Replace an earlier demo. A folder that holds something else is never touched.

    Raises
    ------
    UsageError
        If packages are missing, the folder exists, or the numbers make no sense. Nothing is written then.
    CheckpointError
        If there is no such model.
    """
    folder = Path(out)
    _check(folder, galaxies, seed, overwrite)
    find_model(model)
    again = ["--overwrite"] if overwrite else []
    return (command + again for command in _commands(folder, galaxies, seed, model))


def read_estimates(out: str | Path) -> list[Estimated]:
    """Return what the evaluations of a finished demo found, in the order of `ESTIMATES`.

    Raises
    ------
    DataError
        If there is no finished demo in the folder.
    """
    files = sorted(Path(out).glob(f"{FIGURES}-*/{METRICS_FILE}"))
    if not files:
        raise DataError(f"{out}: no finished demo, no {FIGURES}-*/{METRICS_FILE} in it. Run astroclip demo")
    evaluations = (one for path in files for one in yaml.safe_load(path.read_text("utf-8"))["evaluations"])
    found = {one["name"]: one for one in evaluations if "metrics" in one}
    return [_estimated(name, found[name]) for name in ESTIMATES if name in found]


def _estimated(name: str, found: dict[str, Any]) -> Estimated:
    """Return the measures of one evaluation."""
    values = [found["metrics"].get(field, {}).get("value") for field in Estimated._fields[3:]]
    return Estimated(*ESTIMATES[name], found["rows"], *values)


def _check(out: Path, galaxies: int, seed: int, overwrite: bool) -> None:
    """Refuse what cannot work, before anything is written."""
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise UsageError(
            f"the demo makes a mock sky, which needs {', '.join(missing)}: pip install 'astroclip[mock]'"
        )
    if galaxies < MIN_GALAXIES or seed < 0:
        raise UsageError(
            f"galaxies = {galaxies}, seed = {seed}: expected at least {MIN_GALAXIES} galaxies and a seed of "
            "zero or more"
        )
    if seed == TRAINING_SEED:
        raise UsageError(f"seed {seed}: the model mini learned from that mock sky. Take another seed")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: a file; expected the name of a folder")
    # what a killed run leaves of a file is hidden
    if not out.exists() or all(path.name.startswith(".") for path in out.iterdir()):
        return
    if not overwrite:
        raise UsageError(f"{out} exists. Give another folder, or --overwrite to replace the demo in it")
    if not (out / "sky" / "truth.fits").is_file():
        raise UsageError(f"{out} is not a demo (it has no sky/truth.fits) and is not replaced")


def _commands(out: Path, galaxies: int, seed: int, model: str) -> Iterator[list[str]]:
    """Yield one command after the other; some need what those before them wrote."""
    sky, pairs, embedded, result = (str(out / name) for name in ("sky", "pairs", "embedded.fits", RESULT))
    pixels = ["--images", f"{pairs}.h5", "--spectra", f"{pairs}.h5"]
    yield ["mock", sky, "--galaxies", str(galaxies), "--seed", str(seed)]
    labels = [word for name in (PROVABGS_NAME, VOTES_NAME) for word in ("--labels", f"{sky}/{name}")]
    yield ["crossmatch", f"{sky}/zcatalog/zall-pix-mock.fits", f"{sky}/south", *labels, "-o", pairs]
    yield ["embed", f"{pairs}.fits", "--model", model, *pixels, "-o", embedded]
    table = embedded
    for what, name in (
        ("redshift --from spectrum", "redshift.fits"),
        ("redshift --from image", "photo-z.fits"),
        ("properties --from spectrum", "properties.fits"),
        ("morphology --from image --method knn", RESULT),
    ):
        task, *options = what.split()
        before, table = table, str(out / name)
        yield ["predict", task, before, *options, "--reference", model, "-o", table]
    like = ["--targetid", str(_brightest(Path(result))), "-k", "5"]
    found = ["-o", str(out / "look-alikes.fits"), "--gallery", str(out / GALLERY)]
    yield ["search", result, *like, *pixels, *found]
    for what, chosen in EVALUATIONS.items():
        yield ["evaluate", result, *chosen.split(), "-o", str(out / f"{FIGURES}-{what}")]


def _brightest(path: Path) -> int:
    """Return the TARGETID of the galaxy of smallest r magnitude that has an image and a spectrum."""
    with open_table(path) as table:
        held = table.read([TARGETID, "PAIR", "MAG_R"])
    magnitude = np.where(held["PAIR"] >= 0, held["MAG_R"], np.nan)
    return int(held[TARGETID][np.nanargmin(magnitude)])
