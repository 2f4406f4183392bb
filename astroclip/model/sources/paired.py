"""Pairs as a source: images and spectra of astroclip's pairs file, and of the published pairs.

Shapes: N pairs, m rows asked for, S = 7781 wavelengths.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from astroclip.data.grid import ArmPixels, Spectra, combine_arms
from astroclip.data.lookup import RowLookup
from astroclip.data.pairs import open_pairs
from astroclip.data.pixels import Match
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, TARGETID, PairsKey
from astroclip.tables import FitsTable
from astroclip.tables.identity import Who


class PairedRows:
    """Rows of a set of pairs, called like the images and spectra of Multimodal Universe files.

    They are found by TARGETID, or by RELEASE, BRICKID, OBJID, which it encodes, else by position. The index
    is in memory, 32 bytes a row; pixels are read as they are asked for, each stretch of rows at once.

    Raises
    ------
    DataError
        If it is damaged, or knows no positions, as the published pairs, and the catalogue no TARGETID.
    """

    def __init__(self, table: FitsTable, path: Path) -> None:
        self._pairs = open_pairs(path)
        self.problems: list[tuple[Path, str]] = []
        known = self._pairs.read([PairsKey.TARGETID, PairsKey.RA, PairsKey.DEC])
        ids, ra, dec = (known[key] for key in (PairsKey.TARGETID, PairsKey.RA, PairsKey.DEC))
        if (ra is None or dec is None) and not table.find(TARGETID):
            raise DataError(
                f"{table.name}: {path} has no positions, its rows are found by TARGETID, and the table has "
                "no such column"
            )
        nowhere = np.full(len(self._pairs), np.nan)
        self._index = RowLookup(
            {TARGETID: np.asarray(ids)}, nowhere if ra is None else ra, nowhere if dec is None else dec
        )

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:
        """Find a pair for each row: the first of several, which is ambiguous."""
        return self._index.match(who, radius_arcsec)

    def read_spectra(self, rows: ArrayLike) -> Spectra:
        """Read spectra by the rules of `grid.combine_arms`.

        The published pairs have neither ivar nor mask: every finite pixel counts as good, with ivar 1.
        """
        pixels = self._pairs.take([PairsKey.FLUX, PairsKey.IVAR, PairsKey.MASK], rows)
        flux, ivar, mask = (pixels[key] for key in (PairsKey.FLUX, PairsKey.IVAR, PairsKey.MASK))
        flux = np.array(flux)  # what an Arrow file maps into memory cannot be changed
        ivar = np.ones_like(flux) if ivar is None else ivar
        mask = np.zeros(flux.shape, np.int32) if mask is None else mask.astype(np.int32)
        return combine_arms(len(flux), [ArmPixels(slice(0, N_WAVE), flux, ivar, mask)])
