"""Describe tables of any format: catalogues with or without embeddings and predictions, Redrock files."""

from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from astroclip.data.describe.file_report import ColumnInfo, FileReport, Repeats, dtype_name
from astroclip.data.describe.row_tally import EMBEDDINGS, MIN_PIXELS, RowTally
from astroclip.data.fitsfile import check_flux_unit, check_image_unit, check_wave_unit
from astroclip.errors import DataError
from astroclip.schema import FLUX, IMAGE, IVAR, WAVE
from astroclip.tables import ArrowTable, Column, FitsTable, Table, open_table
from astroclip.tables.identity import WhoColumns, find_who
from astroclip.tables.missing import is_missing

BLOCK_BYTES = 64 << 20
COUNTED_BYTES = (
    2 << 30
)  # of columns with one value a row: of a smaller table, missing values are counted in all


def describe_table(
    path: Path, kind: str, hdu: str | None = None, ra: str | None = None, dec: str | None = None
) -> FileReport:
    """Describe a table, reading in blocks the columns that say where, who and how good its rows are.

    Missing values are counted in the columns that are read: of a small table, all with one value a row.
    Position columns are `ra` and `dec`, or those of the usual names.

    Raises
    ------
    DataError
        If the table cannot be read.
    """
    with open_table(path, hdu=hdu) as table, Repeats() as repeats:
        columns = [ColumnInfo(c.name, _type_of(c), c.shape, c.unit) for c in table.columns.values()]
        scalars = sum(c.dtype.itemsize for c in table.columns.values() if not c.shape)
        tally = RowTally(columns, repeats, every=table.nrows * scalars <= COUNTED_BYTES)
        problems = [] if table.nrows else ["no rows"]
        who = _find_who(table, ra, dec, problems)
        _read_rows(table, tally, who, problems)
        problems += [*_column_problems(table), *tally.problems(table.read)]
        facts = {**_place_facts(table, who), **tally.facts(), **_model_facts(table)}
        return FileReport(path, kind, table.nrows, columns, facts, problems)


def _find_who(table: Table, ra: str | None, dec: str | None, problems: list[str]) -> WhoColumns | None:
    """Return the columns that say who and where rows are; what is wrong with them becomes a problem."""
    try:
        return find_who(table, ra, dec)
    except DataError as error:
        problems.append(str(error))
        return None


def _read_rows(table: Table, tally: RowTally, who: WhoColumns | None, problems: list[str]) -> None:
    """Read all rows; from where an identifier or a position cannot be read on, these are left out."""
    names = list(dict.fromkeys([*tally.names, *(who.columns if who else [])]))
    width = sum(prod(table.column(name).shape) * table.column(name).dtype.itemsize for name in names)
    step = max(BLOCK_BYTES // max(width, 1), 1)
    for start in range(0, table.nrows if names else 0, step):
        block = table.read(names, start, min(start + step, table.nrows))
        tally.add(block)
        if who and who.columns:
            try:
                _, ra, dec = who.read(block, start)
            except DataError as error:
                problems.append(str(error))
                who = None
                continue
        if who and who.position:
            angles = (who.position.ra.column.name, who.position.dec.column.name)
            tally.sky.add(ra, dec, np.logical_or(*(is_missing(block[name]) for name in angles)))


def _type_of(column: Column) -> str:
    """Return the type of a column as people write it."""
    if column.fields:
        return f"nested: {', '.join(column.fields)}"
    return "lists" if column.lists else dtype_name(column.dtype)


def _place_facts(table: Table, who: WhoColumns | None) -> dict[str, Any]:
    """Return which table of the file was read, which others there are, and the columns of positions."""
    facts: dict[str, Any] = {"hdu": table.place} if table.place else {}
    if isinstance(table, FitsTable) and len(table.hdus) > 2:  # more than the primary HDU and a table
        rows = {hdu.index: f", {hdu.integer('NAXIS2')} rows" for hdu in table.hdus if hdu.is_table}
        facts["all HDUs"] = [f"{hdu}{rows.get(hdu.index, '')}" for hdu in table.hdus]
        with open_table(table.source, table.hdu, join=True) as joined:
            facts |= {"joined for labels": joined.place} if joined.place != table.place else {}
    if isinstance(table, ArrowTable) and table.source.is_dir():
        facts["files"] = len(table.files)
    if who and who.position:
        angles = (who.position.ra, who.position.dec)
        facts["position"] = ", ".join(f"{angle.column.name} ({angle.stated})" for angle in angles)
    return facts


def _column_problems(table: Table) -> list[str]:
    """Say which columns that astroclip reads have a unit or length that cannot be right."""
    said = []
    for wanted, check in ((FLUX, check_flux_unit), (WAVE, check_wave_unit), (IMAGE, check_image_unit)):
        name = table.find(wanted)
        if name and prod(table.column(name).shape) >= MIN_PIXELS:
            try:
                check(f"column {name}", table.column(name).unit)
            except DataError as error:
                said.append(str(error))
    found = [table.column(name) for wanted in (FLUX, IVAR, WAVE) if (name := table.find(wanted))]
    found = [column for column in found if prod(column.shape) >= MIN_PIXELS]
    if len({column.shape for column in found}) > 1:
        lengths = ", ".join(f"{column.name} {prod(column.shape)}" for column in found)
        said.append(f"columns of different length: {lengths} pixels")
    return said


def _model_facts(table: Table) -> dict[str, Any]:
    """Return which model made the embeddings, and how long they are."""
    widths = {name: prod(table.column(name).shape) for name in EMBEDDINGS if table.find(name)}
    if not widths:
        return {}
    model = {"model": table.header.get("ACMODEL"), "model hash": table.header.get("ACHASH")}
    return {**{k: str(v) for k, v in model.items() if v}, "embedding width": widths}
