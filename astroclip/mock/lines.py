"""Nebular emission lines that follow star formation, metallicity and dust.

Legend: N galaxies, L lines, W wavelengths.
"""

import numpy as np
from numpy.typing import NDArray

from astroclip.mock.sed import LIGHT_KMS, Photometry

Array = NDArray[np.floating]

# Å in vacuum (NIST; the same list as in fastspecfit's and SDSS's line tables)
LINES = {
    "OII_3726": 3727.10,
    "OII_3729": 3729.86,
    "NEIII_3869": 3869.86,
    "H8": 3890.15,
    "HEPSILON": 3971.20,
    "HDELTA": 4102.89,
    "HGAMMA": 4341.68,
    "OIII_4363": 4364.44,
    "HBETA": 4862.68,
    "OIII_4959": 4960.30,
    "OIII_5007": 5008.24,
    "HEI_5876": 5877.25,
    "OI_6300": 6302.05,
    "NII_6548": 6549.85,
    "HALPHA": 6564.61,
    "NII_6584": 6585.28,
    "SII_6716": 6718.29,
    "SII_6731": 6732.67,
    "ARIII_7136": 7137.77,
    "SIII_9069": 9071.10,
    "SIII_9531": 9533.20,
}
WAVE = np.array(list(LINES.values()))
# Case B, 10,000 K, 100 cm-3 (Osterbrock & Ferland 2006), relative to Hbeta
_CASE_B = {"HALPHA": 2.86, "HBETA": 1.0, "HGAMMA": 0.468, "HDELTA": 0.259, "HEPSILON": 0.159, "H8": 0.105}


def calzetti(wave: Array) -> Array:
    """Return k(lambda) = A(lambda) / E(B-V) of Calzetti et al. 2000 at `wave` in Å."""
    um = wave / 1e4
    blue = 2.659 * (-2.156 + 1.509 / um - 0.198 / um**2 + 0.011 / um**3) + 4.05
    return np.where(um < 0.63, blue, 2.659 * (-1.857 + 1.040 / um) + 4.05)


def halpha_extinction(log_mass: Array, rng: np.random.Generator) -> Array:
    """Draw the extinction of Halpha in mag from stellar mass (Garn & Best 2010, their scatter of 0.28)."""
    x = np.clip(log_mass, 8.0, 11.5) - 10
    mean = 0.91 + 0.77 * x + 0.11 * x**2 - 0.09 * x**3
    return np.clip(mean + 0.28 * rng.standard_normal(len(x)), 0.0, 2.5)


def oxygen_abundance(log_mass: Array, log_sfr: Array, rng: np.random.Generator) -> Array:
    """Draw 12 + log(O/H) of the gas from mass and star formation (Curti et al. 2020, scatter 0.07)."""
    turnover = 10.11 + 0.56 * log_sfr
    mean = 8.779 - 0.31 / 2.1 * np.log10(1 + 10 ** (-2.1 * (log_mass - turnover)))
    return np.clip(mean + 0.07 * rng.standard_normal(len(mean)), 7.7, 8.9)


def line_fluxes(
    halpha: Array, a_halpha: Array, abundance: Array, ionised_by_agn: Array, rng: np.random.Generator
) -> Array:
    """Return line fluxes (N, L) in the unit of `halpha` (N,), the *observed* Halpha flux.

    Parameters
    ----------
    halpha : array, shape (N,)
        Observed (dimmed by dust) Halpha flux.
    a_halpha : array, shape (N,)
        Extinction of Halpha in mag; the other lines are reddened accordingly (Calzetti et al. 2000).
    abundance : array, shape (N,)
        12 + log(O/H). [N II] and [O III] follow the N2 and O3N2 calibrations of Pettini & Pagel 2004.
    ionised_by_agn : array of bool, shape (N,)
        Where True, [O III], [N II], [S II], [O I] have the ratios of LINERs and Seyferts.
    rng : numpy.random.Generator
        Scatter: 0.08 dex on each ratio, the [O II] and [S II] doublets within their density range.
    """
    n = len(halpha)
    scatter = 0.08 * rng.standard_normal((6, n))
    hard = 0.35 * np.abs(rng.standard_normal(n))
    n2 = np.where(ionised_by_agn, -0.15 + 0.5 * hard, (abundance - 8.90) / 0.57) + scatter[0]
    o3 = (
        np.where(ionised_by_agn, 0.25 + hard, np.clip((8.73 - abundance) / 0.32 + n2, -1.0, 0.75))
        + scatter[1]
    )
    o2 = np.where(ionised_by_agn, 0.6, 0.5 - 1.6 * (abundance - 8.4) ** 2) + scatter[2]
    s2 = np.where(ionised_by_agn, -0.15, -0.45 - 0.3 * (abundance - 8.5)) + scatter[3]
    ratio = {name: np.full(n, value) for name, value in _CASE_B.items()}  # before dust, Hbeta = 1
    ratio["NII_6584"] = 2.86 * 10**n2
    ratio["NII_6548"] = ratio["NII_6584"] / 3.05
    ratio["OIII_5007"] = 10**o3
    ratio["OIII_4959"] = ratio["OIII_5007"] / 2.98
    ratio["OIII_4363"] = ratio["OIII_5007"] * 10 ** (-2.2 - 1.5 * (abundance - 8.1))
    density = rng.uniform(1.15, 1.45, n)  # 3729 / 3726, electron densities below 300 cm-3
    ratio["OII_3726"], ratio["OII_3729"] = 10**o2 / (1 + density), 10**o2 * density / (1 + density)
    density = rng.uniform(1.2, 1.43, n)  # 6716 / 6731
    ratio["SII_6716"] = 2.86 * 10**s2 * density / (1 + density)
    ratio["SII_6731"] = 2.86 * 10**s2 / (1 + density)
    ratio["NEIII_3869"] = 0.09 * 10 ** (o3 + scatter[4])
    ratio["OI_6300"] = np.where(ionised_by_agn, 0.4, 0.08) * 10 ** scatter[5]
    ratio["HEI_5876"] = np.full(n, 0.115)
    ratio["ARIII_7136"] = np.full(n, 0.09)
    ratio["SIII_9069"] = 0.22 * 10 ** scatter[3]
    ratio["SIII_9531"] = 2.44 * ratio["SIII_9069"]
    reddening = calzetti(WAVE) / calzetti(np.array([LINES["HALPHA"]]))
    dust = 10 ** (-0.4 * a_halpha[:, None] * (reddening - 1))
    return np.stack([ratio[name] for name in LINES], axis=1) * dust * (halpha / 2.86)[:, None]


def line_photometry(photometry: Photometry, fluxes: Array, redshift: Array) -> Array:
    """Return what the lines add to broad-band fluxes: (N, B) nanomaggies for `fluxes` in 1e-17 erg/s/cm2."""
    observed = WAVE * (1 + redshift[:, None])
    bands = [np.interp(observed, wave, unit, 0.0, 0.0) for wave, unit in photometry.response]
    return np.stack([(fluxes * band).sum(axis=1) for band in bands], axis=1)


def line_spectrum(wave: Array, fluxes: Array, redshift: float, sigma_kms: float, edges: Array) -> Array:
    """Return the lines of one galaxy as mean flux densities of pixels, in 1e-17 erg/s/cm2/Å.

    `wave` (W,) are pixel centres and `edges` (W + 1,) their borders, Å; `fluxes` (L,) in 1e-17 erg/s/cm2;
    `sigma_kms` is the gas's velocity dispersion. Each line is integrated over the pixels exactly.
    """
    from scipy.special import ndtr

    spectrum = np.zeros(len(wave))
    centres = WAVE * (1 + redshift)
    for centre, flux in zip(centres, fluxes, strict=True):
        sigma = centre * sigma_kms / LIGHT_KMS
        low, high = np.searchsorted(edges, [centre - 5 * sigma - 1, centre + 5 * sigma + 1])
        low, high = max(low - 1, 0), min(high + 1, len(edges))
        if high - low > 1 and flux > 0:
            cumulated = ndtr((edges[low:high] - centre) / sigma)
            spectrum[low : high - 1] += flux * np.diff(cumulated) / np.diff(edges[low:high])
    return spectrum
