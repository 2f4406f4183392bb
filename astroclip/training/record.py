"""What a run writes down while it trains: metrics.csv, TensorBoard, W&B; throughput and progress."""

import csv
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from astroclip.errors import DataError
from astroclip.files import written_beside
from astroclip.training.callbacks import ends_step, learning_rate
from astroclip.training.settings import RunSettings

METRICS, TENSORBOARD = "metrics.csv", "tensorboard"
VALIDATION = "val_"  # how the names of a module's validation metrics begin
Progress = Callable[[int, int, str], None]  # (galaxies done, galaxies in all, what else to tell)
Row = dict[str, float]

_log = logging.getLogger("astroclip.training")


class Metrics:
    """A CSV file of one row a step, some cells empty; it can be read at any time.

    Columns: `step` (updates of the weights that were made), then whatever is recorded, in the order of its
    first appearance. A file that is there is continued after `step`; later rows, of a run that was killed
    after its last checkpoint, are dropped.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self.rows = [row for row in read_metrics(path) if row["step"] <= step]
        self._write()

    def add(self, step: int, values: Row) -> None:
        """Record values of a step, the same as the last one's or a later one."""
        if not (self.rows and self.rows[-1]["step"] == step):
            self.rows.append({"step": step})
        self.rows[-1] |= values
        self._write()

    def _write(self) -> None:
        """Write the file anew."""
        columns = dict.fromkeys(["step", *(name for row in self.rows for name in row)])
        with written_beside(self._path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(self.rows)


def read_metrics(path: Path) -> list[Row]:
    """Read ``metrics.csv`` of a run: a row a step, without its empty cells; nothing if there is no file.

    Raises
    ------
    DataError
        If it is something else.
    """
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    except (TypeError, ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not the metrics of a training ({error}); move it away") from None
    if any("step" not in row for row in rows):
        raise DataError(f"{path}: not the metrics of a training (no column 'step'); move it away")
    return rows


class Record(Callback):
    """Writes metrics down, on the first rank, and reports progress; the values are means over all ranks.

    Attributes
    ----------
    galaxies_per_s
        Of all ranks together, since the run started or went on; reading, validation and saving included.
    """

    def __init__(self, run: Path, settings: RunSettings, batch_size: int, progress: Progress | None) -> None:
        self._run, self._settings, self._batch_size, self._progress = run, settings, batch_size, progress
        self._rate, self._loss = 0.0, ""
        self._wandb_id: str | None = None
        self.galaxies_per_s = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know: where Weights & Biases keeps it."""
        return {"wandb": self._wandb_id}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._wandb_id = state_dict["wandb"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the files."""
        self._galaxies = self._batch_size * self._settings.accumulate * trainer.world_size  # a step
        self._begin, self._first = time.monotonic(), trainer.global_step
        if trainer.is_global_zero:
            self._metrics = Metrics(self._run / METRICS, trainer.global_step)
            self._board = SummaryWriter(self._run / TENSORBOARD, purge_step=trainer.global_step + 1)
            self._wandb = self._open_wandb() if self._settings.wandb else None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Note the learning rate of this step; the schedule goes on before the step is recorded."""
        self._rate = learning_rate(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report every step, record every `log_every` steps."""
        if not ends_step(trainer, batch_idx):
            return
        step = trainer.global_step
        self.galaxies_per_s = self._galaxies * (step - self._first) / (time.monotonic() - self._begin)
        if step % self._settings.log_every == 0:
            values = {k: v for k, v in trainer.callback_metrics.items() if not k.startswith(VALIDATION)}
            means = {name: float(trainer.strategy.reduce(values[name])) for name in sorted(values)}
            rates = {"learning_rate": self._rate, "galaxies_per_s": self.galaxies_per_s}
            self._add(trainer, means | rates)
            self._loss = f"loss {means['train_loss']:.4g}, "
            if trainer.is_global_zero:
                _log.info("step %d: %s, %s", step, _in_words(means), self._pace(step))
        if self._progress is not None and trainer.is_global_zero:
            self._progress(
                step * self._galaxies, self._settings.steps * self._galaxies, self._loss + self._pace(step)
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what the validation found."""
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(VALIDATION)}
        self._add(trainer, values)
        if trainer.is_global_zero:
            _log.info("step %d: %s", trainer.global_step, _in_words(values))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the files, whatever ended the run."""
        if hasattr(self, "_board"):
            self._board.close()
            if self._wandb is not None:
                self._wandb.finish()

    def _open_wandb(self) -> Any:
        """Return the run of Weights & Biases, the same one when it is resumed."""
        import wandb

        run = wandb.init(
            project="astroclip", name=self._run.name, dir=self._run, id=self._wandb_id, resume="allow"
        )
        self._wandb_id = run.id
        return run

    def _pace(self, step: int) -> str:
        """Return throughput and estimated end in words."""
        seconds = (self._settings.steps - step) * self._galaxies / self.galaxies_per_s
        end = datetime.now().astimezone() + timedelta(seconds=seconds)
        return f"{self.galaxies_per_s:.4g} galaxies/s, ends {end:%a %H:%M}"

    def _add(self, trainer: Trainer, values: Row) -> None:
        if not trainer.is_global_zero:
            return
        self._metrics.add(trainer.global_step, values)
        for name, value in values.items():
            self._board.add_scalar(name, value, trainer.global_step)
        self._board.flush()
        if self._wandb is not None:
            self._wandb.log(values, step=trainer.global_step)


def _in_words(values: Row) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
