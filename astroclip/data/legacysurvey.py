"""Legacy Survey: images in g, r, z, as the cut-out service and the releases publish them.

Formats: https://www.legacysurvey.org/dr10/files/ and /viewer/fits-cutout. Three layouts are read:
a cube (band, H, W); one HDU a band, with or without inverse variance; one file a band (bricks).
Shapes: n stamps, H rows and W columns of an image, 3 bands in the order g, r, z.
"""

import re
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from astroclip.data.fitsfile import FitsFile
from astroclip.data.imagefile import BRICK_NAME, ImageReader, Layout, find_layout, world_to_pixels
from astroclip.data.lookup import choose_best
from astroclip.errors import DataError
from astroclip.schema import BANDS, CUTOUT_SIZE
from astroclip.sky import MAX_RADIUS_ARCSEC, IntArray, Positions, match_nearest, match_sky

SUFFIXES = (".fits", ".fits.fz", ".fits.gz")
_ID = re.compile(r"(?:^|_)(\d+(?:-\d+-\d+)?)$")  # of a file's stem: TARGETID, or RELEASE-BRICKID-OBJID

# (y0, y1, x0, x1) -> pixels (3, y1 - y0, x1 - x0)
Section = Callable[[int, int, int, int], NDArray[np.float32]]


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

    A pixel is NaN where its inverse variance is 0; in a file without inverse variance, where it is exactly
    0 in all three bands, which is how the cut-out service marks sky that was not observed.

    Raises
    ------
    DataError
        If the file is cut short, lacks a band, holds no image, or says it is not in nanomaggies.
    """
    with ImageReader(path) as reader:
        layout = reader.layout
        image, invvar = reader.section(0, layout.shape[0], 0, layout.shape[1])
    return Cutout(image, invvar, layout.pixscale, *layout.centre, layout.wcs)


def cut_stamps(
    source: Cutout | str | Path, ra: ArrayLike, dec: ArrayLike, size: int = CUTOUT_SIZE
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Cut square stamps around positions out of one image, at whole pixels: nothing is resampled.

    A stamp is the one whose centre lies nearest to the position, so that it is off by at most half a pixel
    on each axis. With an even `size` its centre is the corner between its four middle pixels: a position at
    the centre of a `size`-pixel cut-out gives that cut-out back.

    Parameters
    ----------
    source
        A `Cutout`, or a file, of which only the sections needed are read.
    ra, dec
        (n,) ICRS degrees.
    size
        Side of the stamps in pixels.

    Returns
    -------
    images
        (n, 3, size, size) float32 g, r, z nanomaggies; NaN outside of the image and where it has no data.
    inside
        (n,) whether a stamp overlaps the image at all.

    Raises
    ------
    DataError
        If the image has no WCS, or the file cannot be read.
    """
    if isinstance(source, Cutout):
        image = source.image
        if source.wcs is None:
            raise DataError("the cut-out has no celestial WCS, so a position cannot be found on it")
        x, y = world_to_pixels(source.wcs, ra, dec)
        return _cut(lambda y0, y1, x0, x1: image[:, y0:y1, x0:x1], image.shape[1:], x, y, size)
    with ImageReader(source) as reader:
        x, y = reader.layout.to_pixels(ra, dec)
        return _cut(lambda *edges: reader.section(*edges)[0], reader.layout.shape, x, y, size)


def _cut(
    section: Section, shape: tuple[int, ...], x: NDArray[np.float64], y: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Cut stamps around pixel positions, reading of each only the part that lies on the image."""
    height, width = shape
    images = np.full((len(x), len(BANDS), size, size), np.nan, np.float32)
    inside = np.zeros(len(x), bool)
    left, low = (np.floor(centre - (size - 1) / 2 + 0.5) for centre in (x, y))
    with np.errstate(invalid="ignore"):
        overlaps = (left + size > 0) & (left < width) & (low + size > 0) & (low < height)
    for i in np.flatnonzero(overlaps):
        x0, y0 = int(left[i]), int(low[i])
        a, b, c, d = max(y0, 0), min(y0 + size, height), max(x0, 0), min(x0 + size, width)
        images[i, :, a - y0 : b - y0, c - x0 : d - x0] = section(a, b, c, d)
        inside[i] = True
    return images, inside


class How(IntEnum):
    """How a row found its image."""

    NONE = 0
    ID = 1  # the file is named after the row's identifier
    CENTRE = 2  # the image's centre lies within the radius
    FOOTPRINT = 3  # the position lies on the image


class ImageMatch(NamedTuple):
    """The image of each row: its number (-1: none), `How`, and whether several fit, (n,) each.

    In a folder of images `file` is the number of the file; in files of many images, of the image.
    """

    file: NDArray[np.int64]
    how: NDArray[np.int8]
    ambiguous: NDArray[np.bool_]


class ImageFolder:
    """Images of a folder: which one shows a row, and stamps out of them (use `open_images`).

    Keeps the file it read last open: go through rows in the order of their files. Not for several threads.

    Attributes
    ----------
    files
        Paths, sorted, also of files that cannot be read: reading a stamp from one raises `DataError`.
    ids
        (n,) identifier in the file's name: ``<id>.fits`` or ``<anything>_<id>.fits`` (or .fits.gz,
        .fits.fz), where <id> is a TARGETID or RELEASE-BRICKID-OBJID; "" where the name has none.
    ra, dec
        (n,) the image's centre, ICRS degrees; NaN without a WCS and for files that cannot be read.
    pixscale
        (n,) arcsec/px, NaN likewise.
    shape
        (n, 2) pixels (H, W), 0 for files that cannot be read.
    unreadable
        The files that cannot be read, and why.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.ids = np.array([_file_id(path) for path in files], str)
        self.unreadable: list[tuple[Path, str]] = []
        self._layouts = [self._probe(path) for path in files]
        self._reader: ImageReader | None = None
        layouts = [layout or Layout([], None, (0, 0), None) for layout in self._layouts]
        centres = np.array([layout.centre for layout in layouts], float).reshape(-1, 2)
        self.ra, self.dec = centres[:, 0], centres[:, 1]
        self.pixscale = np.array([layout.pixscale or np.nan for layout in layouts], float)
        self.shape = np.array([layout.shape for layout in layouts], int).reshape(-1, 2)
        self._radius = np.array([layout.radius_deg for layout in layouts], float)

    def __len__(self) -> int:
        return len(self.files)

    def close(self) -> None:
        """Close the file that was read last."""
        if self._reader:
            self._reader.close()
            self._reader = None

    def match(
        self, ids: ArrayLike | None, ra: ArrayLike, dec: ArrayLike, radius_arcsec: float = 1.0
    ) -> ImageMatch:
        """Find an image for each row: by identifier, else by its centre, else one the row lies on.

        Several files of one identifier: the first by name is taken. Several centres within the radius: the
        nearest. Several images the row lies on: that on which it lies deepest, in pixels from the edge.
        In each case the row is ambiguous.

        Parameters
        ----------
        ids
            (n,) numbers or strings to be compared with `ids` of the files; (k, n) for k kinds of
            identifier, tried in order; None where the catalogue has none.
        ra, dec
            (n,) ICRS degrees; NaN matches by identifier only.
        radius_arcsec
            Largest distance between a row and the centre of its own cut-out.
        """
        n = np.size(ra)
        match = ImageMatch(np.full(n, -1), np.full(n, How.NONE, np.int8), np.zeros(n, bool))
        if ids is not None:
            for kind in np.atleast_2d(np.asarray(ids).astype(str)):
                fill_match(match, How.ID, *self._by_id(np.char.strip(kind)))
        if radius_arcsec > 0:
            near = match_nearest((ra, dec), (self.ra, self.dec), radius_arcsec)
            fill_match(match, How.CENTRE, near.row, near.several)
        fill_match(match, How.FOOTPRINT, *self._by_footprint(ra, dec))
        return match

    def read(self, i: int, ra: float, dec: float, size: int = CUTOUT_SIZE) -> NDArray[np.float32]:
        """Read a stamp from file `i` around a position, by the rule of `cut_stamps`.

        An image without a WCS, or a position that is not finite, gives the stamp at the image's centre.

        Returns
        -------
        (3, size, size) float32 g, r, z nanomaggies; NaN outside of the image and where it has no data.

        Raises
        ------
        DataError
            If the file cannot be read.
        """
        reader = self._open(i)
        height, width = reader.layout.shape
        x, y = np.array([(width - 1) / 2]), np.array([(height - 1) / 2])
        if reader.layout.wcs is not None and np.isfinite(ra) and np.isfinite(dec):
            x, y = reader.layout.to_pixels(ra, dec)
        return _cut(lambda *edges: reader.section(*edges)[0], (height, width), x, y, size)[0][0]

    def _open(self, i: int) -> ImageReader:
        if self._reader is None or self._reader.path != self.files[i]:
            self.close()
            self._reader = ImageReader(self.files[i], self._layouts[i])
        return self._reader

    def _probe(self, path: Path) -> Layout | None:
        try:
            with FitsFile(path, whole=False) as file:
                return find_layout(file)
        except DataError as error:
            self.unreadable.append((path, str(error)))
            return None

    def _by_id(self, wanted: NDArray[np.str_]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        order = np.argsort(self.ids, kind="stable")
        low = np.searchsorted(self.ids[order], wanted, side="left")
        count = np.searchsorted(self.ids[order], wanted, side="right") - low
        count[wanted == ""] = 0
        first = np.append(order, -1)[np.minimum(low, len(order))]
        return np.where(count > 0, first, -1), count > 1

    def _by_footprint(self, ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
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


def open_images(path: str | Path) -> ImageFolder:
    """Index a file, or all .fits, .fits.gz and .fits.fz files under a folder, reading headers only.

    Of a brick's one-file-a-band set only the ``-image-g`` file is listed; it stands for all. Files that are
    not images in g, r, z are listed in `ImageFolder.unreadable`.

    Raises
    ------
    DataError
        If the path does not exist, or a folder holds no FITS file.
    """
    root = Path(path)
    if root.is_file():
        return ImageFolder([root])
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    files = sorted(p for p in root.rglob("*.fits*") if p.name.endswith(SUFFIXES) and p.is_file())
    bricks = {p: BRICK_NAME.fullmatch(p.name) for p in files}
    files = [p for p, brick in bricks.items() if brick is None or brick.group(2, 3) == ("image", BANDS[0])]
    if not files:
        raise DataError(f"{root}: no image file below it. Expected names ending in {', '.join(SUFFIXES)}")
    return ImageFolder(files)


def _file_id(path: Path) -> str:
    """Return the identifier in a file's name, "" if there is none."""
    stem = next((path.name.removesuffix(s) for s in SUFFIXES[1:] + SUFFIXES[:1] if path.name.endswith(s)), "")
    found = _ID.search(stem)
    return found[1] if found else ""


def fill_match(match: ImageMatch, how: How, file: NDArray[np.int64], several: NDArray[np.bool_]) -> None:
    """Give rows that have no image yet what another way of matching found for them, in place."""
    new = (match.file < 0) & (file >= 0)
    match.file[new], match.how[new], match.ambiguous[new] = file[new], how, several[new]
