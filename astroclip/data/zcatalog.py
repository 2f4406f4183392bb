"""DESI's redshift catalogue: which rows are good galaxies, and their spectra in the tree of coadds.

Data model: https://desidatamodel.readthedocs.io, zcatalog/zall-pix-SPECPROD.fits (HDU ZCATALOG) and
healpix/SURVEY/PROGRAM/PIXGROUP/PIXNUM/coadd-SURVEY-PROGRAM-PIXNUM.fits, HEALPix nside 64 nested.
Shapes: n rows of the catalogue, S = 7781 wavelengths.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.desi import Coadd, open_coadd
from astroclip.data.grid import NODATA, Spectra
from astroclip.errors import DataError, UsageError
from astroclip.schema import N_WAVE, desi_wave


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
                passes = np.logical_or.reduce([_is_true(block[name]) for name in self.primary])
            else:
                values = block[spelled[_COLUMN[rule]]]
                passes = _strip(values) == _TEXT[rule] if rule in _TEXT else values == 0
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


def count_rejects(reason: NDArray[np.int8]) -> dict[str, int]:
    """Return how many rows have each `Reject`, by its name, in the order of the rules, zeros too."""
    counts = np.bincount(reason, minlength=len(Reject))
    return {rule.name: int(counts[rule]) for rule in Reject}


class SpectrumStatus(IntEnum):
    """What became of the spectrum of a catalogue's row."""

    FOUND = 0
    NO_FILE = 1  # the tree has no coadd of the row's SURVEY, PROGRAM and HEALPIX
    UNREADABLE = 2  # the coadd is damaged, or not one
    NOT_IN_FILE = 3  # the coadd has no row of the TARGETID
    NO_GOOD_PIXEL = 4  # nothing was measured: told by `check_coadds`; `read_coadds` gives what is there


class CatalogueSpectra(NamedTuple):
    """Spectra of a catalogue's rows, in its order.

    Attributes
    ----------
    spectra
        (n, S); flux and ivar are 0 and the mask is `grid.NODATA` where there is no spectrum.
    status
        (n,) `SpectrumStatus`.
    problems
        Files that are missing or cannot be read, and why.
    """

    spectra: Spectra
    status: NDArray[np.int8]
    problems: list[tuple[Path, str]]


def coadd_path(root: str | Path, survey: str, program: str, healpix: int) -> Path:
    """Return where a release has a coadd: healpix/SURVEY/PROGRAM/<pixel // 100>/<pixel>/coadd-*.fits.

    `root` is the folder that has the folder healpix, or that folder itself. The file is the one ending in
    .fits.gz where only this exists; it need not exist at all.
    """
    top = Path(root) / "healpix"
    top = top if top.is_dir() else Path(root)
    folder = top / survey / program / str(healpix // 100) / str(healpix)
    path = folder / f"coadd-{survey}-{program}-{healpix}.fits"
    zipped = path.with_name(path.name + ".gz")
    return zipped if zipped.is_file() and not path.is_file() else path


def read_coadds(
    root: str | Path, targetid: ArrayLike, survey: ArrayLike, program: ArrayLike, healpix: ArrayLike
) -> CatalogueSpectra:
    """Read the spectra of a catalogue's rows from the tree of coadds, each file once.

    Memory is 93 kB a row: ask for blocks of rows, best in the order of their files. Where a file has a target
    several times the first is taken.

    Parameters
    ----------
    root
        See `coadd_path`.
    targetid
        (n,) integers.
    survey, program, healpix
        (n,) or one value; blanks around the names are ignored.
    """
    ids = np.atleast_1d(np.asarray(targetid, np.int64))
    flux, ivar = np.zeros((2, len(ids), N_WAVE), np.float32)
    mask = np.full(flux.shape, NODATA, np.int32)

    def read(coadd: Coadd, places: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        for values, pixels in zip((flux, ivar, mask), coadd.read(places)[1:], strict=True):
            values[rows] = pixels

    where = find_coadds_of(root, ids, survey, program, healpix)
    status, problems = _visit(where, ids, read)
    return CatalogueSpectra(Spectra(desi_wave(), flux, ivar, mask), status, problems)


class CoaddPlaces(NamedTuple):
    """The coadds of a catalogue's rows: their paths in the order in which rows need them, and each row's."""

    files: list[Path]
    file: NDArray[np.int64]


def find_coadds_of(
    root: str | Path, targetid: ArrayLike, survey: ArrayLike, program: ArrayLike, healpix: ArrayLike
) -> CoaddPlaces:
    """Return which coadd each row of a catalogue is in, whether it exists or not (see `read_coadds`)."""
    shape = np.atleast_1d(np.asarray(targetid)).shape
    names = [np.broadcast_to(_strip(np.asarray(values)), shape) for values in (survey, program)]
    pixel = np.broadcast_to(np.asarray(healpix, np.int64), shape)
    key = np.zeros(shape, np.int64)
    for values in (*names, pixel):
        kinds, kind = np.unique(values, return_inverse=True)
        key = key * len(kinds) + kind
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.argsort(order)  # files in the order of their first rows
    files = [
        coadd_path(root, str(names[0][row]), str(names[1][row]), int(pixel[row])) for row in first[order]
    ]
    return CoaddPlaces(files, rank[group])


def check_coadds(
    root: str | Path,
    targetid: ArrayLike,
    survey: ArrayLike,
    program: ArrayLike,
    healpix: ArrayLike,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.int8], list[tuple[Path, str]]]:
    """Say of each row of a catalogue whether `read_coadds` finds a spectrum with anything in it.

    Reads the list of targets of each file, and few pixels of each spectrum; `progress` is told (rows done,
    all rows).

    Returns
    -------
    status
        (n,) `SpectrumStatus`.
    problems
        Files that are missing or cannot be read, and why.
    """
    ids = np.atleast_1d(np.asarray(targetid, np.int64))
    empty, done = np.zeros(len(ids), bool), 0

    def check(coadd: Coadd, places: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        nonlocal done
        empty[rows] = ~coadd.is_measured(places)
        done += len(rows)
        if progress:
            progress(done, len(ids))

    status, problems = _visit(find_coadds_of(root, ids, survey, program, healpix), ids, check)
    status[empty] = SpectrumStatus.NO_GOOD_PIXEL
    return status, problems


def _visit(
    where: CoaddPlaces,
    ids: NDArray[np.int64],
    use: Callable[[Coadd, NDArray[np.int64], NDArray[np.int64]], None],
) -> tuple[NDArray[np.int8], list[tuple[Path, str]]]:
    """Call ``use(coadd, rows in it, rows of the catalogue)`` for each file; return status and problems."""
    status, problems = np.zeros(len(ids), np.int8), []
    by_file = np.argsort(where.file, kind="stable")
    ends = np.searchsorted(where.file[by_file], np.arange(1, len(where.files)))
    for path, rows in zip(where.files, np.split(by_file, ends), strict=False):
        if not path.is_file():
            problems.append((path, f"{path}: no such coadd, of {len(rows)} rows"))
            status[rows] = SpectrumStatus.NO_FILE
            continue
        try:
            with open_coadd(path) as coadd:
                have, first = np.unique(coadd.targetid, return_index=True)
                place = np.searchsorted(have, ids[rows])
                there = np.append(have, -1)[place] == ids[rows]
                there &= place < len(have)
                use(coadd, first[place[there]], rows[there])
        except DataError as error:
            problems.append((path, str(error)))
            status[rows] = SpectrumStatus.UNREADABLE
            continue
        status[rows[~there]] = SpectrumStatus.NOT_IN_FILE
    return status, problems


def _strip(values: NDArray) -> NDArray[np.str_]:
    """Return text without its padding, whether it is bytes or not."""
    return np.char.strip(values.astype(str))


def _is_true(values: NDArray) -> NDArray[np.bool_]:
    """Return a column of truth values: FITS logicals, numbers, or the letters T and F."""
    return _strip(values) == "T" if values.dtype.kind in "SU" else np.nan_to_num(values).astype(bool)


def _other_cuts(name: str) -> str:
    return f"Choose another cut: {', '.join(cut for cut in CUTS if cut != name)}"
