"""Alignment: two heads, and if wanted their encoders, learn to put a galaxy's image next to its spectrum.

Source: Parker et al. 2024 (MNRAS 531, 4990), section 3.3; Radford et al. 2021 (arXiv:2103.00020).

Shapes: B galaxies of a rank's batch, W ranks, H pixels of a square image's side, D width of the embedding.
"""

import math
from typing import Any, Self

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from astroclip.config import ModelConfig, Settings
from astroclip.errors import ConfigError
from astroclip.model.checkpoint import load_weights
from astroclip.model.clip import AstroCLIP, build_model, clip_loss
from astroclip.model.prepare_images import prepare_images
from astroclip.model.prepare_spectra import prepare_spectra
from astroclip.model.specformer import SpectrumEncoder
from astroclip.model.vit import ImageEncoder
from astroclip.schema import PairsKey
from astroclip.training.augment import degrade_spectra, dim_continuum, flip_and_turn, shift_spectra
from astroclip.training.galaxies import ROWS, Batch
from astroclip.training.guide import RedshiftGuide
from astroclip.training.optim import make_optimizer
from astroclip.training.ranks import count_ranks, gather, gather_rows
from astroclip.training.retrieval import measure_retrieval
from astroclip.training.settings import ClipTraining

MAX_SCALE = 100.0  # of a learned scale, as in Radford et al. 2021; the least is 1
_NO_SIZES = {"dropout", "drop_path"}  # settings of an encoder or head that its weights do not depend on


class ClipModule(LightningModule):
    """Trains an AstroCLIP model by the symmetric InfoNCE loss of matching images and spectra.

    An encoder starts from the model directory that `settings.image` or `settings.spectrum` names, its head
    too if that model has one of the same sizes; what has no directory starts from random weights. Frozen
    encoders stay in evaluation mode. Differs from Parker+24: there, their dropout was active; with the
    loss ``global`` a galaxy is told from those of all ranks, not of one; bad pixels are filled in.

    Parameters
    ----------
    settings
        With directories, not names: from `astroclip.training.recipes.find_encoders`.

    Raises
    ------
    CheckpointError
        If a directory is no whole model directory.
    ConfigError
        If its model has no such encoder, or one of other sizes than `settings.model`.
    """

    columns: tuple[str, ...] = ("image", "flux", "ivar", "mask")

    def __init__(self, settings: ClipTraining) -> None:
        super().__init__()
        self.settings = settings
        self.model = build_model(settings.model, settings.run.seed)
        self.log_scale: nn.Parameter | None = None
        if settings.scale == "learned":  # of one element: FSDP takes no scalars
            self.log_scale = nn.Parameter(torch.tensor([math.log(settings.model.logit_scale)]))
        for modality in ("image", "spectrum"):
            if (directory := getattr(settings, modality)) is not None:
                _start_from(self.model, modality, directory)
        self._freeze()
        self.guide: RedshiftGuide | None = None
        if settings.guide is not None:
            self.guide = RedshiftGuide(_width(settings.model), settings.guide, settings.run.seed)
            self.columns = (*ClipModule.columns, PairsKey.REDSHIFT)
        self._validated: list[tuple[Tensor, ...]] = []
        self._seen_scale: float | Tensor = settings.model.logit_scale
        self.train()

    @property
    def scale(self) -> float | Tensor:
        """Inverse temperature of the loss."""
        return self.settings.model.logit_scale if self.log_scale is None else self.log_scale.exp()

    @property
    def encoders(self) -> tuple[ImageEncoder, SpectrumEncoder]:
        """The two encoders below the heads."""
        image, spectrum = self.model.image_encoder, self.model.spectrum_encoder
        if image is None or spectrum is None:
            raise TypeError("the model lacks an encoder")
        return image.backbone, spectrum.backbone

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but frozen encoders."""
        super().train(mode)
        if not self.settings.train_encoders:
            for encoder in self.encoders:
                encoder.eval()
        return self

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; with ``global`` the same on all ranks."""
        image, spectrum, guided = self._learn(batch)
        together = (gather(image), gather(spectrum)) if self.settings.loss == "global" else (image, spectrum)
        loss = _contrast(*together, self.scale)
        if self.guide is not None:
            self.log("guide_loss", guided, batch_size=len(image))
            loss = loss + self.guide.settings.weight * guided
        self.log("train_loss", loss, prog_bar=True, batch_size=len(image))
        if self.log_scale is not None:
            self.log("scale", self.log_scale.exp(), batch_size=len(image))
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then put a learned scale back between 1 and `MAX_SCALE`."""
        super().optimizer_step(*args, **kwargs)
        if self.log_scale is not None:
            with torch.no_grad():
                self.log_scale.clamp_(0, math.log(MAX_SCALE))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep a batch's embeddings: what they are worth shows in the whole part."""
        rgb, flux = self._prepare(batch)
        kept = (batch[ROWS], self.model.encode_image(rgb), self.model.encode_spectrum(flux))
        self._validated.append(kept if self.guide is None else (*kept, batch[PairsKey.REDSHIFT]))
        self._seen_scale = self.scale  # between steps FSDP leaves a rank only its shard of the weights

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the retrieval of the validation part, the same on all ranks.

        The loss is the mean over groups of as many galaxies as a training batch has, spread over the part.
        """
        rows, image, spectrum, *redshift = (
            gather_rows(torch.cat(parts)) for parts in zip(*self._validated, strict=True)
        )
        self._validated.clear()
        order = rows.argsort()
        image, spectrum = image[order], spectrum[order]
        batch = self.settings.data.batch_size * (count_ranks() if self.settings.loss == "global" else 1)
        groups = max(1, round(len(rows) / batch))
        losses = [_contrast(image[i::groups], spectrum[i::groups], self._seen_scale) for i in range(groups)]
        loss = torch.stack(losses).mean()
        if self.guide is not None:
            guided = self.guide(spectrum, redshift[0][order])
            self.log("val_guide_loss", guided, sync_dist=True)
            loss = loss + self.guide.settings.weight * guided
        self.log("val_loss", loss, prog_bar=True, sync_dist=True)
        metrics = measure_retrieval(image, spectrum)
        self.log_dict({f"val_{name}": value for name, value in metrics.items()}, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser of what learns, and its schedule."""
        return make_optimizer(self.named_parameters(), self.settings.optim)

    def trained_model(self) -> tuple[ModelConfig, AstroCLIP]:
        """Return the model and its settings, with the scale it was trained with or has learned."""
        scale = self.scale if isinstance(self.scale, float) else self.scale.item()
        return self.settings.model.model_copy(update={"logit_scale": scale}), self.model

    def _learn(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embeddings (B, D) of a batch as augmented, and the loss of the guide (0 without one)."""
        settings, guide = self.settings, self.guide
        rgb, flux = self._prepare(batch)
        if settings.augment:
            rgb = flip_and_turn(rgb)
        if settings.degrade:
            worse = settings.degrade
            flux = degrade_spectra(flux, batch.get("ivar"), worse.noise, worse.calibration)
        image = self.model.encode_image(rgb)
        if guide is None:
            return image, self.model.encode_spectrum(flux), image.new_zeros(())
        redshift, moved = batch[PairsKey.REDSHIFT], round(guide.settings.shifted * len(flux))
        more, there = shift_spectra(
            flux[:moved], redshift[:moved], guide.settings.shift, guide.settings.highest
        )
        flux = torch.cat([flux, dim_continuum(more, guide.settings.dimmed)])
        redshift = torch.cat([redshift, there])
        spectrum = self.model.encode_spectrum(flux)
        return image, spectrum[: len(image)], guide(spectrum, redshift)

    def _prepare(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the inputs of the two encoders."""
        rgb = prepare_images(batch["image"], self.encoders[0].config.image_size).rgb
        return rgb, prepare_spectra(batch["flux"], batch.get("ivar"), batch.get("mask")).flux

    def _freeze(self) -> None:
        """Keep the encoders as they are; or, of trained ones, the weights that no embedding depends on."""
        image, spectrum = self.encoders
        unused = (image.cls_token, image.pos_embed, image.mask_token, *spectrum.head.parameters())
        every = (*image.parameters(), *spectrum.parameters())
        for parameter in unused if self.settings.train_encoders else every:
            parameter.requires_grad_(False)


def _contrast(image: Tensor, spectrum: Tensor, scale: float | Tensor) -> Tensor:
    """Return the loss of matching rows, in float32 whatever the precision of the training."""
    with torch.autocast(image.device.type, enabled=False):
        return clip_loss(image, spectrum, scale)


def _width(model: ModelConfig) -> int:
    if model.head is None:
        raise TypeError("an alignment has heads")
    return model.head.embed_dim


def _start_from(model: AstroCLIP, modality: str, directory: str) -> None:
    """Copy the weights of a directory's encoder into the model, and those of its head if the sizes agree."""
    origin = load_weights(directory)
    theirs, ours = (getattr(each.config, modality) for each in (origin, model))
    if theirs is None:
        raise ConfigError(f"{modality}={directory}: that model has no {modality} encoder")
    if wrong := _differences(theirs, ours):
        raise ConfigError(
            f"{modality}={directory}: its encoder has {', '.join(wrong)}. Give model.{modality} its sizes"
        )
    old, new = (getattr(each, f"{modality}_encoder") for each in (origin, model))
    new.backbone.load_state_dict(old.backbone.state_dict())
    if origin.config.head and model.config.head and not _differences(origin.config.head, model.config.head):
        new.load_state_dict(old.state_dict())


def _differences(theirs: Settings, ours: Settings) -> list[str]:
    """Describe the sizes in which two encoders or heads differ."""
    wanted = ours.model_dump(exclude=_NO_SIZES)
    return [
        f"{name} {value}, not {wanted[name]}"
        for name, value in theirs.model_dump(exclude=_NO_SIZES).items()
        if value != wanted[name]
    ]
