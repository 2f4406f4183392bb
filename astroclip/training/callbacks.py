"""What watches over a run: seeds of each step, losses that are not finite, signals, checkpoints, patience."""

import os
import signal
import threading
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from astroclip.errors import ConfigError, StoppedError
from astroclip.files import written_beside
from astroclip.training.batches import STOP_SIGNALS
from astroclip.training.settings import RunSettings

LAST, BEST = "last.ckpt", "best.ckpt"
VALIDATION_LOSS = "val_loss"


class StepSeed(Callback):
    """Seeds torch's generators before every batch from (seed, batch, rank), so that a resumed run is exact.

    Validation has its own seeds, the same each time: what is hidden or drawn there does not change.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed a training batch; `batch_idx` counts on when a run is resumed."""
        self._set(0, batch_idx, trainer.global_rank)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Seed a validation batch."""
        self._set(1, batch_idx, trainer.global_rank)

    def _set(self, *what: int) -> None:
        torch.manual_seed(int(np.random.SeedSequence((self._seed, *what)).generate_state(1, np.uint64)[0]))


class NanGuard(Callback):
    """Stops a run whose loss or weights are not finite, before the step is made or anything is saved."""

    def __init__(self, checkpoints: Path) -> None:
        self._checkpoints = checkpoints

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Check the loss of a training batch."""
        self._check(trainer, not loss.isfinite().all(), "the loss is")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the loss of the validation part."""
        loss = trainer.callback_metrics[VALIDATION_LOSS]
        self._check(trainer, not loss.isfinite(), "the validation loss is")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the weights, on every rank its own."""
        finite = torch.stack([weights.isfinite().all() for weights in pl_module.parameters()])
        self._check(trainer, not finite.all(), "the weights are")

    def _check(self, trainer: Trainer, bad: bool | Tensor, what: str) -> None:
        """Raise on all ranks if `bad` on one."""
        if not trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            return
        terms = {name: float(value) for name, value in trainer.callback_metrics.items()}
        told = ", ".join(f"{name} {value:.4g}" for name, value in terms.items()) or "no loss terms"
        last = self._checkpoints / LAST
        kept = f"; the last good checkpoint is {last}" if last.is_file() else ""
        raise ConfigError(
            f"step {trainer.global_step}: {what} not finite ({told}; learning rate "
            f"{learning_rate(trainer):.4g}){kept}. Lower optim.lr, lengthen optim.warmup_steps or set "
            "optim.clip_norm; if it comes back at the same step, look for bad values in the data"
        )


class ClipShards(Callback):
    """Clips the gradient where the weights are sharded over ranks, which Lightning does not.

    The norm is that of all weights, also of images, where encoder and head are clipped apart otherwise.
    """

    def __init__(self, clip_norm: float) -> None:
        self._clip_norm = clip_norm

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clip; the gradients are unscaled here."""
        trainer.strategy.model.clip_grad_norm_(self._clip_norm)  # type: ignore[union-attr, operator]


class Checkpoints(Callback):
    """Keeps the best and the last state, stops when there is no progress, and saves when told to stop.

    Each file is written beside its place and renamed.

    Attributes
    ----------
    best_loss, best_step
        Of the best validation; infinity and 0 before the first.
    """

    def __init__(self, folder: Path, settings: RunSettings, validates: bool) -> None:
        self._folder, self._settings, self._validates = folder, settings, validates
        self.best_loss, self.best_step, self._worse = float("inf"), 0, 0
        self._saved = -1  # step of the last state that was saved
        self._stop: signal.Signals | None = None
        self._owner = os.getpid()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know."""
        return {"best_loss": self.best_loss, "best_step": self.best_step, "worse": self._worse}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.best_loss, self.best_step = state_dict["best_loss"], state_dict["best_step"]
        self._worse = state_dict["worse"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to signals; Lightning puts the earlier handlers back in the end."""
        self._saved = trainer.global_step
        self._stop_without_progress(trainer)
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._on_signal)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a step if it is time to, or if a signal came on any rank."""
        if not ends_step(trainer, batch_idx):
            return
        if trainer.strategy.reduce_boolean_decision(self._stop is not None, all=False):
            self._save_last(trainer)
            path = self._folder / LAST
            raise StoppedError(
                f"stopped at step {trainer.global_step} of {self._settings.steps} by a signal and saved as "
                f"{path}. Continue it with --resume"
            )
        validates = self._validates and trainer.global_step % self._settings.val_every == 0
        if not validates:  # a state saved before its validation would never be validated
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the best."""
        loss = float(trainer.callback_metrics[VALIDATION_LOSS])
        if loss < self.best_loss:
            self.best_loss, self.best_step, self._worse = loss, trainer.global_step, 0
            self._save(trainer, BEST, weights_only=True)
        else:
            self._worse += 1
            self._stop_without_progress(trainer)
        self._save_if_due(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the final state."""
        self._save_last(trainer)

    def _stop_without_progress(self, trainer: Trainer) -> None:
        if self._settings.patience is not None and self._worse >= self._settings.patience:
            trainer.should_stop = True

    def _save_if_due(self, trainer: Trainer) -> None:
        if trainer.global_step % self._settings.checkpoint_every == 0:
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        if self._saved != trainer.global_step:
            self._save(trainer, LAST, weights_only=False)
            self._saved = trainer.global_step

    def _save(self, trainer: Trainer, name: str, weights_only: bool) -> None:
        path = self._folder / name
        with written_beside(path) if trainer.is_global_zero else nullcontext(path) as beside:
            trainer.save_checkpoint(beside, weights_only)  # all processes take part, the first one writes

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note that the run is to stop; a second Ctrl-C stops at once."""
        if os.getpid() != self._owner:  # a process that is about to read
            return
        if self._stop == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._stop = signal.Signals(number)


def ends_step(trainer: Trainer, batch_idx: int) -> bool:
    """Tell whether the batch is the last one of a step; `accumulate_grad_batches` of them make one."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def learning_rate(trainer: Trainer) -> float:
    """Return the highest learning rate of all parameter groups."""
    return float(max(group["lr"] for group in trainer.optimizers[0].param_groups))
