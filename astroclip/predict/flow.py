"""Posteriors from conditional neural spline flows (Durkan et al. 2019), joint over several labels.

Parker et al. 2024 (section 4) use ensembles of such flows for their posteriors.

Shapes: R reference rows, N rows, D width, L labels, M samples.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from astroclip.errors import UsageError

FLOWS = 2  # each begins elsewhere and sees other rows last
SAMPLES = 64  # of each flow
MAX_EPOCHS = 40
PATIENCE = 5
LEARNING_RATE = 2e-3
UNSEEN = 0.2  # share of the rows that is held out: for early stopping, then for calibration
CHUNK = 512  # rows sampled at a time


class Flows(NamedTuple):
    """A few flows, and the numbers of what they take and give: D and L."""

    flows: list[Any]
    width: int
    outputs: int

    def sample(self, x: Tensor, seed: int = 0) -> Tensor:
        """Return samples (N, M, L) of the joint posterior, in standardised labels, for x (N, D)."""
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed)
            parts = [
                torch.cat([flow(part).sample((SAMPLES,)) for flow in self.flows]).transpose(0, 1)
                for part in x.split(CHUNK)
            ]
        return torch.cat(parts) if parts else torch.zeros(0, FLOWS * SAMPLES, self.outputs)


def make_flows(width: int, outputs: int) -> Flows:
    """Build flows for D inputs and L outputs, with random weights."""
    from zuko.flows import NSF

    return Flows(
        [NSF(outputs, width, transforms=1, hidden_features=(64, 64)) for _ in range(FLOWS)], width, outputs
    )


def train_flows(x: Tensor, target: Tensor, seed: int = 0) -> tuple[Flows, Tensor]:
    """Train flows on standardised vectors (R, D) and labels (R, L); rows without all labels are left out.

    Returns
    -------
    (Flows, Tensor)
        The flows, and the numbers of the rows that none has been trained on.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        complete = target.isfinite().all(1).nonzero()[:, 0]
        complete = complete[torch.randperm(len(complete))]
        held = max(1, int(UNSEEN * len(complete)))
        if len(complete) - held < 2:
            raise UsageError("method flow needs rows that have all labels; take --method mlp")
        unseen, seen = complete[:held], complete[held:]
        flows = make_flows(x.shape[1], target.shape[1])
        for flow in flows.flows:
            _train(flow, x, target, seen, unseen)
    return flows, unseen


def _train(flow: Any, x: Tensor, target: Tensor, seen: Tensor, unseen: Tensor) -> None:
    """Train one flow until the likelihood of the unseen rows falls."""
    optimiser = torch.optim.Adam(flow.parameters(), LEARNING_RATE)
    size = min(512, max(64, len(seen) // 50))
    best, lowest, waited = flow.state_dict(), float("inf"), 0
    for _ in range(MAX_EPOCHS):
        for rows in seen[torch.randperm(len(seen))].split(size):
            optimiser.zero_grad()
            (-flow(x[rows]).log_prob(target[rows]).mean()).backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
            optimiser.step()
        with torch.inference_mode():
            at = -flow(x[unseen]).log_prob(target[unseen]).mean().item()
        if at < lowest - 1e-3:
            best, lowest, waited = {n: v.clone() for n, v in flow.state_dict().items()}, at, 0
        elif (waited := waited + 1) >= PATIENCE:
            break
    flow.load_state_dict(best)
    flow.requires_grad_(requires_grad=False)
