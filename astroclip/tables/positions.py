"""Where a row is on the sky: the one reader of positions that every verb uses.

Columns are found by the names in use (`schema.POSITION_NAMES`), or named by the user; units are those of
TUNIT, text is read as astropy's ``SkyCoord(unit=(hourangle, deg))`` reads it, and proper motions are applied
where an epoch is asked for. Out come checked ICRS degrees. Identifiers: `tables.identity`.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.schema import EPOCH_NAMES, MOTION_NAMES, POSITION_NAMES
from astroclip.sky import FloatArray, has_position
from astroclip.tables.angles import (
    HOURS,
    YEARS,
    bare_unit,
    degrees_of,
    is_sexagesimal,
    mas_per_year,
    parse_angles,
)
from astroclip.tables.anytable import Column, Table
from astroclip.tables.missing import is_missing, to_floats, to_texts
from astroclip.tables.motion import propagate

Block = Mapping[str, NDArray[Any]]

_BEYOND = 1e-6  # deg past a full turn that rounding explains
_DAYS = {"d": 0.0, "day": 0.0, "mjd": 0.0, "jd": 2400000.5, "julianday": 2400000.5, "juliandate": 2400000.5}
_J2000_MJD = 51544.5
_FIRST_MJD = 10000.0  # of the year 1886: less is a year
_EPOCHS = (1800.0, 2200.0)  # years


class Angle(NamedTuple):
    """A column of angles, how many degrees one of its unit is, and whether it is a right ascension.

    `declared` says that the table states the unit: without it, sexagesimal text is in hours or in degrees as
    astropy has it, by which coordinate it is.
    """

    column: Column
    scale: float
    is_ra: bool
    declared: bool

    @property
    def stated(self) -> str:
        """How the column is read, in words."""
        if self.column.dtype.kind not in "US":
            return self.column.unit or "deg, not stated"
        return f"text, {self.column.unit or ('deg, or hours as 10:41:02.5' if self.is_ra else 'deg')}"

    def read(self, block: Block, table: str, first_row: int) -> FloatArray:
        """Return degrees, NaN where they are missing."""
        values, where = block[self.column.name], f"{table}: column '{self.column.name}'"
        if values.dtype.kind in "USO":
            return self._read_texts(values, where, first_row)
        degrees = to_floats(values, where, first_row)
        return degrees * self.scale if self.scale != 1.0 else degrees

    def _read_texts(self, values: NDArray[Any], where: str, first_row: int) -> FloatArray:
        """Read text: numbers in the column's unit, else sexagesimal."""
        texts, missing = to_texts(values), is_missing(values)
        sexagesimal = self.scale if self.declared else HOURS if self.is_ra else 1.0
        degrees, bad = parse_angles(texts, self.scale, sexagesimal)
        bad &= ~missing
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"{where}, row {first_row + row} (from 0): {str(texts[row])!r} is no position; expected "
                f"{'right ascension' if self.is_ra else 'declination'} in degrees, or as "
                f"{'10:41:02.5 (hours)' if self.is_ra else '-05:30:01.5 (degrees)'}. Rewrite it, or name "
                "other columns: --ra NAME --dec NAME"
            )
        return degrees

    def check(self, degrees: FloatArray, block: Block, table: str, first_row: int) -> None:
        """Refuse right ascensions in hours or radians beyond a full turn: the unit is not what is stated."""
        beyond = np.abs(degrees) > 360.0 + _BEYOND
        if not self.is_ra or (self.scale == 1.0 and block[self.column.name].dtype.kind in "iuf"):
            return
        if beyond.any():
            row = int(beyond.argmax())
            value = block[self.column.name][row]
            raise DataError(
                f"{table}: column '{self.column.name}' holds {value} (row {first_row + row}, from 0) and is "
                f"{f'in {self.column.unit!r}' if self.column.unit else 'read as hours'}, which is "
                "more than the whole circle. State its unit (TUNIT), or name another column: --ra NAME"
            )


class Motion(NamedTuple):
    """Columns of proper motion and of its epoch, with what turns their units into mas/yr and Julian years."""

    columns: tuple[Column, Column, Column]
    scales: tuple[float, float]
    epoch_unit: str

    def apply(
        self, ra: FloatArray, dec: FloatArray, block: Block, epoch: float, table: str
    ) -> tuple[FloatArray, FloatArray]:
        """Return positions at an epoch; where that of the table is not positive nothing moves."""
        pmra, pmdec = (to_floats(block[c.name], f"{table}: column '{c.name}'") for c in self.columns[:2])
        since = self._read_epochs(block, table)
        pmra, pmdec = pmra * self.scales[0], pmdec * self.scales[1]
        return propagate(ra, dec, pmra, pmdec, from_epoch=since, to_epoch=epoch)

    def _read_epochs(self, block: Block, table: str) -> FloatArray:
        """Return Julian years, NaN where unknown; text as J2000.0, and large numbers as MJD or JD."""
        column = self.columns[2]
        values, where = block[column.name], f"{table}: column '{column.name}'"
        if column.dtype.kind in "US":
            values = np.char.lstrip(to_texts(values), "Jj")
        since = to_floats(values, where)
        since = np.where(since > 0, since, np.nan)  # 0: DESI's targets that do not move
        days = np.where(since > 1e6, since - _DAYS["jd"], since)
        if self.epoch_unit in _DAYS or not self.epoch_unit:
            since = np.where(days > _FIRST_MJD, 2000.0 + (days - _J2000_MJD) / 365.25, since)
        bad = (since < _EPOCHS[0]) | (since > _EPOCHS[1])
        if bad.any():
            raise DataError(
                f"{where} holds {values[int(bad.argmax())]}, which is no epoch of positions; expected a "
                "year, as 2016.0, or a Modified Julian Date. Rename the column if it holds something else"
            )
        return since


class PositionReader(NamedTuple):
    """The position columns of a table, and how to read them; see `find_position`.

    Attributes
    ----------
    table
        What the user calls the table.
    ra, dec
    motion
        None unless the table has proper motions and positions of an `epoch` (Julian year) were asked for.
    """

    table: str
    ra: Angle
    dec: Angle
    motion: Motion | None
    epoch: float | None

    @property
    def columns(self) -> list[str]:
        """Names of all columns that `read` needs."""
        moving = [column.name for column in self.motion.columns] if self.motion else []
        return [self.ra.column.name, self.dec.column.name, *moving]

    def read(self, block: Block, first_row: int = 0) -> tuple[FloatArray, FloatArray]:
        """Return ICRS degrees of a block of rows, NaN in both where they are missing or not on the sky.

        Raises
        ------
        DataError
            If a text is no angle, or right ascensions in hours exceed 24.
        """
        ra = self.ra.read(block, self.table, first_row)
        dec = self.dec.read(block, self.table, first_row)
        self.ra.check(ra, block, self.table, first_row)
        nowhere = ~has_position(ra, dec)
        if nowhere.any():
            ra, dec = np.where(nowhere, np.nan, ra), np.where(nowhere, np.nan, dec)
        if self.motion is None or self.epoch is None:
            return ra, dec
        return self.motion.apply(ra, dec, block, self.epoch, self.table)

    @property
    def is_plain(self) -> bool:
        """Whether its values are numbers in degrees that do not move, so that no row can be refused."""
        numbers = all(angle.column.dtype.kind in "iuf" for angle in (self.ra, self.dec))
        return numbers and self.ra.scale == 1.0 and self.motion is None


def find_position(
    table: Table, ra: str | None = None, dec: str | None = None, epoch: float | None = None
) -> PositionReader | None:
    """Find the position columns of a table: those named, else the first pair of the usual names.

    Parameters
    ----------
    table
        Opened.
    ra, dec
        Names of columns; together, or one beside a usual name of the other.
    epoch
        Julian year to move positions to, where the table has proper motions; None: as they are.

    Returns
    -------
    PositionReader or None
        None if there are no such columns and none were named.

    Raises
    ------
    DataError
        If a named column does not exist, or is neither numbers nor text of one value a row; if a unit is not
        one of angle (deg, hourangle, rad, arcmin, arcsec; of motion mas/yr, arcsec/yr, deg/yr); if the table
        says that its frame is another one than ICRS or FK5 J2000, which differ by 0.02 arcsec.
    """
    pair = find_position_names(table, ra, dec)
    if pair is None:
        return None
    _check_frame(table, pair[0])
    angles = [_angle(table, name, at == 0) for at, name in enumerate(pair)]
    stated = [angle.column.unit.strip() for angle in angles]
    if all(stated) != any(stated) and any(angle.scale not in (1.0, HOURS) for angle in angles):
        at = stated.index("")
        raise DataError(
            f"{table.name}: column '{pair[at]}' states no unit, and '{pair[1 - at]}' is in "
            f"{stated[1 - at]!r}. State the unit of both (TUNIT)"
        )
    motion = _find_motion(table) if epoch is not None else None
    return PositionReader(table.name, angles[0], angles[1], motion, epoch)


def need_position(
    table: Table, ra: str | None = None, dec: str | None = None, epoch: float | None = None
) -> PositionReader:
    """Find the position columns as `find_position` does; a table without them is a `DataError`."""
    position = find_position(table, ra, dec, epoch)
    if position is None:
        raise DataError(
            f"{table.where} has no position columns, as RA and DEC; {table.contents}. Name them: --ra NAME "
            "--dec NAME"
        )
    return position


def find_position_names(
    table: Table, ra: str | None = None, dec: str | None = None
) -> tuple[str, str] | None:
    """Return the names of the position columns as the table spells them, whatever they hold; None if none."""
    if all(table.position):  # declared by a HATS catalogue
        ra, dec = ra or table.position[0], dec or table.position[1]
    if ra and dec:
        return table.column(ra).name, table.column(dec).name
    named = table.column(ra or dec or "").name if ra or dec else None
    mixins = [name for name in table.columns if name.lower().endswith(".ra")]
    mixins.sort(key=lambda name: name.lower() != "coord.ra")
    for names in (*POSITION_NAMES, *((name, f"{name[:-2]}dec") for name in mixins)):
        found = [named if ra else _scalar(table, names[0]), named if dec else _scalar(table, names[1])]
        if all(found):
            return str(found[0]), str(found[1])
    return None


def _check_frame(table: Table, ra: str) -> None:
    """Refuse positions of another frame, by RADESYS, or by what astropy writes of a SkyCoord (YAML)."""
    frame = str(table.header.get("RADESYS") or table.header.get("RADECSYS") or "icrs").lower()
    j2000 = True
    if ra.lower().endswith(".ra"):
        said = str(table.header.get("table_meta_yaml") or table.header.get("COMMENT") or "")
        lines = r"((?:\1\s.*\n?|[^\s-].*\n?)+)"  # indented more, or the rest of a card
        found = re.search(rf"^(\s+){re.escape(ra[:-3])}:\n{lines}", said, re.MULTILINE)
        block = found[2] if found else ""
        frame = (re.search(r"^\s+frame: (\S+)", block, re.MULTILINE) or ["", "icrs"])[1]
        j2000 = "equinox:" not in block or "jd1: 2451545.0, jd2: 0.0" in block
    if frame not in ("icrs", "fk5", "gcrs") or not j2000:
        other = "" if j2000 else " of another equinox than J2000"
        raise DataError(
            f"{table.name}: column '{ra}' is in the frame {frame}{other}, expected ICRS. Convert it "
            "(astropy: SkyCoord.icrs), or name other columns: --ra NAME --dec NAME"
        )


def _scalar(table: Table, name: str) -> str | None:
    """Return the name of a column of one number or text a row, if it is there."""
    found = table.find(name)
    column = table.columns[found] if found else None
    scalar = column and not column.shape and column.is_plain and column.dtype.kind in "iufUS"
    return found if scalar else None


def _angle(table: Table, name: str, is_ra: bool) -> Angle:
    """Return how a column is read."""
    column = table.columns[name]
    if column.shape or not column.is_plain or column.dtype.kind not in "iufUS":
        raise DataError(
            f"{table.name}: column '{name}' is {column.dtype} {column.shape or ''}, expected a position of "
            "one number or text a row. Name another one: --ra NAME --dec NAME"
        )
    if column.dtype.kind in "US" and is_sexagesimal(column.unit):
        return Angle(column, 1.0, is_ra, declared=False)
    kind, scale = "right ascension" if is_ra else "declination", degrees_of(column.unit)
    if scale is None or (scale == HOURS and not is_ra):
        raise DataError(
            f"{table.name}: column '{name}' is in {column.unit!r}, which is no unit of {kind}; expected "
            f"deg, {'hourangle, ' if is_ra else ''}rad, arcmin or arcsec. Convert it, or name other columns: "
            "--ra NAME --dec NAME"
        )
    return Angle(column, scale, is_ra, declared=bool(column.unit.strip()))


def _find_motion(table: Table) -> Motion | None:
    """Return the columns of proper motion, if there are all three."""
    since = table.find(*EPOCH_NAMES)
    found = [(table.find(ra), table.find(dec)) for ra, dec in MOTION_NAMES]
    pair = next((names for names in found if all(names)), None)
    if pair is None or since is None:
        return None
    columns = [table.columns[str(name)] for name in (*pair, since)]
    scales = []
    for column in columns[:2]:
        scale = mas_per_year(column.unit)
        if scale is None or column.shape or column.dtype.kind not in "iufUS":
            raise DataError(
                f"{table.name}: column '{column.name}' is {column.dtype} in {column.unit!r}, expected a "
                "proper motion in mas/yr, arcsec/yr or deg/yr. State its unit, or rename it if it is none"
            )
        scales.append(scale)
    epoch_unit = bare_unit(columns[2].unit)
    if epoch_unit not in YEARS and epoch_unit not in _DAYS:
        raise DataError(
            f"{table.name}: column '{since}' is in {columns[2].unit!r}, expected the epoch of the positions "
            "in yr or d (MJD, JD). State its unit, or rename it if it is none"
        )
    return Motion((columns[0], columns[1], columns[2]), (scales[0], scales[1]), epoch_unit)
