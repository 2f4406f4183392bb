"""Add columns to a catalogue: every byte of the input is copied, the new columns follow in each row.

Input columns, cards, heap and other HDUs stay bit-equal. Only NAXIS1, TFIELDS, THEAP, CHECKSUM and DATASUM of
the table change (NAXIS2 in a shard), and new cards are added at the end of its header.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.files import Part, check_output, check_space, read_exactly
from astroclip.schema import ColumnSpec
from astroclip.tables.anytable import Table
from astroclip.tables.arrowtable import ArrowTable
from astroclip.tables.columns import string_width, to_stored
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.hdus import Checksum, join_cards, padded, read_cards, seal_header
from astroclip.tables.layout import Layout, field_of, lay_out, shard_cards
from astroclip.tables.outputs import PARQUET, output_format
from astroclip.tables.parquet import check_parquet_columns, write_parquet
from astroclip.tables.provenance import check_same_run, describe_run, provenance_cards

JOURNAL_SECONDS = 1.0  # between two entries of the journal
_PIECE_BYTES = 4 << 20  # rows put together at a time


class Appender:
    """Takes the new columns block by block, in row order; made by `append_columns`.

    Attributes
    ----------
    start, stop : int
        The rows of the catalogue that this run writes (all of them, unless it is a shard).
    done : int
        How many of them are written; larger than 0 at the begin of a resumed run. The next row to compute is
        ``start + done``.
    resumed : bool
        Whether an earlier run's part was found and is continued.
    """

    def __init__(self, catalog: FitsTable, part: Part, columns: Sequence[ColumnSpec], layout: Layout) -> None:
        self.start, self.stop, self.done, self.resumed = layout.start, layout.stop, 0, False
        self._catalog, self._part, self._columns, self._row = catalog, part, columns, layout.row
        self._rows_at = catalog.table.start + len(join_cards(layout.cards))
        self._sum, self._datasum = Checksum(), 0  # of all that is written; of the rows that are done
        self._run: dict[str, Any] = {}
        self._noted = time.monotonic()

    def write(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Write the next rows: one array a new column, (rows, *shape), all of the same length.

        A run that is interrupted and resumed goes on after the last block that was written whole.

        Raises
        ------
        ValueError
            If columns, shapes or types are not those announced, or there are more rows than left.
        DataError
            If the disk is full or cannot be written; what was written is kept for a resumed run.
        """
        rows = self._check(values)
        step = max(_PIECE_BYTES // max(self._row.itemsize, 1), 1)
        for at in range(0, rows, step):
            stop = min(at + step, rows)
            self._write_rows(
                self.start + self.done + at, {n: v[at:stop] for n, v in values.items()}, stop - at
            )
        self.done += rows
        self._datasum = self._sum.total
        if rows and time.monotonic() - self._noted >= JOURNAL_SECONDS:
            self._note()

    def _check(self, values: Mapping[str, NDArray[Any]]) -> int:
        """Return the number of rows of a block that is as announced."""
        left = self.stop - self.start - self.done
        if set(values) != {spec.name for spec in self._columns}:
            raise ValueError(f"columns {sorted(values)}, expected {[spec.name for spec in self._columns]}")
        rows = len(next(iter(values.values()))) if values else left
        for spec in self._columns:
            value, dtype = values[spec.name], np.dtype(spec.dtype)
            text = dtype.kind in "US" and value.dtype.kind in "US"
            if value.shape != (rows, *spec.shape) or not (
                text or np.can_cast(value.dtype, dtype, "same_kind")
            ):
                raise ValueError(
                    f"column {spec.name}: {value.dtype} {value.shape}, expected {dtype} {(rows, *spec.shape)}"
                )
            if text and string_width(value.dtype) > string_width(dtype):
                raise ValueError(f"column {spec.name}: texts of more than {string_width(dtype)} characters")
        if rows > left:
            raise ValueError(f"{rows} rows, but only {left} are left")
        return rows

    def _write_rows(self, first: int, values: dict[str, NDArray[Any]], rows: int) -> None:
        """Put input rows from `first` on and new values side by side, big-endian, and write them."""
        block = np.empty(rows, self._row)
        width = self._catalog.row_width
        if width:
            at = self._catalog.table.data + first * width
            kept = read_exactly(self._catalog.file, at, rows * width, self._catalog.name)
            block["input"] = np.frombuffer(kept, f"V{width}")
        for spec in self._columns:
            block[field_of(spec)] = to_stored(values[spec.name], spec)
        stored = block.view(np.uint8)
        self._part.write(stored)
        self._sum.update(stored)

    def begin(self, header: bytes, run: dict[str, Any], resume: bool) -> None:
        """Continue the earlier run if asked to and there is one, else write all that precedes the rows."""
        self._run = run
        part, width = self._part, self._row.itemsize
        earlier = part.read_journal() if part.size else None
        if earlier and resume:
            check_same_run(earlier, run, self._catalog.name, part.name)
        if earlier and resume:
            rows_end = earlier["rows_at"] + earlier["done"] * width
            if part.size >= rows_end:
                self.done, self._rows_at, self.resumed = earlier["done"], earlier["rows_at"], True
                self._datasum = earlier["datasum"]
                self._sum = Checksum(self._datasum, self.done * width % 4)
                part.cut(rows_end)
                return
        try:
            part.restart()
            part.copy(self._catalog.file, 0, self._catalog.table.start)
            part.write(header)
        except BaseException:
            part.remove()
            raise

    def _note(self) -> None:
        """Write into the journal how far the part is."""
        state = {"done": self.done, "rows_at": self._rows_at, "datasum": self._datasum}
        self._part.write_journal({**self._run, **state})
        self._noted = time.monotonic()

    def suspend(self) -> None:
        """Keep the part for a resumed run; if no row is done, leave nothing."""
        if self.done == 0:
            self._part.remove()
            return
        with suppress(DataError):  # on a full disk the last journal still holds
            self._note()

    def finish(self) -> None:
        """Write what follows the rows, seal the header, and give the output its name."""
        if self.start + self.done != self.stop:
            raise ValueError(f"{self.done} rows written, expected {self.stop - self.start}")
        close_table(self._part, self._catalog, self._rows_at, self._sum)
        source, known = self._catalog.source.stat(), self._catalog.fingerprint
        if (source.st_size, source.st_mtime_ns) != (known["size"], known["mtime_ns"]):
            raise DataError(
                f"{self._catalog.name}: changed while it was read; nothing is finished. Start again"
            )
        publish(self._part, self._catalog.table.index)


def close_table(part: Part, catalog: FitsTable, rows_at: int, datasum: Checksum) -> None:
    """Write all that follows the rows (gap, heap, padding, other HDUs) and seal the table's header.

    `rows_at` is where the rows begin in the part, `datasum` their sum. The header is read from there: a
    resumed run keeps the dates of the first.
    """
    table = catalog.table
    rows_end = table.data + catalog.nrows * catalog.row_width
    part.copy(catalog.file, rows_end, table.data + table.size, datasum.update)
    part.write(bytes(padded(part.size) - part.size))
    part.copy(catalog.file, table.end, os.fstat(catalog.file.fileno()).st_size)
    cards = read_cards(BytesIO(part.read(table.start, rows_at - table.start)))
    part.patch(table.start, seal_header(cards or [], datasum.total))


def publish(part: Part, hdu: int) -> None:
    """Give a finished part its name, as it is or turned into Parquet."""
    if output_format(part.output) != PARQUET:
        part.publish()
        return
    beside = part.path.with_suffix(".part.parquet")
    with FitsTable(part.path, hdu, name=part.name) as table:
        write_parquet(table, beside)
    part.publish(beside)


@contextmanager
def append_columns(
    catalog: Table,
    output: str | Path,
    columns: Sequence[ColumnSpec],
    *,
    history: Sequence[str] = (),
    cards: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    rows: tuple[int, int] | None = None,
    shard: tuple[int, int] | None = None,
    overwrite: bool = False,
    overwrite_columns: bool = False,
    resume: bool = False,
) -> Iterator[Appender]:
    """Write `output`: the catalogue with columns added, in the order of its rows.

    Leaving the context normally finishes the file and gives it its name in one rename; until then nothing is
    there under that name. Leaving it by an exception, or being killed at any moment, leaves a part file for
    ``resume=True`` (none if no row was written yet).

    Parameters
    ----------
    catalog : Table
        An opened table. `output` may be the same file, with `overwrite`.
    output : path
        ``.fits``, or ``.parquet`` (the table alone; its cards go into the schema's metadata).
    columns : sequence of ColumnSpec
        The new columns, in order. One that exists already is an error; with `overwrite_columns` its values
        are replaced where they stand, if it is stored in the same type and shape.
    history : sequence of str
        More provenance, as HISTORY cards of the table. Those of the program's version, the input's name and
        SHA-256, and the settings are always written, and the cards ACVERS and ACDATE.
    cards : mapping of str to value or (value, comment)
        More cards of the table; one of the same name is replaced.
    settings : mapping
        Everything that decides about the new values; must be writable as JSON. A resumed run must have the
        same.
    rows : (int, int), optional
        Write only the rows from the first to before the second; needs `shard`.
    shard : (int, int), optional
        ``(i, n)``, i from 0: this is one of n tables with some rows each, to be put together by
        `merge_shards`. Every shard keeps all other HDUs and the whole heap.
    overwrite : bool
        Replace an existing output, when the new one is complete.
    resume : bool
        Continue the part an interrupted run left; without one, begin (`Appender.resumed` tells). A changed
        catalogue (by SHA-256 of all its bytes), other settings or another version of the program are
        refused. Cards and history stay those of the first run. Without `resume` a part is discarded.

    Yields
    ------
    Appender

    Raises
    ------
    UsageError
        If the output or a column exists already, settings differ from those of the part, or another run
        writes the same output.
    DataError
        If the folder cannot be written, the disk is too small, or the catalogue changed.
    """
    name, target = str(output), Path(os.path.realpath(output))
    form = output_format(name)
    check_output(target, name, overwrite)
    if isinstance(catalog, ArrowTable):
        from astroclip.tables.fitscopy import open_fits_copy

        with open_fits_copy(catalog, target.parent) as copy, append_columns(
            copy, output, columns, history=history, cards=cards, settings=settings, rows=rows, shard=shard,
            overwrite=overwrite, overwrite_columns=overwrite_columns, resume=resume,
        ) as appender:  # fmt: skip
            yield appender
        return
    if not isinstance(catalog, FitsTable):
        raise TypeError(type(catalog))
    if form == PARQUET:
        if shard:
            raise UsageError(f"{name}: a shard is written as .fits; the merged table may be .parquet")
        check_parquet_columns(catalog)
    start, stop = rows or (0, catalog.nrows)
    if not 0 <= start <= stop <= catalog.nrows or (shard is None and stop - start < catalog.nrows):
        raise ValueError(f"rows {start} to {stop} of {catalog.nrows}, shard {shard}")
    run = describe_run(catalog, columns, settings or {}, rows=(start, stop), shard=shard)
    new_cards = provenance_cards(run, cards or {}, history)
    new_cards += shard_cards(catalog, shard, start, run) if shard else []
    layout = lay_out(catalog, columns, new_cards, (start, stop), overwrite_columns)
    check_space(target, name, layout.file_size(catalog) * (2 if form == PARQUET else 1))
    part = Part(target, name)
    try:
        appender = Appender(catalog, part, columns, layout)
        appender.begin(join_cards(layout.cards), run, resume)
        try:
            yield appender
            appender.finish()
        except BaseException:
            appender.suspend()
            raise
    finally:
        part.close()
