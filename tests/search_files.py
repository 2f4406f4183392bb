"""Embedded tables for tests of search: vectors of known directions, labels, rows without an embedding."""

from pathlib import Path
from typing import Any

import fitsio
import numpy as np
from numpy.typing import NDArray

MODEL, HASH = "tiny", "0123456789abcdef"
FIRST_ID = 39_627_000_000_000_000


def write_embedded(
    path: Path,
    rows: int = 200,
    width: int = 16,
    *,
    seed: int = 0,
    bad: tuple[int, ...] = (),
    omit: tuple[str, ...] = (),
    header: dict[str, Any] | None = None,
    **columns: NDArray[Any],
) -> dict[str, NDArray[Any]]:
    """Write an embedded catalogue and return its columns; image and spectrum of a galaxy are alike.

    `bad` rows have no embeddings; `omit` leaves columns out, `columns` gives other or more.
    """
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(rows, width)).astype("f4")
    spectrum = image + 0.1 * rng.normal(size=image.shape).astype("f4")
    image[list(bad)] = np.nan
    spectrum[list(bad)] = np.nan
    table: dict[str, NDArray[Any]] = {
        "TARGETID": FIRST_ID + np.arange(rows),
        "RA": rng.uniform(0, 360, rows),
        "DEC": np.degrees(np.arcsin(rng.uniform(-1, 1, rows))),
        "Z": rng.uniform(0, 1, rows),
        "SPECTYPE": rng.choice(["GALAXY", "QSO"], rows),
        "IMAGE_EMBEDDING": image,
        "SPECTRUM_EMBEDDING": spectrum,
    } | columns
    table = {name: values for name, values in table.items() if name not in omit}
    cards = {"ACMODEL": MODEL, "ACHASH": HASH} if header is None else header
    fitsio.write(path, list(table.values()), names=list(table), header=cards, extname="CAT", clobber=True)
    return table


def unit(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Normalise as the model does, in plain NumPy."""
    vectors = np.asarray(vectors, np.float64)
    return vectors / np.maximum(np.sqrt((vectors**2).sum(-1, keepdims=True)), 1e-3)
