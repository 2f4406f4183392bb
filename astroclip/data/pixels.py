"""The two types of pixels that travel, and what every set of them can do: `match` rows, `read` pixels.

Readers of survey files give `Images` and `Spectra`; preprocessing, training, crossmatch, search and figures
take them. `PixelSet` is the one protocol of whatever holds them: a folder, a file, a column, a service.

Shapes: n rows asked for, H and W pixels of an image, S wavelengths.
"""

from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.schema import BANDS, CUTOUT_SIZE
from astroclip.tables.identity import Who

Modality = Literal["image", "spectrum"]
BLOCK_ROWS = 1_000_000  # rows of which identities are read at once
BY_TARGETID = "TARGETID"
BY_BRICK = "RELEASE, BRICKID, OBJID"
BY_FIBER = "PLATE, MJD, FIBERID"
BY_POSITION = "position"
BY_FILE = "FILE"


class Images(NamedTuple):
    """Images of one size: they travel together.

    Attributes
    ----------
    flux
        (n, 3, H, W) float32 in the order of `bands`, nanomaggies; NaN where there is no measurement. Where
        they are `stretched`, colours in 0 to 1 as the encoder wants them.
    pixscale
        (n,) arcsec/px; NaN where unknown.
    bands
        Names of the planes.
    stretched
        Whether a viewer has stretched them already (PNG, JPEG).
    """

    flux: NDArray[np.float32]
    pixscale: NDArray[np.float64]
    bands: tuple[str, ...] = BANDS
    stretched: bool = False

    @property
    def good(self) -> NDArray[np.bool_]:
        """(n, 3, H, W) which pixels hold a measurement."""
        return np.isfinite(self.flux)

    def take(self, rows: NDArray) -> Self:
        """Return some images: indices, repeated ones too, or a boolean mask."""
        return self._replace(flux=self.flux[rows], pixscale=self.pixscale[rows])


class Spectra(NamedTuple):
    """Spectra: they travel together.

    Attributes
    ----------
    wave
        (S,) Å, vacuum; or (n, S), each spectrum on its own grid. NaN where it has no pixel: behind the end of
        a shorter one, and where an arm is missing.
    flux
        (n, S) float32, 1e-17 erg/s/cm²/Å; 0 where `ivar` is 0.
    ivar
        (n, S) float32, inverse variance of `flux`; 0 where there is no good measurement.
    mask
        (n, S) int32; 0 where `ivar` is positive, never 0 elsewhere.
    """

    wave: NDArray[np.float64]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.int32]

    @property
    def good(self) -> NDArray[np.bool_]:
        """(n, S) which pixels hold a measurement."""
        return self.ivar > 0

    def take(self, rows: NDArray) -> Self:
        """Return the spectra of some rows: indices, repeated ones too, or a boolean mask."""
        wave = self.wave if self.wave.ndim == 1 else self.wave[rows]
        return self._replace(wave=wave, flux=self.flux[rows], ivar=self.ivar[rows], mask=self.mask[rows])


class How(IntEnum):
    """How a row found its pixels."""

    NONE = 0
    ID = 1  # an identifier that both have
    CENTRE = 2  # a position within the radius
    FOOTPRINT = 3  # the position lies on the image
    ROW = 4  # the pixels are the row's own; `Match.row` counts from the first row asked for


class Match(NamedTuple):
    """What a `PixelSet` has of each row: its number there (-1: nothing), `How`, whether several fit; (n,)."""

    row: NDArray[np.int64]
    how: NDArray[np.int8]
    ambiguous: NDArray[np.bool_]


class PixelSet(Protocol):
    """Images or spectra, whatever holds them, numbered from 0; opened by `data.open_pixels`.

    Attributes
    ----------
    name
        What provenance and messages call it, as in ``images of cutouts``.
    modality
        ``image`` or ``spectrum``.
    problems
        Files that cannot be read or are odd, and why; grows as they are read.
    found_by
        What finds a row's pixels, as messages name it: of `BY_TARGETID`, `BY_BRICK`, `BY_FIBER`,
        `BY_POSITION` and the like; names of `Who.ids` between commas. None of them where the pixels are the
        table's own (`How.ROW`).
    """

    name: str
    modality: Modality
    problems: list[tuple[Path, str]]
    found_by: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:
        """Find the pixels of each row: by identifiers, else by position."""
        ...

    def read(
        self,
        rows: NDArray[np.int64],
        ra: ArrayLike | None = None,
        dec: ArrayLike | None = None,
        size: int = CUTOUT_SIZE,
    ) -> Images | Spectra:
        """Read pixels by number, in any order, repeated ones too; each file is opened once.

        `ra`, `dec` (n,) and `size` matter for images only: where on a larger image the galaxy lies (its
        centre without them), and the side of the stamps in pixels.

        Raises
        ------
        DataError
            If one of them cannot be read; read the others without it.
        """
        ...

    def close(self) -> None:
        """Close the files that are open."""
        ...


class PixelFiles(PixelSet, Protocol):
    """A `PixelSet` in files, which knows who is in them: those are catalogues too.

    Attributes
    ----------
    files
        All files that can be read, or that are named in `problems` when they are read.
    """

    files: list[Path]

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Who]:
        """Yield identity and position of all, in order, at most `rows` at a time."""
        ...

    def locate(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of the file, and the row in it, of pixels by their number."""
        ...
