"""Multimodal Universe (arXiv:2412.02527): DESI spectra and Legacy Survey DR10 images in HDF5.

Files: ``<survey>/<subset>/healpix=<p>/001-of-001.hdf5``, nside 16 nested; one row an object in each dataset.
Shapes: N rows of all files, m rows asked for, S = 7781 wavelengths.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.fitsfile import check_flux_unit, check_image_unit
from astroclip.data.grid import ArmPixels, Spectra, combine_arms, place_on_grid, stack_spectra
from astroclip.data.hdf5file import Hdf5File, find_hdf5
from astroclip.data.legacysurvey import ImageMatch
from astroclip.data.rowindex import RowIndex
from astroclip.data.stein import centre_stamps
from astroclip.errors import DataError
from astroclip.schema import BANDS, CUTOUT_SIZE, N_WAVE, PIXSCALE, desi_wave

PATTERNS = ("*.hdf5", "*.h5")
SPECTRUM, IMAGE = "spectrum_flux", "image_array"
DR10_BANDS = ("g", "r", "i", "z")  # planes of an image where the file does not name them


class _Rows:
    """Rows of many files, numbered through, with an index of identity and position in memory.

    A file without `pixels` is listed in `unreadable`.
    """

    def __init__(self, files: list[Path], pixels: str) -> None:
        self.files: list[Path] = []
        self.unreadable: list[tuple[Path, str]] = []
        ids, ra, dec = [np.zeros(0, "S1")], [np.zeros(0)], [np.zeros(0)]
        for path in files:
            try:
                columns = _read_index(path, pixels)
            except DataError as error:
                self.unreadable.append((path, str(error)))
                continue
            self.files.append(path)
            for parts, column in zip((ids, ra, dec), columns, strict=True):
                parts.append(column)
        self.first = np.cumsum([len(part) for part in ids])
        self.object_id = np.concatenate(ids)
        self.ra, self.dec = np.concatenate(ra), np.concatenate(dec)
        self._index = RowIndex(self.object_id, self.ra, self.dec, no_key=b"")

    def __len__(self) -> int:
        return len(self.object_id)

    def match(
        self, ids: ArrayLike | None, ra: ArrayLike, dec: ArrayLike, radius_arcsec: float = 1.0
    ) -> ImageMatch:
        """Find a row for each object: by identifier, else the nearest within the radius.

        Parameters
        ----------
        ids
            (n,) numbers or texts to be compared with `object_id`; (k, n) for k kinds of identifier, tried in
            order; None where the catalogue has none.
        ra, dec
            (n,) ICRS degrees; NaN matches by identifier only.
        radius_arcsec
            Largest distance.
        """
        kinds = [] if ids is None else list(np.atleast_2d(np.asarray(ids).astype(str)))
        wanted = [np.char.encode(np.char.strip(kind), "utf-8") for kind in kinds]
        return self._index.match(wanted, ra, dec, radius_arcsec)

    def locate(self, rows: NDArray[np.int64]) -> list[tuple[Path, NDArray[np.int64], NDArray[np.int64]]]:
        """Return for each file of ascending rows: its path, the rows in it, and their places in `rows`."""
        if rows.size and not 0 <= rows[0] <= rows[-1] < len(self):
            raise IndexError(f"row {rows[0]} to {rows[-1]} of {len(self)}")
        file = np.searchsorted(self.first, rows, side="right") - 1
        places = [np.flatnonzero(file == one) for one in np.unique(file)]
        return [(self.files[file[at[0]]], rows[at] - self.first[file[at[0]]], at) for at in places]


class MultimodalSpectra(_Rows):
    """DESI spectra of Multimodal Universe files (use `open_multimodal_spectra`).

    The index is in memory: identity, position, and 32 bytes a row. Not for several threads.

    Attributes
    ----------
    files, unreadable
        The readable files, and those that cannot be read, and why.
    first
        Number of the first row of each file, and of all rows.
    object_id
        (N,) bytes; TARGETID in decimal digits.
    ra, dec
        (N,) ICRS degrees.
    """

    def read_spectra(self, rows: ArrayLike) -> Spectra:
        """Read spectra by row number, in any order, repeated ones too.

        A pixel where `spectrum_mask` is not 0 is bad; the rules are those of `grid.combine_arms`.

        Raises
        ------
        DataError
            If a file is damaged, or its wavelengths are not the combined DESI grid.
        """
        unique, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        parts = []
        for path, inside, _ in self.locate(unique):  # rows ascend through the files
            with Hdf5File(path) as h5:
                parts.append(combine_arms(len(inside), [_read_arm(h5, inside)]))
        return stack_spectra(parts).take(inverse)

    def read_redshifts(self, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return redshift (NaN where a file has none) and whether it is good, of rows by number.

        Trap: in these files ZWARN is a truth value that is True where the redshift is *good*. Where it is a
        number it is Redrock's bit mask, good where 0; without ZWARN nothing is good.
        """
        unique, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        redshift, good = np.full(len(unique), np.nan), np.zeros(len(unique), bool)
        for path, inside, at in self.locate(unique):
            with Hdf5File(path) as h5:
                if "Z" in h5:
                    redshift[at] = h5.read_rows("Z", inside)
                if "ZWARN" in h5:
                    zwarn = h5.read_rows("ZWARN", inside)
                    good[at] = zwarn if zwarn.dtype.kind == "b" else zwarn == 0
        return redshift[inverse], good[inverse] & np.isfinite(redshift[inverse])


class MultimodalImages(_Rows):
    """Legacy Survey DR10 images of Multimodal Universe files (use `open_multimodal_images`).

    The index is in memory: identity, position, and 32 bytes a row. Not for several threads.

    Attributes
    ----------
    files, unreadable
        The readable files, and those that cannot be read, and why.
    first
        Number of the first row of each file, and of all rows.
    object_id
        (N,) bytes; BRICKNAME-OBJID in DR10.
    ra, dec
        (N,) ICRS degrees.
    pixscale
        (N,) 0.262 arcsec/px.
    """

    @property
    def pixscale(self) -> NDArray[np.float64]:
        """Pixel scale of each image in arcsec/px."""
        return np.broadcast_to(PIXSCALE, len(self))

    def close(self) -> None:
        """Do nothing: no file stays open between calls."""

    def read(
        self,
        i: int,
        ra: float = np.nan,  # noqa: ARG002 - called like ImageFolder.read
        dec: float = np.nan,  # noqa: ARG002
        size: int = CUTOUT_SIZE,
    ) -> NDArray[np.float32]:
        """Read one stamp, see `read_images`; its centre is the object, whatever `ra` and `dec` are."""
        return self.read_images([i], size)[0]

    def read_images(self, rows: ArrayLike, size: int = CUTOUT_SIZE) -> NDArray[np.float32]:
        """Read stamps by row number, in any order, repeated ones too.

        Returns
        -------
        (m, 3, size, size) float32 g, r, z nanomaggies: the centre of the stored image; NaN outside of it,
        where all bands are exactly 0, and where the inverse variance is 0. `image_mask` is not used: its
        meaning changed between versions of these files.

        Raises
        ------
        DataError
            If a file is damaged, has no g, r, z, or is not at 0.262 arcsec/px.
        """
        unique, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        stamps = np.full((len(unique), len(BANDS), size, size), np.nan, np.float32)
        for path, inside, at in self.locate(unique):
            with Hdf5File(path) as h5:
                stamps[at] = _read_stamps(h5, inside, size)
        return stamps[inverse]


def open_multimodal_spectra(path: str | Path) -> MultimodalSpectra:
    """Index the spectra of a file, or of all ``*.hdf5`` under a folder, by identity and position.

    Raises
    ------
    DataError
        If the path does not exist, or no file under it holds spectra; it names the first one's fault.
    """
    spectra = MultimodalSpectra(find_hdf5(path, PATTERNS), SPECTRUM)
    if not spectra.files:
        raise DataError(spectra.unreadable[0][1])
    return spectra


def open_multimodal_images(path: str | Path) -> MultimodalImages:
    """Index the images of a file, or of all ``*.hdf5`` under a folder, by identity and position.

    Raises
    ------
    DataError
        If the path does not exist, or no file under it holds images; it names the first one's fault.
    """
    images = MultimodalImages(find_hdf5(path, PATTERNS), IMAGE)
    if not images.files:
        raise DataError(images.unreadable[0][1])
    return images


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


def _read_arm(h5: Hdf5File, rows: NDArray[np.int64]) -> ArmPixels:
    """Read flux, ivar and mask of ascending rows; without `spectrum_lambda` the grid is DESI's."""
    flux, ivar = (h5.read_rows(f"spectrum_{name}", rows).astype(np.float32) for name in ("flux", "ivar"))
    wave = desi_wave()
    if "spectrum_lambda" in h5:
        own = len(h5.shape("spectrum_lambda")) == 2
        wave = h5.read_rows("spectrum_lambda", rows[:1])[0] if own else h5.read("spectrum_lambda")
    if flux.shape != ivar.shape or flux.shape[1:] != wave.shape:
        raise DataError(
            f"{h5.path}: spectrum_flux of {flux.shape[1:]} pixels, spectrum_ivar {ivar.shape[1:]}, "
            f"wavelengths {wave.shape}. Expected the same of all, {N_WAVE} for DESI"
        )
    kept, place = place_on_grid(wave.astype(float), f"{h5.path}: dataset 'spectrum_lambda'")
    mask = np.zeros(flux.shape, np.int32)
    if "spectrum_mask" in h5:
        mask = h5.read_rows("spectrum_mask", rows).astype(np.int32)
    return ArmPixels(place, flux[:, kept], ivar[:, kept], mask[:, kept])


def _read_stamps(h5: Hdf5File, rows: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """Read the stamps (m, 3, size, size) of ascending rows of a file."""
    shape = h5.shape(IMAGE)
    names = DR10_BANDS
    if "image_band" in h5:
        names = tuple(name.decode()[-1:].lower() for name in np.ravel(h5.read("image_band", 0, 1)))
    if len(shape) != 4 or len(names) != shape[1] or not set(BANDS) <= set(names):
        raise DataError(
            f"{h5.path}: dataset '{IMAGE}' has shape {shape} and bands {', '.join(names)}. "
            "Expected (N, bands, H, W) with g, r, z among the bands"
        )
    if "image_scale" in h5:
        scale = h5.read("image_scale", 0, 1)
        if not np.allclose(scale, PIXSCALE, atol=1e-3):
            raise DataError(f"{h5.path}: images at {np.ravel(scale)} arcsec/px, expected {PIXSCALE}")
    planes = [names.index(band) for band in BANDS]
    images = h5.read_rows(IMAGE, rows)[:, planes].astype(np.float32)
    if "image_ivar" in h5 and h5.shape("image_ivar") != shape:
        raise DataError(
            f"{h5.path}: dataset 'image_ivar' has shape {h5.shape('image_ivar')}, '{IMAGE}' {shape}. "
            "Expected the same of both"
        )
    if "image_ivar" in h5:
        images[~(h5.read_rows("image_ivar", rows)[:, planes] > 0)] = np.nan
    return centre_stamps(images, size)
