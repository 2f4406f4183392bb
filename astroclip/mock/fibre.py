"""How much of a galaxy's light a DESI fibre catches."""

from functools import cache
from typing import NamedTuple

import numpy as np

from astroclip.mock.truth import Array, Table

FIBRE_RADIUS = 0.75  # arcsec
POINT_IN_FIBRE = 0.789  # share of a point source's light that enters a fibre in 1.1 arcsec seeing (DESI)


class _FibreTable(NamedTuple):
    radius: Array  # half-light radius, arcsec
    disk: Array  # share of an n = 1 profile's light in the fibre
    bulge: Array  # of n = 4


@cache
def _fibre_table() -> _FibreTable:
    """Compute shares of light within a fibre in 1 arcsec seeing, for round galaxies (GalSim)."""
    # a circle of radius R holds the share R * integral of J1(kR) F(k) dk of light with the transform F
    import galsim
    from scipy.special import j1

    radius = np.geomspace(0.03, 30, 40)
    k = np.linspace(1e-4, 16.0, 4000)  # per arcsec; the seeing's transform ends before
    seeing = np.exp(-0.5 * (k / 2.3548) ** 2)
    weight = FIBRE_RADIUS * j1(k * FIBRE_RADIUS) * seeing
    log_x = np.linspace(np.log(1e-6), np.log(500), 3000)
    share = []
    for profile in (galsim.Exponential(half_light_radius=1.0), galsim.DeVaucouleurs(half_light_radius=1.0)):
        transform = np.array([profile.kValue(x, 0.0).real for x in np.exp(log_x)])
        share.append([np.trapezoid(weight * np.interp(np.log(k * r), log_x, transform), k) for r in radius])
    return _FibreTable(radius, np.array(share[0]), np.array(share[1]))


def fibre_share(table: Table) -> Array:
    """Return the share of each galaxy's g r z flux that a fibre on its centre would catch: (N, 3)."""
    shares, bulges = _fibre_table(), band_bulge_fractions(table)
    disk_radius = table["DISK_RADIUS"] * np.sqrt(table["AXIS_RATIO"])
    bulge_radius = table["BULGE_RADIUS"] * np.sqrt(table["BULGE_AXIS_RATIO"])
    disk = np.interp(np.log(disk_radius), np.log(shares.radius), shares.disk)
    bulge = np.interp(np.log(bulge_radius), np.log(shares.radius), shares.bulge)
    return bulges * bulge[:, None] + (1 - bulges) * disk[:, None]


def seeing_tilt(share: float) -> float:
    """Return the power of wavelength by which a galaxy is too blue, calibrated with stars as DESI's are.

    Seeing falls as wavelength^-0.2, and the more so does what a fibre loses of a point source, for which all
    spectra are corrected; an extended galaxy (`share` of it in the fibre) loses less by it. For Gaussians of
    width s the share is 1 - exp(-x), x = FIBRE_RADIUS^2 / 2 s^2, and so d ln share / d ln seeing follows.
    """
    x, point = -np.log1p(-np.array([min(share, POINT_IN_FIBRE), POINT_IN_FIBRE])), -np.log1p(-POINT_IN_FIBRE)
    galaxy, star = -2 * x * np.exp(-x) / -np.expm1(-x) * (x / point)  # seeing is x / point of the variance
    return float(-0.2 * (galaxy - star))


def band_bulge_fractions(table: Table) -> Array:
    """Return the bulge's share of the light in g r z (N, 3): bulges are redder than disks."""
    odds = table["BULGE_FRACTION"] / np.maximum(1 - table["BULGE_FRACTION"], 1e-6)
    colour = table["GRADIENT"][:, None] * np.array([-2.0, 0.0, 1.5])  # mag
    odds = odds[:, None] * 10 ** (0.4 * colour)
    return np.asarray(odds / (1 + odds), float)
