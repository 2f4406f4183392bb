"""Shares of answers: what volunteers vote for, and the classes of any categorical label.

A class is a question all votes on which went to one answer. ``knn``: the mean fractions of the nearest
neighbours, weighted by inverse distance. ``mlp``: an ensemble trained with cross-entropy. Both are tempered
on held-out rows, so that a share says how often it happens.

Shapes: R reference rows, N rows, D width, Q questions, A answers of all questions, k neighbours.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.errors import UsageError
from astroclip.predict.heads import Ensemble, HeadSettings, train_ensemble, vote_loss
from astroclip.predict.knn import Neighbours, weigh
from astroclip.predict.numbers import CALIBRATION_ROWS, FAR, MIN_LABELS
from astroclip.schema import GALAXY_ZOO_PARENTS

METHODS = ("knn", "mlp")
TEMPERATURES = np.geomspace(0.25, 4, 33)
LEAST = 1e-6  # no share is less
Questions = dict[str, tuple[str, ...]]  # the answers of each


class VotePredictor(NamedTuple):
    """A fitted predictor of shares of answers.

    Attributes
    ----------
    method : str
    questions : dict of str to tuple of str
    neighbours : Neighbours
        Of the reference's vectors.
    fractions : ndarray
        (R, A) NaN where nobody was asked, or too few.
    network : Ensemble or None
    temperature : ndarray
        (Q,) by which log shares are divided.
    far : float
        Mean distance to the neighbours beyond which a row is out of the domain.
    """

    method: str
    questions: Questions
    neighbours: Neighbours
    fractions: NDArray[np.float64]
    network: Ensemble | None
    temperature: NDArray[np.float64]
    far: float

    def predict(self, vectors: NDArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the shares (N, A) for vectors (N, D), all finite, and which rows are out of the domain."""
        distance, index = self.neighbours.query(vectors)
        if self.network:
            raw = softmax(self.network.mean(self.neighbours.standardise(vectors)).double(), self.questions)
        else:
            raw = self.from_neighbours(distance, index)
        return temper(raw, self.questions, self.temperature), distance.mean(1) > self.far

    def from_neighbours(self, distance: NDArray, index: NDArray) -> NDArray[np.float64]:
        """Return mean fractions (N, A) of neighbours that were asked; the reference's mean counts as one."""
        weight = weigh(distance) * distance.shape[1]
        total = np.nanmean(self.fractions, axis=0)[None].repeat(len(distance), 0)
        asked = np.ones_like(total)
        for column in range(index.shape[1]):  # one neighbour of all rows at a time keeps memory small
            votes = self.fractions[index[:, column]]
            known = np.isfinite(votes)
            total += np.where(known, votes, 0) * weight[:, column, None]
            asked += known * weight[:, column, None]
        return total / asked


def fit_votes(
    vectors: NDArray,
    fractions: NDArray,
    questions: Questions,
    *,
    method: str,
    k: int = 64,
    head: HeadSettings,
    seed: int = 0,
) -> VotePredictor:
    """Fit a predictor of shares of answers on a reference, and temper it there.

    Differs from Parker+24: one network answers all questions, not one each. As published, a galaxy counts
    for a question with the largest fraction of its answers.

    Parameters
    ----------
    vectors
        (R, D), finite.
    fractions
        (R, A) those of the answers of one question after the other; NaN where nobody was asked.
    questions
        The answers of each, in the same order.

    Raises
    ------
    UsageError
        If there is no such method, or there are too few rows for it.
    """
    if method not in METHODS:
        raise UsageError(f"method '{method}': votes and classes are predicted with {' or '.join(METHODS)}")
    if method == "mlp" and len(vectors) < MIN_LABELS:
        raise UsageError(f"{len(vectors)} labels: method mlp needs {MIN_LABELS} at least. Take --method knn")
    neighbours, sizes = Neighbours(vectors, k), [len(answers) for answers in questions.values()]
    ones = np.ones(len(questions))
    fitted = VotePredictor(method, questions, neighbours, fractions, None, ones, np.inf)
    if len(vectors) < 2:
        return fitted
    rows = np.random.default_rng(seed).permutation(len(vectors))[:CALIBRATION_ROWS]
    distance, index = neighbours.query(vectors[rows], but=rows)
    if method == "mlp":
        target = torch.from_numpy(fractions).float()
        weight = torch.stack([part.amax(1) for part in target.nan_to_num().split(sizes, 1)], 1)
        loss = vote_loss(target, weight, sizes)
        x = neighbours.standardise(vectors)
        network, fold = train_ensemble(x, sum(sizes), loss, head, seed)
        fitted = fitted._replace(network=network)
        raw = softmax(network.held_out(x[rows], fold[:, rows]).mean(0).double(), questions)
    else:
        raw = fitted.from_neighbours(distance, index)
    temperature = _find_temperature(raw, fractions[rows], questions)
    return fitted._replace(temperature=temperature, far=float(np.quantile(distance.mean(1), FAR)))


def softmax(outputs: torch.Tensor, questions: Questions) -> NDArray[np.float64]:
    """Return shares (N, A) of a network's outputs (N, A)."""
    sizes = [len(answers) for answers in questions.values()]
    return torch.cat([part.softmax(1) for part in outputs.split(sizes, 1)], 1).numpy()


def temper(shares: NDArray, questions: Questions, temperature: NDArray) -> NDArray[np.float64]:
    """Return shares (N, A) with their logarithms divided by the temperature (Q,) of their question."""
    parts = []
    for part, degree in zip(split(shares, questions).values(), temperature, strict=True):
        powered = np.maximum(part, LEAST) ** (1 / degree)
        parts.append(powered / powered.sum(1, keepdims=True))
    return np.concatenate(parts, axis=1)


def split(shares: NDArray, questions: Questions) -> dict[str, NDArray]:
    """Return the columns of each question of (N, A)."""
    ends = np.cumsum([len(answers) for answers in questions.values()])
    return dict(zip(questions, np.split(shares, ends[:-1], axis=1), strict=True))


def is_reached(shares: NDArray, questions: Questions) -> dict[str, NDArray[np.bool_]]:
    """Tell for each question whether the winning answers of Galaxy Zoo's tree lead to it, (N,) each.

    A question whose parent was not predicted counts as reached.
    """
    parts = split(shares, questions)
    reached: dict[str, NDArray[np.bool_]] = {}
    for question, part in parts.items():
        reached[question] = np.ones(len(part), bool)
        at = question
        while at in GALAXY_ZOO_PARENTS and GALAXY_ZOO_PARENTS[at][0] in parts:
            at, leading = GALAXY_ZOO_PARENTS[at]
            winners = np.array(questions[at])[parts[at].argmax(1)]
            reached[question] &= np.isin(winners, leading)
    return reached


def _find_temperature(raw: NDArray, fractions: NDArray, questions: Questions) -> NDArray[np.float64]:
    """Return for each question the temperature (Q,) that makes the held-out fractions most likely."""
    truths, found = split(fractions, questions), []
    for question, part in split(raw, questions).items():
        truth, alone = truths[question], {question: questions[question]}
        known = np.isfinite(truth).all(1)
        if known.sum() < MIN_LABELS:
            found.append(1.0)
            continue
        costs = [
            -(truth[known] * np.log(temper(part[known], alone, np.array([t])))).sum(1).mean()
            for t in TEMPERATURES
        ]
        found.append(float(TEMPERATURES[int(np.argmin(costs))]))
    return np.array(found)
