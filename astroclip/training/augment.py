"""What a training changes in its galaxies, to learn from more than it has; drawn from torch's generator.

Shapes: B galaxies of a batch, C bands, H pixels of a square image's side, W spectral pixels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from astroclip.schema import WAVE_MIN, WAVE_STEP

CONTINUUM_PIXELS = 401  # the continuum is a running mean over so many
CALIBRATION_TERMS = 12  # cosines over the spectrum: half a wave to six waves


def flip_and_turn(images: Tensor) -> Tensor:
    """Show each image of a batch (B, C, H, H) in one of its 8 orientations."""
    drawn = torch.randint(8, (len(images), 1, 1, 1), device=images.device)
    images = torch.where(drawn & 1 > 0, images.flip(-1), images)
    images = torch.where(drawn & 2 > 0, images.flip(-2), images)
    return torch.where(drawn & 4 > 0, images.mT, images)


def degrade_spectra(flux: Tensor, ivar: Tensor | None, noise: float, calibration: float) -> Tensor:
    """Show each spectrum (B, W) as another night might have: noisier, and with other errors of calibration.

    The noise added is 0 to `noise` times that of `ivar`, one factor for all pixels of a spectrum; pixels with
    ivar = 0, and spectra without inverse variances, get none. ln flux is off by a smooth curve, a constant
    and `CALIBRATION_TERMS` cosines, whose amplitudes have the standard deviation `calibration`, falling as
    the inverse root of the waves.
    """
    B, W = flux.shape
    if ivar is not None:
        sigma = ivar.clamp(min=1e-12).rsqrt() * (ivar > 0)
        flux = flux + sigma * torch.randn_like(flux) * (noise * torch.rand(B, 1, device=flux.device))
    term = torch.arange(CALIBRATION_TERMS + 1, device=flux.device)
    place = (torch.arange(W, device=flux.device) + 0.5) / W
    size = calibration * term.clamp(min=1).rsqrt()
    drawn = torch.randn(B, len(term), device=flux.device) * size
    return flux * (drawn @ torch.cos(math.pi * term[:, None] * place)).exp()


def shift_spectra(flux: Tensor, redshift: Tensor, largest: float, highest: float) -> tuple[Tensor, Tensor]:
    """Put galaxies to other redshifts: spectra (B, W) on DESI's grid are moved in ln wavelength.

    Parameters
    ----------
    flux
        (B, W), every pixel finite.
    redshift
        (B,); where it is NaN the result's is too.
    largest
        Each shift is drawn evenly from -largest to largest, in ln wavelength, as far as
    highest
        redshifts end between 0 and this.

    Returns
    -------
    flux, redshift
        What moves in from outside the grid is unknown and gets the mean of the rest, as the uncovered part of
        other surveys' spectra. Pixels are moved whole, so noise stays white; brightness stays as it is.
    """
    B, W = flux.shape
    here = redshift.double().log1p()
    low, high = (here - largest).clamp(min=1e-3), (here + largest).clamp(max=math.log1p(highest) - 1e-3)
    there = low + (high - low) * torch.rand(B, dtype=torch.float64, device=flux.device)
    wave = WAVE_MIN + WAVE_STEP * torch.arange(W, dtype=torch.float64, device=flux.device)
    origin = wave * (here - there).nan_to_num(0).exp()[:, None]
    pixel = ((origin - WAVE_MIN) / WAVE_STEP).round().long()
    known = (pixel >= 0) & (pixel < W)
    moved = flux.gather(1, pixel.clamp(0, W - 1)) * known
    mean = moved.sum(dim=1, keepdim=True) / known.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(known, moved, mean), there.expm1().to(redshift.dtype)


def dim_continuum(flux: Tensor, most: float) -> Tensor:
    """Take a share of 0 to `most`, drawn for each spectrum (B, W), off its continuum: lines stand out more.

    The continuum is a running mean in which what is farther from it than usual (the lines) counts but as far
    as usual.
    """
    rough = _running_mean(flux)
    usual = _running_mean((flux - rough).abs())
    continuum = _running_mean(torch.minimum(torch.maximum(flux, rough - usual), rough + usual))
    return flux - most * torch.rand(len(flux), 1, device=flux.device) * continuum


def _running_mean(flux: Tensor) -> Tensor:
    half = CONTINUUM_PIXELS // 2
    padded = F.pad(flux[:, None], (half, half), mode="replicate")
    return F.avg_pool1d(padded, CONTINUUM_PIXELS, stride=1)[:, 0]
