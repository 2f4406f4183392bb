"""How well a row's image and spectrum fit together, seen against the pairs of the reference.

A wrong redshift, a mismatched pair or a blend has an image and a spectrum that speak of different galaxies:
their embeddings in the shared space point elsewhere.

Shapes: R reference rows, N rows, D width.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUSPECT = 0.995  # share of the reference's pairs that fit together better than what is flagged
ROWS = 20_000  # of the reference, at most


class Agreement(NamedTuple):
    """What is usual among pairs.

    Attributes
    ----------
    centre, scale : ndarray
        (2, D) mean and standard deviation of the embeddings of images and of spectra.
    usual, spread : float
        Median and robust standard deviation of the cosine of pairs, each modality standardised.
    limit : float
        Disagreement that 0.5 % of the pairs exceed.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    usual: float
    spread: float
    limit: float

    def disagreement(self, image: NDArray, spectrum: NDArray) -> NDArray[np.float64]:
        """Return by how many standard deviations pairs (N, D) fit together worse than usual; NaN with NaN."""
        first, second = (
            (vectors - self.centre[i]) / self.scale[i] for i, vectors in enumerate((image, spectrum))
        )
        norm = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = (first * second).sum(1) / norm
        return (self.usual - cosine) / self.spread


def fit_agreement(image: NDArray, spectrum: NDArray) -> Agreement | None:
    """Learn from the reference's pairs (R, D) what is usual.

    Returns None where nothing can be learnt: the widths differ (no shared space), or fewer than 10 rows have
    both embeddings.
    """
    if image.shape != spectrum.shape:
        return None
    pairs = np.stack([image, spectrum]).astype(np.float64)
    pairs = pairs[:, np.isfinite(pairs).all(axis=(0, 2))][:, :ROWS]
    if pairs.shape[1] < 10:
        return None
    scale = pairs.std(1)
    first = Agreement(pairs.mean(1), np.where(scale > 0, scale, 1.0), 0.0, 1.0, np.inf)
    cosine = -first.disagreement(*pairs)
    usual = float(np.median(cosine))
    spread = max(1.4826 * float(np.median(np.abs(cosine - usual))), 1e-6)
    limit = float(np.quantile((usual - cosine) / spread, SUSPECT))
    return first._replace(usual=usual, spread=spread, limit=limit)
