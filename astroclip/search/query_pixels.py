"""Pixels of a search: the image or spectrum in a file that is asked for, and those of rows for a gallery."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.coadd_sets import CoaddRows
from astroclip.data.kinds import find_kind
from astroclip.data.pixel_part import is_embedded
from astroclip.data.pixel_sets import DESI_KINDS, OPENERS, open_pixel_files
from astroclip.data.pixels import Modality
from astroclip.errors import DataError, UsageError
from astroclip.model.inputs import NOTHING, InputOptions, ModelInputs, PixelInputs, open_inputs
from astroclip.search.examples import Example
from astroclip.tables import Table, open_table

OPTIONS = InputOptions(resample=True)  # a query has no flag that could tell of another pixel scale


class PixelPlaces(NamedTuple):
    """Where the pixels of a table's rows are.

    Attributes
    ----------
    images, spectra
        See `model.inputs.open_inputs`.
    ra, dec
        The table's position columns, if they have no usual names.
    """

    images: str | None = None
    spectra: str | None = None
    ra: str | None = None
    dec: str | None = None

    def open(self, table: Table, size: int) -> dict[Modality, PixelInputs | None]:
        """Return the pixels of a table, with images of a side of `size` pixels; None where it has none."""
        options = OPTIONS._replace(ra=self.ra, dec=self.dec)
        wanted: dict[Modality, str | None] = {"image": self.images, "spectrum": self.spectra}
        return {modality: open_inputs(table, modality, at, size, options) for modality, at in wanted.items()}


class GalaxyInputs(NamedTuple):
    """A galaxy as the encoders see it: `rgb` (3, S, S) in [0, 1] and `flux` (7781,), None if it has none."""

    rgb: NDArray[np.float32] | None
    flux: NDArray[np.float32] | None


def read_file(modality: Modality, name: str, size: int) -> ModelInputs:
    """Read the one image or spectrum of a file.

    Parameters
    ----------
    modality
        ``image`` or ``spectrum``.
    name
        A file that `data.open_pixels` opens, of whose image the centre is taken, at another pixel scale than
        the survey's resampled; or a table with a column of pixels. Of several rows one is named, from 0, as
        in ``coadd-sv3-dark-26065.fits:3``.
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
    kind = find_kind(path)
    if kind in OPENERS[modality] and not is_embedded(path):
        pixels = CoaddRows(path) if kind in DESI_KINDS else open_pixel_files(path, modality)
        return _read_row(PixelInputs(pixels, size, OPTIONS), len(pixels), path, row)
    with open_table(path) as table:
        inputs = open_inputs(table, modality, None, size, OPTIONS)
        if inputs is None:
            kinds = {"image": "no cut-out, no column IMAGE", "spectrum": "no coadd, no spec, no column FLUX"}
            raise DataError(f"{path}: no {modality} in it: {kinds[modality]}")
        return _read_row(inputs, table.nrows, path, row)


def read_pixels(
    table: Table, shown: Sequence[int | Example], places: PixelPlaces, size: int
) -> list[GalaxyInputs]:
    """Read galaxies to be drawn: rows of a table, or files.

    Parameters
    ----------
    table
    shown
        Rows, or examples that are files.
    places
        Where the rows' pixels are.
    size
        Side of the images in pixels.

    Raises
    ------
    UsageError, DataError
        If a source does not exist.
    """
    sources = places.open(table, size)
    return [
        GalaxyInputs(*(_read_one(modality, inputs, one, size) for modality, inputs in sources.items()))
        for one in shown
    ]


def check_pixels(table: Table, places: PixelPlaces, size: int) -> None:
    """Refuse a gallery for which there are no pixels, before anything is searched."""
    if not any(places.open(table, size).values()):
        raise UsageError(
            f"{table.name}: no pixels for a gallery: no vector column IMAGE or FLUX. Say where they are with "
            "--images or --spectra"
        )


def _read_one(
    modality: Modality, inputs: PixelInputs | None, one: int | Example, size: int
) -> NDArray[np.float32] | None:
    """Return the pixels of one galaxy, or none."""
    if isinstance(one, Example):
        found = read_file(modality, one.value, size) if one.kind == modality else None
    else:
        found = inputs.read(one, one + 1) if inputs else None
    return None if found is None or found.flag[0] & NOTHING[modality] else found.inputs[0].numpy()


def _read_row(inputs: PixelInputs, nrows: int, path: Path, row: int | None) -> ModelInputs:
    """Read the row that is asked for, or the only one."""
    if row is None and nrows != 1:
        raise UsageError(f"{path}: {nrows} rows; say which, from 0: {path}:0")
    if not 0 <= (row or 0) < nrows:
        raise UsageError(f"{path}: there is no row {row}, it has {nrows} (from 0)")
    return inputs.read(row or 0, (row or 0) + 1)


def _split_row(name: str) -> tuple[Path, int | None]:
    """Return the file and the row that ``FILE`` or ``FILE:ROW`` names."""
    file, colon, row = name.rpartition(":")
    if colon and row.isdecimal() and not Path(name).exists():
        return Path(file), int(row)
    return Path(name), None
