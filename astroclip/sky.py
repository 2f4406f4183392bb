"""Positions on the sky: angles, and which rows lie near which, at the poles and across RA 0 too.

`match_sky` pairs two sets of positions, `match_nearest` finds for each position the nearest one of a set.
Both search one index: positions cut into zones of declination, sorted by right ascension in each (Gray,
Nieto-Santisteban & Szalay 2007, MSR-TR-2006-52). One bit for each cell of the sky says whether a circle
around any of them touches it: most rows that have no partner are dismissed by their bit, in a table that fits
the processor's cache. The others are compared through the chord between unit vectors, exactly.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from astroclip.errors import DataError, UsageError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Positions = tuple[ArrayLike, ArrayLike]  # ra, dec in deg, (N,) each
Side = Positions | Iterable[Positions]  # all at once, or in blocks
Find = Literal["best", "all"]

ARCSEC = np.pi / (180.0 * 3600.0)  # rad
MAX_RADIUS_ARCSEC = 90.0 * 3600.0

# --- angles ---


def floats(values: ArrayLike) -> FloatArray:
    """Return native, contiguous, writable float64, without a copy if it is; a masked value becomes NaN."""
    if np.ma.isMaskedArray(values):
        return np.ma.array(values, np.float64).filled(np.nan)
    return np.require(values, np.float64, ["C", "W"])


def has_position(ra: FloatArray, dec: FloatArray) -> NDArray[np.bool_]:
    """Say which rows lie on the sky: RA finite (any turn of the circle), Dec within -90 to 90 deg."""
    return np.isfinite(ra) & (np.abs(dec) <= 90.0)


def unit_vectors(ra: FloatArray, dec: FloatArray) -> FloatArray:
    """Return the unit vectors (3, ...) of positions in deg."""
    lon, lat = np.radians(ra), np.radians(dec)
    cos_lat = np.cos(lat)
    return np.stack([cos_lat * np.cos(lon), cos_lat * np.sin(lon), np.sin(lat)])


def separation_arcsec(ra1: ArrayLike, dec1: ArrayLike, ra2: ArrayLike, dec2: ArrayLike) -> FloatArray:
    """Return the angle between positions in deg, row by row: (N,) arcsec, NaN where a coordinate is missing.

    From the chord and its complement, ``2 atan2(|a - b|, |a + b|)``: good to 1e-9 arcsec from 0 to 180 deg.
    RA may lie on any turn of the circle; a single position is compared with all rows.
    """
    ra1, dec1, ra2, dec2 = np.broadcast_arrays(*map(floats, (ra1, dec1, ra2, dec2)))
    a, b = unit_vectors(ra1, dec1), unit_vectors(ra2, dec2)
    chord, complement = np.sqrt(((a - b) ** 2).sum(axis=0)), np.sqrt(((a + b) ** 2).sum(axis=0))
    return 2.0 * np.arctan2(chord, complement) / ARCSEC


# --- the index ---

_MAX_ZONES = 1 << 20
_RA_STEPS = 1 << 32  # of the circle, in a sorting key: 0.3 mas
_BITS_PER_ROW = 64  # two or three of them set: one streamed row in thirty passes by chance
_ROWS = 1 << 17  # of the streamed side at a time: its two columns stay in the processor's cache


class SkyIndex(NamedTuple):
    """Positions ready to be searched within one radius; 50 bytes a row (use `build_index`)."""

    dec_first: float  # deg, where the first zone begins
    zones_per_deg: float
    reach: float  # deg: the radius, and a little for rounding
    max_chord2: float
    keys: IntArray  # (n,) zone and RA of the rows with a position, ascending
    starts: IntArray  # (zones + 1,) where each zone begins in keys
    half_widths: FloatArray  # (zones,) in RA, fraction of a turn, of any circle that touches the zone
    vectors: FloatArray  # (n, 4) unit vector, and the row number beside it, as memory is slow
    bits: NDArray[np.uint8]


def build_index(ra: ArrayLike, dec: ArrayLike, radius_arcsec: float) -> SkyIndex:
    """Sort the usable positions, (N,) deg, into zones and mark the cells around them."""
    ra, dec = _whole((ra, dec))
    rows = np.flatnonzero(has_position(ra, dec))
    if rows.size < ra.size:
        ra, dec = ra[rows], dec[rows]
    reach = radius_arcsec / 3600.0 * (1.0 + 1e-9) + 1e-10
    low, high = (dec.min() - reach, dec.max() + reach) if rows.size else (0.0, 0.0)
    zones_per_deg = 1.0 / max(4.0 * reach, (high - low) / _MAX_ZONES)
    n_zones = int((high - low) * zones_per_deg) + 1
    edges = np.abs(low + np.arange(n_zones + 1) / zones_per_deg)
    keys = _keys(ra, dec, low, zones_per_deg)
    order = np.argsort(keys)
    keys = keys[order]
    vectors = np.empty((rows.size, 4))
    for start in range(0, rows.size, 1 << 16):  # no copies of all rows
        part = order[start : start + (1 << 16)]
        vectors[start : start + part.size, :3] = unit_vectors(ra[part], dec[part]).T
        vectors[start : start + part.size, 3] = rows[part]
    index = SkyIndex(
        dec_first=low,
        zones_per_deg=zones_per_deg,
        reach=reach,
        max_chord2=float(2.0 * np.sin(0.5 * radius_arcsec * ARCSEC)) ** 2,
        keys=keys,
        starts=np.searchsorted(keys, np.arange(n_zones + 1) * _RA_STEPS),
        half_widths=_half_widths(np.maximum(edges[:-1], edges[1:]) + reach, reach),
        vectors=vectors,
        bits=np.zeros(max(1 << (_BITS_PER_ROW * rows.size).bit_length(), 1 << 16) // 8, np.uint8),
    )
    _mark(index, ra, dec)
    return index


def _half_widths(farthest: FloatArray, reach: float) -> FloatArray:
    """Return how far in RA (fraction of a turn) circles extend up to a declination; 1.0: all around."""
    over_pole = farthest + reach >= 90.0
    sine = np.sin(np.radians(reach)) / np.cos(np.radians(np.where(over_pole, 0.0, farthest)))
    widths = np.arcsin(np.minimum(sine, 1.0)) / (2.0 * np.pi) + 1e-9
    return np.where(over_pole | (widths > 0.49), 1.0, widths)


# --- the compiled loops that search it ---


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
    """List the rows whose bit is set in `near`; return how many."""
    (ra, dec), bits = block, index.bits
    n_bits = 8 * bits.size
    for i in range(ra.size):  # neither branches nor look-ups: it becomes vector instructions
        placed = np.isfinite(ra[i]) and abs(dec[i]) <= 90.0
        x, y = (_turn(ra[i]), dec[i]) if placed else (0.0, 0.0)
        zone = np.floor((y - index.dec_first) * index.zones_per_deg)
        cell = x * _cells(zone, index.dec_first, index.zones_per_deg)
        near[i] = _bit(zone, cell, n_bits) if placed else -1
    n = 0
    for i in range(ra.size):
        bit = near[i]
        if bit >= 0:
            near[n] = i
            n += (bits[bit >> 3] >> (bit & 7)) & 1
    return n


@_compiled
def _find_pairs(index, near, first, first_row, buffers):  # type: ignore[no-untyped-def]
    """Write the pairs of near rows, from the `first` on; return how many, and the row that found no room."""
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
                k, end = starts[zone], starts[zone + 1]
                k += np.searchsorted(keys[k:end], low)
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
def _nearest(indexed, streamed, chord2):  # type: ignore[no-untyped-def]
    """Say which pair is the nearest of its streamed row; of several, that with the smaller indexed row."""
    nearest = np.zeros(indexed.size, np.bool_)
    best = 0
    for pair in range(indexed.size):
        if streamed[pair] != streamed[best]:
            best = pair
        closer = chord2[pair] < chord2[best]
        if closer or (chord2[pair] == chord2[best] and indexed[pair] <= indexed[best]):
            nearest[best], nearest[pair], best = False, True, pair
    return nearest


@_compiled
def _keep_best(pairs, bests):  # type: ignore[no-untyped-def]
    """Note for each indexed row its nearest streamed row so far, and whether that is mutual."""
    best, best_chord2, mutual = bests
    nearest = _nearest(*pairs)
    for pair, (row, streamed, chord2) in enumerate(zip(*pairs)):  # noqa: B905 - not in compiled loops
        if chord2 < best_chord2[row]:
            best[row], best_chord2[row], mutual[row] = streamed, chord2, nearest[pair]


# --- matching ---


class Matches(NamedTuple):
    """Pairs of row numbers, sorted by `left`, then `right`; (M,) each."""

    left: IntArray
    right: IntArray
    separation_arcsec: FloatArray


class Nearest(NamedTuple):
    """Of each position the nearest row (-1: none), how far it is (NaN: none), whether several are near."""

    row: IntArray
    separation_arcsec: FloatArray
    several: NDArray[np.bool_]


def match_sky(left: Side, right: Side, radius_arcsec: float, find: Find = "best") -> Matches:
    """Match two sets of positions on the sky, exactly, at the poles and across RA 0 too.

    One side is sorted in memory, the other read once, block by block: of two sides given as arrays the
    shorter one is sorted; a side given as an iterable of blocks is streamed (of two such, the left one is
    first read into memory). Which it is does not change the result, nor does the cutting into blocks.

    Parameters
    ----------
    left, right
        ``(ra, dec)``, a *tuple* of two (N,) columns in deg, or an iterable of such tuples; row numbers run
        on from block to block. RA may lie on any turn of the circle. A row whose position is NaN, infinite,
        masked, or beyond 90 deg of declination matches nothing.
    radius_arcsec
        Largest separation, inclusive; at most 90 deg.
    find
        ``best``: pairs in which each is the nearest to the other; of several at equal separation the one
        with the smaller row number counts as nearest. Stricter in crowds than ``find=best`` of STILTS, which
        goes on to pair those whose nearest is taken: it is what ``best1`` and ``best2`` have in common.
        ``all``: every pair within the radius.
    """
    check_search(radius_arcsec, find)
    swap = isinstance(right, tuple) and not (isinstance(left, tuple) and len(left[0]) <= len(right[0]))
    small, stream = (right, left) if swap else (left, right)
    ra, dec = _whole(small)
    pairs = _iterate_pairs(build_index(ra, dec, radius_arcsec), stream)
    if find == "best":
        best, best_chord2 = np.empty(ra.size, np.int64), np.full(ra.size, np.inf)
        mutual = np.zeros(ra.size, np.bool_)
        for buffers in pairs:
            _keep_best(buffers, (best, best_chord2, mutual))
        indexed = np.flatnonzero(mutual)
        streamed, chord2 = best[indexed], best_chord2[indexed]
    else:
        indexed, streamed, chord2 = _join([tuple(part.copy() for part in buffers) for buffers in pairs])
    left_rows, right_rows = (streamed, indexed) if swap else (indexed, streamed)
    order = np.argsort(left_rows) if find == "best" else np.lexsort((right_rows, left_rows))
    return Matches(left_rows[order], right_rows[order], _to_arcsec(chord2[order]))


def match_nearest(left: Positions, right: Positions | SkyIndex, radius_arcsec: float) -> Nearest:
    """Find for each left position the nearest right one within the radius, of equal ones the first.

    Several left rows may have the same nearest one. `right` may be an index, made for this radius once.
    """
    check_search(radius_arcsec)
    index = right if isinstance(right, SkyIndex) else build_index(*right, radius_arcsec)
    pairs = _iterate_pairs(index, left)
    indexed, streamed, chord2 = _join([tuple(part.copy() for part in buffers) for buffers in pairs])
    nearest = _nearest(indexed, streamed, chord2)
    n = np.size(left[0])
    row, separation = np.full(n, -1), np.full(n, np.nan)
    row[streamed[nearest]], separation[streamed[nearest]] = indexed[nearest], _to_arcsec(chord2[nearest])
    return Nearest(row, separation, np.bincount(streamed, minlength=n) > 1)


def check_search(radius_arcsec: float, find: str = "best") -> None:
    """Refuse a radius that is not positive or beyond 90 deg, and what is neither ``best`` nor ``all``."""
    if not 0.0 < radius_arcsec <= MAX_RADIUS_ARCSEC:
        raise UsageError(f"radius_arcsec is {radius_arcsec}: expected 0 < radius <= {MAX_RADIUS_ARCSEC:g}")
    if find not in ("best", "all"):
        raise UsageError(f"find is {find!r}: expected 'best' or 'all'")


def _iterate_blocks(side: Side) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield a side as short native float64 blocks; refuse what are not two columns."""
    for number, block in enumerate([side] if isinstance(side, tuple) else side):
        shapes = [np.shape(column) for column in block]
        if len(shapes) != 2 or shapes[0] != shapes[1] or len(shapes[0]) != 1:
            raise DataError(f"positions, block {number}: expected ra, dec of one length, found {shapes}")
        ra, dec = block
        for start in range(0, shapes[0][0], _ROWS):
            yield floats(ra[start : start + _ROWS]), floats(dec[start : start + _ROWS])


def _whole(side: Side) -> tuple[FloatArray, FloatArray]:
    """Return all of a side as two arrays."""
    if isinstance(side, tuple) and all(isinstance(column, np.ndarray) for column in side):
        next(_iterate_blocks(side), None)  # refuses what are not two columns
        return floats(side[0]), floats(side[1])
    ra, dec = zip((np.empty(0), np.empty(0)), *_iterate_blocks(side), strict=True)
    return np.concatenate(ra), np.concatenate(dec)


SkyPairs = tuple[IntArray, IntArray, FloatArray]  # indexed row, streamed row, squared chord


def _pairs_of(size: int) -> SkyPairs:
    """Return room for pairs."""
    return np.empty(size, np.int64), np.empty(size, np.int64), np.empty(size)


def _iterate_pairs(index: SkyIndex, stream: Side) -> Iterator[SkyPairs]:
    """Yield the pairs, a buffer at a time, all of a streamed row together."""
    near, buffers, first_row = np.empty(_ROWS, np.int64), _pairs_of(_ROWS), 0
    for block in _iterate_blocks(stream):
        n_near = sift(index, block, near)
        rows = near[:n_near]
        ra, dec = (column[rows] for column in block)
        begin, vectors = 0, tuple(unit_vectors(ra, dec))
        while begin < n_near:
            n, end = _find_pairs(index, (rows, ra, dec, vectors), begin, first_row, buffers)
            if end == begin:  # one row alone has more pairs than fit
                buffers = _pairs_of(2 * buffers[0].size)
            indexed, streamed, chord2 = buffers
            yield indexed[:n], streamed[:n], chord2[:n]
            begin = end
        first_row += block[0].size


def _join(pairs: list[tuple[NDArray[Any], ...]]) -> SkyPairs:
    """Return all pairs as one."""
    indexed, streamed, chord2 = zip(_pairs_of(0), *pairs, strict=True)
    return np.concatenate(indexed), np.concatenate(streamed), np.concatenate(chord2)


def _to_arcsec(chord2: FloatArray) -> FloatArray:
    """Return the angles of squared chords between unit vectors."""
    return 2.0 * np.arcsin(np.minimum(0.5 * np.sqrt(chord2), 1.0)) / ARCSEC
