"""DESI: coadded spectra and Redrock redshifts, as the releases publish them.

Data model: https://desidatamodel.readthedocs.io (coadd-SURVEY-PROGRAM-PIXNUM.fits, redrock-*.fits).
Shapes: n rows of a file, m rows asked for, S = 7781 wavelengths of the combined grid, W of one arm.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.fitsfile import FitsFile, check_flux_unit, check_wave_unit
from astroclip.data.grid import ArmPixels, Spectra, combine_arms, place_on_grid
from astroclip.data.lookup import expand_ranges
from astroclip.errors import DataError
from astroclip.schema import TARGETID

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
        FIBERMAP columns by name, (n,) each: TARGETID, and of `FIBERMAP_COLUMNS` those the file has.
    """

    def __init__(self, file: FitsFile) -> None:
        self.path = file.path
        self._file = file
        self.fibermap = file.table("FIBERMAP", [TARGETID], FIBERMAP_COLUMNS)
        names = (COMBINED_ARM,) if f"{COMBINED_ARM}_FLUX" in file else ARMS
        self._arms = [self._find_arm(arm) for arm in names if f"{arm}_FLUX" in file]
        if not self._arms:
            raise DataError(f"{self.path}: none of the HDUs B_FLUX, R_FLUX, Z_FLUX, BRZ_FLUX. Not a coadd?")

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


def is_coadd(path: str | Path) -> bool:
    """Tell whether `path` is a FITS file with a FIBERMAP and the flux of a DESI arm; reads headers only."""
    try:
        with FitsFile(path, whole=False) as file:
            return "FIBERMAP" in file and any(f"{arm}_FLUX" in file for arm in (*ARMS, COMBINED_ARM))
    except DataError:
        return False


def find_coadds(folder_or_file: str | Path) -> list[Path]:
    """Return the coadd-*.fits and coadd-*.fits.gz under a folder, sorted; a file is returned as it is.

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
    return sorted(p for pattern in ("coadd-*.fits", "coadd-*.fits.gz") for p in root.rglob(pattern))


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


class CoaddMatch(NamedTuple):
    """Where rows of a catalogue have their spectra, (m,) each.

    `file` indexes `CoaddIndex.files` (-1: there is none) and `row` the rows of that file; `ambiguous` says
    that several spectra fit, the first by file name and row was taken.
    """

    file: NDArray[np.int64]
    row: NDArray[np.int64]
    ambiguous: NDArray[np.bool_]


class CoaddIndex(NamedTuple):
    """Which file and row holds which target: sorted arrays, for releases of 28 million rows.

    Attributes
    ----------
    files
        The readable files, F of them.
    survey, program, healpix
        (F,) from the file's name or header; "" and -1 where neither tells (tile coadds).
    targetid, file, row
        (N,) sorted by TARGETID, then in the files' order. Repeated targets stay.
    unreadable
        Files whose targets are not known, and why.
    """

    files: list[Path]
    survey: NDArray[np.str_]
    program: NDArray[np.str_]
    healpix: NDArray[np.int64]
    targetid: NDArray[np.int64]
    file: NDArray[np.int32]
    row: NDArray[np.int32]
    unreadable: list[tuple[Path, str]]

    def lookup(
        self,
        targetid: ArrayLike,
        survey: ArrayLike | None = None,
        program: ArrayLike | None = None,
        healpix: ArrayLike | None = None,
    ) -> CoaddMatch:
        """Find the spectra of targets.

        TARGETID repeats between surveys and programs: give those as well where the catalogue has them. A
        blank string or negative pixel, in the catalogue or for a file, rules nothing out.

        Parameters
        ----------
        targetid
            (m,) integers.
        survey, program, healpix
            One value, or (m,).
        """
        ids = np.asarray(targetid, np.int64)
        unique, inverse = np.unique(ids, return_inverse=True)  # ascending keys: 10 times faster to search
        low = np.searchsorted(self.targetid, unique, side="left")
        count = np.searchsorted(self.targetid, unique, side="right") - low
        query, entry = expand_ranges(low[inverse], count[inverse])
        file = self.file[entry]
        agrees = np.ones(len(query), bool)
        for wanted, have in ((survey, self.survey), (program, self.program)):
            if wanted is not None:
                text = np.char.strip(np.broadcast_to(np.asarray(wanted).astype(str), ids.shape))[query]
                agrees &= (have[file] == text) | (have[file] == "") | (text == "")
        if healpix is not None:
            pixel = np.broadcast_to(np.asarray(healpix, np.int64), ids.shape)[query]
            agrees &= (self.healpix[file] == pixel) | (self.healpix[file] < 0) | (pixel < 0)
        query, entry = query[agrees], entry[agrees]
        found, first = np.unique(query, return_index=True)
        match = CoaddMatch(
            np.full(ids.shape, -1), np.full(ids.shape, -1), np.bincount(query, minlength=len(ids)) > 1
        )
        match.file[found], match.row[found] = self.file[entry[first]], self.row[entry[first]]
        return match


def index_coadds(paths: Iterable[str | Path], known: CoaddIndex | None = None) -> CoaddIndex:
    """Index the targets of coadd files by reading one FIBERMAP column of each.

    A file that cannot be read is listed in `CoaddIndex.unreadable`, not fatal. A file cut short after its
    FIBERMAP is indexed; opening it raises. With `known`, the files are added to those of that index, which
    are not read again; those that it could not read are.
    """
    files, tags, ids, unreadable = [], [], [], []
    read = set(known.files) if known else set()
    for path in (path for path in map(Path, paths) if path not in read):
        try:
            with FitsFile(path, whole=False) as file:
                targets = file.table("FIBERMAP", [TARGETID])[TARGETID].astype(np.int64)
                tag = _where(file)
        except DataError as error:
            unreadable.append((path, str(error)))
            continue
        files.append(path)
        tags.append(tag)
        ids.append(targets)
    counts = [len(i) for i in ids]
    targetid = np.concatenate([*ids, np.zeros(0, np.int64)])
    order = np.argsort(targetid, kind="stable")
    row = np.concatenate([np.arange(n, dtype=np.int32) for n in (*counts, 0)])
    file_of = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    new = CoaddIndex(files, *_columns(tags), targetid[order], file_of[order], row[order], unreadable)
    return _join(known, new) if known else new


def _join(first: CoaddIndex, second: CoaddIndex) -> CoaddIndex:
    """Return the index of the files of both, the second of which is the newer."""
    second = second._replace(file=second.file + np.int32(len(first.files)))

    def joined(name: str) -> NDArray:
        return np.concatenate([getattr(first, name), getattr(second, name)])

    targetid, file, row = joined("targetid"), joined("file"), joined("row")
    order = np.argsort(targetid, kind="stable")
    return CoaddIndex(
        first.files + second.files, joined("survey"), joined("program"), joined("healpix"),
        targetid[order], file[order], row[order], second.unreadable,
    )  # fmt: skip


def _columns(tags: Sequence[tuple[str, str, int]]) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """Return (survey, program, healpix) of files as arrays."""
    survey, program, healpix = zip(*tags, strict=True) if tags else ((), (), ())
    return np.array(survey, str), np.array(program, str), np.array(healpix, np.int64)


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
