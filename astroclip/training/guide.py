"""A guide for short trainings: a linear layer that has to read the redshift off the spectrum embedding.

Alignment alone teaches a spectrum's redshift about as exactly as the image tells it; long trainings on many
galaxies go beyond, short ones do not. With a guide, embeddings have seen the redshifts of the training part:
estimates from them are not zero-shot in the sense of Parker et al. 2024, and the model's card has to say so.
Differs from Parker+24, which has none.

Shapes: B galaxies, D width of the embedding, K redshift bins.
"""

import math

import torch
from torch import Generator, Tensor, nn

from astroclip.model.layers import init_affine
from astroclip.training.settings import GuideSettings


class RedshiftGuide(nn.Module):
    """Reads which of K bins, equal in ln(1 + z) from 0 on, a galaxy's redshift is in: (B, D) to a loss."""

    def __init__(self, width: int, settings: GuideSettings, seed: int) -> None:
        super().__init__()
        self.settings = settings
        self.bins = nn.utils.skip_init(nn.Linear, width, settings.bins)
        init_affine(self.bins, Generator().manual_seed(seed))

    def forward(self, spectrum: Tensor, redshift: Tensor) -> Tensor:
        """Return the cross-entropy with a Gaussian about the true bin, in float32.

        Galaxies without a redshift between 0 and the highest do not count; without any the loss is 0.
        """
        settings = self.settings
        place = redshift.double().clamp(min=-0.5).log1p() / math.log1p(settings.highest) * settings.bins
        known = (place >= 0) & (place < settings.bins)  # NaN is neither
        centres = torch.arange(settings.bins, device=redshift.device) + 0.5
        distance = (centres - place.where(known, 0)[:, None]).float() / settings.softness
        target = (-0.5 * distance.square()).softmax(dim=1)  # (B, K)
        with torch.autocast(spectrum.device.type, enabled=False):
            entropy = -(target * self.bins(spectrum.float()).log_softmax(dim=1)).sum(dim=1)
        return (entropy * known).sum() / known.sum().clamp(min=1)
