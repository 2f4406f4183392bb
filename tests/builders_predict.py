"""Tables with vectors that tell of labels, all seeded: what an embedding would be if we knew the truth."""

from pathlib import Path

import fitsio
import numpy as np
from numpy.typing import NDArray

from astroclip.schema import GALAXY_ZOO, IMAGE_EMBEDDING, SPECTRUM_EMBEDDING

WIDTH = 12
MODEL = {"ACMODEL": "made-up", "ACHASH": "0123456789abcdef"}


def make_galaxies(rows: int, seed: int) -> dict[str, NDArray]:
    """Make embeddings of both modalities and labels; the noise of the image grows with its magnitude."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(4, WIDTH))
    hidden = rng.normal(size=(rows, 4))
    magnitude = rng.uniform(16, 20, rows)
    redshift = np.exp(0.4 * hidden[:, 0] - 1.2)
    columns: dict[str, NDArray] = {"TARGETID": np.arange(rows), "MAG_R": magnitude}
    noises = {IMAGE_EMBEDDING: 0.1 + 0.1 * (magnitude - 16), SPECTRUM_EMBEDDING: np.full(rows, 0.03)}
    for name, noise in noises.items():
        blurred = hidden + noise[:, None] * rng.normal(size=hidden.shape)
        columns[name] = np.tanh(blurred @ mixing / 3).astype("f4")
    columns["Z"] = redshift
    columns["LOG_MSTAR"] = (10.5 + 0.5 * hidden[:, 1] + 0.05 * rng.normal(size=rows)).astype("f4")
    columns["AVG_SFR"] = (10 ** (hidden[:, 2] - 0.5)).astype("f4")
    columns["AGE"] = (6 + hidden[:, 1] - hidden[:, 2]).astype("f4")
    columns["KIND"] = np.where(hidden[:, 3] > 0.5, "QUIET", np.where(hidden[:, 3] < -0.5, "ACTIVE", "MIXED"))
    return columns


def make_votes(columns: dict[str, NDArray], seed: int) -> dict[str, NDArray]:
    """Make votes on all questions that follow from the spectrum's embedding."""
    rng = np.random.default_rng(seed)
    vectors = columns[SPECTRUM_EMBEDDING].astype(float)
    votes: dict[str, NDArray] = {}
    for i, (question, answers) in enumerate(GALAXY_ZOO.items()):
        direction = np.random.default_rng(100 + i).normal(size=(WIDTH, len(answers)))
        opinion = np.exp(2 * vectors @ direction)
        opinion /= opinion.sum(1, keepdims=True)
        total = rng.integers(0, 40, len(vectors))
        counts = np.array([rng.multinomial(n, p) for n, p in zip(total, opinion, strict=True)])
        votes[f"{question}_total-votes"] = total.astype("f4")
        for j, answer in enumerate(answers):
            with np.errstate(invalid="ignore"):
                votes[f"{question}_{answer}_fraction"] = (counts[:, j] / total).astype("f4")
    return votes


def write_galaxies(path: Path, columns: dict[str, NDArray], cards: dict[str, str] = MODEL) -> Path:
    """Write a FITS table, as embedded by a model."""
    fitsio.write(path, list(columns.values()), names=list(columns), header=cards, clobber=True)
    return path
