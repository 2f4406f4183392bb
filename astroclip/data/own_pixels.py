"""The pixels of a catalogue that is made of them, row by row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.grid import stack_spectra
from astroclip.data.pixel_rows import OwnRows
from astroclip.data.pixels import Images, PixelFiles, Spectra


class OwnPixels(OwnRows[Any]):
    """The pixels of a catalogue's own rows, in files one after the other: row i of it is number i."""

    def __init__(self, parts: Sequence[PixelFiles]) -> None:
        self.modality = parts[0].modality
        super().__init__("its own images" if self.modality == "image" else "its own spectra")
        self.parts = parts
        self.problems = [problem for part in parts for problem in part.problems]
        self._first = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def _read(self, rows: NDArray[np.int64], size: int) -> Images | Spectra:
        part = np.searchsorted(self._first, rows, side="right") - 1
        return stack_pixels(
            [self.parts[one].read(rows[part == one] - self._first[one], size=size) for one in np.unique(part)]
            or [self.parts[0].read(rows, size=size)]
        )

    def close(self) -> None:
        """Close the files."""
        for part in self.parts:
            part.close()


def stack_pixels(parts: Sequence[Images | Spectra], order: NDArray | None = None) -> Images | Spectra:
    """Put images, or spectra, one below the other, and in another order if one is given."""
    if isinstance(parts[0], Spectra):
        spectra = stack_spectra(part for part in parts if isinstance(part, Spectra))
        return spectra if order is None else spectra.take(order)
    images = [part for part in parts if isinstance(part, Images)]
    flux = np.concatenate([part.flux for part in images])
    pixscale = np.concatenate([part.pixscale for part in images])
    rows = slice(None) if order is None else order
    return images[0]._replace(flux=flux[rows], pixscale=pixscale[rows])
