"""Train: settings and galaxies in, a run out, which is a model directory that `astroclip embed` takes."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer

from astroclip.config import Settings
from astroclip.errors import CheckpointError
from astroclip.schema import Split
from astroclip.training.callbacks import BEST, Checkpoints, NanGuard, StepSeed
from astroclip.training.devices import BLOCKS, check_devices, find_devices, make_trainer, quiet
from astroclip.training.galaxies import Galaxies
from astroclip.training.loaders import Loaders
from astroclip.training.recipes import find_encoders, read_training
from astroclip.training.record import Progress, Record
from astroclip.training.runs import Run, RunData, find_run, resumed_settings
from astroclip.training.settings import ClipTraining, SpectrumTraining, Training


class TrainReport(NamedTuple):
    """How a run ended: `outcome` is ``finished`` or ``stopped early``.

    The model is of `model_step`, that of the best validation, whose loss is `val_loss`; of images, and
    without a validation, it is the last step, and `val_loss` None.
    """

    output: Path
    outcome: str
    steps: int
    model_step: int
    val_loss: float | None
    galaxies_per_s: float


def train(
    kind: str,
    data: str | Path,
    run: str | Path,
    config: str | Path | Training | None = None,
    overrides: Sequence[str] = (),
    *,
    gpus: int | None = None,
    nodes: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> TrainReport:
    """Train an encoder or the alignment of two.

    Interrupted by SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 it saves and raises `StoppedError`. A run that is
    resumed makes the same steps as one that was never interrupted: on a CPU, and where the device computes
    repeatably, bit by bit. The galaxies of the test part are never used.

    Parameters
    ----------
    kind
        ``spectrum``, ``image`` or ``clip``.
    data
        See `astroclip.training.galaxies.Galaxies`.
    run
        The folder to make; see `astroclip.training.runs`.
    config, overrides
        See `astroclip.training.recipes.read_training`; or the settings themselves. A run that is resumed has
        its settings already; those given must be the same, `astroclip.training.runs.FREE` ones apart.
    gpus
        GPUs of each node; default: all; 0: use the CPU. Inside ``srun`` or ``torchrun``: one process each.
    nodes
        Number of nodes; inside ``srun`` or ``torchrun`` they say.
    resume
        Continue the run if it was started before.
    overwrite
        Restart a run that exists.
    progress
        Called with the galaxies done, those in all, and a text.

    Returns
    -------
    TrainReport
        On every rank.

    Raises
    ------
    ConfigError, CheckpointError, DataError, UsageError
        If settings, models, data or the folder do not allow it, before anything is written; a `ConfigError`
        too, if the loss is not finite.
    StoppedError
        If a signal stopped it.
    """
    folder = Path(run)
    earlier, settings = _settle(kind, folder, config, overrides, resume, overwrite)
    devices = find_devices(gpus, nodes)
    check_devices(settings, devices)
    with closing(Galaxies(data)) as source, quiet():
        rows = [int((source.split == part).sum()) for part in (Split.TRAIN, Split.VALIDATION)]
        world, validates = devices.per_node * devices.nodes, rows[1] > 0
        the_run = Run(folder, kind, settings, RunData(str(data), *rows), world)
        if earlier is not None:
            the_run.check_same(earlier)
        module = module_class(settings)(settings)
        last = None if overwrite else the_run.last
        step = 0 if last is None else int(_read_checkpoint(last)["global_step"])
        loaders = Loaders(the_run, source, module.columns, first_batch=step * settings.run.accumulate)
        loaders.check()
        kept = Checkpoints(the_run.checkpoints, settings.run, validates)
        record = Record(folder, settings.run, settings.data.batch_size, progress)
        guards = [StepSeed(settings.run.seed), NanGuard(the_run.checkpoints)]
        watch = [_Begin(the_run, overwrite), *guards, record, kept]
        if settings.run.compile:
            for block in (part for part in module.modules() if isinstance(part, BLOCKS)):
                block.compile()
        trainer = make_trainer(settings, folder, devices, watch, validates)
        trainer.fit(module, datamodule=loaders, ckpt_path=last, weights_only=True)
        outcome = "finished" if trainer.global_step >= settings.run.steps else "stopped early"
        if trainer.is_global_zero:
            result = module_class(settings)(settings)
            result.load_state_dict(_read_checkpoint(the_run.chosen)["state_dict"])
            model_config, model = result.trained_model()
            the_run.finish(model_config, model, outcome)
        trainer.strategy.barrier()
        best = the_run.chosen.name == BEST
        model_step, loss = (kept.best_step, kept.best_loss) if best else (trainer.global_step, None)
        return TrainReport(folder, outcome, trainer.global_step, model_step, loss, record.galaxies_per_s)


def check_training(
    kind: str,
    data: str | Path,
    run: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Training:
    """Return the settings of a training that is to begin elsewhere, as in a job; refuse what `train` would.

    Raises
    ------
    ConfigError, CheckpointError, DataError, UsageError
        As `train`, but for what depends on the devices.
    """
    _, settings = _settle(kind, Path(run), config, overrides, resume, overwrite)
    Galaxies(data).close()
    return settings


def _settle(
    kind: str,
    folder: Path,
    config: str | Path | Training | None,
    overrides: Sequence[str],
    resume: bool,
    overwrite: bool,
) -> tuple[dict[str, Any] | None, Training]:
    """Return what is known of the run to go on with, if there is one, and the settings."""
    earlier = find_run(folder, kind, resume, overwrite)
    if isinstance(config, Settings):
        settings = config
    elif earlier is not None and config is None:
        settings = resumed_settings(earlier, tuple(overrides), folder)
    else:
        settings = read_training(kind, config, tuple(overrides))
    return earlier, find_encoders(settings) if isinstance(settings, ClipTraining) else settings


class _Begin(Callback):
    """Makes the run's folder when all ranks are there and nothing can be wrong any more."""

    def __init__(self, run: Run, overwrite: bool) -> None:
        self._run, self._overwrite = run, overwrite

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make it; the other ranks wait."""
        if trainer.is_global_zero:
            self._run.begin(self._overwrite)


def module_class(settings: Training) -> type[Any]:
    """Return the module of a kind of training; made from its settings, it has the weights to start from."""
    if isinstance(settings, SpectrumTraining):
        from astroclip.training.masked_spectra import SpectrumModule

        return SpectrumModule
    if isinstance(settings, ClipTraining):
        from astroclip.training.alignment import ClipModule

        return ClipModule
    from astroclip.training.self_distillation import ImageModule

    return ImageModule


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint; nothing in it is executed."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); restart the run with --overwrite") from None
    return checkpoint
