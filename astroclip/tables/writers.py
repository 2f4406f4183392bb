"""Write record batches as Parquet, CSV, TSV, ECSV or a VOTable.

Parquet and CSV are written as the batches come. ECSV and VOTables are made in memory, as they are read.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.tables.arrowcolumns import (
    ArrowColumn,
    arrow_column,
    column_values,
    is_number,
    is_text,
    plain_type,
)
from astroclip.tables.arrowfields import HEADER_KEY
from astroclip.tables.outputs import OutputFormat

_GROUP_BYTES = 16 << 20  # of a row group of Parquet, before it is packed
# types of VOTables; of those that it has not, the next larger one
_VOTABLE_NAMES = {
    "bool": "boolean", "uint8": "unsignedByte", "int8": "short", "int16": "short", "uint16": "int",
    "int32": "int", "uint32": "long", "int64": "long", "float32": "float", "float64": "double",
}  # fmt: skip
types = pa.types


def check_columns(form: OutputFormat, schema: pa.Schema, name: str) -> None:
    """Refuse columns that a format has no type for.

    Raises
    ------
    DataError
        Naming all of them.
    """
    holds = {
        OutputFormat.PARQUET: lambda _: True,
        OutputFormat.CSV: _is_scalar,
        OutputFormat.TSV: _is_scalar,
        OutputFormat.ECSV: _is_vector,
        OutputFormat.VOTABLE: _is_votable,
    }[form]
    wrong = [field for field in schema if not holds(field.type)]
    if wrong:
        shown = ", ".join(f"'{field.name}' ({field.type})"[:120] for field in wrong)
        options = " ".join(f"--drop {field.name}" for field in wrong)
        raise DataError(
            f"{name}: {form} tables cannot hold column {shown}. Leave out: {options}; or write .parquet"
        )


def _is_scalar(kind: pa.DataType) -> bool:
    kind = plain_type(kind)
    return not types.is_nested(kind) and (
        is_text(kind)
        or is_number(kind)
        or types.is_temporal(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    )


def _is_vector(kind: pa.DataType) -> bool:
    """Whether a type is a scalar, a vector of one length, or a list of numbers."""
    kind = plain_type(kind)
    if types.is_list(kind) or types.is_large_list(kind):
        return is_number(plain_type(kind.value_type))
    while types.is_fixed_size_list(kind):
        kind = plain_type(kind.value_type)
    return _is_scalar(kind) and not types.is_duration(kind)


def _is_votable(kind: pa.DataType) -> bool:
    """Whether a VOTable holds a type: it has no unsigned integers of 64 bits, and no vectors of text."""
    inner = plain_type(kind)
    while types.is_fixed_size_list(inner) or types.is_list(inner) or types.is_large_list(inner):
        inner = plain_type(inner.value_type)
    scalar = inner == plain_type(kind)
    return _is_vector(kind) and inner != pa.uint64() and (scalar or is_number(inner))


def write_batches(
    form: OutputFormat,
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    codec: str = "snappy",
) -> None:
    """Write a table; the metadata of the schema are its provenance (CSV holds none).

    Parameters
    ----------
    codec
        Compression of Parquet.
    """
    if form is OutputFormat.PARQUET:
        _write_parquet(path, schema, batches, codec)
    elif form in (OutputFormat.CSV, OutputFormat.TSV):
        _write_csv(path, schema, batches, "," if form is OutputFormat.CSV else "\t")
    else:
        columns = pa.Table.from_batches(batches, schema)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of units that only other standards know
            (_write_ecsv if form is OutputFormat.ECSV else _write_votable)(path, schema, columns)


def _write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], codec: str) -> None:
    """Write row groups of about 16 MB; rows of small batches go into one group."""
    # random floats have no dictionary: to look for one costs half of the time
    words = [field.name for field in schema if not _is_float(field.type)]
    with pq.ParquetWriter(path, schema, compression=codec, use_dictionary=words) as writer:
        held: list[pa.RecordBatch] = []
        size = 0
        for batch in batches:
            held.append(batch)
            size += batch.nbytes
            if size >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(held, schema))
                held, size = [], 0
        if held:
            writer.write_table(pa.Table.from_batches(held, schema))


def _is_float(kind: pa.DataType) -> bool:
    while types.is_fixed_size_list(kind) or types.is_list(kind):
        kind = kind.value_type
    return bool(types.is_floating(kind))


def _write_csv(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], delimiter: str) -> None:
    """Write texts, numbers, true and false; what is missing is an empty cell, NaN too."""
    plain = pa.schema([(field.name, _csv_type(plain_type(field.type))) for field in schema])
    options = pa.csv.WriteOptions(delimiter=delimiter)
    with pa.csv.CSVWriter(path, plain, write_options=options) as writer:
        for batch in batches:
            writer.write_batch(
                pa.record_batch(
                    [_csv_array(a, f.type) for a, f in zip(batch.columns, plain, strict=True)], schema=plain
                )
            )


def _csv_type(kind: pa.DataType) -> pa.DataType:
    return (
        pa.float32()
        if types.is_float16(kind)
        else pa.string()
        if types.is_decimal(kind) or types.is_temporal(kind) or types.is_null(kind)
        else kind
    )


def _csv_array(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    array = array.cast(kind)
    return pc.if_else(pc.is_nan(array), None, array) if types.is_floating(kind) else array


def _write_ecsv(path: Path, schema: pa.Schema, columns: pa.Table) -> None:
    """Write by astropy, with units and descriptions."""
    from astropy.table import Column, MaskedColumn, Table
    from astropy.units import Unit

    table = Table(meta=_provenance(schema))
    for field, chunks in zip(schema, columns.columns, strict=True):
        column, values = _native(field, chunks)
        kind = MaskedColumn if np.ma.isMaskedArray(values) else Column
        unit = Unit(column.unit, parse_strict="silent") if column.unit else None
        table[field.name] = kind(values, unit=unit, description=column.comment or None)
    table.write(path, format="ascii.ecsv", overwrite=True)


def _write_votable(path: Path, schema: pa.Schema, columns: pa.Table) -> None:
    """Write one table in BINARY2, which keeps missing integers, with an INFO for each word of provenance."""
    from astropy.io.votable import tree

    whole, resource = tree.VOTableFile(), tree.Resource()
    table = tree.TableElement(whole)
    whole.resources.append(resource)
    resource.tables.append(table)
    native = [_native(field, chunks) for field, chunks in zip(schema, columns.columns, strict=True)]
    for column, values in native:
        field = tree.Field(
            whole, name=column.name, unit=column.unit or None, **_datatype(values, column.lists)
        )
        field.description = column.comment or None
        table.fields.append(field)
    table.create_arrays(columns.num_rows)
    for name, (column, values) in zip(table.array.dtype.names or (), native, strict=True):
        if column.lists:
            for row, value in enumerate(values):
                table.array.data[name][row] = np.ma.array(value, mask=np.ma.getmaskarray(value))
        else:
            table.array[name] = np.ma.getdata(values)
            table.array.mask[name] = np.ma.getmaskarray(values)
    for key, text in _provenance(schema).items():
        table.infos.append(tree.Info(name=key, value=text))
    whole.to_xml(str(path), tabledata_format="binary2")


def _datatype(values: NDArray[Any], lists: bool) -> dict[str, str]:
    """Return the type of a field of a VOTable, fastest axis first."""
    if values.dtype.kind == "U":
        return {"datatype": "unicodeChar", "arraysize": "*"}
    if lists:
        kind = next((row.dtype.name for row in values if len(row)), "float64")
        return {"datatype": _VOTABLE_NAMES[kind], "arraysize": "*"}
    sizes = "x".join(map(str, reversed(values.shape[1:])))
    return {"datatype": _VOTABLE_NAMES[values.dtype.name]} | ({"arraysize": sizes} if sizes else {})


def _provenance(schema: pa.Schema) -> dict[str, str]:
    """Return what the metadata of a schema say, as texts."""
    known = (schema.metadata or {}).items()
    said = {key.decode(errors="replace"): text.decode(errors="replace") for key, text in known}
    return {key: text for key, text in said.items() if key not in (HEADER_KEY, "pandas", "ARROW:schema")}


def _native(field: pa.Field, chunks: pa.ChunkedArray) -> tuple[ArrowColumn, NDArray[Any]]:
    """Return a column as NumPy has it; dates are texts as in ISO 8601."""
    column = arrow_column(field)
    values = column_values(chunks.combine_chunks(), column, f"column '{field.name}'")
    if values.dtype.kind == "M":
        values = np.ma.array(np.datetime_as_string(values), mask=np.isnat(values))
    return column, values
