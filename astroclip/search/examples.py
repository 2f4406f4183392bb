"""Galaxies that the found ones shall be like, or unlike: how they are named, where they are in a table."""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.schema import DEC_NAMES, RA_NAMES, TARGETID
from astroclip.sky import separation_arcsec
from astroclip.tables import FitsTable

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
        A TARGETID; a row from 0; ``RA DEC`` in degrees; a file, see `search.pixels.read_file`.
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


def find_rows(table: FitsTable, examples: Sequence[Example], radius_arcsec: float) -> list[int | None]:
    """Return the row of each example, None of a file; of several rows of a TARGETID the first.

    Raises
    ------
    UsageError
        If a value is not what its kind needs.
    DataError
        If a row is not there.
    """
    find = {ExampleKind.ROW: _find_row, ExampleKind.TARGETID: _find_targetid}
    return [
        None if example.is_file
        else _find_position(table, example, radius_arcsec) if example.kind is ExampleKind.RADEC
        else find[example.kind](table, example)
        for example in examples
    ]  # fmt: skip


def _find_row(table: FitsTable, example: Example) -> int:
    if not example.value.isdecimal():
        raise UsageError(f"row '{example.value}': expected a number from 0 to {table.nrows - 1}")
    if int(example.value) >= table.nrows:
        raise DataError(f"{table.name}: no row {example.value}, it has {table.nrows} (the first one is 0)")
    return int(example.value)


def _find_targetid(table: FitsTable, example: Example) -> int:
    column = table.column(TARGETID)
    wanted: int | str = example.value.strip()
    if column.dtype.kind in "iu":
        if not example.value.strip().lstrip("-").isdecimal():
            raise UsageError(f"TARGETID '{example.value}': expected an integer")
        wanted = int(example.value)
    for start, block in _blocks(table, [column.name]):
        at = np.flatnonzero(block[column.name] == wanted)
        if len(at):
            return start + int(at[0])
    raise DataError(f"{table.name}: no row with {column.name} {example.value}")


def _find_position(table: FitsTable, example: Example, radius_arcsec: float) -> int:
    names = [table.find(*RA_NAMES), table.find(*DEC_NAMES)]
    if names[0] is None or names[1] is None:
        raise DataError(f"{table.name}: no columns of position, such as RA and DEC")
    ra, dec = _parse_position(example.value)
    best, nearest = np.inf, -1
    for start, block in _blocks(table, [names[0], names[1]]):
        apart = np.nan_to_num(separation_arcsec(block[names[0]], block[names[1]], ra, dec), nan=np.inf)
        if apart.min() < best:
            best, nearest = float(apart.min()), start + int(apart.argmin())
    if best > radius_arcsec:
        raise DataError(
            f'{table.name}: no row within {radius_arcsec:g}" of {example.value}; the nearest is {best:.4g}" '
            "away. Search further with --radius-arcsec"
        )
    return nearest


def _parse_position(text: str) -> tuple[float, float]:
    """Return the right ascension and declination, ICRS degrees, that ``RA DEC`` or ``RA,DEC`` says."""
    try:
        ra, dec = (float(word) for word in text.replace(",", " ").split())
    except ValueError:
        raise UsageError(
            f"position '{text}': expected right ascension and declination in degrees, as '150.1 2.2'"
        ) from None
    if not (-360 <= ra <= 360 and -90 <= dec <= 90):
        raise UsageError(f"position '{text}': no such place on the sky (degrees, ICRS)")
    return ra, dec


def _blocks(table: FitsTable, names: list[str]) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    for start in range(0, table.nrows, BLOCK):
        yield start, table.read(names, start, min(start + BLOCK, table.nrows))
