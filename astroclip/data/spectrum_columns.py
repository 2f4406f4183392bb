"""Spectra in a table's own columns: vectors of flux, and of what belongs to it.

Nested columns: `data.nested_spectra`.

Shapes: m rows, S pixels of the longest of them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from astroclip.data.fitsfile import check_flux_unit
from astroclip.data.grid import clean_spectra, pad_rows
from astroclip.data.hdf5file import runs
from astroclip.data.pixel_rows import OwnRows, PixelRows
from astroclip.data.pixels import Spectra
from astroclip.data.spectrum_fields import (
    SpectrumParts,
    check_wave,
    find_air,
    find_parts,
    is_wave_name,
    sounds_like_wave,
    to_angstrom,
    to_ivar,
    to_mask,
)
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, desi_wave
from astroclip.tables import Table

PROBED_ROWS = 16  # the first ones, which show what the columns are
Values = dict[str, NDArray]


class SpectrumColumns(OwnRows[Spectra]):
    """Spectra in vector columns: flux, and wavelengths, noise and mask by their names (`spectrum_fields`).

    Rows may differ in length. Without wavelengths the grid is DESI's, if there are as many pixels.

    Parameters
    ----------
    table
        Opened.
    flux
        The column of fluxes, 1e-17 erg/s/cm²/Å.

    Raises
    ------
    DataError
        If it is no vector; the columns differ in length; a unit is another; wavelengths are in air, or a
        column could hold them that has another name.
    """

    def __init__(self, table: Table, flux: str) -> None:
        self._table, spec = table, table.column(flux)
        super().__init__(f"column {spec.name}")
        self._where = f"{table.name}: column '{spec.name}'"
        if not (spec.lists or len(spec.shape) == 1):
            raise DataError(f"{self._where} has shape {spec.shape}, expected a vector of fluxes")
        vectors = {c.name: c for c in table.columns.values() if c.lists or len(c.shape) == 1}
        self._parts = find_parts(vectors, spec.name)
        for name in self._parts.names[1:]:
            other = vectors[name]
            if not (other.lists or spec.lists) and other.shape != spec.shape:
                raise DataError(
                    f"{table.name}: column '{name}' has shape {other.shape}, but '{spec.name}' {spec.shape}: "
                    "they must have the same pixels"
                )
        check_flux_unit(self._where, spec.unit)
        self._unit = vectors[self._parts.wave].unit if self._parts.wave else ""
        self._refuse_other_grids([name for name in vectors if name not in self._parts.names])
        check_first(self, f"{table.name}: column '{self._parts.wave or spec.name}'")

    def __len__(self) -> int:
        return self._table.nrows

    def _refuse_other_grids(self, others: Sequence[str]) -> None:
        """Refuse to take one column for the wavelengths, or DESI's grid, where another could be."""
        name, flux, wave = self._table.name, self._parts.flux, self._parts.wave
        if wave and not is_wave_name(wave):
            return  # named like the flux: there is no doubt
        if wave:
            used = to_angstrom(self._first(wave), wave, self._unit, f"{name}: column '{wave}'")
            for other in filter(is_wave_name, others):
                rival = to_angstrom(self._first(other), other, self._table.column(other).unit, name)
                if rival.shape != used.shape or not np.allclose(rival, used, rtol=1e-4):
                    raise DataError(
                        f"{name}: columns '{wave}' and '{other}' hold other wavelengths of '{flux}'. Leave "
                        "one out"
                    )
            return
        if air := find_air(others):
            raise DataError(
                f"{name}: column '{air}' has wavelengths in air, expected vacuum. Convert them, and call the "
                "column WAVE"
            )
        pixels = len(self._first(flux))
        for other in others:
            steps = np.diff(self._first(other))
            alike = sounds_like_wave(other) or len(steps) + 1 == pixels
            if alike and steps.size and ((steps > 0).all() or (steps < 0).all()):
                raise DataError(
                    f"{name}: column '{other}' could hold the wavelengths of '{flux}', but is not called so. "
                    "Call it WAVE if it does (vacuum, Angstrom), else leave it out"
                )
        if pixels not in (0, N_WAVE):
            raise DataError(
                f"{self._where} has {pixels} pixels and there is no column WAVE; without one the DESI "
                f"grid of {N_WAVE} pixels is expected"
            )

    def _first(self, name: str) -> NDArray:
        """Return a column's first row that has values, empty if none of the first has, or no numbers."""
        rows = self._table.read([name], 0, min(PROBED_ROWS, self._table.nrows))[name]
        filled = (np.ma.filled(np.ma.asarray(row), 0) for row in rows if row is not None and len(row))
        first = next(filled, np.zeros(0))
        return first if first.dtype.kind in "fiu" else np.zeros(0)

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        values = read_stretches(self._table, self._parts.names, rows)
        return make_spectra(self._parts, values, self._unit, self._where, rows)


def check_first(spectra: PixelRows[Spectra], where: str) -> None:
    """Refuse spectra of which none of the first has wavelengths in Å that ascend; `where` names them.

    One bad row is data; all of them are another unit.
    """
    problem = None
    for row in range(min(PROBED_ROWS, len(spectra))):
        try:
            one = spectra.read([row])
            check_wave(np.atleast_2d(one.wave)[0], where)
        except DataError as error:
            problem = problem or error
            continue
        if np.isfinite(one.wave).any():
            return
    if problem:
        raise problem


def read_stretches(table: Table, names: Sequence[str], rows: NDArray[np.int64]) -> Values:
    """Read ascending rows of columns, each stretch of consecutive ones at once."""
    stretches = [(int(rows[first]), int(rows[last - 1]) + 1) for first, last in runs(rows)] or [(0, 0)]
    blocks = [table.read(names, *stretch) for stretch in stretches]
    return {
        name: np.ma.concatenate([b[name] for b in blocks]) if len(blocks) > 1 else blocks[0][name]
        for name in names
    }


def make_spectra(
    parts: SpectrumParts, values: Values, unit: str, where: str, rows: NDArray[np.int64]
) -> Spectra:
    """Make spectra of the values of their parts: (m, S), or objects of which each is one row's vector.

    Parameters
    ----------
    parts, values
        Names of the parts, and their values.
    unit
        Of the wavelengths; without these the grid is DESI's.
    where, rows
        What an error calls the column, and the rows.

    Raises
    ------
    DataError
        If a row's vectors differ in length, or there are no wavelengths and not as many pixels as DESI has.
    """
    if any(part.dtype == object for part in values.values()):
        _check_lengths(parts, values, where, rows)
    flux = _dense(values[parts.flux], np.nan).astype(np.float32)
    ivar = to_ivar(_dense(values[parts.noise], np.nan), parts.noise_kind) if parts.noise else None
    mask = to_mask(_dense(values[parts.mask], 1), parts.mask) if parts.mask else None
    wave = desi_wave()
    if parts.wave:
        wave = to_angstrom(_dense(values[parts.wave], np.nan), parts.wave, unit, where)
        if len(wave) and (wave == wave[:1]).all():
            wave = wave[0]
    elif flux.shape[1] != N_WAVE:
        flux = np.full((len(flux), N_WAVE), np.nan, np.float32)  # rows of nothing
        ivar = mask = None
    return clean_spectra(wave, flux, ivar, mask)


def _check_lengths(parts: SpectrumParts, values: Values, where: str, rows: NDArray[np.int64]) -> None:
    """Refuse rows whose parts differ in length; those that are empty have no spectrum."""
    for i, row in enumerate(rows):
        pixels = {name: _length(part[i]) for name, part in values.items()}
        known = {name: n for name, n in pixels.items() if n}
        if parts.flux in known and (len(set(known.values())) > 1 or len(known) < len(pixels)):
            each = ", ".join(f"{n} of '{name}'" for name, n in pixels.items())
            raise DataError(f"{where}, row {row}: {each}: expected the same pixels of all")
        if not parts.wave and known.get(parts.flux, N_WAVE) != N_WAVE:
            raise DataError(
                f"{where}, row {row}: {known[parts.flux]} pixels and no wavelengths; without these the DESI "
                f"grid of {N_WAVE} pixels is expected"
            )


def _length(row: object) -> int:
    return 0 if row is None else int(np.size(row))  # type: ignore[arg-type]


def _dense(values: NDArray, fill: float) -> NDArray:
    """Return vectors as (m, S), filled where a row is shorter or missing."""
    if values.dtype == object:
        empty = np.zeros(0, np.float32)
        return pad_rows([empty if row is None else np.ma.filled(row, fill) for row in values], fill)
    return np.ma.filled(values, fill) if np.ma.isMaskedArray(values) else values
