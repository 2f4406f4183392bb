"""Supervised baselines: networks that learn labels from magnitudes, images or spectra themselves.

They learn from the training part of a set of pairs and stop by its validation part. Pixels are read batch by
batch; what is held of all galaxies are magnitudes and labels.

Shapes: N pairs, B of a batch, L labels, S = 7781 wavelengths.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from astroclip.errors import DataError
from astroclip.evaluate.paper.networks import ConvAttention, make_mlp, make_resnet
from astroclip.model.prepare_images import prepare_images
from astroclip.model.prepare_spectra import prepare_spectra
from astroclip.schema import PairsKey, Split
from astroclip.training.batches import make_loader
from astroclip.training.galaxies import ROWS, Batch, Galaxies

BANDS = ("MAG_G", "MAG_R", "MAG_Z")  # of the labels: what the photometric baseline sees
RUN_ROWS = 8  # read together and shuffled as one


class Training(NamedTuple):
    """How baselines are trained: Adam on the squared error of standardised labels.

    `epochs` at most, and `steps` if given; training ends after `patience` epochs without progress on the
    validation part, and the best epoch counts. Defaults are those of the published code, `patience` is ours.
    """

    epochs: int = 50
    steps: int | None = None
    patience: int = 5
    batch_size: int = 128
    learning_rate: float = 5e-4
    seed: int = 0


class BaselineKind(NamedTuple):
    """A baseline: what it sees, what it reads of a set of pairs, and how it is built for L labels."""

    source: str
    reads: tuple[str, ...]
    build: Callable[[int], nn.Module]


KINDS = {
    "mlp": BaselineKind("photometry", BANDS, lambda outputs: make_mlp(len(BANDS), outputs)),
    "resnet18": BaselineKind("image", (PairsKey.IMAGE,), make_resnet),
    "conv+att": BaselineKind("spectrum", (PairsKey.FLUX, PairsKey.IVAR, PairsKey.MASK), ConvAttention),
}


class Baseline(NamedTuple):
    """A trained network; `centre` and `scale` (L,) undo the standardisation of labels.

    `losses` are those of the validation part after each epoch, in standardised labels: guessing the mean
    has about 1.
    """

    kind: BaselineKind
    network: nn.Module
    magnitudes: Tensor
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    losses: list[float]

    def predict(
        self, galaxies: Galaxies, rows: NDArray[np.int64], batch_size: int = 128
    ) -> NDArray[np.float64]:
        """Return the labels (n, L) of rows (n,); NaN where a magnitude is missing."""
        parts = [np.zeros((0, len(self.scale)))]
        for start in range(0, len(rows), batch_size):
            batch = galaxies.read(self.kind.reads, rows[start : start + batch_size])
            parts.append(self._run(batch).double().cpu().numpy() * self.scale + self.centre)
        return np.concatenate(parts)

    def _run(self, batch: Batch) -> Tensor:
        """Return the outputs (B, L) for a batch."""
        device = next(self.network.parameters()).device
        self.network.eval()
        with torch.inference_mode():
            return self.network(_inputs(self.kind, batch, self.magnitudes).to(device))


def train_baseline(
    name: str,
    galaxies: Galaxies,
    split: NDArray[np.uint8],
    labels: NDArray[np.float64],
    *,
    training: Training = Training(),  # noqa: B008 (immutable)
    device: torch.device,
) -> Baseline:
    """Train a baseline.

    Differs from Parker+24: training images are flipped, not blurred; bad pixels of spectra are filled; a part
    of the sky validates, not a random fifth of the training part.

    Parameters
    ----------
    name
        ``mlp`` (of the magnitudes `BANDS`), ``resnet18`` (of images as the encoder sees them) or ``conv+att``
        (of spectra).
    galaxies
        A set of pairs.
    split
        (N,) the part of each row; only TRAIN and VALIDATION are used.
    labels
        (N, L), NaN where unknown; rows without all of them are left out.
    training
        How long, and the seed: the same on the same device gives the same network.

    Raises
    ------
    DataError
        If magnitudes are missing, or no galaxy of a part has all labels.
    """
    kind = KINDS[name]
    magnitudes = _read_magnitudes(galaxies, kind, split)
    known = np.isfinite(labels).all(1) & magnitudes.isfinite().all(1).numpy()
    used = Galaxies(galaxies.path)
    used.split = np.where(known, split, Split.NONE).astype(np.uint8)
    learnt = used.split == Split.TRAIN
    if learnt.sum() < 2 or not (used.split == Split.VALIDATION).any():
        raise DataError(f"{galaxies.path}: no labelled galaxies to train {name} with, or none to validate it")
    centre, scale = labels[learnt].mean(0), labels[learnt].std(0)
    scale = np.where(scale > 0, scale, 1.0)
    target = torch.from_numpy((labels - centre) / scale).float()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(training.seed)
        network = kind.build(labels.shape[1]).to(device)
        baseline = Baseline(kind, network, magnitudes, centre, scale, [])
        _fit(baseline, used, target, training, device)
    used.close()
    return baseline


def _read_magnitudes(galaxies: Galaxies, kind: BaselineKind, split: NDArray[np.uint8]) -> Tensor:
    """Return standardised magnitudes (N, 3) of all rows, by the training part; of other kinds (N, 0)."""
    if kind.reads != BANDS:
        return torch.zeros(len(galaxies), 0)
    columns = galaxies.read(BANDS, np.arange(len(galaxies)))
    values = torch.stack([columns[band] for band in BANDS], 1).float()
    seen = values[torch.from_numpy(split == Split.TRAIN) & values.isfinite().all(1)]
    return (values - seen.mean(0)) / seen.std(0) if len(seen) > 1 else torch.full_like(values, torch.nan)


def _fit(
    baseline: Baseline, used: Galaxies, target: Tensor, training: Training, device: torch.device
) -> None:
    """Train until the validation part gains nothing more; keep the weights of the best epoch."""
    network, size = baseline.network, min(training.batch_size, int((used.split == Split.TRAIN).sum()))
    optimiser = torch.optim.Adam(network.parameters(), training.learning_rate)
    options: dict[str, Any] = {"run_rows": RUN_ROWS, "seed": training.seed}
    batches = make_loader(used, baseline.kind.reads, Split.TRAIN, size, **options)
    epoch = int((used.split == Split.TRAIN).sum()) // size
    last = min(training.epochs * epoch, training.steps or training.epochs * epoch)
    best, waited = network.state_dict(), 0
    for step, batch in enumerate(islice(batches, last), 1):
        inputs = _inputs(baseline.kind, batch, baseline.magnitudes, flip=True).to(device)
        optimiser.zero_grad()
        network.train()
        F.mse_loss(network(inputs), target[batch[ROWS]].to(device)).backward()
        optimiser.step()
        if step % epoch and step < last:
            continue
        baseline.losses.append(_validate(baseline, used, target, size))
        if baseline.losses[-1] <= min(baseline.losses):
            best, waited = {name: value.clone() for name, value in network.state_dict().items()}, 0
        elif (waited := waited + 1) >= training.patience:
            break
    network.load_state_dict(best)


def _validate(baseline: Baseline, used: Galaxies, target: Tensor, size: int) -> float:
    """Return the squared error over the validation part."""
    total, rows = 0.0, 0
    for batch in make_loader(used, baseline.kind.reads, Split.VALIDATION, size):
        error = baseline._run(batch).cpu() - target[batch[ROWS]]
        total, rows = total + float(error.square().mean(1).sum()), rows + len(error)
    return total / rows


def _inputs(kind: BaselineKind, batch: Batch, magnitudes: Tensor, flip: bool = False) -> Tensor:
    """Return what the network takes of a batch."""
    if kind.source == "photometry":
        return magnitudes[batch[ROWS]]
    if kind.source == "spectrum":
        return prepare_spectra(batch[PairsKey.FLUX], batch.get(PairsKey.IVAR), batch.get(PairsKey.MASK)).flux
    rgb = prepare_images(batch[PairsKey.IMAGE]).rgb
    if flip:
        for axis in (2, 3):
            turned = torch.rand(len(rgb)) < 0.5
            rgb[turned] = rgb[turned].flip(axis)
    return rgb
