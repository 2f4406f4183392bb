"""Training of images on two processes, with whole or sharded weights, gives what one process gives."""

import pytest
import torch
import torch.multiprocessing
from image_trainings import tiny
from lightly.models.utils import update_momentum
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from astroclip.training.devices import SHARDED
from astroclip.training.dino_optim import make_optimizer, rates_at, set_rates
from astroclip.training.self_distillation import ImageModule


def rank_of_two(rank: int, folder: str) -> None:
    """One of two processes: losses with half of the views each, gradients averaged as DDP does it."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    views = torch.load(f"{folder}/views.pt", weights_only=True)
    mine = {name: x.unflatten(0, (-1, 6))[:, 3 * rank :][:, :3].flatten(0, 1) for name, x in views.items()}
    for targets in ("center", "sinkhorn"):
        module = ImageModule(tiny(distillation={"targets": targets}))
        loss = two_steps(module, mine)
        for tensor in (loss, *(parameter.grad for parameter in module.student.parameters())):
            torch.distributed.all_reduce(tensor)
            tensor.div_(2)
        if rank == 0:
            gradients = {name: p.grad for name, p in module.student.named_parameters()}
            torch.save({"loss": loss, **module.loss.state_dict(), **gradients}, f"{folder}/{targets}.pt")
    plain, sharded = (train_sharded(sharded, mine) for sharded in (False, True))
    if rank == 0:
        torch.save({"plain": plain, "sharded": sharded}, f"{folder}/sharded.pt")
    torch.distributed.destroy_process_group()


class Distil(nn.Module):
    """The whole module as FSDP wraps it: its forward is the loss."""

    def __init__(self, module: ImageModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, views: dict[str, Tensor]) -> Tensor:
        return self.module.distil(views["globals"], views["locals"], views["masks"], 0.05)[0]


def train_sharded(sharded: bool, views: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make three steps with weights sharded over two ranks, or whole on both; return student and teacher."""
    settings = tiny(prototypes={"frozen_steps": 0}, optim={"warmup_steps": 0})
    module = ImageModule(settings)
    whole = Distil(module)
    if sharded:
        policy = ModuleWrapPolicy(SHARDED)
        whole = FullyShardedDataParallel(
            whole, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
        )
    optimizer = make_optimizer(module.student, settings)
    for step in range(3):
        optimizer.zero_grad()
        whole(views).backward()
        if not sharded:
            for parameter in module.student.parameters():
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad.div_(2)
        set_rates(optimizer, rates_at(step, settings, 6))
        optimizer.step()
        update_momentum(module.student, module.teacher, 0.9)
    with FullyShardedDataParallel.summon_full_params(whole):
        return {
            name.replace("_fsdp_wrapped_module.", ""): parameter.detach().clone()
            for name, parameter in module.named_parameters()
        }


def two_steps(module: ImageModule, views: dict[str, Tensor]) -> Tensor:
    """Make two losses, the second with the moved centres, and the second's gradient."""
    for _ in range(2):
        module.zero_grad()
        loss, _, _ = module.distil(views["globals"], views["locals"], views["masks"], 0.05)
        loss.backward()
    return loss.detach()


def test_two_ranks_equal_one_with_twice_the_batch(tmp_path):
    """Loss, gradients and centres of 2 x 3 galaxies and of 6, with different numbers of hidden patches."""
    generator = torch.Generator().manual_seed(1)
    views = {
        "globals": torch.rand(12, 3, 48, 48, generator=generator),
        "locals": torch.rand(12, 3, 24, 24, generator=generator),
        "masks": torch.rand(12, 16, generator=generator) < torch.linspace(0, 0.6, 12)[:, None],
    }
    torch.save(views, tmp_path / "views.pt")
    torch.multiprocessing.spawn(rank_of_two, (str(tmp_path),), nprocs=2)
    for targets in ("center", "sinkhorn"):
        module = ImageModule(tiny(distillation={"targets": targets}))
        loss = two_steps(module, views)
        two = torch.load(tmp_path / f"{targets}.pt", weights_only=True)
        assert two["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        for name, centre in module.loss.state_dict().items():
            torch.testing.assert_close(two[name], centre, rtol=1e-5, atol=1e-6)
        largest = max(p.grad.abs().max() for p in module.student.parameters())
        for name, parameter in module.student.named_parameters():
            assert (two[name] - parameter.grad).abs().max() < 1e-5 * largest, name
    states = torch.load(tmp_path / "sharded.pt", weights_only=True)
    for name, expected in states["plain"].items():
        torch.testing.assert_close(states["sharded"][name], expected, rtol=1e-5, atol=1e-6)
