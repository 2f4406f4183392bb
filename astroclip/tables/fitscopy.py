"""Turn an Arrow table into a FITS table: what FITS must know before the first row is found in a first pass.

That is the length of the longest text, whether integers and logicals are missing, and the values in lists of
different lengths, which go into the heap. Both passes stream.
"""

import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.files import writing
from astroclip.schema import ColumnSpec
from astroclip.tables.anytable import Block
from astroclip.tables.arrowcolumns import ArrowColumn, column_values
from astroclip.tables.arrowtable import ArrowTable
from astroclip.tables.columns import column_cards, form_of, stored_dtype, to_stored
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.hdus import Card, join_cards, padded
from astroclip.tables.layout import MAX_COLUMNS
from astroclip.tables.unpack import nameless_file
from astroclip.tables.write import PRIMARY

# an unsigned integer with missing values becomes the next signed one, whose lowest value marks them
_WIDER = {"uint8": "int16", "uint16": "int32", "uint32": "int64"}
_COPIED_BYTES = 8 << 20


@dataclass
class StoredColumn:
    """One column as it will be in FITS; the first pass fills in what it finds."""

    column: ArrowColumn
    missing: bool = False
    longest: int = 1  # characters of a text, values of a list
    escaped: bool = False  # holds characters outside of ASCII
    heap: int = 0  # values in all lists
    holds_null: bool = False  # among values that are there

    @property
    def spec(self) -> ColumnSpec:
        """The column, of a list its elements."""
        c = self.column
        dtype = f"S{self.longest}" if c.dtype.kind == "U" else c.element.name
        if self.missing:
            dtype = _WIDER.get(dtype, dtype)
        return ColumnSpec(c.name, dtype, c.shape, c.unit, c.comment)

    @property
    def null(self) -> int | None:
        """The integer that marks missing values: the lowest of its type (uint64: the highest)."""
        dtype = np.dtype(self.spec.dtype)
        if not self.missing or dtype.kind not in "iu":
            return None
        return int(np.iinfo(dtype).max if dtype.kind == "u" else np.iinfo(dtype).min)

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """The bytes of one row: a list is a descriptor, length and offset."""
        return np.dtype((">i8", (2,))) if self.column.lists else stored_dtype(self.spec)

    @property
    def needs_a_look(self) -> bool:
        """Whether the first pass has to see its values."""
        c = self.column
        return c.lists or c.dtype.kind == "U" or c.null is not None

    def look(self, values: NDArray[Any], name: str) -> None:
        """Take rows into account."""
        if self.column.lists:
            lengths = [len(row) for row in values]
            self.longest, self.heap = max([self.longest, *lengths]), self.heap + sum(lengths)
            parts = list(values)
        else:
            parts = [values]
        if self.column.dtype.kind == "U":
            texts = np.char.encode(np.ma.getdata(values), "ascii", "backslashreplace")
            self.longest = max(self.longest, int(np.char.str_len(texts).max(initial=0)))
            self.escaped |= not all(map(str.isascii, np.ma.getdata(values).ravel().tolist()))
        elif self.column.null is not None:
            for part in parts:
                self._look_for_missing(part, name)

    def _look_for_missing(self, values: NDArray[Any], name: str) -> None:
        mask, data = np.ma.getmaskarray(values), np.ma.getdata(values)
        self.missing |= bool(mask.any())
        element = self.column.element
        if element.name not in _WIDER and np.any(data[~mask] == self.column.null):
            self.holds_null = True
        if self.missing and self.holds_null:
            raise DataError(
                f"{name}: column '{self.column.name}' has missing values and also holds {self.column.null}, "
                f"the value that marks them in FITS. Leave it out: --drop {self.column.name}"
            )

    def stored(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values as FITS stores them, missing ones marked."""
        spec = self.spec
        if self.column.dtype.kind == "U":
            return np.char.encode(np.ma.getdata(values), "ascii", "backslashreplace")
        if np.dtype(spec.dtype).kind in "iu":
            mask, data = np.ma.getmaskarray(values), np.ma.getdata(values)
            values = np.where(mask, 0, data).astype(spec.dtype)
            if self.null is not None:
                values[mask] = self.null
        return to_stored(values, spec)

    def cards(self, number: int) -> list[Card]:
        """Return the cards that describe it."""
        cards = column_cards(self.spec, number, self.null)
        if self.column.lists:
            form = f"1Q{form_of(self.spec)[-1]}({self.longest})"
            cards = [Card(f"TFORM{number}", form) if card.key == f"TFORM{number}" else card for card in cards]
        return cards


def write_fits_copy(table: ArrowTable, target: BinaryIO, drop: Collection[str] = ()) -> None:
    r"""Write all rows of an Arrow table as a FITS file with one binary table, HDU 1.

    Integers that are missing are TNULL (the lowest of the type; unsigned ones become the next signed type,
    for uint64 it is the highest value), logicals undefined, floats NaN, texts blank. Lists of different
    lengths lie in the heap. Characters outside of ASCII are escaped (``\xe9``); a HISTORY card says so.

    Parameters
    ----------
    target
        A new file, open for writing.
    drop
        Names of columns to leave out, in any case.

    Raises
    ------
    DataError
        If FITS cannot hold a column; the message names all of them. Or the disk is full.
    """
    columns = fits_columns(table, drop)
    looked = [stored for stored in columns if stored.needs_a_look]
    for values in _blocks(table, [stored.column for stored in looked]):
        for stored in looked:
            stored.look(values[stored.column.name], table.name)
    with writing(table.name):
        _write(table, columns, target)


def open_fits_copy(table: ArrowTable, scratch: Path | None, drop: Collection[str] = ()) -> FitsTable:
    """Open a FITS copy of an Arrow table, in a file without a name; it is called as the table is.

    Raises
    ------
    DataError
        As of `write_fits_copy`.
    """
    file = nameless_file(scratch, table.name)
    try:
        write_fits_copy(table, file, drop)
    except BaseException:
        file.close()
        raise
    return FitsTable(table.source, 1, name=table.name, file=file)


def fits_columns(table: ArrowTable, drop: Collection[str]) -> list[StoredColumn]:
    """Return the columns of the copy, or say which FITS cannot hold."""
    dropped = {table.column(name).name for name in drop}
    columns = [StoredColumn(c) for name, c in table.columns.items() if name not in dropped]
    wrong = [s.column for s in columns if not _fits(s.column)]
    if wrong:
        shown = ", ".join(f"'{c.name}' ({c.type})"[:120] for c in wrong)
        options = " ".join(f"--drop {c.name}" for c in wrong)
        raise DataError(
            f"{table.name}: FITS tables cannot hold column {shown}. Leave out: {options}; or write .parquet"
        )
    names = [name.upper() for name in table.schema.names if name not in dropped]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or len(columns) > MAX_COLUMNS:
        wrong_names = f"columns {', '.join(twice)} are there twice" if twice else ""
        many = f"{len(columns)} columns, FITS allows {MAX_COLUMNS}"
        raise DataError(
            f"{table.name}: {wrong_names or many}. Leave some out (--drop NAME), or write .parquet"
        )
    return columns


def _fits(column: ArrowColumn) -> bool:
    """Tell whether FITS has a type for a column."""
    return column.element.kind in "biufU" and not column.fields and not pa.types.is_decimal(column.type)


def _blocks(table: ArrowTable, columns: list[ArrowColumn]) -> Iterator[Block]:
    """Yield all rows of columns, batch by batch."""
    names = [column.name for column in columns]
    for batch in table.batches(columns=names) if names else ():
        yield {
            column.name: column_values(values, column, f"{table.name}: column '{column.name}'")
            for column, values in zip(columns, batch.columns, strict=True)
        }


def _write(table: ArrowTable, columns: list[StoredColumn], file: BinaryIO) -> None:
    """Write primary HDU, header, rows, heap."""
    row = np.dtype([(f"c{i}", stored.row_dtype) for i, stored in enumerate(columns)])
    heap_size = sum(s.heap * stored_dtype(s.spec).itemsize for s in columns if s.column.lists)
    header = [
        Card("XTENSION", "BINTABLE"), Card("BITPIX", 8), Card("NAXIS", 2), Card("NAXIS1", row.itemsize),
        Card("NAXIS2", table.nrows), Card("PCOUNT", heap_size), Card("GCOUNT", 1),
        Card("TFIELDS", len(columns)),
    ]  # fmt: skip
    for i, stored in enumerate(columns):
        header += stored.cards(i + 1)
        if stored.escaped:
            header.append(
                Card("HISTORY", f"{stored.column.name}: characters outside ASCII are escaped (\\xe9)")
            )
    file.write(join_cards([card.encode() for card in PRIMARY]))
    file.write(join_cards([card.encode() for card in header]))
    with nameless_file(None, table.name) as heap:
        for values in _blocks(table, [stored.column for stored in columns]):
            block = np.empty(len(next(iter(values.values()))), row)
            for i, stored in enumerate(columns):
                one = values[stored.column.name]
                block[f"c{i}"] = _to_heap(one, stored, heap) if stored.column.lists else stored.stored(one)
            file.write(block.view(np.uint8).data)
        heap.seek(0)
        shutil.copyfileobj(heap, file, _COPIED_BYTES)
    file.write(bytes(padded(file.tell()) - file.tell()))
    file.flush()


def _to_heap(rows: NDArray[Any], stored: StoredColumn, heap: BinaryIO) -> NDArray[np.int64]:
    """Write lists into the heap, and return their descriptors."""
    element = stored_dtype(stored.spec)
    descriptors = np.zeros((len(rows), 2), np.int64)
    for i, row in enumerate(rows):
        descriptors[i] = len(row), heap.tell()
        heap.write(stored.stored(row).astype(element).tobytes())
    return descriptors
