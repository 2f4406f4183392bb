"""The folder of a run: what is in it, whether it may be begun or gone on with, the model it ends as.

``training.yaml`` (settings and data), ``checkpoints/{last,best}.ckpt``, ``metrics.csv``, ``tensorboard/``,
``loss.png``, ``slurm/`` if it is trained in jobs, and the model directory: ``model.safetensors``,
``config.yaml``, ``README.md``.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from astroclip.config import ModelConfig, apply_overrides, make_settings, read_yaml
from astroclip.errors import DataError, UsageError
from astroclip.files import written_beside
from astroclip.model.card import make_card
from astroclip.model.checkpoint import CARD, CONFIG, WEIGHTS, count_parts, save_model
from astroclip.model.clip import AstroCLIP
from astroclip.plots import plot_losses
from astroclip.schema import VERSION
from astroclip.training.callbacks import BEST, LAST
from astroclip.training.record import METRICS, TENSORBOARD, Row, read_metrics
from astroclip.training.settings import KINDS, Training

SETTINGS, CHECKPOINTS, LOSS = "training.yaml", "checkpoints", "loss.png"
OWN = (WEIGHTS, CONFIG, CARD, SETTINGS, CHECKPOINTS, METRICS, TENSORBOARD, LOSS)
JOBS = "slurm"  # batch scripts and logs of its jobs; there before the run begins
# Settings that may differ when a run is resumed: they change no step that was made
FREE = {f"run.{name}" for name in ("steps", "checkpoint_every", "log_every", "wandb", "compile")}
FREE |= {"data.workers"}
METHODS = {
    "spectrum": "masked modelling of spectra (SpecFormer)",
    "image": "self-distillation of images (DINOv2)",
    "clip": "contrastive alignment of images and spectra (AstroCLIP)",
}


class RunData(NamedTuple):
    """What a run is trained on: its path, and how many galaxies are in its two parts."""

    path: str
    training_rows: int
    validation_rows: int


@dataclass(frozen=True)
class Run:
    """A run: its folder, kind, settings and data, and the number of devices that share a step."""

    folder: Path
    kind: str
    settings: Training
    data: RunData
    devices: int

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / CHECKPOINTS

    @property
    def last(self) -> Path | None:
        """The last checkpoint, if there is one."""
        path = self.checkpoints / LAST
        return path if path.is_file() else None

    @property
    def chosen(self) -> Path:
        """The checkpoint whose weights are the result: that of the best validation, else the last.

        Of images always the last: what DINOv2 is to guess changes with the teacher, so that its loss at one
        step says nothing against that at another.
        """
        best = self.checkpoints / BEST
        return best if best.is_file() and self.kind != "image" else self.checkpoints / LAST

    def describe(self) -> dict[str, Any]:
        """Return what ``training.yaml`` says."""
        return {
            "training": self.kind,
            "program": program_version(),
            "data": self.data._asdict(),
            "devices": self.devices,
            "settings": self.settings.model_dump(mode="json"),
        }

    def check_same(self, earlier: dict[str, Any]) -> None:
        """Refuse to resume a run that was started with other settings.

        Only `FREE` settings may differ; the data may lie elsewhere, but have to have as many galaxies.

        Raises
        ------
        UsageError
            Naming all that differs.
        """
        old, new = _flatten(earlier), _flatten(self.describe())
        free = {f"settings.{name}" for name in FREE} | {"program", "data.path"}
        differing = [
            f"{name.removeprefix('settings.')} was {old.get(name)!r}, now {new.get(name)!r}"
            for name in sorted(old.keys() | new.keys())
            if name not in free and old.get(name) != new.get(name)
        ]
        if differing:
            raise UsageError(
                f"{self.folder}: was started with other settings: {'; '.join(differing)}. Resume it with "
                "the same settings, start another run, or restart this one with --overwrite"
            )

    def begin(self, overwrite: bool) -> None:
        """Make the folder; with `overwrite` without what an earlier run left.

        Raises
        ------
        DataError
            If it cannot be written.
        """
        try:
            for name in OWN if overwrite else ():
                path = self.folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with written_beside(self.folder / SETTINGS) as beside:
                beside.write_text(yaml.safe_dump(self.describe(), sort_keys=False), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error}); check space and rights") from None

    def finish(self, config: ModelConfig, model: AstroCLIP, outcome: str) -> None:
        """Write the loss figure, and the model directory with a card that says how the model came to be."""
        rows = read_metrics(self.folder / METRICS)
        plot_losses(rows, self.folder / LOSS, overwrite=True)
        source = f"astroclip train {self.kind}"
        parts = count_parts(model.state_dict())
        card = make_card(config, parts, source, self._tell(rows, outcome))
        save_model(model.eval(), config, self.folder, card, overwrite=True)

    def _tell(self, rows: list[Row], outcome: str) -> str:
        """Return the part of the model card on training."""
        validated = [row for row in rows if "val_loss" in row]
        if self.kind == "image" or not validated:
            chosen, which = rows[-1] if rows else {"step": 0}, "the last one"
        else:
            chosen, which = min(validated, key=lambda row: row["val_loss"]), "that of the best validation"
        metrics = "\n".join(f"| {name} | {value:.6g} |" for name, value in chosen.items())
        return f"""Trained from {self.data.training_rows:,} galaxies of `{Path(self.data.path).name}` by \
{METHODS[self.kind]}; {self.data.validation_rows:,} others validated it. No galaxy of the test part was used.
{_guided(self.settings)}The run {outcome}; the weights are of step {chosen["step"]:.0f}, {which}.

| metric | value |
|---|---|
{metrics}

Reproduce it with `{program_version()}` on {self.devices} device(s) and these settings:

```yaml
{yaml.safe_dump(self.settings.model_dump(mode="json"), sort_keys=False)}```"""


def _guided(settings: Training) -> str:
    """Return what the card has to say of a guide."""
    if getattr(settings, "guide", None) is None:
        return ""
    return (
        "A guide taught the spectrum embeddings the redshifts of the training part: redshifts from their "
        "neighbours are not zero-shot in the sense of Parker et al. 2024.\n"
    )


def find_run(folder: Path, kind: str, resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """Return what ``training.yaml`` says of the run to go on with; None if a run is to begin.

    Raises
    ------
    UsageError
        If something is in the folder already, unless one may go on with it or overwrite it.
    DataError, ConfigError
        If ``training.yaml`` is damaged.
    """
    if resume and overwrite:
        raise UsageError("--resume continues a run and --overwrite restarts it: give only one of them")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; a run needs a directory")
    if not folder.exists() or all(path.name == JOBS for path in folder.iterdir()):
        return None
    if not (folder / SETTINGS).is_file():
        raise UsageError(f"{folder}: is not empty and holds no run; give another directory")
    if overwrite:
        return None
    if not resume:
        raise UsageError(
            f"{folder}: holds a run already; continue it with --resume, or restart it with --overwrite"
        )
    earlier = read_yaml(folder / SETTINGS)
    if earlier.get("training") != kind or not isinstance(earlier.get("settings"), dict):
        raise UsageError(f"{folder}: its {SETTINGS} is of kind {earlier.get('training')}, not {kind}")
    return earlier


def resumed_settings(earlier: dict[str, Any], overrides: tuple[str, ...], where: Path) -> Training:
    """Return the settings that a run was begun with, some overridden."""
    values = apply_overrides(earlier["settings"], list(overrides))
    return make_settings(KINDS[earlier["training"]], values, str(where / SETTINGS))


def program_version() -> str:
    """Return the version of the program, with the commit where it runs from a checkout."""
    version = f"astroclip {VERSION}"
    root, git = Path(__file__).parents[2], shutil.which("git")
    if git is None or not (root / ".git").exists():
        return version
    command = [git, "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return f"{version}, commit {told.stdout.strip()}" if told.returncode == 0 else version


def _flatten(values: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name."""
    if not isinstance(values, dict):
        return {path: values}
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= _flatten(value, f"{path}.{name}" if path else str(name))
    return leaves
