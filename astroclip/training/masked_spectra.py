"""SpecFormer learns spectra by guessing what is hidden of them: masked modelling.

Source: Parker et al. 2024 (MNRAS 531, 4990), section 3.2, and its code release.

Shapes: B batch, S = 7781 wavelengths, P patch rows, F columns of a row.
"""

from typing import ClassVar

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from astroclip.config import ModelConfig
from astroclip.model.clip import AstroCLIP, build_model
from astroclip.model.prepare_spectra import (
    find_good_pixels,
    mask_chunks,
    prepare_spectra,
    standardise,
    to_patches,
)
from astroclip.model.specformer import SpectrumEncoder, masked_mse
from astroclip.training.optim import make_optimizer
from astroclip.training.settings import SpectrumTraining


class SpectrumModule(LightningModule):
    """Hides stretches of spectra and learns to reconstruct them.

    A batch has flux (B, S) and, where the data have them, ivar (B, S) and mask (B, S); bad pixels are filled
    as `astroclip.model.prepare_spectra.fill_bad_pixels` says. The masks are drawn from torch's global CPU
    generator.
    """

    columns: ClassVar[tuple[str, ...]] = ("flux", "ivar", "mask")

    def __init__(self, settings: SpectrumTraining) -> None:
        super().__init__()
        self.settings = settings
        self.model = build_model(settings.model, settings.run.seed).train()

    @property
    def encoder(self) -> SpectrumEncoder:
        """The encoder that learns."""
        head = self.model.spectrum_encoder
        if head is None:
            raise TypeError("the model has no spectrum encoder")
        return head.backbone

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        loss = self.loss(batch)
        self.log("train_loss", loss, batch_size=len(batch["flux"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss of a batch whose hidden stretches are the same each time."""
        self.log("val_loss", self.loss(batch), batch_size=len(batch["flux"]), sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser with warm-up and cosine."""
        return make_optimizer(self.named_parameters(), self.settings.optim)

    def trained_model(self) -> tuple[ModelConfig, AstroCLIP]:
        """Return what goes into the model directory."""
        return self.settings.model, self.model

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean error of what was hidden of a batch, for masks drawn now."""
        slicing, masking = self.encoder.config, self.settings.masking
        flux = prepare_spectra(batch["flux"], batch.get("ivar"), batch.get("mask")).flux  # (B, S)
        patches = to_patches(flux, slicing.section_length, slicing.section_overlap)  # (B, P, F)
        masked = mask_chunks(patches, torch.default_generator, masking.chunks, masking.width)
        reconstruction = self.encoder(masked.patches).reconstruction.float()
        if self.settings.loss == "mse":
            return masked_mse(reconstruction, patches, masked.patches)
        good = find_good_pixels(batch["flux"], batch["ivar"], batch.get("mask"))
        weights = ivar_patches(
            flux, batch["ivar"].where(good, 0), slicing.section_length, slicing.section_overlap
        )
        return weighted_mse(reconstruction, patches, weights * masked.rows[..., None])


def ivar_patches(flux: Tensor, ivar: Tensor, section_length: int, section_overlap: int) -> Tensor:
    """Return the weight of every entry of the patches of spectra: (B, S) to (B, P, F).

    A pixel weighs its inverse variance in units of the standardised flux, ivar std² with the standard
    deviation that `to_patches` divides by: 1 for a spectrum of noise alone, more the better the galaxy is
    seen. The two statistics in row 0 weigh 1, the zeros that only fill up the rows nothing.

    Parameters
    ----------
    flux
        Every pixel finite, as `to_patches` gets it.
    ivar
        0 where a pixel is bad.
    """
    _, _, std = standardise(flux)
    step = section_length - section_overlap
    pixels = (ivar * std.square()).unfold(1, section_length, step)  # (B, sections, section_length)
    patches = to_patches(flux, section_length, section_overlap)
    weights = torch.zeros_like(patches)
    weights[:, 0, :2] = 1
    weights[:, 1:, 2:] = pixels[:, : patches.shape[1] - 1]
    return weights


def weighted_mse(reconstruction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean squared error, weighted, over a whole batch; 0 where nothing has a weight.

    All three are (B, P, F). A galaxy seen well counts more than a faint one, as in a fit by least squares.
    Differs from Parker+24, where all hidden pixels count alike: noise and sky residuals weigh little here.
    """
    squares = weights * (reconstruction - target).square()
    return squares.sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
