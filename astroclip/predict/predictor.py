"""A predictor: a reference's vectors and labels, fitted and calibrated, ready for any number of rows.

Shapes: R reference rows, N rows, D width.
"""

import logging
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.predict.agreement import Agreement, fit_agreement
from astroclip.predict.label_columns import HEADS, ReferenceLabels
from astroclip.predict.numbers import NumberPredictor, fit_numbers
from astroclip.predict.posterior import INTERVALS, Posterior
from astroclip.predict.reference import BLOCK, EMBEDDINGS, Reference
from astroclip.predict.votes import VotePredictor, fit_votes, is_reached, split
from astroclip.schema import DISAGREEMENT, PREDICT_FLAG, PROPERTIES, ColumnSpec, PredictFlag
from astroclip.tables.missing import to_floats

logger = logging.getLogger(__name__)
ENOUGH_LABELS = 50  # with fewer, calibration is rough
MLP_LABELS = 30  # from here on an ensemble beats neighbours (benchmarks/predict.py)
NEIGHBOURS = 64  # as published


class Predictor(NamedTuple):
    """What turns vectors into columns.

    Attributes
    ----------
    task
        One of `labels.TASKS`.
    inputs
        The columns that make the vector, side by side.
    widths
        Their numbers of elements.
    labels
        Names, units, columns and questions; its values are not kept.
    fitted
        Of numbers, or of votes and classes.
    agreement
        Of images and spectra, where the reference has both.
    reference, model, digest
        Where the labels come from, and the model that embedded them.
    rows
        Reference rows used.
    few
        Whether these are too few (`PredictFlag.FEW_LABELS`).
    notes
        What a user should know of the reference: how many rows with a vector have a label, and
        `ReferenceLabels.notes`.
    """

    task: str
    inputs: tuple[str, ...]
    widths: tuple[int, ...]
    labels: ReferenceLabels
    fitted: NumberPredictor | VotePredictor
    agreement: Agreement | None
    reference: str
    model: str
    digest: str
    rows: int
    few: bool
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the predicted numbers are called: redshifts from images alone as the Legacy Survey does."""
        if self.task != "redshift":
            return self.labels.names
        # another vector than embeddings may be anything: it counts as more than an image
        return ("Z_PHOT",) if self.inputs == (EMBEDDINGS[0],) else ("Z_PRED",)

    def columns(self) -> list[ColumnSpec]:
        """Describe the columns that `predict` fills, in order."""
        if isinstance(self.fitted, NumberPredictor):
            columns = self._number_columns()
        elif self.task == "morphology":
            columns = _vote_columns(self.fitted.questions)
        else:
            columns = _class_columns(self.labels.names[0], self.fitted.questions[self.labels.names[0]])
        flag = ColumnSpec(PREDICT_FLAG, "i4", comment="bit mask, see astroclip PredictFlag")
        score = ColumnSpec(
            DISAGREEMENT, "f4", comment="sigmas by which image and spectrum fit worse than usual"
        )
        return [*columns, *([score] if self.agreement else []), flag]

    def _number_columns(self) -> list[ColumnSpec]:
        """Describe the columns of numbers."""
        said = {spec.name: spec.comment for spec in PROPERTIES}
        columns = []
        for name, unit in zip(self.names, self.labels.units, strict=True):
            what = "redshift" if self.task == "redshift" else said.get(name, name)
            first = {"MEAN": f"{what}, mean", "MEDIAN": f"{what}, median"}
            first = first if self.task == "redshift" else {"PRED": f"{what}, mean"}
            comments = first | {"STD": f"{what}, standard deviation"}
            comments |= {
                end: f"{what}, {INTERVALS[end]:.1%} quantile" for end in ("L68", "U68", "L95", "U95")
            }
            columns += [ColumnSpec(f"{name}_{end}", "f4", (), unit, text) for end, text in comments.items()]
        return columns

    def predict(
        self, vectors: NDArray, pairs: tuple[NDArray, NDArray] | None = None
    ) -> tuple[dict[str, NDArray], list[Posterior]]:
        """Return the columns of some rows, and the posteriors of the usable ones.

        Parameters
        ----------
        vectors
            (N, D). A row with a missing value gets NaN and a flag.
        pairs
            Embeddings of images and of spectra, (N, D) each; needed with an `agreement`.
        """
        usable = np.isfinite(vectors).all(1)
        flag = np.where(usable, 0, PredictFlag.NO_EMBEDDING).astype(np.int32)
        if self.few:
            flag[usable] |= PredictFlag.FEW_LABELS
        if isinstance(self.fitted, NumberPredictor):
            posteriors, far = self.fitted.predict(vectors[usable])
            found = self._number_values(posteriors)
            flag[np.flatnonzero(usable)[self._extrapolated(posteriors)]] |= PredictFlag.EXTRAPOLATED
        else:
            posteriors = []
            shares, far = self.fitted.predict(vectors[usable])
            found = self._vote_values(shares)
        flag[np.flatnonzero(usable)[far]] |= PredictFlag.OUT_OF_DOMAIN
        values = {name: _spread_out(value, usable) for name, value in found.items()}
        if self.agreement and pairs:
            values[DISAGREEMENT] = self.agreement.disagreement(*pairs).astype(np.float32)
            flag[values[DISAGREEMENT] > self.agreement.limit] |= PredictFlag.DISAGREEMENT
        return {**values, PREDICT_FLAG: flag}, posteriors

    def _number_values(self, posteriors: list[Posterior]) -> dict[str, NDArray]:
        """Return the columns of numbers, of usable rows."""
        values: dict[str, NDArray] = {}
        for name, posterior in zip(self.names, posteriors, strict=True):
            quantile = posterior.quantile([*INTERVALS.values(), 0.5]).T
            if self.task == "redshift":  # galaxies do not come towards us that fast
                quantile = np.maximum(quantile, min(0.0, float(self.fitted.lowest[0])))  # type: ignore[union-attr]
                values |= {f"{name}_MEAN": posterior.mean, f"{name}_MEDIAN": quantile[-1]}
            else:
                values[f"{name}_PRED"] = posterior.mean
            values[f"{name}_STD"] = posterior.std()
            values |= {f"{name}_{end}": q for end, q in zip(INTERVALS, quantile, strict=False)}
        return {name: value.astype(np.float32) for name, value in values.items()}

    def _extrapolated(self, posteriors: list[Posterior]) -> NDArray[np.bool_]:
        """Tell which rows (N,) have an interval that reaches beyond the labels."""
        assert isinstance(self.fitted, NumberPredictor)
        beyond = np.zeros(len(posteriors[0].mean), bool)
        for posterior, low, high in zip(posteriors, self.fitted.lowest, self.fitted.highest, strict=True):
            interval = posterior.quantile([INTERVALS["L68"], INTERVALS["U68"]])
            beyond |= (interval[:, 0] < low) | (interval[:, 1] > high)
        return beyond

    def _vote_values(self, shares: NDArray) -> dict[str, NDArray]:
        """Return the columns of votes or of a class, of usable rows."""
        assert isinstance(self.fitted, VotePredictor)
        questions = self.fitted.questions
        parts = split(shares, questions)
        winners = {q: np.array(questions[q])[part.argmax(1)] for q, part in parts.items()}
        if self.task == "label":
            (name,) = self.labels.names
            share = parts[name].astype(np.float32)
            return {f"{name}_PRED": winners[name], f"{name}_PROB": share.max(1), f"{name}_PROBS": share}
        reached = is_reached(shares, questions)
        values: dict[str, NDArray] = {}
        for question, part in parts.items():
            for i, answer in enumerate(questions[question]):
                values[f"{question}_{answer}_fraction"] = part[:, i].astype(np.float32)
            values |= {f"{question}_answer": winners[question], f"{question}_reached": reached[question]}
        return values


def fit_predictor(
    reference: Reference,
    task: str,
    labels: ReferenceLabels,
    inputs: tuple[str, ...],
    *,
    method: str = "auto",
    k: int | None = None,
    seed: int = 0,
) -> Predictor:
    """Fit a predictor to a reference.

    Parameters
    ----------
    reference, labels
        Of the same rows. Rows without a complete vector, or without any label, are left out.
    task
        One of `labels.TASKS`.
    inputs
        Columns that make the vector.
    method
        ``knn``, ``mlp``, ``flow`` (numbers only), or ``auto``: ``mlp`` from 30 labels on.
    k
        Neighbours; by default 64, as published. ``knn`` with less than 512 rows takes an eighth of them, at
        least 5: more would blur what so few labels tell.

    Raises
    ------
    DataError
        If no row is usable.
    """
    known = np.asarray(np.isfinite(labels.values).any(axis=1))
    vectors, usable, complete, agreement = _read_vectors(reference, inputs, known)
    if not usable.any():
        raise DataError(
            f"{reference.name}: no row has both a finite {', '.join(labels.columns[:4])} and a complete "
            f"{','.join(inputs)}"
        )
    values, rows = labels.values[usable], int(usable.sum())
    note = f"{reference.name}: {complete} rows, {rows} labelled"
    logger.info(note)
    if method == "auto":
        method = "mlp" if rows >= MLP_LABELS else "knn"
    k = k or (min(NEIGHBOURS, max(5, rows // 8)) if method == "knn" else NEIGHBOURS)
    options: dict[str, Any] = {"method": method, "k": k, "head": HEADS[task], "seed": seed}
    fitted: NumberPredictor | VotePredictor
    if labels.questions:
        fitted = fit_votes(vectors, values, labels.questions, **options)
    else:
        fitted = fit_numbers(vectors, values, redshift=task == "redshift", **options)
    widths = tuple(int(np.prod(reference.shapes[name])) for name in inputs)
    few = rows < max(k, ENOUGH_LABELS)
    return Predictor(
        task, inputs, widths, labels._replace(values=np.zeros((0, values.shape[1]))), fitted, agreement,
        reference.name, reference.model, reference.digest, rows, few, (note, *labels.notes),
    )  # fmt: skip


def _read_vectors(
    reference: Reference, inputs: tuple[str, ...], known: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int, Agreement | None]:
    """Return vectors (R, D) of usable rows, which, how many with a vector, how images and spectra agree."""
    both = [found for name in EMBEDDINGS if (found := reference.find(name))]
    pairs = both if len(both) == 2 and set(inputs) & set(both) else []
    read = reference.read(list(dict.fromkeys([*inputs, *pairs])))
    agreement = fit_agreement(*(read[name] for name in pairs)) if pairs else None
    parts = [read.pop(name) for name in inputs]
    parts = [to_floats(part) if np.ma.isMaskedArray(part) else part for part in parts]
    vectors = parts[0] if len(parts) == 1 else np.concatenate([p.reshape(len(p), -1) for p in parts], 1)
    vectors = vectors.reshape(len(vectors), -1).astype(np.float32, copy=False)
    finite = [np.isfinite(vectors[i : i + BLOCK]).all(1) for i in range(0, len(vectors), BLOCK)]
    complete = np.concatenate([np.zeros(0, bool), *finite])
    usable = known & complete
    if usable.all():
        return vectors, usable, len(vectors), agreement
    kept = np.flatnonzero(usable)
    for start in range(0, len(kept), BLOCK):  # where they stand: no second copy of a large reference
        rows = kept[start : start + BLOCK]
        vectors[start : start + len(rows)] = vectors[rows]
    return vectors[: len(kept)], usable, int(complete.sum()), agreement


def _vote_columns(questions: dict[str, tuple[str, ...]]) -> list[ColumnSpec]:
    """Describe the columns of votes."""
    columns = []
    for question, answers in questions.items():
        columns += [
            ColumnSpec(f"{question}_{answer}_fraction", "f4", comment="predicted fraction of votes")
            for answer in answers
        ]
        width = max(map(len, answers))
        columns.append(
            ColumnSpec(f"{question}_answer", f"S{width}", comment="answer with most predicted votes")
        )
        columns.append(ColumnSpec(f"{question}_reached", "?", comment="the winning answers lead to it"))
    return columns


def _class_columns(name: str, classes: tuple[str, ...]) -> list[ColumnSpec]:
    """Describe the columns of a categorical label."""
    order = ", ".join(classes)
    return [
        ColumnSpec(f"{name}_PRED", f"S{max(map(len, classes))}", comment="most probable class"),
        ColumnSpec(f"{name}_PROB", "f4", comment="its probability"),
        ColumnSpec(
            f"{name}_PROBS", "f4", (len(classes),), comment=order if len(order) < 48 else "see HISTORY"
        ),
    ]


def _spread_out(value: NDArray, usable: NDArray[np.bool_]) -> NDArray:
    """Return values of the usable rows as those of all rows; elsewhere NaN, "" or False."""
    empty = np.nan if value.dtype.kind == "f" else value.dtype.type()
    whole = np.full((len(usable), *value.shape[1:]), empty, value.dtype)
    whole[usable] = value
    return whole
