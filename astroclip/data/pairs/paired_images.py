"""The images of a set of pairs as a `PixelSet`.

Shapes: N pairs.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.lookup import RowLookup
from astroclip.data.pairs.reader import open_pairs
from astroclip.data.pixels import (
    BLOCK_ROWS,
    BY_BRICK,
    BY_POSITION,
    BY_TARGETID,
    Images,
    Match,
    Modality,
)
from astroclip.data.stamps import centre_stamps
from astroclip.schema import CUTOUT_SIZE, PIXSCALE, TARGETID, PairsKey
from astroclip.tables.identity import Who


class PairedImages:
    """Images of a set of pairs in any of its forms, found by TARGETID, else by position where it knows them.

    The index is in memory, 28 bytes a row; pixels are read as they are asked for, each stretch of rows at
    once. There are no `problems`: a set of pairs that is not whole is refused.

    Raises
    ------
    DataError
        If it is damaged.
    """

    modality: Modality = "image"

    def __init__(self, path: str | Path) -> None:
        self._pairs = open_pairs(path)
        self.name, self.files = f"images of {Path(path).name}", [Path(path)]
        self.problems: list[tuple[Path, str]] = []
        known = self._pairs.read([PairsKey.TARGETID, PairsKey.RA, PairsKey.DEC])
        ids, ra, dec = (known[key] for key in (PairsKey.TARGETID, PairsKey.RA, PairsKey.DEC))
        nowhere = np.full(len(self._pairs), np.nan)
        placed = ra is not None and dec is not None
        ra, dec = (ra, dec) if placed else (nowhere, nowhere)
        self._who = Who({TARGETID: np.asarray(ids, np.int64)}, np.asarray(ra), np.asarray(dec))
        self._lookup = RowLookup(*self._who)
        self.found_by: tuple[str, ...] = (BY_TARGETID, BY_BRICK, *([BY_POSITION] if placed else []))

    def __len__(self) -> int:
        return len(self._pairs)

    def close(self) -> None:
        """Close the file."""
        self._pairs.close()

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Who]:
        """Yield identity and position of all pairs in order, at most `rows` at a time."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            ids = {name: values[part] for name, values in self._who.ids.items()}
            yield Who(ids, self._who.ra[part], self._who.dec[part])

    def locate(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return 0, the number of the file, and the row in it."""
        number = np.asarray(rows, np.int64)
        return np.zeros_like(number), number

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:
        """Find a pair for each row: the first of several, which is ambiguous."""
        return self._lookup.match(who, radius_arcsec)

    def read(
        self,
        rows: ArrayLike,
        ra: ArrayLike | None = None,  # noqa: ARG002 - the centre of an image is its galaxy
        dec: ArrayLike | None = None,  # noqa: ARG002
        size: int = CUTOUT_SIZE,
    ) -> Images:
        """Read the centres of images by row number: see `stamps.centre_stamps`.

        Raises
        ------
        DataError
            If rows cannot be read.
        """
        images = np.asarray(self._pairs.take([PairsKey.IMAGE], rows)[PairsKey.IMAGE])
        return Images(centre_stamps(images, size), np.full(len(images), PIXSCALE))
