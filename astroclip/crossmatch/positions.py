"""Angles between positions, and positions moved along the sky: plain NumPy, right at the poles too."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

ARCSEC = np.pi / (180.0 * 3600.0)  # rad


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
    """Return the angle between positions, row by row.

    From the chord and its complement, ``2 atan2(|a - b|, |a + b|)``, which keeps its digits at all angles:
    good to 1e-9 arcsec from zero to 180 deg.

    Parameters
    ----------
    ra1, dec1, ra2, dec2
        (N,), deg; RA on any turn of the circle. A NaN or masked coordinate gives NaN.

    Returns
    -------
    (N,), arcsec.
    """
    a = unit_vectors(floats(ra1), floats(dec1))
    b = unit_vectors(floats(ra2), floats(dec2))
    chord, complement = np.sqrt(((a - b) ** 2).sum(axis=0)), np.sqrt(((a + b) ** 2).sum(axis=0))
    return 2.0 * np.arctan2(chord, complement) / ARCSEC


def displace(
    ra: ArrayLike, dec: ArrayLike, east_arcsec: ArrayLike, north_arcsec: ArrayLike
) -> tuple[FloatArray, FloatArray]:
    """Move positions along the tangent plane: (N,) deg, by arcsec to the east and to the north.

    East is a true angle on the sky (not a difference in RA), so the distance moved does not depend on
    declination. A row that is not moved, or by NaN, keeps its coordinates bit for bit; a moved one has its
    RA in 0 to 360 deg.
    """
    ra, dec = np.broadcast_arrays(floats(ra), floats(dec))
    east, north = (np.nan_to_num(floats(offset)) * ARCSEC for offset in (east_arcsec, north_arcsec))
    lon, lat = np.radians(ra), np.radians(dec)
    eastward = np.stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)])
    northward = np.stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    x, y, z = unit_vectors(ra, dec) + east * eastward + north * northward
    moved = (east != 0) | (north != 0)
    return (
        np.where(moved, np.degrees(np.arctan2(y, x)) % 360.0, ra),
        np.where(moved, np.degrees(np.arctan2(z, np.hypot(x, y))), dec),
    )


def propagate(
    ra: ArrayLike,
    dec: ArrayLike,
    pmra: ArrayLike,
    pmdec: ArrayLike,
    *,
    from_epoch: ArrayLike,
    to_epoch: ArrayLike,
) -> tuple[FloatArray, FloatArray]:
    """Apply proper motion: the positions of one epoch at another.

    Straight motion in space with no radial velocity, hence exact on the tangent plane and at the poles.
    A row whose motion or epoch is unknown (NaN or masked) stays where it is, bit for bit; one component
    alone counts as if the other were zero.

    Parameters
    ----------
    ra, dec
        (N,), deg, ICRS, at `from_epoch`.
    pmra, pmdec
        (N,), mas/yr; `pmra` includes cos(dec), as in Gaia and in the Legacy Survey's ``PMRA``.
    from_epoch, to_epoch
        Julian years, one number or (N,), as in ``REF_EPOCH``.

    Returns
    -------
    ``ra, dec``: (N,), deg, at `to_epoch`.

    Notes
    -----
    The Hipparcos and Tycho Catalogues, ESA SP-1200, Vol. 1, Sect. 1.5.5, with zero radial velocity.
    """
    years = floats(to_epoch) - floats(from_epoch)
    return displace(ra, dec, floats(pmra) * years / 1000.0, floats(pmdec) * years / 1000.0)
