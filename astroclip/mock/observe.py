"""DESI's three spectrographs: what they record of a galaxy's light, with noise, and what they say about it.

Spectra are calibrated as DESI's: the flux a *point source* would have if it sent as much light into the
fibre, so galaxies are fainter than their total magnitudes. Units: 1e-17 erg/s/cm2/Å; wavelengths Å, vacuum.

Legend: W wavelengths of the common grid with a margin, n pixels of one arm, D diagonals (11).
"""

from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.mock import lines, sed
from astroclip.mock.fibre import POINT_IN_FIBRE, seeing_tilt
from astroclip.mock.truth import MOONLIGHT

Array = NDArray[np.floating]

STEP = 0.8  # Å
DIAGONALS = 11  # of the resolution matrix, offsets +5 ... -5 as in scipy.sparse.dia_matrix
MARGIN = DIAGONALS // 2
WAVE = 3600.0 + STEP * np.arange(-MARGIN, 7781 + MARGIN)
EDGES = 3600.0 + STEP * (np.arange(-MARGIN, 7782 + MARGIN) - 0.5)
NOISE_KNOT = 16  # px between the knots of desi_noise.npz
ARM_SCATTER = {"B": 0.18, "R": 0.12, "Z": 0.16}  # of ln variance between spectrographs and nights
AIRGLOW_SCATTER = 0.4  # of ln strength of the OH lines, from the same coadds as READ_SHARE_B
# Share of read noise in the B arm's variance, after one exposure of 1000 s of dark sky: from five real coadds
# with 0.8 to 2.7 exposures per 1000 s, whose B arms are the noisier the more there are (residual 9 %)
READ_SHARE_B = 0.3
FLUX_WAVE = np.array([4770.0, 6420.0, 9170.0])  # Å, effective wavelengths of DECam g r z

# Fitzpatrick 1999, R_V = 3.1: A / E(B-V) at inverse micron; times 0.86 for E(B-V) of Schlegel et al. 1998
_F99 = np.array(
    [[0.820, 0.829], [1.667, 2.688], [1.828, 3.055], [2.141, 3.806], [2.433, 4.315], [3.704, 6.265]]
)


class Arm(NamedTuple):
    """One arm: its pixels on the common grid, the width of its line spread, its noise and throughput.

    `start` is the first pixel on 3600 + 0.8 k Å, `n` their number; `sigma_px` (n,) the Gaussian width of
    the line spread; `continuum`, `sky` (n,) the variance of blank sky without OH lines and what they add,
    both in units of the median variance of the R arm; `electrons` (n,) detected per unit flux and second.
    """

    name: str
    start: int
    n: int
    sigma_px: Array
    continuum: Array
    sky: Array
    electrons: Array

    @property
    def wave(self) -> Array:
        """Wavelengths of the pixels in Å: (n,)."""
        return 3600.0 + STEP * (self.start + np.arange(self.n))


# Line spread (px) at the ends and middle of each arm, measured on the RESOLUTION of real coadds; throughput
# of telescope and spectrograph after DESI Collaboration 2022 (AJ 164, 207), figure 27.
_ARMS = {
    "B": (0, 2751, (0.845, 0.855, 0.845), (0.07, 0.22, 0.28, 0.30, 0.24)),
    "R": (2700, 2326, (0.790, 0.805, 0.795), (0.24, 0.34, 0.37, 0.37, 0.30)),
    "Z": (4900, 2881, (0.875, 0.870, 0.980), (0.28, 0.38, 0.40, 0.37, 0.26)),
}


@cache
def load_arms() -> tuple[Arm, ...]:
    """Return the three arms, with the noise measured by `examples/measure_desi_noise.py`."""
    with (resources.files("astroclip.mock") / "desi_noise.npz").open("rb") as file:
        table = {key: value.astype(float) for key, value in np.load(file, allow_pickle=False).items()}
    arms = []
    for name, (start, n, sigma, throughput) in _ARMS.items():
        pixel = np.arange(n)
        knots = table[f"{name.lower()}_continuum"]
        continuum = 10 ** np.interp(pixel, NOISE_KNOT * np.arange(len(knots)), knots)
        sky = continuum * (10 ** table[f"{name.lower()}_sky"] - 1)
        wave = 3600.0 + STEP * (start + pixel)
        photons = 8.66e4 * STEP * 1e-17 / (1.98645e-8 / wave)  # 8.66 m2; h c in erg Å
        eta = np.interp(pixel, np.linspace(0, n - 1, len(throughput)), throughput)
        width = np.interp(pixel, np.linspace(0, n - 1, 3), sigma)
        arms.append(Arm(name, start, n, width, continuum, sky, photons * eta * POINT_IN_FIBRE))
    return tuple(arms)


@cache
def _extinction_curve() -> Array:
    """Return A / E(B-V) of the Milky Way on `WAVE`."""
    from scipy.interpolate import CubicSpline

    return np.asarray(0.86 * CubicSpline(_F99[:, 0], _F99[:, 1])(1e4 / WAVE), float)


def incoming(row: np.void) -> Array:
    """Return the light of one row of the truth before the atmosphere: (W,) total flux on `WAVE`."""
    z = float(row["Z_TRUE"])
    light = sed.continuum(row["COEFFS"], z, float(row["SIGMA_STARS"]), WAVE)
    light += lines.line_spectrum(WAVE, row["LINES"], z, float(row["SIGMA_GAS"]), EDGES)
    return light * 10 ** (-0.4 * float(row["EBV"]) * _extinction_curve())


def in_fibre(row: np.void, light: Array) -> Array:
    """Return the part of `light` (W,) that enters the fibre, calibrated as for a point source."""
    share = np.interp(WAVE, FLUX_WAVE, row["FIBRE_SHARE"]) / POINT_IN_FIBRE
    tilt = float(row["FIBRE_TILT"]) + seeing_tilt(float(row["FIBRE_SHARE"][1]))
    return light * share * float(row["FIBRE_GAIN"]) * (WAVE / 6500.0) ** tilt


class ArmSpectrum(NamedTuple):
    """What one arm gives of one target: `flux`, `ivar`, `mask` (n,) and `resolution` (D, n)."""

    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.int32]
    resolution: NDArray[np.float32]


def observe(
    light: Array,
    sky_variance: float,
    exptime: float,
    rng: np.random.Generator,
    *,
    moon: bool = False,
    exposures: int = 1,
) -> list[ArmSpectrum]:
    """Observe `light` (W,), 1e-17 erg/s/cm2/Å on `WAVE`, with the three arms.

    Parameters
    ----------
    light : array, shape (W,)
        What enters the fibre, in the calibration of a point source.
    sky_variance : float
        Median variance of the R arm on blank sky. Sky lines vary by `AIRGLOW_SCATTER` about their measured
        strength, the arms against each other by `ARM_SCATTER`.
    exptime : float
        Seconds; they set the Poisson noise of the object itself, and with `exposures` the read noise.
    rng : numpy.random.Generator
        Of this row.
    moon : bool
        Bright time: the sky is bluer, and `MOONLIGHT` brighter.
    exposures : int
        Each is read out once, which matters in the B arm, where the sky is dark. A single exposure shows
        cosmic rays; more of them leave nearly none in the coadd.

    Returns
    -------
    list of ArmSpectrum
        B, R, Z. The inverse variance is the true one of each pixel's Gaussian noise. Masked pixels have
        flux = ivar = 0, as in real coadds: mask 1 for cosmic rays, 2 for dead columns of the detector.
    """
    airglow, wider = np.exp(AIRGLOW_SCATTER * rng.standard_normal()), 1 + 0.015 * rng.standard_normal()
    edge = rng.exponential(2.0)  # the dichroic's edge at 5800 Å differs between spectrographs
    spectra = []
    for arm in load_arms():
        kernel, resolution = _resolve(arm, wider)
        window = np.lib.stride_tricks.sliding_window_view(light, DIAGONALS)[arm.start : arm.start + arm.n]
        flux = np.einsum("dn,nd->n", kernel, window)
        continuum = arm.continuum * (arm.wave / 6500.0) ** (-0.8 * moon)
        if arm.name == "B":
            reads = (
                exposures * 1000.0 / exptime / (MOONLIGHT if moon else 1.0)
            )  # for as much light of the sky
            continuum = continuum * (1 + READ_SHARE_B * (reads - 1))
            continuum = continuum * (1 + edge * np.exp((arm.wave - 5800.0) / 20.0))
        variance = sky_variance * (continuum + airglow * arm.sky)
        variance *= np.exp(ARM_SCATTER[arm.name] * rng.standard_normal())
        variance += np.maximum(flux, 0.0) / (arm.electrons * exptime)
        flux += np.sqrt(variance) * rng.standard_normal(arm.n)
        mask = _mask(arm.n, exposures, rng)
        good = mask == 0
        ivar = np.where(good, 1 / variance, 0.0)
        spectra.append(
            ArmSpectrum(
                np.where(good, flux, 0.0).astype(np.float32), ivar.astype(np.float32), mask, resolution
            )
        )
    return spectra


def blank(arm: Arm) -> ArmSpectrum:
    """Return an arm without data: IVAR = 0 everywhere, as for a stuck positioner."""
    zero = np.zeros(arm.n, np.float32)
    return ArmSpectrum(zero, zero, np.zeros(arm.n, np.int32), _resolve(arm, 1.0)[1])


def _resolve(arm: Arm, wider: float) -> tuple[Array, NDArray[np.float32]]:
    """Return the line spread of each output pixel (D, n), and as diagonals of the resolution matrix."""
    offset = np.arange(-MARGIN, MARGIN + 1)[:, None]
    kernel = np.exp(-0.5 * (offset / (arm.sigma_px * wider)) ** 2)
    kernel /= kernel.sum(axis=0)
    resolution = np.zeros((DIAGONALS, arm.n), np.float32)
    for d, k in enumerate(range(MARGIN, -MARGIN - 1, -1)):  # the diagonal k holds R[j - k, j] at column j
        columns = slice(max(k, 0), arm.n + min(k, 0))
        resolution[d, columns] = kernel[MARGIN + k, max(-k, 0) : arm.n - max(k, 0)]
    return kernel, resolution


def _mask(n: int, exposures: int, rng: np.random.Generator) -> NDArray[np.int32]:
    mask = np.zeros(n, np.int32)
    for start in rng.integers(0, n, rng.poisson(4.0 if exposures == 1 else 0.1)):
        mask[start : start + rng.integers(2, 7)] = 1
    if rng.random() < 0.03:
        start = rng.integers(0, n)
        mask[start : start + rng.integers(4, 30)] = 2
    return mask
