"""Read Parquet and CSV tables in batches, and say which FITS columns they become.

A first pass finds what FITS must know before the first row: the length of the longest text, whether integers
have missing values, the lengths of lists, and for CSV the types. Both passes stream.
"""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.schema import ColumnSpec
from astroclip.tables.columns import to_stored
from astroclip.tables.parquet import SHAPE_KEY

_CSV_BLOCK = 16 << 20  # bytes
_CSV_MISSING = pa.array(["", "nan", "NaN", "NA", "N/A", "null", "NULL"])
_CSV_TYPES = {"int64": pa.int64(), "uint64": pa.uint64(), "float64": pa.float64(), "bool": pa.bool_()}
# an unsigned integer with missing values becomes the next signed one, whose lowest value marks them
_WIDER = {"uint8": "int16", "uint16": "int32", "uint32": "int64"}
_BATCH_ROWS = 65536
_BATCH_BYTES = 64 << 20


@dataclass
class TableColumn:
    """One column of a Parquet or CSV table, as it will be in FITS; filled by the first pass."""

    name: str
    dtype: str  # NumPy name of one element, or "str"
    shape: tuple[int, ...] = ()
    unit: str = ""
    comment: str = ""
    lists: bool = False  # of varying length by type: the first pass finds the one length they must have
    missing: bool = False
    filled: bool = False  # has a value
    longest: int = 1  # bytes of the longest text
    csv_types: list[str] = field(default_factory=list)  # that fit all values so far; empty if not CSV

    @property
    def spec(self) -> ColumnSpec:
        """The FITS column."""
        dtype = f"S{self.longest}" if self.dtype == "str" else self.dtype
        if self.missing:
            dtype = _WIDER.get(dtype, dtype)
        return ColumnSpec(self.name, dtype, self.shape, self.unit, self.comment)

    @property
    def null(self) -> int | None:
        """The integer that marks missing values: the lowest of its type (uint64: the highest)."""
        dtype = np.dtype(self.spec.dtype)
        if not self.missing or dtype.kind not in "iu":
            return None
        return int(np.iinfo(dtype).max if dtype.kind == "u" else np.iinfo(dtype).min)

    @property
    def tnull(self) -> int | None:
        """`null` as FITS stores it, before TZERO."""
        if self.null is None:
            return None
        return self.null - {"uint64": 2**63, "int8": -(2**7)}.get(self.spec.dtype, 0)


class Table:
    """A Parquet or CSV table: its columns, its number of rows, its batches of stored FITS values.

    Parameters
    ----------
    files
        One file; of Parquet also several that follow each other, with the columns of the first.
    name
        What the user called it.
    is_csv
        CSV, or Parquet.
    wanted
        Names of columns, in upper case, to leave the others out.

    Raises
    ------
    DataError
        If the file is broken, or a column has a type that FITS tables cannot hold.
    """

    def __init__(
        self, files: Sequence[Path], name: str, *, is_csv: bool, wanted: Container[str] | None = None
    ) -> None:
        self.files, self.name, self.is_csv = files, name, is_csv
        with reading(name):
            self.columns = self._csv_columns() if is_csv else self._parquet_columns(wanted)
            self.nrows = 0
            for batch in self._batches():
                self.nrows += batch.num_rows
                for column, array in zip(self.columns, batch.columns, strict=True):
                    self._survey(column, array)
        for column in self.columns:
            if column.csv_types:
                column.dtype = column.csv_types[0] if column.filled else "float64"

    def stored_batches(self) -> Iterator[list[NDArray[Any]]]:
        """Yield blocks of rows: one array a column, as FITS stores it."""
        with reading(self.name):
            for batch in self._batches():
                pairs = zip(self.columns, batch.columns, strict=True)
                yield [self._stored(column, array) for column, array in pairs]

    def _parquet_columns(self, wanted: Container[str] | None) -> list[TableColumn]:
        schema = pq.read_schema(self.files[0])
        chosen = [field for field in schema if wanted is None or field.name.upper() in wanted]
        self._schema = pa.schema(chosen)
        return [parquet_column(field, self.name) for field in chosen]

    def _csv_columns(self) -> list[TableColumn]:
        with pa.csv.open_csv(self.files[0]) as reader:
            names = reader.schema.names
        return [TableColumn(name, "str", csv_types=[*_CSV_TYPES, "str"]) for name in names]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if not self.is_csv:
            names = self._schema.names
            for path in self.files:
                file = pq.ParquetFile(path)
                rows = max(file.metadata.num_rows, 1)
                size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
                fitting = min(max(_BATCH_BYTES * rows // max(size, 1), 1), _BATCH_ROWS)
                for batch in file.iter_batches(batch_size=fitting, columns=names):
                    same = batch.schema.equals(self._schema)
                    yield batch if same else batch.select(names).cast(self._schema)
            return
        types = {column.name: pa.string() for column in self.columns}
        with pa.csv.open_csv(
            self.files[0],
            read_options=pa.csv.ReadOptions(block_size=_CSV_BLOCK),
            parse_options=pa.csv.ParseOptions(newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        ) as reader:
            yield from reader

    def _survey(self, column: TableColumn, array: pa.Array) -> None:
        """Take one batch of a column into account."""
        if column.csv_types:
            values = _csv_values(array)
            column.missing |= values.null_count > 0
            column.filled |= values.null_count < len(values)
            column.csv_types = [kind for kind in column.csv_types if kind == "str" or _fits(values, kind)]
        elif column.lists and (lengths := pc.unique(pc.list_value_length(array).drop_null()).to_pylist()):
            if len(lengths) > 1 or column.shape not in ((), (lengths[0],)):
                raise DataError(
                    f"{self.name}: column '{column.name}' has lists of different lengths, "
                    "which a FITS vector column cannot hold. Drop it or pad them"
                )
            column.shape = (lengths[0],)
        column.missing |= array.null_count > 0 or _innermost(array).null_count > 0
        if column.dtype == "str":
            text = array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
            column.longest = max(column.longest, pc.max(pc.binary_length(text)).as_py() or 1)

    def _stored(self, column: TableColumn, array: pa.Array) -> NDArray[Any]:
        """Return one batch of a column as stored in FITS, missing values marked."""
        spec = column.spec
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if spec.dtype.startswith("S"):
            return self._text(pc.fill_null(array, ""), column)
        if self.is_csv:
            array = _csv_values(array).cast(_CSV_TYPES[column.dtype])
        inner = _innermost(array)
        there = pc.is_valid(array).to_numpy(zero_copy_only=False) | (inner is array)  # rows that inner has
        if len(inner) != there.sum() * prod(column.shape):
            raise DataError(f"{self.name}: column '{column.name}' has lists that are missing within lists")
        missing = np.ones((len(array), *column.shape), bool)
        missing[there] = pc.is_null(inner).to_numpy(zero_copy_only=False).reshape(-1, *column.shape)
        zero = pa.scalar(False if pa.types.is_boolean(inner.type) else 0, inner.type)
        present = pc.fill_null(inner, zero).to_numpy(zero_copy_only=False)
        values = np.zeros(missing.shape, spec.dtype)
        values[there] = present.reshape(-1, *column.shape)
        if column.null is not None:
            if np.any(values[~missing] == column.null):
                raise DataError(
                    f"{self.name}: column '{column.name}' has missing values and also holds {column.null}, "
                    "the value that marks them in FITS"
                )
            values[missing] = column.null
        elif values.dtype.kind == "f":
            values[missing] = np.nan
        stored = to_stored(values, spec)
        if values.dtype.kind == "b":
            stored[missing] = 0  # FITS standard 4.0, 7.3.3.1: a zero byte is an undefined logical
        return stored

    def _text(self, array: pa.Array, column: TableColumn) -> NDArray[np.bytes_]:
        try:
            return array.to_numpy(zero_copy_only=False).astype(f"S{column.longest}")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{self.name}: column '{column.name}' holds {error.object!r}; FITS text is ASCII. Rewrite it"
            ) from None


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what pyarrow says about a broken file into a `DataError`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name}: cannot be read as a table ({error})") from error


def parquet_column(arrow: pa.Field, name: str) -> TableColumn:
    """Describe a column of a Parquet table; its metadata may hold unit, comment and shape (`write_parquet`).

    Raises
    ------
    DataError
        If it has a type that FITS tables cannot hold; `name` is what the user called the table.
    """
    known = {key.decode(): text.decode(errors="replace") for key, text in (arrow.metadata or {}).items()}
    kind, sizes = arrow.type, []
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    while pa.types.is_fixed_size_list(kind):
        sizes.append(kind.list_size)
        kind = kind.value_type
    if lists:
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not (numeric or (text and not sizes and not lists)):
        raise DataError(
            f"{name}: column '{arrow.name}' is {arrow.type}, which a FITS table cannot hold. Drop it"
        )
    dtype = "str" if text else np.dtype(kind.to_pandas_dtype()).name
    if SHAPE_KEY in known:
        sizes = [int(size) for size in known[SHAPE_KEY].split(",")]
    return TableColumn(
        arrow.name,
        "float32" if dtype == "float16" else dtype,
        tuple(sizes),
        known.get("unit", ""),
        known.get("comment", ""),
        lists=lists,
    )


def _innermost(array: pa.Array) -> pa.Array:
    """Return the elements of (nested) lists; rows that are missing have none."""
    while pa.types.is_nested(array.type):
        array = array.flatten()
    return array


def _csv_values(array: pa.Array) -> pa.Array:
    """Return texts without blanks around them, and null where they say so."""
    text = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.is_in(text, _CSV_MISSING), None, text)


def _fits(values: pa.Array, kind: str) -> bool:
    """Tell whether all texts can be read as a type."""
    try:
        values.cast(_CSV_TYPES[kind])
    except pa.ArrowInvalid:
        return False
    return True
