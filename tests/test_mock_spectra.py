"""Mock spectra: fluxes, lines, noise and resolution are what their files say."""

import fitsio
import numpy as np
import pytest

pytest.importorskip("galsim", reason="needs the extra: pip install 'astroclip[mock]'")
pytest.importorskip("kcorrect", reason="needs the extra: pip install 'astroclip[mock]'")
pytest.importorskip("speclite", reason="needs the extra: pip install 'astroclip[mock]'")

from astroclip.mock import lines, sed
from astroclip.mock import observe as spectra
from astroclip.mock.desi_files import observe_row
from astroclip.mock.fibre import FIBRE_RADIUS, POINT_IN_FIBRE, seeing_tilt
from astroclip.mock.scene import make_sky
from astroclip.mock.truth import SKY_VARIANCE_R

SEED = 5


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return make_sky(250, SEED)


def good_rows(truth: np.ndarray, sample: str) -> np.ndarray:
    return np.flatnonzero((truth["SAMPLE"] == sample) & (truth["KIND"] == "galaxy"))


def test_spectrum_has_the_true_magnitude(truth):
    import speclite.filters

    filt = speclite.filters.load_filter("decam2014-r")
    wave, through = np.asarray(filt.wavelength), np.asarray(filt.response)
    for index in (*good_rows(truth, "BGS")[:12], *good_rows(truth, "ELG")[:6]):
        light = np.interp(wave, spectra.WAVE, spectra.incoming(truth[index]), 0, 0)
        density = np.trapezoid(light * through * wave, wave) / np.trapezoid(through / wave, wave)
        nanomaggies = 1e-17 * density / 2.99792458e18 / 3.631e-20 * 1e9
        assert nanomaggies == pytest.approx(truth[index]["FLUX"][1], rel=0.015)


def test_lines_lie_at_the_true_redshift_with_the_true_flux():
    sigma = 80.0
    for z in (0.0312, 0.2575, 0.4):
        for name in ("OII_3729", "HBETA", "OIII_5007", "HALPHA"):
            centre = lines.LINES[name] * (1 + z)
            if centre > 9800:
                continue
            flux = np.where(np.array(list(lines.LINES)) == name, 7.0, 0.0)
            drawn = lines.line_spectrum(spectra.WAVE, flux, z, sigma, spectra.EDGES)
            assert drawn.sum() * spectra.STEP == pytest.approx(7.0, rel=1e-5)
            mean = (drawn * spectra.WAVE).sum() / drawn.sum()
            assert mean == pytest.approx(centre, abs=1e-3)
            width = np.sqrt((drawn * (spectra.WAVE - mean) ** 2).sum() / drawn.sum())
            pixel = spectra.STEP / np.sqrt(12)
            assert width == pytest.approx(np.hypot(centre * sigma / sed.LIGHT_KMS, pixel), rel=1e-3)


def test_stars_are_broadened_by_their_dispersion():
    wave = np.arange(3900.0, 4400.0, 0.2)
    old = np.array([0, 0, 0, 1.0, 0])
    narrow, middle, broad = (sed.continuum(old, 0.05, sigma, wave) for sigma in (130.0, 200.0, 350.0))
    # Broadening 200 km/s by a Gaussian of the difference gives 350 km/s.
    x = np.arange(-200, 201) * 0.2
    sigma = np.sqrt(350.0**2 - 200.0**2) / sed.LIGHT_KMS * 4150
    kernel = np.exp(-0.5 * (x / sigma) ** 2)
    expected = np.convolve(middle, kernel / kernel.sum(), "valid")
    np.testing.assert_allclose(broad[200:-200], expected, rtol=0.02)
    assert np.std(np.diff(narrow)) > np.std(np.diff(middle)) > np.std(np.diff(broad))


def test_ivar_is_honest():
    light = 3.0 + 2.0 * np.sin(spectra.WAVE / 300.0)
    pulls = []
    for k in range(40):
        rng = np.random.default_rng([1, k])
        for arm, seen in zip(spectra.load_arms(), spectra.observe(light, 0.06, 1000.0, rng), strict=True):
            good = seen.mask == 0
            smooth = light[arm.start + spectra.MARGIN :][: arm.n]  # far wider than the line spread
            pulls.append(((seen.flux - smooth) * np.sqrt(seen.ivar))[good])
            assert (seen.ivar[~good] == 0).all()
            assert (seen.flux[~good] == 0).all()
            assert (seen.ivar[good] > 0).all()
    pull = np.concatenate(pulls)
    assert pull.mean() == pytest.approx(0, abs=0.005)
    assert pull.std() == pytest.approx(1, abs=0.005)
    assert np.mean(np.abs(pull) > 3) == pytest.approx(0.0027, abs=0.0006)


def test_brighter_light_is_noisier():
    faint, bright = (
        spectra.observe(np.full(len(spectra.WAVE), f), 0.06, 1000.0, np.random.default_rng(2))
        for f in (0.0, 50.0)
    )
    for a, b in zip(faint, bright, strict=True):
        both = (a.ivar > 0) & (b.ivar > 0)
        assert (b.ivar[both] < a.ivar[both]).all()


def test_every_exposure_adds_read_noise_to_the_blue_arm():
    def variance(exposures, moon=False):  # the draws are the same
        dark, rng = np.zeros(len(spectra.WAVE)), np.random.default_rng(3)
        arms = spectra.observe(dark, 0.06, 1000.0, rng, exposures=exposures, moon=moon)
        return np.array([np.median(1 / arm.ivar[arm.ivar > 0]) for arm in arms])

    blue = (1 + 4 * spectra.READ_SHARE_B) / (1 + spectra.READ_SHARE_B)
    np.testing.assert_allclose(variance(5) / variance(2), [blue, 1, 1], rtol=2e-3)
    moonlit = variance(5, moon=True) / variance(2, moon=True)
    assert 1 < moonlit[0] < blue  # where the sky is bright, read noise counts for less


@pytest.mark.parametrize("larger", [0.0, 0.1, 0.5, 3.0])
def test_extended_galaxies_are_too_blue_by_the_stars_of_the_calibration(larger):
    """Gaussian seeing that falls as wavelength^-0.2, a Gaussian galaxy, light in the fibre by integration."""
    radius = np.linspace(0, FIBRE_RADIUS, 4001)

    def caught(variance):
        return np.trapezoid(radius / variance * np.exp(-0.5 * radius**2 / variance), radius)

    star = next(v for v in np.linspace(0.1, 0.3, 20001) if caught(v) <= POINT_IN_FIBRE)
    wave = np.array([0.999, 1.001])
    excess = [caught(star * w**-0.4 + larger) / caught(star * w**-0.4) for w in wave]
    slope = float(np.diff(np.log(excess))[0] / np.diff(np.log(wave))[0])
    assert seeing_tilt(caught(star + larger)) == pytest.approx(slope, abs=1e-4)
    assert (slope < 0) == (larger > 0)


def test_resolution_matrix_is_the_one_applied():
    from scipy.sparse import dia_matrix

    light = np.zeros(len(spectra.WAVE))
    light[spectra.MARGIN + np.array([300, 1500, 3400, 4500, 6000, 7300])] = 1000.0
    seen = spectra.observe(light, 1e-12, 1e12, np.random.default_rng(0))
    for arm, spectrum in zip(spectra.load_arms(), seen, strict=True):
        offsets = np.arange(spectra.MARGIN, -spectra.MARGIN - 1, -1)
        matrix = dia_matrix((spectrum.resolution, offsets), (arm.n, arm.n))
        own = light[arm.start + spectra.MARGIN :][: arm.n]
        good = spectrum.mask == 0
        np.testing.assert_allclose((matrix @ own)[good], spectrum.flux[good], atol=2e-3)
        middle = np.asarray(matrix.sum(axis=1)).ravel()[10:-10]
        np.testing.assert_allclose(middle, 1, atol=1e-5)


def test_resolution_and_noise_are_those_of_real_coadds(survey_data):
    seen = 0
    for path in sorted(survey_data.glob("desi/coadd-*.fits*")):
        with fitsio.FITS(path) as hdus:
            seconds = 12.15 * hdus["SCORES"].read()["TSNR2_LRG"]
            exptime = hdus["FIBERMAP"].read()["COADD_EXPTIME"]
            ivar = {arm.name: hdus[f"{arm.name}_IVAR"].read().astype(float) for arm in spectra.load_arms()}
            resolution = {arm.name: hdus[f"{arm.name}_RESOLUTION"].read() for arm in spectra.load_arms()}
        for row in np.flatnonzero((ivar["R"] > 0).any(axis=1)):
            effective = min(seconds[row], 2 * exptime[row])
            mock = spectra.observe(
                np.zeros(len(spectra.WAVE)),
                SKY_VARIANCE_R * 1000 / effective,
                1000.0,
                np.random.default_rng(seen),
            )
            for arm, spectrum in zip(spectra.load_arms(), mock, strict=True):
                good = (ivar[arm.name][row] > 0) & (spectrum.ivar > 0)
                ratio = np.sqrt(ivar[arm.name][row][good] / spectrum.ivar[good])
                assert 0.55 < np.median(ratio) < 1.6, (path.name, row, arm.name)
                shape = np.corrcoef(np.log(ivar[arm.name][row][good]), np.log(spectrum.ivar[good]))[0, 1]
                assert shape > 0.8, (path.name, row, arm.name)
                real, own = (_width(r, arm.n // 2) for r in (resolution[arm.name][row], spectrum.resolution))
                assert own == pytest.approx(real, rel=0.12), (path.name, row, arm.name)
            seen += 1
    assert seen == 5


def _width(resolution: np.ndarray, column: int) -> float:
    profile, x = np.median(resolution[:, column - 40 : column + 40], axis=1), np.arange(5, -6, -1)
    return float(np.sqrt((profile * x**2).sum() / profile.sum()))


def test_blank_fibre_and_stuck_positioner(truth):
    sky = np.flatnonzero(truth["KIND"] == "sky")[0]
    arms = observe_row(truth[sky], int(sky), SEED)
    assert abs(np.mean([a.flux[a.mask == 0].mean() for a in arms[1:]])) < 0.2
    for kind in ("stuck", "bad_fiber"):
        row = np.flatnonzero(truth["KIND"] == kind)[0]
        assert all(
            (a.ivar == 0).all() and (a.flux == 0).all() for a in observe_row(truth[row], int(row), SEED)
        )


# --- a plain template cross-correlation in NumPy: redshifts must come out of the mock
STEP = np.log(1 + 50 / sed.LIGHT_KMS)
GRID = np.arange(np.log(3600.0), np.log(9824.0), STEP)
TEMPLATE_GRID = np.arange(np.log(2200.0), np.log(9824.0), STEP)


def running_mean(values: np.ndarray, weight: np.ndarray, width: int = 601) -> np.ndarray:
    ones = np.ones(width)
    return np.convolve(values * weight, ones, "same") / np.maximum(np.convolve(weight, ones, "same"), 1e-12)


def cross_correlate(arms: list[spectra.ArmSpectrum]) -> float:
    """Return the redshift (0.005 to 0.62) at which one of the shipped templates lowers chi2 most."""
    weight, data = np.zeros(len(GRID)), np.zeros(len(GRID))
    for arm, seen in zip(spectra.load_arms(), arms, strict=True):
        pixel = np.clip(np.round((np.log(arm.wave) - GRID[0]) / STEP).astype(int), 0, len(GRID) - 1)
        weight += np.bincount(pixel, seen.ivar, len(GRID))
        data += np.bincount(pixel, seen.ivar * seen.flux, len(GRID))
    data = np.divide(data, weight, out=np.zeros_like(data), where=weight > 0)
    data = np.where(weight > 0, data - running_mean(data, weight), 0)
    n = 2 ** int(np.ceil(np.log2(len(GRID) + len(TEMPLATE_GRID))))
    lag = np.fft.fftfreq(n, 1 / n)
    redshift = np.exp(lag * STEP + GRID[0] - TEMPLATE_GRID[0]) - 1
    allowed = (redshift > 0.005) & (redshift < 0.62)
    data_t, weight_t = np.fft.rfft(data * weight, n), np.fft.rfft(weight, n)
    best = (0.0, np.nan)
    for flux in sed.load_templates().shipped:
        template = np.interp(np.exp(TEMPLATE_GRID), sed.load_templates().wave, flux)
        smooth = running_mean(template, np.ones_like(template))
        template = template / smooth - 1
        dot = np.fft.irfft(data_t * np.conj(np.fft.rfft(template, n)), n)
        norm = np.fft.irfft(weight_t * np.conj(np.fft.rfft(template**2, n)), n)
        gain = np.where(allowed & (dot > 0) & (norm > 1e-9), dot**2 / np.maximum(norm, 1e-9), 0)
        best = max(best, (float(gain.max()), float(redshift[gain.argmax()])))
    return best[1]


def test_cross_correlation_recovers_the_redshifts_of_bright_galaxies(truth):
    rows = good_rows(truth, "BGS")
    assert len(rows) > 100
    assert (truth["ZWARN"][rows] == 0).all()
    error = [
        (cross_correlate(observe_row(truth[k], int(k), SEED)) - truth["Z_TRUE"][k]) / (1 + truth["Z_TRUE"][k])
        for k in rows
    ]
    assert np.mean(np.abs(error) < 1000 / sed.LIGHT_KMS) >= 0.95
