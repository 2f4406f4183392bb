"""Spectra on the combined DESI grid, 3600 to 9824 Å in steps of 0.8: where pixels fall, and arms combined.

Shapes: m spectra, S = 7781 wavelengths of the combined grid, W pixels of one arm that lie on it.
"""

from collections.abc import Iterable
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.schema import N_WAVE, WAVE_MIN, WAVE_STEP, desi_wave

GRID_TOLERANCE = 1e-3  # Å
NODATA = 1 << 8  # bit of the spectral mask for "no data" (desispec specmask)


class Spectra(NamedTuple):
    """Spectra on one wavelength grid: they travel together.

    Attributes
    ----------
    wave
        (S,) Å, vacuum.
    flux
        (m, S) float32, 1e-17 erg/s/cm²/Å; 0 where `ivar` is 0.
    ivar
        (m, S) float32, inverse variance of `flux`; 0 where there is no good measurement.
    mask
        (m, S) int32; 0 where `ivar` is positive, never 0 elsewhere.
    """

    wave: NDArray[np.float64]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.int32]

    def take(self, rows: NDArray) -> Self:
        """Return the spectra of some rows: indices, repeated ones too, or a boolean mask."""
        return self._replace(flux=self.flux[rows], ivar=self.ivar[rows], mask=self.mask[rows])


class ArmPixels(NamedTuple):
    """Pixels of one arm as read: `place` on the grid, and flux, ivar, mask, (m, W) each, 0 is good."""

    place: slice
    flux: NDArray
    ivar: NDArray
    mask: NDArray[np.int32]

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which pixels hold a measurement, (m, W): not masked, finite, of positive ivar."""
        return (self.mask == 0) & np.isfinite(self.flux) & np.isfinite(self.ivar) & (self.ivar > 0)


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


def combine_arms(n: int, arms: Iterable[ArmPixels]) -> Spectra:
    """Combine the arms of `n` spectra on the grid 3600 to 9824 Å.

    Where arms overlap, the flux is their mean weighted by inverse variance, and `ivar` the sum. A pixel
    that is masked, not finite, or without positive ivar weighs nothing. Where nothing is left, flux
    and ivar are 0 and the mask is the OR of the arms' masks, or `NODATA`: also over the whole range of
    an arm that is missing. The arms' flux and ivar are changed in place.
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
    seen = ivar > 0
    np.copyto(mask, 0, where=seen)
    np.copyto(mask, NODATA, where=~seen & (mask == 0))
    return Spectra(desi_wave(), flux, ivar, mask)


def _add_weighted(arm: ArmPixels, pixels: NDArray[np.int64], flux: NDArray, ivar: NDArray) -> None:
    """Make some pixels of an arm the weighted mean of themselves and of others, in place."""
    weight = ivar.astype(np.float64)
    total = np.multiply(weight, flux)
    total += np.multiply(arm.ivar[:, pixels], arm.flux[:, pixels], dtype=np.float64)
    weight += arm.ivar[:, pixels]
    arm.flux[:, pixels] = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    arm.ivar[:, pixels] = weight


def stack_spectra(parts: Iterable[Spectra]) -> Spectra:
    """Return spectra on the combined grid one below the other; none at all is fine."""
    rows = [combine_arms(0, []), *parts]
    return Spectra(
        rows[0].wave,
        np.concatenate([part.flux for part in rows]),
        np.concatenate([part.ivar for part in rows]),
        np.concatenate([part.mask for part in rows]),
    )
