"""Spectra: from flux, ivar and mask on any wavelength grid to the patches that the encoder sees.

Shapes: N spectra, S pixels of the input grid, W = 7781 pixels of DESI's, P patch rows.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Generator, Tensor

from astroclip.data.spectrum_fields import explain_range
from astroclip.errors import DataError, UsageError
from astroclip.schema import N_WAVE, WAVE_MIN, WAVE_STEP

MIN_STD = 0.2  # 1e-17 erg/s/cm²/Å, floor of the standard deviation (Parker et al. 2024, code release)
_ROWS_AT_ONCE = 32  # spectra with a grid each: bounds the memory of their pieces
_BEYOND = 1e9  # Å, where pixels are put that a spectrum does not have
_GRID_TOLERANCE = 1e-3  # Å, a grid this close to DESI's is DESI's


def as_float32(values: ArrayLike | Tensor) -> Tensor:
    """Return `values` as a float32 tensor, without a copy where that is possible.

    Arrays may have any byte order and strides (FITS data is big-endian); tensors stay on their device.
    """
    if isinstance(values, Tensor):
        return values.float()
    return torch.from_numpy(np.require(values, np.float32, ["C", "W"]))


class DesiSpectra(NamedTuple):
    """Spectra on DESI's grid, all (N, W).

    `flux` and `ivar` float32; `good` bool: pixels to trust; `covered` bool: pixels the input grid reaches.
    """

    flux: Tensor
    ivar: Tensor
    good: Tensor
    covered: Tensor


class PreparedSpectra(NamedTuple):
    """Model input `flux` (N, W), every pixel finite, and what a reader should know about it.

    `bad_fraction` (N,) is the fraction of bad pixels among the covered ones; 1 means that nothing was there.
    `coverage` (N,) is the fraction of DESI's grid that the input grid covers.
    """

    flux: Tensor
    bad_fraction: Tensor
    coverage: Tensor


class MaskedPatches(NamedTuple):
    """`patches` (N, P, F) with some rows set to 0, and which `rows` (N, P) bool."""

    patches: Tensor
    rows: Tensor


def prepare_spectra(
    flux: ArrayLike | Tensor,
    ivar: ArrayLike | Tensor | None = None,
    mask: ArrayLike | Tensor | None = None,
    wave: ArrayLike | Tensor | None = None,
) -> PreparedSpectra:
    """Turn spectra into model input: resample to DESI's grid, fill bad pixels, fill the uncovered part.

    All pixels reach the spectrum encoder through this function. Bad pixels are filled as
    `fill_bad_pixels` says. The part of DESI's grid that `wave` does not cover gets the mean of the covered
    part: it then standardises to 0, the value that the encoder learnt to see as masked, and leaves the
    mean, which the encoder is given, as it is. The published system never saw either.

    Parameters
    ----------
    flux
        (N, S), 1e-17 erg/s/cm²/Å. No input is modified.
    ivar, mask
        (N, S) inverse variance and mask (0 is good); see `find_good_pixels`. May be missing.
    wave
        See `resample_to_desi`; by default DESI's own grid.

    Raises
    ------
    DataError
        If shapes do not fit, or `wave` is not an ascending grid in Å.
    """
    flux, _, good, covered = resample_to_desi(flux, ivar, mask, wave)
    n_covered = covered.sum(dim=1)
    bad_fraction = 1 - good.sum(dim=1) / n_covered.clamp(min=1)
    coverage = n_covered / N_WAVE
    if good.all():
        return PreparedSpectra(flux, bad_fraction, coverage)
    filled = fill_bad_pixels(flux, good)
    mean = filled.double().mul(covered).sum(dim=1, keepdim=True) / n_covered.clamp(min=1)[:, None]
    return PreparedSpectra(torch.where(covered, filled, mean.float()), bad_fraction, coverage)


def find_good_pixels(flux: Tensor, ivar: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Return where a pixel can be trusted: flux finite, ivar finite and positive, mask 0. All (N, S)."""
    good = flux.isfinite()
    if ivar is not None:
        good &= ivar.isfinite() & (ivar > 0)
    return good if mask is None else good & (mask == 0)


def fill_bad_pixels(flux: Tensor, good: Tensor) -> Tensor:
    """Interpolate each spectrum over its bad pixels: (N, S) to (N, S), every pixel finite.

    A run of bad pixels gets a straight line, in pixel index, between the good pixels on its two sides; at
    the ends of the spectrum the nearest good value; a spectrum without a good pixel becomes 0. Non-finite
    flux is bad whatever `good` says. The input is not modified; it is returned as it is if all is good. The
    published system never saw bad pixels: one NaN spoilt the whole spectrum.
    """
    good = good & flux.isfinite()
    if good.all():
        return flux
    S = flux.shape[-1]
    pixel = torch.arange(S, device=flux.device).expand_as(good)
    before = torch.where(good, pixel, -1).cummax(dim=-1).values  # nearest good pixel, -1 where there is none
    after = torch.where(good, pixel, S).flip(-1).cummin(dim=-1).values.flip(-1)  # S where there is none
    empty = after[..., :1] == S
    before, after = torch.where(before < 0, after, before), torch.where(after == S, before, after)
    before, after = before.clamp(0, S - 1), after.clamp(0, S - 1)
    way = (pixel - before) / (after - before).clamp(min=1)
    line = torch.lerp(flux.gather(-1, before), flux.gather(-1, after), way.to(flux.dtype))
    return torch.where(good, flux, line).masked_fill(empty, 0)


def resample_to_desi(
    flux: ArrayLike | Tensor,
    ivar: ArrayLike | Tensor | None = None,
    mask: ArrayLike | Tensor | None = None,
    wave: ArrayLike | Tensor | None = None,
) -> DesiSpectra:
    """Bring spectra to the wavelength grid of combined DESI spectra, 3600.0 to 9824.0 Å in steps of 0.8 Å.

    On DESI's grid (to 1e-3 Å) flux and ivar pass through untouched; pixels of a part of it keep their values
    at their places. From any other grid an output pixel is the mean flux density over its 0.8 Å, the input
    pixels being constant between the midpoints of their neighbours. Its variance is the sum of the squared
    shares times the input variances: where the input pixels are wider than 0.8 Å their noise is repeated,
    not averaged, and that correlation between output pixels is not recorded. A step more than 1.5 times as
    wide as the next one is a gap.

    An output pixel that is not wholly covered, or that a bad pixel contributes to, has flux 0 and ivar 0.

    Parameters
    ----------
    flux, ivar, mask
        (N, S); without `ivar` every variance is 1. Bad pixels: `find_good_pixels`.
    wave
        (S,) for all spectra or (N, S), Å, vacuum, ascending; NaN where a spectrum has no pixel: a part that
        is not covered. Without it `flux` must be on DESI's grid.

    Raises
    ------
    DataError
        If shapes do not fit, or `wave` does not ascend or seems to be in another unit.
    """
    flux = as_float32(flux)
    ivar = torch.ones_like(flux) if ivar is None else as_float32(ivar)
    if mask is not None and not isinstance(mask, Tensor):
        mask = torch.from_numpy(np.asarray(mask) != 0).to(flux.device)
    for name, values in (("flux", flux), ("ivar", ivar), ("mask", mask)):
        if values is not None and (values.ndim != 2 or values.shape != flux.shape):
            raise DataError(f"{name} of shape {tuple(values.shape)}: expected (N, S), the same for all")
    good = find_good_pixels(flux, ivar, mask)
    if wave is None:
        if flux.shape[1] != N_WAVE:
            raise DataError(
                f"spectra of {flux.shape[1]} pixels: expected DESI's {N_WAVE}, or their wavelengths as 'wave'"
            )
        return DesiSpectra(flux, ivar, good, torch.ones_like(good))
    grid = wave.double() if isinstance(wave, Tensor) else torch.from_numpy(np.array(wave, np.float64))
    _check_wave(grid, flux.shape)
    grid = torch.atleast_2d(grid).to(flux.device)
    if not grid.isfinite().all():
        flux, ivar, good, grid = _drop_missing(flux, ivar, good, grid)
    node = ((grid - WAVE_MIN) / WAVE_STEP).round()
    off_grid = (grid - (WAVE_MIN + WAVE_STEP * node)).abs() >= _GRID_TOLERANCE
    neighbours = (node.diff(dim=1) == 1).double().mean(dim=1)
    placed = ~off_grid.any(dim=1) & (neighbours > 0.5 * grid.isfinite().double().mean(dim=1))
    if not placed.any():
        return _rebin(flux, ivar, good, grid)
    if not placed.all():
        return _resample_rows(placed, flux, ivar, good, grid)
    if node.shape[1] == N_WAVE and not node[:, 0].any() and (node[:, -1] == N_WAVE - 1).all():
        return DesiSpectra(flux, ivar, good, torch.ones_like(good))
    return _place(flux, ivar, good, node.nan_to_num(-1).long())


def standardise(flux: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take off the mean and divide by the standard deviation of each spectrum.

    Parameters
    ----------
    flux
        (N, S) or (N, S, 1), every pixel finite; not modified.

    Returns
    -------
    flux, mean, std
        (N, S), (N, 1), (N, 1), float32. `std` is the unbiased one, at least 0.2.
    """
    flux = flux.float()
    flux = flux.squeeze(-1) if flux.ndim == 3 else flux
    mean, std = flux.mean(dim=1, keepdim=True), flux.std(dim=1, keepdim=True).clamp(min=MIN_STD)
    return (flux - mean) / std, mean, std


def count_patches(pixels: int, section_length: int = 20, section_overlap: int = 10) -> int:
    """Return the number of sections that `to_patches` cuts out of a spectrum (its row 0 comes on top)."""
    return math.ceil((pixels - section_overlap) / (section_length - section_overlap)) - 1


def to_patches(flux: Tensor, section_length: int = 20, section_overlap: int = 10) -> Tensor:
    """Standardise spectra and cut them into overlapping patches: (N, S) to (N, P, section_length + 2).

    Row 0 holds ((mean - 2) / 2, (std - 2) / 8, 0, ...); each further row two zeros and `section_length`
    standardised pixels. Sections start every section_length - section_overlap pixels; the last one is
    always dropped, even if complete: DESI's 7781 pixels give 778 rows. Source: Parker et al. 2024, code
    release.

    Parameters
    ----------
    flux
        (N, S) or (N, S, 1), 1e-17 erg/s/cm²/Å, every pixel finite; not modified.

    Raises
    ------
    DataError
        If a spectrum is too short for one section.
    """
    flux, mean, std = standardise(flux)
    step = section_length - section_overlap
    sections = count_patches(flux.shape[1], section_length, section_overlap)
    if sections < 1:
        raise DataError(
            f"spectra of {flux.shape[1]} pixels are too short: sections of {section_length} pixels need at "
            f"least {section_length + 1}"
        )
    patches = flux.new_zeros(len(flux), sections + 1, section_length + 2)
    patches[:, 0, 0] = (mean.squeeze(1) - 2) / 2
    patches[:, 0, 1] = (std.squeeze(1) - 2) / 8
    patches[:, 1:, 2:] = flux.unfold(1, section_length, step)[:, :sections]
    return patches


def mask_chunks(
    patches: Tensor, generator: Generator, num_chunks: int = 6, chunk_width: int = 50
) -> MaskedPatches:
    """Set chunks of consecutive patch rows to 0, for masked modelling; each spectrum has its own.

    With n rows, c chunks and width w, chunk i starts at floor(i n / c) + r, with r a uniform integer in
    [0, floor(n / c) - w). Source: Parker et al. 2024, section 3.2 and code release.

    Parameters
    ----------
    patches
        (N, n, F) from `to_patches`, not modified.
    generator
        The only source of randomness; its device may differ from that of `patches`.

    Raises
    ------
    UsageError
        If (2 c - 1) w > n, or no place is left for a chunk to vary.
    """
    N, n, _ = patches.shape
    places = n // num_chunks - chunk_width
    if (2 * num_chunks - 1) * chunk_width > n or places < 1:
        raise UsageError(
            f"{num_chunks} chunks of {chunk_width} rows do not fit into {n} rows: use fewer or narrower ones"
        )
    shift = torch.randint(places, (N, num_chunks), generator=generator, device=generator.device)
    start = shift.to(patches.device) + torch.arange(num_chunks, device=patches.device) * n // num_chunks
    since = torch.arange(n, device=patches.device)[:, None] - start[:, None]  # (N, n, chunks)
    rows = ((since >= 0) & (since < chunk_width)).any(dim=2)
    return MaskedPatches(patches.masked_fill(rows[..., None], 0), rows)


def _check_wave(wave: Tensor, shape: torch.Size) -> None:
    """Refuse wavelengths that do not fit the flux of `shape`, do not ascend, or are in another unit."""
    if wave.shape not in (shape, shape[1:]) or wave.shape[-1] < 2:
        raise DataError(f"wave of shape {tuple(wave.shape)}: expected (S,) or (N, S) for flux {tuple(shape)}")
    there = ~wave.isnan()
    known = wave.where(there, -torch.inf).cummax(dim=-1).values  # the last one known, up to each pixel
    rising = (wave[..., 1:] > known[..., :-1]) & ~wave[..., 1:].isinf() | ~there[..., 1:]
    if not rising.all():
        *row, pixel = (~rising).nonzero()[0].tolist()
        where = f"row {row[0]}, pixel {pixel + 1}" if row else f"pixel {pixel + 1}"
        raise DataError(f"wave does not ascend at {where}: expected ascending finite vacuum wavelengths in Å")
    if not there.any():
        return
    if problem := explain_range(wave[there].min().item(), wave[there].max().item()):
        raise DataError(f"wave runs {problem}")


def _drop_missing(
    flux: Tensor, ivar: Tensor, good: Tensor, wave: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Move pixels without a wavelength behind the others, where they are bad; a grid for each spectrum."""
    wave = wave.expand_as(flux)
    order = wave.isnan().int().argsort(dim=1, stable=True)
    flux, ivar, good, wave = (values.gather(1, order) for values in (flux, ivar, good, wave))
    there = wave.isfinite()
    longest = max(int(there.sum(dim=1).max()), 2)
    return (
        flux.masked_fill(~there, 0)[:, :longest],
        ivar[:, :longest],
        (good & there)[:, :longest],
        wave[:, :longest],
    )


def _resample_rows(placed: Tensor, flux: Tensor, ivar: Tensor, good: Tensor, wave: Tensor) -> DesiSpectra:
    """Resample spectra some of which are on DESI's grid."""
    rows = [(~placed).nonzero()[:, 0], placed.nonzero()[:, 0]]
    parts = [resample_to_desi(flux[r], ivar[r], ~good[r], wave[r]) for r in rows]
    back = torch.cat(rows).argsort()
    return DesiSpectra(*(torch.cat(values)[back] for values in zip(*parts, strict=True)))


def _place(flux: Tensor, ivar: Tensor, good: Tensor, node: Tensor) -> DesiSpectra:
    """Put pixels of a part of DESI's grid to their places; `node` (1 or N, S) is their index there."""
    node = node.where((node >= 0) & (node < N_WAVE), N_WAVE).expand_as(flux)  # the last column is cut off
    covered = torch.ones_like(good)

    def place(values: Tensor) -> Tensor:
        return values.new_zeros(len(values), N_WAVE + 1).scatter(1, node, values)[:, :N_WAVE]

    return DesiSpectra(place(flux), place(ivar), place(good), place(covered))


def _rebin(flux: Tensor, ivar: Tensor, good: Tensor, wave: Tensor) -> DesiSpectra:
    """Average spectra over DESI's pixels; `wave` (1 or N, S) float64. See `resample_to_desi`."""
    if len(wave) > _ROWS_AT_ONCE:
        blocks = zip(*(values.split(_ROWS_AT_ONCE) for values in (flux, ivar, good, wave)), strict=True)
        return DesiSpectra(*map(torch.cat, zip(*(_rebin(*block) for block in blocks), strict=True)))
    source, target, length = (x.expand(len(flux), -1) for x in _overlaps(wave))

    def total(values: Tensor) -> Tensor:
        return values.new_zeros(len(values), N_WAVE).scatter_add_(1, target, values)

    share = length / WAVE_STEP
    covered = total(share) > 1 - 1e-6
    touched = total(share * ~good.gather(1, source)) > 0
    good_out = covered & ~touched
    mean = total(share * flux.masked_fill(~good, 0).double().gather(1, source))
    variance = total(share.square() * ivar.masked_fill(~good, 1).double().reciprocal().gather(1, source))
    return DesiSpectra(
        mean.masked_fill(~good_out, 0).float(),
        variance.reciprocal().masked_fill(~good_out, 0).float(),
        good_out,
        covered,
    )


def _overlaps(wave: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return input pixel, DESI pixel and length in Å of all pieces (R, 2 S + W + 1) between pixel edges."""
    # the length is 0 where a piece is not in both
    step = wave.diff(dim=1).nan_to_num(torch.inf)  # behind the last pixel: as before it
    before, after = torch.cat([step[:, :1], step], dim=1), torch.cat([step, step[:, -1:]], dim=1)
    near = torch.minimum(before, after)
    left = wave - torch.where(before > 1.5 * near, near, before) / 2
    right = wave + torch.where(after > 1.5 * near, near, after) / 2
    left, right = (side.nan_to_num(_BEYOND, posinf=_BEYOND, neginf=_BEYOND) for side in (left, right))
    edges = WAVE_MIN + WAVE_STEP * (torch.arange(N_WAVE + 1, device=wave.device, dtype=wave.dtype) - 0.5)
    cuts = torch.cat([left, right, edges.expand(len(wave), -1)], dim=1).sort(dim=1).values
    middle, length = (cuts[:, 1:] + cuts[:, :-1]) / 2, cuts.diff(dim=1)
    source = torch.searchsorted(left, middle, right=True) - 1
    target = ((middle - edges[0]) / WAVE_STEP).floor().long()
    inside = (source >= 0) & (target >= 0) & (target < N_WAVE) & (length > 1e-9)
    source, target = source.clamp(min=0), target.clamp(0, N_WAVE - 1)
    inside &= middle < right.gather(1, source)
    return source, target, length * inside
