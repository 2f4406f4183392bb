"""Tables of labels, and which of their rows is which galaxy: by TARGETID, else by position."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.crossmatch.who import find_position
from astroclip.data.galaxyzoo import MATCH_RADIUS_ARCSEC, is_galaxy_zoo, read_galaxy_zoo
from astroclip.data.labels import Labels
from astroclip.data.pairs import Label
from astroclip.data.provabgs import read_provabgs
from astroclip.errors import DataError
from astroclip.schema import DEC_NAMES, RA_NAMES, TARGETID, ColumnSpec
from astroclip.sky import FloatArray, IntArray, floats, match_sky
from astroclip.tables import open_table

_KEYS = (TARGETID, "RA", "DEC")


class LabelSet(NamedTuple):
    """The good rows of a table of labels.

    Attributes
    ----------
    path
        The file.
    targetid
        (n,) or None.
    ra, dec
        (n,) deg, NaN if the table has no positions.
    radius_arcsec
        Of the match by position.
    columns
        Labels by the names they get in the match table; texts as bytes, integers as int64.
    specs
        Type, unit and comment of each.
    facts
        Cards that tell what the labels rest on.
    """

    path: Path
    targetid: IntArray | None
    ra: FloatArray
    dec: FloatArray
    radius_arcsec: float
    columns: dict[str, NDArray]
    specs: tuple[ColumnSpec, ...]
    facts: dict[str, str | float]

    def find_rows(self, targetid: ArrayLike, ra: ArrayLike, dec: ArrayLike) -> IntArray:
        """Return the row of each object, -1 for none.

        By TARGETID where both sides have any, the first row of several; else the nearest within the radius
        (it may be that of several objects: a galaxy observed twice has its labels twice).
        """
        ids = np.asarray(targetid, np.int64)
        found = np.full(len(ids), -1, np.int64)
        if self.targetid is not None and (ids > 0).any():
            known, first = np.unique(self.targetid, return_index=True)
            place = np.searchsorted(known, ids)
            same = (ids > 0) & (place < len(known)) & (np.append(known, -1)[place] == ids)
            found[same] = first[place[same]]
            return found
        near = match_sky((floats(ra), floats(dec)), (self.ra, self.dec), self.radius_arcsec, "all")
        order = np.lexsort((near.right, near.separation_arcsec, near.left))[::-1]
        found[near.left[order]] = near.right[order]  # of equal indices the last assignment stays
        return found

    def take(self, rows: IntArray) -> dict[str, NDArray]:
        """Return the labels of rows; where that is -1 NaN, -1 or blank."""
        taken = {}
        for name, values in self.columns.items():
            missing: Any = {"f": np.nan, "S": b""}.get(values.dtype.kind, -1)
            taken[name] = np.full((len(rows), *values.shape[1:]), missing, values.dtype)
            taken[name][rows >= 0] = values[rows[rows >= 0]]
        return taken

    def for_pairs(self) -> list[Label]:
        """Return how the file of pairs describes them; vectors are left to the match table."""
        source = "; ".join(f"{key} {value}" for key, value in self.facts.items())
        return [Label(s.name, s.dtype, s.unit, source, s.comment) for s in self.specs if not s.shape]


def open_labels(path: str | Path, radius_arcsec: float, taken: set[str]) -> LabelSet:
    """Read a table of labels, all of it; rows that fail the usual cuts of their survey are left out.

    Parameters
    ----------
    path
        HDF5 of PROVABGS, CSV of Galaxy Zoo DECaLS (both by content), or any FITS, CSV or Parquet table with
        TARGETID or a position: all its columns.
    radius_arcsec
        Of a match by position, where the survey does not tell its own.
    taken
        Names that other columns have, in upper case: labels of the same name get _2, _3 and so on. The names
        given here are added.

    Raises
    ------
    DataError
        If the table cannot be read, or has neither TARGETID nor a position.
    """
    path = Path(path)
    labels, radius_arcsec = _read(path, radius_arcsec)
    good = np.flatnonzero(labels.good)
    ra, dec = (
        floats(labels.columns[k][good]) if k in labels.columns else np.full(len(good), np.nan)
        for k in ("RA", "DEC")
    )
    columns, specs = {}, []
    for spec in labels.specs:
        if spec.name.upper() in _KEYS:
            continue
        values = _storable(labels.columns[spec.name][good])
        name = next(n for n in _names(spec.name) if n.upper() not in taken)
        taken.add(name.upper())
        columns[name] = values
        specs.append(spec._replace(name=name, dtype=values.dtype.str.replace("<", "")))
    ids = labels.columns[TARGETID][good].astype(np.int64) if TARGETID in labels.columns else None
    return LabelSet(path, ids, ra, dec, radius_arcsec, columns, tuple(specs), labels.facts)


def _read(path: Path, radius_arcsec: float) -> tuple[Labels, float]:
    """Read a table by what it is, and return the radius of its matches."""
    try:
        with path.open("rb") as file:
            is_hdf5 = file.read(4) == b"\x89HDF"
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})") from None
    if is_hdf5:
        return read_provabgs(path), radius_arcsec
    if path.name.lower().removesuffix(".gz").endswith(".csv") and is_galaxy_zoo(path):
        return read_galaxy_zoo(path), MATCH_RADIUS_ARCSEC
    return _read_table(path), radius_arcsec


def _read_table(path: Path) -> Labels:
    """Read any table, or several HDUs of the same rows; its position columns are called RA and DEC."""
    with open_table(path, join=True) as table:
        spelled = {}
        if table.find(*RA_NAMES) and table.find(*DEC_NAMES):
            position = find_position(table)
            spelled = {position.ra: "RA", position.dec: "DEC"}
        targetid = table.find(TARGETID)
        if not spelled and not targetid:
            raise DataError(f"{path}: labels are joined by TARGETID or position, and it has neither")
        spelled |= {targetid: TARGETID} if targetid else {}
        names = [name for name, column in table.columns.items() if column.is_plain]
        read = table.read(names)
        columns = {spelled.get(name, name): values for name, values in read.items()}
        specs = tuple(
            ColumnSpec(spelled.get(name, name), "", c.shape, c.unit, c.comment)
            for name, c in table.columns.items()
            if name in read
        )
        return Labels(columns, specs, np.ones(table.nrows, bool), {"LABELSRC": path.name})


def _names(name: str) -> list[str]:
    return [name, *(f"{name}_{i}" for i in range(2, 100))]


def _storable(values: NDArray) -> NDArray:
    """Return values in a type that both files can hold and that has room for what is missing."""
    if values.dtype.kind == "U":
        return np.char.encode(values, "ascii", "replace")
    return values.astype(np.int64) if values.dtype.kind in "iub" else values
