"""A first walk: a small made-up catalogue, embedded with an untrained model, and redshifts from neighbours.

    python examples/demo.py OUT

Writes into OUT (made if missing): a model directory, two catalogues, their embeddings, the predictions.
The galaxies are toys (one emission-line spectrum, one round blob each) and the model has random weights: the
numbers show that the road is open, not how good the method is.
"""

import subprocess
import sys
from pathlib import Path

import fitsio
import numpy as np

from astroclip.schema import FLUX_UNIT, IMAGE_UNIT, IVAR_UNIT, desi_wave

LINES = {3728.5: 1.0, 4862.7: 0.4, 4960.3: 0.4, 5008.2: 1.2, 6564.6: 1.6}  # Å in vacuum: relative strength


def make_galaxies(n: int, seed: int) -> np.ndarray:
    """Return a table of `n` toy galaxies with redshifts, 152 px images and DESI-like spectra."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.02, 0.4, n)
    wave = desi_wave()
    flux = (2 + 3 / (1 + np.exp(-(wave / (1 + z[:, None]) - 4000) / 60))) * rng.uniform(0.5, 2, (n, 1))
    for rest, strength in LINES.items():
        flux += 10 * strength * np.exp(-0.5 * ((wave - rest * (1 + z[:, None])) / 3) ** 2)
    flux += rng.normal(0, 0.5, flux.shape)
    y, x = np.mgrid[-76:76, -76:76]
    profile = np.exp(-np.hypot(x, y) / (1.5 / z[:, None, None]))
    colour = np.stack([np.exp(-3 * z), np.ones(n), 1 + z], axis=1)
    image = 0.5 * colour[:, :, None, None] * profile[:, None] + rng.normal(0, 0.01, (n, 3, 152, 152))
    table = np.zeros(
        n,
        [
            ("TARGETID", "i8"),
            ("Z", "f8"),
            ("IMAGE", "f4", (3, 152, 152)),
            ("FLUX", "f4", 7781),
            ("IVAR", "f4", 7781),
        ],
    )
    table["TARGETID"], table["Z"], table["IMAGE"], table["FLUX"], table["IVAR"] = (
        np.arange(n),
        z,
        image,
        flux,
        4,
    )
    return table


def run(*words: str | Path) -> None:
    """Show a command, then run it."""
    print("\n$ " + " ".join(map(str, words)), flush=True)
    subprocess.run([sys.executable, "-m", "astroclip.cli.main", *map(str, words[1:])], check=True)


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name, n, seed in (("known", 200, 1), ("new", 50, 2)):
        path = out / f"{name}.fits"
        units = ["", "", IMAGE_UNIT, FLUX_UNIT, IVAR_UNIT]
        fitsio.write(path, make_galaxies(n, seed), units=units, extname="GALAXIES", clobber=True)
    if not (out / "mini").is_dir():
        run("astroclip", "models", "init", "mini", "-o", out / "mini")
    for name in ("known", "new"):
        run("astroclip", "embed", out / f"{name}.fits", "--model", out / "mini", "--overwrite")
    predicted = out / "new-redshift.fits"
    embedded, reference = out / "new-embedded.fits", out / "known-embedded.fits"
    run(
        "astroclip", "predict", "redshift", embedded, "--reference", reference, "-o", predicted, "--overwrite"
    )
    table = fitsio.read(predicted, columns=["Z", "Z_PRED_MEAN"])
    residual = (table["Z_PRED_MEAN"] - table["Z"]) / (1 + table["Z"])
    r2 = 1 - np.var(table["Z_PRED_MEAN"] - table["Z"]) / np.var(table["Z"])
    print(f"\nToy galaxies, untrained model: R^2 = {r2:.2f}, scatter of dz/(1+z) = {residual.std():.3f}")
    print(f"Predictions: {predicted}")
    print("Your own catalogue: astroclip embed CATALOG.fits --model DIR --images CUTOUTS/ --spectra COADDS/")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("demo"))
