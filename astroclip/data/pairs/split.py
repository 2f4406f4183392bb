"""Which galaxies train, validate and test: a split by HEALPix pixel, so that the parts share no sky."""

from typing import NamedTuple

import healpy
import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.errors import DataError, UsageError
from astroclip.schema import Split

_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the step of SplitMix64
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class SplitSettings(NamedTuple):
    """How a pairs file is split: fractions of the sky in train, validation, test; pixel size; seed.

    The default pixels (nside 32, 3.4 deg²) each hold 4 of DESI's nside 64 pixels, so all of a coadd file is
    in one part, and the 20 rosettes of the early release still fall on some 100 of them.
    """

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    nside: int = 32
    seed: int = 0


def split_by_healpix(
    ra: ArrayLike,
    dec: ArrayLike,
    fractions: tuple[float, float, float] = SplitSettings().fractions,
    nside: int = SplitSettings().nside,
    seed: int = SplitSettings().seed,
) -> NDArray[np.uint8]:
    """Split positions into train, validation and test so that no HEALPix pixel is in two of them.

    A pixel's part depends on its number and the seed alone: more galaxies, or others, change nothing for
    those that are there, in any version of this program. The fractions hold for pixels, so those of galaxies
    scatter with the number of pixels. Stamps within 20 arcsec of a pixel's border may still show some sky of
    the next part.

    Parameters
    ----------
    ra, dec
        Positions, (n,), ICRS degrees. One that is not finite is in no part (`Split.NONE`).
    fractions
        Of the pixels in train, validation, test; their sum is 1.
    nside
        Of the pixels, nested numbering: a power of two.
    seed
        0 to 2^63 - 1.

    Returns
    -------
    ndarray
        `Split` values, (n,) uint8.

    Raises
    ------
    UsageError
        If fractions, nside or seed make no sense.
    DataError
        If a declination is beyond ±90.
    """
    check_split(SplitSettings(fractions, nside, seed))
    lon, lat = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    known = np.isfinite(lon) & np.isfinite(lat)
    beyond = np.flatnonzero(np.abs(np.where(known, lat, 0)) > 90)
    if len(beyond):
        raise DataError(f"row {beyond[0]}: declination {lat[beyond[0]]} is beyond ±90 degrees")
    split = np.full(lon.shape, Split.NONE, np.uint8)
    ipix = healpy.ang2pix(nside, lon[known], lat[known], nest=True, lonlat=True)
    edges = np.cumsum(fractions)[:2]
    split[known] = np.searchsorted(edges, _uniform(ipix.astype(np.uint64), seed), side="right")
    return split


def check_split(split: SplitSettings) -> None:
    """Raise `UsageError` unless the settings make sense."""
    fractions = np.asarray(split.fractions, float)
    if fractions.shape != (3,) or not np.all(fractions >= 0) or abs(fractions.sum() - 1) > 1e-9:
        raise UsageError(
            f"split fractions {split.fractions}: expected three (train, validation, test), sum 1"
        )
    if not healpy.isnsideok(split.nside, nest=True):
        raise UsageError(f"split nside {split.nside}: expected a power of two, as 32")
    if not 0 <= split.seed < 2**63:
        raise UsageError(f"split seed {split.seed}: expected 0 to 2^63 - 1")


def _uniform(number: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """Hash each number with the seed into [0, 1): SplitMix64 (Steele, Lea & Flood 2014), 53 bits of it."""
    start = _mix(np.array([seed], np.uint64) + _GAMMA)
    bits = _mix(start + (number + np.uint64(1)) * _GAMMA) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit states, modulo 2^64."""
    for shift, factor in _MIX:
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    return state ^ (state >> np.uint64(31))
