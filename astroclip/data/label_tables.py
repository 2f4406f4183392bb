"""Tables of labels, ready to be joined to other tables: which of their rows is which galaxy.

Any catalogue, and what surveys publish of labels (`data.provabgs`, `data.galaxyzoo`), told apart by content.
Shapes: n rows of the table of labels, m galaxies that look for their labels.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from astroclip.data.galaxyzoo import MATCH_RADIUS_ARCSEC, is_galaxy_zoo, read_galaxy_zoo
from astroclip.data.kinds import Kind, find_kind
from astroclip.data.labels import Labels
from astroclip.data.lookup import RowLookup
from astroclip.data.provabgs import read_provabgs
from astroclip.errors import DataError
from astroclip.schema import ANY_SCALE, TARGETID, ColumnSpec, possible_range
from astroclip.sky import match_sky
from astroclip.tables import Column, Table, open_table
from astroclip.tables.fingerprint import fingerprint_of
from astroclip.tables.identity import Who, find_who
from astroclip.tables.missing import Taken, find_sentinels, is_missing, sentinel_lines, to_floats, to_quantity

BLOCK_ROWS = 1 << 15  # read at a time
SAME_PLACE_ARCSEC = 0.1  # two rows whose distances to a galaxy differ by less are of one place on the sky
ReadRows = Callable[[list[str], NDArray[np.int64]], dict[str, NDArray[Any]]]  # columns, ascending rows


class LabelRows(NamedTuple):
    """Where galaxies find their labels: `row`, -1 for none; `ambiguous`: several rows fit, none is taken."""

    row: NDArray[np.int64]
    ambiguous: NDArray[np.bool_]


class LabelTable:
    """The good rows of a table of labels (use `open_labels`): who they are, and those that are loaded.

    Attributes
    ----------
    name
        Of the file.
    facts
        Cards that tell what the labels rest on.
    sha256
        Of the file; of the names, sizes and times of a folder's.
    columns
        Loaded labels, (k,) or (k, j) each, by the names that they get: floats, int64, or texts as bytes.
    specs
        Type, unit and comment of each, in the same order.
    nulls
        What stands for a missing value in columns of integers.
    notes
        What was taken as missing of what is loaded, a sentence each.
    """

    def __init__(
        self,
        name: str,
        labels: Labels,
        who: Who,
        radius_arcsec: float,
        taken: set[str],
        sha256: str,
        read: ReadRows | None = None,
    ) -> None:
        self.name, self.facts, self.radius_arcsec, self.sha256 = name, labels.facts, radius_arcsec, sha256
        self._good = np.flatnonzero(labels.good)
        self._ra, self._dec = who.ra[self._good], who.dec[self._good]
        self._lookup = RowLookup({key: values[self._good] for key, values in who.ids.items()})
        self._published = {_free_name(spec.name, taken): spec for spec in labels.specs}
        self._read = read or (lambda names, rows: {name: labels.columns[name][rows] for name in names})
        self._rows = np.zeros(0, np.int64)
        self.columns: dict[str, NDArray[Any]] = {}
        self.specs: list[ColumnSpec] = []
        self.nulls: dict[str, int] = {}
        self.notes: list[str] = []

    def load(self, rows: NDArray[np.int64] | None = None) -> Self:
        """Read the labels of rows, ascending, as `find` numbers them; by default of all. Return itself."""
        self._rows = np.arange(len(self._good)) if rows is None else rows
        published, sentinels = [spec.name for spec in self._published.values()], Taken()
        read = self._read(published, self._good[self._rows])
        for name, spec in self._published.items():
            quantity = self._find_quantity(spec.name)
            self.columns[name], null = _to_storable(read.pop(spec.name), spec.name, quantity, sentinels)
            self.nulls |= {} if null is None else {name: null}
            dtype = self.columns[name].dtype.str.lstrip("<|=")
            self.specs.append(spec._replace(name=name, dtype=dtype))
        self.notes = [f"{self.name}: {line}" for line in sentinel_lines(sentinels)]
        return self

    def _find_quantity(self, name: str) -> str:
        """Return what a column holds: by its name, or a logarithm, as all rows tell (`find_sentinels`)."""
        if name.upper() not in ANY_SCALE:
            return name
        values = to_floats(self._read([name], self._good)[name])
        logarithms = (values <= possible_range(name)[0]) & ~find_sentinels(values, name)
        return "logarithm" if logarithms.any() else name

    def find(self, who: Who) -> LabelRows:
        """Find the labels of galaxies; a galaxy observed twice has its labels twice.

        By identifiers where both sides have one of a kind: TARGETID, with SURVEY, PROGRAM and HEALPIX where
        both tables have them, and the other keys of `RowLookup`. Other galaxies, by position: the nearest row
        within the radius. Where several rows have the same key, or lie at the same place, none is taken.
        """
        named = self._lookup.has_key(who)
        match = self._lookup.match(who, 0)
        row = np.where(match.ambiguous, -1, match.row)
        ambiguous = match.ambiguous.copy()
        rest = np.flatnonzero(~named)
        row[rest], ambiguous[rest] = self._find_nearest(who.ra[rest], who.dec[rest])
        return LabelRows(row, ambiguous)

    def _find_nearest(self, ra: NDArray, dec: NDArray) -> LabelRows:
        """Return the nearest row of each position, -1 where two are at one place."""
        row, ambiguous = np.full(len(ra), -1), np.zeros(len(ra), bool)
        near = match_sky((ra, dec), (self._ra, self._dec), self.radius_arcsec, "all")
        order = np.lexsort((near.separation_arcsec, near.left))
        left, right, apart = (values[order] for values in near)
        first = np.flatnonzero(np.diff(left, prepend=-1))
        second = first + 1
        second = second[second < len(left)]
        same = (left[second] == left[second - 1]) & (apart[second] - apart[second - 1] < SAME_PLACE_ARCSEC)
        row[left[first]] = right[first]
        ambiguous[left[second[same]]] = True
        row[ambiguous] = -1
        return LabelRows(row, ambiguous)

    def take(self, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the labels of rows that are loaded; where that is -1 NaN, blank, or what `nulls` says."""
        taken, place = {}, np.searchsorted(self._rows, rows[rows >= 0])
        for name, values in self.columns.items():
            missing: Any = {"f": np.nan, "S": b""}.get(values.dtype.kind, self.nulls.get(name))
            taken[name] = np.full((len(rows), *values.shape[1:]), missing, values.dtype)
            taken[name][rows >= 0] = values[place]
        return taken


def open_labels(path: str | Path, radius_arcsec: float, taken: set[str]) -> LabelTable:
    """Open a table of labels; rows that fail the usual cuts of their survey are left out.

    Who its rows are is held in memory, 100 bytes each, and what `LabelTable.load` is asked for.

    Parameters
    ----------
    path
        HDF5 of PROVABGS, Galaxy Zoo DECaLS (both by content), or any table with an identifier or a position,
        ``FILE#HDU`` and folders of HATS too: all its columns of numbers, logicals and texts but those. Tables
        of one file with the same rows, as of FastSpecFit, are read as one.
    radius_arcsec
        Of a match by position, where the survey does not tell its own.
    taken
        Names that other columns have, in upper case: labels of the same name get _2, _3 and so on. The names
        given here are added.

    Raises
    ------
    DataError
        If the table cannot be read, or has neither an identifier nor a position.
    """
    file = Path(path)
    if file.is_file() and find_kind(file) is Kind.HDF5:
        sha256 = fingerprint_of(file, str(path))["sha256"]
        return LabelTable(file.name, *_split(read_provabgs(file)), radius_arcsec, taken, sha256)
    join = "#" not in file.name
    with open_table(path, join=join) as table:
        sha256 = table.fingerprint["sha256"]
        if is_galaxy_zoo(table):
            labels = _split(read_galaxy_zoo(table))
            return LabelTable(file.name, *labels, MATCH_RADIUS_ARCSEC, taken, sha256)
        labels = _describe(table)
        return LabelTable(file.name, *labels, radius_arcsec, taken, sha256, partial(_read_rows, path, join))


def _split(labels: Labels) -> tuple[Labels, Who]:
    """Return what a survey publishes as labels alone, and who they are of."""
    nowhere = np.full(len(labels.good), np.nan)
    ids = {TARGETID: labels.columns[TARGETID]} if TARGETID in labels.columns else {}
    who = Who(ids, labels.columns.get("RA", nowhere), labels.columns.get("DEC", nowhere))
    rest = tuple(spec for spec in labels.specs if spec.name not in (TARGETID, "RA", "DEC"))
    return labels._replace(specs=rest), who


def _describe(table: Table) -> tuple[Labels, Who]:
    """Return what labels any table has, not yet read, and who they are of."""
    who = find_who(table)
    if not who.ids and not who.has_position:
        raise DataError(
            f"{table.name}: labels are joined by an identifier, as TARGETID, or by position, and it has "
            f"neither; it has {', '.join(list(table.columns)[:20])}"
        )
    wanted = [c for c in table.columns.values() if _is_label(c) and c.name not in who.columns]
    specs = tuple(ColumnSpec(c.name, "", c.shape, c.unit, c.comment) for c in wanted)
    facts: dict[str, str | float] = {"LABELSRC": Path(table.name).name}
    return Labels({}, specs, np.ones(table.nrows, bool), facts), who.read(table.read(who.columns))


def _read_rows(
    path: str | Path, join: bool, names: list[str], rows: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Read ascending rows of some columns of a table, block by block."""
    with open_table(path, join=join) as table:
        parts = [table.read(names, 0, 0)]
        for start in range(0, table.nrows, BLOCK_ROWS):
            a, b = np.searchsorted(rows, [start, start + BLOCK_ROWS])
            if a < b:
                block = table.read(names, start, min(start + BLOCK_ROWS, table.nrows))
                parts.append({name: values[rows[a:b] - start] for name, values in block.items()})
    return {name: _concatenate([part[name] for part in parts]) for name in names}


def _concatenate(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return parts of a column as one, masked if one is."""
    if any(np.ma.isMaskedArray(part) for part in parts):
        joined: NDArray[Any] = np.ma.concatenate(parts)
        return joined
    return np.concatenate(parts)


def _is_label(column: Column) -> bool:
    """Tell whether a column can be joined: numbers, logicals, texts; no lists of varying length."""
    index = column.name.startswith("_healpix_")  # of HATS
    return column.is_plain and column.dtype.kind in "biufU" and not index


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name, or name_2, name_3, ..., that is not taken, and take it."""
    names: Iterator[str] = (name if i == 1 else f"{name}_{i}" for i in range(1, 1000))
    free = next(new for new in names if new.upper() not in taken)
    taken.add(free.upper())
    return free


def _to_storable(
    values: NDArray[Any], name: str, quantity: str, sentinels: Taken
) -> tuple[NDArray[Any], int | None]:
    """Return values in a type that FITS and HDF5 can hold, and what marks missing ones among integers."""
    # the mark is -1, or the lowest int64 where -1 is a value
    kind = values.dtype.kind
    if kind in "US":
        texts = np.where(is_missing(values), "", np.ma.getdata(values).astype(str))
        return np.char.encode(texts, "ascii", "replace"), None
    numbers = to_quantity(values, name, sentinels, f"column '{name}'", quantity)
    if kind == "f":
        return numbers.astype(np.promote_types(values.dtype, np.float32)), None
    if kind == "u" and values.size and np.ma.getdata(values).max() > np.iinfo(np.int64).max:
        return numbers, None
    stored = np.ma.getdata(values).astype(np.int64)
    missing = np.isnan(numbers)
    null = -1 if not (stored[~missing] == -1).any() else int(np.iinfo(np.int64).min)
    stored[missing] = null
    return stored, null
