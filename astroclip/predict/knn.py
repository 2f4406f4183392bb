"""k nearest neighbours: exact, in blocks, and how much each of them weighs.

Shapes: R reference rows, N query rows, D width, k neighbours.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astroclip.errors import DataError

REFERENCE_BLOCK = 16_384  # reference rows compared at a time
QUERY_BLOCK = 512  # rows asked for at a time
RERANKED_BLOCK = 1 << 20  # numbers held while re-ranking; fresh memory costs more than arithmetic
SPARE = 32  # neighbours kept beyond k before re-ranking: float32 distances order near ones wrongly
SPARE_BF16 = 96  # the same for bfloat16 products
GROUP = 32  # reference rows of which only the nearest is looked at first


class Neighbours:
    """Exact nearest neighbours, by Euclidean distance in standardised vectors.

    Every dimension is standardised with mean and standard deviation of the reference; a constant dimension
    is only centred. This is the published zero-shot protocol (Parker et al. 2024, section 4). A shortlist is
    re-ranked in float64, so that distances agree with a direct computation. It is made with bfloat16
    products where the processor has them; rows for which their rounding, as measured on the shortlist, might
    have lost a neighbour are asked again in float32.

    Parameters
    ----------
    reference : ndarray
        (R, D), finite. Float32 is not copied: a million rows of 1024 take 4.1 GB.
    k : int
        Neighbours wanted; with fewer reference rows, all of them.
    standardise : bool
        Whether to standardise; without, vectors are compared as they are.
    bf16 : bool, optional
        Whether the shortlist is made in bfloat16; by default where the processor is quick at it.

    Raises
    ------
    DataError
        If the reference is empty.
    """

    def __init__(
        self, reference: NDArray, k: int = 64, standardise: bool = True, bf16: bool | None = None
    ) -> None:
        if not len(reference):
            raise DataError("the reference has no row with both a complete vector and a label")
        self.reference = np.ascontiguousarray(reference, np.float32)
        mean, spread = self.reference.mean(0, dtype=np.float64), _spread(self.reference)
        self._mean = torch.from_numpy(np.where(standardise, mean, 0)).float()
        self._scale = torch.from_numpy(np.where(standardise & (spread > 0), spread, 1)).float()
        self.k = min(k, len(reference))
        self._bf16 = _has_bf16() if bf16 is None else bf16
        self._squares = torch.cat([self.standardise(part).square().sum(1) for part in self._parts()])

    def standardise(self, vectors: NDArray) -> Tensor:
        """Return a float32 copy of vectors (N, D), centred and scaled like the reference."""
        copied = torch.from_numpy(np.array(vectors, np.float32, order="C"))
        return copied.sub_(self._mean).div_(self._scale)

    def query(
        self, vectors: NDArray, but: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return distances, ascending, and reference rows, (N, k) each, for `vectors` (N, D), all finite.

        With `but` (N,), a reference row a query that is not taken: its own, if it is one of them. There is
        one neighbour less where the reference has no other.
        """
        k = self.k if but is None else min(self.k + 1, len(self.reference))
        distance, index = self._query(self.standardise(vectors), k)
        if but is None:
            return distance, index
        other = index != but[:, None]
        kept = np.argsort(~other, axis=1, kind="stable")[:, : min(self.k, len(self.reference) - 1)]
        return np.take_along_axis(distance, kept, 1), np.take_along_axis(index, kept, 1)

    def _parts(self) -> Iterator[NDArray]:
        """Yield the reference block by block."""
        for start in range(0, len(self.reference), REFERENCE_BLOCK):
            yield self.reference[start : start + REFERENCE_BLOCK]

    def _query(self, queries: Tensor, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Find the neighbours of standardised queries (N, D)."""
        if not self._bf16:
            rows = self._shortlist(queries, k + SPARE, torch.float32)[0]
            distance, index, _ = self._rerank(queries, rows, k)
            return distance.numpy(), index.numpy()
        rows, rank = self._shortlist(queries, k + SPARE_BF16, torch.bfloat16)
        distance, index, error = self._rerank(queries, rows, k, rank)
        if rows.shape[1] < len(self.reference):
            # a row beyond the shortlist has a larger rank, wrong by less than thrice the largest error seen
            square = distance[:, -1].square() - queries.double().square().sum(1)
            unsure = (square + 3 * error > rank[:, -1]).nonzero()[:, 0]
            again = self._shortlist(queries[unsure], k + SPARE, torch.float32)[0]
            distance[unsure], index[unsure] = self._rerank(queries[unsure], again, k)[:2]
        return distance.numpy(), index.numpy()

    def _shortlist(self, queries: Tensor, wanted: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the rows with the lowest |r|² − 2 q·r, and these ranks, (N, wanted), lowest first."""
        wanted = min(wanted, len(self.reference))
        if not len(queries):
            return torch.zeros(0, wanted, dtype=torch.int64), queries.new_zeros(0, wanted)
        asked = queries.to(dtype).split(QUERY_BLOCK)
        best = [queries.new_zeros(len(block), 0) for block in asked]
        rows = [torch.zeros(len(block), 0, dtype=torch.int64) for block in asked]
        for i, part in enumerate(self._parts()):
            start, width = i * REFERENCE_BLOCK, len(part)
            known, squares = self.standardise(part).to(dtype), self._squares[start : start + width]
            product = known.new_empty(len(asked[0]), width)
            rank = queries.new_full((len(asked[0]), -(-width // GROUP) * GROUP), torch.inf)
            for j, block in enumerate(asked):
                n = len(block)
                torch.mm(block, known.T, out=product[:n])
                torch.sub(squares, product[:n], alpha=2, out=rank[:n, :width])
                near, where = _lowest(rank[:n], min(wanted, width))
                near, where = torch.cat([best[j], near], 1), torch.cat([rows[j], where + start], 1)
                best[j], order = near.topk(min(wanted, near.shape[1]), dim=1, largest=False)
                rows[j] = where.gather(1, order)
        return torch.cat(rows), torch.cat(best)

    def _rerank(
        self, queries: Tensor, rows: Tensor, k: int, rank: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances and rows of the k nearest of a shortlist, and how wrong its ranks were at most."""
        size = max(1, RERANKED_BLOCK // max(rows.shape[1] * queries.shape[1], 1))
        found: list[tuple[Tensor, ...]] = []
        for at in range(0, max(len(queries), 1), size):
            asked = queries[at : at + size]
            # equal distances: the earlier reference row comes first
            listed, order = rows[at : at + size].sort(1)
            near = torch.from_numpy(self.reference[listed.numpy()]).sub_(self._mean).div_(self._scale)
            distance = torch.linalg.vector_norm(near.sub_(asked[:, None]), dim=-1, dtype=torch.float64)
            error = torch.zeros(len(asked), dtype=torch.float64)
            if rank is not None:
                true = distance.square() - asked.double().square().sum(1, keepdim=True)
                error = (true - rank[at : at + size].gather(1, order)).abs().amax(1)
            distance, order = distance.sort(dim=1, stable=True)
            found.append((distance[:, :k], listed.gather(1, order)[:, :k], error))
        distance, index, error = (torch.cat(parts) for parts in zip(*found, strict=True))
        return distance, index, error


def _lowest(rank: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Return the `wanted` lowest of each row (its width a multiple of `GROUP`) and where they are."""
    # the groups with the lowest first members hold all that is wanted
    if rank.shape[1] <= 4 * GROUP * wanted:
        low, where = rank.topk(wanted, dim=1, largest=False)
        return low, where
    groups = rank.unflatten(1, (-1, GROUP))
    chosen = groups.amin(2).topk(wanted, dim=1, largest=False).indices
    members = groups.gather(1, chosen[:, :, None].expand(-1, -1, GROUP)).flatten(1)
    low, at = members.topk(wanted, dim=1, largest=False)
    return low, chosen.gather(1, at // GROUP) * GROUP + at % GROUP


def _spread(reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the standard deviation of each dimension (D,), block by block: no copy of the reference."""
    mean, total = reference.mean(0, dtype=np.float64), 0.0
    for start in range(0, len(reference), REFERENCE_BLOCK // 16):
        total = total + ((reference[start : start + REFERENCE_BLOCK // 16] - mean) ** 2).sum(0)
    return np.sqrt(total / len(reference))


def _has_bf16() -> bool:
    """Tell whether the processor multiplies bfloat16 in hardware; elsewhere float32 is quicker."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def weigh(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return inverse-distance weights (N, k) that sum to 1; neighbours at distance 0 share all the weight."""
    same = distance == 0
    with np.errstate(divide="ignore"):
        weight = np.where(same.any(1, keepdims=True), same.astype(np.float64), 1 / distance)
    return weight / weight.sum(1, keepdims=True)
