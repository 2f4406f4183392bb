"""How the output table will look: its header, its rows, and which rows a shard holds."""

import hashlib
import json
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from astroclip.errors import DataError, UsageError
from astroclip.schema import ColumnSpec
from astroclip.tables.columns import FitsColumn, column_cards, form_of, stored_dtype
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.hdus import Card, ascii_text, join_cards, keyword, padded, set_card

MAX_COLUMNS = 999  # FITS standard 4.0, section 7.3.1
_HISTORY_WIDTH = 72

# Cards of a shard: which of how many, which rows of which catalogue, made by which run
SHARD, NSHARDS, FIRST_ROW, ALL_ROWS = "ACSHARD", "ACNSHARD", "ACROW0", "ACROWS"
SHARD_INPUT, SHARD_RUN = "ACINPUT", "ACRUN"
SHARD_CARDS = (SHARD, NSHARDS, FIRST_ROW, ALL_ROWS, SHARD_INPUT, SHARD_RUN)


class Layout(NamedTuple):
    """The table to be written.

    `cards` is its header; `row` the type of a row, whose field "input" is the input's row and whose other
    fields are the new columns (`field_of`); `start` and `stop` the input rows it holds.
    """

    cards: list[bytes]
    row: np.dtype[Any]
    start: int
    stop: int

    def file_size(self, catalog: FitsTable) -> int:
        """Return the bytes of the finished file."""
        table = catalog.table
        rows = (self.stop - self.start) * self.row.itemsize
        heap = table.size - catalog.nrows * catalog.row_width
        rest = os.fstat(catalog.file.fileno()).st_size - table.end
        return table.start + len(join_cards(self.cards)) + padded(rows + heap) + rest


def field_of(spec: ColumnSpec) -> str:
    """Return the field of `Layout.row` that holds a new column."""
    return f"new {spec.name}"


def lay_out(
    catalog: FitsTable,
    columns: Sequence[ColumnSpec],
    cards: Sequence[Card],
    rows: tuple[int, int],
    overwrite_columns: bool,
) -> Layout:
    """Plan the catalogue's table with columns and cards added.

    Raises
    ------
    UsageError
        If a column is named twice, has no FITS type, or exists and may not or cannot be replaced.
    DataError
        If the table would have more than 999 columns.
    """
    names = [spec.name.upper() for spec in columns]
    if len(set(names)) < len(names):
        raise UsageError(f"columns {', '.join(spec.name for spec in columns)}: a name is there twice")
    total = catalog.table.integer("TFIELDS") + sum(catalog.find(name) is None for name in names)
    if total > MAX_COLUMNS:
        raise DataError(f"{catalog.name}: would have {total} columns, FITS allows {MAX_COLUMNS}")
    header = list(catalog.table.cards)
    offsets, width, number = [], catalog.row_width, catalog.table.integer("TFIELDS")
    for spec in columns:
        form_of(spec)
        existing = catalog.find(spec.name)
        if existing:
            column = catalog.columns[existing]
            _check_replacement(catalog, column, spec, overwrite_columns)
            offsets.append(column.offset)
        else:
            number += 1
            offsets.append(width)
            width += stored_dtype(spec).itemsize
            header += [card.encode() for card in column_cards(spec, number)]
    row = np.dtype(
        {
            "names": ["input", *map(field_of, columns)],
            "formats": [f"V{catalog.row_width}", *map(stored_dtype, columns)],
            "offsets": [0, *offsets],
            "itemsize": width,
        }
    )
    start, stop = rows
    heap_gap = (
        catalog.table.integer("THEAP", catalog.nrows * catalog.row_width) - catalog.nrows * catalog.row_width
    )
    set_number(header, "NAXIS1", width)
    set_number(header, "NAXIS2", stop - start)
    set_number(header, "TFIELDS", number)
    set_number(header, "THEAP", (stop - start) * width + heap_gap)
    for card in cards:
        add_card(header, card)
    # placeholders of the final length; filled in when all data are written
    set_card(header, "CHECKSUM", "0" * 16, "HDU checksum")
    set_card(header, "DATASUM", "0", "data unit checksum")
    return Layout(header, row, start, stop)


def set_number(cards: list[bytes], key: str, value: int) -> None:
    """Change the value of a card that is there, and nothing else in it; no card, no change."""
    for i, card in enumerate(cards):
        if keyword(card) == key:
            _, slash, comment = card[10:].partition(b"/")
            cards[i] = (f"{key:<8}= {value:>20} ".encode() + slash + comment)[:80].ljust(80)


def add_card(cards: list[bytes], card: Card) -> None:
    """Add a card of any length; one of the same name is replaced, HISTORY goes to the end."""
    if card.key != "HISTORY":
        set_card(cards, *card)
        if any(keyword(c) == "CONTINUE" for c in cards) and not any(keyword(c) == "LONGSTRN" for c in cards):
            set_card(cards, "LONGSTRN", "OGIP 1.0")  # fitsverify asks for it beside CONTINUE
        return
    lines = textwrap.wrap(ascii_text(card.value), _HISTORY_WIDTH) or [""]
    cards += [Card("HISTORY", line).encode() for line in lines]


def _check_replacement(catalog: FitsTable, column: FitsColumn, spec: ColumnSpec, allowed: bool) -> None:
    """Refuse to replace an existing column where it was not asked for, or its storage differs."""
    if not allowed:
        raise UsageError(
            f"{catalog.name}: {catalog.table} has a column '{column.name}' already. "
            "Overwrite it, or start from the catalogue without it"
        )
    same = (
        not (column.descriptor or column.scaled)
        and (column.letter, column.stored) == (form_of(spec)[-1], stored_dtype(spec))
        and (column.letter == "A" or column.dtype == np.dtype(spec.dtype))
    )
    if not same:
        raise UsageError(
            f"{catalog.name}: column '{column.name}' is stored as {column.form}, the new one would be "
            f"{form_of(spec)}; it cannot be replaced. Start from the catalogue without it"
        )


def shard_cards(catalog: FitsTable, shard: tuple[int, int], start: int, run: Mapping[str, Any]) -> list[Card]:
    """Return the cards that tell which shard of which catalogue and run a table is.

    Raises
    ------
    UsageError
        If there is no such shard, or the catalogue is itself a shard.
    """
    if not 0 <= shard[0] < shard[1]:
        raise UsageError(f"shard {shard[0]} of {shard[1]}: expected 0 to {shard[1] - 1}")
    if SHARD in catalog.header:
        raise UsageError(
            f"{catalog.name}: is itself a shard. Merge it with the others first, or do not split it"
        )
    settings = json.dumps([run[key] for key in ("program", "hdu", "columns", "settings")], sort_keys=True)
    return [
        Card(SHARD, shard[0], "which shard this table is, from 0"),
        Card(NSHARDS, shard[1], "number of shards"),
        Card(FIRST_ROW, start, "its first row in the whole table, from 0"),
        Card(ALL_ROWS, catalog.nrows, "rows of the whole table"),
        Card(SHARD_INPUT, catalog.fingerprint["sha256"]),
        Card(SHARD_RUN, hashlib.sha256(settings.encode()).hexdigest()),
    ]
