"""Posteriors, against weighted samples, Gaussians and plain NumPy."""

from math import erf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.evaluate.metrics import crps
from astroclip.predict.posterior import LEVELS, SCORES, Posterior, calibrate, normal_level, normal_score


def gaussian(mean, width) -> Posterior:
    """Return Gaussian posteriors exactly: a line in normal scores."""
    mean, width = np.atleast_1d(mean).astype(float), np.atleast_1d(width).astype(float)
    return Posterior(mean, SCORES[None], mean[:, None] + width[:, None] * SCORES, width)


def test_scores_and_levels_are_each_other_s_inverse():
    np.testing.assert_allclose(normal_level(normal_score(LEVELS)), LEVELS, atol=1e-12)
    np.testing.assert_allclose(normal_level([1.0]), [(1 + erf(1 / np.sqrt(2))) / 2])


def pit_of(posterior: Posterior, truth: np.ndarray) -> np.ndarray:
    """The probability integral transform: uniform if all is right."""
    return normal_level(posterior.score_of(np.asarray(truth)[:, None])[:, 0])


def test_a_gaussian_has_its_quantiles_spread_and_scores(rng):
    mean, width = rng.normal(size=40), rng.uniform(0.1, 2, 40)
    posterior = gaussian(mean, width)
    np.testing.assert_allclose(posterior.quantile([0.5])[:, 0], mean, atol=1e-9)
    np.testing.assert_allclose(posterior.std(), width, rtol=0.02)
    truth = mean + width * rng.normal(size=40)
    score = (truth - mean) / width
    np.testing.assert_allclose(pit_of(posterior, truth), normal_level(score), atol=1e-9)
    # closed form of the CRPS of a Gaussian (Gneiting & Raftery 2007)
    density = np.exp(-0.5 * score**2) / np.sqrt(2 * np.pi)
    exact = width * (score * (2 * normal_level(score) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(crps(truth, posterior.quantile(LEVELS), LEVELS), exact, rtol=0.03, atol=0.01)


def test_a_density_is_that_of_the_gaussian_and_is_normalised():
    grid = np.linspace(0, 3, 301)
    density = gaussian([1.0, 1.5], [0.1, 0.2]).density(grid)
    expected = np.exp(-0.5 * ((grid - 1) / 0.1) ** 2) / (0.1 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(density[0], expected, atol=0.05)
    np.testing.assert_allclose(np.trapezoid(density, grid, axis=1), 1, atol=1e-3)


@settings(deadline=None, max_examples=40)
@given(
    samples=st.integers(1, 70),
    missing=st.floats(0, 0.9),
    equal=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_quantiles_rise_and_probabilities_are_their_inverse(samples, missing, equal, seed):
    rng = np.random.default_rng(seed)
    sample = np.ones((5, samples)) if equal else rng.normal(size=(5, samples))
    weight = rng.exponential(size=sample.shape)
    sample[:, 1:][rng.random((5, samples - 1)) < missing] = np.nan
    posterior = Posterior.from_samples(sample, weight, floor=1e-3)
    values = posterior.quantile(LEVELS)
    assert np.all(np.diff(values, axis=1) > 0)
    middle = posterior.quantile([0.3])[:, 0]
    np.testing.assert_allclose(pit_of(posterior, middle), 0.3, atol=1e-6)


def test_weighted_samples_give_weighted_quantiles(rng):
    sample = rng.normal(size=(1, 4001))
    posterior = Posterior.from_samples(sample)
    np.testing.assert_allclose(
        posterior.quantile([0.025, 0.16, 0.5, 0.84])[0],
        np.quantile(sample, [0.025, 0.16, 0.5, 0.84]),
        atol=0.01,
    )
    doubled = Posterior.from_samples(np.array([[0.0, 1.0, 2.0]]), np.array([[1.0, 0.0, 1.0]]))
    np.testing.assert_allclose(doubled.mean, 1)
    assert pit_of(doubled, np.array([1.0]))[0] == pytest.approx(0.5)


def test_nothing_known_is_nothing_said():
    posterior = Posterior.from_samples(np.array([[np.nan, np.nan], [1.0, 2.0]]))
    assert np.isnan(posterior.mean[0])
    assert np.isfinite(posterior.mean[1])


@pytest.mark.parametrize(("bias", "width"), [(0.0, 0.3), (0.5, 1.0), (0.0, 4.0)])
def test_calibration_mends_bias_and_width(rng, bias, width):
    """Posteriors that are too narrow, too wide or shifted cover what they promise on new rows."""
    truth, new = rng.normal(size=4000), rng.normal(size=4000)
    wrong = gaussian(np.full(4000, bias), np.full(4000, width))
    mended = wrong.calibrated(calibrate(wrong, truth))
    low, high = mended.quantile([0.16, 0.84]).T
    assert np.mean((new > low) & (new < high)) == pytest.approx(0.68, abs=0.03)
    low, high = mended.quantile([0.025, 0.975]).T
    assert np.mean((new > low) & (new < high)) == pytest.approx(0.95, abs=0.015)
    pit = np.sort(pit_of(mended, new))
    assert np.abs(pit - np.arange(1, 4001) / 4001).max() < 0.04


def test_one_truth_calibrates_nothing():
    posterior = gaussian([0.0], [1.0])
    calibration = calibrate(posterior, np.array([1.0]))
    np.testing.assert_array_equal(posterior.calibrated(calibration).value, posterior.at_score(SCORES))


def test_what_is_wrong_at_high_values_only_is_mended_there(rng):
    """Too wide at low values, too narrow at high ones: both cover what they promise when calibrated."""
    mean = rng.uniform(0, 1, (2, 6000))
    truth = mean + rng.normal(size=mean.shape) * (0.05 + 0.2 * mean)
    posterior, new = (gaussian(m, np.full(6000, 0.15)) for m in mean)
    low, high = new.calibrated(calibrate(posterior, truth[0])).quantile([0.16, 0.84]).T
    for start in (0, 0.25, 0.5, 0.75):
        part = (mean[1] >= start) & (mean[1] < start + 0.25)
        inside = (truth[1] > low) & (truth[1] < high)
        assert inside[part].mean() == pytest.approx(0.68, abs=0.05)
        was = np.abs(truth[1] - mean[1])[part] < 0.15
        assert start in (0.25, 0.5) or was.mean() != pytest.approx(0.68, abs=0.05)
