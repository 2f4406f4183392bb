"""Multimodal Universe (arXiv:2412.02527): Legacy Survey DR10 images in HDF5; see `multimodal`.

Shapes: N rows of all files, m rows asked for.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.data.hdf5file import Hdf5File, find_hdf5
from astroclip.data.multimodal import IMAGE, PATTERNS, MultimodalFiles
from astroclip.data.pixels import Images, Modality
from astroclip.data.stamps import centre_stamps
from astroclip.errors import DataError
from astroclip.schema import BANDS, PIXSCALE

DR10_BANDS = ("g", "r", "i", "z")  # planes of an image where the file does not name them


class MultimodalImages(MultimodalFiles[Images]):
    """Legacy Survey DR10 images of Multimodal Universe files (use `open_multimodal_images`).

    A stamp is the centre of the stored image. A pixel is NaN as `stamps.centre_stamps` says, and where its
    inverse variance is 0. `image_mask` is not used: its meaning changed between versions of these files. A
    file without g, r, z, or at another scale than 0.262 arcsec/px, cannot be read. Not for several threads.
    """

    modality: Modality = "image"

    def _read(self, rows: NDArray[np.int64], size: int) -> Images:
        parts = [np.zeros((0, len(BANDS), size, size), np.float32)]
        for path, inside in self.by_file(rows):
            with Hdf5File(path) as h5:
                parts.append(_read_stamps(h5, inside, size))
        return Images(np.concatenate(parts), np.full(len(rows), PIXSCALE))


def open_multimodal_images(path: str | Path) -> MultimodalImages:
    """Index the images of a file, or of all ``*.hdf5`` under a folder, by identity and position.

    Raises
    ------
    DataError
        If the path does not exist, or no file under it holds images; it names the first one's fault.
    """
    return MultimodalImages(f"images of {Path(path).name}", find_hdf5(path, PATTERNS), IMAGE)


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
