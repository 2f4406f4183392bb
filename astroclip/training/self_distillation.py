"""DINOv2: a student learns to say of a view what its teacher, its own moving average, says of another.

Sources: Oquab et al. 2024 (arXiv:2304.07193); Parker et al. 2024 (MNRAS 531, 4990), section 3.1, and its code
release.

Shapes: B galaxies of a rank's batch, L local views of each, P patches of a global view, D width.
"""

from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from lightly.models.utils import update_momentum
from lightning import LightningModule
from torch import Generator, Tensor, nn
from torch.optim import AdamW, Optimizer

from astroclip.config import ImageEncoderConfig, ModelConfig
from astroclip.model.clip import AstroCLIP
from astroclip.model.prepare_images import fill_bad_pixels
from astroclip.model.views import View, make_views
from astroclip.training.blockmask import draw_masks
from astroclip.training.dino import GLOBAL_VIEWS, DinoLoss, DinoNetwork, DinoOutput, DinoTerms
from astroclip.training.dino_optim import Rates, make_optimizer, rates_at, set_rates
from astroclip.training.settings import ImageTraining


class ImageModule(LightningModule):
    """Trains an image encoder without labels; the result is the teacher.

    A batch has image (B, 3, H, W), g, r, z in nanomaggies; bad pixels are filled as
    `astroclip.model.prepare_images.fill_bad_pixels` says. Views are drawn from the global generator of the
    batch's device, patches to hide from that of the CPU.
    """

    columns: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(self, settings: ImageTraining) -> None:
        super().__init__()
        if settings.model.image is None:
            raise TypeError("the settings describe no image encoder")
        self.settings = settings
        self.config = settings.model.image
        self.student = self._network(self.config)
        self.student.init_weights(Generator().manual_seed(settings.run.seed))
        self.teacher = self._network(self.config.model_copy(update={"drop_path": 0.0}))
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        distillation = settings.distillation
        self.loss = DinoLoss(
            settings.prototypes.count,
            distillation.student_temperature,
            distillation.targets,
            distillation.center_momentum,
        )
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the teacher, which never drops a path."""
        super().train(mode)
        self.teacher.eval()
        return self

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch; log its terms and how near the teacher is to collapse."""
        loss, logs = self._step(batch)
        self.log_dict({"train_loss": loss, **logs}, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the same of a validation batch, with views and hidden patches that are the same each time."""
        loss, logs = self._step(batch)
        logs = {f"val_{name}": value for name, value in {"loss": loss, **logs}.items()}
        self.log_dict(logs, batch_size=len(batch["image"]), sync_dist=True)

    def configure_optimizers(self) -> AdamW:
        """Return AdamW over the student; its rates are set before each step."""
        return make_optimizer(self.student, self.settings)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make a step with its own rates, then let the teacher follow the student."""
        rates = self.rates()
        set_rates(self.trainer.optimizers[0], rates)
        super().optimizer_step(*args, **kwargs)
        update_momentum(self.student, self.teacher, rates.momentum)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient of the encoder and that of the projection head, each by its own norm."""
        if gradient_clip_val is not None:
            for part in (self.student.backbone, self.student.dino_head):
                nn.utils.clip_grad_norm_(part.parameters(), gradient_clip_val)

    def trained_model(self) -> tuple[ModelConfig, AstroCLIP]:
        """Return what goes into the model directory: the teacher's encoder."""
        encoder = self.teacher.backbone
        config = self.settings.model.model_copy(update={"image": encoder.config})
        model = AstroCLIP(config)
        if model.image_encoder is not None:
            model.image_encoder.backbone = encoder
        return config, model.eval()

    def rates(self) -> Rates:
        """Return the rates of the step that comes next."""
        settings = self.settings
        devices = self.trainer.world_size
        batch = settings.data.batch_size * settings.run.accumulate * devices
        return rates_at(self.trainer.global_step, settings, batch)

    def distil(
        self, global_views: Tensor, local_views: Tensor, masks: Tensor, temperature: float
    ) -> tuple[Tensor, DinoTerms, DinoOutput]:
        """Let the student learn from the teacher: return the loss, its terms, and what the teacher made.

        Parameters
        ----------
        global_views, local_views
            (2 B, 3, H, W) and (L B, 3, h, w) from `astroclip.model.views.make_views`.
        masks
            (2 B, P) bool, on the CPU: the patches hidden from the student.
        temperature
            The teacher's.
        """
        # found on the CPU, so that no device has to be waited for
        hidden = masks.flatten().nonzero().squeeze(1).to(global_views.device, non_blocking=True)
        masks = masks.to(global_views.device, non_blocking=True)
        with torch.no_grad():
            teacher = self.teacher(global_views, hidden)
        student = self.student(global_views, hidden, masks, local_views)
        terms = self.loss(student, teacher, masks, hidden, temperature)
        weights = self.settings.distillation
        loss = (
            weights.dino_weight * (terms.globals + terms.local)
            + weights.ibot_weight * terms.ibot
            + weights.koleo_weight * terms.koleo
        )
        return loss, terms, teacher

    def _network(self, config: ImageEncoderConfig) -> DinoNetwork:
        sizes = self.settings.prototypes
        network = DinoNetwork(config, sizes.hidden_dim, sizes.bottleneck_dim, sizes.count)
        return network.to_empty(device="cpu")

    def _step(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a batch and what else is to be logged."""
        global_views, local_views = self._draw_views(batch["image"])
        side, hiding = self.config.image_size // self.config.patch_size, self.settings.hiding
        masks = draw_masks(len(global_views), side, hiding.views, hiding.patches)
        loss, terms, teacher = self.distil(global_views, local_views, masks, self.rates().temperature)
        spread = F.normalize(teacher.cls.float(), dim=1).std(dim=0).mean() * teacher.cls.shape[1] ** 0.5
        return loss, {
            "dino_global": terms.globals,
            "dino_local": terms.local,
            "ibot": terms.ibot,
            "koleo": terms.koleo,
            "teacher_entropy": terms.teacher_entropy,
            "embedding_std": spread,
        }

    def _draw_views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the global views (2 B, 3, H, W) and the local ones (L B, 3, h, w) of a batch."""
        views = self.settings.views
        kinds = [
            View(size, count, blur, noise)
            for size, count, blur, noise in zip(
                [views.global_size] * GLOBAL_VIEWS + [views.local_size],
                [1] * GLOBAL_VIEWS + [views.local_count],
                views.blur,
                views.noise,
                strict=True,
            )
        ]
        with torch.autocast(images.device.type, enabled=False):  # nanomaggies span too much for 16 bits
            first, second, local = make_views(fill_bad_pixels(images)[0], kinds)
        return torch.cat([first, second]), local
