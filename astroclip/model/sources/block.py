"""What every source takes and gives: a block of catalogue rows in, model inputs and flags out.

Shapes: n rows of a block, S side of the model's crop in pixels, W spectral pixels.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from astroclip.model.inputs import InputOptions, ModelInputs
from astroclip.model.prepare_spectra import prepare_spectra
from astroclip.schema import EmbedFlag
from astroclip.tables import FitsTable
from astroclip.tables.positions import find_position_names

Block = Mapping[str, NDArray]
Flags = NDArray[np.int32]


class Source(Protocol):
    """What `embed` asks of a source: its name for provenance, its columns, its inputs block by block."""

    name: str
    columns: list[str]

    def read(self, block: Block, start: int) -> ModelInputs:
        """Return the inputs of the rows in `block`, whose first is row `start` of the catalogue."""
        ...


def find_position(table: FitsTable, options: InputOptions) -> list[str]:
    """Return the names of the position columns, or none."""
    return list(find_position_names(table, options.ra, options.dec) or ())


def read_position(block: Block, names: list[str]) -> tuple[NDArray, NDArray]:
    """Return the right ascension and declination of the rows, NaN without columns of them."""
    if not names:
        nowhere = np.full(len(next(iter(block.values()))), np.nan)
        return nowhere, nowhere
    return block[names[0]], block[names[1]]


def spectrum_inputs(
    flux: NDArray,
    ivar: NDArray | None,
    mask: NDArray | None,
    wave: NDArray | None,
    flag: Flags,
    options: InputOptions,
) -> ModelInputs:
    """Prepare spectra (n, W) and flag what is bad about them."""
    prepared = prepare_spectra(flux, ivar, mask, wave)
    bad, covered = prepared.bad_fraction.numpy(), prepared.coverage.numpy()
    flag |= np.where(bad > options.max_bad, EmbedFlag.BAD_SPECTRUM_PIXELS, 0)
    flag |= np.where(covered < 1, EmbedFlag.PARTIAL_COVERAGE, 0)
    flag[bad >= 1] &= ~(EmbedFlag.BAD_SPECTRUM_PIXELS | EmbedFlag.PARTIAL_COVERAGE)
    flag |= np.where(bad >= 1, EmbedFlag.NO_SPECTRUM, 0)
    return ModelInputs(prepared.flux, flag)
