"""Add columns to a table: the input is kept as it is, in the format that the output's name asks for."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from astroclip.errors import UsageError
from astroclip.files import Part, check_output, check_outputs, check_space
from astroclip.schema import ColumnSpec
from astroclip.tables.anytable import Table
from astroclip.tables.appender import Appender
from astroclip.tables.arrow_append import ArrowAppender, plan_arrow
from astroclip.tables.arrowtable import ArrowTable
from astroclip.tables.fits_append import FitsAppender
from astroclip.tables.fitscopy import fits_columns, open_fits_copy
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.layout import lay_out, shard_cards
from astroclip.tables.outputs import SHARD_FORMATS, OutputFormat, output_format
from astroclip.tables.provenance import cards_metadata, describe_run, metadata_cards, provenance_cards


@contextmanager
def append_columns(
    table: Table,
    output: str | Path,
    columns: Sequence[ColumnSpec],
    *,
    history: Sequence[str] = (),
    cards: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    rows: tuple[int, int] | None = None,
    shard: tuple[int, int] | None = None,
    drop: Sequence[str] = (),
    overwrite: bool = False,
    overwrite_columns: bool = False,
    resume: bool = False,
) -> Iterator[Appender]:
    """Write `output`: the table with columns added, in the order of its rows.

    FITS stays FITS byte for byte, and Parquet and HATS stay Parquet with every column as it is; one is turned
    into the other, or into CSV, ECSV or VOTable, only where the output's name says so. Leaving the context
    normally finishes the file and gives it its name in one rename; until then nothing is there under that
    name. Leaving it by an exception, or being killed at any moment, leaves a part file for ``resume=True``
    (none if no row was written yet).

    Parameters
    ----------
    table : Table
        An opened table. `output` may be the same file, with `overwrite`.
    output : path
        ``.fits``, ``.fit``; ``.parquet``, ``.csv``, ``.tsv``, ``.ecsv``, ``.vot`` or ``.xml`` hold the table
        alone. The cards and history go into the metadata of Parquet and ECSV, and the INFO of a VOTable; CSV
        has no place for them.
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
        ``(i, n)``, i from 0: this is one of n tables with some rows each, FITS or Parquet, to be put together
        by `merge_shards`. Every shard of FITS keeps all other HDUs and the whole heap.
    drop : sequence of str
        Columns, in any case, that the output is not to have.
    overwrite : bool
        Replace an existing output, when the new one is complete.
    resume : bool
        Continue the part an interrupted run left; without one, begin (`Appender.resumed` tells). A changed
        table (by SHA-256 of all its bytes), other settings or another version of the program are refused.
        Cards and history stay those of the first run. Without `resume` a part is discarded.

    Yields
    ------
    Appender

    Raises
    ------
    UsageError
        If the output or a column exists already, settings differ from those of the part, or another run
        writes the same output.
    DataError
        If the output's format cannot hold a column (the message names it), the folder cannot be written, the
        disk is too small, or the table changed.
    """
    table = _known(table)
    name, target = str(output), Path(os.path.realpath(output))
    form = output_format(name)
    check_output(target, name, overwrite)
    if shard and form not in SHARD_FORMATS:
        raise UsageError(f"{name}: a shard is written as .fits or .parquet")
    if isinstance(table, ArrowTable) and table.source.is_dir():
        check_outputs([output], [*table.files], overwrite)
    start, stop = rows or (0, table.nrows)
    if not 0 <= start <= stop <= table.nrows or (shard is None and stop - start < table.nrows):
        raise ValueError(f"rows {start} to {stop} of {table.nrows}, shard {shard}")
    dropped = _check_names(table, columns, drop)
    run = describe_run(
        table, columns, settings or {}, rows=(start, stop), shard=shard, form=form, dropped=sorted(dropped)
    )
    new_cards = provenance_cards(run, cards or {}, history)
    new_cards += shard_cards(table, shard, start, run) if shard else []
    with ExitStack() as stack:
        appender: Appender
        if form is OutputFormat.FITS:
            if isinstance(table, ArrowTable):
                stored = {name for name in table.columns if name.upper() in dropped}
                copy = stack.enter_context(open_fits_copy(table, target.parent, stored))
                new_cards = [*metadata_cards(table.header), *new_cards]
            else:
                copy = table
            layout = lay_out(copy, columns, new_cards, (start, stop), overwrite_columns, dropped)
            check_space(target, name, layout.file_size(copy))
            part = stack.enter_context(Part(target, name))
            appender = FitsAppender(table, copy, part, columns, layout)
        else:
            plan = plan_arrow(table, columns, dropped, form, overwrite_columns)
            run["metadata"] = cards_metadata(new_cards)
            size = 2 * (stop - start) * plan.row.itemsize + table.fingerprint["size"]
            check_space(target, name, size)
            part = stack.enter_context(Part(target, name))
            appender = ArrowAppender(table, part, columns, plan, (start, stop), form)
        appender.begin(run, resume)
        try:
            yield appender
            appender.finish()
        except BaseException:
            appender.suspend()
            raise


def check_append(
    table: Table,
    output: str | Path,
    columns: Sequence[ColumnSpec],
    *,
    drop: Sequence[str] = (),
    overwrite_columns: bool = False,
) -> None:
    """Refuse what `append_columns` would refuse of the columns; nothing is written and no row is read."""
    known = _known(table)
    dropped, form = _check_names(known, columns, drop), output_format(output)
    if form is not OutputFormat.FITS:
        plan_arrow(known, columns, dropped, form, overwrite_columns)
    elif isinstance(known, ArrowTable):
        fits_columns(known, {name for name in table.columns if name.upper() in dropped})
    else:
        lay_out(known, columns, [], (0, table.nrows), overwrite_columns, dropped)


def _known(table: Table) -> FitsTable | ArrowTable:
    """Return a table of one of the two kinds that `open_table` gives."""
    if not isinstance(table, FitsTable | ArrowTable):
        raise TypeError(f"a {type(table).__name__}, expected what open_table gives")
    return table


def _check_names(
    table: FitsTable | ArrowTable, columns: Sequence[ColumnSpec], drop: Sequence[str]
) -> frozenset[str]:
    """Refuse new columns of one name, and columns to drop that are not there; return these in upper case."""
    names = [spec.name.upper() for spec in columns]
    if len(set(names)) < len(names):
        raise UsageError(f"columns {', '.join(spec.name for spec in columns)}: a name is there twice")
    dropped = frozenset(name.upper() for name in drop)
    for name in dropped.difference(names):
        table.need(name)
    return dropped
