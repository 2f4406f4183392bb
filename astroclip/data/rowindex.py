"""Rows of a large table found by key or by position, in memory.

The index holds a sorted copy of both: 32 bytes a row where a key is 8 bytes (2.4 GB for the 76 million
cut-outs of Stein et al.), and twice that while it is built. To match a larger table with such a survey,
stream the survey's blocks instead.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.legacysurvey import How, ImageMatch, fill_match
from astroclip.data.lookup import choose_best
from astroclip.sky import match_sky


class RowIndex:
    """An index of N rows by key and by position.

    Parameters
    ----------
    keys
        (N,) identifiers; the value `no_key` means that a row has none.
    ra, dec
        (N,) ICRS degrees; a row whose position is not finite is found by its key only.
    no_key
        The value of a missing key.
    """

    def __init__(self, keys: NDArray, ra: ArrayLike, dec: ArrayLike, no_key: int | bytes) -> None:
        self._no_key = no_key
        self._by_key = np.argsort(keys, kind="stable").astype(np.int32)
        self._keys = keys[self._by_key]
        dec = np.asarray(dec, float)
        self._by_dec = np.argsort(dec, kind="stable").astype(np.int32)  # NaN comes last
        self._dec, self._ra = dec[self._by_dec], np.asarray(ra, float)[self._by_dec]

    def find_key(self, wanted: NDArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return for each key the first row that has it (-1: none), and whether several have it."""
        low = np.searchsorted(self._keys, wanted, side="left")
        count = np.searchsorted(self._keys, wanted, side="right") - low
        count[wanted == self._no_key] = 0
        first = np.append(self._by_key, -1)[np.minimum(low, len(self._keys))]
        return np.where(count > 0, first, -1).astype(np.int64), count > 1

    def find_position(
        self, ra: ArrayLike, dec: ArrayLike, radius_arcsec: float
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return for each position the nearest row within the radius (-1: none), and whether several are."""
        ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        near = self._strips(dec, radius_arcsec / 3600 + 1e-9)  # deg; rounding must not lose a pair
        pairs = match_sky((ra, dec), (self._ra[near], self._dec[near]), radius_arcsec, "all")
        rows = self._by_dec[near[pairs.right]].astype(np.int64)
        return choose_best(len(ra), pairs.left, rows, pairs.separation_arcsec)

    def match(self, kinds: list[NDArray], ra: ArrayLike, dec: ArrayLike, radius_arcsec: float) -> ImageMatch:
        """Find rows by each kind of key in turn, else by position; `ImageMatch.file` is then the row."""
        n = np.size(ra)
        match = ImageMatch(np.full(n, -1), np.full(n, How.NONE, np.int8), np.zeros(n, bool))
        for wanted in kinds:
            fill_match(match, How.ID, *self.find_key(wanted))
        if radius_arcsec > 0:
            fill_match(match, How.CENTRE, *self.find_position(ra, dec, radius_arcsec))
        return match

    def _strips(self, dec: NDArray[np.float64], reach: float) -> NDArray[np.int64]:
        """Return the places in dec order that lie within `reach` of one of the declinations, each once."""
        centre = np.sort(dec[np.isfinite(dec)])
        low = np.searchsorted(self._dec, centre - reach, side="left")
        high = np.searchsorted(self._dec, centre + reach, side="right")
        low[1:] = np.maximum(low[1:], high[:-1])  # strips in rising order: each begins where the last ended
        parts = [np.arange(a, b) for a, b in zip(low, high, strict=True) if b > a]
        return np.concatenate([*parts, np.zeros(0, np.int64)])
