"""Put the shards of a catalogue together again."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from astroclip.errors import DataError, UsageError
from astroclip.files import Part, check_output, check_space
from astroclip.tables.append import close_table, publish
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.hdus import Checksum, drop_cards, join_cards, open_fits, scan_hdus
from astroclip.tables.layout import (
    ALL_ROWS,
    FIRST_ROW,
    NSHARDS,
    SHARD,
    SHARD_CARDS,
    SHARD_INPUT,
    SHARD_RUN,
    set_number,
)
from astroclip.tables.outputs import PARQUET, output_format
from astroclip.tables.parquet import check_parquet_columns


def merge_shards(inputs: Sequence[str | Path], output: str | Path, *, overwrite: bool = False) -> None:
    """Join tables written by `append_columns` with ``shard=(i, n)``, in any order, to the whole table.

    The data are those of a run in one go, byte for byte; other HDUs and the heap come from the first shard.
    An interrupted merge leaves no output and is begun again.

    Raises
    ------
    DataError
        If a file is missing or no shard, shards are missing or there twice, or they do not belong
        together: another catalogue, run (settings, program version) or columns, gaps between rows.
    UsageError
        If the output exists without `overwrite`.
    """
    name, target = str(output), Path(os.path.realpath(output))
    form = output_format(name)
    check_output(target, name, overwrite)
    if not inputs:
        raise UsageError(f"{name}: no shards to merge")
    with ExitStack() as stack:
        shards = [stack.enter_context(_open_shard(Path(path))) for path in inputs]
        shards.sort(key=lambda shard: shard.table.integer(SHARD))
        _check_belong_together(shards)
        _check_complete(shards, name)
        if form == PARQUET:
            check_parquet_columns(shards[0])
        _write_merged(shards, target, name)


def _open_shard(path: Path) -> FitsTable:
    """Open the one HDU of a file that says it is a shard."""
    with open_fits(path, str(path)) as file:
        found = [hdu.index for hdu in scan_hdus(file, str(path)) if SHARD in hdu.header]
    if not found:
        raise DataError(f"{path}: is not a shard, no HDU has the card {SHARD}")
    return FitsTable(path, found[0])


def _check_belong_together(shards: list[FitsTable]) -> None:
    """Refuse shards of another catalogue, run or layout than the first."""
    first = shards[0]
    same = {
        SHARD_INPUT: "catalogue",
        SHARD_RUN: "run",
        NSHARDS: "number of shards",
        ALL_ROWS: "number of rows",
    }
    for shard in shards:
        for key, what in same.items():
            if shard.header.get(key) != first.header.get(key):
                raise DataError(f"{shard.name}: does not belong to {first.name}, its {what} differs ({key})")
        if list(shard.columns.values()) != list(first.columns.values()):
            raise DataError(f"{shard.name}: does not belong to {first.name}, its columns differ")


def _check_complete(shards: list[FitsTable], output: str) -> None:
    """Refuse sorted shards of which one is missing or there twice, or that leave gaps between their rows."""
    first = shards[0]
    numbers = [shard.table.integer(SHARD) for shard in shards]
    n = first.table.integer(NSHARDS)
    missing = [str(i) for i in range(n) if i not in numbers]
    if missing:
        raise DataError(f"{output}: shards {', '.join(missing)} of {n} are missing (from 0). Run them first")
    if len(shards) > n:
        raise DataError(
            f"{output}: {', '.join(s.name for s in shards)} are more than {n} shards. Give each once"
        )
    expected = 0
    for shard in shards:
        if shard.table.integer(FIRST_ROW) != expected:
            raise DataError(
                f"{shard.name}: begins at row {shard.table.integer(FIRST_ROW)}, expected {expected}"
            )
        expected += shard.nrows
    if expected != first.table.integer(ALL_ROWS):
        raise DataError(
            f"{output}: the shards have {expected} rows, expected {first.table.integer(ALL_ROWS)}"
        )


def _write_merged(shards: list[FitsTable], target: Path, name: str) -> None:
    """Write the first shard's file with the rows of all."""
    first = shards[0]
    nrows, width = first.table.integer(ALL_ROWS), first.row_width
    cards = drop_cards(first.table.cards, *SHARD_CARDS)
    gap = first.table.integer("THEAP", first.nrows * width) - first.nrows * width
    set_number(cards, "NAXIS2", nrows)
    set_number(cards, "THEAP", nrows * width + gap)
    check_space(target, name, first.hdus[-1].end + (nrows - first.nrows) * width)
    part = Part(target, name)
    try:
        part.restart()
        part.copy(first.file, 0, first.table.start)
        part.write(join_cards(cards))
        rows_at, datasum = part.size, Checksum()
        for shard in shards:
            part.copy(shard.file, shard.table.data, shard.table.data + shard.nrows * width, datasum.update)
        close_table(part, first, rows_at, datasum)
        publish(part, first.table.index)
    except BaseException:
        part.remove()
        raise
    finally:
        part.close()
