"""Rows of a set of pixels found by identifiers or by position: one index for images and spectra."""

from collections.abc import Iterator, Mapping
from pathlib import PurePath

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.pixels import How, Match
from astroclip.data.targetid import encode_targetid
from astroclip.schema import TARGETID
from astroclip.sky import match_nearest
from astroclip.tables.identity import Who

BRICK = ("RELEASE", "BRICKID", "OBJID")
FIBER = ("PLATE", "MJD", "FIBERID")
CATALOGID, OBJECT_ID, FILE = "CATALOGID", "OBJECT_ID", "FILE"
# what tells rows of one identifier apart, where both the row and the pixels have it
NARROWED_BY = {TARGETID: ("SURVEY", "PROGRAM", "HEALPIX"), CATALOGID: ("FIELD", "MJD")}
Values = NDArray[np.int64] | NDArray[np.str_]


class RowLookup:
    """An index of N rows of pixels by identifiers and by position.

    It holds a sorted copy of both: 28 bytes a row where an identifier is a number (2.1 GB for the 76 million
    cut-outs of Stein et al.), and twice that while it is built. To match a larger table with such a survey,
    stream the survey's blocks instead.

    Parameters
    ----------
    ids
        (N,) each, by the names of `Who.ids`: numbers, -1 where missing; texts, "" where missing. Rows are
        found by TARGETID, or RELEASE, BRICKID, OBJID, which it encodes; by PLATE, MJD, FIBERID; by CATALOGID;
        by OBJECT_ID; by the name in FILE, whatever folders come before it: the first of these that finds
        something. SURVEY, PROGRAM and HEALPIX tell rows of one TARGETID apart, FIELD and MJD those of one
        CATALOGID, where neither side's value is missing.
    ra, dec
        (N,) ICRS degrees; a row whose position is not finite is found by its identifiers only. Without them
        all are.
    """

    def __init__(
        self, ids: Mapping[str, NDArray], ra: ArrayLike | None = None, dec: ArrayLike | None = None
    ) -> None:
        self.keys: dict[str, tuple[Values, NDArray[np.int32]]] = {}
        for name, values in _keys(ids):
            if name not in self.keys:
                order = np.argsort(values, kind="stable").astype(np.int32)
                self.keys[name] = values[order], order
        self._narrow = {name: ids[name] for by in NARROWED_BY.values() for name in by if name in ids}
        dec = np.zeros(0) if dec is None else np.asarray(dec, float)
        self._by_dec = np.argsort(dec, kind="stable").astype(np.int32)  # NaN comes last
        self._dec = dec[self._by_dec]
        self._ra = np.asarray(ra, float)[self._by_dec] if len(dec) else np.zeros(0)

    def has_key(self, who: Who) -> NDArray[np.bool_]:
        """Say which galaxies have an identifier of a kind that the index has, (n,)."""
        has = np.zeros(len(who.ra), bool)
        for name, wanted in _keys(who.ids):
            if name in self.keys:
                has |= wanted != ("" if wanted.dtype.kind == "U" else -1)
        return has

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:
        """Find a row for each galaxy: by its identifiers in turn, else the nearest within the radius.

        Of several rows with one identifier the first is taken; these, and positions with several rows within
        the radius, are `ambiguous`.
        """
        n = len(who.ra)
        match = Match(np.full(n, -1), np.full(n, How.NONE, np.int8), np.zeros(n, bool))
        for name, wanted in _keys(who.ids):
            if name in self.keys:
                _fill(match, How.ID, *self._find_key(name, wanted, who.ids))
        todo = np.flatnonzero((match.row < 0) & np.isfinite(who.ra) & np.isfinite(who.dec))
        if len(todo) and len(self._dec) and radius_arcsec > 0:
            _fill(match, How.CENTRE, *self._find_position(who.ra, who.dec, todo, radius_arcsec))
        return match

    def _find_key(
        self, name: str, wanted: Values, ids: Mapping[str, NDArray]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return for each key the first row that has it (-1: none), and whether several have it."""
        keys, order = self.keys[name]
        unique, inverse = np.unique(wanted, return_inverse=True)  # ascending keys: 10 times faster to search
        low = np.searchsorted(keys, unique, side="left")
        count = np.searchsorted(keys, unique, side="right") - low
        count[unique == ("" if unique.dtype.kind == "U" else -1)] = 0
        query, place = expand_ranges(low[inverse], count[inverse])
        row = order[place].astype(np.int64)
        for other in NARROWED_BY.get(name, ()):
            if other in ids and other in self._narrow:
                mine, have = ids[other][query], self._narrow[other][row]
                missing = "" if mine.dtype.kind == "U" else -1
                agrees = (mine == have) | (mine == missing) | (have == missing)
                query, row = query[agrees], row[agrees]
        return choose_best(len(wanted), query, row, np.zeros(len(row)))

    def _find_position(
        self, ra: NDArray, dec: NDArray, rows: NDArray[np.int64], radius_arcsec: float
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return for some positions the nearest row within the radius (-1: none), and whether several are."""
        near = self._strips(dec[rows], radius_arcsec / 3600 + 1e-9)  # deg; rounding must not lose a pair
        nearest = match_nearest((ra[rows], dec[rows]), (self._ra[near], self._dec[near]), radius_arcsec)
        best, several = np.full(len(ra), -1, np.int64), np.zeros(len(ra), bool)
        best[rows] = np.where(nearest.row >= 0, np.append(self._by_dec[near], -1)[nearest.row], -1)
        several[rows] = nearest.several
        return best, several

    def _strips(self, dec: NDArray[np.float64], reach: float) -> NDArray[np.int64]:
        """Return the places in dec order that lie within `reach` of one of the declinations, each once."""
        centre = np.sort(dec)
        low = np.searchsorted(self._dec, centre - reach, side="left")
        high = np.searchsorted(self._dec, centre + reach, side="right")
        low[1:] = np.maximum(low[1:], high[:-1])  # strips in rising order: each begins where the last ended
        return expand_ranges(low, np.maximum(high - low, 0))[1]


def expand_ranges(
    start: NDArray[np.int64], count: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (owner, member) of the ranges ``start[i] .. start[i] + count[i] - 1``, in order."""
    owner = np.repeat(np.arange(len(start)), count)
    before = np.cumsum(count) - count
    return owner, np.arange(len(owner)) - np.repeat(before - start, count)


def choose_best(
    n: int, row: NDArray[np.int64], candidate: NDArray[np.int64], cost: NDArray
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Choose for each of `n` rows the candidate of least cost, the first one where costs are equal.

    Returns
    -------
    best
        (n,) candidates, -1 for a row without one.
    several
        (n,) whether a row had more than one candidate.
    """
    order = np.lexsort((candidate, cost, row))
    best = np.full(n, -1, np.int64)
    best[row[order[::-1]]] = candidate[order[::-1]]  # of equal indices the last assignment stays
    return best, np.bincount(row, minlength=n) > 1


def _keys(ids: Mapping[str, NDArray]) -> Iterator[tuple[str, Values]]:
    """Yield kinds of identifier, and their values: one number, or text, a row."""
    if TARGETID in ids:
        yield TARGETID, np.asarray(ids[TARGETID], np.int64)
    if all(name in ids for name in BRICK):
        yield TARGETID, encode_targetid(*(ids[name] for name in BRICK))
    if all(name in ids for name in FIBER):
        parts = np.array([ids[name] for name in FIBER], np.int64).reshape(3, -1)
        packed = (parts[0] * 100_000 + parts[1]) * 100_000 + parts[2]
        yield "-".join(FIBER), np.where((parts < 0).any(axis=0), -1, packed)
    if CATALOGID in ids:
        yield CATALOGID, np.asarray(ids[CATALOGID], np.int64)
    if OBJECT_ID in ids:
        yield OBJECT_ID, np.asarray(ids[OBJECT_ID], str)
    if FILE in ids:
        yield FILE, np.array([PurePath(name).name for name in ids[FILE]], str)


def _fill(match: Match, how: How, row: NDArray[np.int64], several: NDArray[np.bool_]) -> None:
    """Give rows that have no pixels yet what another way of matching found for them, in place."""
    new = (match.row < 0) & (row >= 0)
    match.row[new], match.how[new], match.ambiguous[new] = row[new], how, several[new]
