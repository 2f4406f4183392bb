"""What is predicted: the labels of a reference, whatever it calls them, and the heads that fit them.

Shapes: R reference rows, L numbers, A answers of all questions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.predict.heads import HeadSettings
from astroclip.predict.reference import Reference
from astroclip.predict.votes import Questions
from astroclip.schema import GALAXY_ZOO, LOGSFR_NAMES, PROPERTIES, REDSHIFT_NAMES, SFR_NAMES, redshift_names

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
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    questions: Questions


def read_labels(
    reference: Reference, task: str, label: str | None = None, kind: str = "auto"
) -> ReferenceLabels:
    """Read the labels that a task needs.

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
    if task == "redshift":
        return _redshift(reference, label)
    if task == "properties":
        return _properties(reference)
    if task == "morphology":
        return _votes(reference)
    if task != "label":
        raise UsageError(f"'{task}' cannot be predicted: expected one of {', '.join(TASKS)}")
    if label is None:
        raise UsageError("which label? Name a column of the reference with --label")
    return _any_label(reference, reference.column(label), kind)


def _lacks(reference: Reference, what: str, names: tuple[str, ...]) -> DataError:
    """Return the error of a reference without a label."""
    listed = ", ".join(list(reference.shapes)[:30])
    return DataError(
        f"{reference.name}: no {what} column ({', '.join(names)}). Name it with --label; "
        f"the table has {listed}"
    )


def _numbers(reference: Reference, columns: dict[str, str]) -> ReferenceLabels:
    """Read columns of numbers, by the name in the output."""
    read = reference.read(list(columns.values()))
    for name, values in read.items():
        if values.dtype.kind not in "iufb" or values.ndim != 1:
            raise DataError(f"{reference.name}: column {name} is not one number a row; it cannot be a label")
        if not np.isfinite(values).any():
            raise DataError(f"{reference.name}: column {name} has no finite value; there is nothing to learn")
    values = np.stack([read[name].astype(np.float64) for name in columns.values()], axis=1)
    values[~np.isfinite(values)] = np.nan
    units = tuple(reference.units.get(name, "") for name in columns.values())
    return ReferenceLabels(tuple(columns), units, tuple(columns.values()), values, {})


def _redshift(reference: Reference, label: str | None) -> ReferenceLabels:
    """Read the redshift, in a named column or in one of a usual name."""
    column = reference.column(label) if label else reference.find(*redshift_names(reference.shapes))
    if column is None:
        raise _lacks(reference, "redshift", REDSHIFT_NAMES)
    labels = _numbers(reference, {"Z": column})
    labels.values[labels.values <= -1] = np.nan
    median = np.nanmedian(labels.values) if np.isfinite(labels.values).any() else -1.0
    if median == -1 or (not label and median > HIGHEST):
        raise DataError(
            f"{reference.name}: column {column} is no redshift, its median is {median:.3g}. Name the "
            "redshift with --label"
        )
    return labels


def _properties(reference: Reference) -> ReferenceLabels:
    """Read the physical properties that are there."""
    columns = {spec.name: found for spec, names in PROPERTIES.items() if (found := reference.find(*names))}
    rate = reference.find(*LOGSFR_NAMES) or reference.find(*SFR_NAMES)
    computed = "LOGSSFR" not in columns and "LOGMSTAR" in columns and rate is not None
    if computed and rate:
        columns["LOGSSFR"] = rate
    if not columns:
        raise _lacks(reference, "LOGMSTAR, METALLICITY, AGE or LOGSSFR", ("LOGMSTAR", "LOG_MSTAR"))
    labels = _numbers(reference, columns)
    if computed and rate:
        at, mass = list(columns).index("LOGSSFR"), list(columns).index("LOGMSTAR")
        values = labels.values[:, at]
        if reference.find(*LOGSFR_NAMES) is None:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = np.log10(values)
        labels.values[:, at] = np.where(np.isfinite(values), values - labels.values[:, mass], np.nan)
    units = tuple(next(spec.unit for spec in PROPERTIES if spec.name == name) for name in labels.names)
    return labels._replace(units=units)


def _votes(reference: Reference) -> ReferenceLabels:
    """Read the vote fractions of every question all answers to which are there."""
    parts, columns, questions = [], [], {}
    for question, answers in GALAXY_ZOO.items():
        for ending in ("_debiased", "_fraction"):
            names = [reference.find(f"{question}_{answer}{ending}") for answer in answers]
            if all(names):
                found = [str(name) for name in names]
                fractions = _fractions(reference, found, reference.find(f"{question}_total-votes"))
                if np.isfinite(fractions).any():
                    parts.append(fractions)
                    columns += found
                    questions[question] = answers
                break
    if not parts:
        raise _lacks(reference, "Galaxy Zoo vote", ("smooth-or-featured_smooth_fraction", "..."))
    return ReferenceLabels((), (), tuple(columns), np.concatenate(parts, axis=1), questions)


def _fractions(reference: Reference, columns: list[str], total: str | None) -> NDArray[np.float64]:
    """Return the fractions of a question (R, answers), summing to 1; NaN with too few votes."""
    read = reference.read([*columns, *([total] if total else [])])
    fractions = np.stack([read[name].astype(np.float64) for name in columns], axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        fractions /= fractions.sum(1, keepdims=True)
        unasked = ~np.isfinite(fractions).all(1)
        if total:
            unasked |= ~(read[total] >= MIN_VOTES)
    fractions[unasked] = np.nan
    return fractions


def _any_label(reference: Reference, column: str, kind: str) -> ReferenceLabels:
    """Read any column, as numbers or as classes."""
    if kind not in ("auto", "number", "class"):
        raise UsageError(f"kind '{kind}': expected number, class or auto")
    values = reference.read([column])[column]
    if values.ndim != 1:
        raise DataError(f"{reference.name}: column {column} is not one value a row; it cannot be a label")
    texts = values.dtype.kind in "USOb"
    if texts and kind == "number":
        raise UsageError(f"{reference.name}: column {column} holds no numbers; predict it with --kind class")
    few = values.dtype.kind in "iu" and len(np.unique(values)) <= MAX_CLASSES
    if kind == "number" or not (texts or few or kind == "class"):
        return _numbers(reference, {column: column})
    named = np.char.strip(values.astype(str)) if texts else values
    known = named != "" if values.dtype.kind in "USO" else np.isfinite(values.astype(np.float64))
    classes, index = np.unique(named[known], return_inverse=True)
    if not 2 <= len(classes) <= MAX_NAMES:
        found = f"one class, {classes[0]}" if len(classes) == 1 else f"{len(classes)} classes"
        raise DataError(f"{reference.name}: column {column} has {found}; expected 2 to {MAX_NAMES}")
    votes = np.full((len(values), len(classes)), np.nan)
    votes[known] = np.eye(len(classes))[index]
    return ReferenceLabels((column,), ("",), (column,), votes, {column: tuple(map(str, classes))})
