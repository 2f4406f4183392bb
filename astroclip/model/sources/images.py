"""Sources of images: a vector column; cut-outs and larger images in files, or from a web service.

Shapes: n rows of a block, m of them read together, S side of the model's crop in pixels.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astroclip.data.fitsfile import check_image_unit
from astroclip.data.legacysurvey import ImageFolder, open_images
from astroclip.data.multimodal import MultimodalImages, open_multimodal_images
from astroclip.data.pairs import is_pairs
from astroclip.data.stein import SteinImages, is_stein, open_stein
from astroclip.errors import DataError, UsageError
from astroclip.model.prepare_images import center_crop, resample_pixscale
from astroclip.model.sources.block import (
    Block,
    ModelInputs,
    Source,
    SourceOptions,
    find_position,
    find_unreadable,
    holds_hdf5,
    image_inputs,
    read_position,
)
from astroclip.model.sources.paired import PairedRows
from astroclip.model.sources.services import LAYERS, LayerCutouts
from astroclip.schema import IMAGE, PIXSCALE, TARGETID, EmbedFlag
from astroclip.tables import FitsTable

logger = logging.getLogger(__name__)
SCALE_TOLERANCE = 0.01  # relative difference in arcsec/px below which a scale is the survey's
OneByOne = ImageFolder | LayerCutouts  # images read with `read`
Together = SteinImages | MultimodalImages | PairedRows  # and with `read_images`, many at a time


def image_source(table: FitsTable, wanted: str | None, size: int, options: SourceOptions) -> Source | None:
    """Return the source of images for a catalogue.

    Parameters
    ----------
    table : FitsTable
    wanted : str, optional
        An image file or a folder of them: FITS, or HDF5 of Stein et al. or Multimodal Universe; pairs; a
        layer of the Legacy Survey's web service, one of `LAYERS`; a vector column, by default IMAGE if there
        is one.
    size : int
        Side of the model's crop in pixels.
    options : SourceOptions

    Raises
    ------
    UsageError, DataError
        If what is wanted does not exist, or is not images in nanomaggies.
    """
    if wanted is not None and Path(wanted).exists():
        return ImageFiles(table, _open(table, Path(wanted)), f"images of {Path(wanted).name}", size, options)
    if wanted in LAYERS:
        if not find_position(table):
            raise DataError(
                f"{table.name}: cut-outs of {wanted} are fetched by position, and the table has none"
            )
        return ImageFiles(table, LayerCutouts(wanted, size), f"cut-outs of {wanted}", size, options)
    column = table.find(wanted or IMAGE)
    if column is None and wanted is not None:
        raise UsageError(
            f"--images {wanted}: neither a file, nor a folder, nor a column of {table.name}, nor one of "
            f"{', '.join(LAYERS)}"
        )
    return ImageColumn(table, column, size, options) if column else None


class ImageColumn:
    """Images in a vector column (3, H, W) of the catalogue; a card PIXSCALE of the table says their scale."""

    def __init__(self, table: FitsTable, column: str, size: int, options: SourceOptions) -> None:
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
        return image_inputs(images, np.full(len(images), flag, np.int32), self._size, self._options)


class ImageFiles:
    """Images that are found by id, else by position: in files, or those a web service has."""

    def __init__(
        self, table: FitsTable, images: OneByOne | Together, name: str, size: int, options: SourceOptions
    ) -> None:
        brick = [table.find("RELEASE"), table.find("BRICKID"), table.find("OBJID", "BRICK_OBJID")]
        self._ids = [[column] for column in (table.find(TARGETID),) if column]
        self._ids += [[column for column in brick if column]] if all(brick) else []
        self._position = find_position(table)
        if not (self._ids or self._position):
            raise DataError(
                f"{table.name}: {name} are found by TARGETID, by RELEASE, BRICKID, OBJID or by position, and "
                "the table has none of these columns"
            )
        images.match(None, [], [], 0)  # a damaged index is refused before anything is written
        self.name, self._images = name, images
        self.columns = [*(column for key in self._ids for column in key), *self._position]
        self._size, self._options = size, options

    def read(self, block: Block, start: int) -> ModelInputs:
        """Find and read a stamp for each row; files are opened once a block."""
        ra, dec = read_position(block, self._position)
        ids = [
            ["-".join(map(str, row)) for row in zip(*(block[c] for c in key), strict=True)]
            for key in self._ids
        ]
        match = self._images.match(ids or None, ra, dec, self._options.radius_arcsec)
        images = np.full((len(ra), 3, self._size, self._size), np.nan, np.float32)
        flag = np.where(match.ambiguous, EmbedFlag.AMBIGUOUS_IMAGE, 0).astype(np.int32)

        def fill(rows: NDArray[np.int64]) -> None:
            images[rows], bits = self._read_stamps(match.file[rows], ra[rows], dec[rows])
            flag[rows] |= bits

        found = np.flatnonzero(match.file >= 0)
        found = found[np.argsort(match.file[found], kind="stable")]
        for rows in [found] if isinstance(self._images, Together) else found[:, None]:
            flag[find_unreadable(fill, rows, start)] |= EmbedFlag.UNREADABLE_IMAGE
        return image_inputs(torch.from_numpy(images), flag, self._size, self._options)

    def _read_stamps(
        self, numbers: NDArray[np.int64], ra: NDArray, dec: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return stamps (m, 3, S, S) of one scale, the survey's where asked for, and their flag bits."""
        pixscale = float(np.nan_to_num(self._images.pixscale[numbers[0]], nan=PIXSCALE))
        size = self._size
        if self._options.resample and pixscale < PIXSCALE:
            size = int(np.ceil(size * PIXSCALE / pixscale))
        if isinstance(self._images, Together):
            stamps = self._images.read_images(numbers, size)
        else:
            stamps = np.stack([self._images.read(*row, size) for row in zip(numbers, ra, dec, strict=True)])
        padded = np.array([_pad_with_sky(stamp) for stamp in stamps], np.int32)
        images, flag = _to_survey_scale(torch.from_numpy(stamps), pixscale, self._options)
        return center_crop(images, self._size).numpy(), padded | flag


def _open(table: FitsTable, path: Path) -> ImageFolder | Together:
    """Open a file, or a folder, of images in whichever format they are."""
    images: ImageFolder | Together
    if is_pairs(path):
        images = PairedRows(table, path)
    elif is_stein(path):
        images = open_stein(path)
        for file, problem in images.problems:
            logger.info("%s: %s", file, problem)
    else:
        images = open_multimodal_images(path) if holds_hdf5(path) else open_images(path)
    for _, reason in images.unreadable:
        logger.warning("%s", reason)
    return images


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
