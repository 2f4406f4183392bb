"""The spectra of a set of pairs as a `PixelSet`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.data.grid import clean_spectra
from astroclip.data.pairs.reader import open_pairs
from astroclip.data.pixels import BY_BRICK, BY_POSITION, BY_TARGETID, Spectra
from astroclip.data.spectrum_set import SpectrumFiles
from astroclip.schema import TARGETID, PairsKey
from astroclip.tables.identity import Who


class PairedSpectra(SpectrumFiles):
    """Spectra of a set of pairs in any of its forms, found by TARGETID, else by position where it knows them.

    Pixels are read as they are asked for, each stretch of rows at once. The published pairs have neither
    ivar nor mask: every finite pixel counts as good, with ivar 1.

    Raises
    ------
    DataError
        If it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self._pairs = open_pairs(path)
        known = self._pairs.read([PairsKey.TARGETID, PairsKey.RA, PairsKey.DEC])
        ids, ra, dec = (known[key] for key in (PairsKey.TARGETID, PairsKey.RA, PairsKey.DEC))
        placed = ra is not None and dec is not None
        nowhere = np.full(len(self._pairs), np.nan)
        position = (ra, dec) if ra is not None and dec is not None else (nowhere, nowhere)
        who = Who({TARGETID: np.asarray(ids, np.int64)}, *position)
        found_by = (BY_TARGETID, BY_BRICK, *([BY_POSITION] if placed else []))
        super().__init__(f"spectra of {Path(path).name}", found_by, [Path(path)], [who])

    def _read(self, rows: NDArray[np.int64]) -> Spectra:
        pixels = self._pairs.take([PairsKey.FLUX, PairsKey.IVAR, PairsKey.MASK], rows)
        flux, ivar, mask = (pixels[key] for key in (PairsKey.FLUX, PairsKey.IVAR, PairsKey.MASK))
        return clean_spectra(self._pairs.wave, np.asarray(flux), ivar, mask)

    def close(self) -> None:
        """Close the file."""
        self._pairs.close()
