"""Which patches of a view are hidden from the student: rectangles, as iBOT and DINOv2 draw them.

Source: Bao et al. 2022 (BEiT, arXiv:2106.08254), algorithm 1; Oquab et al. 2024 (arXiv:2304.07193).

Shapes: B views, h w rows and columns of patches, P = h w.
"""

import math

import torch
from torch import Generator, Tensor

_SMALLEST = 4  # patches of a rectangle, while so many are left to hide
_LARGEST = 0.5  # of all patches
_LOG_ASPECT = math.log(1 / 0.3)  # of the highest ratio of height to width, and of width to height
_TRIALS = 10  # in a row without a rectangle that fits, then the view is left as it is


def draw_masks(
    n: int, side: int, probability: float, ratio: tuple[float, float], generator: Generator | None = None
) -> Tensor:
    """Draw masks for `n` views of `side` x `side` patches: (n, side²) bool on the CPU, True = hidden.

    ``int(n * probability)`` of the views, drawn at random, have hidden patches. Their fractions are spread
    evenly over `ratio`: with N of them, the i-th is drawn uniformly from the i-th of N equal intervals.
    """
    chosen = int(n * probability)
    low, high = ratio
    place = torch.arange(chosen) + torch.rand(chosen, generator=generator)
    patches = ((low + (high - low) * place / max(chosen, 1)) * side**2).int()
    wanted = torch.zeros(n, dtype=torch.int32)
    wanted[torch.randperm(n, generator=generator)[:chosen]] = patches
    return block_masks(wanted, side, generator).flatten(1)


def block_masks(wanted: Tensor, side: int, generator: Generator | None = None) -> Tensor:
    """Hide nearly `wanted` (B,) patches of square views by rectangles: (B, side, side) bool, never more.

    Every view gets one rectangle after the other, of random area, aspect and place, that hides at least one
    patch more and no more than are wanted; all views are drawn for at once.
    """
    masks = torch.zeros(len(wanted), side, side, dtype=torch.bool)
    failures = torch.zeros(len(wanted), dtype=torch.int32)
    pixel = torch.arange(side)
    while len(views := ((masks.sum((1, 2)) < wanted) & (failures < _TRIALS)).nonzero().squeeze(1)):
        left = (wanted[views] - masks[views].sum((1, 2))).float().clamp(max=_LARGEST * side**2)
        draws = torch.rand(4, len(views), generator=generator)
        area = _SMALLEST + (left - _SMALLEST) * draws[0]
        aspect = ((2 * draws[1] - 1) * _LOG_ASPECT).exp()
        height, width = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        top = (draws[2] * (side - height + 1)).floor()
        start = (draws[3] * (side - width + 1)).floor()
        rows = (pixel >= top[:, None]) & (pixel < (top + height)[:, None])
        columns = (pixel >= start[:, None]) & (pixel < (start + width)[:, None])
        added = rows[:, :, None] & columns[:, None] & ~masks[views]
        number = added.sum((1, 2))
        fits = (height < side) & (width < side) & (number > 0) & (number <= left)
        masks[views] |= added & fits[:, None, None]
        failures[views] = torch.where(fits, 0, failures[views] + 1)
    return masks
