"""Multimodal Universe (arXiv:2412.02527): spectra and Legacy Survey DR10 images in HDF5, by row.

What the rows hold: `multimodal_spectra`, `multimodal_images`.

Files: ``<survey>/<subset>/healpix=<p>/001-of-001.hdf5``, nside 16 nested; one row an object in each dataset.
Shapes: N rows of all files.
"""

from pathlib import Path

import numpy as np

from astroclip.data.fitsfile import check_flux_unit, check_image_unit
from astroclip.data.hdf5file import Hdf5File
from astroclip.data.lookup import OBJECT_ID
from astroclip.data.pixel_rows import IndexedFiles, P
from astroclip.data.pixels import BY_POSITION, BY_TARGETID
from astroclip.errors import DataError
from astroclip.schema import TARGETID
from astroclip.tables.identity import Who

PATTERNS = ("*.hdf5", "*.h5")
SPECTRUM, IMAGE = "spectrum_flux", "image_array"
BY_OBJECT_ID = "OBJECT_ID"


class MultimodalFiles(IndexedFiles[P]):
    """Rows of Multimodal Universe files, found by TARGETID, else by OBJECT_ID, else by position.

    OBJECT_ID is a TARGETID in the spectra of DESI, and BRICKNAME-OBJID in the images of Legacy Survey DR10.
    `problems` are the files without the pixels, or that cannot be read.

    Raises
    ------
    DataError
        If no file can be read; it names the first one's fault.
    """

    def __init__(self, name: str, files: list[Path], pixels: str) -> None:
        readable, parts, problems = [], [], []
        for path in files:
            try:
                parts.append(_read_who(path, pixels))
                readable.append(path)
            except DataError as error:
                problems.append((path, str(error)))
        if files and not readable:
            raise DataError(problems[0][1])
        super().__init__(name, (BY_TARGETID, BY_OBJECT_ID, BY_POSITION), readable, parts)
        self.problems = problems


def _read_who(path: Path, pixels: str) -> Who:
    """Read identifiers and positions of a file that holds `pixels`, all of one length."""
    with Hdf5File(path) as h5:
        n = h5.shape(pixels)[0]
        check = check_image_unit if pixels == IMAGE else check_flux_unit
        check(f"{path}: dataset '{pixels}'", h5.unit(pixels))
        ids, ra, dec = (h5.read(name) for name in ("object_id", "ra", "dec"))
    for name, column in (("object_id", ids), ("ra", ra), ("dec", dec)):
        if column.shape != (n,):
            raise DataError(f"{path}: dataset '{name}' has shape {column.shape}, '{pixels}' {n} rows")
    texts = np.char.decode(ids.astype("S"), "utf-8")
    targets = np.char.isdecimal(texts) & (np.char.str_len(texts) < 19)
    target = np.where(targets, texts, "-1").astype(np.int64)
    return Who({OBJECT_ID: texts, TARGETID: target}, ra.astype(float), dec.astype(float))
