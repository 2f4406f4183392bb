"""Legacy Survey cut-outs of Stein et al. 2021 (arXiv:2110.13151): 76 million in HDF5 files of a million each.

Files: ``{north,south}/images_npix152_000000000_001000000.h5``. One row a galaxy in each dataset: `images`
(N, 3, 152, 152) g, r, z nanomaggies at 0.262 arcsec/px, `ra`, `dec`, `release`, `brickid`, `objid` and more.
Shapes: N rows of all files, F files, m stamps asked for.

Trap: the dataset `inds` skips and repeats numbers, so ``inds % 1000000`` is another galaxy's row. Stamps are
addressed by file and row position here, and `inds` is never read.
Trap: some datasets are longer or shorter than `images`: their rows cannot be told, so they are left out.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.fitsfile import check_image_unit
from astroclip.data.hdf5file import Hdf5File, find_hdf5
from astroclip.data.lookup import RowLookup
from astroclip.data.pixels import BLOCK_ROWS, BY_BRICK, BY_POSITION, BY_TARGETID, Images, Match, Modality
from astroclip.data.stamps import centre_stamps
from astroclip.data.targetid import encode_targetid
from astroclip.errors import DataError
from astroclip.schema import BANDS, CUTOUT_SIZE, PIXSCALE, TARGETID
from astroclip.tables.identity import Who

PATTERN = "images_npix*.h5"
IMAGES = "images"
POSITION = ("ra", "dec")  # ICRS degrees
IDENTITY = ("release", "brickid", "objid")


class SteinImages:
    """Cut-outs in files of the Stein et al. layout, numbered through all files (use `open_stein`).

    Opening reads the shapes of each file's datasets only. `blocks` streams identities and positions, 48 bytes
    a row of one block; `match` loads an index of all rows (2.1 GB for all 76 million, see `RowLookup`). Not
    for several threads.

    Attributes
    ----------
    name, modality, found_by
        See `PixelSet`.
    problems
        Files that cannot be read; datasets that are missing or of the wrong length, which are read as missing
        values.
    files
        The readable files, sorted, F of them.
    first
        (F + 1,) number of the first image of each file, and of all images.
    shape
        (H, W) of the images; the same in all files.
    unreadable
        The files that cannot be read, and why.
    """

    modality: Modality = "image"
    found_by: tuple[str, ...] = (BY_TARGETID, BY_BRICK, BY_POSITION)

    def __init__(self, name: str, files: list[Path]) -> None:
        self.name = name
        self.files: list[Path] = []
        self.problems: list[tuple[Path, str]] = []
        self.unreadable: list[tuple[Path, str]] = []
        self.shape = (0, 0)
        self._columns: list[set[str]] = []
        counts = [self._probe(path) for path in files]
        self.first = np.cumsum([0, *(n for n in counts if n is not None)])
        self._open_file: Hdf5File | None = None

    def __len__(self) -> int:
        return int(self.first[-1])

    def close(self) -> None:
        """Close the file that was read last."""
        if self._open_file:
            self._open_file.close()
            self._open_file = None

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Who]:
        """Yield identity and position of all images in order, at most `rows` at a time.

        Raises
        ------
        DataError
            If a dataset is damaged.
        """
        for file in range(len(self.files)):
            n = int(self.first[file + 1] - self.first[file])
            for start in range(0, n, rows):
                yield self._block(file, start, min(start + rows, n))

    def locate(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (file, row in it) of images by their number."""
        number = np.asarray(rows, np.int64)
        file = np.searchsorted(self.first, number, side="right") - 1
        return file, number - self.first[file]

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:
        """Find an image for each row: by identifier, else the nearest within the radius.

        Some galaxies are in the files twice: the first by file and row is taken, and the row is ambiguous.
        """
        return self._index.match(who, radius_arcsec)

    def read(
        self,
        rows: ArrayLike,
        ra: ArrayLike | None = None,  # noqa: ARG002 - the centre of an image is its galaxy
        dec: ArrayLike | None = None,  # noqa: ARG002
        size: int = CUTOUT_SIZE,
    ) -> Images:
        """Read stamps of images by their number, in any order, repeated ones too.

        Each file is opened once and its rows are read in unbroken runs: ask for many at a time. A stamp is
        the centre of the stored cut-out: see `stamps.centre_stamps`.

        Raises
        ------
        DataError
            If a file is damaged.
        """
        unique, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        if unique.size and not 0 <= unique[0] <= unique[-1] < len(self):
            raise IndexError(f"image {unique[0]} to {unique[-1]} of {len(self)}")
        files, inside = self.locate(unique)
        middle = [slice((n - size) // 2, (n - size) // 2 + size) for n in self.shape if 2 * size <= n]
        middle = [slice(None), *middle] if len(middle) > 1 else []  # of small stamps little is read
        parts = [
            centre_stamps(self._open(int(file)).read_rows(IMAGES, inside[files == file], *middle), size)
            for file in np.unique(files)
        ] or [np.zeros((0, len(BANDS), size, size), np.float32)]
        stamps = parts[0] if len(parts) == 1 else np.concatenate(parts)
        stamps = stamps if np.array_equal(inverse, np.arange(len(unique))) else stamps[inverse]
        return Images(stamps, np.full(len(stamps), PIXSCALE))

    @cached_property
    def _index(self) -> RowLookup:
        ra, dec = np.full((2, len(self)), np.nan)
        keys = np.full(len(self), -1, np.int64)
        start = 0
        for who in self.blocks():
            mine = slice(start, start + len(who.ra))
            ra[mine], dec[mine] = who.ra, who.dec
            keys[mine] = encode_targetid(*(who.ids[name.upper()] for name in IDENTITY))
            start = mine.stop
        return RowLookup({TARGETID: keys}, ra, dec)

    def _block(self, file: int, start: int, stop: int) -> Who:
        n = stop - start
        with Hdf5File(self.files[file]) as h5:
            known = {name: h5.read(name, start, stop) for name in self._columns[file]}
        ra, dec = (known.get(name, np.full(n, np.nan)).astype(np.float64) for name in POSITION)
        ids = {name.upper(): known.get(name, np.full(n, -1)).astype(np.int64) for name in IDENTITY}
        return Who(ids, ra, dec)

    def _probe(self, path: Path) -> int | None:
        """Take up a file with its usable columns and return its number of rows; list it if it is unusable."""
        try:
            with Hdf5File(path) as h5:
                n, *shape = _check_images(h5)
                check_image_unit(f"{h5.path}: dataset '{IMAGES}'", h5.unit(IMAGES))
                wrong = {name: h5.shape(name) for name in h5.names if h5.shape(name)[:1] != (n,)}
                missing = [name for name in (*POSITION, *IDENTITY) if name not in h5]
        except DataError as error:
            self._leave_out(path, str(error))
            return None
        if self.files and tuple(shape) != self.shape:
            reason = f"images of {shape} pixels, those of {self.files[0]} have {list(self.shape)}"
            self._leave_out(path, f"{path}: {reason}")
            return None
        for name, found in wrong.items():
            reason = f"{path}: dataset '{name}' has shape {found}, but there are {n} images"
            self.problems.append((path, reason))
        self.problems += [(path, f"{path}: no dataset '{name}'") for name in missing]
        ignored = {name.lower() for name in wrong} | set(missing)
        self._columns.append({name for name in (*POSITION, *IDENTITY) if name not in ignored})
        self.shape = (int(shape[0]), int(shape[1]))
        self.files.append(path)
        return n

    def _leave_out(self, path: Path, reason: str) -> None:
        """List a file that cannot be used."""
        self.unreadable.append((path, reason))
        self.problems.append((path, reason))

    def _open(self, file: int) -> Hdf5File:
        if self._open_file is None or self._open_file.path != self.files[file]:
            self.close()
            self._open_file = Hdf5File(self.files[file])
        return self._open_file


def open_stein(path: str | Path) -> SteinImages:
    """Open a file of the Stein et al. layout, or all ``images_npix*.h5`` under a folder.

    Files of a folder that cannot be read are listed in `SteinImages.unreadable`.

    Raises
    ------
    DataError
        If the path does not exist, or no file under it can be read; it names the first one's fault.
    """
    images = SteinImages(f"images of {Path(path).name}", find_hdf5(path, [PATTERN]))
    if not images.files:
        raise DataError(images.unreadable[0][1])
    return images


def _check_images(h5: Hdf5File) -> tuple[int, ...]:
    """Return (N, H, W) of the images, or say what is wrong with them."""
    shape, dtype = h5.shape(IMAGES), h5.dtype(IMAGES)
    if len(shape) != 4 or shape[1] != len(BANDS):
        raise DataError(
            f"{h5.path}: dataset '{IMAGES}' has shape {shape}, expected (N, 3, H, W): bands g, r, z, rows, "
            "columns. The released pairs file is another format"
        )
    if dtype.kind != "f":
        raise DataError(
            f"{h5.path}: dataset '{IMAGES}' is {dtype}, expected nanomaggies as floating-point numbers"
        )
    return shape[0], *shape[2:]
