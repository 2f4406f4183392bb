"""The pixels of a catalogue that is made of them, row by row."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.grid import stack_spectra
from astroclip.data.pixels import How, Images, Match, PixelFiles, Spectra
from astroclip.schema import CUTOUT_SIZE
from astroclip.tables.identity import Who


class OwnPixels:
    """The pixels of a catalogue's own rows, in files one after the other: row i of it is number i.

    A `PixelSet`; see there.
    """

    found_by: tuple[str, ...] = ()

    def __init__(self, parts: Sequence[PixelFiles]) -> None:
        self.parts, self.modality = parts, parts[0].modality
        self.name = "its own images" if self.modality == "image" else "its own spectra"
        self.problems = [problem for part in parts for problem in part.problems]
        self._first = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:  # noqa: ARG002 - its own
        """Return the rows, counted from the first one asked for."""
        n = len(who.ra)
        return Match(np.arange(n), np.full(n, How.ROW, np.int8), np.zeros(n, bool))

    def read(
        self,
        rows: ArrayLike,
        ra: ArrayLike | None = None,  # noqa: ARG002 - the galaxy is at the centre of its image
        dec: ArrayLike | None = None,  # noqa: ARG002
        size: int = CUTOUT_SIZE,
    ) -> Images | Spectra:
        """Read pixels by the catalogue's rows, see `PixelSet.read`."""
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        part = np.searchsorted(self._first, rows, side="right") - 1
        order = np.argsort(part, kind="stable")
        read = [
            self.parts[one].read(rows[order][part[order] == one] - self._first[one], size=size)
            for one in np.unique(part)
        ] or [self.parts[0].read(rows, size=size)]
        back = np.argsort(order, kind="stable")
        if len(read) == 1:
            return read[0]
        if isinstance(read[0], Spectra):
            return stack_spectra(read).take(back)
        flux = np.concatenate([images.flux for images in read])[back]
        return read[0]._replace(
            flux=flux, pixscale=np.concatenate([images.pixscale for images in read])[back]
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
