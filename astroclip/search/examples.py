"""Galaxies that the found ones shall be like, or unlike: how they are named, where they are in a table."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from astroclip.errors import DataError, UsageError
from astroclip.schema import TARGETID
from astroclip.sky import separation_arcsec
from astroclip.tables import Table
from astroclip.tables.angles import parse_position
from astroclip.tables.identity import exact_integers
from astroclip.tables.positions import PositionReader, need_position

BLOCK = 1 << 18  # rows in which a TARGETID or a position is looked for at a time


class ExampleKind(StrEnum):
    """How a galaxy is named: by what identifies its row, or by a file of its pixels."""

    TARGETID = "targetid"
    ROW = "row"
    RADEC = "radec"
    IMAGE = "image"
    SPECTRUM = "spectrum"


class Example(NamedTuple):
    """A galaxy that the found ones shall be like, or unlike.

    Attributes
    ----------
    kind
    value
        A TARGETID; a row from 0; ``RA DEC`` in degrees or sexagesimal; a file, see `search.pixels.read_file`.
    like
    """

    kind: ExampleKind
    value: str
    like: bool = True

    def __str__(self) -> str:
        return f"{'like' if self.like else 'unlike'} {self.kind} {self.value}"

    @property
    def is_file(self) -> bool:
        """Whether its pixels are in a file and must be embedded."""
        return self.kind in (ExampleKind.IMAGE, ExampleKind.SPECTRUM)


def parse_example(text: str, like: bool = True) -> Example:
    """Read an example as ``--like`` and ``--unlike`` take it: ``row=17``, ``radec=150.1,2.2``.

    Raises
    ------
    UsageError
        If it is not one.
    """
    kind, equals, value = text.partition("=")
    if not (equals and value) or kind not in list(ExampleKind):
        raise UsageError(f"'{text}': expected one of {', '.join(f'{kind}=...' for kind in ExampleKind)}")
    return Example(ExampleKind(kind), value, like)


def find_rows(
    table: Table,
    examples: Sequence[Example],
    radius_arcsec: float,
    ra: str | None = None,
    dec: str | None = None,
) -> list[int | None]:
    """Return the row of each example, None of a file; of several rows of a TARGETID the first.

    Parameters
    ----------
    radius_arcsec
        How far the row of a position may be from it.
    ra, dec
        Names of the table's position columns, if they are not usual ones.

    Raises
    ------
    UsageError
        If a value is not what its kind needs.
    DataError
        If a row is not there, or the table's identifiers or positions cannot be read.
    """
    rows: list[int | None] = []
    for example in examples:
        if example.is_file:
            rows.append(None)
        elif example.kind is ExampleKind.RADEC:
            rows.append(_find_place(table, need_position(table, ra, dec), example, radius_arcsec))
        else:
            find = _find_row if example.kind is ExampleKind.ROW else _find_targetid
            rows.append(find(table, example))
    return rows


def _find_row(table: Table, example: Example) -> int:
    if not example.value.isdecimal():
        raise UsageError(f"row '{example.value}': expected a number from 0 to {table.nrows - 1}")
    if int(example.value) >= table.nrows:
        raise DataError(f"{table.name}: no row {example.value}, it has {table.nrows} (the first one is 0)")
    return int(example.value)


def _find_targetid(table: Table, example: Example) -> int:
    column = table.column(TARGETID)
    if not example.value.strip().lstrip("-").isdecimal():
        raise UsageError(f"TARGETID '{example.value}': expected an integer")
    where = f"{table.name}: column '{column.name}'"
    for start in range(0, table.nrows, BLOCK):
        block = table.read([column.name], start, min(start + BLOCK, table.nrows))
        ids = exact_integers(block[column.name], where, start)
        at = np.flatnonzero(ids == int(example.value))
        if len(at):
            return start + int(at[0])
    raise DataError(f"{table.name}: no row with {column.name} {example.value}")


def _find_place(table: Table, position: PositionReader, example: Example, radius_arcsec: float) -> int:
    wanted = parse_position(example.value)
    best, nearest = np.inf, -1
    for start in range(0, table.nrows, BLOCK):
        block = table.read(position.columns, start, min(start + BLOCK, table.nrows))
        apart = np.nan_to_num(separation_arcsec(*position.read(block, start), *wanted), nan=np.inf)
        if apart.min() < best:
            best, nearest = float(apart.min()), start + int(apart.argmin())
    if best > radius_arcsec:
        raise DataError(
            f'{table.name}: no row within {radius_arcsec:g}" of {example.value}; the nearest is {best:.4g}" '
            "away. Search further with --radius-arcsec"
        )
    return nearest
