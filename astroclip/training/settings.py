"""What a training is made of: frozen settings. The defaults are neutral; `recipes` reads published values.

A step is one update of the weights (an optimiser step).
"""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from astroclip.config import ModelConfig, Settings
from astroclip.model.prepare_spectra import count_patches
from astroclip.schema import CUTOUT_SIZE, N_WAVE

Share = Annotated[float, Field(ge=0, le=1)]


class OptimSettings(Settings):
    """AdamW or Muon with a linear warm-up and a cosine, both counted in steps.

    Muon steps the hidden matrices, AdamW with the same rate the rest: `astroclip.training.optim.MuonAdamW`.
    """

    algorithm: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(gt=0)  # the highest learning rate, at the end of the warm-up
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)  # a step takes off lr * weight_decay of a weight
    warmup_steps: int = Field(0, ge=0)  # from 0 to lr
    decay_steps: int = Field(gt=0)  # step, the warm-up's included, at which the cosine reaches final_lr
    final_lr: float = Field(0.0, ge=0)  # from decay_steps on
    clip_norm: float | None = Field(None, gt=0)  # of the gradient of all weights; null = no clipping

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_steps > self.decay_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} is beyond decay_steps {self.decay_steps}, which counts "
                "the warm-up too"
            )
        return self


class DataSettings(Settings):
    """How galaxies are read."""

    batch_size: int = Field(gt=0)  # galaxies a device sees at a time
    run_rows: int = Field(1, gt=0)  # consecutive rows read together and shuffled as one; 1 = each its own
    workers: int = Field(0, ge=0)  # reading processes a device; 0 = the training process reads


class RunSettings(Settings):
    """How long and how exactly to train, and what to keep."""

    steps: int = Field(gt=0)
    accumulate: int = Field(1, gt=0)  # batches whose gradients make one step
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the arithmetic; weights stay float32
    strategy: Literal["ddp", "fsdp"] = "ddp"  # over several devices: whole copies, or shards of the weights
    seed: int = Field(0, ge=0)
    val_every: int = Field(1000, gt=0)  # steps
    val_batches: int | None = Field(None, gt=0)  # of each validation, per device; null = all
    patience: int | None = Field(None, gt=0)  # validations without a better loss, then stop; null = never
    checkpoint_every: int = Field(1000, gt=0)  # steps
    log_every: int = Field(50, gt=0)  # steps
    deterministic: bool = False  # on GPUs: refuse operations whose result is not repeatable
    compile: bool = False  # torch.compile of the encoders' blocks
    wandb: bool = False  # also log to Weights & Biases, project astroclip


class MaskingSettings(Settings):
    """What masked modelling hides: `chunks` stretches of `width` consecutive patches in each spectrum."""

    chunks: int = Field(gt=0)
    width: int = Field(gt=0)  # patches


class GuideSettings(Settings):
    """What guides spectrum embeddings to redshifts: `astroclip.training.guide`."""

    weight: float = Field(1.0, gt=0)  # of its loss beside that of the alignment
    bins: int = Field(400, gt=1)  # equal in ln(1 + z), from 0 to highest
    highest: float = Field(1.7, gt=0)  # redshift
    softness: float = Field(2.0, gt=0)  # standard deviation of the target, in bins
    shifted: Share = 0.0  # of each batch it sees once more, at another redshift
    shift: float = Field(0.2, gt=0)  # largest, in ln wavelength
    dimmed: Share = 0.0  # most that is taken off the continuum of these


class DegradeSettings(Settings):
    """How spectra are made worse at each sight: `astroclip.training.augment.degrade_spectra`."""

    noise: float = Field(1.0, ge=0)  # most that is added, in units of the spectrum's own
    calibration: float = Field(0.03, ge=0)  # standard deviation of each smooth term, in ln flux


class SpectrumTraining(Settings):
    """Masked modelling of spectra with SpecFormer: Parker et al. 2024, section 3.2."""

    model: ModelConfig
    masking: MaskingSettings
    loss: Literal["mse", "ivar"] = "mse"  # masked pixels weigh all the same, or by inverse variance
    optim: OptimSettings
    data: DataSettings
    run: RunSettings

    @model_validator(mode="after")
    def _fits(self) -> Self:
        model = self.model
        if model.spectrum is None or model.image is not None or model.head is not None:
            raise ValueError("model: expected a section 'spectrum', and neither 'image' nor 'head'")
        slicing = model.spectrum.section_length, model.spectrum.section_overlap
        patches = count_patches(N_WAVE, *slicing) + 1
        chunks, width = self.masking.chunks, self.masking.width
        _check_strategy(self)
        if (2 * chunks - 1) * width > patches or patches // chunks <= width:
            raise ValueError(
                f"masking: {chunks} chunks of {width} patches do not fit into the {patches} patches of a "
                f"spectrum cut into sections of {slicing[0]} pixels that overlap by {slicing[1]}; "
                f"use fewer or narrower ones"
            )
        if patches > model.spectrum.max_len:
            raise ValueError(f"model: max_len {model.spectrum.max_len} is less than the {patches} patches")
        return self


class ClipTraining(Settings):
    """Alignment of images and spectra: Parker et al. 2024, section 3.3.

    `image` and `spectrum` name the models to start from, or their directories; `recipes.find_encoders` looks
    them up. Without one, that encoder starts from random weights and has to be trained.
    """

    model: ModelConfig
    image: str | None = None
    spectrum: str | None = None
    train_encoders: bool = False  # false: their weights stay, and their dropout is off
    scale: Literal["fixed", "learned"] = "fixed"  # inverse temperature; starts at model.logit_scale
    loss: Literal["global", "local"] = "global"  # over the batch of all devices, or of each its own
    augment: bool = False  # flips and quarter turns of the images
    degrade: DegradeSettings | None = None  # noise and errors of calibration for the spectra
    guide: GuideSettings | None = None  # spectrum embeddings learn the redshifts of the training part too
    optim: OptimSettings
    data: DataSettings
    run: RunSettings

    @model_validator(mode="after")
    def _fits(self) -> Self:
        model = self.model
        if model.image is None or model.spectrum is None or model.head is None:
            raise ValueError("model: expected sections 'image', 'spectrum' and 'head'")
        _check_strategy(self)
        if self.guide and not self.train_encoders:
            raise ValueError("guide: teaches the spectrum encoder, which train_encoders=false keeps as it is")
        lacking = [name for name in ("image", "spectrum") if getattr(self, name) is None]
        if lacking and not self.train_encoders:
            raise ValueError(
                f"frozen encoders have to be trained ones: name a model as {lacking[0]}=..., or train from "
                "scratch with train_encoders=true"
            )
        return self


class ViewSettings(Settings):
    """The views of an image: two global ones and several local ones, random square crops without resizing.

    `blur` and `noise` are the probabilities with which the first global view, the second one and each local
    one are blurred, and get noise, to the seeing and depth of another place in the survey. (The release's
    settings give one minus these.)
    """

    global_size: int = Field(144, gt=0)  # px
    local_size: int = Field(60, gt=0)  # px
    local_count: int = Field(8, gt=0)
    blur: tuple[Share, Share, Share] = (0.0, 0.9, 0.5)
    noise: tuple[Share, Share, Share] = (0.0, 0.9, 0.5)


class HidingSettings(Settings):
    """Which patches of the global views are hidden from the student, in rectangles (iBOT)."""

    views: Share = 0.5  # part of the global views that have hidden patches
    patches: tuple[Share, Share] = (0.1, 0.5)  # smallest and largest part of their patches that is hidden


class PrototypeSettings(Settings):
    """Sizes of the projection head, which sorts views and patches into prototypes."""

    hidden_dim: int = Field(2048, gt=0)
    bottleneck_dim: int = Field(256, gt=0)
    count: int = Field(65536, gt=1)
    frozen_steps: int = Field(1250, ge=0)  # steps at the start without learning of the last layer


class DistillationSettings(Settings):
    """How the student learns from the teacher, its own moving average."""

    dino_weight: float = Field(1.0, ge=0)
    ibot_weight: float = Field(1.0, ge=0)
    koleo_weight: float = Field(0.1, ge=0)
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: tuple[PositiveFloat, PositiveFloat] = (0.04, 0.07)  # first and last
    temperature_steps: int = Field(37500, gt=0)  # from the first to the last, linearly
    targets: Literal["center", "sinkhorn"] = "center"  # what keeps the teacher from using few prototypes
    center_momentum: float = Field(0.9, ge=0, lt=1)
    teacher_momentum: tuple[Share, Share] = (0.992, 1.0)  # first, and at optim.decay_steps; a cosine


class ImageOptimSettings(OptimSettings):
    """AdamW of DINOv2: `lr` goes with the square root of the batch, and differs between layers.

    `clip_norm` holds for the encoder and for the projection head, each on its own.
    """

    algorithm: Literal["adamw"] = "adamw"
    lr_batch: int | None = Field(1024, gt=0)  # galaxies of a step for which lr is meant; null = any number
    final_weight_decay: float = Field(0.01, ge=0)  # at decay_steps; a cosine from weight_decay
    layer_decay: float = Field(0.9, gt=0, le=1)  # the rate of a block is this times that of the next one
    patch_embed_factor: float = Field(0.2, gt=0)  # the patch embedding's rate, beside its layer's


class ImageTraining(Settings):
    """Self-distillation of images with DINOv2: Oquab et al. 2024; Parker et al. 2024, section 3.1."""

    model: ModelConfig
    views: ViewSettings
    hiding: HidingSettings
    prototypes: PrototypeSettings
    distillation: DistillationSettings
    optim: ImageOptimSettings
    data: DataSettings
    run: RunSettings

    @model_validator(mode="after")
    def _fits(self) -> Self:
        image, views = self.model.image, self.views
        if image is None or self.model.spectrum is not None or self.model.head is not None:
            raise ValueError("model: expected a section 'image', and neither 'spectrum' nor 'head'")
        if views.global_size != image.image_size:
            raise ValueError(
                f"views: global_size {views.global_size} is not the model's image_size {image.image_size}"
            )
        if views.global_size > CUTOUT_SIZE or views.local_size > CUTOUT_SIZE:
            raise ValueError(f"views: larger than the images, which have {CUTOUT_SIZE} px")
        if views.local_size % image.patch_size:
            raise ValueError(
                f"views: local_size {views.local_size} is not a multiple of patch_size {image.patch_size}"
            )
        return self


Training = SpectrumTraining | ImageTraining | ClipTraining
KINDS: dict[str, type[SpectrumTraining] | type[ImageTraining] | type[ClipTraining]] = {
    "spectrum": SpectrumTraining,
    "image": ImageTraining,
    "clip": ClipTraining,
}


def _check_strategy(settings: SpectrumTraining | ClipTraining) -> None:
    if settings.optim.algorithm == "muon" and settings.run.strategy == "fsdp":
        raise ValueError("optim: muon needs whole matrices, which run.strategy=fsdp shards; use ddp")
