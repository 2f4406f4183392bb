"""Add columns to a FITS table: every byte of the input is copied, the new columns follow in each row.

Input columns, cards, heap and other HDUs stay bit-equal. Only NAXIS1, TFIELDS, THEAP, CHECKSUM and DATASUM of
the table change (NAXIS2 in a shard), and new cards are added at the end of its header; without the columns
that are dropped, and their cards.
"""

import os
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.files import Part, read_exactly
from astroclip.schema import ColumnSpec
from astroclip.tables.anytable import Table
from astroclip.tables.appender import Appender
from astroclip.tables.columns import to_stored
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.hdus import Checksum, Hdu, join_cards, padded, read_cards, seal_header
from astroclip.tables.layout import Layout, field_of


class FitsAppender(Appender):
    """Writes FITS rows: those of the input with the new values behind, big-endian.

    `fits` is the table itself, or the FITS copy of one in another format.
    """

    def __init__(
        self, table: Table, fits: FitsTable, part: Part, columns: Sequence[ColumnSpec], layout: Layout
    ) -> None:
        self._header = join_cards(layout.cards)
        rows_at = fits.table.start + len(self._header)
        super().__init__(table, part, columns, (layout.start, layout.stop), layout.row, rows_at)
        self._fits, self._layout = fits, layout
        self._sum, self._datasum = Checksum(), 0  # of all that is written; of the rows that are done

    def _begin(self) -> None:
        self._part.copy(self._fits.file, 0, self._fits.table.start)
        self._part.write(self._header)

    def _put(self, values: dict[str, NDArray[Any]], rows: int) -> None:
        block = np.empty(rows, self._row)
        width = self._fits.row_width
        if width:
            first = self.start + (self._part.size - self._rows_at) // self._row.itemsize
            at = self._fits.table.data + first * width
            kept = read_exactly(self._fits.file, at, rows * width, self._fits.name)
            stored = np.frombuffer(kept, self._layout.kept)
            for name in self._layout.kept.names or ():
                block[name] = stored[name]
        for spec in self._columns:
            if field_of(spec) in (self._row.names or ()):
                block[field_of(spec)] = to_stored(values[spec.name], spec)
        written = block.view(np.uint8)
        self._part.write(written)
        self._sum.update(written)

    def _end_block(self) -> None:
        self._datasum = self._sum.total

    def _state(self) -> dict[str, Any]:
        return {"datasum": self._datasum}

    def _go_on(self, earlier: dict[str, Any]) -> None:
        self._datasum = earlier["datasum"]
        self._sum = Checksum(self._datasum, self.done * self._row.itemsize % 4)

    def _finish(self) -> None:
        close_table(self._part, self._fits, self._rows_at, self._sum)
        self._check_unchanged()
        self._part.publish()


def close_table(part: Part, table: FitsTable, rows_at: int, datasum: Checksum) -> None:
    """Write all that follows the rows (gap, heap, padding, other HDUs) and seal the table's header.

    `rows_at` is where the rows begin in the part, `datasum` their sum. The header is read from there: a
    resumed run keeps the dates of the first.
    """
    hdu = table.table
    cards = read_cards(BytesIO(part.read(hdu.start, rows_at - hdu.start))) or []
    heap = Hdu(part.name, hdu.index, hdu.start, cards, rows_at).integer("PCOUNT", 0)
    rows_end = hdu.data + table.nrows * table.row_width
    part.copy(table.file, rows_end, rows_end + heap, datasum.update)
    part.write(bytes(padded(part.size) - part.size))
    part.copy(table.file, hdu.end, os.fstat(table.file.fileno()).st_size)
    part.patch(hdu.start, seal_header(cards, datasum.total))
