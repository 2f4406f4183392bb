"""Takes new columns block by block into a part file, with a journal; what every output format shares.

`FitsAppender` writes whole rows of the output (`tables.fits_append`), `ArrowAppender` the new columns alone,
which are joined with the others at the end (`tables.arrow_append`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.files import Part
from astroclip.schema import ColumnSpec
from astroclip.tables.anytable import Table
from astroclip.tables.columns import string_width
from astroclip.tables.provenance import check_same_run

JOURNAL_SECONDS = 1.0  # between two entries of the journal
_PIECE_BYTES = 4 << 20  # rows put together at a time


class Appender(ABC):
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

    def __init__(
        self,
        table: Table,
        part: Part,
        columns: Sequence[ColumnSpec],
        rows: tuple[int, int],
        row: np.dtype[Any],
        rows_at: int,
    ) -> None:
        self.start, self.stop = rows
        self.done, self.resumed = 0, False
        self._table, self._part, self._columns = table, part, columns
        self._row, self._rows_at = row, rows_at  # type of a row in the part, and where the first is
        self._run: dict[str, Any] = {}

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
            piece = {name: value[at:stop] for name, value in values.items()}
            self._put(piece, stop - at)
        self.done += rows
        self._end_block()
        if rows and self._part.journal_age >= JOURNAL_SECONDS:
            self._part.write_journal(self._journal())

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

    def begin(self, run: dict[str, Any], resume: bool) -> None:
        """Continue the earlier run if asked to and there is one, else write all that precedes the rows."""
        self._run = run
        earlier = self._part.read_journal() if self._part.size else None
        if earlier and resume:
            check_same_run(earlier, run, self._table.name, self._part.name)
            rows_end = earlier["rows_at"] + earlier["done"] * self._row.itemsize
            if self._part.size >= rows_end:
                self.done, self._rows_at, self.resumed = earlier["done"], earlier["rows_at"], True
                self._go_on(earlier)
                self._part.cut(rows_end)
                return
        try:
            self._part.restart()
            self._begin()
        except BaseException:
            self._part.remove()
            raise

    def _journal(self) -> dict[str, Any]:
        """Return what the journal says: whose part it is, and how far it is."""
        return {**self._run, "done": self.done, "rows_at": self._rows_at, **self._state()}

    def suspend(self) -> None:
        """Keep the part for a resumed run; if no row is done, leave nothing."""
        self._part.suspend(self.done, self._journal())

    def finish(self) -> None:
        """Complete the output, and give it its name."""
        if self.start + self.done != self.stop:
            raise ValueError(f"{self.done} rows written, expected {self.stop - self.start}")
        self._finish()

    def _check_unchanged(self) -> None:
        """Refuse to finish with an input that changed while it was read."""
        if self._table.is_changed():
            raise DataError(
                f"{self._table.name}: changed while it was read; nothing is finished. Start again"
            )

    @abstractmethod
    def _begin(self) -> None:
        """Write all that precedes the rows."""

    @abstractmethod
    def _put(self, values: dict[str, NDArray[Any]], rows: int) -> None:
        """Write the next rows."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what follows the rows, or make the output from the part, and publish it."""

    @abstractmethod
    def _end_block(self) -> None:
        """Take note that a block was written whole."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """Return what the journal holds besides."""

    @abstractmethod
    def _go_on(self, earlier: dict[str, Any]) -> None:
        """Take up the state of an earlier run."""
