"""Sources of spectra: vector columns, DESI coadds, SDSS spec files.

Shapes: n rows of a block, W spectral pixels.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.catalog import Catalog
from astroclip.errors import DataError, UsageError
from astroclip.preprocess.spectrum import prepare_spectra
from astroclip.schema import FLUX, IVAR, MASK, N_WAVE, TARGETID, WAVE, EmbedFlag
from astroclip.sources.block import Block, Flags, ModelInputs, Source, SourceOptions, find_position
from astroclip.surveys import desi, sdss
from astroclip.surveys.fitsfile import check_flux_unit, check_wave_unit

logger = logging.getLogger(__name__)


def spectrum_source(table: Catalog, wanted: str | None, options: SourceOptions) -> Source | None:
    """Return the source of spectra for a catalogue.

    `wanted` is a vector column, a coadd or SDSS spec file, or a folder of them; by default the spectra of the
    catalogue if it is such a file itself, else its vector column FLUX, if there is one.

    Raises
    ------
    UsageError, DataError
        If what is wanted does not exist, or is not spectra.
    """
    if wanted is None:
        if table.header.get("EXTNAME") == "FIBERMAP" and desi.is_coadd(table.path):
            return CoaddItself(table, options)
        if sdss.is_spec(table.path):
            return SpecFiles(table, table.path, options)
        column = table.find(FLUX)
        return SpectrumColumns(table, column, options) if column and table.column(column).shape else None
    path = Path(wanted)
    if path.exists():
        if coadds := [p for p in desi.find_coadds(path) if path.is_dir() or desi.is_coadd(p)]:
            return CoaddFiles(table, path, coadds, options)
        return SpecFiles(table, path, options)
    column = table.find(wanted)
    if column is None:
        raise UsageError(f"--spectra {wanted}: neither a file, nor a folder, nor a column of {table.name}")
    return SpectrumColumns(table, column, options)


class SpectrumColumns:
    """Spectra in vector columns: FLUX, with IVAR, MASK and WAVE where they are; without WAVE, DESI's grid."""

    def __init__(self, table: Catalog, column: str, options: SourceOptions) -> None:
        spec = table.column(column)
        others = [found for name in (IVAR, MASK, WAVE) if (found := table.find(name))]
        if len(spec.shape) != 1:
            raise DataError(
                f"{table.name}: column '{column}' has shape {spec.shape}, expected a vector of fluxes"
            )
        for name in others:
            if table.column(name).shape != spec.shape:
                raise DataError(
                    f"{table.name}: column '{name}' has shape {table.column(name).shape}, but '{column}' "
                    f"{spec.shape}: they must have the same pixels"
                )
        check_flux_unit(f"{table.name}: column '{column}'", spec.unit)
        self._wave = table.find(WAVE)
        if self._wave:
            check_wave_unit(f"{table.name}: column '{self._wave}'", table.column(self._wave).unit)
        elif spec.shape != (N_WAVE,):
            raise DataError(
                f"{table.name}: column '{column}' has {spec.shape[0]} pixels and there is no column WAVE; "
                f"without one the DESI grid of {N_WAVE} pixels is expected"
            )
        self.name, self.columns, self._options = f"column {column}", [column, *others], options
        self._ivar, self._mask = table.find(IVAR), table.find(MASK)

    def read(self, block: Block, start: int) -> ModelInputs:
        """Prepare the columns' spectra."""
        ivar, mask, wave = (block[name] if name else None for name in (self._ivar, self._mask, self._wave))
        flux = block[self.columns[0]]
        return _spectrum_inputs(flux, ivar, mask, wave, np.zeros(len(flux), np.int32), self._options)


class CoaddItself:
    """The spectra of a DESI coadd whose FIBERMAP is the catalogue: row by row."""

    def __init__(self, table: Catalog, options: SourceOptions) -> None:
        self._coadd = desi.open_coadd(table.path)
        self.name, self.columns, self._options = "its own spectra", [TARGETID], options

    def read(self, block: Block, start: int) -> ModelInputs:
        """Read the rows' spectra."""
        n = len(block[TARGETID])
        spectra = self._coadd.read(slice(start, start + n))
        return _spectrum_inputs(
            spectra.flux, spectra.ivar, spectra.mask, None, np.zeros(n, np.int32), self._options
        )


class CoaddFiles:
    """Spectra in DESI coadd files, found by TARGETID, and SURVEY, PROGRAM, HEALPIX where both tell."""

    def __init__(self, table: Catalog, path: Path, coadds: list[Path], options: SourceOptions) -> None:
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
        """Find and read the rows' spectra; files are opened once a block."""
        keys = {name.lower(): block[name] for name in self.columns[1:]}
        match = self._index.lookup(block[self.columns[0]], **keys)
        n = len(match.file)
        flux, ivar = np.zeros((2, n, N_WAVE), np.float32)
        flag = np.where(match.ambiguous, EmbedFlag.AMBIGUOUS_SPECTRUM, 0).astype(np.int32)
        for file in np.unique(match.file[match.file >= 0]):
            rows = np.flatnonzero(match.file == file)
            try:
                with desi.open_coadd(self._index.files[file]) as coadd:
                    spectra = coadd.read(match.row[rows])
                flux[rows], ivar[rows] = spectra.flux, spectra.ivar
            except DataError as error:
                logger.info("rows from %d: %s", start + rows[0], error)
                flag[rows] |= EmbedFlag.UNREADABLE_SPECTRUM
        return _spectrum_inputs(flux, ivar, None, None, flag, self._options)


class SpecFiles:
    """Spectra in SDSS spec files, found by PLATE, MJD and FIBERID, else by position."""

    def __init__(self, table: Catalog, path: Path, options: SourceOptions) -> None:
        self._index = sdss.find_specs(path)
        if not self._index.files:
            raise DataError(f"{path}: no DESI coadd-*.fits and no SDSS spec-*.fits in it")
        for _, reason in self._index.unreadable:
            logger.warning("%s", reason)
        names = [
            table.find(name, other)
            for name, other in (("PLATE", "PLATE"), ("MJD", "MJD"), ("FIBERID", "FIBER"))
        ]
        self._by_id = all(names)
        self.columns = [name for name in names if name] if self._by_id else find_position(table)
        if not self.columns:
            raise DataError(
                f"{table.name}: spectra of {path} are found by PLATE, MJD, FIBERID or by position, and the "
                "table has none of these columns"
            )
        self.name, self._options = f"spectra of {path.name}", options

    def read(self, block: Block, start: int) -> ModelInputs:
        """Find and read the rows' spectra, each resampled from its own grid."""
        values = [block[name] for name in self.columns]
        if self._by_id:
            plate, mjd, fiber = values
            file, ambiguous = self._index.lookup(plate, mjd, fiber)
        else:
            ra, dec = values
            file, ambiguous = self._index.lookup_position(ra, dec, self._options.radius_arcsec)
        n = len(file)
        inputs = ModelInputs(torch.zeros(n, N_WAVE), np.full(n, EmbedFlag.NO_SPECTRUM, np.int32))
        for row in np.flatnonzero(file >= 0):
            try:
                one = sdss.read_spec(self._index.files[file[row]])
            except DataError as error:
                logger.info("row %d: %s", start + row, error)
                inputs.flag[row] |= EmbedFlag.UNREADABLE_SPECTRUM
                continue
            flux, ivar, mask = (x[None] for x in (one.flux, one.ivar, one.mask))
            prepared = _spectrum_inputs(flux, ivar, mask, one.wave, np.zeros(1, np.int32), self._options)
            inputs.inputs[row], inputs.flag[row] = prepared.inputs[0], prepared.flag[0]
        inputs.flag[ambiguous] |= EmbedFlag.AMBIGUOUS_SPECTRUM
        return inputs


def _spectrum_inputs(
    flux: NDArray,
    ivar: NDArray | None,
    mask: NDArray | None,
    wave: NDArray | None,
    flag: Flags,
    options: SourceOptions,
) -> ModelInputs:
    """Prepare spectra (n, W) and flag what is bad about them."""
    prepared = prepare_spectra(flux, ivar, mask, wave)
    bad, covered = prepared.bad_fraction.numpy(), prepared.coverage.numpy()
    flag |= np.where(bad > options.max_bad, EmbedFlag.BAD_SPECTRUM_PIXELS, 0)
    flag |= np.where(covered < 1, EmbedFlag.PARTIAL_COVERAGE, 0)
    flag[bad >= 1] &= ~(EmbedFlag.BAD_SPECTRUM_PIXELS | EmbedFlag.PARTIAL_COVERAGE)
    flag |= np.where(bad >= 1, EmbedFlag.NO_SPECTRUM, 0)
    return ModelInputs(prepared.flux, flag)
