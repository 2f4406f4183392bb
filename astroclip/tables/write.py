"""Write a new table in the format of its name, streamed in blocks, complete or not there at all."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.files import Part, check_output, check_space, written_beside
from astroclip.schema import ColumnSpec
from astroclip.tables.arrowfields import spec_array, spec_field
from astroclip.tables.columns import column_cards, stored_dtype, string_width, to_stored
from astroclip.tables.hdus import Card, Checksum, join_cards, padded, seal_header
from astroclip.tables.layout import MAX_COLUMNS, add_card
from astroclip.tables.outputs import OutputFormat, output_format
from astroclip.tables.provenance import cards_metadata, program_cards
from astroclip.tables.writers import check_columns, write_batches

Block = Mapping[str, NDArray[Any]]
PRIMARY = (Card("SIMPLE", True), Card("BITPIX", 8), Card("NAXIS", 0), Card("EXTEND", True))


def new_table(
    columns: Sequence[ColumnSpec], nrows: int, nulls: Mapping[str, int | None]
) -> tuple[np.dtype[Any], list[bytes]]:
    """Return the type of a row (fields c0, c1, ...) and the cards of a table that is to be written.

    `nulls` gives the integer that marks a missing value, by column.
    """
    row = np.dtype([(f"c{i}", stored_dtype(spec)) for i, spec in enumerate(columns)])
    cards = [
        Card("XTENSION", "BINTABLE"), Card("BITPIX", 8), Card("NAXIS", 2), Card("NAXIS1", row.itemsize),
        Card("NAXIS2", nrows), Card("PCOUNT", 0), Card("GCOUNT", 1), Card("TFIELDS", len(columns)),
    ]  # fmt: skip
    for i, spec in enumerate(columns):
        cards += column_cards(spec, i + 1, nulls.get(spec.name))
    return row, [card.encode() for card in cards]


def write_table(
    path: str | Path,
    columns: Sequence[ColumnSpec],
    nrows: int,
    blocks: Iterable[Block],
    *,
    extname: str,
    nulls: Mapping[str, int | None] | None = None,
    cards: Mapping[str, Any] | None = None,
    history: Sequence[str] = (),
    drop: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write a table of `nrows` rows; the file gets its name when it is complete, or there is none.

    Parameters
    ----------
    path
        As of `append_columns`: the suffix says the format.
    columns
        In order.
    nrows
        Number of rows, known before the first is written.
    blocks
        Rows in order, block by block: one array a column, (n, *shape), by name.
    extname
        Name of the HDU.
    nulls
        The integer that marks a missing value, by column: TNULL of FITS. It also fills masked integers.
    cards
        More cards, value or (value, comment) by keyword; those of program and date are always written.
    history
        HISTORY cards: inputs with checksums, settings, counts.
    drop
        Columns, in any case, that are not to be written.
    overwrite
        Replace an existing file.

    Raises
    ------
    UsageError
        If the file exists.
    DataError
        If the format cannot hold a column, there is none of a name in `drop`, the folder cannot be written,
        or the disk is too small or becomes full.
    ValueError
        If the blocks hold other columns or types than announced, or more or fewer rows.
    """
    name, target = str(path), Path(os.path.realpath(path))
    form = output_format(name)
    check_output(target, name, overwrite)
    columns = check_new_columns(name, columns, drop)
    said = [Card("EXTNAME", extname), *program_cards(cards or {}, history)]
    if form is OutputFormat.FITS:
        _write_fits(target, name, columns, nrows, blocks, nulls or {}, said)
        return
    schema = pa.schema([spec_field(spec) for spec in columns], cards_metadata(said))
    with written_beside(target, name) as beside:
        write_batches(form, beside, schema, _batches(schema, columns, nrows, blocks, nulls or {}))


def check_new_columns(
    path: str | Path, columns: Sequence[ColumnSpec], drop: Sequence[str] = ()
) -> list[ColumnSpec]:
    """Return the columns of a new table that are not dropped, if the format of its name can hold them.

    Raises
    ------
    UsageError
        If tables are not written with this suffix.
    DataError
        If the format cannot hold a column, or there is none of a name in `drop`.
    """
    form, gone = output_format(path), {name.upper() for name in drop}
    if missing := gone - {spec.name.upper() for spec in columns}:
        listed = ", ".join(spec.name for spec in columns)
        raise DataError(f"{path}: there is no column {', '.join(sorted(missing))} to drop; columns: {listed}")
    kept = [spec for spec in columns if spec.name.upper() not in gone]
    if form is not OutputFormat.FITS:
        check_columns(form, pa.schema([spec_field(spec) for spec in kept]), str(path))
    elif len(kept) > MAX_COLUMNS:
        raise DataError(f"{path}: {len(kept)} columns, FITS allows {MAX_COLUMNS}. Write .parquet instead")
    return kept


def _batches(
    schema: pa.Schema,
    columns: Sequence[ColumnSpec],
    nrows: int,
    blocks: Iterable[Block],
    nulls: Mapping[str, int | None],
) -> Iterator[pa.RecordBatch]:
    """Yield blocks as record batches."""
    done = 0
    for block in blocks:
        done += _check_block(block, columns)
        arrays = [spec_array(block[spec.name], spec, nulls.get(spec.name)) for spec in columns]
        yield pa.record_batch(arrays, schema=schema)
    if done != nrows:
        raise ValueError(f"{done} rows written, expected {nrows}")


def _write_fits(
    target: Path,
    name: str,
    columns: Sequence[ColumnSpec],
    nrows: int,
    blocks: Iterable[Block],
    nulls: Mapping[str, int | None],
    said: Sequence[Card],
) -> None:
    """Write a file with one binary table."""
    row, header = new_table(columns, nrows, nulls)
    for card in said:
        add_card(header, card)
    primary = seal_header([card.encode() for card in PRIMARY], 0)
    start = len(primary) + len(seal_header(header, 0))
    check_space(target, name, start + padded(nrows * row.itemsize))
    with Part(target, name) as part:
        try:
            part.restart()
            part.write(primary + join_cards(header))
            datasum = _write_rows(part, columns, row, nrows, blocks, nulls)
            part.patch(len(primary), seal_header(header, datasum))
            part.publish()
        except BaseException:
            part.remove()
            raise


def _write_rows(
    part: Part,
    columns: Sequence[ColumnSpec],
    row: np.dtype[Any],
    nrows: int,
    blocks: Iterable[Block],
    nulls: Mapping[str, int | None],
) -> int:
    """Write all rows, fill up the last FITS block, and return the DATASUM."""
    done, datasum = 0, Checksum()
    for block in blocks:
        rows = _to_rows(block, columns, row, nulls)
        part.write(rows.view(np.uint8))
        datasum.update(rows.view(np.uint8))
        done += len(rows)
    if done != nrows:
        raise ValueError(f"{done} rows written, expected {nrows}")
    part.write(bytes(padded(part.size) - part.size))
    return datasum.total


def _to_rows(
    block: Block, columns: Sequence[ColumnSpec], row: np.dtype[Any], nulls: Mapping[str, int | None]
) -> NDArray[np.void]:
    """Return a block as rows of the file."""
    rows = np.empty(_check_block(block, columns), row)
    for i, spec in enumerate(columns):
        values, null = block[spec.name], nulls.get(spec.name)
        if np.ma.isMaskedArray(values) and null is not None and values.dtype.kind in "iu":
            values = values.filled(null)
        rows[f"c{i}"] = to_stored(values, spec)
    return rows


def _check_block(block: Block, columns: Sequence[ColumnSpec]) -> int:
    """Return the number of rows of a block whose columns are as announced."""
    rows = len(block[columns[0].name])
    for spec in columns:
        values, dtype = block[spec.name], np.dtype(spec.dtype)
        text = dtype.kind in "US" and values.dtype.kind in "US"
        fits = string_width(values.dtype) <= string_width(dtype) if text else values.dtype == dtype
        if values.shape != (rows, *spec.shape) or not fits:
            expected = f"{dtype} {(rows, *spec.shape)}"
            raise ValueError(f"column {spec.name}: {values.dtype} {values.shape}, expected {expected}")
    return rows
