"""Positions that move: offsets along the tangent plane, and proper motion from one epoch to another."""

import numpy as np
from numpy.typing import ArrayLike

from astroclip.sky import ARCSEC, FloatArray, floats, unit_vectors


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
    """Apply proper motion: the positions, (N,) deg, of one epoch at another.

    `pmra` (with cos(dec), as in Gaia and the Legacy Survey) and `pmdec` are mas/yr, epochs Julian years.
    Straight motion in space with no radial velocity, hence exact on the tangent plane and at the poles (The
    Hipparcos and Tycho Catalogues, ESA SP-1200, Vol. 1, Sect. 1.5.5). A row whose motion or epoch is unknown
    (NaN or masked) stays where it is, bit for bit; one component alone counts as if the other were zero.
    """
    years = floats(to_epoch) - floats(from_epoch)
    return displace(ra, dec, floats(pmra) * years / 1000.0, floats(pmdec) * years / 1000.0)
