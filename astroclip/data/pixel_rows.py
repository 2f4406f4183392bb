"""What sets of pixels share: rows found by one index, and read in any order, each file opened once."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.lookup import RowLookup
from astroclip.data.pixels import BLOCK_ROWS, How, Images, Match, Modality, Spectra
from astroclip.schema import CUTOUT_SIZE
from astroclip.tables.identity import Who

P = TypeVar("P", Images, Spectra)


class PixelRows(ABC, Generic[P]):
    """A `PixelSet` whose pixels are those of the galaxy itself, at the centre of its image; see there.

    Parameters
    ----------
    name
        What provenance and messages call it.
    found_by
        What finds a row's pixels.
    """

    modality: Modality = "spectrum"

    def __init__(self, name: str, found_by: tuple[str, ...] = ()) -> None:
        self.name, self.found_by = name, found_by
        self.problems: list[tuple[Path, str]] = []

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:
        """Find the pixels of each row."""

    @abstractmethod
    def _read(self, rows: NDArray[np.int64], size: int) -> P:
        """Read pixels by ascending, unrepeated number."""

    def read(
        self,
        rows: ArrayLike,
        ra: ArrayLike | None = None,  # noqa: ARG002 - for images in which the galaxy lies anywhere
        dec: ArrayLike | None = None,  # noqa: ARG002
        size: int = CUTOUT_SIZE,
    ) -> P:
        """Read pixels by number, in any order, repeated ones too; `size` is that of images.

        Raises
        ------
        DataError
            If one of them cannot be read; read the others without it.
        """
        wanted = np.atleast_1d(np.asarray(rows, np.int64))
        unique, inverse = np.unique(wanted, return_inverse=True)
        if unique.size and not 0 <= unique[0] <= unique[-1] < len(self):
            raise IndexError(f"{self.name}: {unique[0]} to {unique[-1]} of {len(self)}")
        pixels: P = self._read(unique, size)
        return pixels if np.array_equal(unique, wanted) else pixels.take(inverse)

    def close(self) -> None:
        """Close the files that are open."""


class OwnRows(PixelRows[P]):
    """Pixels of a table's own rows: row i of the table is number i."""

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:  # noqa: ARG002
        """Return the rows, counted from the first one asked for."""
        n = len(who.ra)
        return Match(np.arange(n), np.full(n, How.ROW, np.int8), np.zeros(n, bool))


class IndexedFiles(PixelRows[P]):
    """Pixels in files, with an index of identity and position in memory: 60 to 150 bytes a row.

    Attributes
    ----------
    files
        The files.
    first
        Number of the first row of each file, and of all of them.
    who
        Identity and position of all.
    """

    def __init__(
        self, name: str, found_by: tuple[str, ...], files: Sequence[Path], parts: Sequence[Who]
    ) -> None:
        super().__init__(name, found_by)
        self.files: list[Path] = []
        self.first = np.zeros(1, np.int64)
        self.who = Who({}, np.zeros(0), np.zeros(0))
        self.add(files, parts)

    def __len__(self) -> int:
        return int(self.first[-1])

    def add(self, files: Sequence[Path], parts: Sequence[Who]) -> None:
        """Add files, and who is in each of them."""
        every = [*([self.who] if len(self) else []), *parts] or [self.who]
        ids = {name: np.concatenate([part.ids[name] for part in every]) for name in every[0].ids}
        self.who = Who(ids, *(np.concatenate([getattr(p, axis) for p in every]) for axis in ("ra", "dec")))
        self.first = np.append(self.first, len(self) + np.cumsum([len(part.ra) for part in parts], dtype=int))
        self.files += files
        self._lookup = RowLookup(self.who.ids, self.who.ra, self.who.dec)

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:
        """Find the pixels of each row by its identifiers, else by position, see `RowLookup`."""
        return self._lookup.match(who, radius_arcsec)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Who]:
        """Yield identity and position of all, in order, at most `rows` at a time."""
        for start in range(0, len(self), rows):
            part = slice(start, start + rows)
            yield Who({k: v[part] for k, v in self.who.ids.items()}, self.who.ra[part], self.who.dec[part])

    def locate(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of the file, and the row in it, by number."""
        number = np.asarray(rows, np.int64)
        file = np.searchsorted(self.first, number, side="right") - 1
        return file, number - self.first[file]

    def by_file(self, rows: NDArray[np.int64]) -> Iterator[tuple[Path, NDArray[np.int64]]]:
        """Yield each file that has some of ascending rows, and these as they are numbered in it."""
        file, row = self.locate(rows)
        for one in np.unique(file):
            yield self.files[one], row[file == one]
