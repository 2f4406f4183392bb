"""DESI: coadded spectra and Redrock redshifts, as the releases publish them.

Data model: https://desidatamodel.readthedocs.io (coadd-SURVEY-PROGRAM-PIXNUM.fits, redrock-*.fits).
Shapes: n rows of a file, m rows asked for, S = 7781 wavelengths of the combined grid, W of one arm.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from astroclip.data.fitsfile import FitsFile, check_flux_unit, check_wave_unit
from astroclip.data.grid import ArmPixels, combine_arms, combine_exposures, place_on_grid
from astroclip.data.kinds import Kind, find_fits
from astroclip.data.lookup import expand_ranges
from astroclip.data.pixels import Spectra
from astroclip.errors import DataError
from astroclip.schema import TARGETID
from astroclip.tables.identity import Who

ARMS = ("B", "R", "Z")
PROBED_PIXELS = 64  # of each arm, to see whether anything was measured
COMBINED_ARM = "BRZ"  # desispec's coaddition of cameras writes one arm on the whole grid
FIBERMAP_COLUMNS = (
    "OBJTYPE",
    "COADD_FIBERSTATUS",
    "TARGET_RA",
    "TARGET_DEC",
    "RELEASE",
    "BRICKID",
    "BRICK_OBJID",
)
REDROCK_COLUMNS = (TARGETID, "Z", "ZERR", "ZWARN", "SPECTYPE", "SUBTYPE", "DELTACHI2")
_HEALPIX_NAME = re.compile(r"[a-z]+-([a-z][a-z0-9]*)-([a-z]+)-(\d+)\.fits")  # coadd-sv3-dark-26065.fits


class _Arm(NamedTuple):
    """One spectrograph arm of a file: its name and where its pixels fall on the combined grid."""

    name: str
    kept: slice  # pixels of the arm that lie on the grid
    place: slice  # and where on it they lie


class Coadd:
    """One file of DESI spectra, coadd-*.fits or spectra-*.fits; a context manager (use `open_coadd`).

    Attributes
    ----------
    path
        The file.
    fibermap
        FIBERMAP columns by name, (n,) each: TARGETID, and of `FIBERMAP_COLUMNS` those the file has. Without
        a FIBERMAP all TARGETIDs are -1: the rows have numbers only.
    """

    def __init__(self, file: FitsFile) -> None:
        self.path = file.path
        self._file = file
        names = (COMBINED_ARM,) if f"{COMBINED_ARM}_FLUX" in file else ARMS
        there = [arm for arm in names if f"{arm}_FLUX" in file]
        if not there:
            raise DataError(f"{self.path}: none of the HDUs B_FLUX, R_FLUX, Z_FLUX, BRZ_FLUX. Not a coadd?")
        if "FIBERMAP" in file:
            self.fibermap = file.table("FIBERMAP", [TARGETID], FIBERMAP_COLUMNS)
        else:
            rows = (*file.shape(f"{there[0]}_FLUX"), 0)[0]
            self.fibermap = {TARGETID: np.full(rows, -1, np.int64)}
        self._arms = [self._find_arm(arm) for arm in there]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.targetid)

    @property
    def targetid(self) -> NDArray[np.int64]:
        """TARGETID of each row, (n,); repeated in a spectra file, negative for fibres without a target."""
        return self.fibermap[TARGETID]

    def close(self) -> None:
        """Close the file; `read` afterwards is an error."""
        self._file.close()

    def read(self, rows: slice | Sequence[int] | NDArray = slice(None)) -> Spectra:
        """Read the spectra of some rows, combined over the arms by the rules of `grid.combine_arms`.

        Parameters
        ----------
        rows
            A slice, indices (repeated ones too, in any order), or a boolean mask (n,). Only these are read.

        Raises
        ------
        DataError
            If a pixel HDU cannot be read.
        """
        wanted = np.atleast_1d(np.arange(len(self))[rows])
        unique, inverse = np.unique(wanted, return_inverse=True)
        spectra = combine_arms(len(unique), (self._read_arm(arm, unique) for arm in self._arms))
        return spectra if np.array_equal(unique, wanted) else spectra.take(inverse)

    def read_targets(self, rows: NDArray[np.int64]) -> Spectra:
        """Read the spectra of targets, by their first rows, ascending.

        Repeated exposures of a target, as in spectra-*.fits, are combined by inverse variance.

        Raises
        ------
        DataError
            If a pixel HDU cannot be read.
        """
        order = np.argsort(self.targetid, kind="stable")
        target = self.targetid[order]
        low = np.searchsorted(target, self.targetid[rows])
        count = np.searchsorted(target, self.targetid[rows], side="right") - low
        alone = (count == 1) | (self.targetid[rows] < 0)
        if alone.all():
            return self.read(rows)
        owner, place = expand_ranges(low, np.where(alone, 1, count))
        return combine_exposures(self.read(np.where(alone[owner], rows[owner], order[place])), owner)

    def is_measured(self, rows: slice | Sequence[int] | NDArray = slice(None)) -> NDArray[np.bool_]:
        """Say which rows have a good pixel: reads some of the middle of each arm, all only if none is good.

        Parameters
        ----------
        rows
            As in `read`.

        Raises
        ------
        DataError
            If a pixel HDU cannot be read.
        """
        unique, inverse = np.unique(np.atleast_1d(np.arange(len(self))[rows]), return_inverse=True)
        measured = np.zeros(len(unique), bool)
        for whole in (False, True):
            for arm in self._arms:
                left = np.flatnonzero(~measured)
                start = max((arm.kept.start + arm.kept.stop - PROBED_PIXELS) // 2, arm.kept.start)
                few = slice(start, min(start + PROBED_PIXELS, arm.kept.stop))
                if len(left):
                    pixels = self._read_arm(arm if whole else arm._replace(kept=few), unique[left])
                    measured[left] = pixels.good.any(axis=1)
        return measured[inverse]

    def _find_arm(self, name: str) -> _Arm:
        """Check an arm's HDUs and place its pixels on the combined grid."""
        file, where = self._file, f"{self.path}: HDU {name}_WAVELENGTH"
        check_wave_unit(where, file.header(f"{name}_WAVELENGTH").get("BUNIT"))
        check_flux_unit(f"{self.path}: HDU {name}_FLUX", file.header(f"{name}_FLUX").get("BUNIT"))
        wave = file.pixels(f"{name}_WAVELENGTH").astype(np.float64).ravel()
        for hdu in (f"{name}_FLUX", f"{name}_IVAR", f"{name}_MASK"):
            if hdu == f"{name}_MASK" and hdu not in file:
                continue
            if (shape := file.shape(hdu)) != (len(self), wave.size):
                raise DataError(
                    f"{self.path}: HDU {hdu} has shape {shape}, expected {(len(self), wave.size)} "
                    f"(rows of FIBERMAP, pixels of {name}_WAVELENGTH). Fetch the file again"
                )
        return _Arm(name, *place_on_grid(wave, where))

    def _read_arm(self, arm: _Arm, rows: NDArray[np.int64]) -> ArmPixels:
        """Read the pixels of an arm that lie on the grid, for ascending rows."""
        flux = self._read_rows(f"{arm.name}_FLUX", rows, arm.kept)
        ivar = self._read_rows(f"{arm.name}_IVAR", rows, arm.kept)
        if f"{arm.name}_MASK" not in self._file:
            return ArmPixels(arm.place, flux, ivar, np.zeros(flux.shape, np.int32))
        mask = self._read_rows(f"{arm.name}_MASK", rows, arm.kept).astype(np.int32)
        return ArmPixels(arm.place, flux, ivar, mask)

    def _read_rows(self, hdu: str, rows: NDArray[np.int64], pixels: slice) -> NDArray:
        """Read some pixels of ascending rows of an image HDU, one request for each unbroken run of rows."""
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else []
        parts = [self._file.pixels(hdu, slice(run[0], run[-1] + 1), pixels) for run in runs]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros((0, pixels.stop - pixels.start), np.float32)


def open_coadd(path: str | Path) -> Coadd:
    """Open a file of DESI spectra, ready to read rows from: coadd-*.fits, spectra-*.fits, .gz too.

    An arm may be missing as long as one is there; a `*_MASK` HDU may be missing (nothing is masked).

    Raises
    ------
    DataError
        If the file is cut short, lacks FIBERMAP, all arms, or an arm's WAVELENGTH or IVAR, has other
        units, or wavelengths off the common 0.8 Å grid.
    """
    file = FitsFile(path)
    try:
        return Coadd(file)
    except DataError:
        file.close()
        raise


def find_coadds(folder_or_file: str | Path) -> list[Path]:
    """Return the files of DESI spectra under a folder, sorted; a file is returned as it is.

    These are coadd-*.fits; without any spectra-*.fits; without any the files that hold such spectra under
    another name; each of them also ending in .gz.

    Raises
    ------
    DataError
        If the path does not exist. A folder without coadds gives an empty list.
    """
    root = Path(folder_or_file)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    return find_fits(root, ("coadd-", "spectra-"), (Kind.COADD, Kind.SPECTRA))


def redrock_path(coadd_path: str | Path) -> Path | None:
    """Return the Redrock file beside a coadd (redrock-*, in old releases zbest-*), or None."""
    path = Path(coadd_path)
    rest = re.sub(r"^(coadd|spectra)", "", path.name).removesuffix(".gz")
    names = (f"{kind}{rest}{gz}" for kind in ("redrock", "zbest") for gz in ("", ".gz"))
    return next((beside for name in names if (beside := path.with_name(name)).is_file()), None)


def read_redrock(path: str | Path) -> dict[str, NDArray]:
    """Read the redshifts of a Redrock file (HDU REDSHIFTS, ZBEST in old ones).

    Returns
    -------
    dict
        TARGETID, Z, ZERR, ZWARN, SPECTYPE, SUBTYPE, DELTACHI2, (n,) each, strings stripped. Rows are
        those of the coadd beside it, in its order.

    Raises
    ------
    DataError
        If neither HDU is there, or a column is missing.
    """
    with FitsFile(path) as file:
        return file.table(
            "ZBEST" if "REDSHIFTS" not in file and "ZBEST" in file else "REDSHIFTS", REDROCK_COLUMNS
        )


class CoaddTargets(NamedTuple):
    """Targets of a file, one a row: the first row of each in the file, (m,) ascending, and who they are."""

    row: NDArray[np.int64]
    who: Who


def read_targets_of(path: Path) -> CoaddTargets:
    """Read who is in a file of DESI spectra from its FIBERMAP; pixels are not looked at.

    Survey, program and HEALPix pixel (nside 64, nested) are those of the file's name, else of its header.
    Sky fibres and fibres without a target have no position here: they are found by their TARGETID only.

    Raises
    ------
    DataError
        If there is no FIBERMAP, or it cannot be read. That of a file cut short behind it can.
    """
    with FitsFile(path, whole=False) as file:
        if "FIBERMAP" not in file:
            raise DataError(
                f"{path}: no FIBERMAP, so that its spectra have no TARGETID to be found by. Embed the file "
                "itself: astroclip embed FILE"
            )
        table = file.table("FIBERMAP", [TARGETID], ("TARGET_RA", "TARGET_DEC", "OBJTYPE"))
        place = _where(file)
    target = table[TARGETID].astype(np.int64)
    row = find_first_rows(target)
    aimed = table.get("OBJTYPE", np.full(len(target), "TGT")) == "TGT"
    nowhere = np.full(len(target), np.nan)
    position = (
        np.where(aimed, table.get(name, nowhere), np.nan)[row] for name in ("TARGET_RA", "TARGET_DEC")
    )
    columns = zip(("SURVEY", "PROGRAM", "HEALPIX"), place, strict=True)
    ids = {TARGETID: target[row]} | {name: np.full(len(row), value) for name, value in columns}
    return CoaddTargets(row, Who(ids, *position))


def find_first_rows(targetid: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first row of each target, ascending; rows without a TARGETID stand for themselves."""
    _, first, which = np.unique(targetid, return_index=True, return_inverse=True)
    return np.flatnonzero((first[which] == np.arange(len(targetid))) | (targetid < 0))


def _where(file: FitsFile) -> tuple[str, str, int]:
    """Return survey, program and HEALPix pixel (nside 64, nested) of a file: from its name, else header."""
    if name := _HEALPIX_NAME.match(file.path.name):
        return name[1], name[2], int(name[3])
    header = file.header(0)
    pixel = header.get("HPXPIXEL", header.get("SPGRPVAL") if header.get("SPGRP") == "healpix" else None)
    return (
        str(header.get("SURVEY", "")).strip(),
        str(header.get("PROGRAM", "")).strip(),
        int(-1 if pixel is None else pixel),
    )
