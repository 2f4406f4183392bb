"""Match objects: by the Legacy Survey's ids first, by position for what is left, and how many by chance."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.ids import IdMatches, SourceIndex, find_sources
from astroclip.errors import UsageError
from astroclip.sky import (
    Find,
    FloatArray,
    IntArray,
    Positions,
    check_search,
    floats,
    has_position,
    match_sky,
    separation_arcsec,
)
from astroclip.tables.identity import Who
from astroclip.tables.motion import displace

ID_RADIUS_ARCSEC = 5.0
SHIFT_ARCSEC = 30.0


class Again:
    """Blocks that can be read as often as wanted: each time `start` begins anew."""

    def __init__(self, start: Callable[[], Iterator[Any]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[Any]:
        return self._start()


class ObjectMatches(NamedTuple):
    """Pairs of row numbers, sorted by `left`, then `right`, and what stood in the way of others.

    `method` is ``id`` or ``position``; `separation_arcsec` is NaN where a position is missing. `far_left`:
    rows whose id is there, but too far away to be believed. `repeated_left`: as in `IdMatches`.
    """

    left: IntArray
    right: IntArray
    separation_arcsec: FloatArray
    method: NDArray[np.str_]
    far_left: IntArray
    repeated_left: IntArray


class FalseMatchRate(NamedTuple):
    """Chance pairs for each left row, its statistical error, and what it was counted from."""

    rate: float
    error: float
    chance_pairs: IntArray  # (shifts,)
    left_rows: int


def _refuse_iterator(blocks: object) -> None:
    """Refuse an iterator, which could be read only once."""
    if isinstance(blocks, Iterator):
        raise UsageError(
            "right is an iterator, which can be read only once, and it is needed several times. "
            "Pass arrays, a list of blocks, or an object whose __iter__ starts again (Again)"
        )


def match_objects(
    left: Who,
    right: Who | Iterable[Who],
    radius_arcsec: float = 1.0,
    find: Find = "best",
    id_radius_arcsec: float = ID_RADIUS_ARCSEC,
) -> ObjectMatches:
    """Match by id; then by position the rows that no id has paired.

    Rows paired by id take no part in the position match, nor stand in its way. Rows with the same id but
    farther apart than `id_radius_arcsec` are not paired by it (one of the ids is wrong): they are returned
    as `far_left`, and matched by position like rows without an id. Where a position is
    missing the id alone decides, and the separation is NaN. Apply `propagate` to the positions first.

    Parameters
    ----------
    left
        Who and where, (N,), in memory.
    right
        The same, or an iterable of blocks that can be read twice (`Again`); row numbers run on from block to
        block.
    radius_arcsec
        Of the position match, see `match_sky`.
    find
        ``best``: unique ids, then mutual nearest; a row occurs at most once. ``all``: every pair with the
        same id, then every pair of the other rows within the radius.
    id_radius_arcsec
        Largest believable separation of rows with the same id.

    Raises
    ------
    UsageError
        If `find` or a radius makes no sense, or if `right` can be read only once.
    DataError
        If columns do not have the shapes and types described.
    """
    check_search(radius_arcsec, find)
    _refuse_iterator(right)
    blocks = [right] if isinstance(right, Who) else right
    ids, separation = _pair_ids(left, blocks, find)
    far = separation > id_radius_arcsec
    by_id_left, by_id_right = ids.left[~far], ids.right[~far]
    free = floats(left.ra).copy()
    free[by_id_left] = np.nan
    others = _without(blocks, np.unique(by_id_right))
    sky = match_sky((free, left.dec), next(others) if isinstance(right, Who) else others, radius_arcsec, find)
    left_rows, right_rows = np.append(by_id_left, sky.left), np.append(by_id_right, sky.right)
    order = np.lexsort((right_rows, left_rows))
    method = np.repeat(np.array(["id", "position"]), [by_id_left.size, sky.left.size])
    return ObjectMatches(
        left_rows[order],
        right_rows[order],
        np.append(separation[~far], sky.separation_arcsec)[order],
        method[order],
        ids.left[far],
        ids.repeated_left,
    )


def _pair_ids(left: Who, blocks: Iterable[Who], find: Find) -> tuple[IdMatches, FloatArray]:
    """Match by id, and return the separation of each pair."""
    index, offset = SourceIndex(find_sources(left)), 0
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0))]
    for block in blocks:
        row, place = index.look_up(find_sources(block))
        found.append((row + offset, place, floats(block.ra)[row], floats(block.dec)[row]))
        offset += len(block.ra)
    rows, places, ra, dec = (np.concatenate(parts) for parts in zip(*found, strict=True))
    matches, source = index.pair(rows, places, find)
    here = floats(left.ra)[matches.left], floats(left.dec)[matches.left]
    return matches, separation_arcsec(*here, ra[source], dec[source])


def _without(blocks: Iterable[Who], taken: IntArray) -> Iterator[Positions]:
    """Yield the positions of blocks, those of the rows `taken` (ascending) blanked."""
    offset = 0
    for block in blocks:
        ra = floats(block.ra).copy()
        first, last = np.searchsorted(taken, [offset, offset + ra.size])
        ra[taken[first:last] - offset] = np.nan
        yield ra, block.dec
        offset += ra.size


def false_match_rate(
    left: Positions,
    right: Positions | Iterable[Positions],
    radius_arcsec: float,
    find: Find = "best",
    *,
    shift_arcsec: float | None = None,
    n_shifts: int = 8,
) -> FalseMatchRate:
    """Estimate how many left rows find a partner by chance, by matching a shifted sky.

    The left positions are moved by `shift_arcsec` in `n_shifts` directions around the circle (true angles
    on the sky), far beyond the radius but within the same field, and matched again: what then matches is
    chance. An upper limit for ``best``, since a row whose true partner is there seldom takes another.
    Multiplied with the number of left rows it is the number of false pairs to expect.

    Parameters
    ----------
    left
        ``(ra, dec)``, (N,) each, deg.
    right
        ``(ra, dec)``, or an iterable of blocks that can be read `n_shifts` times.
    radius_arcsec, find
        As in the match in question, see `match_sky`.
    shift_arcsec
        Default: 30 arcsec, or 10 radii if that is more.
    n_shifts
        Number of directions; the error falls with its square root.

    Returns
    -------
    FalseMatchRate
        Rate for each left row with a position (NaN if there is none). The error is the larger of the
        Poisson error of all chance pairs (of one, if none was found) and the scatter between the shifts.

    Raises
    ------
    UsageError
        If the shift is within three radii, there are no shifts, or `right` can be read only once.
    """
    _refuse_iterator(right)
    shift = max(SHIFT_ARCSEC, 10.0 * radius_arcsec) if shift_arcsec is None else shift_arcsec
    if n_shifts < 1 or not shift > 3.0 * radius_arcsec:
        raise UsageError(f"{n_shifts} shifts by {shift} arcsec: expected one or more, of over 3 radii")
    ra, dec = floats(left[0]), floats(left[1])
    angles = 2.0 * np.pi * np.arange(n_shifts) / n_shifts
    pairs = np.zeros(n_shifts, np.int64)
    for i, (east, north) in enumerate(zip(shift * np.sin(angles), shift * np.cos(angles), strict=True)):
        pairs[i] = match_sky(displace(ra, dec, east, north), right, radius_arcsec, find).left.size
    n = int(has_position(ra, dec).sum())
    if n == 0:
        return FalseMatchRate(np.nan, np.nan, pairs, 0)
    poisson = np.sqrt(max(int(pairs.sum()), 1)) / n_shifts
    scatter = pairs.std(ddof=1) / np.sqrt(n_shifts) if n_shifts > 1 else 0.0
    return FalseMatchRate(float(pairs.mean() / n), float(max(poisson, scatter) / n), pairs, n)
