"""A training of images small enough to run in milliseconds, and galaxies for it."""

import numpy as np
import torch
from torch import Tensor

from astroclip.config import make_settings
from astroclip.training.settings import ImageTraining

SIZES = {"image_size": 48, "patch_size": 12, "embed_dim": 16, "depth": 2, "num_heads": 2}
TINY = {
    "model": {"name": "tiny", "image": SIZES},
    "views": {"global_size": 48, "local_size": 24, "local_count": 2},
    "hiding": {},
    "prototypes": {"hidden_dim": 24, "bottleneck_dim": 12, "count": 32, "frozen_steps": 1},
    "distillation": {"temperature_steps": 3},
    "optim": {"lr": 0.01, "lr_batch": None, "warmup_steps": 2, "decay_steps": 8, "clip_norm": 3.0},
    "data": {"batch_size": 4},
    "run": {"steps": 4, "seed": 3},
}


def tiny(**sections: dict) -> ImageTraining:
    values = {name: {**part, **sections.get(name, {})} for name, part in TINY.items()}
    return make_settings(ImageTraining, values, "test")


def draw_galaxies(n: int, size: int = 64) -> Tensor:
    """Draw images (n, 3, size, size) in nanomaggies: galaxies of different sizes, colours and directions."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:size, :size] - size / 2
    angle, radius = rng.uniform(0, np.pi, n), rng.uniform(2, 8, n)
    along = x * np.cos(angle)[:, None, None] + y * np.sin(angle)[:, None, None]
    across = (y * np.cos(angle)[:, None, None] - x * np.sin(angle)[:, None, None]) * 2
    profile = np.exp(-np.sqrt(along**2 + across**2) / radius[:, None, None])
    colours = rng.uniform(0.05, 0.5, (n, 3, 1, 1))
    return torch.from_numpy(
        (colours * profile[:, None] + rng.normal(0, 0.003, (n, 3, size, size))).astype("f4")
    )
