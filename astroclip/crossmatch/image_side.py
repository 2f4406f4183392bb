"""The side of the images: files of images, or tables of positions, with images or without."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from astroclip.data.kinds import Kind, find_kind
from astroclip.data.pictures import PictureFolder
from astroclip.data.pixel_sets import open_pixel_files, open_pixels
from astroclip.data.pixels import BLOCK_ROWS, Images, PixelFiles, PixelSet
from astroclip.errors import DataError
from astroclip.schema import BANDS, CUTOUT_SIZE, PIXSCALE, SCALE_TOLERANCE, Reason
from astroclip.sky import IntArray
from astroclip.tables import ArrowTable, Table, open_table
from astroclip.tables.arrowcolumns import ArrowColumn, column_values
from astroclip.tables.identity import Who, WhoColumns, find_who
from astroclip.tables.positions import need_position

CHECKED_ROWS = 512  # images looked at in one go


class HatsPositions(NamedTuple):
    """Who and where the rows of a HATS catalogue are, for workers that read its partitions."""

    folder: Path
    who: WhoColumns
    columns: dict[str, ArrowColumn]

    def read(self, table: pa.Table) -> Who:
        """Return it of a partition with `who.columns`."""
        return self.who.read(
            {
                name: column_values(table[name].combine_chunks(), column, f"{self.folder}: column '{name}'")
                for name, column in self.columns.items()
            }
        )


class OpenedTable(NamedTuple):
    """A table of positions, and its images if it has a column of them."""

    table: Table
    who: WhoColumns
    images: PixelSet | None


class TablePositions:
    """Tables of positions, one after the other; the one that was read last stays open.

    Attributes
    ----------
    files, problems
        As in `PixelFiles`; the files of a HATS catalogue are its partitions. A table of a folder that cannot
        be used is one of the `problems`.
    has_images
        Whether each has a column of images.
    hats
        What workers need to read the partitions of the only table, if that is a HATS catalogue.
    """

    def __init__(
        self, paths: list[Path], ra: str | None, dec: str | None, epoch: float, scratch: Path | None
    ) -> None:
        self._names, self._epoch, self._scratch = (ra, dec), epoch, scratch
        self._path = Path()
        self._opened: OpenedTable | None = None
        self.files: list[Path] = []
        self.problems: list[tuple[Path, str]] = []
        self.hats: HatsPositions | None = None
        self._tables: list[Path] = []
        rows, file_rows, images = [0], [0], []
        for path in paths:
            try:
                table, _, own = self._open(path)
            except DataError as error:
                self.problems.append((path, str(error)))
                continue
            parts = _find_partitions(table) or {path: table.nrows}
            self._tables.append(path)
            self.files += parts
            file_rows += parts.values()
            rows.append(table.nrows)
            images.append(own is not None)
        if not self.files:
            raise DataError(self.problems[0][1])
        self._first, self._first_of_file = np.cumsum(rows), np.cumsum(file_rows)
        self.has_images = all(images)

    def __len__(self) -> int:
        return int(self._first[-1])

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Who]:
        """Yield ids and positions, at most `rows` at a time."""
        for path in self._tables:
            table, who, _ = self._open(path)
            for start in range(0, table.nrows, rows):
                yield who.read(table.read(who.columns, start, min(start + rows, table.nrows)), start)

    def locate(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Count the rows from file to file."""
        file = np.searchsorted(self._first_of_file, rows, side="right") - 1
        return file, rows - self._first_of_file[file]

    @property
    def sha256(self) -> str | None:
        """Of the file, if it is a single one."""
        single = self.files == self._tables[:1]
        return self._open(self.files[0]).table.fingerprint["sha256"] if single else None

    def read(self, rows: IntArray, *, size: int = CUTOUT_SIZE) -> Images:
        """Read the centres of images, where there are any."""
        number = np.searchsorted(self._first, rows, side="right") - 1
        flux = np.empty((len(rows), len(BANDS), size, size), np.float32)
        pixscale = np.empty(len(rows))
        for one in np.unique(number):
            images, mine = self._open(self._tables[one]).images, number == one
            found = images.read(rows[mine] - self._first[one], size=size) if images else None
            if isinstance(found, Images):
                flux[mine], pixscale[mine] = found.flux, found.pixscale
        return Images(flux, pixscale)

    def close(self) -> None:
        """Close the table that was read last."""
        if self._opened:
            self._opened.table.close()
            self._opened = None

    def _open(self, path: Path) -> OpenedTable:
        if self._opened is None or self._path != path:
            self.close()
            table = open_table(path, scratch=self._scratch)
            try:
                need_position(table, *self._names)
                who = find_who(table, *self._names, self._epoch)
                who.check(table)
                self._path, self._opened = path, OpenedTable(table, who, open_pixels(None, table, "image"))
            except BaseException:
                table.close()
                raise
            if isinstance(table, ArrowTable) and _find_partitions(table):
                self.hats = HatsPositions(path, who, {name: table.columns[name] for name in who.columns})
        return self._opened


def _find_partitions(table: Table) -> dict[Path, int]:
    """Return the files of a HATS catalogue, and how many rows each has; none of other tables."""
    if not isinstance(table, ArrowTable) or not table.source.is_dir():
        return {}
    return {Path(file): int(n) for file, n in zip(table.files, np.diff(table.first), strict=True)}


ImageSide = PixelFiles | TablePositions  # images in rows numbered through all files


def open_image_side(
    path: str | Path,
    ra: str | None = None,
    dec: str | None = None,
    epoch: float = np.nan,
    scratch: Path | None = None,
) -> ImageSide:
    """Open images: files of images as `open_pixel_files` takes them; or positions: tables.

    Parameters
    ----------
    path
        Of a folder of cut-outs, those are found whose name ends in a TARGETID or RELEASE-BRICKID-OBJID, or
        that have a WCS. Tables are any catalogue (``FILE#HDU`` too), or a folder of them, as the sweeps are
        published; with images if each has a column of them.
    ra, dec
        Names of a table's position columns; guessed by default.
    epoch
        Julian year to which a table's positions are brought where it has proper motions.
    scratch
        Folder for a plain copy of a packed table.

    Raises
    ------
    DataError
        If the path does not exist, or nothing there can be read.
    """
    named = not Path(path).exists() and "#" in Path(path).name  # an HDU
    kind = Kind.CATALOGUE if named else find_kind(path, "image")
    if kind in (Kind.CATALOGUE, Kind.HATS):
        return TablePositions([Path(path)], ra, dec, epoch, scratch)
    images = open_pixel_files(path, "image") if kind is not Kind.CATALOGUES else None
    if isinstance(images, PictureFolder):
        raise DataError(
            f"{path}: PNG and JPEG are stretched, and pairs hold nanomaggies. Fetch FITS cut-outs of them "
            "(ls-dr9), or name a catalogue of positions"
        )
    if images is not None and (kind is not Kind.IMAGES or len(images.problems) < len(images.files)):
        return images
    tables = _find_tables(Path(path))
    if images is not None and not tables:
        raise DataError(images.problems[0][1])
    return TablePositions(tables, ra, dec, epoch, scratch)


def _find_tables(folder: Path) -> list[Path]:
    """Return the tables below a folder, by their content."""
    found = []
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with suppress(DataError):
            found += [file] if find_kind(file) is Kind.CATALOGUE else []
    return found


def has_images(side: ImageSide) -> bool:
    """Say whether there are images, not positions only."""
    return not isinstance(side, TablePositions) or side.has_images


def read_images(side: ImageSide, rows: IntArray, size: int = CUTOUT_SIZE) -> Images:
    """Read the centres of images by their number."""
    images = side.read(rows, size=size)
    if not isinstance(images, Images) or images.stretched:
        raise DataError(f"{side.files[0]}: expected images in nanomaggies, not pictures or spectra")
    return images


def check_images(side: ImageSide, rows: IntArray) -> NDArray[np.int8]:
    """Return the `Reason` against each image, (n,), 0 for those that can be in a pair.

    Looks at the middle of each image, and at all of it if nothing is there.
    """
    reason = np.zeros(len(rows), np.int8)
    order = np.argsort(rows, kind="stable")
    for start in range(0, len(rows), CHECKED_ROWS):
        part = order[start : start + CHECKED_ROWS]
        try:
            reason[part] = _check(side, rows[part])
        except DataError:  # find out which
            reason[part] = [_check_one(side, row) for row in rows[part]]
    return reason


def _check(side: ImageSide, rows: IntArray) -> NDArray[np.int8]:
    """Return the reasons against images that can be read."""
    images = read_images(side, rows, 2)
    scale = np.nan_to_num(images.pixscale, nan=PIXSCALE)
    blank = np.flatnonzero(~images.good.any(axis=(1, 2, 3)))
    blank = blank[~read_images(side, rows[blank]).good.any(axis=(1, 2, 3))]
    reason = np.zeros(len(rows), np.int8)
    reason[blank] = Reason.NO_IMAGE_PIXEL
    reason[np.abs(scale / PIXSCALE - 1) > SCALE_TOLERANCE] = Reason.WRONG_PIXSCALE
    return reason


def _check_one(side: ImageSide, row: int) -> int:
    """Return the reason against one image, and note what is wrong with its file, once."""
    try:
        return int(_check(side, np.array([row]))[0])
    except DataError as error:
        problem = side.files[int(side.locate(np.array([row]))[0][0])], str(error)
        if problem not in side.problems:
            side.problems.append(problem)
        return Reason.UNREADABLE_IMAGE
