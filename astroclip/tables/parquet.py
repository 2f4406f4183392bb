"""Write a table as Parquet: units, comments and shapes in the fields' metadata, the cards in the schema's."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.tables.columns import FitsColumn, element_dtype
from astroclip.tables.fitstable import FitsTable

SHAPE_KEY = "astroclip_shape"  # metadata: the shape of a row of more than one dimension
_GROUP_BYTES = 64 << 20  # of a row group


def check_parquet_columns(catalog: FitsTable) -> None:
    """Raise `DataError` that names the columns Parquet has no type for (complex numbers)."""
    complex_names = [column.name for column in catalog.columns.values() if column.letter in "CM"]
    if complex_names:
        raise DataError(
            f"{catalog.name}: Parquet has no complex numbers: {', '.join(complex_names)}. Write .fits instead"
        )


def write_parquet(catalog: FitsTable, path: Path) -> None:
    """Write all rows of a table, group by group.

    Integers equal to the column's null value become null; undefined logicals are false, as read. A vector
    column is a fixed-size list; one of more dimensions is flattened, and its shape is in the metadata.
    """
    schema = pa.schema([_field(column) for column in catalog.columns.values()])
    schema = schema.with_metadata({"fits_header": catalog.header.tostring(sep="\n")})
    step = max(_GROUP_BYTES // max(catalog.row_width, 1), 1)
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, catalog.nrows, step):
            block = catalog.read(catalog.columns, start, min(start + step, catalog.nrows))
            arrays = [_array(block[name], column) for name, column in catalog.columns.items()]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def _type(column: FitsColumn) -> pa.DataType:
    """Return the type of one row of a column."""
    if column.letter == "A":
        value = pa.string()
    else:
        value = pa.bool_() if column.letter in "LX" else pa.from_numpy_dtype(element_dtype(column))
    if column.descriptor:
        return value if column.letter == "A" else pa.list_(value)
    return pa.list_(value, prod(column.shape) or -1) if column.shape else value  # no list of size 0


def _field(column: FitsColumn) -> pa.Field:
    shape = ",".join(map(str, column.shape)) if len(column.shape) > 1 else ""
    metadata = {"unit": column.unit, "comment": column.comment, SHAPE_KEY: shape}
    return pa.field(
        column.name, _type(column), metadata={key: text for key, text in metadata.items() if text}
    )


def _array(values: NDArray[Any], column: FitsColumn) -> pa.Array:
    if column.descriptor:
        return pa.array([value.item() if column.letter == "A" else value for value in values], _type(column))
    if values.size == 0:
        return pa.array([[]] * len(values), _type(column))
    flat = pa.array(values.reshape(-1).astype(object) if column.letter == "A" else values.reshape(-1))
    if column.null is not None and not column.scaled:
        flat = pc.if_else(pa.array(values.reshape(-1) != np.array(column.null, values.dtype)), flat, None)
    return pa.FixedSizeListArray.from_arrays(flat, prod(column.shape)) if column.shape else flat
