"""Predictions for a catalogue: what is estimated, from which columns, into which columns."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.catalog import Catalog, append_columns, open_catalog
from astroclip.errors import DataError, UsageError
from astroclip.predict.knn import QUANTILES, Neighbours, summarise, weigh
from astroclip.schema import (
    IMAGE_EMBEDDING,
    PREDICT_FLAG,
    REDSHIFT_NAMES,
    SPECTRUM_EMBEDDING,
    ColumnSpec,
    PredictFlag,
)

BLOCK = 4096  # rows read, predicted and written at a time


class PredictReport(NamedTuple):
    """What was predicted: rows in all and with a prediction, usable reference rows, and how."""

    output: Path
    rows: int
    predicted: int
    reference_rows: int
    vector: str
    label: str


def predict_redshift(
    catalog: str | Path,
    reference: str | Path,
    output: str | Path | None = None,
    *,
    vector: str | None = None,
    label: str | None = None,
    k: int = 64,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PredictReport:
    """Write the catalogue again with redshifts estimated from neighbours in a reference table.

    The estimate is the mean of the k nearest reference rows weighted by inverse distance, in vectors
    standardised on the reference (Parker et al. 2024, zero-shot). The spread of the neighbours' redshifts
    gives the other columns: it is not calibrated.

    Added columns: ``Z_PRED_MEAN``, ``_MEDIAN``, ``_STD``, ``_L68``, ``_U68``, ``_L95``, ``_U95``
    (float32) and `PREDICT_FLAG` (`astroclip.schema.PredictFlag`). A row whose vector
    has a missing value gets NaN and a flag.

    Parameters
    ----------
    catalog, reference : str or Path
        Tables with the vector column; the reference has redshifts too. Reference rows without a finite
        redshift or with a missing vector element are left out.
    output : str or Path, optional
        By default ``<catalog>-redshift.fits`` beside the catalogue.
    vector : str, optional
        A vector column of both tables, or several scalar columns, ``"G,R,Z"``. By default the spectrum
        embedding where both tables have it, else the image embedding.
    label : str, optional
        The reference's redshift column; guessed from usual names if not given.
    k : int
        Neighbours.

    Raises
    ------
    DataError, UsageError
        If the columns are missing or do not fit, or the embeddings come from different models.
    """
    catalog = Path(catalog)
    output = Path(output) if output else catalog.with_name(f"{catalog.name.split('.')[0]}-redshift.fits")
    if k < 1:
        raise UsageError(f"{k} neighbours: expected at least 1")
    with (
        open_catalog(catalog, scratch=output.parent) as table,
        open_catalog(reference, scratch=output.parent) as known,
    ):
        columns = _vector_columns(table, known, vector)
        _check_same_model(table, known, columns)
        label = _label_column(known, label)
        vectors, redshift = _read_reference(known, columns, label)
        neighbours = Neighbours(vectors, k)
        settings = {"reference": known.name, "vector": columns, "label": label, "k": k}
        history = [f"astroclip: Z_PRED from {k} nearest rows of {known.name} in {','.join(columns)}"]
        predicted = 0
        with append_columns(
            table, output, _columns(), settings=settings, history=history, cards={}, overwrite=overwrite
        ) as appender:
            for start in range(0, table.nrows, BLOCK):
                values = _predict_block(
                    _read_vectors(table, columns, start, start + BLOCK), neighbours, redshift, k
                )
                appender.write(values)
                predicted += int(np.isfinite(values["Z_PRED_MEAN"]).sum())
                if progress:
                    progress(appender.done, table.nrows)
        return PredictReport(output, table.nrows, predicted, len(redshift), ",".join(columns), label)


def _columns() -> list[ColumnSpec]:
    """Describe the columns to add."""
    said = {"MEAN": "mean redshift of the neighbours", "STD": "spread of their redshifts, uncalibrated"}
    said |= {name: f"{level:.1%} quantile of their redshifts" for name, level in QUANTILES.items()}
    columns = [ColumnSpec(f"Z_PRED_{name}", "f4", comment=text) for name, text in said.items()]
    return [*columns, ColumnSpec(PREDICT_FLAG, "i4", comment="bit mask, see astroclip PredictFlag")]


def _vector_columns(table: Catalog, known: Catalog, vector: str | None) -> list[str]:
    """Return the column(s) that make the vector, present in both tables with the same width."""
    if vector is not None:
        names = [name.strip() for name in vector.split(",")]
    else:
        names = [n for n in (SPECTRUM_EMBEDDING, IMAGE_EMBEDDING) if table.find(n) and known.find(n)][:1]
        if not names:
            raise UsageError(
                f"{table.name} and {known.name} have no embedding column in common. Embed both first "
                "(astroclip embed), or name a vector column of both with --vector"
            )
    widths = [sum(int(np.prod(t.column(name).shape)) for name in names) for t in (table, known)]
    if widths[0] != widths[1]:
        raise DataError(
            f"{known.name}: {','.join(names)} has {widths[1]} elements, but {widths[0]} in {table.name}; "
            "both must come from the same model"
        )
    return names


def _check_same_model(table: Catalog, known: Catalog, columns: list[str]) -> None:
    """Refuse embeddings that two different models made."""
    if not {SPECTRUM_EMBEDDING, IMAGE_EMBEDDING} & set(columns):
        return
    ours, theirs = (t.header.get("ACHASH") for t in (table, known))
    if ours and theirs and ours != theirs:
        raise DataError(
            f"{known.name} was embedded with model {known.header.get('ACMODEL')} ({theirs}), "
            f"{table.name} with {table.header.get('ACMODEL')} ({ours}): distances between them mean nothing. "
            "Embed both with one model"
        )


def _label_column(known: Catalog, label: str | None) -> str:
    """Return the reference's redshift column."""
    found = known.find(label) if label else known.find(*REDSHIFT_NAMES)
    if found is None:
        raise DataError(
            f"{known.name}: no redshift column ({label or ', '.join(REDSHIFT_NAMES)}). Name it with --label; "
            f"the table has {', '.join(list(known.columns)[:30])}"
        )
    return found


def _read_vectors(table: Catalog, columns: list[str], start: int, stop: int) -> NDArray[np.float64]:
    """Return the vectors (n, D) of the rows; several columns stand side by side."""
    block = table.read(columns, start, min(stop, table.nrows))
    parts = [np.ma.filled(np.ma.asarray(block[name], np.float64), np.nan) for name in columns]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _read_reference(known: Catalog, columns: list[str], label: str) -> tuple[NDArray, NDArray]:
    """Return vectors (R, D) float32 and redshifts (R,) of the usable reference rows."""
    vectors, redshifts = [], []
    for start in range(0, known.nrows, BLOCK):
        stop = min(start + BLOCK, known.nrows)
        vector = _read_vectors(known, columns, start, stop)
        redshift = _read_vectors(known, [label], start, stop)[:, 0]
        usable = np.isfinite(vector).all(1) & np.isfinite(redshift)
        vectors.append(vector[usable].astype(np.float32))
        redshifts.append(redshift[usable])
    if not sum(map(len, vectors)):
        raise DataError(f"{known.name}: no row has both a finite {label} and a complete {','.join(columns)}")
    return np.concatenate(vectors), np.concatenate(redshifts)


def _predict_block(vectors: NDArray, neighbours: Neighbours, redshift: NDArray, k: int) -> dict[str, NDArray]:
    """Return the new columns of a block."""
    usable = np.isfinite(vectors).all(1)
    distance, index = neighbours.query(vectors[usable])
    summary = summarise(redshift[index], weigh(distance))
    flag = np.where(usable, 0, PredictFlag.NO_EMBEDDING).astype(np.int32)
    if neighbours.k < k:
        flag[usable] |= PredictFlag.FEW_NEIGHBOURS
    values: dict[str, NDArray] = {PREDICT_FLAG: flag}
    for name, estimate in {"MEAN": summary.mean, "STD": summary.std, **summary.quantiles}.items():
        column = np.full(len(vectors), np.nan, np.float32)
        column[usable] = estimate
        values[f"Z_PRED_{name}"] = column
    return values
