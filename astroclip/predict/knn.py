"""k-nearest-neighbour estimates: exact neighbours in blocks, and what their labels say.

Shapes: R reference rows, N query rows, D width, k neighbours.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astroclip.errors import DataError

REFERENCE_BLOCK = 65_536  # reference rows compared at a time
RERANKED_BLOCK = 1 << 23  # numbers held in float64 while re-ranking
SPARE = 32  # neighbours kept beyond k before re-ranking: float32 distances order near ones wrongly
QUANTILES = {"L95": 0.025, "L68": 0.16, "MEDIAN": 0.5, "U68": 0.84, "U95": 0.975}


class Neighbours:
    """Exact nearest neighbours, by Euclidean distance in standardised vectors.

    Every dimension is standardised with mean and standard deviation of the reference; a constant dimension
    is only centred. This is the published zero-shot protocol (Parker et al. 2024, section 4). A float32
    shortlist is re-ranked in float64, so that distances agree with a direct computation.

    Parameters
    ----------
    reference : ndarray
        (R, D), finite.
    k : int
        Neighbours wanted; with fewer reference rows, all of them.
    standardise : bool
        Whether to standardise; without, vectors are compared as they are.

    Raises
    ------
    DataError
        If the reference is empty.
    """

    def __init__(self, reference: NDArray, k: int = 64, standardise: bool = True) -> None:
        if not len(reference):
            raise DataError("the reference has no row with both a complete vector and a label")
        mean, spread = reference.mean(0, dtype=np.float64), reference.std(0, dtype=np.float64)
        self._mean = torch.from_numpy(np.where(standardise, mean, 0)).float()
        self._scale = torch.from_numpy(np.where(standardise & (spread > 0), spread, 1)).float()
        self.k = min(k, len(reference))
        self._reference = self._standardise(reference)
        self._squares = self._reference.square().sum(1)

    def query(self, vectors: NDArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return distances, ascending, and reference rows, (N, k) each, for `vectors` (N, D), all finite."""
        queries = self._standardise(vectors)
        size = max(1, RERANKED_BLOCK // ((self.k + SPARE) * queries.shape[1]))
        blocks = [self._nearest(block) for block in queries.split(size)]
        distance, index = (torch.cat(parts).numpy() for parts in zip(*blocks, strict=True))
        return distance, index

    def _standardise(self, vectors: NDArray) -> Tensor:
        """Return a float32 copy, centred and scaled."""
        return torch.tensor(vectors, dtype=torch.float32).sub_(self._mean).div_(self._scale)

    def _nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Shortlist in float32 by |r|² − 2 q·r, block by block of the reference; re-rank in float64."""
        wanted = min(self.k + SPARE, len(self._reference))
        best = queries.new_full((len(queries), 0), 0)
        rows = torch.zeros((len(queries), 0), dtype=torch.int64)
        for start in range(0, len(self._reference), REFERENCE_BLOCK):
            part = slice(start, start + REFERENCE_BLOCK)
            ranks = torch.addmm(self._squares[part], queries, self._reference[part].T, alpha=-2)
            near, where = ranks.topk(min(wanted, ranks.shape[1]), dim=1, largest=False)
            best, rows = torch.cat([best, near], 1), torch.cat([rows, where + start], 1)
            best, order = best.topk(min(wanted, best.shape[1]), dim=1, largest=False)
            rows = rows.gather(1, order)
        rows = rows.sort(1).values  # equal distances: the earlier reference row comes first
        distance = (self._reference[rows].double() - queries.double()[:, None]).square().sum(-1).sqrt()
        distance, order = distance.sort(dim=1, stable=True)
        return distance[:, : self.k], rows.gather(1, order)[:, : self.k]


class Summary(NamedTuple):
    """Weighted mean, standard deviation and quantiles of the neighbours' labels, each (N,)."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    quantiles: dict[str, NDArray[np.float64]]


def weigh(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return inverse-distance weights (N, k) that sum to 1; neighbours at distance 0 share all the weight."""
    same = distance == 0
    with np.errstate(divide="ignore"):
        weight = np.where(same.any(1, keepdims=True), same.astype(np.float64), 1 / distance)
    return weight / weight.sum(1, keepdims=True)


def summarise(labels: NDArray, weight: NDArray[np.float64]) -> Summary:
    """Summarise the labels (N, k) of weighted neighbours.

    A quantile (`QUANTILES`) is the smallest label at which the summed weight reaches its level.
    """
    mean = (weight * labels).sum(1)
    std = np.sqrt((weight * (labels - mean[:, None]) ** 2).sum(1))
    order = labels.argsort(1, kind="stable")
    labels, weight = np.take_along_axis(labels, order, 1), np.take_along_axis(weight, order, 1)
    reached = weight.cumsum(1)
    last = labels.shape[1] - 1  # rounding may leave the sum of weights below the highest level
    quantiles = {}
    for name, level in QUANTILES.items():
        at = np.minimum((reached < level).sum(1, keepdims=True), last)
        quantiles[name] = np.take_along_axis(labels, at, 1)[:, 0]
    return Summary(mean, std, quantiles)
