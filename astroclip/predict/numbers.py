"""Posteriors of numbers (redshift, masses, any label): three methods, one calibration.

``knn``: the labels of the nearest neighbours, weighted by inverse distance. ``mlp``: an ensemble's mean with
the held-out errors it makes on the nearest neighbours. ``flow``: samples of a conditional spline flow, joint
over the labels. All are then calibrated on rows that took no part (`posterior.calibrate`).

Shapes: R reference rows, N rows, D width, L labels, k neighbours, Q levels.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.predict.flow import Flows, train_flows
from astroclip.predict.heads import MEMBERS, TWINS, Ensemble, Head, number_loss, train_ensemble
from astroclip.predict.knn import Neighbours, weigh
from astroclip.predict.posterior import SCORES, Posterior, calibrate

METHODS = ("knn", "mlp", "flow")
CALIBRATION_ROWS = 10_000  # of the reference, at most; coverage is then known to half a point
FAR = 0.995  # share of the reference that lies nearer to its neighbours than what is out of the domain
MIN_LABELS = 10  # below, nothing can be learnt but from neighbours
FLOOR = 0.01  # narrowest posterior believed, as a share of the typical error of the method


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
    centre, scale : ndarray
        (L,) mean and standard deviation of the reference's labels.
    lowest, highest : ndarray
        (L,) smallest and largest of them.
    floor : ndarray
        (L,) the narrowest posterior that is believed.
    calibration : ndarray
        (L, Q) the normal scores at which the levels stand.
    far : float
        Mean distance to the neighbours beyond which a row is out of the domain.
    """

    method: str
    neighbours: Neighbours
    beside: NDArray[np.float64]
    network: Ensemble | Flows | None
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    floor: NDArray[np.float64]
    calibration: NDArray[np.float64]
    far: float

    def predict(self, vectors: NDArray) -> tuple[list[Posterior], NDArray[np.bool_]]:
        """Return one calibrated `Posterior` a label, and which rows (N,) are out of the domain.

        `vectors` are (N, D), all finite.
        """
        distance, index = self.neighbours.query(vectors)
        mean = None
        if isinstance(self.network, Ensemble):
            mean = self.network.mean(self.neighbours.standardise(vectors)).double().numpy()
            mean = mean * self.scale + self.centre
        samples = self._flow_samples(vectors) if isinstance(self.network, Flows) else None
        posteriors = _posteriors(self, distance, index, mean, samples)
        calibrated = [p.calibrated(c) for p, c in zip(posteriors, self.calibration, strict=True)]
        return calibrated, distance.mean(1) > self.far

    def _flow_samples(self, vectors: NDArray) -> NDArray[np.float64]:
        """Return samples (N, samples, L) in the labels' units."""
        assert isinstance(self.network, Flows)
        drawn = self.network.sample(self.neighbours.standardise(vectors)).double().numpy()
        return drawn * self.scale + self.centre


def fit_numbers(
    vectors: NDArray, labels: NDArray, *, method: str, k: int = 64, head: Head, seed: int = 0
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
        Of all that is drawn.

    Raises
    ------
    DataError
        If a label has no finite value, or is the same everywhere.
    UsageError
        If there are too few labels for the method.
    """
    _check(labels, method)
    neighbours = Neighbours(vectors, k)
    centre, scale = np.nanmean(labels, 0), np.nanstd(labels, 0)
    scale = np.where(scale > 0, scale, 1.0)
    fitted = NumberPredictor(
        method, neighbours, labels, None, centre, scale, np.nanmin(labels, 0), np.nanmax(labels, 0),
        FLOOR * scale, np.tile(SCORES, (labels.shape[1], 1)), np.inf,
    )  # fmt: skip
    if len(vectors) < 2:
        return fitted
    rows = np.random.default_rng(seed).permutation(len(vectors))[:CALIBRATION_ROWS]
    mean, samples, twins = None, None, None
    x, target = neighbours.standardise(vectors), torch.from_numpy((labels - centre) / scale).float()
    if method == "mlp":
        network, out = train_ensemble(x, labels.shape[1], number_loss(target), head, seed)
        twins = out.double().numpy() * scale + centre
        fitted = fitted._replace(network=network, beside=labels - twins.mean(0))
        mean = twins.mean(0)[rows]
    elif method == "flow":
        flows, unseen = train_flows(x, target, seed)
        fitted = fitted._replace(network=flows)
        rows = unseen.numpy()[:CALIBRATION_ROWS]
        samples = fitted._flow_samples(vectors[rows])
    distance, index = neighbours.query(vectors[rows], but=rows)
    fitted = fitted._replace(far=float(np.quantile(distance.mean(1), FAR)))
    estimate = np.stack([p.mean for p in _posteriors(fitted, distance, index, mean, samples)], 1)
    error = np.nanstd(labels[rows] - estimate, axis=0)
    fitted = fitted._replace(floor=np.maximum(FLOOR * error, 1e-6 * scale))
    rough = _posteriors(fitted, distance, index, mean, samples)
    found = [calibrate(p, labels[rows, i]) for i, p in enumerate(rough)]
    fitted = fitted._replace(calibration=np.stack(found))
    if twins is not None:
        fitted = fitted._replace(beside=fitted.beside * _gain(fitted.beside, twins))
    return fitted


def _gain(error: NDArray, twins: NDArray) -> NDArray[np.float64]:
    """Return by how much (L,) all members together err less than the two that were blind to a row.

    What differs between members with the same rows averages out. Their held-out outputs are `twins`
    (2, R, L), the errors of their mean `error` (R, L).
    """
    between = np.mean((twins[0] - twins[1]) ** 2, axis=0) / 2
    saved = between * (1 / TWINS - 1 / MEMBERS)
    return np.sqrt(np.clip(1 - saved / np.maximum(np.nanmean(error**2, axis=0), 1e-300), 0.25, 1))


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


def _posteriors(
    fitted: NumberPredictor,
    distance: NDArray,
    index: NDArray,
    mean: NDArray | None,
    samples: NDArray | None,
) -> list[Posterior]:
    """Return the posterior of each label, not calibrated yet."""
    result = []
    for i, floor in enumerate(fitted.floor):
        if samples is not None:
            result.append(Posterior.from_samples(samples[:, :, i], floor=floor))
        elif mean is not None:
            around = mean[:, i, None] + fitted.beside[index, i]
            result.append(Posterior.from_samples(around, mean=mean[:, i], floor=floor))
        else:
            result.append(Posterior.from_samples(fitted.beside[index, i], weigh(distance), floor=floor))
    return result
