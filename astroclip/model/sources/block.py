"""What every source takes and gives: a block of catalogue rows in, model inputs and flags out.

Shapes: n rows of a block, S side of the model's crop in pixels, W spectral pixels.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from astroclip.data.multimodal import PATTERNS
from astroclip.errors import DataError
from astroclip.model.prepare_images import prepare_images
from astroclip.model.prepare_spectra import prepare_spectra
from astroclip.schema import DEC_NAMES, RA_NAMES, EmbedFlag
from astroclip.tables import FitsTable

logger = logging.getLogger(__name__)
Block = Mapping[str, NDArray]
Flags = NDArray[np.int32]


class SourceOptions(NamedTuple):
    """Tolerances of the sources.

    Attributes
    ----------
    max_bad
        Fraction of bad pixels above which a row is flagged.
    radius_arcsec
        How far a cut-out's centre, or a spectrum's position, may be from the row's.
    resample
        Whether to resample images at another pixel scale to 0.262 arcsec/px, rather than flag them.
    """

    max_bad: float = 0.1
    radius_arcsec: float = 1.0
    resample: bool = False


class ModelInputs(NamedTuple):
    """Inputs of a model for a block of rows.

    Attributes
    ----------
    inputs
        (n, 3, S, S) in [0, 1] for images, (n, 7781) flux for spectra; 0 where there is nothing.
    flag
        (n,) bits of `EmbedFlag`.
    """

    inputs: Tensor
    flag: Flags


class Source(Protocol):
    """What `embed` asks of a source: its name for provenance, its columns, its inputs block by block."""

    name: str
    columns: list[str]

    def read(self, block: Block, start: int) -> ModelInputs:
        """Return the inputs of the rows in `block`, whose first is row `start` of the catalogue."""
        ...


def find_position(table: FitsTable) -> list[str]:
    """Return the names of the position columns, or none."""
    names = [table.find(*RA_NAMES), table.find(*DEC_NAMES)]
    return [name for name in names if name] if all(names) else []


def read_position(block: Block, names: list[str]) -> tuple[NDArray, NDArray]:
    """Return the right ascension and declination of the rows, NaN without columns of them."""
    if not names:
        nowhere = np.full(len(next(iter(block.values()))), np.nan)
        return nowhere, nowhere
    return block[names[0]], block[names[1]]


def holds_hdf5(path: Path) -> bool:
    """Tell whether a file's name is that of an HDF5 file, or a folder holds such files and no FITS."""
    if path.is_file():
        return any(path.match(pattern) for pattern in PATTERNS)
    return not any(path.rglob("*.fits*")) and any(any(path.rglob(pattern)) for pattern in PATTERNS)


def find_unreadable(
    read: Callable[[NDArray[np.int64]], None], rows: NDArray[np.int64], start: int
) -> NDArray[np.int64]:
    """Read rows together; where that fails, by halves, so that the rows returned alone cannot be read."""
    if not len(rows):
        return rows
    try:
        read(rows)
    except DataError as error:
        if len(rows) > 1:
            return np.concatenate([find_unreadable(read, half, start) for half in np.array_split(rows, 2)])
        logger.info("row %d: %s", start + rows[0], error)
        return rows
    return rows[:0]


def image_inputs(images: Tensor, flag: Flags, size: int, options: SourceOptions) -> ModelInputs:
    """Prepare images (n, 3, H, W) and flag what is bad about them."""
    prepared = prepare_images(images, size)
    bad = prepared.bad_fraction.numpy()
    flag |= np.where(bad > options.max_bad, EmbedFlag.BAD_IMAGE_PIXELS, 0)
    flag |= np.where(bad >= 1, EmbedFlag.NO_IMAGE, 0)
    flag |= EmbedFlag.IMAGE_PADDED if prepared.padded else 0
    flag[bad >= 1] &= ~(EmbedFlag.BAD_IMAGE_PIXELS | EmbedFlag.IMAGE_PADDED)
    return ModelInputs(prepared.rgb, flag)


def spectrum_inputs(
    flux: NDArray,
    ivar: NDArray | None,
    mask: NDArray | None,
    wave: NDArray | None,
    flag: Flags,
    options: SourceOptions,
) -> ModelInputs:
    """Prepare spectra (n, W) and flag what is bad about them."""
    prepared = prepare_spectra(flux, ivar, mask, wave)
    bad, covered = prepared.bad_fraction.numpy(), prepared.coverage.numpy()
    flag |= np.where(bad > options.max_bad, EmbedFlag.BAD_SPECTRUM_PIXELS, 0)
    flag |= np.where(covered < 1, EmbedFlag.PARTIAL_COVERAGE, 0)
    flag[bad >= 1] &= ~(EmbedFlag.BAD_SPECTRUM_PIXELS | EmbedFlag.PARTIAL_COVERAGE)
    flag |= np.where(bad >= 1, EmbedFlag.NO_SPECTRUM, 0)
    return ModelInputs(prepared.flux, flag)
