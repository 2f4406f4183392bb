"""Who is in a row and where on the sky: the one reader of identifiers and positions that every verb uses.

An identifier never goes through a float: neighbours in a brick have consecutive TARGETIDs of 17 digits, of
which a float64 keeps 16. Positions: `tables.positions`; missing values: `tables.missing`.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.schema import TARGETID
from astroclip.tables.anytable import Column, Table
from astroclip.tables.missing import is_missing, to_texts
from astroclip.tables.positions import Block, PositionReader, find_position

# keys of a row: all columns of one, by the names that surveys give them; DESI, Legacy Survey, SDSS, SDSS-V
KEYS: tuple[dict[str, tuple[str, ...]], ...] = (
    {TARGETID: (TARGETID,)},
    {"RELEASE": ("RELEASE",), "BRICKID": ("BRICKID",), "OBJID": ("BRICK_OBJID", "OBJID")},
    {"PLATE": ("PLATE",), "MJD": ("MJD",), "FIBERID": ("FIBERID", "FIBER")},
    {"FIELD": ("FIELD",), "MJD": ("MJD",), "CATALOGID": ("CATALOGID",)},
    {"CATALOGID": ("CATALOGID",)},
    {"OBJECT_ID": ("OBJECT_ID",)},
    {"FILE": ("FILE", "FILENAME", "FILE_NAME", "IMAGE_FILE", "PNG_LOC")},
)
# what tells apart the spectra of one TARGETID, as far as a table has them
WITH_TARGETID = {"SURVEY": ("SURVEY",), "PROGRAM": ("PROGRAM",), "HEALPIX": ("HEALPIX", "HPXPIXEL")}
TEXTS = ("SURVEY", "PROGRAM", "FILE")  # the others are integers, OBJECT_ID is either
_BLOCK = 1 << 18  # rows that are checked at a time


class Who(NamedTuple):
    """Identity and position of n rows.

    Attributes
    ----------
    ids
        By name, (n,) each, those that the table has: TARGETID, SURVEY, PROGRAM, HEALPIX, RELEASE, BRICKID,
        OBJID, PLATE, MJD, FIBERID, FIELD, CATALOGID, OBJECT_ID, FILE. Integers are int64, -1 where missing;
        texts are str, "" where missing.
    ra, dec
        (n,) ICRS degrees; NaN where missing or not on the sky, and in a table without positions.
    """

    ids: dict[str, NDArray]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]


class WhoColumns(NamedTuple):
    """The columns of a table that say who and where its rows are; see `find_who`.

    Attributes
    ----------
    table
        What the user calls the table.
    ids
        Columns by the names of `Who.ids`.
    position
        None in a table without positions.
    """

    table: str
    ids: dict[str, Column]
    position: PositionReader | None

    @property
    def columns(self) -> list[str]:
        """Names of all columns that `read` needs, each once."""
        placed = self.position.columns if self.position else []
        return list(dict.fromkeys([*(column.name for column in self.ids.values()), *placed]))

    @property
    def has_position(self) -> bool:
        """Whether the table has positions."""
        return self.position is not None

    def read(self, block: Block, first_row: int = 0) -> Who:
        """Return who and where the rows of a block are; it holds `columns`, and at least one column.

        Parameters
        ----------
        block
            Of `Table.read`.
        first_row
            Row of the table that its first row is, for errors.

        Raises
        ------
        DataError
            If an identifier is not exactly an integer or a position cannot be read; `check` says so before.
        """
        ids = {name: self._read_id(name, block, first_row) for name in self.ids}
        if self.position:
            ra, dec = self.position.read(block, first_row)
        else:
            ra = np.full(len(next(iter(block.values()), ())), np.nan)
            dec = ra.copy()
        return Who(ids, ra, dec)

    def check(self, table: Table, start: int = 0, stop: int | None = None) -> None:
        """Read the columns in which a value may be refused, before anything is written.

        Integers, and numbers in degrees, are not read.

        Raises
        ------
        DataError
            See `read`.
        """
        doubtful = [name for name, column in self.ids.items() if name not in TEXTS and not _is_exact(column)]
        position = self.position if self.position and not self.position.is_plain else None
        columns = [self.ids[name].name for name in doubtful] + (position.columns if position else [])
        stop = table.nrows if stop is None else stop
        for at in range(start, stop if columns else start, _BLOCK):
            block = table.read(list(dict.fromkeys(columns)), at, min(at + _BLOCK, stop))
            for name in doubtful:
                self._read_id(name, block, at)
            if position:
                position.read(block, at)

    def _read_id(self, name: str, block: Block, first_row: int) -> NDArray[Any]:
        """Return one identifier, under the name of `Who.ids`."""
        column = self.ids[name]
        values = block[column.name]
        if name in TEXTS or (name == "OBJECT_ID" and values.dtype.kind in "USO"):
            return to_texts(values)
        return exact_integers(values, f"{self.table}: column '{column.name}'", first_row)


def find_who(
    table: Table, ra: str | None = None, dec: str | None = None, epoch: float | None = None
) -> WhoColumns:
    """Find the columns that say who and where the rows of a table are.

    Keys are taken whole: RELEASE, BRICKID and OBJID (DESI's BRICK_OBJID), never OBJID alone, which SDSS calls
    something else; SURVEY, PROGRAM and HEALPIX beside a TARGETID.

    Parameters
    ----------
    table
        Opened.
    ra, dec, epoch
        See `positions.find_position`.

    Returns
    -------
    WhoColumns
        Its ``ids`` and ``position`` may be empty; who needs one of them says so.

    Raises
    ------
    DataError
        If a named column does not exist, or a unit of the position is none.
    """
    ids: dict[str, Column] = {}
    for key in KEYS:
        found = {name: _scalar_column(table, spellings) for name, spellings in key.items()}
        if all(found.values()):
            ids |= {name: column for name, column in found.items() if column}
    if TARGETID in ids:
        more = {name: _scalar_column(table, spellings) for name, spellings in WITH_TARGETID.items()}
        ids |= {name: column for name, column in more.items() if column}
    return WhoColumns(table.name, ids, find_position(table, ra, dec, epoch))


def exact_integers(values: NDArray[Any], where: str, first_row: int = 0) -> NDArray[np.int64]:
    """Return identifiers as int64, exactly; -1 where they are missing.

    Parameters
    ----------
    values
        (n,): integers; floats that are whole and small enough for their type to tell them from their
        neighbours (float64: below 2**53); texts of decimal digits.
    where
        What an error calls them, as ``cat.fits: column 'TARGETID'``.
    first_row
        Row of the table that the first one is.

    Raises
    ------
    DataError
        If one is not exactly an integer of 64 bits; names the type, the first bad row and value, and how to
        rewrite the column.
    """
    data, missing = np.ma.getdata(values), is_missing(values)
    kind = data.dtype.kind
    if kind in "iu":
        bad = data > np.iinfo(np.int64).max if kind == "u" else np.zeros(data.shape, bool)
        numbers = data.astype(np.int64)
    elif kind == "f":
        with np.errstate(invalid="ignore"):
            bad = ~(np.abs(data) < 2.0 ** (np.finfo(data.dtype).nmant + 1)) | (data != np.floor(data))
            numbers = np.where(bad, 0, data).astype(np.int64)
    elif kind in "USO":
        numbers, bad = _read_digits(to_texts(data), missing)
    else:
        numbers, bad = np.zeros(data.shape, np.int64), np.ones(data.shape, bool)
    bad &= ~missing
    if bad.any():
        row = int(bad.argmax())
        _refuse(data[row], data.dtype, where, first_row + row)
    numbers[missing] = -1
    return numbers


def _refuse(value: Any, dtype: np.dtype[Any], where: str, row: int) -> None:
    """Say that an identifier is not exactly an integer, and what to do."""
    kind = "text" if dtype.kind in "USO" else dtype.name
    if dtype.kind == "f" and np.isfinite(value) and value == np.floor(value):
        digits = np.finfo(dtype).nmant + 1
        why = f"{kind} holds integers exactly only below 2**{digits}, so it may be another object's"
    else:
        why = "which is not exactly an integer of 64 bits"
    shown = repr(str(value)) if kind == "text" else f"{value:.17g}" if dtype.kind == "f" else value
    raise DataError(
        f"{where} is {kind}, and row {row} (from 0) holds {shown}: {why}. Rewrite the column as int64, "
        "or as text of digits, from the table where it still is one, never from these values (pandas: dtype "
        "'Int64' from the first read on; astropy: a masked integer column)"
    )


def _read_digits(
    texts: NDArray[np.str_], missing: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return texts as integers, and which are none; 0 there."""
    array = pa.array(np.where(missing, "0", texts).tolist(), pa.string())
    digits = pc.match_substring_regex(array, r"^[+-]?0*\d{1,19}$")
    stripped = pc.replace_substring_regex(pc.if_else(digits, array, "0"), r"^\+?(-?)0*(\d)", r"\1\2")
    try:
        return np.asarray(stripped.cast(pa.int64())).copy(), ~np.asarray(digits)
    except pa.ArrowInvalid:  # 19 digits that exceed int64
        limits = np.iinfo(np.int64)
        whole = [int(text) for text in stripped.to_pylist()]
        bad = np.array([not limits.min <= value <= limits.max for value in whole])
        return np.array([0 if b else value for value, b in zip(whole, bad, strict=True)]), bad | ~np.asarray(
            digits
        )


def _scalar_column(table: Table, names: tuple[str, ...]) -> Column | None:
    """Return the first of some columns of one value a row, or None."""
    found = [table.columns[name] for wanted in names if (name := table.find(wanted))]
    return next((column for column in found if not column.shape and column.is_plain), None)


def _is_exact(column: Column) -> bool:
    """Say whether a column's type alone tells that its identifiers are exact."""
    return bool(column.dtype.kind in "iu" and column.dtype != np.uint64)
