"""Columns of FITS and of `ColumnSpec` in Arrow: fields with unit, comment and shape, and their arrays.

A vector column is a fixed-size list; one of more dimensions is flattened, and its shape is in the metadata of
the field.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.schema import ColumnSpec
from astroclip.tables.columns import FitsColumn, element_dtype
from astroclip.tables.fitstable import FitsTable

SHAPE_KEY = "astroclip_shape"  # metadata: the shape of a row of more than one dimension
HEADER_KEY = "fits_header"  # metadata of a schema: all cards of a FITS table
_BATCH_BYTES = 32 << 20
# cards that describe how a FITS table is stored
_LAYOUT_CARDS = re.compile(
    r"SIMPLE|EXTEND|END|XTENSION|BITPIX|NAXIS\d*|[PG]COUNT|TFIELDS|THEAP|CHECKSUM|DATASUM|LONGSTRN|EXTVER|T[A-Z]{3,4}\d+|"
)


def spec_field(spec: ColumnSpec) -> pa.Field:
    """Return the field of a new column."""
    dtype = np.dtype(spec.dtype)
    kind = pa.string() if dtype.kind in "US" else pa.from_numpy_dtype(dtype)
    return _field(spec.name, kind, spec.shape, spec.unit, spec.comment)


def spec_array(values: NDArray[Any], spec: ColumnSpec, null: int | None = None) -> pa.Array:
    """Return values (rows, *shape) of a new column; `null` is the integer that marks a missing one."""
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if null is not None:
        values = np.ma.masked_equal(values, null, copy=False)
    return _array(values, spec_field(spec).type)


def fits_schema(table: FitsTable, dropped: Collection[str] = ()) -> pa.Schema:
    """Return the fields of a FITS table's columns, without those that are dropped.

    Raises
    ------
    DataError
        If Arrow has no type for a column (complex numbers); the message names all of them.
    """
    columns = [column for name, column in table.columns.items() if name not in dropped]
    if wrong := [column.name for column in columns if column.letter in "CM"]:
        options = " ".join(f"--drop {name}" for name in wrong)
        raise DataError(
            f"{table.name}: only FITS tables hold complex numbers: column {', '.join(wrong)}. "
            f"Leave out: {options}; or write .fits"
        )
    return pa.schema([_fits_field(column) for column in columns])


def fits_batches(table: FitsTable, schema: pa.Schema, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Yield rows of a FITS table's columns; what is missing is null, NaN stays NaN."""
    step = max(_BATCH_BYTES // max(table.row_width, 1), 1)
    for at in range(start, stop, step):
        block = table.read(schema.names, at, min(at + step, stop))
        arrays = [_fits_array(block[field.name], table.columns[field.name], field.type) for field in schema]
        yield pa.record_batch(arrays, schema=schema)


def header_metadata(header: fits.Header) -> dict[str, str]:
    """Return a FITS table's cards as metadata of a schema: each value by its keyword, and the whole header.

    Cards that say how the table is stored are in the whole header only.
    """
    said = {HEADER_KEY: header.tostring(sep="\n")}
    for card in header.cards:
        if not is_layout_card(card.keyword) and card.keyword != "COMMENT":
            add_metadata(said, {card.keyword: str(card.value)})
    return said


def is_layout_card(keyword: str) -> bool:
    """Whether a card describes how a FITS table is stored."""
    return bool(_LAYOUT_CARDS.fullmatch(keyword))


def add_metadata(said: dict[str, str], more: Mapping[str, str]) -> None:
    """Add to metadata: lines of HISTORY follow those that are there, other values are replaced."""
    for key, value in more.items():
        said[key] = f"{said[key]}\n{value}" if key == "HISTORY" and key in said else value


def _field(name: str, kind: pa.DataType, shape: tuple[int, ...], unit: str, comment: str) -> pa.Field:
    size = prod(shape)
    kind = pa.list_(kind, size or -1) if shape else kind  # there is no list of size 0
    known = {"unit": unit, "comment": comment, SHAPE_KEY: ",".join(map(str, shape)) if len(shape) > 1 else ""}
    return pa.field(name, kind, metadata={key: text for key, text in known.items() if text})


def _fits_field(column: FitsColumn) -> pa.Field:
    if column.letter == "A":
        kind = pa.string()
    else:
        kind = pa.bool_() if column.letter in "LX" else pa.from_numpy_dtype(element_dtype(column))
    if column.descriptor:
        kind, shape = (kind if column.letter == "A" else pa.list_(kind)), ()
        return _field(column.name, kind, shape, column.unit, column.comment)
    return _field(column.name, kind, column.shape, column.unit, column.comment)


def _fits_array(values: NDArray[Any], column: FitsColumn, kind: pa.DataType) -> pa.Array:
    """Return rows of a FITS column."""
    if column.descriptor:
        if column.letter == "A":
            return pa.array([str(value) for value in values], kind)
        return pa.array([value.tolist() for value in values], kind)
    return _array(values, kind)


def _array(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return (rows, ...) as an array of scalars or of flat lists; what is masked is null."""
    if values.ndim > 1 and values.size == 0:
        return pa.array([[]] * len(values), kind)
    flat = np.ascontiguousarray(np.ma.getdata(values)).reshape(-1)
    mask = np.ma.getmaskarray(values).reshape(-1) if np.ma.isMaskedArray(values) else None
    inner = kind.value_type if values.ndim > 1 else kind
    array = pa.array(flat.astype(object) if flat.dtype.kind == "U" else flat, inner, mask=mask)
    return pa.FixedSizeListArray.from_arrays(array, type=kind) if values.ndim > 1 else array
