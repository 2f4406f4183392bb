"""What every table offers, whatever file it lies in: columns found by name and read block by block."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.schema import ColumnSpec

Block = dict[str, NDArray[Any]]
_LISTED = 20  # columns that a message lists


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of an opened table.

    `dtype` and `shape` are those of one row as `Table.read` returns it, in native byte order: `U` for text
    (in Arrow without a width), object for what NumPy has no type for. `null` is the number that stands, under
    the mask, where an integer is missing; None where the column has no such number. `lists` says that rows
    are vectors of different lengths. `fields` are the names inside a nested column, each with the number of
    its axes in one row: ``{"flux": 1}``, or 3 for the planes of an image.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    unit: str = ""
    comment: str = ""
    null: int | None = None
    lists: bool = False
    fields: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether it holds numbers, logicals or texts in rows of one length."""
        return self.dtype.kind in "biufcUS" and not self.lists and not self.fields


class Table(ABC):
    """A table opened for reading; made by `open_table`, used as a context manager.

    Attributes
    ----------
    name : str
        What the user called it.
    source : Path
        The user's own file or folder.
    place : str
        The part of the file that is read, as ``HDU 1 (ZCATALOG)``; empty where a file holds one table.
    others : list of str
        What else the file has, in the same words.
    hdu : int or None
        Number of the table's HDU, the primary HDU being 0; None where the file is not FITS.
    nrows : int
    columns : dict of str to Column
        In the table's order, with the names as written there.
    position : (str or None, str or None)
        Columns of right ascension and declination that the file itself declares, as HATS does.
    """

    name: str
    source: Path
    place: str = ""
    others: list[str]
    hdu: int | None = None
    nrows: int
    columns: Mapping[str, Column]
    position: tuple[str | None, str | None] = (None, None)

    @property
    @abstractmethod
    def header(self) -> Mapping[str, Any]:
        """The cards of a FITS table; of Parquet what its metadata say, as text."""

    @cached_property
    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Size, time of change (ns) and SHA-256 of the user's file, of a folder those of its listing."""

    @abstractmethod
    def read(self, names: Iterable[str], start: int = 0, stop: int | None = None) -> Block:
        """Read rows `start` to `stop` of some columns; keys are the names as asked for.

        Values are (rows, *shape) in native byte order. Rows of different lengths come as an object array, one
        array a row; nested columns as an object array of dicts of arrays.

        Missing data: NaN in floats; integers, logicals and texts are masked arrays where, and only where,
        some are missing (TNULL, undefined logicals, nulls of Arrow).

        Raises
        ------
        DataError
            If a column does not exist or cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file; nothing stays behind."""

    def is_changed(self) -> bool:
        """Whether the file is another one than `fingerprint` says."""
        stat = self.source.stat()
        return (stat.st_size, stat.st_mtime_ns) != (self.fingerprint["size"], self.fingerprint["mtime_ns"])

    def find(self, *candidates: str) -> str | None:
        """Return the name of the first column that exists, as it is or in any case; None if none does."""
        return find_name(self.columns, *candidates)

    def need(self, *candidates: str) -> str:
        """Return the name of the first column that exists.

        Raises
        ------
        DataError
            If none does; the message says what was read, which columns are there, and what else the file has.
        """
        found = self.find(*candidates)
        if found is None:
            lacks = f"no column '{candidates[0]}'"
            if len(candidates) > 1:
                lacks = f"none of the columns {', '.join(candidates)}"
            raise DataError(
                f"{self.where} has {lacks}; {self._close_to(*candidates)}{self.contents}"
                f"{self._elsewhere(*candidates)}"
            )
        return found

    def column(self, name: str) -> Column:
        """Return a column by name, in any case; without one, the `DataError` of `need`."""
        return self.columns[self.need(name)]

    def spec(self, name: str) -> ColumnSpec:
        """Return a column as a FITS table would hold it; a text has the length of the longest."""
        column = self.column(name)
        return ColumnSpec(column.name, column.dtype.str, column.shape, column.unit, column.comment)

    def blocks(self, names: Iterable[str], rows: int) -> Iterator[tuple[int, Block]]:
        """Yield the number of the first row and the values, `rows` rows at a time."""
        wanted = list(names)
        for start in range(0, self.nrows, rows):
            yield start, self.read(wanted, start, min(start + rows, self.nrows))

    @property
    def where(self) -> str:
        """The file and the part of it that is read, for messages."""
        return f"{self.name}: {self.place}" if self.place else self.name

    @property
    def contents(self) -> str:
        """The columns that are there, as many as can be read, and what else the file has, for messages."""
        names = list(self.columns)
        more = f", … ({len(names)} in all)" if len(names) > _LISTED else ""
        text = f"columns: {', '.join(names[:_LISTED]) or 'none'}{more}"
        return f"{text}; the file also has {', '.join(self.others)}" if self.others else text

    def _elsewhere(self, *candidates: str) -> str:  # noqa: ARG002 - files of one table have no other
        """Say which other table of the file has a column, and how to name it."""
        return ""

    def _close_to(self, *candidates: str) -> str:
        """Name the columns that are spelled nearly so."""
        upper = {name.upper(): name for name in self.columns}
        close = [
            upper[match]
            for wanted in candidates
            for match in difflib.get_close_matches(wanted.upper(), upper, 5, 0.5)
        ]
        return f"close names: {', '.join(dict.fromkeys(close))}; " if close else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def find_name(names: Iterable[str], *candidates: str) -> str | None:
    """Return the first candidate that is among names, as it is or else in any case; None if none is."""
    known = list(names)
    for wanted in candidates:
        if wanted in known:
            return wanted
        for name in known:
            if name.upper() == wanted.upper():
                return name
    return None
