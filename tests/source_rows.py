"""A catalogue of a few columns, and what a source gives for its rows."""

from pathlib import Path

import fitsio
import numpy as np
import torch

from astroclip.model.prepare_images import prepare_images
from astroclip.model.sources import ModelInputs, SourceOptions, image_source, spectrum_source
from astroclip.schema import EmbedFlag
from astroclip.tables import open_table

SIZE = 48
NO, OPTIONS = EmbedFlag(0), SourceOptions()


def write_table(
    path: Path, units: dict[str, str] | None = None, header: dict | None = None, **columns
) -> Path:
    """Write a catalogue of the columns."""
    names = list(columns)
    fitsio.write(
        path,
        [np.asarray(columns[n]) for n in names],
        names=names,
        units=[(units or {}).get(n, "") for n in names],
        header=header,
        extname="CATALOGUE",
        clobber=True,
    )
    return path


def read_images(
    path: Path, wanted: object = None, options: SourceOptions = OPTIONS, size: int = SIZE
) -> ModelInputs:
    with open_table(path) as table:
        source = image_source(table, None if wanted is None else str(wanted), size, options)
        return source.read(table.read(source.columns, 0, table.nrows), 0)


def read_spectra(path: Path, wanted: object = None, options: SourceOptions = OPTIONS) -> ModelInputs:
    with open_table(path) as table:
        source = spectrum_source(table, None if wanted is None else str(wanted), options)
        return source.read(table.read(source.columns, 0, table.nrows), 0)


def rgb_of(image: np.ndarray, size: int = SIZE) -> torch.Tensor:
    return prepare_images(image[None], size).rgb[0]
