"""Multimodal Universe (arXiv:2412.02527): spectra and Legacy Survey DR10 images in HDF5, by row.

What the rows hold: `multimodal_spectra`, `multimodal_images`.

Files: ``<survey>/<subset>/healpix=<p>/001-of-001.hdf5``, nside 16 nested; one row an object in each dataset.
Shapes: N rows of all files.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.fitsfile import check_flux_unit, check_image_unit
from astroclip.data.hdf5file import Hdf5File
from astroclip.data.lookup import OBJECT_ID, RowLookup
from astroclip.data.pixels import BLOCK_ROWS, BY_POSITION, BY_TARGETID, Match
from astroclip.errors import DataError
from astroclip.schema import TARGETID
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
