"""Match objects of the Legacy Survey by identity: an exact join on (RELEASE, BRICKID, OBJID)."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.errors import DataError
from astroclip.sky import Find, IntArray, check_search

Ids = tuple[ArrayLike, ArrayLike, ArrayLike]  # release, brickid, objid: (N,) integers each


class IdMatches(NamedTuple):
    """Pairs of row numbers with the same id, sorted by `left`, then `right`; (M,) each.

    `repeated_left`, `repeated_right`: the rows whose id is on both sides, but more than once on one.
    """

    left: IntArray
    right: IntArray
    repeated_left: IntArray
    repeated_right: IntArray


class IdIndex:
    """The ids of the left side as sorted keys, in which those of other rows are looked up."""

    def __init__(self, ids: Ids) -> None:
        columns, known = _id_columns(ids)
        known_rows = np.flatnonzero(known)
        columns = [column[known_rows] for column in columns]
        self.dtypes = [column.dtype for column in columns]
        self.ranges = [(int(c.min()), int(c.max())) if c.size else (1, 0) for c in columns]
        widths = [high - low + 1 for low, high in self.ranges]
        self.packed = int(np.prod(widths, dtype=object)) < 2**63
        keys = self._keys(columns)
        order = np.argsort(keys, kind="stable")
        self.unique, self.first, self.counts = np.unique(keys[order], return_index=True, return_counts=True)
        self.rows = known_rows[order]

    def _keys(self, columns: list[NDArray[np.integer]]) -> NDArray[np.generic]:
        """Return one sortable key a row: an int64 if the left side's ranges allow, else the three in turn."""
        if self.packed:
            key = np.zeros(columns[0].size, np.int64)
            for column, dtype, (low, high) in zip(columns, self.dtypes, self.ranges, strict=True):
                key = key * (high - low + 1) + (column.astype(dtype) - low).astype(np.int64)
            return key
        return np.rec.fromarrays([c.astype(d) for c, d in zip(columns, self.dtypes, strict=True)])

    def look_up(self, ids: Ids) -> tuple[IntArray, IntArray]:
        """Return the rows whose id the left side has, and the place of that id among the left's keys."""
        columns, known = _id_columns(ids)
        for column, (low, high) in zip(columns, self.ranges, strict=True):
            known &= (column >= low) & (column <= high)
        rows = np.flatnonzero(known)
        keys = self._keys([column[rows] for column in columns])
        place = np.minimum(np.searchsorted(self.unique, keys), max(self.unique.size - 1, 0))
        same = np.flatnonzero(self.unique[place] == keys)
        return rows[same], place[same]

    def pair(self, rows: IntArray, places: IntArray, find: Find) -> tuple[IdMatches, IntArray]:
        """Pair what was looked up in all blocks; also return which look-up each pair came from."""
        hits = np.bincount(places, minlength=self.unique.size)
        alone = (self.counts == 1) & (hits == 1)
        taken = np.flatnonzero(alone[places] | (find == "all"))
        n_left = self.counts[places[taken]]
        source = np.repeat(taken, n_left)
        step = np.arange(source.size) - np.repeat(np.cumsum(n_left) - n_left, n_left)
        left = self.rows[self.first[places[source]] + step]
        order = np.lexsort((rows[source], left))
        of_key = np.repeat(np.arange(self.unique.size), self.counts)
        repeated = (hits > 0) & ~alone
        matches = IdMatches(
            left[order],
            rows[source][order],
            np.sort(self.rows[repeated[of_key]]),
            rows[repeated[places]],
        )
        return matches, source[order]


def _id_columns(ids: Ids) -> tuple[list[NDArray[np.integer]], NDArray[np.bool_]]:
    """Return release, brickid, objid as plain arrays, and which rows have an id at all."""
    columns = [np.ma.getdata(column) for column in ids]
    if len(columns) != 3 or any(c.dtype.kind not in "iu" or c.shape != columns[0].shape for c in columns):
        found = [f"{column.dtype} {column.shape}" for column in columns]
        raise DataError(
            f"ids: expected integer release, brickid, objid of one length, (N,) each, found {found}"
        )
    known = (columns[0] > 0) & (columns[1] >= 0) & (columns[2] >= 0)
    for column in ids:
        known &= ~np.ma.getmaskarray(np.ma.asanyarray(column))
    return columns, known


def match_ids(left: Ids, right: Ids | Iterable[Ids], find: Find = "best") -> IdMatches:
    """Join two sets of Legacy Survey objects on (RELEASE, BRICKID, OBJID), exactly.

    An id is unique only as all three. RELEASE 0 or less marks what is not in the Legacy Survey (sky
    fibres, Gaia-only and secondary targets of DESI): such rows, and masked ones, have no id and match
    nothing.

    Parameters
    ----------
    left
        ``(release, brickid, objid)``, (N,) integers each, held in memory.
    right
        The same as a tuple, or an iterable of such tuples; row numbers run on from block to block.
    find
        ``best``: an id that repeats on a side is ambiguous, none of its rows is paired.
        ``all``: every pair of rows with the same id.

    Raises
    ------
    UsageError
        If `find` is unknown.
    DataError
        If the ids are not three integer columns of the same length.

    Notes
    -----
    https://www.legacysurvey.org/dr9/catalogs/: "unique object identifier: RELEASE, BRICKID, OBJID".
    """
    check_search(1.0, find)
    index, offset = IdIndex(left), 0
    rows, places = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for ids in [right] if isinstance(right, tuple) else right:
        found, place = index.look_up(ids)
        rows.append(found + offset)
        places.append(place)
        offset += len(ids[0])
    return index.pair(np.concatenate(rows), np.concatenate(places), find)[0]
