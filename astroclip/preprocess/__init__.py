"""From survey pixels to model inputs, batched in torch: the same numbers on CPU and GPU."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def as_float32(values: ArrayLike | Tensor) -> Tensor:
    """Return `values` as a float32 tensor, without a copy where that is possible.

    Arrays may have any byte order and strides (FITS data is big-endian); tensors stay on their device.
    """
    if isinstance(values, Tensor):
        return values.float()
    return torch.from_numpy(np.require(values, np.float32, ["C", "W"]))
