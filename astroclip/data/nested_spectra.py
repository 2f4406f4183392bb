"""Spectra in nested columns, as HATS catalogues of DESI and Multimodal Universe tables have them.

They are recognised by their fields, never by the column's name. Shapes: m rows.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from astroclip.data.grid import combine_arms, place_arm, stack_spectra
from astroclip.data.pixel_rows import OwnRows
from astroclip.data.pixels import Spectra
from astroclip.data.spectrum_columns import PROBED_ROWS, check_first, make_spectra, read_stretches
from astroclip.data.spectrum_fields import SpectrumParts, find_air, find_flux, find_parts
from astroclip.errors import DataError
from astroclip.tables import Table

ARMS_OVERLAP = 0.5  # of the shorter one's range: two that share more are not arms of one spectrum


class NestedSpectra(OwnRows[Spectra]):
    """Spectra in nested columns of HATS and Multimodal Universe tables; fields as in `spectrum_fields`.

    Several columns are arms of one spectrum, combined by inverse variance.

    Parameters
    ----------
    table
        Opened.
    columns
        See `find_nested_spectra`.

    Raises
    ------
    DataError
        If a column has no flux or no wavelengths among its fields; or two of them share more of their
        wavelengths than arms do.
    """

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        super().__init__(f"column {', '.join(columns)}")
        self._table = table
        self._arms = {name: _nested_parts(table, name) for name in columns}
        check_first(self, f"{table.name}: column {', '.join(columns)}")
        if len(columns) > 1:
            self._refuse_rivals()

    def __len__(self) -> int:
        return self._table.nrows

    def _refuse_rivals(self) -> None:
        """Refuse columns of which each could be the spectrum alone, by the wavelengths of the first rows."""
        rows = np.arange(min(PROBED_ROWS, self._table.nrows))
        ranges = {}
        for name, arm in self._read_arms(rows).items():
            known = arm.wave[np.isfinite(arm.wave)]
            if known.size:
                ranges[name] = (known.min(), known.max())
        for (one, a), (two, b) in combinations(ranges.items(), 2):
            shared = min(a[1], b[1]) - max(a[0], b[0])
            if shared > ARMS_OVERLAP * min(a[1] - a[0], b[1] - b[0]):
                raise DataError(
                    f"{self._table.name}: the columns '{one}' and '{two}' could both be the spectra, of "
                    f"{a[0]:.0f}-{a[1]:.0f} and {b[0]:.0f}-{b[1]:.0f} Angstrom. Say which: --spectra {one}"
                )

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        arms = list(self._read_arms(rows).values())
        if len(arms) == 1:
            return arms[0]
        there = [np.isfinite(np.broadcast_to(arm.wave, arm.flux.shape)).any(axis=1) for arm in arms]
        kinds, kind = np.unique(np.stack(there, axis=1), axis=0, return_inverse=True)
        combined, order = [], []
        for i, has in enumerate(kinds):  # rows that have the same arms together
            at = np.flatnonzero(kind == i)
            some = [arm.take(at) for arm, is_there in zip(arms, has, strict=True) if is_there]
            combined.append(_combine(len(at), some, self._table.name))
            order.append(at)
        back = np.argsort(np.concatenate([*order, np.zeros(0, np.int64)]))
        return stack_spectra(combined).take(back)

    def _read_arms(self, rows: NDArray[np.int64]) -> dict[str, Spectra]:
        """Read the columns."""
        nested = read_stretches(self._table, list(self._arms), rows)
        arms = {}
        for name, parts in self._arms.items():
            values = {part: _field(nested[name], part) for part in parts.names}
            where = f"{self._table.name}: column '{name}'"
            arms[name] = make_spectra(parts, values, self._table.column(name).unit, where, rows)
        return arms


def find_nested_spectra(table: Table) -> list[str]:
    """Return the nested columns of a table that hold spectra: those with a flux and its wavelengths."""
    return [name for name, column in table.columns.items() if _is_spectrum(column.fields)]


def _is_spectrum(fields: Mapping[str, int]) -> bool:
    flux = find_flux(name for name, axes in fields.items() if axes == 1)
    return flux is not None and (find_parts(fields, flux).wave or find_air(fields)) is not None


def _nested_parts(table: Table, name: str) -> SpectrumParts:
    """Return the fields of a nested column, or refuse it."""
    fields = table.column(name).fields
    if not _is_spectrum(fields):
        raise DataError(
            f"{table.name}: column '{name}' has the fields {', '.join(fields) or 'of no structure'}; "
            "expected flux and one of wave, wavelength, lambda, loglam"
        )
    vectors = [field for field, axes in fields.items() if axes == 1]
    parts = find_parts(vectors, str(find_flux(vectors)))
    if not parts.wave:
        raise DataError(
            f"{table.name}: column '{name}' has wavelengths in air ('{find_air(fields)}'), expected vacuum. "
            "Convert them"
        )
    return parts


def _field(rows: NDArray[np.object_], name: str) -> NDArray[np.object_]:
    """Return one field of nested rows, empty where a row has none."""
    values = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        values[i] = row.get(name) if isinstance(row, Mapping) else None
    return values


def _combine(n: int, arms: Sequence[Spectra], name: str) -> Spectra:
    """Combine the arms of spectra: on DESI's grid by inverse variance, else one behind the other."""
    try:
        placed = [place_arm(arm) for arm in arms]
    except DataError:
        rows = [_join([arm.take(np.array([i])) for arm in arms], name) for i in range(n)]
        return stack_spectra(rows)
    return combine_arms(n, placed)


def _join(arms: Sequence[Spectra], name: str) -> Spectra:
    """Put the arms of one spectrum one behind the other."""
    pixels = [np.isfinite(np.broadcast_to(arm.wave, arm.flux.shape)[0]) for arm in arms]
    waves = [
        np.broadcast_to(arm.wave, arm.flux.shape)[0][there] for arm, there in zip(arms, pixels, strict=True)
    ]
    order = sorted(range(len(arms)), key=lambda i: waves[i].min())
    wave = np.concatenate([waves[i] for i in order])
    if (np.diff(wave) <= 0).any():
        raise DataError(f"{name}: arms of a spectrum overlap on other grids than DESI's. Combine them first")
    parts = (
        np.concatenate([getattr(arms[i], part)[:, pixels[i]] for i in order], axis=1)
        for part in ("flux", "ivar", "mask")
    )
    return Spectra(wave, *parts)
