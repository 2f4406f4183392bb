"""Match positions on the sky: the smaller side indexed in memory, the other one read once, in blocks."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from astroclip.crossmatch.positions import ARCSEC, FloatArray, floats, unit_vectors
from astroclip.crossmatch.zones import Index, IntArray, build_index, find_pairs, keep_best, sift
from astroclip.errors import DataError, UsageError

Find = Literal["best", "all"]
Positions = tuple[ArrayLike, ArrayLike]  # ra, dec in deg, (N,) each

MAX_RADIUS_ARCSEC = 90.0 * 3600.0
_ROWS = 1 << 17  # of the streamed side at a time: its two columns stay in the processor's cache


class Matches(NamedTuple):
    """Pairs of row numbers, sorted by `left`, then `right`.

    `left`, `right`, `separation_arcsec` are (M,). `placed` and `unplaced` count the rows (of left, of right)
    with a usable position and without one.
    """

    left: IntArray
    right: IntArray
    separation_arcsec: FloatArray
    placed: tuple[int, int]
    unplaced: tuple[int, int]


def check_find(find: str) -> None:
    """Refuse what is neither ``best`` nor ``all``."""
    if find not in ("best", "all"):
        raise UsageError(f"find is {find!r}: expected 'best' or 'all'")


def _blocks(side: Positions | Iterable[Positions]) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield a side as short native float64 blocks; refuse what are not two columns."""
    for number, block in enumerate([side] if isinstance(side, tuple) else side):
        shapes = [np.shape(column) for column in block]
        if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 1:
            raise DataError(
                f"positions, block {number}: expected ra and dec of one length, (N,) each, found {shapes}. "
                "Pass (ra, dec) as a tuple, or an iterable of such tuples."
            )
        ra, dec = block
        for start in range(0, shapes[0][0], _ROWS):
            yield floats(ra[start : start + _ROWS]), floats(dec[start : start + _ROWS])


def _whole(side: Positions | Iterable[Positions]) -> tuple[FloatArray, FloatArray]:
    """Return all of a side as two arrays."""
    if isinstance(side, tuple) and all(isinstance(column, np.ndarray) for column in side):
        next(_blocks(side), None)  # refuses what are not two columns
        return floats(side[0]), floats(side[1])
    ra, dec = zip((np.empty(0), np.empty(0)), *_blocks(side), strict=True)
    return np.concatenate(ra), np.concatenate(dec)


def _buffers(size: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Return room for `size` pairs: indexed row, streamed row, squared chord."""
    return np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size)


class Pairs:
    """The pairs of an index with a streamed side, a buffer at a time; counts the streamed rows."""

    def __init__(self, index: Index, stream: Positions | Iterable[Positions]) -> None:
        self.index, self.stream = index, stream
        self.placed = self.unplaced = 0

    def __iter__(self) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
        near, buffers = np.empty(_ROWS, np.int64), _buffers(_ROWS)
        for block in _blocks(self.stream):
            first_row = self.placed + self.unplaced
            n_near, unplaced = sift(self.index, block, near)
            rows = near[:n_near]
            ra, dec = (column[rows] for column in block)
            begin, vectors = 0, tuple(unit_vectors(ra, dec))
            while begin < n_near:
                n, end = find_pairs(self.index, (rows, ra, dec, vectors), begin, first_row, buffers)
                if end == begin:  # one row alone has more pairs than fit
                    buffers = _buffers(2 * buffers[0].size)
                indexed, streamed, chord2 = buffers
                yield indexed[:n], streamed[:n], chord2[:n]
                begin = end
            self.placed += block[0].size - unplaced
            self.unplaced += unplaced


def _best_pairs(pairs: Pairs, n_indexed: int) -> tuple[IntArray, IntArray, FloatArray]:
    """Keep the pairs in which each is the other's nearest."""
    best, best_chord2 = np.empty(n_indexed, np.int64), np.full(n_indexed, np.inf)
    mutual = np.zeros(n_indexed, np.bool_)
    for buffers in pairs:
        keep_best(buffers, (best, best_chord2, mutual))
    rows = np.flatnonzero(mutual)
    return rows, best[rows], best_chord2[rows]


def _all_pairs(pairs: Pairs) -> tuple[IntArray, IntArray, FloatArray]:
    """Keep every pair."""
    found = [_buffers(0), *(tuple(buffer.copy() for buffer in buffers) for buffers in pairs)]
    indexed, streamed, chord2 = zip(*found, strict=True)
    return np.concatenate(indexed), np.concatenate(streamed), np.concatenate(chord2)


def _search(
    small: Positions | Iterable[Positions], stream: Positions | Iterable[Positions], radius: float, find: Find
) -> tuple[tuple[IntArray, IntArray, FloatArray], tuple[int, int], tuple[int, int]]:
    """Return the pairs (indexed row, streamed row, squared chord), and the rows with and without position."""
    ra, dec = _whole(small)
    pairs = Pairs(build_index(ra, dec, radius), stream)
    found = _best_pairs(pairs, ra.size) if find == "best" else _all_pairs(pairs)
    n_indexed = pairs.index.keys.size
    return found, (n_indexed, pairs.placed), (ra.size - n_indexed, pairs.unplaced)


def match_sky(
    left: Positions | Iterable[Positions],
    right: Positions | Iterable[Positions],
    radius_arcsec: float,
    find: Find = "best",
) -> Matches:
    """Match two sets of positions on the sky, exactly, at the poles and across RA 0 too.

    One side is sorted in memory, the other read once, block by block: of two sides given as arrays the
    shorter one is sorted; a side given as an iterable of blocks is streamed (of two such, the left one is
    first read into memory). Which it is does not change the result, nor does the cutting into blocks.

    Parameters
    ----------
    left, right
        ``(ra, dec)``, a *tuple* of two (N,) columns in deg, or an iterable of such tuples, as read from
        disk in blocks; row numbers run on from block to block. RA may lie on any turn of the circle. A row
        whose position is NaN, infinite, masked, or beyond 90 deg of declination matches nothing, and is
        counted in `unplaced`.
    radius_arcsec
        Largest separation, inclusive; at most 90 deg.
    find
        ``best``: pairs in which each is the nearest to the other; of several at equal separation the one
        with the smaller row number counts as nearest. A row occurs at most once. Stricter in crowds than
        ``find=best`` of STILTS, which goes on to pair those whose nearest is taken: it is what the
        results of ``best1`` and ``best2`` have in common.
        ``all``: every pair within the radius.

    Returns
    -------
    Matches
        Sorted by `left`, then `right`; separations good to 1e-9 arcsec.

    Raises
    ------
    UsageError
        If the radius or `find` makes no sense.
    DataError
        If ra and dec are not two columns of the same length.
    """
    if not 0.0 < radius_arcsec <= MAX_RADIUS_ARCSEC:
        raise UsageError(f"radius_arcsec is {radius_arcsec}: expected 0 < radius <= {MAX_RADIUS_ARCSEC:g}")
    check_find(find)
    swap = isinstance(right, tuple) and not (isinstance(left, tuple) and len(left[0]) <= len(right[0]))
    small, stream = (right, left) if swap else (left, right)
    (indexed, streamed, chord2), placed, unplaced = _search(small, stream, radius_arcsec, find)
    left_rows, right_rows = (streamed, indexed) if swap else (indexed, streamed)
    order = np.argsort(left_rows) if find == "best" else np.lexsort((right_rows, left_rows))
    return Matches(
        left_rows[order],
        right_rows[order],
        2.0 * np.arcsin(np.minimum(0.5 * np.sqrt(chord2[order]), 1.0)) / ARCSEC,
        placed[::-1] if swap else placed,
        unplaced[::-1] if swap else unplaced,
    )
