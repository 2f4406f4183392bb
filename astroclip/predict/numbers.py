"""Posteriors of numbers (redshift, masses, any label): three methods, one calibration.

``knn``: the labels of the nearest neighbours, weighted by inverse distance. ``mlp``: an ensemble's mean with
the held-out errors it makes on the nearest neighbours; of redshifts the shares it gives to bins. ``flow``:
samples of a conditional spline flow, joint
over the labels. All are then calibrated on rows that took no part (`posterior.calibrate`).

Shapes: R reference rows, N rows, D width, L labels, k neighbours, Q levels.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.predict.flow import Flows, train_flows
from astroclip.predict.heads import (
    CUTS,
    MEMBERS,
    Ensemble,
    HeadSettings,
    bin_loss,
    number_loss,
    train_ensemble,
)
from astroclip.predict.knn import Neighbours, weigh
from astroclip.predict.posterior import Calibration, Posterior, calibrate

METHODS = ("knn", "mlp", "flow")
CALIBRATION_ROWS = 10_000  # of the reference, at most; coverage is then known to half a point
FAR = 0.995  # share of the reference that lies nearer to its neighbours than what is out of the domain
MIN_LABELS = 10  # below, nothing can be learnt but from neighbours
MARGIN = 0.05  # by which bins reach beyond the labels, in units of their range
FLOOR = 0.01  # narrowest posterior believed, as a share of the typical error of the method


class LabelScale(NamedTuple):
    """What networks learn of labels: they are standardised, redshifts as ln(1 + z).

    Attributes
    ----------
    centre, scale : ndarray
        (L,) mean and standard deviation of the reference's labels, or of ln(1 + z).
    redshift : bool
    bins : ndarray
        (K,) centres of the bins whose shares a network puts out, standardised, evenly spaced; empty where it
        puts out the labels themselves.
    """

    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    redshift: bool
    bins: NDArray[np.float64]

    @classmethod
    def of(cls, labels: NDArray, redshift: bool, bins: int = 0) -> "LabelScale":
        """Return that of labels (R, L); with `bins` L is 1."""
        learnt = np.log1p(labels) if redshift else labels
        scale = np.nanstd(learnt, 0)
        target = cls(np.nanmean(learnt, 0), np.where(scale > 0, scale, 1.0), redshift, np.zeros(0))
        if not bins:
            return target
        low, high = float(np.nanmin(learnt)), float(np.nanmax(learnt))
        margin = max(MARGIN * (high - low), 1e-3)
        low, high = max(low - margin, min(low, 0.0)) if redshift else low - margin, high + margin
        first, last = ((end - target.centre[0]) / target.scale[0] for end in (low, high))
        return target._replace(bins=np.linspace(first, last, bins))

    def of_labels(self, labels: NDArray) -> torch.Tensor:
        """Return what is learnt of labels (..., L)."""
        learnt = np.log1p(labels) if self.redshift else labels
        return torch.from_numpy((learnt - self.centre) / self.scale).float()

    def place(self, labels: NDArray) -> torch.Tensor:
        """Return where labels (R, 1) are among the bins, (R,) in bins from the first."""
        return (self.of_labels(labels)[:, 0] - self.bins[0]) / (self.bins[1] - self.bins[0])

    def to_labels(self, outputs: torch.Tensor) -> NDArray[np.float64]:
        """Return the labels (..., L) that a network's outputs mean."""
        learnt = outputs.double().numpy() * self.scale + self.centre
        return np.expm1(learnt) if self.redshift else learnt

    def from_outputs(self, outputs: torch.Tensor) -> "Drawn":
        """Return what the outputs (N, L or K) of an ensemble mean."""
        if not len(self.bins):
            return Drawn(self.to_labels(outputs)[:, None], None)
        values = self.to_labels(torch.from_numpy(self.bins)[:, None])
        share = outputs.double().softmax(1).numpy()
        return Drawn(np.broadcast_to(values, (len(share), *values.shape)), share)


class Drawn(NamedTuple):
    """What a network says of N rows: samples (N, M, L), and their weights (N, M) or None for equal ones."""

    sample: NDArray[np.float64]
    weight: NDArray[np.float64] | None


class NumberPredictor(NamedTuple):
    """A fitted predictor of L numbers.

    Attributes
    ----------
    method : str
    neighbours : Neighbours
        Of the reference's vectors.
    beside : ndarray
        (R, L) what each neighbour contributes: its label (knn) or the held-out error on it (mlp); NaN where
        there is none.
    network : Ensemble, Flows or None
    target : LabelScale
        Of the network.
    lowest, highest : ndarray
        (L,) smallest and largest of the reference's labels.
    floor : ndarray
        (L,) the narrowest posterior that is believed.
    calibration : list of Calibration
        Of each label.
    far : float
        Mean distance to the neighbours beyond which a row is out of the domain.
    """

    method: str
    neighbours: Neighbours
    beside: NDArray[np.float64]
    network: Ensemble | Flows | None
    target: LabelScale
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    floor: NDArray[np.float64]
    calibration: list[Calibration]
    far: float

    def predict(self, vectors: NDArray) -> tuple[list[Posterior], NDArray[np.bool_]]:
        """Return one calibrated `Posterior` a label, and which rows (N,) are out of the domain.

        `vectors` are (N, D), all finite.
        """
        distance, index = self.neighbours.query(vectors)
        drawn = _draw(self, self.neighbours.standardise(vectors))
        posteriors = _posteriors(self, distance, index, drawn)
        calibrated = [p.calibrated(c) for p, c in zip(posteriors, self.calibration, strict=True)]
        return calibrated, distance.mean(1) > self.far


def fit_numbers(
    vectors: NDArray,
    labels: NDArray,
    *,
    method: str,
    k: int = 64,
    head: HeadSettings,
    seed: int = 0,
    redshift: bool = False,
) -> NumberPredictor:
    """Fit a predictor of numbers on a reference, and calibrate it there.

    Parameters
    ----------
    vectors
        (R, D), finite.
    labels
        (R, L); NaN where a row has no label. A row should have one at least.
    method
        One of `METHODS`.
    k
        Neighbours.
    head
        Sizes of the networks of ``mlp``.
    seed
        Random seed.
    redshift
        Whether the labels are redshifts, all > -1.

    Raises
    ------
    DataError
        If a label has no finite value.
    UsageError
        If there are too few labels for the method.
    """
    _check(labels, method)
    bins = head.bins if method == "mlp" else 0
    neighbours, target = Neighbours(vectors, k), LabelScale.of(labels, redshift, bins)
    spread = np.nanstd(labels, 0)
    spread = np.where(spread > 0, spread, 1.0)
    fitted = NumberPredictor(
        method, neighbours, labels, None, target, np.nanmin(labels, 0), np.nanmax(labels, 0),
        FLOOR * spread, [Calibration.none()] * labels.shape[1], np.inf,
    )  # fmt: skip
    if len(vectors) < 2:
        return fitted
    if method == "mlp":
        return _fit_ensemble(fitted, labels, head, seed)
    if method == "flow":
        flows, unseen = train_flows(neighbours.standardise(vectors), target.of_labels(labels), seed)
        fitted = fitted._replace(network=flows)
        return _calibrated(fitted, labels, unseen.numpy()[:CALIBRATION_ROWS])
    return _calibrated(fitted, labels, _some_rows(len(vectors), seed))


def _some_rows(rows: int, seed: int) -> NDArray[np.int64]:
    """Draw rows to calibrate on."""
    return np.random.default_rng(seed).permutation(rows)[:CALIBRATION_ROWS]


def _fit_ensemble(fitted: NumberPredictor, labels: NDArray, head: HeadSettings, seed: int) -> NumberPredictor:
    """Train an ensemble, and calibrate it with what its members say of rows they have not seen."""
    x, target = fitted.neighbours.standardise(fitted.neighbours.reference), fitted.target
    rows = _some_rows(len(labels), seed)
    if len(target.bins):
        network, fold = train_ensemble(x, head.bins, bin_loss(target.place(labels), head.bins), head, seed)
        blind = target.from_outputs(network.held_out(x[rows], fold[:, rows]).mean(0))
        return _calibrated(fitted._replace(network=network), labels, rows, blind)
    loss = number_loss(target.of_labels(labels))
    network, fold = train_ensemble(x, labels.shape[1], loss, head, seed)
    both = target.to_labels(network.held_out(x, fold))
    error = labels - both.mean(0)
    fitted = fitted._replace(network=network, beside=error)
    fitted = _calibrated(fitted, labels, rows, Drawn(both.mean(0)[rows, None], None))
    return fitted._replace(beside=error * _gain(error, both))


def _calibrated(
    fitted: NumberPredictor, labels: NDArray, rows: NDArray[np.int64], drawn: Drawn | None = None
) -> NumberPredictor:
    """Calibrate a predictor on rows that took no part in it; none is its own neighbour."""
    vectors, spread = fitted.neighbours.reference[rows], fitted.floor / FLOOR
    distance, index = fitted.neighbours.query(vectors, but=rows)
    drawn = _draw(fitted, fitted.neighbours.standardise(vectors)) if drawn is None else drawn
    estimate = np.stack([p.mean for p in _posteriors(fitted, distance, index, drawn)], 1)
    error = np.nanstd(labels[rows] - estimate, axis=0)
    fitted = fitted._replace(
        floor=np.maximum(FLOOR * error, 1e-6 * spread), far=float(np.quantile(distance.mean(1), FAR))
    )
    rough = _posteriors(fitted, distance, index, drawn)
    return fitted._replace(calibration=[calibrate(p, labels[rows, i]) for i, p in enumerate(rough)])


def _gain(error: NDArray, blind: NDArray) -> NDArray[np.float64]:
    """Return by how much (L,) all members err less than the two that are `blind` (2, R, L) to a row."""
    # what differs between members averages out; outliers would hide it, so widths are median deviations
    between = _width(blind[0] - blind[1]) ** 2 / 2
    saved = between * (1 / CUTS - 1 / MEMBERS)
    return np.sqrt(np.clip(1 - saved / np.maximum(_width(error) ** 2, 1e-300), 0.25, 1))


def _width(error: NDArray) -> NDArray[np.float64]:
    """Return the median absolute deviation (L,) of (R, L), without NaN."""
    return np.nanmedian(np.abs(error - np.nanmedian(error, axis=0)), axis=0)


def _check(labels: NDArray, method: str) -> None:
    """Refuse what cannot be learnt from."""
    if method not in METHODS:
        raise UsageError(f"method '{method}': expected one of {', '.join(METHODS)}")
    known = np.isfinite(labels).sum(0)
    if not known.all():
        raise DataError("the reference has a label without one finite value")
    if method != "knn" and known.min() < MIN_LABELS:
        raise UsageError(
            f"{known.min()} labels: method {method} needs {MIN_LABELS} at least. Take --method knn, "
            "or label more"
        )


def _draw(fitted: NumberPredictor, x: torch.Tensor) -> Drawn | None:
    """Return what the network says of x (N, D): an ensemble its mean or its bins, a flow samples."""
    if isinstance(fitted.network, Ensemble):
        return fitted.target.from_outputs(fitted.network.mean(x))
    return Drawn(fitted.target.to_labels(fitted.network.sample(x)), None) if fitted.network else None


def _posteriors(
    fitted: NumberPredictor, distance: NDArray, index: NDArray, drawn: Drawn | None
) -> list[Posterior]:
    """Return the posterior of each label, not calibrated yet."""
    result = []
    for i, floor in enumerate(fitted.floor):
        beside = fitted.beside[index, i]
        if drawn is None:
            result.append(Posterior.from_samples(beside, weigh(distance), floor=floor))
        elif isinstance(fitted.network, Ensemble) and drawn.weight is None:
            mean = drawn.sample[:, 0, i]
            result.append(Posterior.from_samples(mean[:, None] + beside, mean=mean, floor=floor))
        else:
            result.append(Posterior.from_samples(drawn.sample[:, :, i], drawn.weight, floor=floor))
    return result
