"""Legacy Survey cut-outs of Stein et al. 2021 (arXiv:2110.13151): 76 million in HDF5 files of a million each.

Files: ``{north,south}/images_npix152_000000000_001000000.h5``. One row a galaxy in each dataset: `images`
(N, 3, 152, 152) g, r, z nanomaggies at 0.262 arcsec/px, `ra`, `dec`, `release`, `brickid`, `objid` and more.
Shapes: N rows of all files, F files, m stamps asked for.

Trap: the dataset `inds` skips and repeats numbers, so ``inds % 1000000`` is another galaxy's row. Stamps are
addressed by file and row position here, and `inds` is never read.
Trap: some datasets are longer or shorter than `images`: their rows cannot be told, so they are left out.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.fitsfile import check_image_unit
from astroclip.data.hdf5file import Hdf5File, find_hdf5
from astroclip.data.legacysurvey import ImageMatch
from astroclip.data.rowindex import RowIndex
from astroclip.data.targetid import encode_targetid
from astroclip.errors import DataError
from astroclip.schema import BANDS, CUTOUT_SIZE, PIXSCALE

PATTERN = "images_npix*.h5"
IMAGES = "images"
POSITION = ("ra", "dec")  # ICRS degrees
IDENTITY = ("release", "brickid", "objid")
BLOCK_ROWS = 1_000_000
_BRICK_ID = re.compile(r"(\d+)-(\d+)-(\d+)")


class SteinBlock(NamedTuple):
    """Who is in consecutive rows: `first` is the number of the first, the columns are (k,) each.

    `ra`, `dec` are ICRS degrees, NaN where a file does not tell; `release`, `brickid`, `objid` are -1 there.
    """

    first: int
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    release: NDArray[np.int64]
    brickid: NDArray[np.int64]
    objid: NDArray[np.int64]


class SteinImages:
    """Cut-outs in files of the Stein et al. layout, numbered through all files (use `open_stein`).

    Opening reads the shapes of each file's datasets only. `blocks` streams identities and positions, 48 bytes
    a row of one block; `match` loads an index of all rows, 32 bytes each (2.4 GB for all 76 million, see
    `rowindex`). Not for several threads.

    Attributes
    ----------
    files
        The readable files, sorted, F of them.
    first
        (F + 1,) number of the first image of each file, and of all images.
    shape
        (H, W) of the images; the same in all files.
    pixscale
        (N,) 0.262 arcsec/px.
    problems
        Datasets that are missing or of the wrong length, by file: they are read as missing values.
    unreadable
        The files that cannot be read, and why.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files: list[Path] = []
        self.problems: list[tuple[Path, str]] = []
        self.unreadable: list[tuple[Path, str]] = []
        self.shape = (0, 0)
        self._columns: list[set[str]] = []
        counts = [self._probe(path) for path in files]
        self.first = np.cumsum([0, *(n for n in counts if n is not None)])
        self.pixscale = np.broadcast_to(PIXSCALE, len(self))
        self._open_file: Hdf5File | None = None

    def __len__(self) -> int:
        return int(self.first[-1])

    def close(self) -> None:
        """Close the file that was read last."""
        if self._open_file:
            self._open_file.close()
            self._open_file = None

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[SteinBlock]:
        """Yield identities and positions of all images in order, at most `rows` at a time.

        Raises
        ------
        DataError
            If a dataset is damaged.
        """
        for file in range(len(self.files)):
            n = int(self.first[file + 1] - self.first[file])
            for start in range(0, n, rows):
                yield self._block(file, start, min(start + rows, n))

    def locate(self, images: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (file, row in it) of images by their number."""
        number = np.asarray(images, np.int64)
        file = np.searchsorted(self.first, number, side="right") - 1
        return file, number - self.first[file]

    def match(
        self, ids: ArrayLike | None, ra: ArrayLike, dec: ArrayLike, radius_arcsec: float = 1.0
    ) -> ImageMatch:
        """Find an image for each row: by identifier, else the nearest within the radius.

        Some galaxies are in the files twice: the first by file and row is taken, and the row is ambiguous.

        Parameters
        ----------
        ids
            (n,) TARGETIDs or texts RELEASE-BRICKID-OBJID; (k, n) for k kinds of identifier, tried in order;
            None where the catalogue has none.
        ra, dec
            (n,) ICRS degrees; NaN matches by identifier only.
        radius_arcsec
            Largest distance between a row and the galaxy of a cut-out.
        """
        kinds = [] if ids is None else list(np.atleast_2d(np.asarray(ids).astype(str)))
        return self._index.match([parse_ids(kind) for kind in kinds], ra, dec, radius_arcsec)

    def read(
        self,
        i: int,
        ra: float = np.nan,  # noqa: ARG002 - called like ImageFolder.read
        dec: float = np.nan,  # noqa: ARG002
        size: int = CUTOUT_SIZE,
    ) -> NDArray[np.float32]:
        """Read one stamp, see `read_images`; its centre is the galaxy, whatever `ra` and `dec` are."""
        return self.read_images([i], size)[0]

    def read_images(self, images: ArrayLike, size: int = CUTOUT_SIZE) -> NDArray[np.float32]:
        """Read the stamps of images by their number, in any order, repeated ones too.

        Each file is opened once and its rows are read in unbroken runs: ask for many at a time.

        Returns
        -------
        (m, 3, size, size) float32 g, r, z nanomaggies: the centre of the stored cut-out, NaN outside of it,
        and where all three bands are exactly 0, which is how sky that was not observed is stored.

        Raises
        ------
        DataError
            If a file is damaged.
        """
        unique, inverse = np.unique(np.asarray(images, np.int64), return_inverse=True)
        if unique.size and not 0 <= unique[0] <= unique[-1] < len(self):
            raise IndexError(f"image {unique[0]} to {unique[-1]} of {len(self)}")
        files, rows = self.locate(unique)
        parts = [
            centre_stamps(self._open(int(file)).read_rows(IMAGES, rows[files == file]), size)
            for file in np.unique(files)
        ] or [np.zeros((0, len(BANDS), size, size), np.float32)]
        stamps = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return stamps if np.array_equal(inverse, np.arange(len(unique))) else stamps[inverse]

    def show_sky(self, images: ArrayLike) -> NDArray[np.bool_]:
        """Say which images, by their number, have a pixel that was observed: finite, not 0 in all bands.

        Reads the middle of each, and all of it only where nothing is there.

        Raises
        ------
        DataError
            If a file is damaged.
        """
        unique, inverse = np.unique(np.asarray(images, np.int64), return_inverse=True)
        files, rows = self.locate(unique)
        middle = (slice(0, 1), *(slice((n - 1) // 2, n // 2 + 1) for n in self.shape))
        seen = np.zeros(len(unique), bool)
        for file in np.unique(files):
            mine = files == file
            part = self._open(int(file)).read_rows(IMAGES, rows[mine], *middle)
            seen[mine] = (np.isfinite(part) & (part != 0)).any(axis=(1, 2, 3))
        for blank in np.flatnonzero(~seen):
            seen[blank] = np.isfinite(self.read_images([unique[blank]], min(self.shape))).any()
        return seen[inverse]

    @cached_property
    def _index(self) -> RowIndex:
        ra, dec = np.full((2, len(self)), np.nan)
        keys = np.full(len(self), -1, np.int64)
        for block in self.blocks():
            mine = slice(block.first, block.first + len(block.ra))
            ra[mine], dec[mine] = block.ra, block.dec
            keys[mine] = encode_targetid(block.release, block.brickid, block.objid)
        return RowIndex(keys, ra, dec, no_key=-1)

    def _block(self, file: int, start: int, stop: int) -> SteinBlock:
        with Hdf5File(self.files[file]) as h5:
            ra, dec = (
                h5.read(name, start, stop).astype(np.float64)
                if name in self._columns[file]
                else np.full(stop - start, np.nan)
                for name in POSITION
            )
            release, brickid, objid = (
                h5.read(name, start, stop).astype(np.int64)
                if name in self._columns[file]
                else np.full(stop - start, -1)
                for name in IDENTITY
            )
        return SteinBlock(int(self.first[file]) + start, ra, dec, release, brickid, objid)

    def _probe(self, path: Path) -> int | None:
        """Take up a file with its usable columns and return its number of rows; list it if it is unusable."""
        try:
            with Hdf5File(path) as h5:
                n, *shape = _check_images(h5)
                check_image_unit(f"{h5.path}: dataset '{IMAGES}'", h5.unit(IMAGES))
                wrong = {name: h5.shape(name) for name in h5.names if h5.shape(name)[:1] != (n,)}
                missing = [name for name in (*POSITION, *IDENTITY) if name not in h5]
        except DataError as error:
            self.unreadable.append((path, str(error)))
            return None
        if self.files and tuple(shape) != self.shape:
            reason = f"images of {shape} pixels, those of {self.files[0]} have {list(self.shape)}"
            self.unreadable.append((path, f"{path}: {reason}"))
            return None
        for name, found in wrong.items():
            self.problems.append((path, f"dataset '{name}' has shape {found}, but there are {n} images"))
        self.problems += [(path, f"no dataset '{name}'") for name in missing]
        ignored = {name.lower() for name in wrong} | set(missing)
        self._columns.append({name for name in (*POSITION, *IDENTITY) if name not in ignored})
        self.shape = (int(shape[0]), int(shape[1]))
        self.files.append(path)
        return n

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
    images = SteinImages(find_hdf5(path, [PATTERN]))
    if not images.files:
        raise DataError(images.unreadable[0][1])
    return images


def is_stein(path: str | Path) -> bool:
    """Tell whether `path` is a file of the Stein et al. layout, or a folder with a file called like one."""
    root = Path(path)
    if root.is_dir():
        return next(root.rglob(PATTERN), None) is not None
    try:
        with Hdf5File(root) as h5:
            return bool(_check_images(h5)) and {*POSITION} <= {name.lower() for name in h5.names}
    except DataError:
        return False


def centre_stamps(images: NDArray, size: int) -> NDArray[np.float32]:
    """Return the centre of images (m, 3, H, W): (m, 3, size, size), NaN outside and where all bands are 0.

    The centre of an even image is the corner between its four middle pixels. Where the parities of `size` and
    the image differ, the stamp is half a pixel off, to the lower left.
    """
    height, width = images.shape[2:]
    y, x = (height - size) // 2, (width - size) // 2
    a, b, c, d = max(y, 0), min(y + size, height), max(x, 0), min(x + size, width)
    part = images[:, :, a:b, c:d].astype(np.float32, copy=False)
    blank = part[:, 0] == 0
    if blank.any():
        blank &= (part[:, 1:] == 0).all(axis=1)
        part = np.where(blank[:, None], np.float32(np.nan), part)
    if part.shape[2:] == (size, size):
        return part
    stamps = np.full((*images.shape[:2], size, size), np.nan, np.float32)
    stamps[:, :, a - y : b - y, c - x : d - x] = part
    return stamps


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


def parse_ids(ids: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return identifiers (n,) as TARGETIDs: numbers, or RELEASE-BRICKID-OBJID; -1 for anything else."""
    bricks = [_BRICK_ID.fullmatch(text.strip()) for text in ids]
    parts = np.array([tuple(map(int, brick.groups())) if brick else (-1, -1, -1) for brick in bricks], int)
    plain = [int(text) if text.strip().isdecimal() and len(text) < 19 else -1 for text in ids]
    return np.where(
        [brick is not None for brick in bricks],
        encode_targetid(*parts.reshape(-1, 3).T),
        np.array(plain, np.int64),
    )
