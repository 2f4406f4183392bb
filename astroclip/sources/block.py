"""What every source takes and gives: a block of catalogue rows in, model inputs and flags out."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from astroclip.catalog import Catalog
from astroclip.schema import DEC_NAMES, RA_NAMES

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


def find_position(table: Catalog) -> list[str]:
    """Return the names of the position columns, or none."""
    names = [table.find(*RA_NAMES), table.find(*DEC_NAMES)]
    return [name for name in names if name] if all(names) else []
