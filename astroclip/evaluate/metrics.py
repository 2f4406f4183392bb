"""Measures of predictions against the truth, in plain NumPy.

A predicted distribution is a set of quantiles. Between two of them the normal score of the level is linear in
the value, and beyond the outermost the slope goes on: quantiles of a normal distribution give that normal
back exactly, and many samples give their own distribution. What is judged shares no code with its judge:
`predict.posterior` does its own sums.

Shapes: n galaxies, L levels of quantiles, A answers of a question.
"""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Rows = Mapping[str, NDArray]  # what is known of each galaxy: arrays of one length
Metrics = dict[str, float]

LEVELS = {"L95": 0.025, "L68": 0.16, "MEDIAN": 0.5, "U68": 0.84, "U95": 0.975}
CENTRAL = {68: 0.68, 95: 0.95}  # between L68 and U68, L95 and U95
OUTLIER = 0.15  # |dz| / (1 + z) beyond which a redshift is an outlier (Hildebrandt et al. 2010)
ASKED = 10  # galaxies that a question needs to count in the mean over questions
RECALLED = (1, 5, 10, 50)  # k of recall@k
BOOTSTRAP_ROWS = 20_000  # drawn at most in a resample

_CRPS_LEVELS = 200
_erf = np.frompyfunc(math.erf, 1, 1)


def redshift_error(predicted: ArrayLike, truth: ArrayLike) -> Array:
    """Return (z_predicted - z_true) / (1 + z_true), (n,)."""
    z = np.asarray(truth, float)
    return (np.asarray(predicted, float) - z) / (1 + z)


def r_squared(predicted: Array, truth: Array) -> float:
    """Return 1 - sum of squared residuals / sum of squares about the mean truth; NaN if it is constant."""
    spread = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((predicted - truth) ** 2).sum()) / spread if spread else math.nan


def sigma_nmad(error: Array) -> float:
    """Return 1.4826 times the median absolute deviation from the median."""
    return 1.4826 * float(np.median(np.abs(error - np.median(error))))


def ks_uniform(pit: Array) -> float:
    """Return the Kolmogorov-Smirnov distance of values from the uniform distribution on 0 to 1."""
    u, n = np.sort(pit), len(pit)
    steps = np.arange(n + 1) / n
    return float(max((steps[1:] - u).max(), (u - steps[:-1]).max()))


def normal_quantiles(mean: Array, std: Array) -> Array:
    """Return quantiles (n, L) of normal distributions at `LEVELS`."""
    return mean[:, None] + std[:, None] * _scores(list(LEVELS.values()))


def probability_transform(truth: Array, quantiles: Array, levels: ArrayLike) -> Array:
    """Return the PIT (n,): the level at which the truth lies in each predicted distribution.

    Where quantiles are equal the distribution has a step there, and a truth on it gets the middle level.

    Parameters
    ----------
    truth
        (n,), finite.
    quantiles
        (n, L), finite, L at least 2; crossing ones are sorted.
    levels
        (L,), ascending.
    """
    knots, scores = np.sort(quantiles, axis=1), _scores(levels)
    above = np.clip((knots < truth[:, None]).sum(1), 1, len(scores) - 1)
    low, high = (np.take_along_axis(knots, at[:, None], 1)[:, 0] for at in (above - 1, above))
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (truth - low) / (high - low)
    score = scores[above - 1] + along * (scores[above] - scores[above - 1])
    on_step = np.isnan(along)
    equal = knots[on_step] == truth[on_step, None]
    ends = (equal.argmax(1), len(scores) - 1 - equal[:, ::-1].argmax(1))
    score[on_step] = (scores[ends[0]] + scores[ends[1]]) / 2
    return 0.5 * (1 + _erf(score / math.sqrt(2)).astype(float))


def crps(truth: Array, quantiles: Array, levels: ArrayLike) -> Array:
    """Return the continuous ranked probability score (n,) in the unit of the truth; 0 is perfect.

    It is twice the mean pinball loss over all levels (Gneiting & Raftery 2007), here over 200 of them: the
    score of a normal distribution comes out to 0.2 %. Parameters as `probability_transform`.
    """
    knots, scores = np.sort(quantiles, axis=1), _scores(levels)
    wanted = (np.arange(_CRPS_LEVELS) + 0.5) / _CRPS_LEVELS
    at = _scores(wanted)
    above = np.clip(np.searchsorted(scores, at), 1, len(scores) - 1)
    along = (at - scores[above - 1]) / (scores[above] - scores[above - 1])
    mixing = np.zeros((len(scores), _CRPS_LEVELS))  # quantiles at the wanted levels are mixtures of the knots
    np.add.at(mixing, (above - 1, np.arange(_CRPS_LEVELS)), 1 - along)
    np.add.at(mixing, (above, np.arange(_CRPS_LEVELS)), along)
    beyond = truth[:, None] - knots @ mixing
    return 2 * np.maximum(wanted * beyond, (wanted - 1) * beyond).mean(1)


def coverage(pit: Array, level: float) -> float:
    """Return the fraction of truths inside the central interval that should hold a `level` of them."""
    return float((np.abs(pit - 0.5) <= level / 2 + 1e-6).mean())  # a truth on the edge is inside


def measure_estimates(rows: Rows, outlier: float | None = None) -> Metrics:
    """Return the metrics of numbers, and of their distributions where there are any.

    Parameters
    ----------
    rows
        `truth`, `predicted`, `error` (for redshifts `redshift_error`, else the residual); with distributions
        `pit` and `crps`. All (n,), finite.
    outlier
        Error beyond which an estimate is an outlier; None: they are not counted.

    Returns
    -------
    dict
        ``r2``, ``bias`` (median error), ``sigma_nmad``, ``outliers`` (fraction), ``crps`` (mean), ``pit_ks``,
        ``coverage_68`` (of the 16 to 84 % interval), ``coverage_95`` (2.5 to 97.5 %).
    """
    error, truth = rows["error"], rows["truth"].astype(float)
    found = {
        "r2": r_squared(rows["predicted"].astype(float), truth),
        "bias": float(np.median(error)),
        "sigma_nmad": sigma_nmad(error),
    }
    if outlier is not None:
        found["outliers"] = float((np.abs(error) > outlier).mean())
    if "pit" in rows:
        pit = rows["pit"].astype(float)
        found |= {"crps": float(rows["crps"].mean()), "pit_ks": ks_uniform(pit)}
        found |= {f"coverage_{level}": coverage(pit, width) for level, width in CENTRAL.items()}
    return found


def count_answers(truth: NDArray, predicted: NDArray, answers: int) -> NDArray[np.int64]:
    """Return the confusion matrix (A, A): rows the true answer, columns the predicted; -1 is left out."""
    known = (truth >= 0) & (predicted >= 0)
    cells = np.bincount(truth[known] * answers + predicted[known], minlength=answers**2)
    return cells.reshape(answers, answers)


def accuracy(confusion: NDArray) -> float:
    """Return the fraction of right answers; NaN without any."""
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else math.nan


def weighted_f1(confusion: NDArray) -> float:
    """Return the mean F1 of the answers, weighted by how often each is true; 0 for one never predicted."""
    true, predicted = confusion.sum(1), confusion.sum(0)
    f1 = 2 * np.diag(confusion) / np.maximum(true + predicted, 1)
    return float((f1 * true).sum() / true.sum()) if true.sum() else math.nan


def measure_answers(rows: Rows, questions: Mapping[str, tuple[str, ...]]) -> Metrics:
    """Return accuracy and weighted F1 of every question that was asked, and their means over questions.

    A question of less than `ASKED` galaxies is not in the means, unless all are so. `rows` has ``<question>``
    and ``<question>_predicted``: the number of the answer, -1 for none.
    """
    found: Metrics = {}
    asked: list[tuple[float, float]] = []
    often: list[bool] = []
    for question, answers in questions.items():
        confusion = count_answers(rows[question], rows[f"{question}_predicted"], len(answers))
        if confusion.any():
            asked.append((accuracy(confusion), weighted_f1(confusion)))
            often.append(bool(confusion.sum() >= ASKED))
            found |= {f"{question}_accuracy": asked[-1][0], f"{question}_f1": asked[-1][1]}
    counted = [one for one, enough in zip(asked, often, strict=True) if enough] or asked
    means = np.mean(counted, axis=0) if counted else (math.nan, math.nan)
    return {"accuracy": float(means[0]), "f1": float(means[1]), **found}


def measure_ranks(rows: Rows) -> Metrics:
    """Return recall@k of each direction: the fraction of galaxies with fewer than k others before their own.

    `rows` has, by direction, how many candidates are nearer than the galaxy's own partner (n,).
    """
    return {
        f"{direction}_recall{k}": float((ranks <= k - 1).mean())
        for direction, ranks in rows.items()
        for k in RECALLED
    }


def bootstrap(measure: Callable[[Rows], Metrics], rows: Rows, resamples: int = 200, seed: int = 0) -> Metrics:
    """Return the standard error of each metric: its standard deviation over resamples of the galaxies.

    Of more than `BOOTSTRAP_ROWS` galaxies, so many are drawn and errors scaled by the root of the ratio: the
    m out of n bootstrap (Bickel et al. 1997), which bounds the time.
    """
    n = len(next(iter(rows.values())))
    size = min(n, BOOTSTRAP_ROWS)
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        drawn = rng.integers(0, n, size)
        for name, value in measure({key: values[drawn] for key, values in rows.items()}).items():
            found.setdefault(name, []).append(value)
    scale = math.sqrt(size / n)
    return {
        name: scale * float(np.std([value for value in values if np.isfinite(value)] or [math.nan]))
        for name, values in found.items()
    }


def _scores(levels: ArrayLike) -> Array:
    """Return the normal scores of levels between 0 and 1."""
    return np.array([NormalDist().inv_cdf(float(level)) for level in np.atleast_1d(np.asarray(levels))])
