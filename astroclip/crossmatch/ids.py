"""Match objects of the Legacy Survey by identity: an exact join on (RELEASE, BRICKID, OBJID)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.lookup import BRICK
from astroclip.data.targetid import decode_targetid, encode_targetid
from astroclip.schema import TARGETID
from astroclip.sky import Find, IntArray
from astroclip.tables.identity import Who


class IdMatches(NamedTuple):
    """Pairs of row numbers with the same id, sorted by `left`, then `right`; (M,) each.

    `repeated_left`: the rows whose id is on both sides, but more than once on one.
    """

    left: IntArray
    right: IntArray
    repeated_left: IntArray


def find_sources(who: Who) -> IntArray:
    """Return one number for the Legacy Survey source that each row is, (n,); -1 where it is none or unknown.

    It stands for RELEASE, BRICKID and OBJID, which are unique only as all three (see `encode_targetid`); a
    TARGETID tells them too, in a table without these columns. RELEASE 0 or less marks what is not in the
    Legacy Survey: sky fibres, Gaia-only and secondary targets of DESI.

    Notes
    -----
    https://www.legacysurvey.org/dr9/catalogs/: "unique object identifier: RELEASE, BRICKID, OBJID".
    """
    if all(name in who.ids for name in BRICK):
        return encode_targetid(*(who.ids[name] for name in BRICK))
    if TARGETID in who.ids:
        return encode_targetid(*decode_targetid(who.ids[TARGETID]))
    return np.full(len(who.ra), -1)


class SourceIndex:
    """The sources of the left side, sorted, in which those of other rows are looked up."""

    def __init__(self, sources: IntArray) -> None:
        known = np.flatnonzero(sources >= 0)
        order = np.argsort(sources[known], kind="stable")
        self.rows = known[order]
        self.unique, self.first, self.counts = np.unique(
            sources[self.rows], return_index=True, return_counts=True
        )

    def look_up(self, sources: IntArray) -> tuple[IntArray, IntArray]:
        """Return the rows whose source the left side has, and its place among the left's sources."""
        if not self.unique.size:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        rows = np.flatnonzero((sources >= self.unique[0]) & (sources <= self.unique[-1]))
        place = np.searchsorted(self.unique, sources[rows])
        same = np.flatnonzero(self.unique[place] == sources[rows])
        return rows[same], place[same]

    def pair(self, rows: IntArray, places: IntArray, find: Find) -> tuple[IdMatches, NDArray[np.int64]]:
        """Pair what was looked up in all blocks; also return which look-up each pair came from.

        ``best``: an id that repeats on a side is ambiguous, none of its rows is paired. ``all``: every pair.
        """
        hits = np.bincount(places, minlength=self.unique.size)
        alone = (self.counts == 1) & (hits == 1)
        taken = np.flatnonzero(alone[places] | (find == "all"))
        n_left = self.counts[places[taken]]
        source = np.repeat(taken, n_left)
        step = np.arange(source.size) - np.repeat(np.cumsum(n_left) - n_left, n_left)
        left = self.rows[self.first[places[source]] + step]
        order = np.lexsort((rows[source], left))
        repeated = np.repeat((hits > 0) & ~alone, self.counts)
        return IdMatches(left[order], rows[source][order], np.sort(self.rows[repeated])), source[order]
