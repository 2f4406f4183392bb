"""Predictions beside their truth: which columns are needed, and what metrics take of a block of rows.

Shapes: n rows of a block, L levels of quantiles.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.evaluate.metrics import (
    LEVELS,
    OUTLIER,
    Array,
    Metrics,
    Rows,
    crps,
    measure_answers,
    measure_estimates,
    normal_quantiles,
    probability_transform,
    redshift_error,
)
from astroclip.schema import GALAXY_ZOO, SFR_NAMES
from astroclip.tables.missing import Taken, to_floats, to_quantity

Block = Mapping[str, NDArray[Any]]
Usable = tuple[NDArray[np.bool_], NDArray[np.bool_]]  # rows with a truth, rows with a prediction

PUBLISHED_VOTES = 34  # a question is scored on galaxies with more votes on it (Parker et al. 2024)


@dataclass(frozen=True)
class Estimate:
    """Numbers, maybe with distributions: redshifts and properties.

    `quantiles` maps names of `metrics.LEVELS` to columns; `std`, `samples` and `mass` are columns too. With a
    `mass` (dex) the truth is the specific rate log10 SFR - log10 M*, and its column holds the rate, in
    solMass/yr or its logarithm. `taken` counts the sentinels that were read as missing.
    """

    kind: str
    name: str
    truth: str
    point: str
    quantiles: Mapping[str, str]
    std: str | None
    samples: str | None
    unit: str
    mass: str | None = None
    taken: Taken = field(default_factory=Taken)

    @property
    def against(self) -> str:
        """The column of the truth, or how it follows from two."""
        return f"log {self.truth} - {self.mass}" if self.mass else self.truth

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        others = (self.truth, self.mass, self.point, *self.quantiles.values(), self.std, self.samples)
        return list(dict.fromkeys(name for name in others if name is not None))

    def take(self, block: Block) -> tuple[Rows, Usable]:
        """Return truth, estimate, error, PIT and CRPS of the rows, NaN where one is missing."""
        truth, predicted = (self._read(block, name) for name in (self.truth, self.point))
        if self.mass:
            truth = self._specific_rate(block, truth)
        quantiles, levels = self._distribution(block, predicted)
        predicted[~np.isfinite(quantiles).all(1)] = np.nan
        known, estimated = np.isfinite(truth), np.isfinite(predicted)
        error = redshift_error(predicted, truth) if self.kind == "redshift" else predicted - truth
        rows = {"truth": truth, "predicted": predicted, "error": error}
        if len(levels):
            both = known & estimated
            for name, score in (("pit", probability_transform), ("crps", crps)):
                rows[name] = np.full(len(truth), np.nan)
                rows[name][both] = score(truth[both], quantiles[both], levels)
        return {name: values.astype(np.float32) for name, values in rows.items()}, (known, estimated)

    def measure(self, rows: Rows) -> Metrics:
        """See `metrics.measure_estimates`; only redshifts have outliers."""
        return measure_estimates(rows, OUTLIER if self.kind == "redshift" else None)

    def _distribution(self, block: Block, predicted: Array) -> tuple[Array, list[float]]:
        """Return quantiles (n, L) and their levels: of samples, as given, or of a normal; else none."""
        if self.samples:
            samples = np.sort(self._read(block, self.samples), axis=1)
            size = samples.shape[1]
            return samples, list((np.arange(size) + 0.5) / size)
        if self.quantiles:
            values = [self._read(block, column) for column in self.quantiles.values()]
            return np.stack(values, axis=1), [LEVELS[name] for name in self.quantiles]
        if self.std:
            return normal_quantiles(predicted, self._read(block, self.std)), list(LEVELS.values())
        return np.empty((len(predicted), 0)), []

    def _specific_rate(self, block: Block, rate: Array) -> Array:
        """Return log10 SFR - log10 M*, NaN without both."""
        if self.truth.upper() in SFR_NAMES:
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = np.log10(rate)
        return rate - self._read(block, str(self.mass))

    def _read(self, block: Block, column: str) -> Array:
        """Return a column as floats, NaN where it is missing or a sentinel."""
        if column == self.std:
            return to_floats(block[column], f"column '{column}'")
        known = {self.truth: self.truth, str(self.mass): str(self.mass)}
        quantity = "Z" if self.kind == "redshift" else known.get(column, self.name)
        taken = self.taken if column in (self.truth, self.mass, self.point) else Taken()
        return to_quantity(block[column], column, taken, f"column '{column}'", quantity)


@dataclass(frozen=True)
class Morphology:
    """Votes: for every question, columns of the true fractions, of the predicted ones, and of the votes."""

    truth: Mapping[str, tuple[str, ...]]
    predicted: Mapping[str, tuple[str, ...]]
    votes: Mapping[str, str]
    min_votes: int
    taken: Taken = field(default_factory=Taken)

    kind = "morphology"
    name = "morphology"
    unit = ""

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        fractions = [
            name for sides in (self.truth, self.predicted) for names in sides.values() for name in names
        ]
        return [*fractions, *self.votes.values()]

    @property
    def against(self) -> str:
        """How the columns of the truth are named."""
        ending = next(iter(self.truth.values()))[0].rpartition("_")[2]
        return f"<question>_<answer>_{ending}"

    @property
    def questions(self) -> dict[str, tuple[str, ...]]:
        """The questions that both sides answer, with their answers."""
        return {question: GALAXY_ZOO[question] for question in self.truth}

    def take(self, block: Block) -> tuple[Rows, Usable]:
        """Return the numbers of the true and of the predicted answer, -1 where there is none."""
        rows: dict[str, NDArray] = {}
        known = predicted = np.zeros(0, bool)
        for question, columns in self.truth.items():
            true, guess = (self._answer(block, names) for names in (columns, self.predicted[question]))
            if question in self.votes:
                true[~(to_floats(block[self.votes[question]]) > self.min_votes)] = -1
            rows |= {question: true, f"{question}_predicted": guess}
            known = (true >= 0) | (known if len(known) else False)
            predicted = (guess >= 0) | (predicted if len(predicted) else False)
        return rows, (known, predicted)

    def measure(self, rows: Rows) -> Metrics:
        """See `metrics.measure_answers`."""
        return measure_answers(rows, self.questions)

    def _answer(self, block: Block, columns: tuple[str, ...]) -> NDArray[np.int64]:
        """Return the number of the answer with the largest fraction; -1 where one is missing, or all 0."""
        parts = [to_quantity(block[name], name, self.taken, f"column '{name}'") for name in columns]
        fractions = np.stack(parts, axis=1)
        answered = np.isfinite(fractions).all(1) & (fractions > 0).any(1)
        return np.where(answered, np.nan_to_num(fractions).argmax(1), -1)


Target = Estimate | Morphology  # both are read and scored alike
