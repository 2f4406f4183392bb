"""Tables with predictions and their truth, of known quality."""

from pathlib import Path
from statistics import NormalDist

import fitsio
import numpy as np

from astroclip.evaluate.metrics import LEVELS
from astroclip.schema import GALAXY_ZOO

SCORES = {name: NormalDist().inv_cdf(level) for name, level in LEVELS.items()}


def predicted_redshifts(rng: np.random.Generator, n: int, width: float = 1.0) -> dict[str, np.ndarray]:
    """Return redshifts with normal errors of 0.03 (1 + z), and quantiles `width` times too wide."""
    truth = rng.gamma(3, 0.08, n)
    sigma = 0.03 * (1 + truth)
    mean = truth + sigma * rng.normal(size=n)
    columns = {"Z": truth, "Z_PHOT_MEAN": mean, "Z_PHOT_STD": width * sigma}
    columns |= {f"Z_PHOT_{name}": mean + width * sigma * score for name, score in SCORES.items()}
    columns |= {
        "MAG_R": 17 + 8 * truth + rng.normal(0, 0.5, n),
        "MEDIAN_COADD_SNR_R": rng.gamma(2, 2, n),
        "RA": rng.uniform(0, 360, n),
        "DEC": rng.uniform(-10, 70, n),
        "PREDICT_FLAG": np.where(rng.random(n) < 0.1, 2, 0).astype("i4"),
        "EMBED_FLAG": np.zeros(n, "i4"),
    }
    return {
        name: values if values.dtype.kind == "i" else values.astype("f4") for name, values in columns.items()
    }


def predicted_properties(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Return a mass with its predictions, normal errors of 0.2 dex."""
    mass = rng.normal(10.5, 0.6, n)
    mean = mass + rng.normal(0, 0.2, n)
    columns = {"LOGMSTAR": mass, "LOGMSTAR_PRED": mean, "LOGMSTAR_STD": np.full(n, 0.2)}
    columns |= {f"LOGMSTAR_{name}": mean + 0.2 * score for name, score in SCORES.items() if name != "MEDIAN"}
    return {name: values.astype("f4") for name, values in columns.items()}


def predicted_votes(rng: np.random.Generator, n: int, right: float = 0.8) -> dict[str, np.ndarray]:
    """Return votes on all questions; the predicted fractions favour the true answer in a share `right`."""
    columns: dict[str, np.ndarray] = {}
    for question, answers in GALAXY_ZOO.items():
        true = rng.integers(0, len(answers), n)
        guess = np.where(rng.random(n) < right, true, rng.integers(0, len(answers), n))
        columns[f"{question}_total-votes"] = rng.integers(0, 100, n).astype("i4")
        for answer, name in enumerate(answers):
            columns[f"{question}_{name}_debiased"] = np.where(true == answer, 0.7, 0.3 / len(answers))
            columns[f"{question}_{name}_fraction"] = np.where(guess == answer, 0.6, 0.4 / len(answers))
        columns[f"{question}_answer"] = np.array(answers)[guess]
    return columns


def embedded_pairs(rng: np.random.Generator, n: int, noise: float = 0.7) -> dict[str, np.ndarray]:
    """Return embeddings of images and spectra that tell the redshift and find each other, more or less."""
    hidden = rng.normal(size=(n, 12))
    z = 0.3 + 0.1 * hidden[:, 0]
    vectors = [(hidden + noise * rng.normal(size=hidden.shape)).astype("f4") for _ in range(2)]
    return {"IMAGE_EMBEDDING": vectors[0], "SPECTRUM_EMBEDDING": vectors[1], "Z": z}


def write_table(path: Path, columns: dict[str, np.ndarray], **options) -> Path:
    """Write columns as a FITS table; their names as they are."""
    fitsio.write(path, list(columns.values()), names=list(columns), clobber=True, **options)
    return path
