"""The learning rate against the original's schedules, AdamW and Muon against their definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Linear, ModuleDict, Parameter, Sequential

from astroclip.errors import ConfigError
from astroclip.training.optim import make_optimizer, warmup_cosine
from astroclip.training.recipes import read_training
from astroclip.training.settings import OptimSettings


@pytest.mark.parametrize("name", ["specformer", "astroclip"])
def test_published_schedules(golden: Path, name: str):
    reference = json.loads((golden / "schedules.json").read_text())["cosine_annealing_with_warmup"][name]
    ends = {"warmup_steps": reference["T_warmup"], "decay_steps": reference["T_max"]}
    rates = [warmup_cosine(step, reference["base_lr"], 0.0, **ends) for step in reference["steps"]]
    np.testing.assert_allclose(rates, reference["lr"], rtol=1e-5, atol=1e-5 * reference["base_lr"])


def test_a_schedule_that_ends_above_zero(golden: Path):
    every = json.loads((golden / "schedules.json").read_text())["cosine_annealing_with_warmup"]
    expected = every["stepped_lr1e-3_T30_warm5_eta1e-5"]
    settings = OptimSettings(lr=1e-3, warmup_steps=5, decay_steps=30, final_lr=1e-5)
    weight = Parameter(torch.ones(1))
    made = make_optimizer([("weight", weight)], settings)
    rates = []
    for _ in expected:
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


@given(
    warmup=st.integers(0, 50),
    decay=st.integers(1, 100),
    share=st.floats(0, 1),
    step=st.integers(0, 300),
)
def test_a_schedule_stays_between_its_ends(warmup, decay, share, step):
    ends = {"warmup_steps": warmup, "decay_steps": warmup + decay}
    rate = warmup_cosine(step, 1.0, share, **ends)
    assert 0 <= rate <= 1
    assert warmup_cosine(warmup, 1.0, share, **ends) == 1
    assert warmup_cosine(warmup + decay, 1.0, share, **ends) == share
    if step >= warmup:
        assert rate >= warmup_cosine(step + 1, 1.0, share, **ends)


def test_weight_decay_holds_for_biases_and_frozen_weights_stay():
    layer = Linear(3, 2)
    layer.weight.requires_grad_(False)
    layer.bias.data.fill_(1.0)
    before = layer.weight.clone()
    settings = OptimSettings(lr=0.1, weight_decay=0.5, decay_steps=10)
    made = make_optimizer(layer.named_parameters(), settings)
    layer.bias.grad = torch.zeros(2)
    made["optimizer"].step()
    torch.testing.assert_close(layer.bias.data, torch.full((2,), 1 - 0.1 * 0.5))
    assert torch.equal(layer.weight, before)


def make_net() -> ModuleDict:
    torch.manual_seed(0)
    return ModuleDict(
        {"embed": Linear(3, 4), "net": ModuleDict({"blocks": Sequential(Linear(4, 6), Linear(6, 2))})}
    )


def step_of(net: ModuleDict, made, seed: int) -> None:
    torch.manual_seed(seed)
    out = net["net"]["blocks"](net["embed"](torch.randn(5, 3)))
    made["optimizer"].zero_grad()
    out.square().mean().backward()
    made["optimizer"].step()
    made["lr_scheduler"]["scheduler"].step()


def test_muon_steps_of_hidden_matrices_are_orthogonal_and_as_large_as_adamw():
    net = make_net()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    settings = OptimSettings(lr=0.01, decay_steps=100, algorithm="muon")
    step_of(net, make_optimizer(net.named_parameters(), settings), 1)
    steps = {name: p.detach() - before[name] for name, p in net.named_parameters()}
    first = steps["net.blocks.0.weight"]
    strengths = torch.linalg.svdvals(first) / (0.01 * 0.2 * 6**0.5)  # 0.2 sqrt(larger side): Liu et al. 2025
    assert ((strengths > 0.6) & (strengths < 1.3)).sum() >= 2  # of a gradient of rank 2
    others = [
        step for name, step in steps.items() if name not in ("net.blocks.0.weight", "net.blocks.1.weight")
    ]
    for step in others:  # AdamW's first step is the sign of the gradient
        torch.testing.assert_close(step.abs(), torch.full_like(step, 0.01), rtol=1e-3, atol=0)


def test_muon_goes_on_as_if_never_interrupted():
    settings = OptimSettings(lr=0.01, weight_decay=0.1, warmup_steps=2, decay_steps=10, algorithm="muon")
    whole, begun, resumed = make_net(), make_net(), make_net()
    made = make_optimizer(whole.named_parameters(), settings)
    for seed in range(4):
        step_of(whole, made, seed)
    made = make_optimizer(begun.named_parameters(), settings)
    for seed in range(2):
        step_of(begun, made, seed)
    again = make_optimizer(resumed.named_parameters(), settings)
    resumed.load_state_dict(begun.state_dict())
    again["optimizer"].load_state_dict(made["optimizer"].state_dict())
    again["lr_scheduler"]["scheduler"].load_state_dict(made["lr_scheduler"]["scheduler"].state_dict())
    for seed in (2, 3):
        step_of(resumed, again, seed)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_muon_does_not_go_with_sharded_weights():
    with pytest.raises(ConfigError, match="whole matrices"):
        read_training("spectrum", "mini-spectrum", ["optim.algorithm=muon", "run.strategy=fsdp"])
    with pytest.raises(ConfigError, match="algorithm"):
        read_training("image", "mini-image", ["optim.algorithm=muon"])
