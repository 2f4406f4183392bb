"""Sizes and shapes of galaxies from their mass, star formation and redshift, and what volunteers see in them.

Legend: N galaxies.
"""

from typing import NamedTuple

import numpy as np
from astropy.cosmology import Planck18
from numpy.typing import NDArray

Array = NDArray[np.floating]


class Shapes(NamedTuple):
    """True morphology; all arrays have N rows. Sizes are half-light semi-major axes in arcsec.

    `bulge_fraction` is the de Vaucouleurs bulge's share of the r-band light; `axis_ratio` that of the disk
    as projected, `bulge_axis_ratio` that of the bulge; `angle` the position angle in rad, from north through
    east; `featured` marks galaxies with a disk that dominates; `arms` counts spiral arms (0: none);
    `arm_strength`, `bar_strength` are 0 to 1; `pitch` is in rad; `merger` indexes the answers on merging;
    `roughness` (0 to 1) is the strength of star-forming knots; `gradient` the disk's colour gradient.
    """

    disk_radius: Array
    bulge_radius: Array
    bulge_fraction: Array
    axis_ratio: Array
    bulge_axis_ratio: Array
    angle: Array
    featured: NDArray[np.bool_]
    arms: NDArray[np.int64]
    arm_strength: Array
    pitch: Array
    bar_strength: Array
    merger: NDArray[np.int64]
    roughness: Array
    gradient: Array


def draw_shapes(log_mass: Array, log_sfr: Array, redshift: Array, rng: np.random.Generator) -> Shapes:
    """Draw morphologies.

    Sizes follow van der Wel et al. 2014 (ApJ 788, 28): at 5e10 solar masses 8.9 (1 + z)^-0.75 kpc for
    star-forming galaxies (slope 0.22, scatter 0.16 dex) and 5.6 (1 + z)^-1.48 kpc for quiescent ones (slope
    0.75, 0.10 dex, levelling off below 1e10 as in Shen et al. 2003). Fractions of mergers, bars and spiral
    arms are those of Galaxy Zoo DECaLS (Walmsley et al. 2022) for galaxies near enough to be seen well.
    """
    n = len(log_mass)
    quiescent = rng.random(n) < 1 / (1 + 10 ** (2.5 * (log_sfr - log_mass + 11.0)))
    radius_kpc = _radii_kpc(log_mass, redshift, quiescent, rng)
    arcsec = radius_kpc / (Planck18.angular_diameter_distance(redshift).to_value("kpc") * np.pi / 648000)
    bulge = np.where(
        quiescent, rng.beta(5, 2, n), rng.beta(1.3, 6, n) + np.clip(0.12 * (log_mass - 10.3), 0, 0.2)
    )
    bulge = np.clip(bulge, 0.0, 1.0)
    bulge[rng.random(n) < 0.25 * quiescent] = 1.0
    featured = bulge < 0.45
    cos_i, thin = rng.random(n), np.clip(0.17 + 0.04 * rng.standard_normal(n), 0.1, 0.3)
    axis_ratio = np.where(featured, np.sqrt(cos_i**2 + (1 - cos_i**2) * thin**2), rng.beta(5, 2.2, n))
    bulge_axis_ratio = np.where(featured, 0.5 + 0.5 * np.sqrt(axis_ratio), np.clip(axis_ratio + 0.05, 0.3, 1))
    seen_flat = featured & (axis_ratio > 0.3)
    arms = np.where(
        seen_flat & (rng.random(n) < 0.72) & (log_mass > 9.2),
        rng.choice([1, 2, 3, 4, 5], n, p=[0.05, 0.62, 0.18, 0.09, 0.06]),
        0,
    )
    bar = seen_flat & (rng.random(n) < np.clip(0.3 + 0.15 * (log_mass - 10), 0.1, 0.5))
    merger = rng.choice(4, n, p=[0.86, 0.07, 0.03, 0.04])
    return Shapes(
        disk_radius=arcsec,
        bulge_radius=arcsec
        * np.where(featured, np.clip(0.22 * 10 ** (0.15 * rng.standard_normal(n)), 0.08, 0.6), 0.9),
        bulge_fraction=bulge,
        axis_ratio=axis_ratio,
        bulge_axis_ratio=bulge_axis_ratio,
        angle=rng.uniform(0, np.pi, n),
        featured=featured,
        arms=arms,
        arm_strength=np.where(arms > 0, rng.beta(3, 2, n), 0.0),
        pitch=np.deg2rad(np.clip(18 + 7 * rng.standard_normal(n) - 8 * (bulge - 0.15), 6, 38)),
        bar_strength=np.where(bar, rng.beta(2, 2.5, n), 0.0),
        merger=merger,
        roughness=np.clip(0.5 + 0.35 * (log_sfr - log_mass + 10.2) + 0.15 * rng.standard_normal(n), 0, 1)
        * featured,
        gradient=np.clip(0.12 + 0.06 * rng.standard_normal(n), -0.05, 0.3),
    )


def _radii_kpc(
    log_mass: Array, redshift: Array, quiescent: NDArray[np.bool_], rng: np.random.Generator
) -> Array:
    x = log_mass - np.log10(5e10)
    late = np.log10(8.9) - 0.75 * np.log10(1 + redshift) + 0.22 * x
    early = np.log10(5.6) - 1.48 * np.log10(1 + redshift) + 0.75 * np.maximum(x, -0.7)
    scatter = rng.standard_normal(len(x))
    return 10 ** np.where(quiescent, early + 0.10 * scatter, late + 0.16 * scatter)
