"""The published recipes at full size: one step of two galaxies on a CPU, by what `astroclip train` calls."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from training_pairs import write_training_pairs

from astroclip.model.checkpoint import init_model, read_info
from astroclip.training.fit import TrainReport, train
from astroclip.training.record import read_metrics

REDUCED = ("data.batch_size=2", "data.workers=0", "run.steps=1", "run.log_every=1")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A folder with a file of pairs; it is removed in the end, as checkpoints of this size fill disks."""
    path = tmp_path_factory.mktemp("full")
    write_training_pairs(path / "pairs.h5", training=2, validation=2)
    yield path
    shutil.rmtree(path)


def run_one_step(kind: str, folder: Path, *more: str) -> TrainReport:
    return train(kind, folder / "pairs.h5", folder / kind, overrides=[*REDUCED, *more], gpus=0)


def read_moments(run: Path) -> list[torch.Tensor]:
    """Return AdamW's mean gradient of each weight that learns, after the one step there was."""
    (row,) = read_metrics(run / "metrics.csv")
    assert 0 < row["train_loss"] < 10
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True, mmap=True)
    assert last["global_step"] == 1
    return [state["exp_avg"] for state in last["optimizer_states"][0]["state"].values()]


def holds(run: Path, origin: Path) -> bool:
    """Tell whether a model has all weights of another, bit by bit."""
    files = (safe_open(model / "model.safetensors", "pt") for model in (run, origin))
    with next(files) as new, next(files) as old:
        names = old.keys()  # it cannot be iterated over itself
        return all(torch.equal(new.get_tensor(name), old.get_tensor(name)) for name in names)


@pytest.fixture(scope="module")
def specformer(folder) -> Path:
    return run_one_step("spectrum", folder).output


def test_spectrum(specformer):
    assert read_info(specformer).parameters == 43_177_750
    moments = read_moments(specformer)
    assert sum(moment.numel() for moment in moments) == 43_177_750
    assert all(moment.any() for moment in moments)


def test_clip(folder, specformer):
    """Both heads learn; the encoders, as published but of random weights, stay as they are."""
    astrodino = folder / "astrodino"
    init_model("paper", astrodino, ["spectrum=null", "head=null"])
    run = run_one_step("clip", folder, f"image={astrodino}", f"spectrum={specformer}").output
    assert read_info(run).parameters == 370_798_358
    moments = read_moments(run)
    encoders = sum(read_info(model).parameters for model in (astrodino, specformer))
    assert sum(moment.numel() for moment in moments) == 370_798_358 - encoders
    assert all(moment.any() for moment in moments)
    assert holds(run, astrodino)
    assert holds(run, specformer)
