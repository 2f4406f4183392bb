"""`astroclip train`: all three trainings, from the command line, into models that embed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_pairs import write_training_pairs
from typer.testing import CliRunner

import astroclip
from astroclip.cli import main
from astroclip.cli.main import app
from astroclip.training.record import read_metrics

SPECTRUM = ("model.spectrum.embed_dim=16", "model.spectrum.num_layers=1", "model.spectrum.num_heads=2",
            "model.spectrum.section_length=100", "model.spectrum.section_overlap=0",
            "model.spectrum.max_len=100")  # fmt: skip
IMAGE = ("model.image.embed_dim=24", "model.image.depth=1", "model.image.num_heads=2",
         "model.image.patch_size=24")  # fmt: skip
RHYTHM = ("data.batch_size=3", "data.workers=0", "run.steps=2", "run.val_every=1", "run.log_every=1")
SIZES = {
    "spectrum": (*SPECTRUM, "masking.width=6", "loss=mse"),
    "image": (*IMAGE, "views.local_size=48", "views.local_count=2", "prototypes.count=32"),
    "clip": (*SPECTRUM, *IMAGE, "model.head.embed_dim=16", "model.head.num_heads=2"),
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_training_pairs(tmp_path_factory.mktemp("data") / "pairs.h5", training=8, validation=3)


def words_of(kind: str, pairs: Path, run: Path, *more: str) -> list[str]:
    preset = ["-c", f"mini-{kind}", "--gpus", "0"]
    return ["--json", "train", kind, str(pairs), "-o", str(run), *preset, *SIZES[kind], *RHYTHM, *more]


def run_app(words: list[str]) -> dict:
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.stderr == ""  # Lightning says nothing, not of frozen encoders either
    return json.loads(result.stdout)


@pytest.mark.parametrize("kind", ["spectrum", "image", "clip"])
def test_a_training_becomes_a_model_that_embeds(kind, pairs, tmp_path):
    report = run_app(words_of(kind, pairs, tmp_path / "run"))
    assert (report["outcome"], report["steps"]) == ("finished", 2)
    assert [row["step"] for row in read_metrics(tmp_path / "run/metrics.csv")] == [1, 2]
    model = astroclip.load_model(tmp_path / "run")
    if kind != "image":
        assert model.embed_spectra(torch.randn(2, 7781)).shape == (2, 16)
    if kind != "spectrum":
        assert model.embed_images(torch.rand(2, 3, 152, 152)).shape == (2, 24 if kind == "image" else 16)
    again = run_app(words_of(kind, pairs, tmp_path / "run", "run.steps=3", "--resume"))
    whole = run_app(words_of(kind, pairs, tmp_path / "whole", "run.steps=3"))
    assert {**again, "output": 0, "galaxies_per_s": 0} == {**whole, "output": 0, "galaxies_per_s": 0}
    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("run", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_an_alignment_starts_from_trained_encoders(pairs, tmp_path):
    for kind in ("spectrum", "image"):
        run_app(words_of(kind, pairs, tmp_path / kind))
    encoders = [f"image={tmp_path / 'image'}", f"spectrum={tmp_path / 'spectrum'}", "train_encoders=false"]
    encoders += ["guide=null"]
    run_app(words_of("clip", pairs, tmp_path / "clip", *encoders))
    aligned = load_file(tmp_path / "clip/model.safetensors")
    for kind in ("spectrum", "image"):
        encoder = load_file(tmp_path / kind / "model.safetensors")
        assert all(torch.equal(aligned[name], weights) for name, weights in encoder.items())


@pytest.mark.parametrize(
    ("name", "words", "kind"),
    [
        ("image_trainer", ["-c", "mini-image"], "image"),
        ("spectrum_trainer", ["fit", "-c", "mini-spectrum"], "spectrum"),
        ("spectrum_trainer", ["-c", "mini-spectrum"], "spectrum"),
    ],
)
def test_the_published_names_run_the_same(monkeypatch, pairs, tmp_path, capsys, name, words, kind):
    more = [str(pairs), "-o", str(tmp_path / "run"), "--gpus", "0", *SIZES[kind], *RHYTHM, "--json"]
    monkeypatch.setattr(sys, "argv", [name, *words, *more])
    with pytest.raises(SystemExit) as ended:
        getattr(main, name)()
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "finished"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["train", "spectrum", "none.h5", "-o", "run"], 3, "none.h5"),
        (["train", "spectrum", "none.h5"], 2, "Missing option '--output'"),
        (["train", "colours", "none.h5", "-o", "run"], 2, "'colours' is not one of"),
        (["train", "spectrum", "none.h5", "-o", "run", "optim.lr=quick"], 4, "optim.lr"),
        (["train", "spectrum", "none.h5", "-o", "run", "-c", "maxi"], 4, "no preset 'maxi'"),
        (["train", "clip", "none.h5", "-o", "run"], 5, "no model 'astrodino'"),
    ],
)
def test_errors_have_their_exit_codes(tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASTROCLIP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SystemExit) as ended:
        main.main(words)
    assert ended.value.code == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.network
def test_two_processes_make_the_steps_of_one(pairs, tmp_path):
    """Two that share a batch (gloo) against one with all of it; nothing is drawn at random in its steps."""
    plain = ["augment=false", "model.head.dropout=0", "optim.warmup_steps=0", "optim.lr=5e-5"]
    plain += ["degrade=null", "guide.shifted=0"]
    plain += ["optim.algorithm=adamw"]  # Muon computes in bfloat16
    one = [*words_of("clip", pairs, tmp_path / "one", *plain), "data.batch_size=4"]
    two = [*words_of("clip", pairs, tmp_path / "two", *plain), "data.batch_size=2"]
    run_app(one)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517"]
    done = subprocess.run(
        [*launch, "-m", "astroclip.cli.main", *two],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2  # one of them speaks
    weights = [load_file(tmp_path / run / "model.safetensors") for run in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-4, atol=1e-5)
    losses = [
        [row["val_loss"] for row in read_metrics(tmp_path / run / "metrics.csv")] for run in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
