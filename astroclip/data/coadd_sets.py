"""Sets of DESI spectra: files found by their targets, wherever they lie, and one file row by row.

The tree of a release, which is never indexed, is `data.coadd_tree`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.desi import Coadd, find_coadds, open_coadd, read_targets_of
from astroclip.data.grid import stack_spectra
from astroclip.data.pixel_rows import IndexedFiles, OwnRows
from astroclip.data.pixels import BLOCK_ROWS, BY_POSITION, BY_TARGETID, Spectra
from astroclip.errors import DataError
from astroclip.tables.identity import Who

OPEN_FILES = 4  # that are kept open, for the next block of rows is often in the same


class OpenCoadds:
    """The files of DESI spectra that were read last, kept open, and those that cannot be, remembered."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, Coadd] = OrderedDict()
        self._broken: dict[Path, str] = {}

    def get(self, path: Path) -> Coadd:
        """Open a file, if it is not open.

        Raises
        ------
        DataError
            If it cannot be read.
        """
        if path in self._broken:
            raise DataError(self._broken[path])
        if path not in self._open:
            try:
                self._open[path] = open_coadd(path)
            except DataError as error:
                self._broken[path] = str(error)
                raise
            while len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]

    def close(self) -> None:
        """Close them."""
        while self._open:
            self._open.popitem()[1].close()


class CoaddFiles(IndexedFiles[Spectra]):
    """Targets in files of DESI spectra, found by TARGETID, SURVEY, PROGRAM and HEALPIX, else by position.

    Repeated exposures of a target in one file, as in spectra-*.fits, are one spectrum, combined by inverse
    variance. A target that several files have is ambiguous: the first by file name is taken.
    """

    def __init__(self, name: str, files: Iterable[Path]) -> None:
        self._row = np.zeros(0, np.int32)  # first one of each target in its file
        self._coadds = OpenCoadds()
        super().__init__(name, (BY_TARGETID, BY_POSITION), [], [])
        self.update(files)

    def update(self, files: Iterable[Path]) -> None:
        """Add files that are not known yet; those that cannot be read are in `problems`, and tried again."""
        known, readable, parts, problems = set(self.files), [], [], []
        for path in (path for path in files if path not in known):
            try:
                parts.append(read_targets_of(path))
                readable.append(path)
            except DataError as error:
                problems.append((path, str(error)))
        self.problems = problems
        if parts:
            self._row = np.concatenate([self._row, *(part.row.astype(np.int32) for part in parts)])
            self.add(readable, [part.who for part in parts])

    def locate(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the number of the file, and the first row in it, of spectra by their number."""
        number = np.asarray(rows, np.int64)
        return super().locate(number)[0], np.append(self._row, -1)[number].astype(np.int64)

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        return stack_spectra(self._coadds.get(path).read_targets(at) for path, at in self.by_file(rows))

    def close(self) -> None:
        """Close the files that are open."""
        self._coadds.close()


class CoaddRows(OwnRows[Spectra]):
    """The spectra of one file of DESI spectra, row by row: its FIBERMAP is the table, or it has none.

    Attributes
    ----------
    files
        The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("its own spectra")
        self.files, self._coadd = [path], open_coadd(path)

    def __len__(self) -> int:
        return len(self._coadd)

    @property
    def has_targets(self) -> bool:
        """Whether the file has TARGETIDs."""
        return bool((self._coadd.targetid >= 0).any())

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        return self._coadd.read(rows)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Who]:
        """Yield as many unknown galaxies as there are rows, at most `rows` at a time."""
        for start in range(0, len(self), rows):
            nowhere = np.full(min(rows, len(self) - start), np.nan)
            yield Who({}, nowhere, nowhere)

    def locate(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return 0, the number of the file, and the rows as they are."""
        number = np.asarray(rows, np.int64)
        return np.zeros_like(number), number

    def close(self) -> None:
        """Close the file."""
        self._coadd.close()


def open_coadd_files(path: Path) -> CoaddFiles | CoaddRows:
    """Open a file of DESI spectra, or all below a folder.

    Raises
    ------
    DataError
        If the file, or every file of the folder, cannot be read.
    """
    files = find_coadds(path)
    if path.is_file():
        rows = CoaddRows(path)  # a file that is named is whole, or an error
        if not rows.has_targets:
            return rows
        rows.close()
    spectra = CoaddFiles(f"coadds of {path.name}", files)
    if not spectra.files and spectra.problems:
        raise DataError(spectra.problems[0][1])
    return spectra
