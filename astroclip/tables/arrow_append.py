"""Add columns to a table that is written as Parquet, CSV, ECSV or VOTable, whatever the input's format.

The part holds the new columns alone, as rows of fixed width. At the end the input is read in record batches,
and every column of it is written as it is, beside the new ones; a run that is killed there repeats only that.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from astroclip.errors import UsageError
from astroclip.files import Part, writing
from astroclip.schema import ColumnSpec
from astroclip.tables.appender import Appender
from astroclip.tables.arrowfields import (
    add_metadata,
    fits_batches,
    fits_schema,
    header_metadata,
    spec_array,
    spec_field,
)
from astroclip.tables.arrowtable import ArrowTable
from astroclip.tables.columns import string_width
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.outputs import OutputFormat
from astroclip.tables.writers import check_columns, write_batches

_READ_BYTES = 8 << 20  # of new columns, read back at a time


class ArrowPlan(NamedTuple):
    """Which columns the output has: those of the input that stay in their order, then the new ones.

    `stored` are the fields of the input that stay; `columns` say what each column of `schema` is: the number
    of a field of `stored`, or a new column. `row` is the type of a row of the part: the new columns.
    """

    stored: pa.Schema
    columns: list[int | ColumnSpec]
    schema: pa.Schema
    row: np.dtype[Any]


def plan_arrow(
    table: FitsTable | ArrowTable,
    columns: Sequence[ColumnSpec],
    dropped: Collection[str],
    form: OutputFormat,
    overwrite_columns: bool,
) -> ArrowPlan:
    """Plan a table's columns with new ones, without those that are dropped (names in upper case).

    Raises
    ------
    UsageError
        If a column exists, and may not or cannot be replaced.
    DataError
        If the format cannot hold a column.
    """
    stored = kept_schema(table, dropped)
    new = {spec.name.upper(): spec for spec in columns if spec.name.upper() not in dropped}
    planned: list[int | ColumnSpec] = []
    for number, field in enumerate(stored):
        spec = new.pop(field.name.upper(), None)
        if spec is not None:
            _check_replacement(table, field, spec, overwrite_columns)
        planned.append(number if spec is None else spec)
    planned += new.values()
    fields = [stored.field(one) if isinstance(one, int) else spec_field(one) for one in planned]
    check_columns(form, pa.schema(fields), table.name)
    added = [one for one in planned if isinstance(one, ColumnSpec)]
    row = np.dtype([(spec.name, _plain_dtype(spec), spec.shape) for spec in added])
    return ArrowPlan(stored, planned, pa.schema(fields, stored.metadata), row)


def kept_schema(table: FitsTable | ArrowTable, dropped: Collection[str]) -> pa.Schema:
    """Return the fields of a table that are not dropped (names in upper case), with the metadata of all."""
    if isinstance(table, FitsTable):
        schema = fits_schema(table, dropped)
        return schema.with_metadata(header_metadata(table.header))
    kept = [field for field in table.schema if field.name.upper() not in dropped]
    return pa.schema(kept, table.schema.metadata)


def stored_batches(
    table: FitsTable | ArrowTable, schema: pa.Schema, start: int, stop: int
) -> Iterator[pa.RecordBatch]:
    """Yield rows of a table as they are stored, the columns of a schema alone."""
    if isinstance(table, FitsTable):
        return fits_batches(table, schema, start, stop)
    whole = len(schema) == len(table.schema)
    return table.batches(start, stop, None if whole else schema.names)


def _plain_dtype(spec: ColumnSpec) -> np.dtype[Any]:
    """Return the type of one value in the part; texts may hold any character."""
    dtype = np.dtype(spec.dtype)
    return np.dtype(f"U{string_width(dtype)}") if dtype.kind in "US" else dtype.newbyteorder("=")


def _check_replacement(
    table: FitsTable | ArrowTable, field: pa.Field, spec: ColumnSpec, allowed: bool
) -> None:
    """Refuse to replace an existing column where it was not asked for, or its type differs."""
    if not allowed:
        raise UsageError(
            f"{table.name}: has a column '{field.name}' already. "
            "Overwrite it, or start from the catalogue without it"
        )
    if field.type != spec_field(spec).type:
        raise UsageError(
            f"{table.name}: column '{field.name}' is stored as {field.type}, the new one would be "
            f"{spec_field(spec).type}; it cannot be replaced. Start from the catalogue without it"
        )


class ArrowAppender(Appender):
    """Keeps the new columns in the part, and joins them with the input's at the end."""

    def __init__(
        self,
        table: FitsTable | ArrowTable,
        part: Part,
        columns: Sequence[ColumnSpec],
        plan: ArrowPlan,
        rows: tuple[int, int],
        form: OutputFormat,
    ) -> None:
        super().__init__(table, part, columns, rows, plan.row, 0)
        self._input, self._plan, self._form = table, plan, form

    def _begin(self) -> None:
        """Nothing precedes the rows."""

    def _put(self, values: dict[str, NDArray[Any]], rows: int) -> None:
        block = np.empty(rows, self._row)
        for name in self._row.names or ():
            block[name] = values[name]
        self._part.write(block.view(np.uint8))

    def _end_block(self) -> None:
        """Nothing is summed."""

    def _state(self) -> dict[str, Any]:
        return {}

    def _go_on(self, earlier: dict[str, Any]) -> None:
        self._run["metadata"] = earlier["metadata"]

    def _finish(self) -> None:
        self._part.write_journal(self._journal())
        said = {key.decode(): text.decode() for key, text in (self._plan.schema.metadata or {}).items()}
        add_metadata(said, self._run["metadata"])
        schema, finished = self._plan.schema.with_metadata(said), self._part.finished
        try:
            with writing(self._part.name):
                write_batches(self._form, finished, schema, self._batches(schema), self._codec())
        except BaseException:
            finished.unlink(missing_ok=True)  # may fill the disk
            raise
        self._check_unchanged()
        self._part.publish(finished)

    def _batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the output's rows."""
        at, step = 0, max(_READ_BYTES // max(self._row.itemsize, 1), 1)
        for batch in stored_batches(self._input, self._plan.stored, self.start, self.stop):
            for first in range(0, len(batch), step):
                piece = batch.slice(first, step)
                width = self._row.itemsize
                new = np.zeros(len(piece), self._row)
                if width:
                    new = np.frombuffer(self._part.read(at * width, len(piece) * width), self._row)
                at += len(piece)
                arrays = [
                    piece.column(one) if isinstance(one, int) else spec_array(new[one.name], one)
                    for one in self._plan.columns
                ]
                yield pa.record_batch(arrays, schema=schema)

    def _codec(self) -> str:
        """Return the compression of the output: that of a Parquet input."""
        return self._input.codec if isinstance(self._input, ArrowTable) else "snappy"
