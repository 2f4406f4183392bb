"""Pixels of a search: the image or spectrum in a file that is asked for, and those of rows for a gallery."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.data.legacysurvey import open_images, read_cutout
from astroclip.errors import DataError, UsageError
from astroclip.model.prepare_images import resample_pixscale
from astroclip.model.sources import ModelInputs, Source, SourceOptions, image_source, spectrum_source
from astroclip.model.sources.block import image_inputs
from astroclip.model.sources.images import SCALE_TOLERANCE
from astroclip.schema import PIXSCALE, EmbedFlag
from astroclip.search.examples import Example
from astroclip.tables import FitsTable, open_table

OPTIONS = SourceOptions(resample=True)  # a query has no flag that could tell of another pixel scale
NOTHING = {"image": EmbedFlag.NO_IMAGE, "spectrum": EmbedFlag.NO_SPECTRUM}


class GalaxyInputs(NamedTuple):
    """A galaxy as the encoders see it: `rgb` (3, S, S) in [0, 1] and `flux` (7781,), None if it has none."""

    rgb: NDArray[np.float32] | None
    flux: NDArray[np.float32] | None


def read_file(modality: str, name: str, size: int) -> ModelInputs:
    """Read the one image or spectrum of a file.

    Parameters
    ----------
    modality
        ``image`` or ``spectrum``.
    name
        An image in any layout of `surveys.legacysurvey.read_cutout`, of which the centre is taken, at another
        pixel scale than the survey's resampled; a DESI coadd; an SDSS spec file; a table with the column
        IMAGE or FLUX. Of several rows one is named, from 0, as in ``coadd-sv3-dark-26065.fits:3``.
    size
        Side of the image in pixels.

    Raises
    ------
    UsageError
        If the file has several rows and none is named.
    DataError
        If it cannot be read, or has no such pixels.
    """
    path, row = _split_row(name)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if modality == "image" and not open_images(path).unreadable:
        return _read_cutout(path, size)
    with open_table(path) as table:
        source = _source(table, modality, None, size)
        if source is None:
            kinds = {"image": "no cut-out, no column IMAGE", "spectrum": "no coadd, no spec, no column FLUX"}
            raise DataError(f"{path}: no {modality} in it: {kinds[modality]}")
        if row is None and table.nrows != 1:
            raise UsageError(f"{path}: {table.nrows} rows; say which, from 0: {path}:0")
        if not 0 <= (row or 0) < table.nrows:
            raise UsageError(f"{name}: there is no row {row}, {path.name} has {table.nrows} (from 0)")
        return source.read(table.read(source.columns, row or 0, (row or 0) + 1), row or 0)


def read_pixels(
    table: FitsTable, shown: Sequence[int | Example], images: str | None, spectra: str | None, size: int
) -> list[GalaxyInputs]:
    """Read galaxies to be drawn: rows of a table, or files.

    Parameters
    ----------
    table
    shown
        Rows, or examples that are files.
    images, spectra
        Where the rows' pixels are, see `sources.image_source` and `sources.spectrum_source`.
    size
        Side of the images in pixels.

    Raises
    ------
    UsageError, DataError
        If a source does not exist.
    """
    sources = {m: _source(table, m, w, size) for m, w in (("image", images), ("spectrum", spectra))}
    return [
        GalaxyInputs(*(_read_one(table, modality, source, one, size) for modality, source in sources.items()))
        for one in shown
    ]


def check_pixels(table: FitsTable, images: str | None, spectra: str | None, size: int) -> None:
    """Refuse a gallery for which there are no pixels, before anything is searched."""
    if _source(table, "image", images, size) is None and _source(table, "spectrum", spectra, size) is None:
        raise UsageError(
            f"{table.name}: no pixels for a gallery: no vector column IMAGE or FLUX. Say where they are with "
            "--images or --spectra"
        )


def _read_one(
    table: FitsTable, modality: str, source: Source | None, one: int | Example, size: int
) -> NDArray[np.float32] | None:
    """Return the pixels of one galaxy, or none."""
    if isinstance(one, Example):
        found = read_file(modality, one.value, size) if one.kind == modality else None
    else:
        found = source.read(table.read(source.columns, one, one + 1), one) if source else None
    return None if found is None or found.flag[0] & NOTHING[modality] else found.inputs[0].numpy()


def _source(table: FitsTable, modality: str, wanted: str | None, size: int) -> Source | None:
    """Return the source of a table's images or spectra."""
    if modality == "image":
        return image_source(table, wanted, size, OPTIONS)
    return spectrum_source(table, wanted, OPTIONS)


def _split_row(name: str) -> tuple[Path, int | None]:
    """Return the file and the row that ``FILE`` or ``FILE:ROW`` names."""
    file, colon, row = name.rpartition(":")
    if colon and row.isdecimal() and not Path(name).exists():
        return Path(file), int(row)
    return Path(name), None


def _read_cutout(path: Path, size: int) -> ModelInputs:
    """Read the centre of an image."""
    image, _, pixscale, *_ = read_cutout(path)
    stamp = torch.from_numpy(image)[None]
    if pixscale is not None and abs(pixscale / PIXSCALE - 1) > SCALE_TOLERANCE:
        stamp = resample_pixscale(stamp, pixscale)
    return image_inputs(stamp, np.zeros(1, np.int32), size, OPTIONS)
