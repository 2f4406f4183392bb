"""What the ranks of a distributed training know of each other: rows gathered with gradient, sums.

Shapes: B rows of a rank, W ranks.
"""

from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class _Gather(torch.autograd.Function):
    """Concatenate the ranks' rows; for a loss that every rank computes alike from all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # noqa: ARG004
        # a rank's own gradient is complete; DDP and FSDP will divide by the number of ranks
        return grad.chunk(dist.get_world_size())[dist.get_rank()] * dist.get_world_size()


def gather(x: Tensor) -> Tensor:
    """Return the rows of all ranks, (B, ...) to (W B, ...), in the order of ranks, with gradient.

    B is the same on all ranks. The gradients of a loss that all ranks compute alike from the result are,
    averaged over ranks, those of one process with the whole batch.
    """
    gathered: Tensor = x if count_ranks() == 1 else _Gather.apply(x)
    return gathered


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all ranks in the order of ranks, without gradient; their numbers may differ."""
    if count_ranks() == 1:
        return x
    counts = gather(torch.tensor([len(x)], device=x.device)).tolist()
    padded = F.pad(x.detach(), (0, 0) * (x.ndim - 1) + (0, max(counts) - len(x)))
    parts = gather(padded).split(max(counts))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def over_ranks(x: Tensor, operation: Literal["sum", "max"] = "sum") -> Tensor:
    """Return the sum, or maximum, of `x` over all ranks, without gradient; alone, `x` itself."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(x, dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX)
    return x


def count_ranks() -> int:
    """Return the number of ranks, 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
