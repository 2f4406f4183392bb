"""The learning rate against the original's schedules, and AdamW against its definition."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Linear, Parameter

from astroclip.training.optim import make_adamw, warmup_cosine
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
    made = make_adamw([weight], settings)
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
    made = make_adamw(layer.parameters(), settings)
    layer.bias.grad = torch.zeros(2)
    made["optimizer"].step()
    torch.testing.assert_close(layer.bias.data, torch.full((2,), 1 - 0.1 * 0.5))
    assert torch.equal(layer.weight, before)
