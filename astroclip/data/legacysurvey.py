"""Legacy Survey: images in g, r, z, as the cut-out service and the releases publish them.

Formats: https://www.legacysurvey.org/dr10/files/ and /viewer/fits-cutout. Three layouts are read:
a cube (band, H, W); one HDU a band, with or without inverse variance; one file a band (bricks).
Shapes: n stamps, H rows and W columns of an image, 3 bands in the order g, r, z.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from astroclip.data.filenames import read_names
from astroclip.data.fitsfile import FitsFile
from astroclip.data.imagefile import BRICK_NAME, ImageLayout, ImageReader, find_layout
from astroclip.data.lookup import RowLookup, choose_best
from astroclip.data.pictures import PICTURE_SUFFIXES, PictureFolder, find_pictures, is_picture, open_pictures
from astroclip.data.pixels import (
    BLOCK_ROWS,
    BY_BRICK,
    BY_FILE,
    BY_POSITION,
    BY_TARGETID,
    How,
    Images,
    Match,
    Modality,
)
from astroclip.errors import DataError
from astroclip.schema import BANDS, CUTOUT_SIZE, PIXSCALE, SCALE_TOLERANCE
from astroclip.sky import MAX_RADIUS_ARCSEC, IntArray, Positions, match_sky
from astroclip.tables.identity import Who

SUFFIXES = (".fits", ".fits.fz", ".fits.gz")


class Cutout(NamedTuple):
    """An image with its place on the sky.

    Attributes
    ----------
    image
        (3, H, W) float32 g, r, z in nanomaggies; NaN where there is no measurement.
    invvar
        (3, H, W) float32, 1/nanomaggies²; 0 where there is no measurement. None if the file has none.
    pixscale
        arcsec/px, the geometric mean of the two axes; None without a WCS.
    ra, dec
        The image's centre, ICRS degrees; NaN without a WCS.
    wcs
        Celestial WCS of the two image axes, or None.
    """

    image: NDArray[np.float32]
    invvar: NDArray[np.float32] | None
    pixscale: float | None
    ra: float
    dec: float
    wcs: WCS | None


def read_cutout(path: str | Path) -> Cutout:
    """Read a cut-out of any layout: the bands g, r, z, in this order, whatever else the file holds.

    Bands are told by the card BANDS (of a cube; without it three planes are taken to be g, r, z), or by
    BAND, FILTER or EXTNAME (of a 2-D HDU); image and inverse variance by IMAGETYP, IMTYPE or EXTNAME. For
    a brick's ``<...>-image-g.fits.fz`` the files of the other bands and ``-invvar-`` lie beside it.

    A pixel is NaN where its inverse variance is 0; in a file without inverse variance, where it is exactly 0
    as `stamps.mark_unobserved` says, which is how the cut-out service marks sky that was not observed.

    Raises
    ------
    DataError
        If the file is cut short, lacks a band, holds no image, or says it is not in nanomaggies.
    """
    with ImageReader(path) as reader:
        layout = reader.layout
        image, invvar = reader.section(0, layout.shape[0], 0, layout.shape[1])
    return Cutout(image, invvar, layout.pixscale, *layout.centre, layout.wcs)


class ImageFolder:
    """Images in files: which one shows a row, and stamps out of them (use `open_images`).

    Keeps the file it read last open. Not for several threads.

    Attributes
    ----------
    name, modality, problems, found_by
        See `PixelSet`; `problems` are the files that cannot be read.
    files
        Paths, sorted, also of files that cannot be read: reading a stamp from one raises `DataError`.
    ids
        (n,) identifier in the file's name: ``<id>.fits`` or ``<anything>_<id>.fits`` (or .fits.gz,
        .fits.fz), where <id> is a TARGETID or RELEASE-BRICKID-OBJID; "" where the name has none.
    ra, dec
        (n,) the image's centre, ICRS degrees; without a WCS the position in its name, as in
        ``cutout_150.1234_-2.2000.fits``; NaN without either.
    pixscale
        (n,) arcsec/px, NaN without a WCS.
    shape
        (n, 2) pixels (H, W), 0 for files that cannot be read.
    """

    modality: Modality = "image"
    found_by: tuple[str, ...] = (BY_TARGETID, BY_BRICK, BY_FILE, BY_POSITION)

    def __init__(self, name: str, files: list[Path]) -> None:
        self.name, self.files = name, files
        self.problems: list[tuple[Path, str]] = []
        self._layouts = [self._probe(path) for path in files]
        self._reader: ImageReader | None = None
        layouts = [layout or ImageLayout([], None, (0, 0), None) for layout in self._layouts]
        self.pixscale = np.array([layout.pixscale or np.nan for layout in layouts], float)
        self.shape = np.array([layout.shape for layout in layouts], int).reshape(-1, 2)
        self._radius = np.array([layout.radius_deg for layout in layouts], float)
        named = read_names(files)
        centres = np.array([layout.centre for layout in layouts], float).reshape(-1, 2).T
        self.ra, self.dec = np.where(np.isfinite(centres), centres, [named.who.ra, named.who.dec])
        self.ids, self._ids = named.text, named.who.ids
        self._lookup = RowLookup(self._ids, self.ra, self.dec)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def is_usable(self) -> NDArray[np.bool_]:
        """Which can be read, and are at the survey's pixel scale, 0.262 arcsec/px, if they tell theirs."""
        scale = np.nan_to_num(self.pixscale, nan=PIXSCALE)
        return (self.shape[:, 0] > 0) & (np.abs(scale / PIXSCALE - 1) <= SCALE_TOLERANCE)

    def close(self) -> None:
        """Close the file that was read last."""
        if self._reader:
            self._reader.close()
            self._reader = None

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Who]:
        """Yield identity and position of all images, at most `rows` at a time."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            ids = {name: values[part] for name, values in self._ids.items()}
            yield Who(ids, self.ra[part], self.dec[part])

    def locate(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of the file of each image, and 0: each file has one."""
        number = np.asarray(rows, np.int64)
        return number, np.zeros_like(number)

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:
        """Find an image for each row: by identifier, else by its centre, else one the row lies on.

        Several files of one identifier: the first by name is taken. Several centres within the radius: the
        nearest. Several images the row lies on: that on which it lies deepest, in pixels from the edge.
        In each case the row is ambiguous.
        """
        match = self._lookup.match(who, radius_arcsec)
        todo = np.flatnonzero(match.row < 0)
        if len(todo):
            row, several = self._by_footprint(who.ra[todo], who.dec[todo])
            match.row[todo], match.ambiguous[todo] = row, several
            match.how[todo] = np.where(row >= 0, How.FOOTPRINT, How.NONE)
        return match

    def read(
        self,
        rows: ArrayLike,
        ra: ArrayLike | None = None,
        dec: ArrayLike | None = None,
        size: int = CUTOUT_SIZE,
    ) -> Images:
        """Read stamps by the number of their file, each around a position, at whole pixels.

        A stamp is the one whose centre lies nearest to the position, so that it is off by at most half a
        pixel on each axis. With an even `size` its centre is the corner between its four middle pixels: a
        position at the centre of a `size`-pixel cut-out gives that cut-out back. An image without a WCS, or a
        position that is not finite, gives the stamp at the image's centre. NaN outside of the image and where
        it has no data.

        Raises
        ------
        DataError
            If a file cannot be read.
        """
        number = np.asarray(rows, np.int64)
        at = np.full((2, len(number)), np.nan)
        if ra is not None and dec is not None:
            at[0], at[1] = ra, dec
        stamps = np.full((len(number), len(BANDS), size, size), np.nan, np.float32)
        for i in np.argsort(number, kind="stable"):
            self._read_stamp(int(number[i]), float(at[0, i]), float(at[1, i]), stamps[i])
        return Images(stamps, self.pixscale[number])

    def _read_stamp(self, file: int, ra: float, dec: float, stamp: NDArray[np.float32]) -> None:
        """Fill a stamp with what of it lies on the image."""
        reader = self._open(file)
        (height, width), size = reader.layout.shape, stamp.shape[-1]
        x, y = np.array([(width - 1) / 2]), np.array([(height - 1) / 2])
        if reader.layout.wcs is not None and np.isfinite(ra) and np.isfinite(dec):
            x, y = reader.layout.to_pixels(ra, dec)
        left, low = (float(np.floor(centre[0] - (size - 1) / 2 + 0.5)) for centre in (x, y))
        if left + size > 0 and left < width and low + size > 0 and low < height:  # NaN compares false
            x0, y0 = int(left), int(low)
            a, b, c, d = max(y0, 0), min(y0 + size, height), max(x0, 0), min(x0 + size, width)
            stamp[:, a - y0 : b - y0, c - x0 : d - x0] = reader.section(a, b, c, d)[0]

    def _open(self, i: int) -> ImageReader:
        if self._reader is None or self._reader.path != self.files[i]:
            self.close()
            self._reader = ImageReader(self.files[i], self._layouts[i])
        return self._reader

    def _probe(self, path: Path) -> ImageLayout | None:
        try:
            with FitsFile(path, whole=False) as file:
                return find_layout(file)
        except DataError as error:
            self.problems.append((path, str(error)))
            return None

    def _by_footprint(self, ra: NDArray, dec: NDArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        row, image = find_circles((ra, dec), (self.ra, self.dec), 3600 * self._radius)
        depth = np.full(len(row), -1.0)
        for i in np.unique(image):
            mine, layout = image == i, self._layouts[i]
            if layout is not None:
                x, y = layout.to_pixels(ra[row[mine]], dec[row[mine]])
                height, width = layout.shape
                depth[mine] = np.min([x + 0.5, width - 0.5 - x, y + 0.5, height - 0.5 - y], axis=0)
        on = depth >= 0
        return choose_best(len(ra), row[on], image[on], -depth[on])


def find_circles(
    positions: Positions, centres: Positions, radius_arcsec: NDArray[np.float64]
) -> tuple[IntArray, IntArray]:
    """Return the pairs (position, circle) of positions within circles, (m,) centres in deg, radii in arcsec.

    Circles of about one size are searched together: a few large ones do not make many small ones large.
    """
    ra, dec = (np.asarray(side, float) for side in centres)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    size = np.floor(np.log2(np.where(radius_arcsec > 0, radius_arcsec, np.nan)))
    for one in np.unique(size[np.isfinite(size)]):
        mine = np.flatnonzero(size == one)
        largest = min(radius_arcsec[mine].max(), MAX_RADIUS_ARCSEC)
        near = match_sky(positions, (ra[mine], dec[mine]), largest, "all")
        inside = near.separation_arcsec <= radius_arcsec[mine[near.right]]
        found.append((near.left[inside], mine[near.right[inside]]))
    rows, circles = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(circles)


def open_images(path: str | Path) -> ImageFolder | PictureFolder:
    """Index a file, or all .fits, .fits.gz and .fits.fz files under a folder, reading headers only.

    A file that is a PNG or JPEG picture, and a folder of those without FITS, are opened as pictures.

    Of a brick's one-file-a-band set only the ``-image-g`` file is listed; it stands for all. Files of a
    folder that are not images in g, r, z are listed in `ImageFolder.problems`.

    Raises
    ------
    DataError
        If the path does not exist, a folder holds no FITS file, or a file that is named is damaged or no
        image in g, r, z.
    """
    root = Path(path)
    name = f"images of {root.name}"
    if root.is_file() and is_picture(root):
        return open_pictures(root)
    if root.is_file():
        FitsFile(root).close()  # a file of a folder is found damaged when it is read
        images = ImageFolder(name, [root])
        if images.problems:
            raise DataError(images.problems[0][1])
        return images
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    files = sorted(p for p in root.rglob("*.fits*") if p.name.endswith(SUFFIXES) and p.is_file())
    bricks = {p: BRICK_NAME.fullmatch(p.name) for p in files}
    files = [p for p, brick in bricks.items() if brick is None or brick.group(2, 3) == ("image", BANDS[0])]
    if not files and find_pictures(root):
        return open_pictures(root)
    if not files:
        expected = ", ".join((*SUFFIXES, *PICTURE_SUFFIXES))
        raise DataError(f"{root}: no image file below it. Expected names ending in {expected}")
    return ImageFolder(name, files)
