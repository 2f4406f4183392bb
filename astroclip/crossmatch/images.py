"""The side of the images: cut-outs of Stein et al., a folder of cut-outs, or a table of positions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from astroclip.catalog import Catalog, open_catalog
from astroclip.crossmatch.columns import find_ids, find_position
from astroclip.crossmatch.match import Objects
from astroclip.crossmatch.zones import IntArray
from astroclip.errors import DataError
from astroclip.schema import BANDS, CUTOUT_SIZE, IMAGE, PIXSCALE, Reason
from astroclip.surveys.fitsfile import check_image_unit
from astroclip.surveys.legacysurvey import ImageFolder, decode_targetid, open_images
from astroclip.surveys.stein import SteinImages, centre_stamps, is_stein, open_stein

BLOCK_ROWS = 1_000_000
CHECKED_ROWS = 4096  # images looked at in one go
SCALE_TOLERANCE = 0.01  # relative difference in arcsec/px below which a scale is the survey's


class ImageSide(Protocol):
    """Images, whatever holds them, in rows numbered through all files; iterating yields who is where.

    Attributes
    ----------
    files
        All files.
    problems
        What is wrong with files, a sentence each; grows as they are read.
    has_pixels
        Whether there are images at all, or a table only.
    """

    files: list[Path]
    problems: list[str]
    has_pixels: bool

    def __iter__(self) -> Iterator[Objects]:
        """Yield ids and positions in blocks, from the first row on, each time."""
        ...

    def locate(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Return the number of the file, and the row in it."""
        ...

    def check(self, rows: IntArray) -> NDArray[np.int8]:
        """Return the `Reason` against each image, 0 for those that `read` can read."""
        ...

    def read(self, rows: IntArray) -> NDArray[np.float32]:
        """Return images (n, 3, 152, 152), g, r, z nanomaggies, NaN where nothing was observed."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class SteinSide:
    """Cut-outs of the Stein et al. layout."""

    has_pixels = True

    def __init__(self, images: SteinImages) -> None:
        self._images = images
        self.files = images.files
        self.problems = [reason for _, reason in images.unreadable]
        self.problems += [f"{path}: {reason}" for path, reason in images.problems]
        self.locate, self.close = images.locate, images.close
        self.read = images.read_images

    def __iter__(self) -> Iterator[Objects]:
        for block in self._images.blocks(BLOCK_ROWS):
            yield Objects(block.ra, block.dec, (block.release, block.brickid, block.objid))

    def check(self, rows: IntArray) -> NDArray[np.int8]:
        """Look at the middle of each image, file by file."""
        reason = np.zeros(len(rows), np.int8)
        order = np.argsort(rows, kind="stable")
        for start in range(0, len(rows), CHECKED_ROWS):
            part = order[start : start + CHECKED_ROWS]
            try:
                reason[part] = np.where(self._images.show_sky(rows[part]), 0, Reason.NO_IMAGE_PIXEL)
            except DataError:  # find out which
                reason[part] = [self._check_one(row) for row in rows[part]]
        return reason

    def _check_one(self, row: int) -> int:
        try:
            return 0 if self._images.show_sky([row]).all() else Reason.NO_IMAGE_PIXEL
        except DataError as error:
            _note(self.problems, error)
            return Reason.UNREADABLE_IMAGE


class FolderSide:
    """A folder of cut-outs: named after TARGETID or RELEASE-BRICKID-OBJID, or with a WCS."""

    has_pixels = True

    def __init__(self, images: ImageFolder) -> None:
        self._images = images
        self.files, self.close = images.files, images.close
        self.problems = [reason for _, reason in images.unreadable]
        if len(images.unreadable) == len(images):
            raise DataError(self.problems[0])
        self._ids = _ids_of_names(images.ids)

    def __iter__(self) -> Iterator[Objects]:
        yield Objects(self._images.ra, self._images.dec, self._ids)

    def locate(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Each file has one image."""
        return rows, np.zeros_like(rows)

    def check(self, rows: IntArray) -> NDArray[np.int8]:
        """Look at the middle of each image, at all of it if nothing is there."""
        scale = np.nan_to_num(self._images.pixscale[rows], nan=PIXSCALE)
        reason = np.where(np.abs(scale / PIXSCALE - 1) > SCALE_TOLERANCE, Reason.WRONG_PIXSCALE, 0)
        near = np.flatnonzero(reason == 0)
        reason[near] = [self._check_one(row) for row in rows[near]]
        return reason.astype(np.int8)

    def read(self, rows: IntArray) -> NDArray[np.float32]:
        """Read the centre of each image: the file is the galaxy's own."""
        return np.stack([self._stamp(row, CUTOUT_SIZE) for row in rows]) if len(rows) else _none()

    def _check_one(self, row: int) -> int:
        try:
            seen = any(np.isfinite(self._stamp(row, size)).any() for size in (2, CUTOUT_SIZE))
        except DataError as error:
            _note(self.problems, error)
            return Reason.UNREADABLE_IMAGE
        return 0 if seen else Reason.NO_IMAGE_PIXEL

    def _stamp(self, row: int, size: int) -> NDArray[np.float32]:
        return self._images.read(int(row), np.nan, np.nan, size)


class CatalogSide:
    """A table of positions, with images if it has a vector column IMAGE (3, H, W)."""

    def __init__(self, catalog: Catalog, ra: str | None, dec: str | None, epoch: float) -> None:
        self._catalog, self._epoch = catalog, epoch
        self._position, self._ids = find_position(catalog, ra, dec), find_ids(catalog)
        self.files: list[Path] = [catalog.source]
        self.problems: list[str] = []
        self._column = catalog.find(IMAGE)
        shape = catalog.columns[self._column].shape if self._column else ()
        self.has_pixels = len(shape) == 3 and shape[0] == len(BANDS)
        if self._column and self.has_pixels:
            check_image_unit(f"{catalog.name}: column '{self._column}'", catalog.columns[self._column].unit)
        self.close = catalog.close

    def __iter__(self) -> Iterator[Objects]:
        names = {*self._position.names, *self._ids.names}
        for start in range(0, self._catalog.nrows, BLOCK_ROWS):
            block = self._catalog.read(names, start, min(start + BLOCK_ROWS, self._catalog.nrows))
            yield Objects(*self._position.read(block, self._epoch), self._ids.read(block))

    def locate(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """All rows are in one file."""
        return np.zeros_like(rows), rows

    def check(self, rows: IntArray) -> NDArray[np.int8]:
        """Look at each image."""
        seen = [np.isfinite(self.read(rows[[i]])).any() for i in range(len(rows))]
        return np.where(seen, 0, Reason.NO_IMAGE_PIXEL).astype(np.int8)

    def read(self, rows: IntArray) -> NDArray[np.float32]:
        """Read the centre of each image."""
        name = str(self._column)
        stamps = [
            centre_stamps(self._catalog.read([name], int(row), int(row) + 1)[name], CUTOUT_SIZE)
            for row in rows
        ]
        return np.concatenate(stamps) if stamps else _none()


def open_image_side(
    path: str | Path,
    ra: str | None = None,
    dec: str | None = None,
    epoch: float = np.nan,
    scratch: Path | None = None,
) -> ImageSide:
    """Open images: a file or folder of the Stein et al. layout, a folder of cut-outs, or a table.

    Parameters
    ----------
    path
        Of a folder of cut-outs, those are found whose name ends in a TARGETID or RELEASE-BRICKID-OBJID, or
        that have a WCS.
    ra, dec
        Names of a table's position columns; guessed by default.
    epoch
        Julian year to which a table's positions are brought where it has PMRA, PMDEC and REF_EPOCH.
    scratch
        Folder for a plain copy of a packed table.

    Raises
    ------
    DataError
        If the path does not exist, or nothing there can be read.
    """
    if is_stein(path):
        return SteinSide(open_stein(path))
    if Path(path).is_dir():
        return FolderSide(open_images(path))
    catalog = open_catalog(path, scratch=scratch)
    try:
        return CatalogSide(catalog, ra, dec, epoch)
    except BaseException:
        catalog.close()
        raise


def _note(problems: list[str], error: DataError) -> None:
    """Add what is wrong with a file, once."""
    if str(error) not in problems:
        problems.append(str(error))


def _ids_of_names(names: NDArray[np.str_]) -> tuple[IntArray, IntArray, IntArray]:
    """Return release, brickid, objid of identifiers in file names, -1 where there is none."""
    ids = np.full((3, len(names)), -1, np.int64)
    for i, name in enumerate(names.tolist()):
        if "-" in name:
            ids[:, i] = [int(number) for number in name.split("-")]
        elif name and len(name) < 19:
            ids[:, i] = decode_targetid(int(name))
    return ids[0], ids[1], ids[2]


def _none() -> NDArray[np.float32]:
    return np.zeros((0, len(BANDS), CUTOUT_SIZE, CUTOUT_SIZE), np.float32)
