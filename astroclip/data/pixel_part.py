"""One file or folder of pixels as rows of a catalogue: who is there, and where the pixels lie."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.data.fitsfile import FitsFile
from astroclip.data.kinds import Kind, find_kind
from astroclip.data.pairs import open_pairs
from astroclip.data.pixel_facts import PixelFacts, find_facts
from astroclip.data.pixel_sets import DESI_KINDS, OPENERS, open_pixel_files
from astroclip.data.pixels import Modality, PixelFiles
from astroclip.schema import EMBED_FLAG
from astroclip.tables.identity import Who

Paths = str | Path | Sequence[str | Path]
FILE, ROW = "FILE", "ROW"
BLOCK_ROWS = 65536  # rows made at a time


@dataclass(frozen=True)
class PixelPart:
    """What one file or folder holds, one row a galaxy.

    Attributes
    ----------
    path, kind
        As it was named, and what it is.
    pixels
        By modality: both of pairs, one of anything else.
    facts
        What the survey says.
    """

    path: Path
    kind: Kind
    pixels: dict[Modality, PixelFiles]
    facts: PixelFacts

    @property
    def first(self) -> PixelFiles:
        """The pixels that tell who is there; both of pairs tell the same."""
        return next(iter(self.pixels.values()))

    @property
    def files(self) -> list[Path]:
        """The files that hold the pixels."""
        return self.first.files

    @property
    def position(self) -> tuple[str, str]:
        """Names of right ascension and declination, as the survey calls them."""
        return ("TARGET_RA", "TARGET_DEC") if self.kind in DESI_KINDS else ("RA", "DEC")

    def __len__(self) -> int:
        return len(self.first)

    def blocks(self, rows: int = BLOCK_ROWS, facts: bool = True) -> Iterator[dict[str, NDArray]]:
        """Yield the columns of all rows in order: ids, position, `FILE`, `ROW`, and facts if asked for."""
        first = 0
        for who in self.first.blocks(rows):
            yield self._columns(np.arange(first, first + len(who.ra)), who, facts)
            first += len(who.ra)

    def take(self, numbers: NDArray[np.int64]) -> dict[str, NDArray]:
        """Return the columns of some rows, with facts."""
        order, first = np.argsort(numbers, kind="stable"), 0
        parts = []
        for who in self.first.blocks():
            inside = numbers[order] - first
            inside = inside[(inside >= 0) & (inside < len(who.ra))]
            ids = {name: values[inside] for name, values in who.ids.items()}
            parts.append(Who(ids, who.ra[inside], who.dec[inside]))
            first += len(who.ra)
        back = np.argsort(order, kind="stable")
        ids = {name: np.concatenate([part.ids[name] for part in parts])[back] for name in parts[0].ids}
        ra, dec = (np.concatenate([getattr(part, axis) for part in parts])[back] for axis in ("ra", "dec"))
        return self._columns(numbers, Who(ids, ra, dec), facts=True)

    def names(self, files: Sequence[Path]) -> NDArray[np.str_]:
        """Return what `FILE` calls some files."""
        return np.array([self._name(file) for file in files], str)

    def close(self) -> None:
        """Close the files."""
        for pixels in self.pixels.values():
            pixels.close()

    def _columns(self, numbers: NDArray[np.int64], who: Who, facts: bool) -> dict[str, NDArray]:
        file, row = self.first.locate(numbers)
        names = np.array([self._name(one) for one in self.files] or [""], str)
        position = dict(zip(self.position, (who.ra, who.dec), strict=True))
        said = self.facts.read(numbers, who) if facts else {}
        ids = {
            name: values for name, values in who.ids.items() if name != FILE
        }  # of images, without a folder
        return {**ids, **position, FILE: names[file], ROW: row, **said}

    def _name(self, file: Path) -> str:
        """Return the path of a file from what was named on, in ASCII as FITS wants it."""
        name = Path(self.path.name, file.relative_to(self.path)) if self.path.is_dir() else file.name
        return str(name).encode("ascii", "backslashreplace").decode()


def list_paths(catalog: Paths) -> list[Path]:
    """Return the files and folders that are named; one like ``..`` by its own name."""
    paths = [Path(catalog)] if isinstance(catalog, str | Path) else [Path(path) for path in catalog]
    return [path.resolve() if path.name in ("", "..") else path for path in paths]


def are_pixels(paths: Sequence[str | Path]) -> bool:
    """Tell whether paths are files or folders of spectra, images or pairs, rather than a table."""
    there = [Path(path) for path in paths if Path(path).exists()]
    return len(there) == len(paths) and all(
        is_pixel_kind(find_kind(path)) and not is_embedded(path) for path in there
    )


def is_embedded(path: Path) -> bool:
    """Tell whether a file of pixels has a table with embeddings, as `embed --keep-pixels` writes it."""
    if path.is_dir() or find_kind(path) not in (Kind.COADD, Kind.SPECTRA, Kind.SPEC):
        return False
    with FitsFile(path, whole=False) as file:
        return any(EMBED_FLAG in file.columns(hdu) for hdu in range(len(file)))


def is_pixel_kind(kind: Kind) -> bool:
    """Tell whether galaxies of files of a kind have pixels, or it is said what to use instead."""
    return any(kind in openers for openers in OPENERS.values()) or bool(kind.instead)


def open_part(path: str | Path) -> PixelPart:
    """Open one file or folder of pixels, and find what its survey says.

    Raises
    ------
    DataError
        If it is broken, or holds no galaxies.
    """
    source, kind = Path(path), find_kind(path)
    fitting: list[Modality] = [modality for modality, openers in OPENERS.items() if kind in openers]
    pixels = {modality: open_pixel_files(source, modality) for modality in fitting or ["spectrum"]}
    pairs = open_pairs(source) if kind == Kind.PAIRS else None
    return PixelPart(source, kind, pixels, find_facts(kind, next(iter(pixels.values())), pairs))
