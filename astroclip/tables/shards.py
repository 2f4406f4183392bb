"""Put the shards of a table together again."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from astroclip.errors import DataError, UsageError
from astroclip.files import Part, check_outputs, check_space, written_beside
from astroclip.tables.arrow_append import kept_schema, stored_batches
from astroclip.tables.arrowtable import ArrowTable
from astroclip.tables.fits_append import close_table
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.formats import TableFormat, find_format
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
from astroclip.tables.outputs import OutputFormat, output_format
from astroclip.tables.writers import check_columns, write_batches

Shard = FitsTable | ArrowTable


def merge_shards(inputs: Sequence[str | Path], output: str | Path, *, overwrite: bool = False) -> None:
    """Join tables written by `append_columns` with ``shard=(i, n)``, in any order, to the whole table.

    The data are those of a run in one go (of FITS byte for byte, other HDUs and the heap come from the first
    shard). An interrupted merge leaves no output and is begun again.

    Raises
    ------
    DataError
        If a file is missing or no shard, shards are missing or there twice, or they do not belong
        together: another catalogue, run (settings, program version) or columns, gaps between rows.
    UsageError
        If the output exists without `overwrite`, or is FITS and the shards are not.
    """
    name, target = str(output), Path(os.path.realpath(output))
    form = output_format(name)
    check_outputs([output], inputs, overwrite)
    if not inputs:
        raise UsageError(f"{name}: no shards to merge")
    with ExitStack() as stack:
        shards: list[Shard] = []
        for path in inputs:
            shards.append(_open_shard(Path(path)))
            stack.callback(shards[-1].close)
        shards.sort(key=lambda shard: _number(shard, SHARD))
        _check_belong_together(shards)
        _check_complete(shards, name)
        stored = [shard for shard in shards if isinstance(shard, FitsTable)]
        if form is not OutputFormat.FITS:
            _write_arrow(shards, form, target, name)
        elif len(stored) == len(shards):
            _write_fits(stored, target, name)
        else:
            raise UsageError(f"{name}: the shards are no FITS tables. Merge them into a .parquet file")


def _open_shard(path: Path) -> Shard:
    """Open the table of a file that says it is a shard."""
    table: Shard | None = None
    if path.is_file() and find_format(path) is TableFormat.PARQUET:
        table = ArrowTable([path], str(path), path)
        if SHARD in table.header:
            return table
        table.close()
    else:
        with open_fits(path, str(path)) as file:
            found = [hdu.index for hdu in scan_hdus(file, str(path)) if SHARD in hdu.header]
        if found:
            return FitsTable(path, found[0])
    raise DataError(f"{path}: is not a shard, it does not say {SHARD}")


def _number(shard: Shard, key: str) -> int:
    """Return a number that a shard says of itself."""
    try:
        return int(shard.header[key])
    except (KeyError, ValueError):
        raise DataError(f"{shard.name}: is not a shard, {key} is no number") from None


def _check_belong_together(shards: Sequence[Shard]) -> None:
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
        if type(shard) is not type(first) or _layout_of(shard) != _layout_of(first):
            raise DataError(f"{shard.name}: does not belong to {first.name}, its columns differ")


def _layout_of(shard: Shard) -> object:
    """Return what must be the same in all shards: how columns are stored."""
    return list(shard.columns.values()) if isinstance(shard, FitsTable) else list(shard.schema)


def _check_complete(shards: Sequence[Shard], output: str) -> None:
    """Refuse sorted shards of which one is missing or there twice, or that leave gaps between their rows."""
    first = shards[0]
    numbers = [_number(shard, SHARD) for shard in shards]
    n = _number(first, NSHARDS)
    missing = [str(i) for i in range(n) if i not in numbers]
    if missing:
        raise DataError(f"{output}: shards {', '.join(missing)} of {n} are missing (from 0). Run them first")
    if len(shards) > n:
        raise DataError(
            f"{output}: {', '.join(s.name for s in shards)} are more than {n} shards. Give each once"
        )
    expected = 0
    for shard in shards:
        if _number(shard, FIRST_ROW) != expected:
            raise DataError(f"{shard.name}: begins at row {_number(shard, FIRST_ROW)}, expected {expected}")
        expected += shard.nrows
    if expected != _number(first, ALL_ROWS):
        raise DataError(f"{output}: the shards have {expected} rows, expected {_number(first, ALL_ROWS)}")


def _write_arrow(shards: Sequence[Shard], form: OutputFormat, target: Path, name: str) -> None:
    """Write the rows of all shards with what the first says, but that it is a shard."""
    schema = kept_schema(shards[0], ())
    check_columns(form, schema, name)
    hidden = {key.encode() for key in SHARD_CARDS}
    said = {key: text for key, text in (schema.metadata or {}).items() if key not in hidden}
    check_space(target, name, sum(shard.fingerprint["size"] for shard in shards))
    batches = (
        batch.cast(schema) for shard in shards for batch in stored_batches(shard, schema, 0, shard.nrows)
    )
    codec = shards[0].codec if isinstance(shards[0], ArrowTable) else "snappy"
    with written_beside(target, name) as beside:
        write_batches(form, beside, schema.with_metadata(said), batches, codec)


def _write_fits(shards: list[FitsTable], target: Path, name: str) -> None:
    """Write the first shard's file with the rows of all."""
    first = shards[0]
    nrows, width = first.table.integer(ALL_ROWS), first.row_width
    cards = drop_cards(first.table.cards, *SHARD_CARDS)
    gap = first.table.integer("THEAP", first.nrows * width) - first.nrows * width
    set_number(cards, "NAXIS2", nrows)
    set_number(cards, "THEAP", nrows * width + gap)
    check_space(target, name, first.hdus[-1].end + (nrows - first.nrows) * width)
    with Part(target, name) as part:
        try:
            part.restart()
            part.copy(first.file, 0, first.table.start)
            part.write(join_cards(cards))
            rows_at, datasum = part.size, Checksum()
            for shard in shards:
                part.copy(
                    shard.file, shard.table.data, shard.table.data + shard.nrows * width, datasum.update
                )
            close_table(part, first, rows_at, datasum)
            part.publish()
        except BaseException:
            part.remove()
            raise
