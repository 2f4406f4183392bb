"""One image in g, r, z: in which HDUs its bands are, which part of the sky it shows, sections of its pixels.

Shapes: H rows and W columns of an image, 3 bands in the order g, r, z.
"""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS, FITSFixedWarning
from astropy.wcs.utils import proj_plane_pixel_area
from numpy.typing import ArrayLike, NDArray

from astroclip.data.fitsfile import FitsFile, check_image_unit
from astroclip.data.stamps import mark_unobserved
from astroclip.errors import DataError
from astroclip.schema import BANDS
from astroclip.sky import separation_arcsec

BRICK_NAME = re.compile(r"(.+-)(image|invvar)-([a-zA-Z])(\.fits(?:\.fz|\.gz)?)")
_BAND = re.compile(r"(?<![A-Za-z])[ugrizyUGRIZY](?![A-Za-z])")
_OTHER_KIND = re.compile(r"mask|psf|model|resid|chi2|nexp|depth|weight|blob")
_WCS_CARD = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA)\d|(CD|PC|PV)\d+_\d+|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX"
    r"|[AB]P?_(ORDER|DMAX|\d_\d)"
)


class Plane(NamedTuple):
    """Where the pixels of one band are: a file, an HDU, and the plane of a cube (None: the HDU is 2-D).

    `blank` is the value that stands for a missing pixel in an image of integers; None where none does.
    """

    path: Path
    hdu: int
    layer: int | None
    blank: float | None = None


class ImageLayout(NamedTuple):
    """Where an image's pixels are, and what part of the sky they show.

    `image` and `invvar` are one plane a band, in the order g, r, z; `shape` is (H, W).
    """

    image: list[Plane]
    invvar: list[Plane] | None
    shape: tuple[int, int]
    wcs: WCS | None

    @property
    def pixscale(self) -> float | None:
        """Pixel scale in arcsec/px, the geometric mean of both axes, whatever the rotation."""
        return None if self.wcs is None else float(np.sqrt(proj_plane_pixel_area(self.wcs))) * 3600

    @property
    def centre(self) -> tuple[float, float]:
        """Position of the image's centre, ICRS degrees; NaN without a WCS."""
        if self.wcs is None:
            return np.nan, np.nan
        height, width = self.shape
        ra, dec = self.wcs.all_pix2world((width - 1) / 2, (height - 1) / 2, 0, ra_dec_order=True)
        return float(ra), float(dec)

    @property
    def radius_deg(self) -> float:
        """Distance from the centre to the farthest corner, degrees; NaN without a WCS."""
        if self.wcs is None:
            return np.nan
        height, width = self.shape
        x, y = np.array([-0.5, width - 0.5])[[0, 0, 1, 1]], np.array([-0.5, height - 0.5])[[0, 1, 0, 1]]
        ra, dec = self.wcs.all_pix2world(x, y, 0, ra_dec_order=True)
        return float(separation_arcsec(ra, dec, *self.centre).max() / 3600)

    def to_pixels(self, ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (x, y) of positions, counted from 0 at the centre of the first pixel.

        NaN where a position is not finite or lies on the other half of the sky.

        Raises
        ------
        DataError
            Without a WCS.
        """
        if self.wcs is None:
            where = self.image[0].path if self.image else "the image"
            raise DataError(
                f"{where}: no celestial WCS, so a position cannot be found on it. Match it by name"
            )
        ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        x, y = np.full((2, len(ra)), np.nan)
        reference = self.wcs.wcs.crval[self.wcs.wcs.lng], self.wcs.wcs.crval[self.wcs.wcs.lat]
        near = separation_arcsec(ra, dec, *reference) < 89 * 3600  # NaN compares false
        if near.any():
            x[near], y[near] = self.wcs.all_world2pix(ra[near], dec[near], 0, ra_dec_order=True, quiet=True)
        return x, y


class ImageReader:
    """An image open for reading sections of its pixels; a context manager.

    Parameters
    ----------
    path
        The file; for a brick, that of any band.
    layout
        What `find_layout` found in it, if that is known already.

    Raises
    ------
    DataError
        If a file is cut short, lacks a band, or holds no image in nanomaggies.
    """

    def __init__(self, path: str | Path, layout: ImageLayout | None = None) -> None:
        self.path = Path(path)
        self._files: dict[Path, FitsFile] = {self.path: FitsFile(self.path)}
        try:
            self.layout = layout or find_layout(self._files[self.path])
            for plane in (*self.layout.image, *(self.layout.invvar or ())):
                if plane.path not in self._files:
                    self._files[plane.path] = FitsFile(plane.path)
        except DataError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()

    def section(
        self, y0: int, y1: int, x0: int, x1: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Read rows y0 to y1 - 1, columns x0 to x1 - 1: image with NaN for missing pixels, and invvar."""
        edges = (slice(y0, y1), slice(x0, x1))
        image = np.stack([self._pixels(plane, edges) for plane in self.layout.image])
        if self.layout.invvar is None:
            return mark_unobserved(image[None])[0], None
        invvar = np.stack([self._pixels(plane, edges) for plane in self.layout.invvar])
        bad = ~(np.isfinite(image) & np.isfinite(invvar) & (invvar > 0))
        image[bad], invvar[bad] = np.nan, 0
        return image, invvar

    def _pixels(self, plane: Plane, edges: tuple[slice, slice]) -> NDArray[np.float32]:
        band = () if plane.layer is None else (slice(plane.layer, plane.layer + 1),)
        stored = self._files[plane.path].pixels(plane.hdu, *band, *edges)
        pixels = stored.astype(np.float32)
        if plane.blank is not None:
            pixels[np.isclose(stored, plane.blank, rtol=1e-6, atol=0)] = np.nan
        return pixels if plane.layer is None else pixels[0]


class _Found(NamedTuple):
    """One plane of pixels: "image" or "invvar", its band, its place, and its HDU's header and shape."""

    kind: str
    band: str
    plane: Plane
    header: dict[str, Any]
    shape: tuple[int, ...]


def find_layout(file: FitsFile) -> ImageLayout:
    """Find the bands g, r, z in an open file (and, for a brick, in the files beside it); headers only.

    Raises
    ------
    DataError
        If a band is missing, shapes differ, the unit is not nanomaggies, or the WCS is not equatorial.
    """
    found = list(_brick_planes(file) or _planes(file))
    images: dict[str, _Found] = {}
    invvars: dict[str, _Found] = {}
    for one in found:
        (images if one.kind == "image" else invvars).setdefault(one.band, one)
    if missing := [band for band in BANDS if band not in images]:
        raise DataError(
            f"{file.path}: no image in the band {', '.join(missing)} (found {', '.join(images) or 'none'}). "
            "Expected g, r, z, named by BANDS, BAND, FILTER or EXTNAME"
        )
    used = [images[band] for band in BANDS]
    used_invvar = [invvars[band] for band in BANDS] if set(BANDS) <= set(invvars) else None
    shapes = {one.shape for one in (*used, *(used_invvar or ()))}
    if len(shapes) > 1:
        raise DataError(f"{file.path}: planes of different shapes {sorted(shapes)}. Expected one shape")
    for one in used:
        check_image_unit(str(one.plane.path), one.header.get("BUNIT"))
    height, width = used[0].shape
    planes = None if used_invvar is None else [one.plane for one in used_invvar]
    wcs = _celestial_wcs(used[0].header, file.path)
    return ImageLayout([one.plane for one in used], planes, (height, width), wcs)


def _planes(file: FitsFile) -> Iterator[_Found]:
    """Yield the image and invvar planes of one file whose band is known."""
    bands: list[str] = []
    for hdu in range(len(file)):
        shape = file.shape(hdu)
        if len(shape) not in (2, 3):
            continue
        header = file.header(hdu)
        kind = _kind(header)
        if kind is None:
            continue
        if len(shape) == 2:
            if band := _band(header):
                yield _Found(kind, band, Plane(file.path, hdu, None, _blank(header)), header, shape)
            continue
        bands = _cube_bands(header, shape[0], bands, f"{file.path}: HDU {hdu}")
        for index, band in enumerate(bands):
            yield _Found(kind, band, Plane(file.path, hdu, index, _blank(header)), header, shape[1:])


def _brick_planes(file: FitsFile) -> list[_Found]:
    """Return the planes of a brick, one file a band; none if this is not such a file."""
    name = BRICK_NAME.fullmatch(file.path.name)
    found = []
    for kind in ("image", "invvar") if name else ():
        for band in BANDS:
            path = file.path.with_name(f"{name[1]}{kind}-{band}{name[4]}") if name else file.path
            if path.is_file():
                found += [_Found(kind, band, *rest) for rest in _first_plane(path)]
    return found


def _first_plane(path: Path) -> list[tuple[Plane, dict[str, Any], tuple[int, ...]]]:
    """Return place, header and shape of the first 2-D HDU of a file; none if it has none."""
    with FitsFile(path, whole=False) as file:
        hdus = [n for n in range(len(file)) if len(file.shape(n)) == 2]
        return [
            (Plane(path, n, None, _blank(file.header(n))), file.header(n), file.shape(n)) for n in hdus[:1]
        ]


def _kind(header: dict[str, Any]) -> str | None:
    """Tell image from inverse variance, by IMAGETYP (cut-out service), IMTYPE (bricks) or EXTNAME."""
    text = str(header.get("IMAGETYP") or header.get("IMTYPE") or header.get("EXTNAME") or "").lower()
    if "invvar" in text or "ivar" in text:
        return "invvar"
    return None if _OTHER_KIND.search(text) else "image"


def _blank(header: dict[str, Any]) -> float | None:
    """Return the value, scaled as the pixels are, of missing pixels: BLANK, or ZBLANK of a packed image."""
    stored = header.get("BLANK", header.get("ZBLANK"))
    if stored is None or float(header.get("ZBITPIX", header.get("BITPIX", 0))) < 0:
        return None
    return float(stored) * float(header.get("BSCALE", 1.0)) + float(header.get("BZERO", 0.0))


def _band(header: dict[str, Any]) -> str | None:
    """Return the band of a 2-D HDU, the first single letter in BAND, FILTER or EXTNAME, or None."""
    for card in ("BAND", "FILTER", "EXTNAME"):
        if letter := _BAND.search(str(header.get(card) or "")):
            return letter[0].lower()
    return None


def _cube_bands(header: dict[str, Any], n: int, before: list[str], where: str) -> list[str]:
    """Return the bands of a cube's `n` planes: BANDS, BAND0..., those of the cube before it, or g, r, z."""
    text = str(header.get("BANDS") or "".join(str(header.get(f"BAND{i}", "")) for i in range(n)))
    bands = re.findall(r"[a-z]", text.lower()) or (before if len(before) == n else list(BANDS))
    if len(bands) != n:
        raise DataError(f"{where}: {n} planes, but bands '{text}'. Expected a card BANDS such as 'grz'")
    return bands


def _celestial_wcs(header: dict[str, Any], path: Path) -> WCS | None:
    """Return the WCS of the two image axes, None if the header has none."""
    cards = {k: v for k, v in header.items() if _WCS_CARD.fullmatch(k) and v is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)  # old spellings, all repaired by astropy
        try:
            wcs = WCS(Header(cards), naxis=2)
        except ValueError as error:
            raise DataError(
                f"{path}: unusable WCS ({str(error).splitlines()[-1]}). Repair its header"
            ) from error
    if not wcs.has_celestial:
        return None
    if wcs.wcs.lngtyp != "RA":
        raise DataError(f"{path}: WCS axes {list(wcs.wcs.ctype)}, expected right ascension and declination")
    return wcs
