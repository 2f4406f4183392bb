"""Sources of images: a vector column, cut-outs and larger images in files.

Shapes: n rows of a block, S side of the model's crop in pixels.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astroclip.catalog import Catalog
from astroclip.errors import DataError, UsageError
from astroclip.preprocess.image import center_crop, prepare_images, resample_pixscale
from astroclip.schema import IMAGE, PIXSCALE, TARGETID, EmbedFlag
from astroclip.sources.block import Block, Flags, ModelInputs, Source, SourceOptions, find_position
from astroclip.surveys import legacysurvey
from astroclip.surveys.fitsfile import check_image_unit

logger = logging.getLogger(__name__)
SCALE_TOLERANCE = 0.01  # relative difference in arcsec/px below which a scale is the survey's


def image_source(table: Catalog, wanted: str | None, size: int, options: SourceOptions) -> Source | None:
    """Return the source of images for a catalogue.

    Parameters
    ----------
    table : Catalog
    wanted : str, optional
        A vector column, an image file or a folder of them; by default the column IMAGE, if there is one.
    size : int
        Side of the model's crop in pixels.
    options : SourceOptions

    Raises
    ------
    UsageError, DataError
        If what is wanted does not exist, or is not images in nanomaggies.
    """
    if wanted is not None and Path(wanted).exists():
        return ImageFiles(table, Path(wanted), size, options)
    column = table.find(wanted or IMAGE)
    if column is None and wanted is not None:
        raise UsageError(f"--images {wanted}: neither a file, nor a folder, nor a column of {table.name}")
    return ImageColumn(table, column, size, options) if column else None


class ImageColumn:
    """Images in a vector column (3, H, W) of the catalogue; a card PIXSCALE of the table says their scale."""

    def __init__(self, table: Catalog, column: str, size: int, options: SourceOptions) -> None:
        spec = table.column(column)
        if len(spec.shape) != 3 or spec.shape[0] != 3:
            raise DataError(
                f"{table.name}: column '{column}' has shape {spec.shape}, expected (3, H, W): "
                "bands g, r, z, rows, columns (TDIM '(W,H,3)')"
            )
        check_image_unit(f"{table.name}: column '{column}'", spec.unit)
        self.name, self.columns = f"column {column}", [column]
        self._size, self._options = size, options
        self._pixscale = float(table.header.get("PIXSCALE", PIXSCALE))

    def read(self, block: Block, start: int) -> ModelInputs:
        """Prepare the column's images."""
        images, flag = _to_survey_scale(
            torch.from_numpy(block[self.columns[0]]), self._pixscale, self._options
        )
        return _image_inputs(images, np.full(len(images), flag, np.int32), self._size, self._options)


class ImageFiles:
    """Images in files: cut-outs found by id, else by position, and stamps from larger images."""

    def __init__(self, table: Catalog, path: Path, size: int, options: SourceOptions) -> None:
        self._images = legacysurvey.open_images(path)
        for _, reason in self._images.unreadable:
            logger.warning("%s", reason)
        brick = [table.find("RELEASE"), table.find("BRICKID"), table.find("OBJID", "BRICK_OBJID")]
        self._ids = [[name] for name in (table.find(TARGETID),) if name]
        self._ids += [[name for name in brick if name]] if all(brick) else []
        self._position = find_position(table)
        if not (self._ids or self._position):
            raise DataError(
                f"{table.name}: images of {path} are found by TARGETID, by RELEASE, BRICKID, OBJID or by "
                "position, and the table has none of these columns"
            )
        self.name = f"images of {path.name}"
        self.columns = [*(name for key in self._ids for name in key), *self._position]
        self._size, self._options = size, options

    def read(self, block: Block, start: int) -> ModelInputs:
        """Find and read a stamp for each row; files are opened once a block."""
        n = len(block[self.columns[0]])
        ra, dec = (block[name] for name in self._position) if self._position else np.full((2, n), np.nan)
        ids = [
            ["-".join(map(str, row)) for row in zip(*(block[c] for c in key), strict=True)]
            for key in self._ids
        ]
        match = self._images.match(ids or None, ra, dec, self._options.radius_arcsec)
        images = np.full((n, 3, self._size, self._size), np.nan, np.float32)
        flag = np.where(match.ambiguous, EmbedFlag.AMBIGUOUS_IMAGE, 0).astype(np.int32)
        for row in np.argsort(match.file, kind="stable"):
            if match.file[row] < 0:
                continue
            try:
                images[row], bits = self._read_one(int(match.file[row]), ra[row], dec[row])
            except DataError as error:
                logger.info("row %d: %s", start + row, error)
                bits = EmbedFlag.UNREADABLE_IMAGE
            flag[row] |= bits
        return _image_inputs(torch.from_numpy(images), flag, self._size, self._options)

    def _read_one(self, file: int, ra: float, dec: float) -> tuple[NDArray[np.float32], int]:
        """Return the stamp (3, S, S) of a row at the survey's scale where asked for, and its flag bits."""
        pixscale = float(np.nan_to_num(self._images.pixscale[file], nan=PIXSCALE))
        size = self._size
        if self._options.resample and pixscale < PIXSCALE:
            size = int(np.ceil(size * PIXSCALE / pixscale))
        stamp = self._images.read(file, ra, dec, size)
        padded = _pad_with_sky(stamp)
        image, flag = _to_survey_scale(torch.from_numpy(stamp), pixscale, self._options)
        return center_crop(image, self._size).numpy(), flag | padded


def _pad_with_sky(stamp: NDArray[np.float32]) -> int:
    """Set what lies outside of the image, rows and columns of NaN at the edges, to 0; return the flag bit."""
    seen = np.logical_or.reduce(np.isfinite(stamp), axis=0)
    if seen.all() or not seen.any():
        return 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    outside = np.ones_like(seen)
    outside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = False
    stamp[:, outside] = 0
    return EmbedFlag.IMAGE_PADDED if outside.any() else 0


def _to_survey_scale(images: Tensor, pixscale: float, options: SourceOptions) -> tuple[Tensor, int]:
    """Return images at 0.262 arcsec/px if they are or shall be; the flag bit says when they are not."""
    if abs(pixscale / PIXSCALE - 1) <= SCALE_TOLERANCE:
        return images, 0
    if not options.resample:
        return images, EmbedFlag.WRONG_PIXSCALE
    return resample_pixscale(images, pixscale), 0


def _image_inputs(images: Tensor, flag: Flags, size: int, options: SourceOptions) -> ModelInputs:
    """Prepare images (n, 3, H, W) and flag what is bad about them."""
    prepared = prepare_images(images, size)
    bad = prepared.bad_fraction.numpy()
    flag |= np.where(bad > options.max_bad, EmbedFlag.BAD_IMAGE_PIXELS, 0)
    flag |= np.where(bad >= 1, EmbedFlag.NO_IMAGE, 0)
    flag |= EmbedFlag.IMAGE_PADDED if prepared.padded else 0
    flag[bad >= 1] &= ~(EmbedFlag.BAD_IMAGE_PIXELS | EmbedFlag.IMAGE_PADDED)
    return ModelInputs(prepared.rgb, flag)
