"""The images, and the spectra, of a set of pairs as `PixelSet`s."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.data.grid import clean_spectra
from astroclip.data.pairs.reader import open_pairs
from astroclip.data.pixel_rows import IndexedFiles, P
from astroclip.data.pixels import BY_BRICK, BY_POSITION, BY_TARGETID, Images, Modality, Spectra
from astroclip.data.stamps import centre_stamps
from astroclip.schema import PIXSCALE, TARGETID, PairsKey
from astroclip.tables.identity import Who


class PairedPixels(IndexedFiles[P]):
    """Pixels of a set of pairs in any of its forms, found by TARGETID, else by position where it knows them.

    Pixels are read as they are asked for, each stretch of rows at once. There are no `problems`: a set of
    pairs that is not whole is refused.

    Raises
    ------
    DataError
        If it is damaged.
    """

    def __init__(self, path: str | Path, kind: str) -> None:
        self._pairs = open_pairs(path)
        known = self._pairs.read([PairsKey.TARGETID, PairsKey.RA, PairsKey.DEC])
        ids, ra, dec = (known[key] for key in (PairsKey.TARGETID, PairsKey.RA, PairsKey.DEC))
        found_by: tuple[str, ...] = (BY_TARGETID, BY_BRICK, BY_POSITION)
        if ra is None or dec is None:
            ra = dec = np.full(len(self._pairs), np.nan)
            found_by = found_by[:2]
        who = Who({TARGETID: np.asarray(ids, np.int64)}, np.asarray(ra), np.asarray(dec))
        super().__init__(f"{kind} of {Path(path).name}", found_by, [Path(path)], [who])

    def close(self) -> None:
        """Close the file."""
        self._pairs.close()


class PairedSpectra(PairedPixels[Spectra]):
    """Spectra of a set of pairs; of the published ones every finite pixel is good, with ivar 1."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "spectra")

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        pixels = self._pairs.take([PairsKey.FLUX, PairsKey.IVAR, PairsKey.MASK], rows)
        flux, ivar, mask = (pixels[key] for key in (PairsKey.FLUX, PairsKey.IVAR, PairsKey.MASK))
        return clean_spectra(self._pairs.wave, np.asarray(flux), ivar, mask)


class PairedImages(PairedPixels[Images]):
    """Images of a set of pairs, see `stamps.centre_stamps`."""

    modality: Modality = "image"

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "images")

    def _read(self, rows: NDArray[np.int64], size: int) -> Images:
        images = np.asarray(self._pairs.take([PairsKey.IMAGE], rows)[PairsKey.IMAGE])
        return Images(centre_stamps(images, size), np.full(len(images), PIXSCALE))
