"""How the output table will look: its header, its rows, and which rows a shard holds."""

import hashlib
import json
import os
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from astroclip.errors import DataError, UsageError
from astroclip.schema import ColumnSpec
from astroclip.tables.anytable import Table
from astroclip.tables.columns import FitsColumn, column_cards, form_of, stored_dtype
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.hdus import Card, ascii_text, drop_cards, join_cards, keyword, padded, set_card

MAX_COLUMNS = 999  # FITS standard 4.0, section 7.3.1
_HISTORY_WIDTH = 72
_COLUMN_CARD = re.compile(  # of one column, by its number (FITS standard 4.0, sections 7.3 and 8.2)
    "(TTYPE|TFORM|TUNIT|TSCAL|TZERO|TNULL|TDISP|TDIM|TCOMM|TUCD|TLMIN|TLMAX|TDMIN|TDMAX|TCTYP|TCUNI|TCRPX"
    r"|TCRVL|TCDLT|TCNAM)(\d+)"
)

# Cards of a shard: which of how many, which rows of which catalogue, made by which run
SHARD, NSHARDS, FIRST_ROW, ALL_ROWS = "ACSHARD", "ACNSHARD", "ACROW0", "ACROWS"
SHARD_INPUT, SHARD_RUN = "ACINPUT", "ACRUN"
SHARD_CARDS = (SHARD, NSHARDS, FIRST_ROW, ALL_ROWS, SHARD_INPUT, SHARD_RUN)


class Layout(NamedTuple):
    """The table to be written.

    `cards` is its header; `row` the type of a row, whose fields are the bytes that are kept of the input's
    row and the new columns (`field_of`); `kept` the type of the input's row, with the first of these fields;
    `start` and `stop` the input rows it holds.
    """

    cards: list[bytes]
    row: np.dtype[Any]
    kept: np.dtype[Any]
    start: int
    stop: int

    def file_size(self, catalog: FitsTable) -> int:
        """Return the bytes of the finished file."""
        table = catalog.table
        rows = (self.stop - self.start) * self.row.itemsize
        heap = table.size - catalog.nrows * catalog.row_width  # more than is needed, where it is dropped
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
    dropped: Collection[str] = (),
) -> Layout:
    """Plan the catalogue's table with columns and cards added, without the dropped ones (in upper case).

    Raises
    ------
    UsageError
        If a column has no FITS type, or exists and may not or cannot be replaced.
    DataError
        If the table would have more than 999 columns.
    """
    stays = [column for column in catalog.columns.values() if column.name.upper() not in dropped]
    if dropped:
        header, runs = _without(catalog, [c for c in catalog.columns.values() if c not in stays])
    else:
        header, runs = list(catalog.table.cards), [(0, catalog.row_width)]
    columns = [spec for spec in columns if spec.name.upper() not in dropped]
    number = catalog.table.integer("TFIELDS") - len(catalog.columns) + len(stays)
    total = number + sum(catalog.find(spec.name) is None for spec in columns)
    if total > MAX_COLUMNS:
        raise DataError(f"{catalog.name}: would have {total} columns, FITS allows {MAX_COLUMNS}")
    offsets, width = [], sum(size for _, size in runs)
    for spec in columns:
        form_of(spec)
        existing = catalog.find(spec.name)
        if existing:
            column = catalog.columns[existing]
            _check_replacement(catalog, column, spec, overwrite_columns)
            offsets.append(_new_offset(runs, column.offset))
        else:
            number += 1
            offsets.append(width)
            width += stored_dtype(spec).itemsize
            header += [card.encode() for card in column_cards(spec, number)]
    names, formats = [f"input {at}" for at, _ in runs], [f"V{size}" for _, size in runs]
    row = _row_type(
        [*names, *map(field_of, columns)],
        [*formats, *map(stored_dtype, columns)],
        [*(_new_offset(runs, at) for at, _ in runs), *offsets],
        width,
    )
    kept = _row_type(names, formats, [at for at, _ in runs], catalog.row_width)
    start, stop = rows
    heap_gap = (
        catalog.table.integer("THEAP", catalog.nrows * catalog.row_width) - catalog.nrows * catalog.row_width
    )
    set_number(header, "NAXIS1", width)
    set_number(header, "NAXIS2", stop - start)
    set_number(header, "TFIELDS", number)
    set_number(header, "THEAP", (stop - start) * width + heap_gap)
    if dropped and not any(column.descriptor for column in stays):
        set_number(header, "PCOUNT", 0)  # nothing points into the heap
        header = drop_cards(header, "THEAP")
    for card in cards:
        add_card(header, card)
    # placeholders of the final length; filled in when all data are written
    set_card(header, "CHECKSUM", "0" * 16, "HDU checksum")
    set_card(header, "DATASUM", "0", "data unit checksum")
    return Layout(header, row, kept, start, stop)


def _row_type(names: list[str], formats: list[Any], offsets: list[int], width: int) -> np.dtype[Any]:
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": width})


def _without(catalog: FitsTable, gone: Sequence[FitsColumn]) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Return the cards without those of some columns, and the runs of bytes (offset, size) left in a row."""
    numbers = {column.number for column in gone}
    cards: list[bytes] = []
    skipping = False
    for card in catalog.table.cards:
        key = keyword(card)
        if key == "CONTINUE" and skipping:
            continue
        match = _COLUMN_CARD.fullmatch(key)
        number = int(match[2]) if match else 0
        skipping = number in numbers
        if skipping:
            continue
        if match:
            new = f"{match[1]}{number - sum(other < number for other in numbers)}"
        cards.append(f"{new:<8}".encode() + card[8:] if match else card)
    ends = sorted((column.offset, column.offset + column.width) for column in gone)
    edges = [0, *(edge for pair in ends for edge in pair), catalog.row_width]
    runs = [(a, b - a) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
    return cards, runs


def _new_offset(runs: Sequence[tuple[int, int]], offset: int) -> int:
    """Return where a byte of the input's row is in the new row."""
    return sum(min(size, offset - at) for at, size in runs if at < offset)


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


def shard_cards(catalog: Table, shard: tuple[int, int], start: int, run: Mapping[str, Any]) -> list[Card]:
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
