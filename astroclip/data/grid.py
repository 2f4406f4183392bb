"""Spectra made ready to travel: which pixels are good, arms and exposures combined, rows of unequal length.

Shapes: m spectra, S = 7781 wavelengths of the combined DESI grid, W pixels of one arm that lie on it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.pixels import Spectra
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, WAVE_MIN, WAVE_STEP, desi_wave

GRID_TOLERANCE = 1e-3  # Å
NODATA = 1 << 8  # bit of the spectral mask for "no data" (desispec specmask)


class ArmPixels(NamedTuple):
    """Pixels of one arm as read: `place` on the grid, and flux, ivar, mask, (m, W) each, 0 is good."""

    place: slice
    flux: NDArray
    ivar: NDArray
    mask: NDArray[np.int32]

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which pixels hold a measurement, (m, W)."""
        return find_good(self.flux, self.ivar, self.mask)


def find_good(flux: NDArray, ivar: NDArray, mask: NDArray) -> NDArray[np.bool_]:
    """Return which pixels hold a measurement: not masked, finite, of positive inverse variance."""
    return (mask == 0) & np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)


def clean_spectra(
    wave: NDArray, flux: NDArray, ivar: NDArray | None = None, mask: NDArray | None = None
) -> Spectra:
    """Return spectra (m, S) on any grid as they travel: 0 where nothing good was measured, and masked there.

    Parameters
    ----------
    wave
        (S,) or (m, S) Å; not finite or not positive where a spectrum has no pixel.
    flux
        (m, S); NaN where it has none.
    ivar
        (m, S); without it every finite pixel is good, with ivar 1.
    mask
        (m, S) numbers or truth values; 0 is good. Without it nothing is masked.
    """
    flux = np.asarray(flux, np.float32)
    wave = np.where(np.isfinite(wave) & (wave > 0), wave, np.nan).astype(np.float64)
    ivar = np.ones_like(flux) if ivar is None else np.asarray(ivar, np.float32)
    bits = np.zeros(flux.shape, np.int32) if mask is None else np.asarray(mask).astype(np.int32)
    good = find_good(flux, ivar, bits) & np.isfinite(wave)
    bits = np.where(good, 0, np.where(bits == 0, NODATA, bits)).astype(np.int32)
    return Spectra(wave, np.where(good, flux, 0), np.where(good, ivar, 0), bits)


def place_on_grid(wave: NDArray, where: str) -> tuple[slice, slice]:
    """Return which pixels of an arm lie on the combined grid, and where on it they lie.

    Raises
    ------
    DataError
        If neighbouring pixels are not 0.8 Å apart, or off the grid by more than `GRID_TOLERANCE`; `where`
        names them in the message.
    """
    index = np.rint((np.nan_to_num(wave) - WAVE_MIN) / WAVE_STEP).astype(np.int64)
    off = np.abs(wave - (WAVE_MIN + WAVE_STEP * index)).max(initial=0)
    if not off <= GRID_TOLERANCE or np.any(np.diff(index) != 1) or not index.size:
        raise DataError(
            f"{where}: not on the grid {WAVE_MIN} + {WAVE_STEP} k Angstrom within {GRID_TOLERANCE} "
            f"(off by up to {off:.3g}). Resample it to the linear grid of DESI coadds"
        )
    first, last = (int(np.clip(edge, 0, N_WAVE)) for edge in (index[0], index[-1] + 1))
    return slice(first - int(index[0]), last - int(index[0])), slice(first, last)


def place_arm(spectra: Spectra) -> ArmPixels:
    """Return spectra as an arm, its pixels placed on the combined grid.

    Raises
    ------
    DataError
        If their grid is not a part of that.
    """
    wave = np.atleast_2d(spectra.wave)
    if not (wave == wave[:1]).all():
        raise DataError("spectra with a grid each: not on the grid of DESI coadds")
    kept, place = place_on_grid(wave[0], "spectra")
    return ArmPixels(place, spectra.flux[:, kept], spectra.ivar[:, kept], spectra.mask[:, kept])


def combine_arms(n: int, arms: Iterable[ArmPixels]) -> Spectra:
    """Combine the arms of `n` spectra on the grid 3600 to 9824 Å.

    Where arms overlap, the flux is their mean weighted by inverse variance, and `ivar` the sum. A pixel
    that is masked, not finite, or without positive ivar weighs nothing. Where nothing is left, flux
    and ivar are 0 and the mask is the OR of the arms' masks, or `NODATA`. Where no arm has a pixel, `wave` is
    NaN too: a missing arm is not covered, rather than bad. The arms' flux and ivar are changed in place.
    """
    flux, ivar = np.zeros((2, n, N_WAVE), np.float32)
    mask, covered = np.zeros((n, N_WAVE), np.int32), np.zeros(N_WAVE, bool)
    for arm in arms:
        bad = ~arm.good
        arm.ivar[bad] = arm.flux[bad] = 0
        twice = np.flatnonzero(covered[arm.place])
        if twice.size:
            _add_weighted(arm, twice, flux[:, arm.place][:, twice], ivar[:, arm.place][:, twice])
        flux[:, arm.place], ivar[:, arm.place] = arm.flux, arm.ivar
        mask[:, arm.place] |= arm.mask
        covered[arm.place] = True
    return _marked(np.where(covered, desi_wave(), np.nan) if n else desi_wave(), flux, ivar, mask)


def _add_weighted(arm: ArmPixels, pixels: NDArray[np.int64], flux: NDArray, ivar: NDArray) -> None:
    """Make some pixels of an arm the weighted mean of themselves and of others, in place."""
    weight = ivar.astype(np.float64)
    total = np.multiply(weight, flux)
    total += np.multiply(arm.ivar[:, pixels], arm.flux[:, pixels], dtype=np.float64)
    weight += arm.ivar[:, pixels]
    arm.flux[:, pixels] = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    arm.ivar[:, pixels] = weight


def _marked(wave: NDArray, flux: NDArray, ivar: NDArray, mask: NDArray) -> Spectra:
    """Return spectra whose mask is 0 where they are measured, and never elsewhere."""
    seen = ivar > 0
    np.copyto(mask, 0, where=seen)
    np.copyto(mask, NODATA, where=~seen & (mask == 0))
    return Spectra(wave, flux, ivar, mask)


def combine_exposures(spectra: Spectra, owner: NDArray[np.int64]) -> Spectra:
    """Combine exposures of one target: the mean weighted by inverse variance, pixel by pixel.

    Parameters
    ----------
    spectra
        Exposures on one grid (S,).
    owner
        (m,) ascending from 0 without a gap: the target of each. One that has a single exposure stays as it
        is, bit for bit.
    """
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    if len(first) == len(owner):
        return spectra
    combined = spectra.take(first)
    bounds = [*first.tolist(), len(owner)]
    for target in np.flatnonzero(np.diff(bounds) > 1):
        rows = slice(bounds[target], bounds[target + 1])
        ivar = spectra.ivar[rows].astype(np.float64)
        weight = ivar.sum(axis=0)
        total = (ivar * spectra.flux[rows]).sum(axis=0)
        combined.flux[target] = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        combined.ivar[target] = weight
        combined.mask[target] = np.bitwise_or.reduce(spectra.mask[rows], axis=0)
    return _marked(*combined)


def stack_spectra(parts: Iterable[Spectra]) -> Spectra:
    """Return spectra one below the other, each on its own grid where these differ; none at all is fine."""
    every = [part for part in parts if len(part.flux)] or [combine_arms(0, [])]
    first = every[0].wave
    if all(part.wave.ndim == 1 and np.array_equal(part.wave, first, equal_nan=True) for part in every):
        return Spectra(first, *(np.concatenate(values) for values in list(zip(*every, strict=True))[1:]))
    waves = (np.broadcast_to(part.wave, part.flux.shape) for part in every)
    columns = [waves, *list(zip(*every, strict=True))[1:]]
    fills = (np.nan, 0, 0, NODATA)
    return Spectra(*(_stack_rows(values, fill) for values, fill in zip(columns, fills, strict=True)))


def _stack_rows(parts: Iterable[NDArray], fill: float) -> NDArray:
    """Return the rows of all parts, filled behind the ends of the shorter ones."""
    return pad_rows([row for part in parts for row in part], fill)


def pad_rows(rows: Sequence[NDArray], fill: float) -> NDArray:
    """Return vectors of unequal length as the rows of an array, filled behind their ends."""
    length = max((len(row) for row in rows), default=0)
    dtype = np.result_type(*(row.dtype for row in rows)) if rows else np.dtype(np.float32)
    padded = np.full((len(rows), length), fill, dtype)
    for values, row in zip(padded, rows, strict=True):
        values[: len(row)] = row
    return padded
