"""The schedules of DINOv2, and its learning rates and weight decays parameter by parameter.

Source: Oquab et al. 2024 (arXiv:2304.07193), with the numbers of Parker et al. 2024.
"""

from collections import defaultdict
from typing import Any, NamedTuple

from torch.optim import AdamW, Optimizer

from astroclip.training.dino import DinoNetwork
from astroclip.training.optim import warmup_cosine
from astroclip.training.settings import ImageTraining


class Rates(NamedTuple):
    """What a step goes by: rates of the optimiser, the teacher's momentum and temperature."""

    lr: float
    last_layer_lr: float
    weight_decay: float
    momentum: float
    temperature: float


def rates_at(step: int, settings: ImageTraining, batch: int) -> Rates:
    """Return the rates of step `step`, counted from 0, where `batch` galaxies make a step.

    lr rises linearly from 0 and reaches its highest value in the last step of the warm-up, and again in the
    next one, where the cosine begins.
    """
    optim, distillation = settings.optim, settings.distillation
    end = optim.decay_steps
    peak = optim.lr * (batch / optim.lr_batch) ** 0.5 if optim.lr_batch else optim.lr
    if step < optim.warmup_steps:
        lr = peak * step / max(optim.warmup_steps - 1, 1)
    else:
        lr = warmup_cosine(step, peak, optim.final_lr, optim.warmup_steps, end)
    cold, warm = distillation.teacher_temperature
    way = min(step / max(distillation.temperature_steps - 1, 1), 1.0)
    return Rates(
        lr=lr,
        last_layer_lr=0.0 if step < settings.prototypes.frozen_steps else lr,
        weight_decay=warmup_cosine(step, optim.weight_decay, optim.final_weight_decay, 0, end),
        momentum=warmup_cosine(step, *distillation.teacher_momentum, 0, end),
        temperature=cold + way * (warm - cold),
    )


def parameter_groups(
    network: DinoNetwork, layer_decay: float, patch_embed_factor: float
) -> list[dict[str, Any]]:
    """Sort the parameters of a network into groups for an optimiser.

    Each group has `params`, and `lr_factor`, `decay_factor` and `last_layer` for `set_rates`. Rates fall by
    `layer_decay` from each block of the encoder to the one before it; the projection head has the full rate.
    There is no weight decay on biases, norms and LayerScale.
    """
    depth = len(network.backbone.blocks)
    groups: dict[tuple[float, float, bool], list[Any]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        lr_factor = layer_decay ** (depth + 1 - _layer(name, depth))
        if "patch_embed" in name:
            lr_factor *= patch_embed_factor
        plain = name.endswith((".bias", ".gamma")) or "norm" in name
        groups[lr_factor, 0.0 if plain else 1.0, "last_layer" in name].append(parameter)
    return [
        {"params": params, "lr_factor": lr, "decay_factor": decay, "last_layer": last}
        for (lr, decay, last), params in groups.items()
    ]


def make_optimizer(network: DinoNetwork, settings: ImageTraining) -> AdamW:
    """Return AdamW over the parameters of a network; `set_rates` before each step."""
    optim = settings.optim
    groups = parameter_groups(network, optim.layer_decay, optim.patch_embed_factor)
    return AdamW(groups, lr=0.0, betas=optim.betas)


def set_rates(optimizer: Optimizer, rates: Rates) -> None:
    """Give each group its learning rate and weight decay for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr_factor"] * (rates.last_layer_lr if group["last_layer"] else rates.lr)
        group["weight_decay"] = group["decay_factor"] * rates.weight_decay


def _layer(name: str, depth: int) -> int:
    """Number the layers: 0 what makes the tokens, 1 to `depth` the blocks, then all that follows."""
    _, _, inside = name.partition("backbone.")
    if inside.startswith("blocks."):
        return int(inside.split(".")[1]) + 1
    return 0 if inside.startswith(("cls_token", "pos_embed", "mask_token", "patch_embed")) else depth + 1
