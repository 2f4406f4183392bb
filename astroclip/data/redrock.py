"""Templates as Redrock has them: https://github.com/desihub/redrock-templates, one class a file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.fitsfile import FitsFile
from astroclip.errors import DataError

VECTORS_HDU = "BASIS_VECTORS"


class RedrockTemplate(NamedTuple):
    """Vectors (m, W) of a class, GALAXY, QSO or STAR, at rest-frame wavelengths (W,) Å in vacuum."""

    spectype: str
    wave: NDArray[np.float64]
    vectors: NDArray[np.float64]


def read_redrock_template(path: str | Path) -> RedrockTemplate:
    """Read one rrtemplate-*.fits: HDU BASIS_VECTORS with CRVAL1, CDELT1, LOGLAM (1: log10 Å) and RRTYPE.

    Raises
    ------
    DataError
        If the file is damaged, has no vectors, or does not say its wavelengths and class.
    """
    with FitsFile(path) as file:
        header, vectors = file.header(VECTORS_HDU), file.pixels(VECTORS_HDU).astype(np.float64)
    start, step, kind = (header.get(card) for card in ("CRVAL1", "CDELT1", "RRTYPE"))
    if not isinstance(start, int | float) or not isinstance(step, int | float) or not kind:
        raise DataError(
            f"{path}: HDU {VECTORS_HDU} lacks CRVAL1, CDELT1 or RRTYPE, as a Redrock template has"
        )
    wave = start + step * np.arange(vectors.shape[-1], dtype=np.float64)
    wave = np.power(10.0, wave) if header.get("LOGLAM") else wave
    return RedrockTemplate(str(kind).strip().upper(), wave, np.atleast_2d(vectors))
