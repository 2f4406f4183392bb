"""What the columns of a table say: where its objects are, and who they are in the Legacy Survey."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.match import Objects
from astroclip.data.targetid import decode_targetid
from astroclip.errors import DataError
from astroclip.schema import DEC_NAMES, RA_NAMES, TARGETID
from astroclip.sky import FloatArray, IntArray, floats
from astroclip.tables import Table
from astroclip.tables.motion import propagate

Block = Mapping[str, NDArray]

BRICK_IDS = ("RELEASE", "BRICKID", "OBJID", "BRICK_OBJID")  # the last is DESI's name of the third
MOTION = ("PMRA", "PMDEC", "REF_EPOCH")  # mas/yr, mas/yr, Julian year
_DEGREES = ("", "deg", "degree", "degrees", "degs", "angle[deg]")


class PositionColumns(NamedTuple):
    """Names of the columns of a position, and of its motion (none, or `MOTION` as the table spells it)."""

    ra: str
    dec: str
    motion: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (self.ra, self.dec, *self.motion)

    def read(self, block: Block, epoch: float) -> tuple[FloatArray, FloatArray]:
        """Return RA, Dec in deg at an epoch; where the epoch of the table is not positive nothing moves."""
        ra, dec = floats(block[self.ra]), floats(block[self.dec])
        if not self.motion:
            return ra, dec
        pmra, pmdec, reference = (floats(block[name]) for name in self.motion)
        known = np.where(reference > 0, reference, np.nan)  # 0: DESI's targets that do not move
        return propagate(ra, dec, pmra, pmdec, from_epoch=known, to_epoch=epoch)


def find_position(table: Table, ra: str | None = None, dec: str | None = None) -> PositionColumns:
    """Return the position columns: those named, else the first of the usual names.

    Raises
    ------
    DataError
        If there are none, or they are not in degrees.
    """
    guessed = table.find(*RA_NAMES), table.find(*DEC_NAMES)
    found = [
        table.column(named).name if named else guess for named, guess in zip((ra, dec), guessed, strict=True)
    ]
    if found[0] is None or found[1] is None:
        raise DataError(
            f"{table.name}: no position columns by any of the usual names (as RA, DEC). Name them; it has "
            f"{', '.join(list(table.columns)[:20])}"
        )
    for name in found:
        column = table.columns[str(name)]
        numeric = np.dtype(column.dtype).kind in "fiu"
        if column.unit.lower() not in _DEGREES or not numeric or column.shape:
            raise DataError(
                f"{table.name}: column '{name}' is {column.dtype}{column.shape or ''} in '{column.unit}', "
                "expected a position in deg. Convert it, or name another column"
            )
    motion = [table.find(name) for name in MOTION]
    return PositionColumns(found[0], found[1], tuple(str(name) for name in motion) if all(motion) else ())


class IdColumns(NamedTuple):
    """Names of the columns of the Legacy Survey's ids: RELEASE, BRICKID, OBJID, or TARGETID, or none."""

    names: tuple[str, ...]

    def read(self, block: Block) -> tuple[IntArray, IntArray, IntArray] | None:
        """Return release, brickid, objid, -1 where unknown; None if the table has no ids at all."""
        values = [as_integers(block[name]) for name in self.names]
        if len(values) == 1:
            return decode_targetid(values[0])
        return (values[0], values[1], values[2]) if values else None


def find_ids(table: Table) -> IdColumns:
    """Return the id columns of a table: of Legacy Survey and DESI tables; TARGETID tells them too."""
    brick = [table.find(*names) for names in (BRICK_IDS[:1], BRICK_IDS[1:2], BRICK_IDS[2:])]
    targetid = table.find(TARGETID)
    if all(brick):
        return IdColumns(tuple(str(name) for name in brick))
    return IdColumns((targetid,) if targetid else ())


def objects_of(block: Block, position: PositionColumns, ids: IdColumns, epoch: float) -> Objects:
    """Return who is where, of a block with these columns, at an epoch."""
    return Objects(*position.read(block, epoch), ids.read(block))


def as_integers(values: NDArray) -> IntArray:
    """Return numbers as int64, -1 where they are masked or not finite (a CSV column with gaps is a float)."""
    if np.ma.isMaskedArray(values):
        values = np.ma.filled(values.astype(np.int64), -1)
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, -1)
    return values.astype(np.int64)
