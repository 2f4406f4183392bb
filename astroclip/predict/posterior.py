"""What is believed about a number: quantiles, intervals, densities and their scores, for every method alike.

A posterior is a quantile function, linear between knots in normal scores: the value at level p is read at
z = Φ⁻¹(p). Beyond the outermost knots it goes on as a Gaussian does, with a width of its own. Weighted
samples become one (`from_samples`), and so does a table of quantiles, which is what calibration leaves.

Shapes: N rows, M samples, Q levels.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

INTERVALS = {"L95": 0.025, "L68": 0.16, "U68": 0.84, "U95": 0.975}
# dense in the tails; the middle 199 are evenly spread
LEVELS = np.concatenate([[0.0005, 0.001, 0.0025], np.arange(1, 200) / 200, [0.9975, 0.999, 0.9995]])
EVEN = (np.arange(100) + 0.5) / 100  # levels that stand for equal shares of the probability
GROUP_ROWS, MOST_GROUPS = 500, 5  # calibrated apart: so many rows at least, so many groups at most
CLOSE = 1e-3  # of the spread of a row's samples: two of them are told apart at this distance


def normal_score(level: ArrayLike) -> NDArray[np.float64]:
    """Return Φ⁻¹(level)."""
    return torch.special.ndtri(torch.as_tensor(np.asarray(level, np.float64))).numpy()


def normal_level(score: ArrayLike) -> NDArray[np.float64]:
    """Return Φ(score)."""
    return torch.special.ndtr(torch.as_tensor(np.asarray(score, np.float64))).numpy()


SCORES = normal_score(LEVELS)


class Posterior(NamedTuple):
    """Posteriors of N rows.

    Attributes
    ----------
    mean
        (N,) the method's own estimate; for neighbours their weighted mean. NaN where nothing is known.
    score
        (N, M) or (1, M) the knots' normal scores, ascending.
    value
        (N, M) the quantiles there, ascending; in the label's unit.
    tail
        (N,) the width with which it goes on beyond the outermost knots; > 0.
    """

    mean: NDArray[np.float64]
    score: NDArray[np.float64]
    value: NDArray[np.float64]
    tail: NDArray[np.float64]

    @classmethod
    def from_samples(
        cls,
        sample: NDArray,
        weight: NDArray | None = None,
        mean: NDArray | None = None,
        floor: float = 0.0,
    ) -> "Posterior":
        """Make posteriors of weighted samples.

        Parameters
        ----------
        sample
            (N, M). NaN: not a sample. A row of nothing but NaN has a posterior of NaN.
        weight
            (N, M), ≥ 0; by default equal.
        mean
            (N,) an estimate that is better than the mean of the samples.
        floor
            Width below which a posterior is not believed, in the label's unit: samples that are equal are
            smeared by it.
        """
        known = np.isfinite(sample)
        weight = known.astype(np.float64) if weight is None else np.where(known, weight, 0.0)
        with np.errstate(invalid="ignore"):
            weight /= weight.sum(1, keepdims=True)
        sample = np.where(known, sample, 0.0)
        centre = (weight * sample).sum(1)
        spread = np.sqrt((weight * (sample - centre[:, None]) ** 2).sum(1))
        order = np.where(weight > 0, sample, np.inf).argsort(1, kind="stable")
        sample, weight = (np.take_along_axis(a, order, 1) for a in (sample, weight))
        # what weighs nothing was sorted to the end: it repeats the last sample
        last = np.maximum((weight > 0).sum(1, keepdims=True) - 1, 0)
        kept = np.minimum(np.arange(sample.shape[1]), last)
        score = normal_score(np.clip(weight.cumsum(1) - weight / 2, 1e-9, 1 - 1e-9))
        score, sample = (np.take_along_axis(a, kept, 1) for a in (score, sample))
        tail = np.maximum(spread, max(floor, 1e-12))
        smear = np.maximum(floor, CLOSE * tail)[:, None]  # keeps the quantile function strictly rising
        return cls(centre if mean is None else mean, score, sample + smear * score, tail)

    def quantile(self, level: ArrayLike) -> NDArray[np.float64]:
        """Return the quantiles (N, Q) at levels (Q,) between 0 and 1."""
        return self.at_score(normal_score(np.atleast_1d(level)))

    def at_score(self, score: NDArray) -> NDArray[np.float64]:
        """Return the quantiles (N, Q) at normal scores (Q,), or at those of each row (N, Q)."""
        rows = len(self.value)
        wanted = np.broadcast_to(score, (rows, score.shape[-1]))
        slope = np.broadcast_to(self.tail[:, None], wanted.shape)
        return _interpolate(wanted, np.broadcast_to(self.score, self.value.shape), self.value, slope)

    def score_of(self, value: NDArray) -> NDArray[np.float64]:
        """Return the normal scores (N, Q) of values (N, Q): Φ of it is the probability of less."""
        slope = np.broadcast_to(1 / self.tail[:, None], value.shape)
        return _interpolate(value, self.value, np.broadcast_to(self.score, self.value.shape), slope)

    def std(self) -> NDArray[np.float64]:
        """Return the standard deviation (N,)."""
        return self.quantile(EVEN).std(1)

    def density(self, grid: NDArray) -> NDArray[np.float64]:
        """Return the probability density (N, G) on a grid (G,) of values, normalised on the grid."""
        edges = np.concatenate([grid[:1], (grid[1:] + grid[:-1]) / 2, grid[-1:]])
        level = normal_level(self.score_of(np.broadcast_to(edges, (len(self.value), len(edges)))))
        share = np.diff(level, axis=1)
        total = share.sum(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return share / np.diff(edges) / np.where(total > 0, total, np.nan)

    def calibrated(self, calibration: "Calibration") -> "Posterior":
        """Return posteriors in which level p stands where it stood for a share p of the truths."""
        last = len(calibration.middle) - 1
        at = np.interp(self.mean, calibration.middle, np.arange(last + 1.0))
        # a mean of NaN has quantiles of NaN, whatever the group
        lower = np.nan_to_num(np.floor(at)).astype(int)
        upper, share = np.minimum(lower + 1, last), (at - lower)[:, None]
        score = calibration.score[lower] * (1 - share) + calibration.score[upper] * share
        return Posterior(self.mean, SCORES[None], self.at_score(score), self.tail)


class Calibration(NamedTuple):
    """What mends posteriors, by their mean: what G groups of held-out rows have shown.

    Attributes
    ----------
    middle
        (G,) the median of the means in each group, ascending; between two it is interpolated.
    score
        (G, Q) the normal scores, in posteriors like these, of which a share `LEVELS` of the truths had less.
    """

    middle: NDArray[np.float64]
    score: NDArray[np.float64]

    @classmethod
    def none(cls) -> "Calibration":
        """Return one that changes nothing."""
        return cls(np.zeros(1), SCORES[None])


def calibrate(posterior: Posterior, truth: NDArray) -> Calibration:
    """Find what makes posteriors calibrated: the quantiles of the truths' normal scores in them.

    A conformal predictive distribution (Vovk et al. 2019; for redshifts Bordoloi et al. 2010, MNRAS 406,
    881, with cross-validation), in up to 5 groups of equally many rows by predicted value, so that it holds
    at low redshifts and at high ones: on rows drawn like these, intervals cover what they promise up to 1/n.
    The rows must not have taken part in making the posteriors. Rows with NaN are left out; with fewer than
    2 left, nothing is changed.
    """
    score = posterior.score_of(truth[:, None])[:, 0]
    known = np.isfinite(score)
    mean, score = posterior.mean[known], score[known]
    if len(score) < 2:
        return Calibration.none()
    groups = np.array_split(
        mean.argsort(kind="stable"), int(np.clip(len(score) // GROUP_ROWS, 1, MOST_GROUPS))
    )
    found = [Posterior.from_samples(score[None, rows]).at_score(SCORES)[0] for rows in groups]
    return Calibration(np.array([np.median(mean[rows]) for rows in groups]), np.stack(found))


def _interpolate(x: NDArray, knots: NDArray, values: NDArray, slope: NDArray) -> NDArray[np.float64]:
    """Interpolate row by row, x (N, Q) in knots (N, M); beyond them go on with `slope` (N, Q)."""
    given = (np.require(a, np.float64, ["C", "W"]) for a in (knots, values, x, slope))
    knot, value, at, steep = map(torch.from_numpy, given)
    right = torch.searchsorted(knot, at).clamp(1, max(knot.shape[1] - 1, 1)).clamp(max=knot.shape[1] - 1)
    left = (right - 1).clamp(min=0)
    x0, x1, y0, y1 = (
        knot.gather(1, left),
        knot.gather(1, right),
        value.gather(1, left),
        value.gather(1, right),
    )
    inner = y0 + (y1 - y0) * torch.where(x1 > x0, (at - x0) / (x1 - x0).clamp(min=1e-300), 0.0)
    first, last = knot[:, :1], knot[:, -1:]
    below, above = value[:, :1] + (at - first) * steep, value[:, -1:] + (at - last) * steep
    return torch.where(at < first, below, torch.where(at > last, above, inner)).numpy()
