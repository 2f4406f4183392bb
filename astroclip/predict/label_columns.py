"""What is predicted: the labels of a reference, whatever it calls them, and the heads that fit them.

Which of their values are missing says `tables.missing`, for every verb.

Shapes: R reference rows, L numbers, A answers of all questions.
"""

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.predict.heads import HeadSettings
from astroclip.predict.reference import Reference
from astroclip.predict.votes import Questions
from astroclip.schema import GALAXY_ZOO, LOGSFR_NAMES, PROPERTIES, REDSHIFT_NAMES, SFR_NAMES, redshift_names
from astroclip.tables.missing import (
    Taken,
    find_spike,
    sentinel_lines,
    to_floats,
    to_quantity,
    to_texts,
)

logger = logging.getLogger(__name__)
TASKS = ("redshift", "properties", "morphology", "label")
# Differs from Parker+24: one layer of 32 with dropout and squared errors doubles the scatter of redshifts,
# and where two are possible it says what is between; three of 256 with dropout 0.2 are no better at votes
# than these
HEADS = {task: HeadSettings((64, 64), dropout=0.1) for task in TASKS}
HEADS["redshift"] = HeadSettings((128,), dropout=0.0, bins=400, noise=0.2, steps=500)
MIN_VOTES = 3  # on a question; with fewer a galaxy says nothing about it
HIGHEST = 8.0  # redshift; a column Z of greater values holds magnitudes
MAX_CLASSES = 10  # integers with more different values are numbers, unless the user says otherwise
MAX_NAMES = 1000  # texts with more different values are names, not classes


class ReferenceLabels(NamedTuple):
    """The labels of a reference.

    Attributes
    ----------
    names
        What the numbers are called in the output, L; or of a categorical label, its name.
    units
        L.
    columns
        The columns they come from.
    values
        (R, L) numbers, NaN where there is none; or (R, A) fractions of votes on `questions`.
    questions
        Of votes and classes; empty for numbers.
    notes
        What a user should know: which values were taken as missing, and what may stand for a missing value.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    questions: Questions
    notes: tuple[str, ...] = ()


def read_labels(
    reference: Reference, task: str, label: str | None = None, kind: str = "auto"
) -> ReferenceLabels:
    """Read the labels that a task needs; missing values and sentinels are none (`tables.missing`).

    Parameters
    ----------
    reference
        Where they are.
    task
        One of `TASKS`. ``properties`` takes those that the reference has; LOGSSFR is computed from a
        star-formation rate and a stellar mass where it lacks. ``morphology`` takes ``_debiased`` fractions of
        votes before ``_fraction``, only with 3 votes on the question or more.
    label
        The column; for ``redshift`` guessed from usual names if not given (-1 and less is no redshift), for
        ``label`` needed.
    kind
        ``number``, ``class``, or ``auto``: texts, logicals, and integers of at most 10 different values are
        classes.

    Raises
    ------
    DataError
        If the reference lacks the labels, has no finite value, or a single class.
    UsageError
        If the task is unknown or needs a label.
    """
    if task not in TASKS:
        raise UsageError(f"'{task}' cannot be predicted: expected one of {', '.join(TASKS)}")
    taken = Taken()
    if task == "redshift":
        labels = _redshift(reference, label, taken)
    elif task == "properties":
        labels = _properties(reference, taken)
    elif task == "morphology":
        labels = _votes(reference, taken)
    elif label is None:
        raise UsageError("which label? Name a column of the reference with --label")
    else:
        labels = _any_label(reference, reference.column(label), kind, taken)
    notes = sentinel_lines(taken)
    for note in notes:
        logger.info(note)
    spikes = [] if labels.questions else _spikes(labels)
    for spike in spikes:
        logger.warning(spike)
    return labels._replace(notes=(*notes, *spikes))


def _lacks(reference: Reference, what: str, names: tuple[str, ...]) -> DataError:
    """Return the error of a reference without a label."""
    listed = ", ".join(list(reference.shapes)[:30])
    return DataError(
        f"{reference.name}: no {what} column ({', '.join(names)}). Name it with --label; "
        f"the table has {listed}"
    )


def _numbers(reference: Reference, columns: dict[str, str], taken: Taken) -> ReferenceLabels:
    """Read columns of numbers, by the name in the output, which for a redshift tells the quantity."""
    read = reference.read(list(columns.values()))
    values = np.empty((reference.nrows, len(columns)))
    for at, (name, column) in enumerate(columns.items()):
        where, found = f"{reference.name}: column {column}", read[column]
        if found.dtype.kind not in "iufb" or found.ndim != 1:
            raise DataError(f"{where} is not one number a row; it cannot be a label")
        values[:, at] = to_quantity(found, column, taken, where, quantity="Z" if name == "Z" else column)
        if not np.isfinite(values[:, at]).any():
            said = "".join(f" ({line})" for line in sentinel_lines(taken) if line.startswith(f"{column}:"))
            raise DataError(f"{where} has no finite value{said}; there is nothing to learn")
    values[~np.isfinite(values)] = np.nan
    units = tuple(reference.units.get(name, "") for name in columns.values())
    return ReferenceLabels(tuple(columns), units, tuple(columns.values()), values, {})


def _spikes(labels: ReferenceLabels) -> list[str]:
    """Say which numbers may stand for a missing value, though no rule takes them as one."""
    said = []
    for column, values in zip(labels.columns, labels.values.T, strict=True):
        if spike := find_spike(values):
            said.append(
                f"{column}: {spike[1]} values are exactly {spike[0]:.6g}, at the edge of all others. If that "
                "means missing, set them to NaN"
            )
    return said


def _redshift(reference: Reference, label: str | None, taken: Taken) -> ReferenceLabels:
    """Read the redshift, in a named column or in one of a usual name."""
    column = reference.column(label) if label else reference.find(*redshift_names(reference.shapes))
    if column is None:
        raise _lacks(reference, "redshift", REDSHIFT_NAMES)
    labels = _numbers(reference, {"Z": column}, taken)
    median = np.nanmedian(labels.values)
    if not label and median > HIGHEST:
        raise DataError(
            f"{reference.name}: column {column} is no redshift, its median is {median:.3g}. Name the "
            "redshift with --label"
        )
    return labels


def _properties(reference: Reference, taken: Taken) -> ReferenceLabels:
    """Read the physical properties that are there."""
    columns = {spec.name: found for spec, names in PROPERTIES.items() if (found := reference.find(*names))}
    rate = reference.find(*LOGSFR_NAMES) or reference.find(*SFR_NAMES)
    computed = "LOGSSFR" not in columns and "LOGMSTAR" in columns and rate is not None
    if computed and rate:
        columns["LOGSSFR"] = rate
    if not columns:
        raise _lacks(reference, "LOGMSTAR, METALLICITY, AGE or LOGSSFR", ("LOGMSTAR", "LOG_MSTAR"))
    labels = _numbers(reference, columns, taken)
    if computed and rate:
        at, mass = list(columns).index("LOGSSFR"), list(columns).index("LOGMSTAR")
        values = labels.values[:, at]
        if reference.find(*LOGSFR_NAMES) is None:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log10(values)
        labels.values[:, at] = np.where(np.isfinite(values), values - labels.values[:, mass], np.nan)
    units = tuple(next(spec.unit for spec in PROPERTIES if spec.name == name) for name in labels.names)
    return labels._replace(units=units)


def _votes(reference: Reference, taken: Taken) -> ReferenceLabels:
    """Read the vote fractions of every question all answers to which are there."""
    parts, columns, questions = [], [], {}
    for question, answers in GALAXY_ZOO.items():
        for ending in ("_debiased", "_fraction"):
            names = [reference.find(f"{question}_{answer}{ending}") for answer in answers]
            if all(names):
                found = [str(name) for name in names]
                fractions = _fractions(reference, found, reference.find(f"{question}_total-votes"), taken)
                if np.isfinite(fractions).any():
                    parts.append(fractions)
                    columns += found
                    questions[question] = answers
                break
    if not parts:
        raise _lacks(reference, "Galaxy Zoo vote", ("smooth-or-featured_smooth_fraction", "..."))
    return ReferenceLabels((), (), tuple(columns), np.concatenate(parts, axis=1), questions)


def _fractions(
    reference: Reference, columns: list[str], total: str | None, taken: Taken
) -> NDArray[np.float64]:
    """Return the fractions of a question (R, answers), summing to 1; NaN with too few votes."""
    read = reference.read([*columns, *([total] if total else [])])
    where = f"{reference.name}: column "
    parts = [to_quantity(read[name], name, taken, where + name) for name in columns]
    fractions = np.stack(parts, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        fractions /= fractions.sum(1, keepdims=True)
        unasked = ~np.isfinite(fractions).all(1)
        if total:
            unasked |= ~(to_floats(read[total], where + total) >= MIN_VOTES)
    fractions[unasked] = np.nan
    return fractions


def _any_label(reference: Reference, column: str, kind: str, taken: Taken) -> ReferenceLabels:
    """Read any column, as numbers or as classes."""
    if kind not in ("auto", "number", "class"):
        raise UsageError(f"kind '{kind}': expected number, class or auto")
    values = reference.read([column])[column]
    if values.ndim != 1:
        raise DataError(f"{reference.name}: column {column} is not one value a row; it cannot be a label")
    texts = values.dtype.kind in "USOb"
    if texts and kind == "number":
        raise UsageError(f"{reference.name}: column {column} holds no numbers; predict it with --kind class")
    if not texts:
        numbers = to_quantity(values, column, taken, f"{reference.name}: column {column}")
        few = values.dtype.kind in "iu" and len(np.unique(numbers[np.isfinite(numbers)])) <= MAX_CLASSES
        if kind == "number" or not (few or kind == "class"):
            return _numbers(reference, {column: column}, Taken())
    named = to_texts(values) if texts else np.ma.getdata(values)
    known = named != "" if texts else np.isfinite(numbers)
    classes, index = np.unique(named[known], return_inverse=True)
    if not 2 <= len(classes) <= MAX_NAMES:
        found = f"one class, {classes[0]}" if len(classes) == 1 else f"{len(classes)} classes"
        raise DataError(f"{reference.name}: column {column} has {found}; expected 2 to {MAX_NAMES}")
    votes = np.full((len(values), len(classes)), np.nan)
    votes[known] = np.eye(len(classes))[index]
    return ReferenceLabels((column,), ("",), (column,), votes, {column: tuple(map(str, classes))})
