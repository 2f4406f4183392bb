"""Multimodal Universe (arXiv:2412.02527): DESI spectra and Legacy Survey DR10 images in HDF5.

Files: ``<survey>/<subset>/healpix=<p>/001-of-001.hdf5``, nside 16 nested; one row an object in each dataset.
Shapes: N rows of all files, m rows asked for, S = 7781 wavelengths.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.fitsfile import check_flux_unit, check_image_unit
from astroclip.data.grid import ArmPixels, Spectra, combine_arms, place_on_grid, stack_spectra
from astroclip.data.hdf5file import Hdf5File, find_hdf5
from astroclip.data.lookup import OBJECT_ID, RowLookup
from astroclip.data.pixels import BLOCK_ROWS, BY_POSITION, BY_TARGETID, Match, Modality
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, TARGETID, desi_wave
from astroclip.tables.identity import Who

PATTERNS = ("*.hdf5", "*.h5")
SPECTRUM, IMAGE = "spectrum_flux", "image_array"
BY_OBJECT_ID = "OBJECT_ID"


class MultimodalFiles:
    """Rows of Multimodal Universe files, numbered through, with an index of identity and position in memory.

    Attributes
    ----------
    name, found_by, problems
        See `PixelSet`; `problems` are the files without the pixels, or that cannot be read.
    files
        The readable files.
    first
        Number of the first row of each file, and of all rows.
    object_id
        (N,) text: of DESI a TARGETID, of Legacy Survey DR10 BRICKNAME-OBJID.
    ra, dec
        (N,) ICRS degrees.
    """

    found_by: tuple[str, ...] = (BY_TARGETID, BY_OBJECT_ID, BY_POSITION)

    def __init__(self, name: str, files: list[Path], pixels: str) -> None:
        self.name = name
        self.files: list[Path] = []
        self.problems: list[tuple[Path, str]] = []
        ids, ra, dec = [np.zeros(0, "S1")], [np.zeros(0)], [np.zeros(0)]
        for path in files:
            try:
                columns = _read_index(path, pixels)
            except DataError as error:
                self.problems.append((path, str(error)))
                continue
            self.files.append(path)
            for parts, column in zip((ids, ra, dec), columns, strict=True):
                parts.append(column)
        if files and not self.files:
            raise DataError(self.problems[0][1])
        self.first = np.cumsum([len(part) for part in ids])
        self.object_id = np.char.decode(np.concatenate(ids), "utf-8")
        self.ra, self.dec = np.concatenate(ra), np.concatenate(dec)
        targets = np.char.isdecimal(self.object_id) & (np.char.str_len(self.object_id) < 19)
        self._ids = {
            OBJECT_ID: self.object_id,
            TARGETID: np.where(targets, self.object_id, "-1").astype(np.int64),
        }
        self._lookup = RowLookup(self._ids, self.ra, self.dec)

    def __len__(self) -> int:
        return len(self.object_id)

    def close(self) -> None:
        """Do nothing: no file stays open between calls."""

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Who]:
        """Yield identity and position of all rows in order, at most `rows` at a time."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            ids = {name: values[part] for name, values in self._ids.items()}
            yield Who(ids, self.ra[part], self.dec[part])

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:
        """Find a row for each object: by identifier, else the nearest within the radius."""
        return self._lookup.match(who, radius_arcsec)

    def locate(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (file, row in it) of rows by their number."""
        number = np.asarray(rows, np.int64)
        file = np.searchsorted(self.first, number, side="right") - 1
        return file, number - self.first[file]

    def by_file(self, rows: NDArray[np.int64]) -> list[tuple[Path, NDArray[np.int64], NDArray[np.int64]]]:
        """Return for each file of ascending rows: its path, the rows in it, and their places in `rows`."""
        if rows.size and not 0 <= rows[0] <= rows[-1] < len(self):
            raise IndexError(f"row {rows[0]} to {rows[-1]} of {len(self)}")
        file, inside = self.locate(rows)
        places = [np.flatnonzero(file == one) for one in np.unique(file)]
        return [(self.files[file[at[0]]], inside[at], at) for at in places]


class MultimodalSpectra(MultimodalFiles):
    """DESI spectra of Multimodal Universe files (use `open_multimodal_spectra`).

    Not for several threads.
    """

    modality: Modality = "spectrum"

    def read_spectra(self, rows: ArrayLike) -> Spectra:
        """Read spectra by row number, in any order, repeated ones too.

        A pixel where `spectrum_mask` is not 0 is bad; the rules are those of `grid.combine_arms`.

        Raises
        ------
        DataError
            If a file is damaged, or its wavelengths are not the combined DESI grid.
        """
        unique, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        parts = []
        for path, inside, _ in self.by_file(unique):  # rows ascend through the files
            with Hdf5File(path) as h5:
                parts.append(combine_arms(len(inside), [_read_arm(h5, inside)]))
        return stack_spectra(parts).take(inverse)

    def read_redshifts(self, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return redshift (NaN where a file has none) and whether it is good, of rows by number.

        Trap: in these files ZWARN is a truth value that is True where the redshift is *good*. Where it is a
        number it is Redrock's bit mask, good where 0; without ZWARN nothing is good.
        """
        unique, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        redshift, good = np.full(len(unique), np.nan), np.zeros(len(unique), bool)
        for path, inside, at in self.by_file(unique):
            with Hdf5File(path) as h5:
                if "Z" in h5:
                    redshift[at] = h5.read_rows("Z", inside)
                if "ZWARN" in h5:
                    zwarn = h5.read_rows("ZWARN", inside)
                    good[at] = zwarn if zwarn.dtype.kind == "b" else zwarn == 0
        return redshift[inverse], good[inverse] & np.isfinite(redshift[inverse])


def open_multimodal_spectra(path: str | Path) -> MultimodalSpectra:
    """Index the spectra of a file, or of all ``*.hdf5`` under a folder, by identity and position.

    Raises
    ------
    DataError
        If the path does not exist, or no file under it holds spectra; it names the first one's fault.
    """
    return MultimodalSpectra(f"spectra of {Path(path).name}", find_hdf5(path, PATTERNS), SPECTRUM)


def _read_index(path: Path, pixels: str) -> tuple[NDArray[np.bytes_], NDArray, NDArray]:
    """Return identifiers as bytes and positions of a file that holds `pixels`, all of one length."""
    with Hdf5File(path) as h5:
        n = h5.shape(pixels)[0]
        check = check_image_unit if pixels == IMAGE else check_flux_unit
        check(f"{path}: dataset '{pixels}'", h5.unit(pixels))
        ids, ra, dec = (h5.read(name) for name in ("object_id", "ra", "dec"))
    for name, column in (("object_id", ids), ("ra", ra), ("dec", dec)):
        if column.shape != (n,):
            raise DataError(f"{path}: dataset '{name}' has shape {column.shape}, '{pixels}' {n} rows")
    return ids.astype("S"), ra.astype(float), dec.astype(float)


def _read_arm(h5: Hdf5File, rows: NDArray[np.int64]) -> ArmPixels:
    """Read flux, ivar and mask of ascending rows; without `spectrum_lambda` the grid is DESI's."""
    flux, ivar = (h5.read_rows(f"spectrum_{name}", rows).astype(np.float32) for name in ("flux", "ivar"))
    wave = desi_wave()
    if "spectrum_lambda" in h5:
        own = len(h5.shape("spectrum_lambda")) == 2
        wave = h5.read_rows("spectrum_lambda", rows[:1])[0] if own else h5.read("spectrum_lambda")
    if flux.shape != ivar.shape or flux.shape[1:] != wave.shape:
        raise DataError(
            f"{h5.path}: spectrum_flux of {flux.shape[1:]} pixels, spectrum_ivar {ivar.shape[1:]}, "
            f"wavelengths {wave.shape}. Expected the same of all, {N_WAVE} for DESI"
        )
    kept, place = place_on_grid(wave.astype(float), f"{h5.path}: dataset 'spectrum_lambda'")
    mask = np.zeros(flux.shape, np.int32)
    if "spectrum_mask" in h5:
        mask = h5.read_rows("spectrum_mask", rows).astype(np.int32)
    return ArmPixels(place, flux[:, kept], ivar[:, kept], mask[:, kept])
