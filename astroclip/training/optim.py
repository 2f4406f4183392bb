"""AdamW, with a learning rate that rises linearly and falls along a cosine."""

import math
from collections.abc import Iterable
from functools import partial

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.nn import Parameter
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from astroclip.training.settings import OptimSettings


def warmup_cosine(step: int, peak: float, final: float, warmup_steps: int, decay_steps: int) -> float:
    """Return the value of a schedule after `step` steps.

    It rises linearly from 0 at step 0 to `peak` at `warmup_steps`, falls along half a cosine to `final` at
    `decay_steps`, and stays there. Source: Parker et al. 2024, code release.
    """
    if step < warmup_steps:
        return peak * step / warmup_steps
    if step >= decay_steps:
        return final
    way = (step - warmup_steps) / (decay_steps - warmup_steps)
    return final + (peak - final) * (1 + math.cos(math.pi * way)) / 2


def make_adamw(parameters: Iterable[Parameter], settings: OptimSettings) -> OptimizerLRScheduler:
    """Return AdamW and its schedule, as `configure_optimizers` of a LightningModule gives them.

    The weight decay holds for every parameter, biases and norms too, as in the published trainings of
    SpecFormer and AstroCLIP. Frozen parameters are left out.
    """
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = AdamW(learning, settings.lr, settings.betas, weight_decay=settings.weight_decay)
    share = partial(
        warmup_cosine,
        peak=1.0,
        final=settings.final_lr / settings.lr,
        warmup_steps=settings.warmup_steps,
        decay_steps=settings.decay_steps,
    )
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": LambdaLR(optimizer, share), "interval": "step"},
    }
