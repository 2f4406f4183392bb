"""Sources of spectra in DESI coadds: the catalogue itself, a release's tree, any folder of them.

Shapes: n rows of a block, S = 7781 wavelengths.
"""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.data import desi
from astroclip.data.zcatalog import SpectrumStatus, coadd_path, read_coadds
from astroclip.errors import DataError
from astroclip.model.inputs import InputOptions, ModelInputs
from astroclip.model.sources.block import Block, Flags, spectrum_inputs
from astroclip.schema import N_WAVE, TARGETID, EmbedFlag
from astroclip.tables import FitsTable

logger = logging.getLogger(__name__)
TREE = "*/*/*/*/coadd-*.fits*"  # SURVEY/PROGRAM/PIXGROUP/PIXEL


class CoaddItself:
    """The spectra of a DESI coadd whose FIBERMAP is the catalogue: row by row."""

    def __init__(self, table: FitsTable, options: InputOptions) -> None:
        self._coadd = desi.open_coadd(table.path)
        self.name, self.columns, self._options = "its own spectra", [TARGETID], options

    def read(self, block: Block, start: int) -> ModelInputs:
        """Read the rows' spectra."""
        n = len(block[TARGETID])
        spectra = self._coadd.read(slice(start, start + n))
        return spectrum_inputs(
            spectra.flux, spectra.ivar, spectra.mask, None, np.zeros(n, np.int32), self._options
        )


class CoaddTree:
    """Spectra in the tree of a DESI release, each in the file its SURVEY, PROGRAM and HEALPIX tell.

    Nothing is indexed: opening takes no longer for 28 million spectra than for ten.
    """

    def __init__(self, path: Path, columns: list[str], options: InputOptions) -> None:
        self.name, self.columns, self._options = f"coadds of {path.name}", columns, options
        self._root = path

    def read(self, block: Block, start: int) -> ModelInputs:
        """Read the rows' spectra; files are opened once a block."""
        found = read_coadds(self._root, *(block[name] for name in self.columns))
        for _, reason in found.problems:
            logger.info("rows from %d: %s", start, reason)
        broken = found.status == SpectrumStatus.UNREADABLE
        flag = np.where(broken, EmbedFlag.UNREADABLE_SPECTRUM, 0).astype(np.int32)
        return spectrum_inputs(found.spectra.flux, found.spectra.ivar, None, None, flag, self._options)


class CoaddFiles:
    """Spectra in DESI coadd files, found by TARGETID, and SURVEY, PROGRAM, HEALPIX where both tell."""

    def __init__(self, table: FitsTable, path: Path, coadds: list[Path], options: InputOptions) -> None:
        if not table.find(TARGETID):
            raise DataError(
                f"{table.name}: spectra of coadds are found by TARGETID, and the table has no such column"
            )
        self._index = desi.index_coadds(coadds)
        for _, reason in self._index.unreadable:
            logger.warning("%s", reason)
        keys = [found for name in ("SURVEY", "PROGRAM", "HEALPIX") if (found := table.find(name))]
        self.name, self._options = f"coadds of {path.name}", options
        self.columns = [str(table.find(TARGETID)), *keys]

    def read(self, block: Block, start: int) -> ModelInputs:
        """Find and read the rows' spectra."""
        keys = {name.lower(): block[name] for name in self.columns[1:]}
        match = self._index.lookup(block[self.columns[0]], **keys)
        flux, ivar, flag = read_matched(self._index, match, start)
        return spectrum_inputs(flux, ivar, None, None, flag, self._options)


def coadd_source(table: FitsTable, path: Path, options: InputOptions) -> CoaddTree | CoaddFiles | None:
    """Return the source for a coadd file, or for a folder with coadds; None if there are none."""
    key = [table.find(name) for name in (TARGETID, "SURVEY", "PROGRAM", "HEALPIX")]
    if all(key) and _is_tree(path):
        return CoaddTree(path, [name for name in key if name], options)
    coadds = [file for file in desi.find_coadds(path) if path.is_dir() or desi.is_coadd(file)]
    return CoaddFiles(table, path, coadds, options) if coadds else None


def read_matched(
    index: desi.CoaddIndex, match: desi.CoaddMatch, start: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], Flags]:
    """Return flux and ivar (n, S) of rows, 0 where there is no spectrum, and their flags.

    Each file is opened once; all rows of one that is damaged are unreadable.
    """
    flux, ivar = np.zeros((2, len(match.file), N_WAVE), np.float32)
    flag = np.where(match.ambiguous, EmbedFlag.AMBIGUOUS_SPECTRUM, 0).astype(np.int32)
    for file in np.unique(match.file[match.file >= 0]):
        rows = np.flatnonzero(match.file == file)
        try:
            with desi.open_coadd(index.files[file]) as coadd:
                spectra = coadd.read(match.row[rows])
            flux[rows], ivar[rows] = spectra.flux, spectra.ivar
        except DataError as error:
            logger.info("rows from %d: %s", start + rows[0], error)
            flag[rows] |= EmbedFlag.UNREADABLE_SPECTRUM
    return flux, ivar, flag


def _is_tree(path: Path) -> bool:
    """Tell whether coadds lie where a release has them, by the first one found."""
    for pattern in (f"healpix/{TREE}", TREE):
        for first in path.glob(pattern):
            survey, program, _, pixel = first.parts[-5:-1]
            return pixel.isdecimal() and coadd_path(path, survey, program, int(pixel)) == first
    return False
