"""Tables of Arrow: Parquet files that follow each other, read in record batches where they lie.

Of a file only the footer is read before; reading on where the last read ended costs nothing more, and a read
elsewhere decodes from the beginning of its row group. HATS catalogues are Parquet (`tables.hats`); CSV, ECSV
and VOTables are written to a nameless Parquet file first (`tables.textfile`, `tables.markup`).
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.schema import ColumnSpec
from astroclip.tables.anytable import Block, Table
from astroclip.tables.arrowcolumns import (
    ArrowColumn,
    arrow_column,
    astropy_units,
    column_values,
)
from astroclip.tables.fingerprint import fingerprint_of, listing_of

BATCH_ROWS, BATCH_BYTES = 65536, 32 << 20  # of a record batch
MEASURED_BYTES = 256 << 20  # of lists whose lengths are looked at in every row; of more, the footers tell
_CURSORS = 4  # sets of columns that are read side by side, each from where it was
_BUFFER_BYTES = 1 << 16  # of a column chunk, read ahead

Name = Path | BinaryIO


class ArrowTable(Table):
    """A table of Parquet files opened for reading; made by `open_table`, used as a context manager.

    Lists of one length in all rows are vector columns. `Column.null` is the lowest integer of the type (of
    unsigned ones the highest), unless the footers say that nothing is missing.

    Attributes
    ----------
    files : list of Path
        The Parquet files in the order of their rows, F of them; none where the user's file has another format
        and was converted into one without a name.
    first : (F + 1,) int64 array
        Number of the first row of each file, and of all rows.
    schema : pyarrow.Schema
        That of the first file; all others have its columns.
    codec : str
        Compression of the last file.
    position : (str or None, str or None)
        Names of the right ascension and declination that a HATS catalogue declares as its own.

    Raises
    ------
    DataError
        If a file is damaged, or lacks columns of the first.
    """

    columns: dict[str, ArrowColumn]

    def __init__(
        self,
        files: Sequence[Name],
        name: str,
        source: Path,
        *,
        place: str = "",
        others: Sequence[str] = (),
        position: tuple[str | None, str | None] = (None, None),
        problems: Mapping[str, str] | None = None,
    ) -> None:
        self._inputs, self.name, self.source = list(files), name, source
        self.files = [file for file in files if isinstance(file, Path)]
        self.place, self.others, self.position = place, list(others), position
        self.problems = problems or {}
        self._lock, self._cursors = threading.Lock(), OrderedDict[tuple[str, ...], _Cursor]()
        footers = _Footers()
        rows: list[int] = []
        for file in self._inputs:
            with self._open(file) as parquet:
                if not rows:
                    self.schema: pa.Schema = parquet.schema_arrow
                elif lacking := set(self.schema.names) - set(parquet.schema_arrow.names):
                    raise DataError(
                        f"{file}: no column {', '.join(sorted(lacking))}, which {self.files[0]} has"
                    )
                footers.add(parquet.metadata)
                self.codec = codec_of(parquet.metadata)
                rows.append(parquet.metadata.num_rows)
        self.first = np.cumsum([0, *rows], dtype=np.int64)
        self.nrows = int(self.first[-1])
        self._bytes = footers.bytes
        self.columns = self._describe(footers)

    @cached_property
    def header(self) -> Mapping[str, str]:
        """What the metadata of the schema say, as text."""
        metadata = self.schema.metadata or {}
        return {key.decode(errors="replace"): text.decode(errors="replace") for key, text in metadata.items()}

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Size, time of change (ns) and SHA-256 of the user's file; of a folder of its files' listing."""
        if self.source.is_dir():
            return listing_of(self.files)
        return fingerprint_of(self.source, self.name)

    def is_changed(self) -> bool:
        """Whether the file, or a file of the folder, is another one than `fingerprint` says."""
        if not self.source.is_dir():
            return super().is_changed()
        return listing_of(self.files) != self.fingerprint

    @contextmanager
    def _open(self, file: Name) -> Iterator[pq.ParquetFile]:
        """Open a file, and turn what pyarrow says about a broken one into a `DataError`."""
        shown = f"{file}" if isinstance(file, Path) and len(self.files) > 1 else self.name
        with reading(shown):
            parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)
            try:
                yield parquet
            finally:
                parquet.close()  # a file that was open before stays open

    def _describe(self, footers: "_Footers") -> dict[str, ArrowColumn]:
        """Describe the columns, and find the lists that all have one length."""
        known, columns = astropy_units(self.schema.metadata), dict[str, ArrowColumn]()
        for field in self.schema:
            column = arrow_column(field, *known.get(field.name, ("", "")))
            if column.element.kind in "iu" and footers.missing.get(field.name, True):
                limits = np.iinfo(column.element)
                column = replace(column, null=int(limits.max if column.element.kind == "u" else limits.min))
            columns.setdefault(field.name, column)
        lists = [name for name, column in columns.items() if column.lists]
        for name, length in self._lengths(lists, footers).items():
            column = columns[name]
            columns[name] = replace(column, dtype=column.element, lists=False, shape=(length,))
        return columns

    def _lengths(self, names: list[str], footers: "_Footers") -> dict[str, int]:
        """Return the one length that all lists of a column have, for the columns where it is one."""
        small = [name for name in names if footers.bytes.get(name, 0) <= MEASURED_BYTES]
        even = [name for name in names if name not in small and len(footers.ratios[name]) == 1]
        found: dict[str, set[int]] = {name: set() for name in (*small, *even)}
        for wanted, stop in ((small, self.nrows), (even, min(self.nrows, BATCH_ROWS))):
            for batch in self.batches(0, stop, wanted) if wanted else ():
                for name, lists in zip(wanted, batch.columns, strict=True):
                    found[name].update(pc.unique(pc.list_value_length(lists).drop_null()).to_pylist())
        return {name: lengths.pop() for name, lengths in found.items() if len(lengths) == 1}

    def read(self, names: Iterable[str], start: int = 0, stop: int | None = None) -> Block:
        """Read rows `start` to `stop` of some columns, as `Table.read` says.

        Decimals become float64; dates datetime64; bytes, and nested columns, objects.

        Raises
        ------
        DataError
            If a column does not exist, a file is damaged, or a text stands in a column of numbers of a CSV.
        """
        wanted = {name: self.columns[self.need(name)] for name in names}
        stop = self.nrows if stop is None else stop
        if not 0 <= start <= stop <= self.nrows:
            raise ValueError(f"rows {start} to {stop} of a table with {self.nrows}")
        if not wanted:
            return {}
        masks = {column.name: self._mask_of(column.name) for column in wanted.values()}
        stored = tuple(
            dict.fromkeys([column.name for column in wanted.values()] + [*filter(None, masks.values())])
        )
        if wrong := [self.problems[name] for name in stored if name in self.problems]:
            raise DataError(f"{self.name}: {wrong[0]}")
        with self._lock:
            batches = self._take(stored, start, stop)
        table = pa.Table.from_batches(batches, self._schema_of(stored))
        values = {
            name: column_values(
                _whole(table.column(column.name)), column, f"{self.name}: column '{column.name}'"
            )
            for name, column in wanted.items()
        }
        for name, column in wanted.items():
            if mask := masks[column.name]:
                values[name] = _masked(values[name], np.asarray(table.column(mask)))
        return values

    def _mask_of(self, name: str) -> str | None:
        """Return the column in which astropy keeps what is masked in another one."""
        mask = self.columns.get(f"{name}.mask")
        flags = (
            mask is not None and mask.dtype.kind == "b" and not mask.shape and not self.columns[name].shape
        )
        return f"{name}.mask" if flags and "table_meta_yaml" in self.header else None

    def _take(self, names: tuple[str, ...], start: int, stop: int) -> list[pa.RecordBatch]:
        """Return rows of columns, from where the last read of these columns ended if that is near."""
        cursor = self._cursors.pop(names, None)
        if cursor is None or not cursor.row <= start < cursor.row + BATCH_ROWS:
            cursor = _Cursor(start, self.batches(start, None, names))
        batches = cursor.take(start, stop)
        self._cursors[names] = cursor
        if len(self._cursors) > _CURSORS:
            self._cursors.popitem(last=False)
        return batches

    def batches(
        self, start: int = 0, stop: int | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows `start` to `stop` as they are stored, about 32 MB at a time; by default all columns."""
        stop = self.nrows if stop is None else stop
        schema = self.schema if columns is None else self._schema_of(columns)
        rows = self._batch_rows(schema.names)
        for i, file in enumerate(self._inputs):
            a, b = (
                int(np.clip(row, self.first[i], self.first[i + 1]) - self.first[i]) for row in (start, stop)
            )
            if a < b:
                with self._open(file) as parquet:
                    yield from _file_batches(parquet, schema, a, b, rows, everything=columns is None)

    def _schema_of(self, names: Sequence[str]) -> pa.Schema:
        """Return the schema of some columns; of a name that is there twice the first is meant."""
        return pa.schema([self.schema.field(self.schema.get_all_field_indices(name)[0]) for name in names])

    def _batch_rows(self, names: Iterable[str]) -> int:
        """Return how many rows of some columns are about `BATCH_BYTES`."""
        size = sum(self._bytes.get(name, 0) for name in set(names))
        return int(min(max(BATCH_BYTES * max(self.nrows, 1) // max(size, 1), 1), BATCH_ROWS))

    def spec(self, name: str) -> ColumnSpec:
        """Return a column as a FITS table would hold it; the longest text is looked for in all rows."""
        column, spec = self.column(name), super().spec(name)
        if column.dtype.kind != "U":
            return spec
        longest = 1
        for batch in self.batches(columns=[column.name]):
            longest = max(longest, longest_text(batch.column(0)))
        return spec._replace(dtype=f"U{longest}")

    def close(self) -> None:
        """Close all files."""
        self._cursors.clear()
        for file in self._inputs:
            if not isinstance(file, Path):
                file.close()


def _masked(values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """Return values without those that are masked, as `Table.read` has it."""
    if not missing.any():
        return values
    if values.dtype.kind == "f":
        values = np.array(values)
        values[missing] = np.nan
        return values
    return np.ma.MaskedArray(values, np.ma.getmaskarray(values) | missing)


def codec_of(footer: pq.FileMetaData) -> str:
    """Return the compression of a file's first column chunk, as a Parquet writer takes it."""
    if not footer.num_row_groups or not footer.num_columns:
        return "snappy"
    codec = footer.row_group(0).column(0).compression.lower()
    return "none" if codec == "uncompressed" else codec


class _Footers:
    """What the footers say of the columns: bytes, whether integers are missing, values a row in lists."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self.missing: dict[str, bool] = {}
        self.ratios: dict[str, set[float]] = {}

    def add(self, footer: pq.FileMetaData) -> None:
        """Take up a file."""
        leaves = [footer.schema.column(i).path for i in range(footer.num_columns)]
        names = footer.schema.to_arrow_schema().names
        tops = [leaf if leaf in names else _top(leaf, names) for leaf in leaves]
        for g in range(footer.num_row_groups):
            group = footer.row_group(g)
            for i, name in enumerate(tops):
                chunk = group.column(i)
                self.bytes[name] = self.bytes.get(name, 0) + chunk.total_uncompressed_size
                known = chunk.statistics
                nulls = known.null_count if known is not None and known.has_null_count else None
                self.missing[name] = self.missing.get(name, False) or nulls != 0
                self.ratios.setdefault(name, set()).add(chunk.num_values / max(group.num_rows, 1))


def _top(leaf: str, names: Sequence[str]) -> str:
    """Return the column to which a leaf belongs; names of columns may have dots."""
    parts = leaf.split(".")
    heads = (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
    return next((head for head in heads if head in names), parts[0])


class _Cursor:
    """A walk through record batches, which goes on where it was."""

    def __init__(self, row: int, batches: Iterator[pa.RecordBatch]) -> None:
        self.row, self._batches = row, batches
        self._rest: pa.RecordBatch | None = None

    def take(self, start: int, stop: int) -> list[pa.RecordBatch]:
        """Return rows, not before `row`."""
        taken = []
        while self.row < stop:
            batch = self._rest if self._rest is not None else next(self._batches)
            skip, left = max(start - self.row, 0), stop - self.row
            piece = batch.slice(skip, max(left - skip, 0)) if skip < len(batch) else None
            if piece is not None and len(piece):
                taken.append(piece)
            self._rest = batch.slice(left) if left < len(batch) else None
            self.row += min(left, len(batch))
        return taken


def _file_batches(
    parquet: pq.ParquetFile, schema: pa.Schema, start: int, stop: int, rows: int, *, everything: bool
) -> Iterator[pa.RecordBatch]:
    """Yield rows of one file in the types of a schema."""
    counts = [parquet.metadata.row_group(g).num_rows for g in range(parquet.num_row_groups)]
    first = np.cumsum([0, *counts])
    groups = [g for g, count in enumerate(counts) if count and first[g] < stop and first[g + 1] > start]
    at = int(first[groups[0]])
    names = None if everything else schema.names
    for batch in parquet.iter_batches(batch_size=rows, row_groups=groups, columns=names):
        a, b = max(start - at, 0), min(stop - at, len(batch))
        at += len(batch)
        if a >= b:
            continue
        piece = batch.slice(a, b - a)
        if piece.schema.names != schema.names:
            at_names = [piece.schema.get_all_field_indices(name)[0] for name in schema.names]
            piece = piece.select(at_names)
        yield piece if piece.schema.equals(schema) else piece.cast(schema)


def _whole(chunks: pa.ChunkedArray) -> pa.Array:
    """Return the chunks of a column as one array."""
    return chunks.chunk(0) if chunks.num_chunks == 1 else chunks.combine_chunks()


def longest_text(array: pa.Array) -> int:
    """Return the number of characters of the longest text of an array, at least 1."""
    if len(array) and isinstance(array, pa.DictionaryArray):
        array = array.dictionary
    return pc.max(pc.utf8_length(array)).as_py() or 1


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what pyarrow says about a broken file into a `DataError`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name}: cannot be read as a table ({error})") from error
