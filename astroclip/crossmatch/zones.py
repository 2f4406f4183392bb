"""The index of a set of positions on the sky, and the compiled loops that search it.

Positions are cut into zones of declination, sorted by right ascension in each (Gray, Nieto-Santisteban &
Szalay 2007, MSR-TR-2006-52). One bit for each cell of the sky says whether a circle around any of them
touches it: most rows that have no partner are dismissed by their bit, in a table that fits the processor's
cache. The others are compared through the chord between unit vectors, exactly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from astroclip.crossmatch.positions import ARCSEC, FloatArray, has_position, unit_vectors

IntArray = NDArray[np.int64]

_MAX_ZONES = 1 << 20
_RA_STEPS = 1 << 32  # of the circle, in a sorting key: 0.3 mas
_BITS_PER_ROW = 64  # two or three of them set: one streamed row in thirty passes by chance


class Index(NamedTuple):
    """The smaller side, ready to be searched."""

    dec_first: float  # deg, where the first zone begins
    zones_per_deg: float
    reach: float  # deg: the radius, and a little for rounding
    max_chord2: float
    keys: IntArray  # (n,) zone and RA, ascending
    starts: IntArray  # (zones + 1,) where each zone begins in keys
    half_widths: FloatArray  # (zones,) in RA, fraction of a turn, of any circle that touches the zone
    vectors: FloatArray  # (n, 4) unit vector, and the row number beside it, as memory is slow
    bits: NDArray[np.uint8]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call. The machine code is kept beside this file, else in the user's cache."""
    try:
        return njit(cache=True)(function)
    except RuntimeError:  # no writable folder for the cache: compile again in each process
        return njit(function)


@_compiled
def _turn(ra):  # type: ignore[no-untyped-def]
    """Return RA (deg) as a fraction of the circle, 0 <= x < 1."""
    x = ra * (1.0 / 360.0)
    x -= np.floor(x)
    return x if x < 1.0 else 0.0


@_compiled
def _cells(zone, dec_first, zones_per_deg):  # type: ignore[no-untyped-def]
    """Return how many cells a zone is cut into: about square ones, as 1 - (dec/90)^2 resembles cos(dec)."""
    u = (dec_first + (zone + 0.5) / zones_per_deg) * (1.0 / 90.0)
    return np.floor(1.0 + 360.0 * zones_per_deg * max(1.0 - u * u, 0.0))


@_compiled
def _bit(zone, cell, n_bits):  # type: ignore[no-untyped-def]
    """Return the bit of a cell, by multiplicative hashing; `n_bits` is a power of two."""
    return (((np.int64(zone) * 0x2545F491 + np.int64(cell)) * 0x1E3779B97F4A7C15) >> 24) & (n_bits - 1)


@_compiled
def _keys(ra, dec, dec_first, zones_per_deg):  # type: ignore[no-untyped-def]
    """Return the sorting keys: zone, then RA."""
    keys = np.empty(ra.size, np.int64)
    for i in range(ra.size):
        keys[i] = int((dec[i] - dec_first) * zones_per_deg) * _RA_STEPS + int(_turn(ra[i]) * _RA_STEPS)
    return keys


@_compiled
def _mark(index, ra, dec):  # type: ignore[no-untyped-def]
    """Set the bits of all cells that a circle around a position touches."""
    bits, half_widths = index.bits, index.half_widths
    n_bits = 8 * bits.size
    for i in range(ra.size):
        x = _turn(ra[i])
        first = int((dec[i] - index.reach - index.dec_first) * index.zones_per_deg)
        last = int((dec[i] + index.reach - index.dec_first) * index.zones_per_deg)
        for zone in range(first, last + 1):
            n = int(_cells(zone, index.dec_first, index.zones_per_deg))
            dx = half_widths[zone]
            low, high = int(np.floor((x - dx) * n)), int(np.floor((x + dx) * n))
            for cell in range(low, min(high, low + n - 1) + 1):
                bit = _bit(zone, cell + n * (cell < 0) - n * (cell >= n), n_bits)
                bits[bit >> 3] |= np.uint8(1 << (bit & 7))


@_compiled
def sift(index, block, near):  # type: ignore[no-untyped-def]
    """List the rows whose bit is set in `near`; return how many, and how many rows have no position.

    Two loops: the first one has neither branches nor look-ups, so that it becomes vector instructions.
    """
    ra, dec = block
    bits = index.bits
    n_bits = 8 * bits.size
    for i in range(ra.size):
        placed = np.isfinite(ra[i]) and abs(dec[i]) <= 90.0
        x, y = (_turn(ra[i]), dec[i]) if placed else (0.0, 0.0)
        zone = np.floor((y - index.dec_first) * index.zones_per_deg)
        cell = x * _cells(zone, index.dec_first, index.zones_per_deg)
        near[i] = _bit(zone, cell, n_bits) if placed else -1
    n = unplaced = 0
    for i in range(ra.size):
        bit = near[i]
        if bit < 0:
            unplaced += 1
        else:
            near[n] = i
            n += (bits[bit >> 3] >> (bit & 7)) & 1
    return n, unplaced


@_compiled
def _first_at_least(keys, begin, end, low):  # type: ignore[no-untyped-def]
    """Return the first place from `begin` to `end` whose key is not below `low`."""
    while begin < end:
        middle = (begin + end) >> 1
        if keys[middle] < low:
            begin = middle + 1
        else:
            end = middle
    return begin


@_compiled
def find_pairs(index, near, first, first_row, buffers):  # type: ignore[no-untyped-def]
    """Write the pairs of near rows, from the `first` on, until the buffers are full.

    Return how many pairs there are, and which row to go on with.
    """
    rows, ra, dec, (px, py, pz) = near
    indexed, streamed, chord2 = buffers
    keys, starts, half_widths, vectors = index.keys, index.starts, index.half_widths, index.vectors
    n = 0
    for i in range(first, rows.size):
        before = n
        x = _turn(ra[i])
        first_zone = max(int(np.floor((dec[i] - index.reach - index.dec_first) * index.zones_per_deg)), 0)
        last_zone = int(np.floor((dec[i] + index.reach - index.dec_first) * index.zones_per_deg))
        for zone in range(first_zone, min(last_zone, starts.size - 2) + 1):
            width = half_widths[zone]
            turns = 0 if width == 1.0 else 1  # RA 0 is crossed by looking one turn back and one on
            for turn in range(-turns, turns + 1):
                low = zone * _RA_STEPS + max(int((x - width + turn) * _RA_STEPS), 0)
                high = zone * _RA_STEPS + min(int((x + width + turn) * _RA_STEPS), _RA_STEPS - 1)
                if low > high:
                    continue
                k, end = _first_at_least(keys, starts[zone], starts[zone + 1], low), starts[zone + 1]
                while k < end and keys[k] <= high:
                    dx, dy, dz = px[i] - vectors[k, 0], py[i] - vectors[k, 1], pz[i] - vectors[k, 2]
                    c2 = dx * dx + dy * dy + dz * dz
                    if c2 <= index.max_chord2:
                        if n == chord2.size:
                            return before, i
                        indexed[n], streamed[n], chord2[n] = int(vectors[k, 3]), first_row + rows[i], c2
                        n += 1
                    k += 1
    return n, rows.size


@_compiled
def keep_best(pairs, bests):  # type: ignore[no-untyped-def]
    """Note for each indexed row its nearest streamed row so far, and whether that is mutual."""
    indexed, streamed, chord2 = pairs
    best, best_chord2, mutual = bests
    start = 0
    while start < indexed.size:
        end, nearest = start, start
        while end < indexed.size and streamed[end] == streamed[start]:
            tie = chord2[end] == chord2[nearest] and indexed[end] < indexed[nearest]
            if chord2[end] < chord2[nearest] or tie:
                nearest = end
            end += 1
        for pair in range(start, end):
            if chord2[pair] < best_chord2[indexed[pair]]:
                best[indexed[pair]], best_chord2[indexed[pair]] = streamed[pair], chord2[pair]
                mutual[indexed[pair]] = pair == nearest
        start = end


def _half_widths(farthest: FloatArray, reach: float) -> FloatArray:
    """Return how far in RA (fraction of a turn) circles extend up to a declination; 1.0: all around."""
    over_pole = farthest + reach >= 90.0
    sine = np.sin(np.radians(reach)) / np.cos(np.radians(np.where(over_pole, 0.0, farthest)))
    widths = np.arcsin(np.minimum(sine, 1.0)) / (2.0 * np.pi) + 1e-9
    return np.where(over_pole | (widths > 0.49), 1.0, widths)


def build_index(ra: FloatArray, dec: FloatArray, radius_arcsec: float) -> Index:
    """Sort the usable positions into zones and mark the cells around them."""
    rows = np.flatnonzero(has_position(ra, dec))
    if rows.size < ra.size:
        ra, dec = ra[rows], dec[rows]
    reach = radius_arcsec / 3600.0 * (1.0 + 1e-9) + 1e-10
    low, high = (dec.min() - reach, dec.max() + reach) if rows.size else (0.0, 0.0)
    zones_per_deg = 1.0 / max(4.0 * reach, (high - low) / _MAX_ZONES)
    n_zones = int((high - low) * zones_per_deg) + 1
    edges = np.abs(low + np.arange(n_zones + 1) / zones_per_deg)
    half_widths = _half_widths(np.maximum(edges[:-1], edges[1:]) + reach, reach)
    keys = _keys(ra, dec, low, zones_per_deg)
    order = np.argsort(keys)
    keys = keys[order]
    vectors = np.empty((rows.size, 4))
    for start in range(0, rows.size, 1 << 16):  # no copies of all rows
        part = order[start : start + (1 << 16)]
        vectors[start : start + part.size, :3] = unit_vectors(ra[part], dec[part]).T
        vectors[start : start + part.size, 3] = rows[part]
    index = Index(
        dec_first=low,
        zones_per_deg=zones_per_deg,
        reach=reach,
        max_chord2=float(2.0 * np.sin(0.5 * radius_arcsec * ARCSEC)) ** 2,
        keys=keys,
        starts=np.searchsorted(keys, np.arange(n_zones + 1) * _RA_STEPS),
        half_widths=half_widths,
        vectors=vectors,
        bits=np.zeros(max(1 << (_BITS_PER_ROW * rows.size).bit_length(), 1 << 16) // 8, np.uint8),
    )
    _mark(index, ra, dec)
    return index
