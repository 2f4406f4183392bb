"""The side of the images: cut-outs of Stein et al., a folder of cut-outs, or tables of positions."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.match import Objects
from astroclip.crossmatch.who import IdColumns, PositionColumns, find_ids, find_position, objects_of
from astroclip.data.fitsfile import FitsFile, check_image_unit
from astroclip.data.legacysurvey import ImageFolder, open_images
from astroclip.data.stamps import centre_stamps
from astroclip.data.stein import SteinImages, is_stein, open_stein
from astroclip.data.targetid import decode_targetid
from astroclip.errors import DataError
from astroclip.schema import BANDS, CUTOUT_SIZE, IMAGE, PIXSCALE, SCALE_TOLERANCE, TARGETID, Reason
from astroclip.sky import IntArray
from astroclip.tables import Table, is_hats, open_table
from astroclip.tables.hats import open_hats

BLOCK_ROWS = 1_000_000
CHECKED_ROWS = 4096  # images looked at in one go


class Pixels(Protocol):
    """Images that can be read, by the number of their row."""

    def check(self, rows: IntArray) -> NDArray[np.int8]:
        """Return the `Reason` against each image, 0 for those that `read` can read."""
        ...

    def read(self, rows: IntArray) -> NDArray[np.float32]:
        """Return images (n, 3, 152, 152), g, r, z nanomaggies, NaN where nothing was observed."""
        ...


class ImageSide(Protocol):
    """Images, whatever holds them, in rows numbered through all files; iterating yields who is where.

    Attributes
    ----------
    files
        All files.
    problems
        What is wrong with files, a sentence each; grows as they are read.
    """

    files: list[Path]
    problems: list[str]

    @property
    def pixels(self) -> Pixels | None:
        """The images themselves; None where there are positions only."""
        ...

    def __iter__(self) -> Iterator[Objects]:
        """Yield ids and positions in blocks, from the first row on, each time."""
        ...

    def locate(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Return the number of the file, and the row in it."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class SteinSide:
    """Cut-outs of the Stein et al. layout."""

    def __init__(self, images: SteinImages) -> None:
        self._images, self.pixels = images, self
        self.files = images.files
        self.problems = [reason for _, reason in images.problems]
        self.locate, self.close = images.locate, images.close

    def __iter__(self) -> Iterator[Objects]:
        for who in self._images.blocks(BLOCK_ROWS):
            yield Objects(who.ra, who.dec, (who.ids["RELEASE"], who.ids["BRICKID"], who.ids["OBJID"]))

    def read(self, rows: IntArray) -> NDArray[np.float32]:
        """Read the centre of each image."""
        return self._images.read(rows).flux

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

    def __init__(self, images: ImageFolder) -> None:
        self._images, self.pixels = images, self
        self.files, self.close = images.files, images.close
        self.problems = [reason for _, reason in images.problems]

    def __iter__(self) -> Iterator[Objects]:
        for who in self._images.blocks(BLOCK_ROWS):
            yield Objects(who.ra, who.dec, decode_targetid(who.ids[TARGETID]))

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
        return self._images.read(rows).flux

    def _check_one(self, row: int) -> int:
        try:
            seen = any(self._images.read([row], size=size).good.any() for size in (2, CUTOUT_SIZE))
        except DataError as error:
            _note(self.problems, error)
            return Reason.UNREADABLE_IMAGE
        return 0 if seen else Reason.NO_IMAGE_PIXEL


class _Table(NamedTuple):
    """An opened table: the columns of position and ids, and of images (3, H, W) if it has one."""

    catalog: Table
    position: PositionColumns
    ids: IdColumns
    image: str | None


class CatalogSide:
    """Tables of positions, one after the other, with images if each has a vector column IMAGE (3, H, W).

    The table that was read last stays open. Those that cannot be used are listed in `problems`.
    """

    def __init__(
        self, paths: list[Path], ra: str | None, dec: str | None, epoch: float, scratch: Path | None
    ) -> None:
        self._names, self._epoch, self._scratch = (ra, dec), epoch, scratch
        self._path = Path()
        self._table: _Table | None = None
        self.files: list[Path] = []
        self.problems: list[str] = []
        rows, images = [], []
        for path in paths:
            try:
                table = self._open(path)
            except DataError as error:
                self.problems.append(str(error))
                continue
            self.files.append(path)
            rows.append(table.catalog.nrows)
            images.append(table.image)
        if not self.files:
            raise DataError(self.problems[0])
        self._first = np.cumsum([0, *rows])
        self.pixels = self if all(images) else None

    def __iter__(self) -> Iterator[Objects]:
        for path in self.files:
            catalog, position, ids, _ = self._open(path)
            for start in range(0, catalog.nrows, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, catalog.nrows)
                block = catalog.read({*position.names, *ids.names}, start, stop)
                yield objects_of(block, position, ids, self._epoch)

    def locate(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Count the rows from table to table."""
        file = np.searchsorted(self._first, rows, side="right") - 1
        return file, rows - self._first[file]

    def check(self, rows: IntArray) -> NDArray[np.int8]:
        """Look at each image."""
        seen = [np.isfinite(self.read(rows[[i]])).any() for i in range(len(rows))]
        return np.where(seen, 0, Reason.NO_IMAGE_PIXEL).astype(np.int8)

    def read(self, rows: IntArray) -> NDArray[np.float32]:
        """Read the centre of each image."""
        stamps = np.empty((len(rows), *_none().shape[1:]), np.float32)
        file, row = self.locate(rows)
        for i in np.argsort(rows):
            catalog, *_, name = self._open(self.files[file[i]])
            image = catalog.read([str(name)], int(row[i]), int(row[i]) + 1)[str(name)]
            stamps[i] = centre_stamps(image, CUTOUT_SIZE)[0]
        return stamps

    def close(self) -> None:
        """Close the table that was read last."""
        if self._table:
            self._table.catalog.close()
            self._table = None

    def _open(self, path: Path) -> _Table:
        if self._table is None or self._path != path:
            self.close()
            catalog = open_table(path, scratch=self._scratch)
            try:
                position, ids = find_position(catalog, *self._names), find_ids(catalog)
                self._path, self._table = path, _Table(catalog, position, ids, _find_images(catalog))
            except BaseException:
                catalog.close()
                raise
        return self._table


class HatsSide:
    """A HATS catalogue of positions, streamed from its files."""

    pixels = None

    def __init__(self, folder: str | Path, ra: str | None, dec: str | None, epoch: float) -> None:
        self._hats = open_hats(Path(folder), str(folder))
        self.folder, self.files = Path(folder), self._hats.files
        self.problems: list[str] = []
        declared = self._hats.position
        position, ids = find_position(self._hats, ra or declared[0], dec or declared[1]), find_ids(self._hats)
        self.columns = (*position.names, *ids.names)
        self.to_objects = partial(objects_of, position=position, ids=ids, epoch=epoch)

    def __iter__(self) -> Iterator[Objects]:
        for start, stop in pairwise(self._hats.first.tolist()):
            yield self.to_objects(self._hats.read(self.columns, start, stop))

    def locate(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Count the rows from file to file."""
        file = np.searchsorted(self._hats.first, rows, side="right") - 1
        return file, rows - self._hats.first[file]

    def close(self) -> None:
        """Close the catalogue."""
        self._hats.close()


def open_image_side(
    path: str | Path,
    ra: str | None = None,
    dec: str | None = None,
    epoch: float = np.nan,
    scratch: Path | None = None,
) -> ImageSide:
    """Open images: files of the Stein et al. layout or a folder of cut-outs; or positions: tables.

    Parameters
    ----------
    path
        Of a folder of cut-outs, those are found whose name ends in a TARGETID or RELEASE-BRICKID-OBJID, or
        that have a WCS. Tables are a FITS, Parquet or CSV file, a folder of FITS tables, as the sweeps are
        published, of which none is an image, or the folder of a HATS catalogue.
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
    if is_hats(path):
        return HatsSide(path, ra, dec, epoch)
    if is_stein(path):
        return SteinSide(open_stein(path))
    if not Path(path).is_dir():
        return CatalogSide([Path(path)], ra, dec, epoch, scratch)
    images = open_images(path)
    if len(images.problems) < len(images):
        return FolderSide(images)
    tables = [file for file in images.files if _is_table(file)]
    if not tables:
        raise DataError(images.problems[0][1])
    return CatalogSide(tables, ra, dec, epoch, scratch)


def _find_images(catalog: Table) -> str | None:
    """Return the name of a vector column IMAGE (3, H, W) in nanomaggies, None if there is none."""
    name = catalog.find(IMAGE)
    shape = catalog.columns[name].shape if name else ()
    if name is None or len(shape) != 3 or shape[0] != len(BANDS):
        return None
    check_image_unit(f"{catalog.name}: column '{name}'", catalog.columns[name].unit)
    return name


def _is_table(path: Path) -> bool:
    """Tell whether a FITS file has a table."""
    try:
        with FitsFile(path, whole=False) as file:
            return any(file.columns(hdu) for hdu in range(len(file)))
    except DataError:
        return False


def _note(problems: list[str], error: DataError) -> None:
    """Add what is wrong with a file, once."""
    if str(error) not in problems:
        problems.append(str(error))


def _none() -> NDArray[np.float32]:
    return np.zeros((0, len(BANDS), CUTOUT_SIZE, CUTOUT_SIZE), np.float32)
