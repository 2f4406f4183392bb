"""Positions on the sky: which of these lie within a radius of which of those.

Candidates come from a strip in declination, so the poles and the wrap of right ascension need no care.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.lookup import choose_best, expand_ranges

__all__ = ["Pairs", "choose_best", "expand_ranges", "pairs_within", "separation_deg", "unit_vectors"]
PAIRS_AT_ONCE = 2_000_000  # bounds the memory of a crowded strip


class Pairs(NamedTuple):
    """Pairs of positions: `row` in the first list, `ref` in the second, `separation` in degrees."""

    row: NDArray[np.int64]
    ref: NDArray[np.int64]
    separation: NDArray[np.float64]


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return positions in degrees as unit vectors, (n, 3)."""
    lon, lat = (np.radians(np.atleast_1d(np.asarray(angle, float))) for angle in (ra, dec))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def separation_deg(u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angle between unit vectors in degrees, accurate at small angles."""
    chord = np.linalg.norm(u - v, axis=-1)
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def pairs_within(
    ra: ArrayLike, dec: ArrayLike, ra_ref: ArrayLike, dec_ref: ArrayLike, radius_deg: ArrayLike
) -> Pairs:
    """Return all pairs of a position and a reference position no further apart than the reference's radius.

    Parameters
    ----------
    ra, dec
        Positions, (n,), ICRS degrees. One that is not finite pairs with nothing.
    ra_ref, dec_ref
        Reference positions, (m,), ICRS degrees, the same.
    radius_deg
        One radius, or one a reference, (m,).

    Returns
    -------
    Pairs
        Sorted by row.
    """
    u, v = unit_vectors(ra, dec), unit_vectors(ra_ref, dec_ref)
    radius = np.broadcast_to(np.asarray(radius_deg, float), len(v))
    rows = np.flatnonzero(np.isfinite(u).all(axis=1))
    refs = np.flatnonzero(np.isfinite(v).all(axis=1) & np.isfinite(radius))
    refs = refs[np.argsort(np.asarray(dec_ref, float)[refs], kind="stable")]
    reach = radius[refs].max(initial=0) + 1e-9  # deg; rounding must not lose a pair at the very edge
    dec_rows = np.atleast_1d(np.asarray(dec, float))[rows]
    dec_refs = np.asarray(dec_ref, float)[refs]
    low = np.searchsorted(dec_refs, dec_rows - reach, side="left")
    count = np.searchsorted(dec_refs, dec_rows + reach, side="right") - low
    block = np.cumsum(count) // PAIRS_AT_ONCE
    found = []
    for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(block)) + 1):
        row, candidate = expand_ranges(low[part], count[part])
        row, ref = rows[part[row]], refs[candidate]
        separation = separation_deg(u[row], v[ref])
        near = separation <= radius[ref]
        found.append(Pairs(row[near], ref[near], separation[near]))
    return Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
