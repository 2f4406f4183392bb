"""Sources of spectra: vector columns, SDSS spec files, rows of HDF5 files; which one a name means.

Shapes: n rows of a block, W spectral pixels.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.data import desi, sdss
from astroclip.data.fitsfile import check_flux_unit, check_wave_unit
from astroclip.data.hdf5file import holds_hdf5
from astroclip.data.multimodal import MultimodalSpectra, open_multimodal_spectra
from astroclip.data.pairs import is_pairs
from astroclip.errors import DataError, UsageError
from astroclip.model.inputs import InputOptions, ModelInputs, find_unreadable
from astroclip.model.sources.block import (
    Block,
    Source,
    find_position,
    read_position,
    spectrum_inputs,
)
from astroclip.model.sources.coadds import CoaddItself, coadd_source
from astroclip.model.sources.paired import PairedRows
from astroclip.model.sources.services import SPARCL, SPARCL_RELEASE, SparclCoadds
from astroclip.schema import FLUX, IVAR, MASK, N_WAVE, TARGETID, WAVE, EmbedFlag
from astroclip.tables import FitsTable
from astroclip.tables.identity import Who

logger = logging.getLogger(__name__)


def spectrum_source(table: FitsTable, wanted: str | None, options: InputOptions) -> Source | None:
    """Return the source of spectra for a catalogue.

    `wanted` is a coadd, SDSS spec or Multimodal Universe file, or a folder of them; pairs; ``sparcl``, or
    ``sparcl:<data set>``, for that web service; or a vector column. By default the spectra of the catalogue
    if it is such a file itself, else its vector column FLUX, if there is one.

    Raises
    ------
    UsageError, DataError
        If what is wanted does not exist, or is not spectra.
    """
    if wanted is None:
        return _own_spectra(table, options)
    path = Path(wanted)
    if path.exists():
        return _spectra_in_files(table, path, options)
    service, _, release = wanted.partition(":")
    if service == SPARCL:
        return SparclCoadds(table, release or SPARCL_RELEASE, options)
    column = table.find(wanted)
    if column is None:
        raise UsageError(
            f"--spectra {wanted}: neither a file, nor a folder, nor a column of {table.name}, nor {SPARCL}"
        )
    return SpectrumColumns(table, column, options)


def _spectra_in_files(table: FitsTable, path: Path, options: InputOptions) -> Source:
    """Return the source for a file, or a folder, of spectra in whichever format they are."""
    if is_pairs(path):
        return SpectrumRows(table, PairedRows(table, path), path, options)
    if coadds := coadd_source(table, path, options):
        return coadds
    if holds_hdf5(path):
        return SpectrumRows(table, open_multimodal_spectra(path), path, options)
    return SpecFiles(table, path, options)


def _own_spectra(table: FitsTable, options: InputOptions) -> Source | None:
    """Return the source of the spectra that the catalogue holds, or none."""
    if table.header.get("EXTNAME") == "FIBERMAP" and desi.is_coadd(table.path):
        return CoaddItself(table, options)
    if sdss.is_spec(table.path):
        return SpecFiles(table, table.path, options)
    column = table.find(FLUX)
    return SpectrumColumns(table, column, options) if column and table.column(column).shape else None


class SpectrumColumns:
    """Spectra in vector columns: FLUX, with IVAR, MASK and WAVE where they are; without WAVE, DESI's grid."""

    def __init__(self, table: FitsTable, column: str, options: InputOptions) -> None:
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
        return spectrum_inputs(flux, ivar, mask, wave, np.zeros(len(flux), np.int32), self._options)


class SpecFiles:
    """Spectra in SDSS spec files, found by PLATE, MJD and FIBERID, else by position."""

    def __init__(self, table: FitsTable, path: Path, options: InputOptions) -> None:
        self._index = sdss.find_specs(path)
        if not self._index.files:
            raise DataError(f"{path}: no DESI coadd-*.fits, no SDSS spec-*.fits and no HDF5 in it")
        for _, reason in self._index.unreadable:
            logger.warning("%s", reason)
        names = [
            table.find(name, other)
            for name, other in (("PLATE", "PLATE"), ("MJD", "MJD"), ("FIBERID", "FIBER"))
        ]
        self._by_id = all(names)
        self.columns = [name for name in names if name] if self._by_id else find_position(table, options)
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
            prepared = spectrum_inputs(flux, ivar, mask, one.wave, np.zeros(1, np.int32), self._options)
            inputs.inputs[row], inputs.flag[row] = prepared.inputs[0], prepared.flag[0]
        inputs.flag[ambiguous] |= EmbedFlag.AMBIGUOUS_SPECTRUM
        return inputs


class SpectrumRows:
    """DESI spectra in rows of Multimodal Universe files or of pairs, found by TARGETID, else by position."""

    def __init__(
        self, table: FitsTable, spectra: MultimodalSpectra | PairedRows, path: Path, options: InputOptions
    ) -> None:
        self._target, self._position = table.find(TARGETID), find_position(table, options)
        self.columns = [*([self._target] if self._target else []), *self._position]
        if not self.columns:
            raise DataError(
                f"{table.name}: spectra of {path} are found by TARGETID or by position, and the table has "
                "none of these columns"
            )
        self._spectra = spectra
        for _, reason in self._spectra.problems:
            logger.warning("%s", reason)
        self.name, self._options = f"spectra of {path.name}", options

    def read(self, block: Block, start: int) -> ModelInputs:
        """Find and read the rows' spectra; files are opened once a block."""
        ra, dec = read_position(block, self._position)
        ids = block[self._target] if self._target else None
        who = Who({} if ids is None else {TARGETID: ids}, np.asarray(ra, float), np.asarray(dec, float))
        match = self._spectra.match(who, self._options.radius_arcsec)
        flux, ivar = np.zeros((2, len(ra), N_WAVE), np.float32)
        flag = np.where(match.ambiguous, EmbedFlag.AMBIGUOUS_SPECTRUM, 0).astype(np.int32)

        def fill(rows: NDArray[np.int64]) -> None:
            spectra = self._spectra.read_spectra(match.row[rows])
            flux[rows], ivar[rows] = spectra.flux, spectra.ivar

        bad = find_unreadable(fill, np.flatnonzero(match.row >= 0), start)
        flag[bad] |= EmbedFlag.UNREADABLE_SPECTRUM
        return spectrum_inputs(flux, ivar, None, None, flag, self._options)
