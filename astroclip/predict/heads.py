"""Few-shot heads: an ensemble of small networks on standardised embeddings, each blind to a part of the rows.

The reference is cut into fifths twice, and every member learns from four of one cut. Each row is so unseen by
two members, which have learnt from different rows. What they say of it is nearly what the ensemble would say
of a new galaxy: calibration lives on such held-out predictions, and so does the choice of the best epoch.

Shapes: K members, R reference rows, N rows, D width, L outputs (numbers, or bins of one), B batch.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FOLDS = 5
CUTS = 2  # into folds; as many members are blind to a row
MEMBERS = CUTS * FOLDS
LEARNING_RATE = 4e-3  # falls to 0 as a cosine
BATCHES = 25  # an epoch, if batches of 16 to 256 rows allow it
JUDGED = 20_000  # rows, at most, on which an epoch is judged
SOFTNESS = 2.0  # bins, standard deviation of what is to be learnt of a number in bins
CHUNK = 8192  # rows run at a time

Loss = Callable[[Tensor, Tensor], Tensor]  # outputs (..., L) and rows (...) -> losses, one a row


class HeadSettings(NamedTuple):
    """What the networks are like.

    Attributes
    ----------
    hidden
        Widths of the hidden layers.
    dropout
        Probability.
    bins
        If not 0, a number is learnt as the shares of so many bins.
    noise
        Standard deviation of what is added to the standardised vectors in training.
    steps
        Of training, if 10 to 200 epochs make them.
    """

    hidden: tuple[int, ...]
    dropout: float
    bins: int = 0
    noise: float = 0.0
    steps: int = 1000


class Ensemble(NamedTuple):
    """K networks of the same sizes, GELU between layers: weights (K, in, out) and biases (K, 1, out)."""

    weights: list[Tensor]
    biases: list[Tensor]

    def members(self, x: Tensor, dropout: float = 0.0) -> Tensor:
        """Return the outputs (K, B, L) of all members for x (B, D), or for x (K, B, D) of their own."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias
            if i < len(self.weights) - 1:
                x = F.dropout(F.gelu(x), dropout, training=dropout > 0)
        return x

    def mean(self, x: Tensor) -> Tensor:
        """Return the mean output (N, L) of the members."""
        with torch.inference_mode():
            parts = [self.members(part).mean(0) for part in x.split(CHUNK)]
        return torch.cat(parts) if parts else torch.zeros(0, self.biases[-1].shape[-1])

    def held_out(self, x: Tensor, fold: Tensor) -> Tensor:
        """Return for each row (R, D) the outputs (CUTS, R, L) of the members that have not seen it.

        `fold` (CUTS, R) is the part of each cut that a row is in.
        """
        result = torch.zeros(CUTS, len(x), self.biases[-1].shape[-1])
        with torch.inference_mode():
            for k in range(MEMBERS):
                member = Ensemble([w[k] for w in self.weights], [b[k] for b in self.biases])
                cut, part = divmod(k, FOLDS)
                for rows in (fold[cut] == part).nonzero()[:, 0].split(CHUNK):
                    result[cut, rows] = member.members(x[rows])
        return result

    def copy(self) -> "Ensemble":
        """Return the same numbers, out of training."""
        return Ensemble([w.detach().clone() for w in self.weights], [b.detach().clone() for b in self.biases])


def train_ensemble(
    x: Tensor, outputs: int, loss: Loss, head: HeadSettings, seed: int = 0
) -> tuple[Ensemble, Tensor]:
    """Train an ensemble.

    Differs from Parker+24: ten networks rather than one; GELU, as labels vary smoothly; `steps` steps with
    a falling learning rate, of which the epoch with the lowest loss on held-out rows (at most `JUDGED`) is
    kept, not always the last of 10 or 25; batches grow with the reference (16 to 256, not always 64).

    Parameters
    ----------
    x
        (R, D) standardised vectors, R ≥ 5.
    outputs
        L.
    loss
        Called with outputs (..., L) and the numbers (...) of their rows; returns the loss of each row.
    head
        What the networks are like.
    seed
        The same numbers come out of the same seed.

    Returns
    -------
    (Ensemble, Tensor)
        The members, and the part (CUTS, R) of each cut that a row is in: see `Ensemble.held_out`.
    """
    generator = torch.Generator().manual_seed(seed)
    fold = torch.stack([torch.randperm(len(x), generator=generator) % FOLDS for _ in range(CUTS)])
    seen = [(cut != part).nonzero()[:, 0] for cut in fold for part in range(FOLDS)]
    size = int(np.clip(len(x) // BATCHES, 16, 256))
    epochs = int(np.clip(head.steps * size / len(seen[0]), 10, 200))
    ensemble = _start(x.shape[1], outputs, head, generator)
    judged = torch.randperm(len(x), generator=generator)[:JUDGED]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        optimiser = torch.optim.Adam([*ensemble.weights, *ensemble.biases], LEARNING_RATE)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        best, lowest = ensemble.copy(), float("inf")
        for _ in range(epochs):
            _one_epoch(ensemble, optimiser, x, seen, size, loss, head, generator)
            falling.step()
            at = loss(ensemble.held_out(x[judged], fold[:, judged]).mean(0), judged).mean().item()
            if at < lowest:
                best, lowest = ensemble.copy(), at
    return best, fold


def _start(width: int, outputs: int, head: HeadSettings, generator: torch.Generator) -> Ensemble:
    """Draw first weights as torch's linear layers do: uniform within 1/√(inputs)."""
    sizes = [width, *head.hidden, outputs]
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for fan_in, fan_out in pairwise(sizes):
        for into, rows in ((weights, fan_in), (biases, 1)):
            drawn = torch.rand(MEMBERS, rows, fan_out, generator=generator) * 2 - 1
            into.append((drawn / fan_in**0.5).requires_grad_())
    return Ensemble(weights, biases)


def _one_epoch(
    ensemble: Ensemble,
    optimiser: torch.optim.Optimizer,
    x: Tensor,
    seen: list[Tensor],
    size: int,
    loss: Loss,
    head: HeadSettings,
    generator: torch.Generator,
) -> None:
    """Go once through the rows; members see their own in their own order."""
    shortest = min(map(len, seen))
    order = torch.stack([rows[torch.randperm(len(rows), generator=generator)[:shortest]] for rows in seen])
    for rows in order.split(size, dim=1):
        optimiser.zero_grad()
        vectors = x[rows]
        if head.noise:
            vectors = vectors + head.noise * torch.randn_like(vectors)
        # members share no weights: the sum of their losses trains each on its own
        loss(ensemble.members(vectors, head.dropout), rows).mean(1).sum().backward()
        optimiser.step()


def number_loss(target: Tensor) -> Loss:
    """Return the squared error against standardised labels (R, L); NaN do not count."""
    known = target.isfinite()
    filled = target.nan_to_num()

    def loss(output: Tensor, rows: Tensor) -> Tensor:
        return ((output - filled[rows]).square() * known[rows]).mean(-1)

    return loss


def bin_loss(place: Tensor, bins: int) -> Loss:
    """Return the cross-entropy of bins with Gaussians of `SOFTNESS` about places (R,); NaN do not count.

    A number at place 3 is at the centre of the fourth bin.
    """
    known = place.isfinite()
    filled = place.nan_to_num().float()
    centre = torch.arange(bins)

    def loss(output: Tensor, rows: Tensor) -> Tensor:
        wanted = (-0.5 * ((centre - filled[rows][..., None]) / SOFTNESS).square()).softmax(-1)
        return -(wanted * output.log_softmax(-1)).sum(-1) * known[rows]

    return loss


def vote_loss(fractions: Tensor, weight: Tensor, sizes: list[int]) -> Loss:
    """Return the cross-entropy on vote fractions (R, L), weighted (R, questions).

    `sizes` are the numbers of answers of the questions, whose answers stand side by side.
    """
    filled = fractions.nan_to_num()

    def loss(output: Tensor, rows: Tensor) -> Tensor:
        each = zip(output.split(sizes, -1), filled[rows].split(sizes, -1), strict=True)
        entropy = torch.stack([-(votes * out.log_softmax(-1)).sum(-1) for out, votes in each], -1)
        return (entropy * weight[rows]).sum(-1)

    return loss
