"""Find what a table lets evaluate: its predictions, and the columns that hold their truth."""

from astroclip.errors import DataError, UsageError
from astroclip.evaluate.metrics import LEVELS
from astroclip.evaluate.targets import Estimate, Morphology, Target
from astroclip.schema import (
    GALAXY_ZOO,
    IMAGE_EMBEDDING,
    LOGSFR_NAMES,
    PROPERTIES,
    REDSHIFT_NAMES,
    SFR_NAMES,
    SPECTRUM_EMBEDDING,
    redshift_names,
)
from astroclip.tables import Column, Table

KINDS = ("redshift", "property", "morphology", "retrieval")
REDSHIFTS = ("Z_PHOT", "Z_PRED")  # from images; from spectra, or both
POINTS = ("_MEAN", "_PRED", "_MEDIAN", "")  # after the prefix, the column that holds the estimate itself
TRUE_REDSHIFTS = ("Z_TRUE", *REDSHIFT_NAMES)
TRUE_PROPERTIES = {spec.name: names for spec, names in PROPERTIES.items()}
TRUE_FRACTIONS = ("debiased", "fraction")  # of the votes, the first that is there


def find_targets(
    catalog: Table, truth: str | None, predicted: str | None, kind: str | None, min_votes: int
) -> list[Target]:
    """Return the predictions that have a truth in the same table; see `report.evaluate_table`.

    Raises
    ------
    UsageError
        If the kind does not exist, or columns are named that its predictions do not have.
    DataError
        If a column that is named does not exist, or holds no numbers.
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    if kind == "retrieval" and (truth or predicted):
        raise UsageError("retrieval needs no truth and no prediction: an image's own spectrum is the truth")
    if truth and kind != "morphology":
        catalog.column(truth)
    targets: list[Target] = []
    if kind in {None, "redshift", "property"}:
        targets += _find_estimates(catalog, truth, predicted, kind)
    if kind == "morphology" or (kind is None and not truth and not predicted):
        targets += _find_morphology(catalog, truth, predicted or "", min_votes)
    if not targets and (truth or predicted or kind in KINDS[:3]):
        raise DataError(
            f"{catalog.name}: no predictions{f' {predicted}*' if predicted else ''} beside their truth "
            f"{truth or ''}. Looked for {predicted or 'Z_PHOT, Z_PRED, <PROPERTY>'} with "
            f"{', '.join(POINTS[:-1])}, and for <question>_<answer>_fraction with <question>_answer, as "
            "predict writes them, beside volunteers' _debiased or _fraction. "
            "Predict first (astroclip predict --help), or name both: --truth COLUMN --predicted PREFIX"
        )
    return targets


def finds_retrieval(catalog: Table, kind: str | None, named: bool) -> bool:
    """Return whether images and spectra are to look for one another.

    Raises
    ------
    DataError
        If that is asked for, but embeddings are missing or of different widths.
    """
    names = (IMAGE_EMBEDDING, SPECTRUM_EMBEDDING)
    shapes = {catalog.column(name).shape for name in names if catalog.find(name)}
    there = len(shapes) == 1 and all(catalog.find(name) for name in names)
    if kind == "retrieval" and not there:
        raise DataError(
            f"{catalog.name}: retrieval needs the vector columns {' and '.join(names)} of one width. "
            "Embed images and spectra of the table first: astroclip embed --help"
        )
    return there and not named and kind in {None, "retrieval"}


def _find_estimates(
    catalog: Table, truth: str | None, predicted: str | None, kind: str | None
) -> list[Estimate]:
    """Return redshifts and properties; a truth that is named selects the predictions of it."""
    found = []
    for prefix in [predicted] if predicted else _prefixes(catalog):
        is_redshift = (
            _is_redshift(prefix, truth if predicted else None) if kind is None else kind == "redshift"
        )
        if not predicted and is_redshift != (prefix in REDSHIFTS):
            continue
        names = TRUE_REDSHIFTS if is_redshift else TRUE_PROPERTIES.get(prefix.upper(), (prefix,))
        possible = redshift_names(catalog.columns)  # not a magnitude Z
        true = catalog.find(*(name for name in names if name in possible or name not in REDSHIFT_NAMES))
        rate = None if true or truth or prefix.upper() != "LOGSSFR" else _find_rate(catalog)
        if truth:
            true = catalog.column(truth).name
            meant = _is_redshift(truth, None) if is_redshift else prefix in true.upper()
            if not (predicted or meant or kind == "redshift"):
                continue
        point = catalog.find(*(f"{prefix}{end}" for end in POINTS))
        true, mass = rate or (true, None)
        if true and point and point != true:
            found.append(_estimate(catalog, is_redshift, prefix, true, point, mass))
    return found


def _find_rate(catalog: Table) -> tuple[str, str] | None:
    """Return the columns of star-formation rate and stellar mass, which together tell the specific rate."""
    rate, mass = catalog.find(*LOGSFR_NAMES, *SFR_NAMES), catalog.find(*TRUE_PROPERTIES["LOGMSTAR"])
    return (rate, mass) if rate and mass else None


def _prefixes(catalog: Table) -> list[str]:
    """Return Z_PHOT, Z_PRED and every X of a column X_PRED but votes, as far as the table has them."""
    numbers = [column.name for column in catalog.columns.values() if _is_number(column)]
    names = [name.upper() for name in numbers]
    redshifts = [prefix for prefix in REDSHIFTS if {f"{prefix}_MEAN", f"{prefix}_MEDIAN"} & set(names)]
    votes = {f"{q}_{answer}_fraction".upper() for q, answers in GALAXY_ZOO.items() for answer in answers}
    named = [name.removesuffix("_PRED") for name in names if name.endswith("_PRED") and name != "Z_PRED"]
    return redshifts + [name for name in named if name not in votes]


def _is_number(column: Column) -> bool:
    """Tell whether a column holds one number a row."""
    return column.dtype.kind in "iuf" and not column.shape and column.is_plain


def _is_redshift(name: str, truth: str | None) -> bool:
    """Tell redshifts by their names."""
    known = {*REDSHIFTS, *TRUE_REDSHIFTS}
    return name.upper() in known or (truth is not None and truth.upper() in known)


def _estimate(
    catalog: Table, is_redshift: bool, prefix: str, truth: str, point: str, mass: str | None
) -> Estimate:
    """Return the target, with all that the table has of its distribution."""
    quantiles = {name: catalog.find(f"{prefix}_{name}") for name in LEVELS}
    held = {name: column for name, column in quantiles.items() if column}
    std, samples = (catalog.find(f"{prefix}_{end}") for end in ("STD", "SAMPLES"))
    if samples and not (
        catalog.column(samples).dtype.kind == "f" and len(catalog.column(samples).shape) == 1
    ):
        samples = None
    for name in filter(None, (truth, mass, point, *held.values(), std)):
        column = catalog.column(name)
        if not _is_number(column):
            raise DataError(
                f"{catalog.name}: column '{name}' does not hold one number a row, but {column.dtype} "
                f"{column.shape or ''}. Name others: --truth COLUMN --predicted PREFIX"
            )
    return Estimate(
        kind="redshift" if is_redshift else "property",
        name=prefix,
        truth=truth,
        point=point,
        quantiles=held if len(held) > 1 else {},
        std=std,
        samples=samples,
        unit=(not mass and catalog.column(truth).unit) or catalog.column(point).unit,
        mass=mass,
    )


def _find_morphology(catalog: Table, truth: str | None, prefix: str, min_votes: int) -> list[Morphology]:
    """Return the questions whose true and predicted fractions the table has; none: an empty list."""
    true: dict[str, tuple[str, ...]] = {}
    guess: dict[str, tuple[str, ...]] = {}
    for question in GALAXY_ZOO:
        columns = _true_votes(catalog, question, truth)
        predicted = _predicted_votes(catalog, question, prefix)
        if columns and predicted and columns != predicted:
            true[question], guess[question] = columns, predicted
    votes = {question: catalog.find(f"{question}_total-votes") for question in true}
    held = {question: column for question, column in votes.items() if column}
    return [Morphology(true, guess, held, min_votes)] if true else []


def _true_votes(catalog: Table, question: str, truth: str | None) -> tuple[str, ...] | None:
    """Return the columns of volunteers' fractions; Galaxy Zoo recommends the debiased ones."""
    endings = TRUE_FRACTIONS[: 1 if _is_predicted(catalog, question) else 2]
    for ending in [truth] if truth else endings:
        if columns := _votes(catalog, question, "", f"_{ending}"):
            return columns
    return None


def _predicted_votes(catalog: Table, question: str, prefix: str) -> tuple[str, ...] | None:
    """Return the columns of predicted fractions; of several predictions those of the last one."""
    # predict calls them `_fraction`, or `_fraction_PRED` in a table that had such columns
    if columns := _votes(catalog, question, prefix, "_fraction_PRED"):
        return columns
    if prefix or _is_predicted(catalog, question):
        return _votes(catalog, question, prefix, "_fraction")
    return None


def _is_predicted(catalog: Table, question: str) -> bool:
    """Tell whether `<question>_<answer>_fraction` are predictions, which come with `<question>_answer`."""
    # with `_fraction_PRED` beside them they are older: volunteers', which have `_total-votes`, or predictions
    answer, again, asked = (
        catalog.find(f"{question}_{ending}") is not None
        for ending in ("answer", "answer_PRED", "total-votes")
    )
    earlier = _votes(catalog, question, "", "_fraction_PRED") is not None
    return answer and (not earlier or (again and not asked))


def _votes(catalog: Table, question: str, prefix: str, ending: str) -> tuple[str, ...] | None:
    """Return the columns of all answers to a question, or none."""
    names = [catalog.find(f"{prefix}{question}_{answer}{ending}") for answer in GALAXY_ZOO[question]]
    return tuple(map(str, names)) if all(names) else None
