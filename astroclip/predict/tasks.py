"""Predictions for a catalogue: from which columns, with which predictor, into which columns.

Shapes: N rows of a block, D width.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.pixel_catalogue import open_catalogue
from astroclip.data.pixel_part import Paths, are_pixels, list_paths
from astroclip.errors import DataError, UsageError
from astroclip.files import check_outputs, scratch_folder
from astroclip.predict.embed import embed_catalog
from astroclip.predict.label_columns import TASKS, read_labels
from astroclip.predict.pdf import PdfFile
from astroclip.predict.predictor import Predictor, fit_predictor
from astroclip.predict.reference import EMBEDDINGS, Reference, read_reference
from astroclip.predict.stored import load_predictor, save_predictor
from astroclip.schema import (
    BAD_INPUT_BITS,
    DISAGREEMENT,
    EMBED_FLAG,
    PREDICT_FLAG,
    ColumnSpec,
    PredictFlag,
)
from astroclip.tables import Table, append_columns, open_table
from astroclip.tables.missing import to_floats
from astroclip.tables.outputs import default_output, output_format

BLOCK = 4096  # rows read, predicted and written at a time
IMAGE, SPECTRUM = EMBEDDINGS
MODALITIES = {"image": (IMAGE,), "spectrum": (SPECTRUM,), "both": EMBEDDINGS}
# what `auto` looks for, in this order: a spectrum tells more of a redshift, an image of a shape
PREFERRED = {
    "redshift": ("spectrum", "image"),
    "properties": ("spectrum", "image"),
    "morphology": ("image", "spectrum"),
    "label": ("both", "spectrum", "image"),
}


class PredictReport(NamedTuple):
    """What was predicted: rows in all and with a prediction, from what, and the rows with each flag bit.

    `notes` tell how many rows of the reference with a vector have a label, and which of their values were
    taken as missing.
    """

    output: Path
    rows: int
    predicted: int
    flags: dict[str, int]
    reference_rows: int
    vector: str
    label: str
    method: str
    notes: tuple[str, ...]


def predict_catalog(
    catalog: Paths,
    task: str,
    output: str | Path | None = None,
    *,
    reference: str | Path | None = None,
    use: str = "auto",
    vector: str | None = None,
    label: str | None = None,
    kind: str = "auto",
    method: str = "auto",
    k: int | None = None,
    seed: int = 0,
    predictor: str | Path | None = None,
    save_to: str | Path | None = None,
    pdf: str | Path | None = None,
    embedding: Mapping[str, Any] | None = None,
    hdu: str | int | None = None,
    drop: Sequence[str] = (),
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PredictReport:
    """Write the catalogue again with predictions.

    Every row and column of the input is kept as it is, in order. Added are the columns of the task and
    `PREDICT_FLAG` (`astroclip.schema.PredictFlag`); with embeddings of images and of spectra in both tables
    also ``DISAGREEMENT``. A row whose vector has a missing value gets NaN and a flag. If the input has a
    column of such a name already, it is kept, and the new one is called ``<name>_PRED``; only the flags of
    an earlier prediction are added to.

    Parameters
    ----------
    catalog : str or Path, or several
        A table with embeddings; without, it is embedded first, as `embedding` says, by default with the
        model that ships.
    task : str
        ``redshift``, ``properties``, ``morphology`` or ``label``.
    output : str or Path, optional
        By default ``<catalog>-<task>.fits`` beside the catalogue, .parquet where it is Parquet or HATS.
    reference : str or Path, optional
        A table with embeddings and labels, or a model; by default the own reference of the catalogue's model.
    use : str
        ``image``, ``spectrum``, ``both`` (side by side) or ``auto``: for redshifts and properties spectra
        before images, for morphology images before spectra, for another label both.
    vector : str, optional
        Another vector column of both tables, or several columns, ``"G,R,Z"``.
    label, kind : str
        As in `labels.read_labels`.
    method, k : str, int, optional
        As in `predictor.fit_predictor`.
    seed : int
        Of what is drawn in training; the same seed gives the same numbers.
    predictor, save_to : str or Path, optional
        A directory with a fitted predictor, instead of a reference; and one to write.
    pdf : str or Path, optional
        HDF5 file for the probability densities, in the format of the package qp.
    embedding : mapping, optional
        Options of `astroclip.predict.embed.embed_catalog`: ``model``, ``images``, ``spectra``, ...
    hdu : str or int, optional
        The table's HDU.
    drop : sequence of str
        Columns that the output is not to have, see `append_columns`.

    Raises
    ------
    DataError, UsageError, CheckpointError
        Before anything is written, if the columns, the reference, the model and the options do not fit.
    """
    paths, given = list_paths(catalog), embedding or {}
    made = are_pixels(paths) and not given.get("keep_pixels")
    output = Path(output) if output else default_output(paths[0], task)
    _check_options(task, use, k, predictor, reference, vector)
    output_format(output)
    read = [*paths, reference, predictor, given.get("images"), given.get("spectra")]
    check_outputs([output, pdf], read, overwrite, folders=[save_to], own=None if made or drop else paths[0])
    own = given.get("model")
    with ExitStack() as stack:
        if made:
            table = stack.enter_context(_embedded(paths, output, stack, given, hdu))
        else:
            table = stack.enter_context(open_catalogue(paths, hdu, output.parent, keep_pixels=True).table)
        if vector is None and not any(table.find(name) for name in EMBEDDINGS):
            table = stack.enter_context(_embedded(paths, output, stack, given, hdu, table))
        if predictor is not None:
            fitted = load_predictor(predictor, task)
        else:
            known = read_reference(reference or own or _model_of(table))
            inputs = _choose_inputs(table, known, task, use, vector)
            _check_same_model(table, inputs, known.name, known.model, known.digest)
            labels = read_labels(known, task, label, kind)
            fitted = fit_predictor(known, task, labels, inputs, method=method, k=k, seed=seed)
        _check_inputs(table, fitted)
        _check_same_model(table, fitted.inputs, fitted.reference, fitted.model, fitted.digest)
        if save_to is not None:
            save_predictor(fitted, save_to, overwrite=overwrite)
        return _stream(table, fitted, output, pdf, drop, overwrite, progress)


def _check_options(
    task: str, use: str, k: int | None, predictor: Any, reference: Any, vector: str | None
) -> None:
    """Refuse options that make no sense."""
    if task not in TASKS:
        raise UsageError(f"'{task}' cannot be predicted: expected one of {', '.join(TASKS)}")
    if k is not None and k < 1:
        raise UsageError(f"{k} neighbours: expected at least 1")
    if use not in ("auto", *MODALITIES):
        raise UsageError(f"--from {use}: expected auto, {', '.join(MODALITIES)}")
    if predictor is not None and (reference is not None or vector is not None or use != "auto"):
        raise UsageError("--predictor knows its reference and its vectors: leave out --reference and --from")


def _embedded(
    paths: list[Path],
    output: Path,
    stack: ExitStack,
    options: Mapping[str, Any],
    hdu: str | int | None,
    table: Table | None = None,
) -> Table:
    """Embed the catalogue into a file beside the output, which goes when all is done."""
    # Parquet stays Parquet: it may have columns that FITS cannot hold
    suffix = ".parquet" if table is not None and table.hdu is None else ".fits"
    beside = stack.enter_context(scratch_folder(output.parent, str(output))) / f"embedded{suffix}"
    given = {name: value for name, value in options.items() if value is not None}
    embed_catalog(paths, beside, hdu=hdu, **given)
    return open_table(beside, hdu=table.hdu if table else None)


def _model_of(table: Table) -> str:
    """Return the model that embedded a table."""
    model = str(table.header.get("ACMODEL") or "")
    if not model:
        raise UsageError(
            f"{table.name} does not say which model embedded it: name a table with the same vectors and "
            "labels with --reference"
        )
    return model


def _choose_inputs(
    table: Table, known: Reference, task: str, use: str, vector: str | None
) -> tuple[str, ...]:
    """Return the column(s) that make the vector, there in both tables."""
    if vector is not None:
        names = tuple(name.strip() for name in vector.split(","))
    else:
        choices = PREFERRED[task] if use == "auto" else (use,)
        there = {name for name in EMBEDDINGS if table.find(name) and known.find(name)}
        fitting = [MODALITIES[choice] for choice in choices if set(MODALITIES[choice]) <= there]
        if not fitting:
            raise UsageError(
                f"{table.name} and {known.name} have no {' or '.join(MODALITIES[choices[-1]])} column in "
                "common. Embed both first (astroclip embed), or name a vector column of both with --vector"
            )
        names = fitting[0]
    return tuple(known.column(name) for name in names)


def _check_inputs(table: Table, fitted: Predictor) -> None:
    """Refuse a vector that is missing, or of another width than the reference's."""
    for name, width in zip(fitted.inputs, fitted.widths, strict=True):
        ours = int(np.prod(table.column(name).shape))
        if ours != width:
            raise DataError(
                f"{fitted.reference}: {name} has {width} elements, but {ours} in {table.name}; both must "
                "come from the same model"
            )


def _check_same_model(table: Table, inputs: tuple[str, ...], name: str, model: str, digest: str) -> None:
    """Refuse embeddings that two different models made."""
    if not set(EMBEDDINGS) & {column.upper() for column in inputs}:
        return
    ours = table.header.get("ACHASH")
    if ours and digest and ours != digest:
        raise DataError(
            f"{name} was embedded with model {model} ({digest}), {table.name} with "
            f"{table.header.get('ACMODEL')} ({ours}): distances between them mean nothing. Embed both with "
            "one model"
        )


def _stream(
    table: Table,
    fitted: Predictor,
    output: Path,
    pdf: str | Path | None,
    drop: Sequence[str],
    overwrite: bool,
    progress: Callable[[int, int], None] | None,
) -> PredictReport:
    """Predict and write block by block."""
    columns = fitted.columns()
    names = {spec.name: _new_name(table, spec.name) for spec in columns}
    specs = [spec._replace(name=names[spec.name]) for spec in columns]
    pairs = tuple(name for name in EMBEDDINGS if table.find(name)) if fitted.agreement else ()
    settings, history = _provenance(fitted)
    flags, predicted = Counter[str](), 0
    with ExitStack() as stack:
        appender = stack.enter_context(
            append_columns(
                table, output, specs, settings=settings, history=history, drop=drop, overwrite=overwrite,
                overwrite_columns=True,
            )
        )  # fmt: skip
        densities = stack.enter_context(PdfFile(pdf, fitted, table.nrows, overwrite)) if pdf else None
        for start in range(0, table.nrows, BLOCK):
            stop = min(start + BLOCK, table.nrows)
            vectors = _read_vectors(table, fitted.inputs, start, stop)
            both = [_read_vectors(table, (name,), start, stop) for name in pairs]
            values, posteriors = fitted.predict(vectors, (both[0], both[1]) if len(both) == 2 else None)
            flag = values[PREDICT_FLAG]
            flag |= _bad_inputs(table, fitted.inputs, start, stop)
            predicted += int(np.count_nonzero((flag & PredictFlag.NO_EMBEDDING) == 0))
            flags.update({str(b.name): n for b in PredictFlag if (n := int(np.count_nonzero(flag & b)))})
            values = _complete(values, columns, table, start, stop)
            appender.write({names[name]: value for name, value in values.items()})
            if densities:
                densities.write(posteriors, (flag & PredictFlag.NO_EMBEDDING) == 0)
            if progress:
                progress(appender.done, table.nrows)
    label = ",".join(dict.fromkeys(fitted.labels.columns))
    return PredictReport(
        output, table.nrows, predicted, dict(flags), fitted.rows, ",".join(fitted.inputs), label,
        fitted.fitted.method, fitted.notes,
    )  # fmt: skip


def _bad_inputs(table: Table, inputs: tuple[str, ...], start: int, stop: int) -> NDArray[np.int32] | int:
    """Return the flag bit of rows of which embed says that much of their pixels was filled in."""
    embed_flag = table.find(EMBED_FLAG)
    bits = [BAD_INPUT_BITS[name] for name in EMBEDDINGS if name in {column.upper() for column in inputs}]
    if embed_flag is None or not bits:
        return 0
    said = np.ma.filled(table.read([embed_flag], start, stop)[embed_flag], 0).astype(np.int64)
    filled = (said & np.bitwise_or.reduce(bits)) != 0
    return np.where(filled, PredictFlag.BAD_INPUT, 0).astype(np.int32)


def _new_name(table: Table, name: str) -> str:
    """Return the name of a new column: what is there already is kept."""
    there = table.find(name)
    if there is None:
        return name
    return there if name in (PREDICT_FLAG, DISAGREEMENT) else f"{name}_PRED"


def _complete(
    values: dict[str, NDArray], columns: list[ColumnSpec], table: Table, start: int, stop: int
) -> dict[str, NDArray]:
    """Add the flags of an earlier prediction, and what the table has nothing for."""
    if there := table.find(PREDICT_FLAG):
        values[PREDICT_FLAG] = values[PREDICT_FLAG] | table.read([there], start, stop)[there].astype(np.int32)
    if DISAGREEMENT not in values and any(spec.name == DISAGREEMENT for spec in columns):
        values[DISAGREEMENT] = np.full(stop - start, np.nan, np.float32)
    return values


def _provenance(fitted: Predictor) -> tuple[dict[str, Any], list[str]]:
    """Return what the output's header says of the predictor."""
    labels = list(dict.fromkeys(fitted.labels.columns))
    settings = {
        "task": fitted.task,
        "method": fitted.fitted.method,
        "k": fitted.fitted.neighbours.k,
        "reference": fitted.reference,
        "reference_rows": fitted.rows,
        "vector": list(fitted.inputs),
        "labels": labels,
    }
    bits = ", ".join(f"{bit.value} {bit.name}" for bit in PredictFlag)
    history = [
        f"astroclip: {fitted.task} by {fitted.fitted.method} from {fitted.rows} rows of {fitted.reference}",
        f"astroclip: {PREDICT_FLAG} bits: {bits}",
    ]
    if fitted.task == "label" and fitted.labels.questions:
        name = fitted.labels.names[0]
        history.append(f"astroclip: {name}_PROBS are of {', '.join(fitted.labels.questions[name])}")
    return settings, history


def _read_vectors(table: Table, columns: tuple[str, ...], start: int, stop: int) -> NDArray[np.float32]:
    """Return the vectors (n, D) of the rows; several columns stand side by side."""
    found = [table.column(name) for name in columns]
    block = table.read([column.name for column in found], start, stop)
    parts = []
    for column in found:
        values = block[column.name]
        if values.dtype != np.float32:
            values = to_floats(values, f"{table.name}: column '{column.name}'", start).astype(np.float32)
        parts.append(values.reshape(len(values), -1))
    return np.concatenate(parts, axis=1)
