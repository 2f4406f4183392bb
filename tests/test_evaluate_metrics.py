"""Metrics, re-derived with SciPy, scikit-learn and by hand."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import integrate, stats
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, r2_score

from astroclip.evaluate import metrics
from astroclip.evaluate.metrics import LEVELS, bootstrap, crps, normal_quantiles, probability_transform

LEVEL = np.array(list(LEVELS.values()))


def test_scatter_and_bias_by_hand():
    truth, predicted = np.array([0.0, 1.0, 3.0, 0.25]), np.array([0.1, 1.0, 2.0, 0.25])
    error = metrics.redshift_error(predicted, truth)
    assert_allclose(error, [0.1, 0.0, -0.25, 0.0])
    assert_allclose(metrics.sigma_nmad(error), 1.4826 * 0.05)
    rows = {"truth": truth, "predicted": predicted, "error": error}
    found = metrics.measure_estimates(rows, metrics.OUTLIER)
    assert found["bias"] == 0
    assert found["outliers"] == 0.25
    assert_allclose(found["r2"], r2_score(truth, predicted))
    assert set(found) == {"r2", "bias", "sigma_nmad", "outliers"}
    assert "outliers" not in metrics.measure_estimates(rows)


def test_scatter_is_the_standard_deviation_of_a_normal(rng):
    error = rng.normal(3, 0.2, 100_000)
    assert_allclose(metrics.sigma_nmad(error), 0.2, rtol=0.02)
    assert_allclose(metrics.sigma_nmad(error), stats.median_abs_deviation(error, scale="normal"), rtol=1e-4)


def test_a_constant_truth_has_no_r_squared():
    assert np.isnan(metrics.r_squared(np.array([1.0, 2.0]), np.ones(2)))


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 400), seed=st.integers(0, 2**32 - 1), power=st.floats(0.3, 3))
def test_distance_from_uniform_is_scipys(n, seed, power):
    pit = np.random.default_rng(seed).random(n) ** power
    assert_allclose(metrics.ks_uniform(pit), stats.kstest(pit, "uniform").statistic, atol=1e-12)


def test_normal_distributions_come_back_from_five_quantiles(rng):
    mean, std = rng.normal(0, 2, 500), rng.uniform(0.1, 3, 500)
    truth = mean + 3 * std * rng.normal(size=500)
    quantiles = normal_quantiles(mean, std)
    assert_allclose(quantiles, stats.norm.ppf(LEVEL, mean[:, None], std[:, None]))
    assert_allclose(
        probability_transform(truth, quantiles, LEVEL), stats.norm.cdf(truth, mean, std), atol=1e-10
    )
    z = (truth - mean) / std
    exact = std * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert_allclose(crps(truth, quantiles, LEVEL), exact, rtol=4e-3)


def test_crps_is_the_integral_it_is_defined_by():
    quantiles, truth = np.array([[0.1, 0.3, 0.5, 0.6, 0.9]]), 0.7
    grid = np.linspace(-4, 5, 40_001)
    level = probability_transform(grid, np.repeat(quantiles, len(grid), axis=0), LEVEL)
    exact = integrate.trapezoid((level - (grid >= truth)) ** 2, grid)
    assert_allclose(crps(np.array([truth]), quantiles, LEVEL), exact, rtol=5e-3)
    assert_allclose(level[np.searchsorted(grid, quantiles[0])], LEVEL, atol=2e-3)


def test_samples_are_quantiles_too(rng):
    samples = np.sort(rng.normal(1, 2, (1, 400)), axis=1)
    level = (np.arange(400) + 0.5) / 400
    truth = np.array([2.0])
    assert_allclose(probability_transform(truth, samples, level), (samples < 2).mean(), atol=3e-3)
    pairs = np.abs(samples[0][:, None] - samples[0]).mean()  # the energy form (Gneiting & Raftery 2007, 21)
    assert_allclose(crps(truth, samples, level), np.abs(samples - 2).mean() - pairs / 2, rtol=0.01)


def test_equal_quantiles_are_a_step():
    quantiles = np.array([[0.2, 0.2, 0.2, 0.2, 0.2]] * 3)
    assert_allclose(
        probability_transform(np.array([0.1, 0.2, 0.3]), quantiles, LEVEL), [0, 0.5, 1], atol=0.01
    )
    assert_allclose(crps(np.array([0.1, 0.2, 0.3]), quantiles, LEVEL), [0.1, 0, 0.1], atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_pit_rises_with_the_truth_and_crps_moves_with_the_unit(seed, scale, shift):
    rng = np.random.default_rng(seed)
    quantiles = np.sort(rng.normal(size=(1, 5)), axis=1)
    truth = np.sort(rng.normal(0, 2, 20))
    pit = probability_transform(truth, np.repeat(quantiles, 20, axis=0), LEVEL)
    assert (np.diff(pit) >= 0).all()
    assert 0 <= pit[0] <= pit[-1] <= 1
    moved = crps(truth[:1] * scale + shift, quantiles * scale + shift, LEVEL)
    assert_allclose(moved, scale * crps(truth[:1], quantiles, LEVEL), rtol=1e-4, atol=1e-9 * scale)


def test_coverage_counts_what_is_between_the_columns(rng):
    truth, quantiles = rng.normal(size=3000), normal_quantiles(np.zeros(3000), np.full(3000, 1.4))
    pit = probability_transform(truth, quantiles, LEVEL)
    for level, (low, high) in {0.68: (1, 3), 0.95: (0, 4)}.items():
        inside = (truth >= quantiles[:, low]) & (truth <= quantiles[:, high])
        assert metrics.coverage(pit, level) == inside.mean()


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 200), answers=st.integers(2, 6), seed=st.integers(0, 2**32 - 1))
def test_answers_are_scored_as_scikit_learn_does(n, answers, seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, answers, (2, n))
    counts = metrics.count_answers(truth, predicted, answers)
    np.testing.assert_array_equal(counts, confusion_matrix(truth, predicted, labels=range(answers)))
    assert_allclose(metrics.accuracy(counts), accuracy_score(truth, predicted))
    assert_allclose(
        metrics.weighted_f1(counts), f1_score(truth, predicted, average="weighted", zero_division=0)
    )


def test_questions_nobody_was_asked_have_no_score():
    none, some = np.full(4, -1), np.array([0, 1, 1, -1])
    rows = {"bar": none, "bar_predicted": some, "merging": some, "merging_predicted": np.array([0, 1, 0, 0])}
    questions = {"bar": ("a", "b"), "merging": ("a", "b")}
    found = metrics.measure_answers(rows, questions)
    assert not any(name.startswith("bar") for name in found)
    assert_allclose([found["accuracy"], found["merging_accuracy"]], 2 / 3)
    assert np.isnan(metrics.measure_answers({**rows, "merging": none}, questions)["accuracy"])


def test_bootstrap_errors_are_standard_errors(rng, monkeypatch):
    rows = {"error": rng.normal(0, 2, 5000)}

    def measure(rows):
        return {"mean": rows["error"].mean(), "nothing": np.nan}

    errors = bootstrap(measure, rows, 400, seed=1)
    assert_allclose(errors["mean"], 2 / np.sqrt(5000), rtol=0.15)
    assert np.isnan(errors["nothing"])
    assert bootstrap(measure, rows, 400, seed=1)["mean"] == errors["mean"]
    assert bootstrap(measure, rows, 400, seed=2)["mean"] != errors["mean"]
    monkeypatch.setattr(metrics, "BOOTSTRAP_ROWS", 500)
    assert_allclose(bootstrap(measure, rows, 400)["mean"], 2 / np.sqrt(5000), rtol=0.15)
