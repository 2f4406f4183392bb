"""AdamW or Muon, with a learning rate that rises linearly and falls along a cosine."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.nn import Parameter
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from astroclip.training.settings import OptimSettings

HIDDEN = (".blocks.", ".cross_attention.", ".mlp.")  # parts whose matrices lead from features to features


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


class MuonAdamW(Optimizer):
    """Muon for the hidden matrices, AdamW for all other parameters; for the caller one optimiser.

    Muon makes the momentum of a matrix orthogonal before it steps, scaled so that one learning rate suits
    both. Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), Liu et al. 2025
    (arXiv:2502.16982).

    Parameters
    ----------
    hidden
        Matrices.
    others
        Of any shape.
    settings
        Learning rate and weight decay of both, betas of AdamW.
    """

    def __init__(self, hidden: list[Parameter], others: list[Parameter], settings: OptimSettings) -> None:
        lr, decay = settings.lr, settings.weight_decay
        muon = Muon(hidden, lr=lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        self._parts = (muon, AdamW(others, lr, settings.betas, weight_decay=decay))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make a step of both; return what `closure` returns, which is called before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` returned."""
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Let both parts work on this optimiser's state and groups."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.state, part.param_groups = self.state, [group]


def make_optimizer(
    parameters: Iterable[tuple[str, Parameter]], settings: OptimSettings
) -> OptimizerLRScheduler:
    """Return the optimiser and its schedule, as `configure_optimizers` of a LightningModule gives them.

    The weight decay holds for every parameter, biases and norms too, as in the published trainings of
    SpecFormer and AstroCLIP. Frozen parameters are left out. `parameters` has their names: by them Muon's
    matrices are told, those of transformer blocks, cross-attention and MLPs.
    """
    learning = {name: parameter for name, parameter in parameters if parameter.requires_grad}
    optimizer: Optimizer
    if settings.algorithm == "muon":
        hidden = [p for name, p in learning.items() if p.ndim == 2 and any(part in name for part in HIDDEN)]
        chosen = set(map(id, hidden))
        optimizer = MuonAdamW(hidden, [p for p in learning.values() if id(p) not in chosen], settings)
    else:
        optimizer = AdamW(learning.values(), settings.lr, settings.betas, weight_decay=settings.weight_decay)
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
