"""Runs: they resume exactly, end as models, guard what is there, and refuse before they write."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
import yaml
from training_pairs import write_training_pairs

import astroclip
from astroclip.errors import AstroclipError, ConfigError, DataError, StoppedError, UsageError
from astroclip.model.checkpoint import is_model_directory
from astroclip.schema import Split
from astroclip.training.fit import train
from astroclip.training.record import Metrics, read_metrics

TINY = (
    "model.spectrum.section_length=100", "model.spectrum.section_overlap=0", "masking.width=6",
    "model.spectrum.embed_dim=16", "model.spectrum.num_layers=1", "model.spectrum.num_heads=2",
    "data.batch_size=2", "data.run_rows=3", "data.workers=0", "optim.lr=1e-3", "optim.warmup_steps=2",
    "optim.decay_steps=5000", "run.precision=fp32", "run.log_every=1",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_training_pairs(tmp_path_factory.mktemp("data") / "pairs.h5", training=11, validation=3)


def fit(pairs: Path, run: Path, *overrides: str, **options):
    options = {"config": "spectrum", "gpus": 0} | options
    return train("spectrum", pairs, run, overrides=[*TINY, *overrides], **options)


def read_state(run: Path) -> dict:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_same_run(one: Path, other: Path):
    """Weights, optimiser and schedule bit by bit; metrics but for the time they took."""
    a, b = read_state(one), read_state(other)
    assert a["global_step"] == b["global_step"]
    assert all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in a["state_dict"])
    a_moments, b_moments = (state["optimizer_states"][0]["state"] for state in (a, b))
    for key, moments in a_moments.items():
        assert all(torch.equal(moments[name], b_moments[key][name]) for name in moments)
    assert a["lr_schedulers"] == b["lr_schedulers"]
    assert a["callbacks"] == b["callbacks"]
    rows = [[r | {"galaxies_per_s": 0} for r in read_metrics(run / "metrics.csv")] for run in (one, other)]
    assert rows[0] == rows[1]
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def signal_at(step: int, galaxies: int, number: signal.Signals = signal.SIGTERM):
    """Return a listener that, after so many steps, signals this process and those that read for it."""

    def listen(done: int, total: int, note: str) -> None:
        if done == step * galaxies:
            readers = [str(child.pid) for child in multiprocessing.active_children()]
            subprocess.run(["kill", f"-{number:d}", *readers], check=True) if readers else None
            time.sleep(0.2)  # for their end to be noticed, if they end
            os.kill(os.getpid(), number)

    return listen


# --- resuming ---------------------------------------------------------------------------------------------


# before, at and after a validation and a checkpoint; accumulated batches; in the second epoch
@pytest.mark.parametrize(
    "rhythm",
    [
        ("run.val_every=2", "run.checkpoint_every=10"),
        ("run.val_every=3", "run.checkpoint_every=1"),
        ("run.val_every=1", "run.checkpoint_every=2", "run.accumulate=3"),
    ],
)
def test_four_steps_are_two_and_two(pairs, tmp_path, rhythm):
    fit(pairs, tmp_path / "whole", "run.steps=4", *rhythm)
    fit(pairs, tmp_path / "parts", "run.steps=2", *rhythm)
    report = fit(pairs, tmp_path / "parts", "run.steps=4", *rhythm, resume=True)
    assert (report.outcome, report.steps) == ("finished", 4)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_saves_and_stops(pairs, tmp_path, number):
    more = ("run.steps=5", "run.val_every=2", "run.checkpoint_every=10", "data.workers=1")
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=r"stopped at step 3 of 5 .* --resume"):
        fit(pairs, tmp_path / "parts", *more, progress=signal_at(3, 2, number))
    assert signal.getsignal(number) == before
    assert not is_model_directory(tmp_path / "parts")
    assert read_state(tmp_path / "parts")["global_step"] == 3
    if number == signal.SIGTERM:
        fit(pairs, tmp_path / "parts", *more, resume=True)
        fit(pairs, tmp_path / "whole", *more)
        assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_killed_run_goes_on_from_its_last_checkpoint(pairs, tmp_path):
    more = ("run.steps=5", "run.val_every=2", "run.checkpoint_every=2")

    def kill(done: int, total: int, note: str) -> None:
        if done == 2 * 4:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fit(pairs, tmp_path / "parts", *more, progress=kill)
    assert [row["step"] for row in read_metrics(tmp_path / "parts/metrics.csv")] == [1, 2, 3, 4]
    assert read_state(tmp_path / "parts")["global_step"] == 2
    fit(pairs, tmp_path / "parts", *more, resume=True)
    fit(pairs, tmp_path / "whole", *more)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        "README.md", "checkpoints", "config.yaml", "loss.png", "metrics.csv", "model.safetensors",
        "tensorboard", "training.yaml",
    }  # fmt: skip


def test_resuming_a_finished_run_changes_nothing(pairs, tmp_path):
    fit(pairs, tmp_path / "run", "run.steps=2", "run.val_every=1")
    weights, metrics = (
        (tmp_path / "run/model.safetensors").read_bytes(),
        read_metrics(tmp_path / "run/metrics.csv"),
    )
    report = fit(pairs, tmp_path / "run", "run.steps=2", "run.val_every=1", resume=True)
    assert (report.outcome, report.steps, report.model_step) == ("finished", 2, 2)
    assert (tmp_path / "run/model.safetensors").read_bytes() == weights
    assert read_metrics(tmp_path / "run/metrics.csv") == metrics


def test_a_run_that_is_resumed_knows_its_settings(pairs, tmp_path):
    fit(pairs, tmp_path / "run", "run.steps=2")
    report = train("spectrum", pairs, tmp_path / "run", overrides=["run.steps=3"], resume=True)
    assert report.steps == 3
    with pytest.raises(UsageError, match=r"optim.lr was 0.001, now 0.1; run.seed was 0, now 1"):
        train("spectrum", pairs, tmp_path / "run", overrides=["optim.lr=0.1", "run.seed=1"], resume=True)


# --- what comes out ---------------------------------------------------------------------------------------


def test_a_run_is_a_model_directory(pairs, tmp_path):
    report = fit(pairs, tmp_path / "run", "run.steps=3", "run.val_every=1", "run.precision=bf16")
    model = astroclip.load_model(report.output)
    with h5py.File(pairs) as file:
        vectors = model.embed_spectra(file["flux"][:2], file["ivar"][:2], file["mask"][:2])
    assert vectors.shape == (2, 16)
    assert vectors.isfinite().all()
    told = yaml.safe_load((tmp_path / "run/training.yaml").read_text())
    assert told["data"] == {"path": str(pairs), "training_rows": 11, "validation_rows": 3}
    assert told["settings"]["run"]["precision"] == "bf16"
    card = (tmp_path / "run/README.md").read_text()
    assert "Trained from 11 galaxies of `pairs.h5` by masked modelling" in card
    assert f"of step {report.model_step}, that of the best validation" in card
    assert f"| val_loss | {report.val_loss:.6g} |" in card
    assert (tmp_path / "run/loss.png").read_bytes().startswith(b"\x89PNG")
    assert any((tmp_path / "run/tensorboard").iterdir())


def test_the_model_is_that_of_the_best_validation(pairs, tmp_path):
    report = fit(pairs, tmp_path / "run", "run.steps=6", "run.val_every=1", "optim.lr=0.3")
    losses = {row["step"]: row["val_loss"] for row in read_metrics(tmp_path / "run/metrics.csv")}
    assert report.model_step == min(losses, key=losses.get) < 6
    assert report.val_loss == pytest.approx(min(losses.values()))
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == report.model_step


def test_patience_ends_a_run_and_stays_at_its_end(pairs, tmp_path):
    settings = ("run.steps=30", "run.val_every=1", "optim.lr=0.3", "run.patience=2")
    report = fit(pairs, tmp_path / "run", *settings)
    assert report.outcome == "stopped early"
    assert report.steps == report.model_step + 2
    assert fit(pairs, tmp_path / "run", *settings, resume=True).steps == report.steps


def test_training_never_looks_at_the_test_part(pairs, tmp_path):
    other = tmp_path / "other.h5"
    other.write_bytes(pairs.read_bytes())
    with h5py.File(other, "r+") as file:
        for row in np.flatnonzero(file["SPLIT"][:] == Split.TEST):
            file["flux"][row] = 1e9
    fit(pairs, tmp_path / "a", "run.steps=3", "run.val_every=1")
    fit(other, tmp_path / "b", "run.steps=3", "run.val_every=1")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_without_a_validation_part_the_last_weights_are_the_model(tmp_path):
    pairs = write_training_pairs(tmp_path / "pairs.h5", training=4, validation=0)
    report = fit(pairs, tmp_path / "run", "run.steps=2", "run.val_every=1")
    assert (report.model_step, report.val_loss) == (2, None)
    assert "the weights are of step 2, the last one" in (tmp_path / "run/README.md").read_text()


def test_a_handful_of_spectra_is_learnt_by_heart(pairs, tmp_path):
    learn = ("run.steps=150", "run.val_every=150", "optim.lr=1e-2", "optim.weight_decay=0")
    fit(pairs, tmp_path / "run", *learn, "data.batch_size=11", "model.spectrum.embed_dim=32")
    losses = [row["train_loss"] for row in read_metrics(tmp_path / "run/metrics.csv")]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:3])


def test_metrics_can_be_read_at_any_time(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = Metrics(path, 0)
    for step in range(1, 5):
        metrics.add(step, {"train_loss": 1 / step})
        if step % 2 == 0:
            metrics.add(step, {"val_loss": 2 / step})
        assert read_metrics(path) == metrics.rows
    assert path.read_text().splitlines()[0] == "step,train_loss,val_loss"
    assert Metrics(path, 2).rows == [
        {"step": 1, "train_loss": 1}, {"step": 2, "train_loss": 0.5, "val_loss": 1},
    ]  # fmt: skip
    path.write_text("a,b\n1,x\n")
    with pytest.raises(DataError, match="not the metrics of a training"):
        read_metrics(path)


def test_progress_tells_the_loss_the_pace_and_the_end(pairs, tmp_path, caplog):
    told = []
    rhythm = ("run.steps=3", "run.log_every=2", "run.val_every=3")
    with caplog.at_level("INFO", "astroclip.training"):
        fit(pairs, tmp_path / "run", *rhythm, progress=lambda *what: told.append(what))
    assert [(done, total) for done, total, _ in told] == [(2, 6), (4, 6), (6, 6)]
    pace = r"[\d.e+]+ galaxies/s, ends \w{3} \d\d:\d\d"
    assert re.fullmatch(pace, told[0][2])
    assert re.fullmatch(rf"loss [\d.]+, {pace}", told[1][2])
    step, validation = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(rf"step 2: train_loss [\d.]+, {pace}", step)
    assert re.fullmatch(r"step 3: val_loss [\d.]+", validation)


def test_weights_and_biases_keep_one_run_of_a_resumed_one(pairs, tmp_path, monkeypatch):
    """A stand-in for the service, which is not installed here."""
    opened, logged = [], {}

    def init(**options):
        opened.append(options)
        return SimpleNamespace(id="abc", log=lambda values, step: logged.update({step: values}), finish=list)

    with pytest.raises(ConfigError, match="pip install wandb"):
        fit(pairs, tmp_path / "run", "run.wandb=true")
    module = ModuleType("wandb")
    module.init, module.__spec__ = init, ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    fit(pairs, tmp_path / "run", "run.steps=1", "run.wandb=true")
    fit(pairs, tmp_path / "run", "run.steps=2", "run.wandb=true", resume=True)
    assert [options["id"] for options in opened] == [None, "abc"]
    assert [values["train_loss"] > 0 for values in logged.values()] == [True, True]


# --- what goes wrong --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run(pairs, tmp_path):
    wild = ("optim.lr=1e30", "optim.clip_norm=null", "run.checkpoint_every=1", "optim.warmup_steps=1")
    said = r"step 2: the (loss|weights).* not finite \(.*train_loss .*learning rate 1e\+30\).*Lower optim.lr"
    with pytest.raises(ConfigError, match=said):
        fit(pairs, tmp_path / "run", *wild, "run.steps=9")
    weights = read_state(tmp_path / "run")["state_dict"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not is_model_directory(tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "options", "error", "said"),
    [
        (["optim.lr=fast"], {}, ConfigError, "'optim.lr'"),
        (["optim.rate=1"], {}, ConfigError, "'optim.rate'"),
        (["masking.width=20"], {}, ConfigError, "do not fit into the 78 patches"),
        (["data.batch_size=12"], {}, ConfigError, "only 11 to train with"),
        (["run.precision=fp16"], {}, ConfigError, "needs a GPU"),
        (["run.strategy=fsdp"], {}, ConfigError, "needs GPUs"),
        ([], {"config": "mega-spectrum"}, ConfigError, "known: .*mini-spectrum"),
        ([], {"nodes": 2}, UsageError, "srun or torchrun"),
        ([], {"resume": True, "overwrite": True}, UsageError, "give only one of them"),
    ],
)
def test_refusals_come_before_anything_is_written(pairs, tmp_path, overrides, options, error, said):
    with pytest.raises(error, match=said):
        fit(pairs, tmp_path / "run", *overrides, **options)
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_trained_on(pairs, tmp_path):
    with pytest.raises(DataError, match=r"none\.h5"):
        fit(tmp_path / "none.h5", tmp_path / "run")
    (tmp_path / "text.h5").write_text("no galaxies")
    with pytest.raises(DataError, match=r"text\.h5"):
        fit(tmp_path / "text.h5", tmp_path / "run")
    empty = write_training_pairs(tmp_path / "empty.h5", training=0, validation=2)
    with pytest.raises(DataError, match="no galaxy to train with"):
        fit(empty, tmp_path / "run")
    with h5py.File(tmp_path / "published.h5", "w") as file, h5py.File(pairs) as own:
        for group in map(str, range(2)):
            file[f"{group}/images"] = np.zeros((8, 152, 152, 3), "f4")
            file[f"{group}/spectra"] = np.nan_to_num(own["flux"][:8])[..., None]
            file[f"{group}/redshifts"], file[f"{group}/targetids"] = np.zeros(8), np.arange(8)
    with pytest.raises(DataError, match="has no 'ivar', which loss=ivar needs"):
        fit(tmp_path / "published.h5", tmp_path / "run", "loss=ivar")
    assert not (tmp_path / "run").exists()
    assert fit(tmp_path / "published.h5", tmp_path / "run", "run.steps=1").steps == 1


def test_a_run_that_is_there_is_kept(pairs, tmp_path):
    fit(pairs, tmp_path / "run", "run.steps=1", "run.val_every=1")
    kept = (tmp_path / "run/metrics.csv").read_text()
    with pytest.raises(UsageError, match="holds a run already; continue it with --resume"):
        fit(pairs, tmp_path / "run")
    with pytest.raises(UsageError, match="of kind spectrum, not clip"):
        train("clip", pairs, tmp_path / "run", resume=True)
    assert (tmp_path / "run/metrics.csv").read_text() == kept
    (tmp_path / "run/mine.txt").write_text("notes")
    fit(pairs, tmp_path / "run", "run.steps=2", overwrite=True)
    assert [row["step"] for row in read_metrics(tmp_path / "run/metrics.csv")] == [1, 2]
    assert (tmp_path / "run/mine.txt").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").write_text("")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match="is not empty and holds no run"):
            fit(pairs, tmp_path / "other", **options)


def test_a_damaged_checkpoint_is_refused(pairs, tmp_path):
    fit(pairs, tmp_path / "run", "run.steps=1")
    path = tmp_path / "run/checkpoints/last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(AstroclipError, match=r"last.ckpt: damaged"):
        fit(pairs, tmp_path / "run", "run.steps=2", resume=True)
