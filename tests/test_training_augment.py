"""What a training changes in its galaxies: nothing but what it says, drawn anew each time."""

from itertools import product

import numpy as np
import pytest
import torch

from astroclip.schema import N_WAVE, WAVE_MIN, WAVE_STEP
from astroclip.training.augment import degrade_spectra, dim_continuum, flip_and_turn, shift_spectra

WAVE = WAVE_MIN + WAVE_STEP * torch.arange(N_WAVE, dtype=torch.float64)


def line_at(wave: torch.Tensor) -> torch.Tensor:
    """Return spectra (B, W) of continuum 1 with an emission line at observed `wave` (B,), 10 Å wide."""
    return (1 + 5 * torch.exp(-0.5 * ((WAVE - wave[:, None]) / 10) ** 2)).float()


def test_each_galaxy_is_flipped_and_turned_in_one_of_8_ways():
    torch.manual_seed(0)
    images = torch.randn(400, 3, 4, 4)
    shown = flip_and_turn(images)
    ways = [
        np.rot90(images.numpy()[..., ::flip], turn, axes=(-2, -1))
        for flip, turn in product((1, -1), range(4))
    ]
    which = np.stack([(way == shown.numpy()).all(axis=(1, 2, 3)) for way in ways])
    assert (which.sum(axis=0) == 1).all()  # of itself, whole, and one way only
    assert which.sum(axis=1).min() > 25
    assert not torch.equal(flip_and_turn(images), shown)


def test_shifted_spectra_have_their_lines_where_their_redshift_says():
    torch.manual_seed(1)
    redshift = torch.linspace(0.15, 0.6, 200)
    flux, other = shift_spectra(line_at(5008.24 * (1 + redshift)), redshift, largest=0.1, highest=1.7)
    assert flux.isfinite().all()
    ratio = (other.double().log1p() - redshift.double().log1p()).numpy()
    assert np.abs(ratio).max() < 0.1 + 1e-6
    assert np.abs(np.sort(ratio)[[49, 99, 149]] - [-0.05, 0, 0.05]).max() < 0.02  # evenly drawn
    seen = WAVE[flux.argmax(dim=1)]
    assert (seen - 5008.24 * (1 + other.double())).abs().max() < 1.5 * WAVE_STEP
    np.testing.assert_allclose(flux.amax(dim=1), 6, atol=0.05)
    unknown = WAVE[None] / (1 + other[:, None]) * (1 + redshift[:, None]) > WAVE[-1] + WAVE_STEP
    assert unknown.any()
    spread = [row[hidden].std().item() for row, hidden in zip(flux, unknown, strict=True) if hidden.sum() > 1]
    assert max(spread) < 1e-6  # the mean of what is known


def test_shifts_stay_within_the_guide_and_leave_unknown_redshifts_unknown():
    torch.manual_seed(2)
    redshift = torch.tensor([0.0, 0.001, 1.69, torch.nan]).repeat(50)
    flux, other = shift_spectra(torch.randn(200, N_WAVE), redshift, largest=0.3, highest=1.7)
    known = redshift.isfinite()
    assert ((other[known] > 0) & (other[known] < 1.7)).all()
    assert np.histogram(other[::4].log1p(), 3, (0, 0.3))[0].min() > 8  # none heaped up at the border
    assert other[~known].isnan().all()
    assert flux.isfinite().all()


def test_degraded_spectra_are_noisier_by_their_own_noise():
    torch.manual_seed(3)
    ivar = torch.full((400, N_WAVE), 4.0)
    ivar[:, :2000] = 0
    flux = torch.ones(400, N_WAVE)
    worse = degrade_spectra(flux, ivar, noise=1.0, calibration=0.0)
    assert torch.equal(worse[:, :2000], flux[:, :2000])
    added = worse[:, 2000:].std(dim=1).numpy() / 0.5  # in units of the spectrum's own
    assert 0 <= added.min() < 0.05
    assert 0.95 < added.max() < 1.05
    assert np.mean(added) == pytest.approx(0.5, abs=0.05)
    assert torch.equal(degrade_spectra(flux, None, noise=1.0, calibration=0.0), flux)


def test_errors_of_calibration_are_smooth_and_of_the_size_asked_for():
    torch.manual_seed(4)
    flux = 1 + torch.rand(500, N_WAVE)
    error = (degrade_spectra(flux, None, noise=0.0, calibration=0.05) / flux).log()
    expected = 0.05 * np.sqrt(1 + sum(0.5 / k for k in range(1, 13)))
    assert error.std().item() == pytest.approx(expected, rel=0.08)
    assert error.diff(dim=1).abs().max() < 1e-3
    assert (error[:, 100] - error[:, 5000]).std() > 0.03  # a shape, not a factor only


def test_dimmed_continua_leave_the_lines():
    torch.manual_seed(5)
    flux = line_at(torch.linspace(4500, 9000, 100)) * (2 - WAVE / 10_000).float()
    dimmed = dim_continuum(flux, most=0.9)
    near = WAVE[None] - WAVE[flux.argmax(dim=1)][:, None]
    beside = (near.abs() > 200) & (near.abs() < 400)
    left = torch.stack([d[m].mean() / f[m].mean() for d, f, m in zip(dimmed, flux, beside, strict=True)])
    assert left.min().item() == pytest.approx(0.1, abs=0.03)
    assert left.max().item() == pytest.approx(1, abs=0.03)
    height = [x.amax(dim=1) - x.median(dim=1).values for x in (flux, dimmed)]
    torch.testing.assert_close(height[1], height[0], rtol=0.2, atol=0)
    assert torch.equal(dimmed.argmax(dim=1), flux.argmax(dim=1))
    assert torch.equal(dim_continuum(flux, most=0.0), flux)
