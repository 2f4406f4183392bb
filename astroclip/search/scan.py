"""The most similar rows of a table, exactly: all vectors compared block by block, memory bounded.

Shapes: n rows of a block, D width of the vectors, m rows of a shortlist.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.tables import Table
from astroclip.tables.where import Where

BLOCK_BYTES = 64 << 20  # of vectors in memory at a time
MIN_LENGTH = 1e-3  # a shorter vector is divided by this, as in the model's own similarity
SPARE = 32  # rows kept beyond k until cosines are known in float64: float32 orders near ones wrongly

Progress = Callable[[int, int], None]


class Counts(NamedTuple):
    """What became of the rows of a table: `searched`, left out by the condition, left out as not finite."""

    searched: int = 0
    excluded: int = 0
    bad: int = 0


class Shortlist(NamedTuple):
    """Rows of a table with approximate cosines, (m,) each, the most similar first, and how many were seen."""

    rows: NDArray[np.int64]
    cosine: NDArray[np.float32]
    counts: Counts


def normalise(vectors: NDArray[Any]) -> NDArray[Any]:
    """Return vectors (..., D) divided by their length, or by `MIN_LENGTH` if they are shorter."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalised: NDArray[Any] = vectors / np.maximum(length, MIN_LENGTH)
    return normalised


def mean_cosine(vectors: Iterable[NDArray[Any]], query: NDArray[Any]) -> NDArray[Any]:
    """Return the cosines (n,) of the rows of one or more arrays (n, D) with a query of length 1, averaged."""
    parts = []
    for part in vectors:
        length = np.sqrt(np.einsum("nd,nd->n", part, part))
        parts.append(part @ query / np.maximum(length, MIN_LENGTH))
    mean: NDArray[Any] = sum(parts[1:], parts[0]) / len(parts)
    return mean


def scan(
    table: Table,
    columns: Sequence[str],
    query: NDArray[np.float64],
    count: int,
    where: Where | None = None,
    leave_out: Sequence[int] = (),
    *,
    progress: Progress | None = None,
) -> Shortlist:
    """Compare all rows of a table with a query.

    Parameters
    ----------
    table
        Read once, in blocks; only the columns of vectors and those of the condition.
    columns
        One or more columns of vectors (D,); the similarity is the mean of the cosines.
    query
        (D,), of length 1.
    count
        Length of the shortlist; of equal cosines the first row stays.
    where
        Rows that do not fulfil it are left out.
    leave_out
        These rows are, too.

    Returns
    -------
    Shortlist
        A row with a vector that is not finite is never in it.
    """
    kept = Shortlist(np.empty(0, np.int64), np.empty(0, np.float32), Counts())
    width = sum(table.column(name).shape[0] for name in columns)
    step = max(BLOCK_BYTES // (4 * width), 1)
    for start in range(0, table.nrows, step):
        stop = min(start + step, table.nrows)
        taken = np.ones(stop - start, bool)
        if where is not None:
            taken = where.select(table.read(where.columns, start, stop))
        taken[[row - start for row in leave_out if start <= row < stop]] = False
        kept = _merge(kept, _scan_block(table, columns, query.astype(np.float32), start, taken), count)
        if progress:
            progress(stop, table.nrows)
    return kept


def _scan_block(
    table: Table, columns: Sequence[str], query: NDArray[np.float32], start: int, taken: NDArray[np.bool_]
) -> Shortlist:
    """Compare the rows taken of a block; where most of them are not, only their stretch is read."""
    at = np.flatnonzero(taken)
    n = len(taken)
    if not len(at):
        return Shortlist(at, np.empty(0, np.float32), Counts(excluded=n))
    first, last = int(at[0]), int(at[-1]) + 1
    vectors = table.read(columns, start + first, start + last).values()
    with np.errstate(invalid="ignore", over="ignore"):
        cosine = mean_cosine([part.astype(np.float32, copy=False) for part in vectors], query)[at - first]
    good = np.isfinite(cosine)
    counts = Counts(int(good.sum()), n - len(at), int((~good).sum()))
    return Shortlist(at[good] + start, cosine[good], counts)


def _merge(kept: Shortlist, new: Shortlist, count: int) -> Shortlist:
    """Return the best of two shortlists, the second of later rows."""
    rows, cosine = np.concatenate([kept.rows, new.rows]), np.concatenate([kept.cosine, new.cosine])
    best = np.argsort(-cosine, kind="stable")[:count]
    counts = Counts(*(a + b for a, b in zip(kept.counts, new.counts, strict=True)))
    return Shortlist(rows[best], cosine[best], counts)


def read_rows(table: Table, names: Sequence[str], rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Read some rows of a table, in the order asked for; neighbouring ones together."""
    order = np.argsort(rows, kind="stable")
    runs = np.split(rows[order], np.flatnonzero(np.diff(rows[order]) != 1) + 1)
    parts = [table.read(names, int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]
    parts = parts or [table.read(names, 0, 0)]
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return {name: np.concatenate([part[name] for part in parts])[back] for name in names}


def rank(
    table: Table, columns: Sequence[str], query: NDArray[np.float64], near: Shortlist, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the `k` most similar rows of a shortlist and their cosines in float64, the most similar first.

    Raises
    ------
    DataError
        If the shortlist is empty.
    """
    if not len(near.rows):
        raise DataError(
            f"{table.name}: no row is left to compare: {near.counts.excluded} are excluded, "
            f"{near.counts.bad} have no embedding"
        )
    rows = np.sort(near.rows)
    vectors = read_rows(table, columns, rows).values()
    cosine = mean_cosine([part.astype(np.float64) for part in vectors], query)
    best = np.argsort(-cosine, kind="stable")[:k]
    return rows[best], cosine[best]
