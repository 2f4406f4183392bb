"""DESI's redshift catalogue: which rows are good galaxies.

Data model: https://desidatamodel.readthedocs.io, zcatalog/zall-pix-SPECPROD.fits (HDU ZCATALOG). Where the
spectra of its rows are: `data.coadd_tree`. Shapes: n rows of the catalogue.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.tables.missing import is_missing


class Reject(IntEnum):
    """Why a cut leaves a row out: the first reason, in this order."""

    KEPT = 0
    NOT_A_TARGET = 1  # OBJTYPE is not TGT: sky, or a fibre without a target
    BAD_FIBER = 2  # COADD_FIBERSTATUS is not 0
    BAD_REDSHIFT = 3  # ZWARN is not 0
    NOT_PRIMARY = 4  # the target has a better spectrum in another row
    NOT_A_GALAXY = 5  # SPECTYPE is not GALAXY


_COLUMN = {
    Reject.NOT_A_TARGET: "OBJTYPE",
    Reject.BAD_FIBER: "COADD_FIBERSTATUS",
    Reject.BAD_REDSHIFT: "ZWARN",
    Reject.NOT_A_GALAXY: "SPECTYPE",
}
_TEXT = {Reject.NOT_A_TARGET: "TGT", Reject.NOT_A_GALAXY: "GALAXY"}
CUTS: dict[str, tuple[Reject, ...]] = {
    "galaxy": tuple(Reject)[1:],
    "original": (Reject.BAD_FIBER, Reject.NOT_PRIMARY),
    "none": (),
}

# columns that say which spectrum of a target is primary: those of the first group of which any is there
PRIMARY: dict[str, tuple[tuple[str, ...], ...]] = {
    "galaxy": (("ZCAT_PRIMARY",), ("MAIN_PRIMARY", "SV_PRIMARY")),
    "original": (("SV_PRIMARY",),),
}
CUT_COLUMNS = (*_COLUMN.values(), "ZCAT_PRIMARY", "MAIN_PRIMARY", "SV_PRIMARY")  # that any cut may need


class Cut(NamedTuple):
    """A quality cut, ready for the columns of one catalogue (use `find_cut`).

    Attributes
    ----------
    name
        One of `CUTS`.
    columns
        The catalogue's columns that it needs, as the catalogue spells them.
    primary
        Of these, the ones that say which spectrum of a target is its primary one: true in any is enough.
    """

    name: str
    columns: tuple[str, ...]
    primary: tuple[str, ...]

    def reject(self, block: Mapping[str, NDArray]) -> NDArray[np.int8]:
        """Return `Reject` for each row of a block of the catalogue, which is not changed."""
        spelled = {name.upper(): name for name in self.columns}
        n = len(next(iter(block.values()))) if block else 0
        reason = np.zeros(n, np.int8)
        for rule in CUTS[self.name]:
            if rule is Reject.NOT_PRIMARY:
                truths = (block[name] for name in self.primary)
                passes = np.logical_or.reduce([_is_true(values) & ~is_missing(values) for values in truths])
            else:
                values = block[spelled[_COLUMN[rule]]]
                data = np.ma.getdata(values)
                passes = _strip(data) == _TEXT[rule] if rule in _TEXT else data == 0
                passes &= ~is_missing(values)
            reason[(reason == Reject.KEPT) & ~passes] = rule
        return reason


def find_cut(name: str, columns: Iterable[str]) -> Cut:
    """Return a quality cut by its name, for a catalogue of these columns.

    ``galaxy`` keeps good redshifts of galaxies: OBJTYPE is TGT, COADD_FIBERSTATUS 0, ZWARN 0, the spectrum is
    primary, SPECTYPE is GALAXY. Primary is ZCAT_PRIMARY, one row a target; in a catalogue without it
    MAIN_PRIMARY or SV_PRIMARY, whichever there are, so that a target of both surveys may stay twice.
    ``original`` keeps COADD_FIBERSTATUS 0 and SV_PRIMARY, whatever the redshift and the type. ``none`` keeps
    all rows. A missing value (NaN) is not good.

    Differs from Parker+24: ``original`` is their cut, ``galaxy`` is the stricter default here.

    Raises
    ------
    UsageError
        If there is no such cut.
    DataError
        If the catalogue lacks a column that the cut needs.
    """
    if name not in CUTS:
        raise UsageError(f"no cut '{name}'; known: {', '.join(CUTS)}")
    present = {column.upper(): column for column in columns}
    primary: tuple[str, ...] = ()
    if Reject.NOT_PRIMARY in CUTS[name]:
        found = ([present[column] for column in group if column in present] for group in PRIMARY[name])
        primary = tuple(next((group for group in found if group), ()))
        if not primary:
            wanted = ", ".join(column for group in PRIMARY[name] for column in group)
            raise DataError(f"the cut '{name}' needs one of the columns {wanted}. {_other_cuts(name)}")
    needed = [_COLUMN[rule] for rule in CUTS[name] if rule in _COLUMN]
    if missing := [column for column in needed if column not in present]:
        raise DataError(f"the cut '{name}' needs the column {', '.join(missing)}. {_other_cuts(name)}")
    return Cut(name, (*(present[column] for column in needed), *primary), primary)


def _strip(values: NDArray) -> NDArray[np.str_]:
    """Return text without its padding, whether it is bytes or not."""
    return np.char.strip(values.astype(str))


def _is_true(values: NDArray) -> NDArray[np.bool_]:
    """Return a column of truth values: FITS logicals, numbers, or the letters T and F."""
    return _strip(values) == "T" if values.dtype.kind in "SU" else np.nan_to_num(values).astype(bool)


def _other_cuts(name: str) -> str:
    return f"Choose another cut: {', '.join(cut for cut in CUTS if cut != name)}"
