"""Spectral energy distributions of real galaxies: kcorrect's five templates and the mixes SDSS galaxies need.

Templates are non-negative mixes of Bruzual & Charlot 2003 stellar populations (Chabrier IMF) with dust and
emission lines (Blanton & Roweis 2007). The lines are taken out here and put back, at the instrument's
resolution, by `astroclip.mock.lines`. Masses are solar masses for `COSMOLOGY` (no factor of h left over).

Legend: N galaxies, T templates (5), B bands, Z grid of redshifts, W wavelengths.
"""

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

LIGHT_KMS = 299792.458
BANDS = ("decam2014-g", "decam2014-r", "decam2014-z", "wise2010-W1", "wise2010-W2")  # names of speclite
REDSHIFTS = np.linspace(0.0, 1.7, 171)  # photometry is interpolated between these
AGE_GYR = np.array([1.0, 0.05, 1.5, 10.0, 1.4])  # of each template, nominal: from its M300, M1000, MREMAIN
PC10_AREA = 4 * np.pi * (10 * 3.0856776e18) ** 2  # cm2, sphere of 10 pc
SDSS_TO_AB = np.array([-0.036, 0.012, 0.010, 0.028, 0.040])  # mag; u g r i z of kcorrect's own calibration
SDSS_MIN_ERROR = np.array([0.05, 0.02, 0.02, 0.02, 0.03])  # of the flux in u g r i z
AB_ZERO = 3.631e-20  # erg/s/cm2/Hz of magnitude 0
TEMPLATE_SIGMA_KMS = 200.0  # of the template file, measured on its own [O III] and Halpha lines
FINE = 8  # points of the continuum grid per template pixel of 257 km/s

HALPHA = 6564.61  # Å, vacuum
_BALMER = (3890.2, 3971.2, 4102.9, 4341.7, 4862.7, HALPHA)
_EMISSION = (
    *(1750.0, 1892.0, 1908.0, 2326.0, 2471.0, 2799.0, 3728.5, 3869.9, 4069.7, 4106.7, 4364.4, 4472.7),
    *(4569.0, 4960.3, 5008.2, 5201.5, 5877.3, 6302.0, 6330.5, 6365.5, 6549.9, 6585.3, 6679.9, 6718.3),
    *(6732.7, 7067.7, 7137.8, 7325.0, 7753.0, 8666.0, 8755.0, 8867.0, 9016.5, 9071.1, 9232.5, 9533.2),
    9548.9,
)  # Å in vacuum: other lines in the template file (4106.7 and 6330.5 are its misplaced Hdelta and [O I])


class Templates(NamedTuple):
    """The templates of kcorrect, per solar mass formed, as light that arrives from 10 pc.

    `flux` (T, W) in erg/s/cm2/Å on `wave` (W,) Å in vacuum, without emission lines; `shipped` with them;
    `halpha` (T,) the Halpha luminosity taken out, erg/s; `mass` (T,) stellar mass that remains; `metals`
    (T,) metal mass fraction; `m300` and `m1000` (T,) mass formed in the last 0.3 and 1 Gyr.
    """

    wave: Array
    flux: Array
    shipped: Array
    halpha: Array
    mass: Array
    metals: Array
    m300: Array
    m1000: Array


@cache
def load_templates() -> Templates:
    """Read the templates shipped with kcorrect and take their emission lines out."""
    import fitsio

    with fitsio.FITS(_kcorrect_data() / "templates" / "kcorrect-default-v4.fits") as hdus:
        table = hdus["FLUX"].read()[0]
        properties = [hdus[name].read().astype(float) for name in ("MREMAIN", "METS", "M300", "M1000")]
    wave, shipped = table["wave"].astype(float), table["flux"].astype(float)
    flux, halpha = shipped.copy(), np.zeros(len(shipped))
    lines = np.sort(_EMISSION + _BALMER)
    groups = np.split(lines, np.flatnonzero(np.diff(lines) > 60) + 1)
    for row in (0, 1, 2):  # the other two are pure stellar populations
        for group in groups:
            removed = _take_out(wave, flux[row], group)
            halpha[row] += PC10_AREA * removed.get(HALPHA, 0.0)
    return Templates(wave, flux, shipped, halpha, *properties)


def _take_out(wave: Array, flux: Array, group: Array) -> dict[float, float]:
    """Take neighbouring emission lines out of `flux` (changed in place); return the flux of each."""
    from scipy.optimize import lsq_linear

    near = (wave > group[0] * 0.9915) & (wave < group[-1] * 1.0085)
    x = wave[near]
    t = (x - x.mean()) / np.ptp(x)
    balmer = np.intersect1d(group, _BALMER)
    sigma = group * np.hypot(TEMPLATE_SIGMA_KMS, 75.0) / LIGHT_KMS  # with the pixel's own width
    emission = np.exp(-0.5 * ((x - group[:, None]) / sigma[:, None]) ** 2)
    absorption = np.exp(-0.5 * ((x - balmer[:, None]) / (balmer[:, None] * 0.0021)) ** 2)
    design = np.vstack([t**0, t, t**2, emission, absorption])
    low = np.r_[[-np.inf] * 3, np.zeros(len(group)), np.full(len(balmer), -np.inf)]
    high = np.r_[[np.inf] * (3 + len(group)), np.zeros(len(balmer))]
    scale = np.median(flux[near])
    coeff = lsq_linear(design.T, flux[near] / scale, (low, high)).x * scale
    peaks = coeff[3 : 3 + len(group)].copy()
    core = (np.abs(x - group[:, None]) < 3 * sigma[:, None])[peaks > 0.002 * scale].any(axis=0)
    coeff[3 : 3 + len(group)] = 0
    flux[np.flatnonzero(near)[core]] = (coeff @ design)[core]
    return dict(zip(group.tolist(), (peaks * sigma * np.sqrt(2 * np.pi)).tolist(), strict=True))


def _kcorrect_data() -> Path:
    """Return the folder of data that comes with kcorrect."""
    return Path(str(files("kcorrect"))) / "data"


class Photometry(NamedTuple):
    """Light of the templates and of one unit of line flux through filters, on `REDSHIFTS`.

    `flux`, `shipped` (Z, B, T): nanomaggies of a template from 10 pc, without and with emission lines.
    `response` holds, for each band, wavelengths and the nanomaggies of 1e-17 erg/s/cm2 arriving there.
    """

    flux: Array
    shipped: Array
    response: tuple[tuple[Array, Array], ...]


@cache
def load_photometry() -> Photometry:
    """Project the templates onto the Legacy Survey's filters."""
    templates = load_templates()
    projected = [_project(name, REDSHIFTS, (templates.flux, templates.shipped)) for name in BANDS]
    grids = np.stack([grid for grid, _ in projected], axis=2)
    return Photometry(grids[0], grids[1], tuple(response for _, response in projected))


def _project(name: str, redshifts: Array, sets: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
    """Return nanomaggies (sets, Z, T) of templates through a filter (photon counting), and its response."""
    import speclite.filters

    filt = speclite.filters.load_filter(name)
    wave, through = np.asarray(filt.wavelength, float), np.asarray(filt.response, float)
    norm = np.trapezoid(through / wave, wave) * LIGHT_KMS * 1e13 * AB_ZERO
    grid = np.zeros((len(sets), len(redshifts), len(sets[0])))
    rest = load_templates().wave
    for k, z in enumerate(redshifts):
        # All template pixels under the filter, besides the filter's own, so that no line is stepped over.
        under = rest[(rest > wave[0] / (1 + z)) & (rest < wave[-1] / (1 + z))] * (1 + z)
        fine = np.union1d(wave, under)
        weight = np.interp(fine, wave, through) * fine
        for out, flux in zip(grid, sets, strict=True):
            light = np.array([np.interp(fine / (1 + z), rest, f) for f in flux]) / (1 + z)
            out[k] = np.trapezoid(light * weight, fine) / norm * 1e9
    return grid, (wave, 1e-17 * 1e9 * wave * through / norm)


def synthesise(grid: Array, coeffs: Array, redshift: Array) -> Array:
    """Return nanomaggies (N, B) of mixes `coeffs` (N, T) as seen at `redshift` (N,) from a `Photometry` grid.

    `coeffs` are template amplitudes *with* the distance factor: solar masses formed over (d_L / 10 pc)^2.
    """
    unit = [_interpolate(grid[..., t], redshift) for t in range(grid.shape[-1])]
    return np.asarray(sum(u * c[:, None] for u, c in zip(unit, coeffs.T, strict=True)))


def _interpolate(grid: Array, redshift: Array) -> Array:
    """Return `grid` (Z, B), which begins with `REDSHIFTS`, at `redshift` (N,): (N, B)."""
    place = redshift / REDSHIFTS[1]
    at = np.clip(place.astype(int), 0, len(grid) - 2)
    frac = (place - at)[:, None]
    return grid[at] * (1 - frac) + grid[at + 1] * frac


class Sdss(NamedTuple):
    """Real SDSS main-sample galaxies: `redshift` (N,), mixes `formed` (N, T) in solar masses formed."""

    redshift: Array
    formed: Array


@cache
def load_sdss() -> Sdss:
    """Fit the templates to the 10,000 SDSS galaxies that come with kcorrect (non-negative least squares).

    Their model colours are scaled to Petrosian r; bands with errors below 2-5 % are given that error, for
    what the templates cannot describe. Galaxies outside 0.02 < z < 0.25 or r > 17.9 are left out.
    """
    import fitsio
    from scipy.optimize import nnls

    sdss = fitsio.read(_kcorrect_data() / "test" / "gst_tests_small.fits")
    clear = 10 ** (0.4 * (sdss["EXTINCTION"].astype(float) - SDSS_TO_AB))
    scale = sdss["PETROFLUX"][:, 2:3] / sdss["MODELFLUX"][:, 2:3]
    flux = sdss["MODELFLUX"] * clear * scale
    error = np.hypot(scale * clear / np.sqrt(sdss["MODELFLUX_IVAR"]), SDSS_MIN_ERROR * flux)
    redshift = sdss["Z"].astype(float)
    good = (redshift > 0.02) & (redshift < 0.25) & (flux > 0).all(axis=1) & np.isfinite(error).all(axis=1)
    good &= flux[:, 2] > 10 ** (0.4 * (22.5 - 17.9))
    redshift, flux, error = redshift[good], flux[good], error[good]
    shipped = (load_templates().shipped,)
    grid = np.stack([_project(f"sdss2010-{b}", REDSHIFTS[:27], shipped)[0][0] for b in "ugriz"], axis=1)
    design = np.stack([_interpolate(grid[..., t], redshift) for t in range(grid.shape[-1])], axis=2)
    design = design / error[:, :, None]
    size = np.linalg.norm(design, axis=1, keepdims=True)  # templates differ by 1e5
    fits = [nnls(a, b)[0] for a, b in zip(design / size, flux / error, strict=True)]
    return Sdss(redshift, np.array(fits) / size[:, 0] * distance_factor(redshift)[:, None])


@cache
def _distance_table() -> tuple[Array, Array]:
    from astropy.cosmology import Planck18

    z = np.linspace(0.0, 2.0, 2001)[1:]
    return z, np.log(Planck18.luminosity_distance(z).to_value("Mpc"))


def distance_factor(redshift: Array) -> Array:
    """Return (luminosity distance / 10 pc)^2 for Planck 2018 parameters."""
    z, log_mpc = _distance_table()
    return np.exp(2 * (np.interp(np.log(redshift), np.log(z), log_mpc) + np.log(1e5)))


@cache
def _fine_templates() -> tuple[Array, NDArray[np.complexfloating], Array]:
    """Return the fine grid (ln Å), the templates' Fourier transform over ln wavelength, its frequencies."""
    templates = load_templates()
    first = int(np.searchsorted(templates.wave, 1100.0))
    use = slice(first, first + 2700)  # to 11100 Å; the grid is even in ln wavelength, 2700 makes a quick FFT
    log_wave = np.log(templates.wave[use])
    step = (log_wave[-1] - log_wave[0]) / (len(log_wave) - 1)
    fine = log_wave[0] + step / FINE * np.arange(len(log_wave) * FINE)
    return fine, np.fft.rfft(templates.flux[:, use]), np.fft.rfftfreq(len(log_wave), step)


def continuum(coeffs: Array, redshift: float, sigma_kms: float, wave: Array) -> Array:
    """Return the stars' light of one galaxy at observed wavelengths `wave`, in 1e-17 erg/s/cm2/Å.

    `sigma_kms` is the velocity dispersion. The template file has 200 km/s of its own; below that its
    Fourier transform over ln wavelength is sharpened, as far as its pixels of 257 km/s allow (130 km/s).
    """
    fine, transform, frequency = _fine_templates()
    variance = (TEMPLATE_SIGMA_KMS**2 - max(sigma_kms, 130.0) ** 2) / LIGHT_KMS**2
    gain = np.exp(2 * (np.pi * frequency) ** 2 * variance)
    light = np.fft.irfft((coeffs[:, None] * transform).sum(axis=0) * gain, len(fine)) * FINE
    return np.interp(np.log(wave / (1 + redshift)), fine, light) * (1e17 / (1 + redshift))
