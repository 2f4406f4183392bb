"""A catalogue of a few columns, and what a source gives for its rows."""

from pathlib import Path

import fitsio
import numpy as np
import torch

from astroclip.model.inputs import InputOptions, ModelInputs, open_inputs
from astroclip.model.prepare_images import prepare_images
from astroclip.schema import EmbedFlag
from astroclip.tables import open_table

SIZE = 48
NO, OPTIONS = EmbedFlag(0), InputOptions()


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
    path: Path, wanted: object = None, options: InputOptions = OPTIONS, size: int = SIZE
) -> ModelInputs:
    with open_table(path) as table:
        inputs = open_inputs(table, "image", None if wanted is None else str(wanted), size, options)
        assert inputs
        return inputs.read(0, table.nrows)


def read_spectra(path: Path, wanted: object = None, options: InputOptions = OPTIONS) -> ModelInputs:
    with open_table(path) as table:
        inputs = open_inputs(table, "spectrum", None if wanted is None else str(wanted), options=options)
        assert inputs
        return inputs.read(0, table.nrows)


def rgb_of(image: np.ndarray, size: int = SIZE) -> torch.Tensor:
    return prepare_images(image[None], size).rgb[0]
