"""Two halves of a spectrum find each other: a loss that teaches redshifts without being told any.

The halves are interleaved stretches of patches that share no pixel, each seen through a flux calibration and
a noise of its own. What is left in common is where lines and breaks lie, so the embedding has to tell it. A
contrastive loss of two views of one object, as of Chen et al. 2020 (SimCLR, arXiv:2002.05709); beside the
alignment of two modalities, as of Mu et al. 2022 (SLIP, arXiv:2112.12750).
Differs from Parker+24, whose spectra are learned by masked modelling alone.

Shapes: B galaxies, S = 7781 wavelengths, P patch rows, D width of the embedding.
"""

import torch
from torch import Tensor

from astroclip.models.clip import AstroCLIP, clip_loss
from astroclip.preprocess.spectrum import find_good_pixels, prepare_spectra, to_patches
from astroclip.training.galaxies import Batch
from astroclip.training.settings import HalvesSettings

SHORTEST, LONGEST = 1.5, 1 / 3  # stretches: patches, and part of all patches


def embed_halves(
    model: AstroCLIP, flux: Tensor, ivar: Tensor | None, settings: HalvesSettings
) -> tuple[Tensor, Tensor]:
    """Embed two halves of each spectrum: two tensors (B, D), row i of both the same galaxy.

    Drawn from torch's global generators. Row 0 of the patches, brightness and contrast, is in neither half:
    with it, galaxies would be found by their brightness.

    Parameters
    ----------
    model
        With a spectrum encoder.
    flux
        (B, S), every pixel finite.
    ivar
        (B, S), 0 where a pixel is bad; without it no noise is added.
    """
    encoder = model.config.spectrum
    if encoder is None:
        raise TypeError("the model has no spectrum encoder")
    slicing = encoder.section_length, encoder.section_overlap
    patches = [to_patches(disturb(flux, ivar, settings), *slicing) for _ in range(2)]
    halves = draw_halves(patches[0].shape[1], encoder.section_overlap > 0)
    first, second = (
        model.encode_patches(seen, rows.to(flux.device)).embedding
        for seen, rows in zip(patches, halves, strict=True)
    )
    return first, second


def contrast(left: Tensor, right: Tensor, scale: float | Tensor) -> Tensor:
    """Return `clip_loss` of matching rows (B, D), in float32 whatever the precision of the training."""
    with torch.autocast(left.device.type, enabled=False):
        return clip_loss(left, right, scale)


def prepare_training_spectra(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Return a batch's flux (B, S), bad pixels filled, and its ivar (B, S), 0 there; None without ivar."""
    flux, ivar, mask = batch["flux"], batch.get("ivar"), batch.get("mask")
    prepared = prepare_spectra(flux, ivar, mask).flux
    return prepared, None if ivar is None else ivar.where(find_good_pixels(flux, ivar, mask), 0)


def disturb(flux: Tensor, ivar: Tensor | None, settings: HalvesSettings) -> Tensor:
    """Return spectra (B, S) with another flux calibration, smooth in wavelength, and with more noise."""
    x = torch.linspace(-1, 1, flux.shape[1], device=flux.device)
    shapes = torch.stack([torch.ones_like(x), x, 1.5 * x.square() - 0.5])  # Legendre polynomials
    drawn = settings.calibration * torch.randn(len(flux), len(shapes), device=flux.device)
    flux = flux * (drawn @ shapes).exp()
    if ivar is None or not settings.noise:
        return flux
    sigma = torch.where(ivar > 0, ivar, torch.inf).rsqrt().clamp(max=settings.max_sigma)
    share = settings.noise * torch.rand(len(flux), 1, device=flux.device)
    return flux + share * sigma * torch.randn_like(flux)


def draw_halves(rows: int, overlap: bool) -> tuple[Tensor, Tensor]:
    """Draw which of the patch rows 1 to `rows` - 1 are in the one half and which in the other.

    Stretches of equal length, between `SHORTEST` patches and `LONGEST` of all, log-uniform, go to the halves
    in turn, from a random phase on. Where patches `overlap`, the last one of each stretch is in no half.
    """
    longest = max(2.0, (rows - 1) * LONGEST)
    length = int(SHORTEST * (longest / SHORTEST) ** torch.rand(1).item()) + overlap
    place = torch.arange(rows - 1) + int(torch.randint(2 * length, (1,)))
    stretch = place.div(length, rounding_mode="floor") % 2
    whole = place % length < length - overlap
    first, second = (((stretch == half) & whole).nonzero().squeeze(1) + 1 for half in (0, 1))
    return first, second
