"""Jobs on a real Slurm: two nodes on this machine, started by `.ci/local-slurm`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
import slurm_jobs
import torch
import yaml
from training_pairs import write_training_pairs
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.cluster import JobFailedError, Launcher, SlurmOptions, Submitted, follow
from astroclip.config import read_yaml
from astroclip.errors import ConfigError, UsageError
from astroclip.model.checkpoint import is_model_directory
from astroclip.predict.embed import embed_catalog
from astroclip.training.fit import train

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
WAIT_S = 100  # for what takes a second
TINY = {
    "model": {
        "spectrum": {
            "section_length": 100,
            "section_overlap": 0,
            "embed_dim": 16,
            "num_layers": 1,
            "num_heads": 2,
        }
    },
    "masking": {"chunks": 6, "width": 6},
    "optim": {"lr": 1e-3, "warmup_steps": 2, "decay_steps": 300},
    "data": {"batch_size": 2},
    "run": {"steps": 300, "log_every": 1},
}


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """A Slurm of its own for this module, and this folder's functions for its jobs."""
    everywhere = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name, path=everywhere)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: .ci/install-system-packages")
    folder = tempfile.mkdtemp(prefix="slurm-")  # a short path: that of a socket has at most 107 characters
    script = ROOT / ".ci" / "local-slurm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", f"{folder}/slurm.conf")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("MASTER_ADDR", "127.0.0.1")  # elsewhere nodes have names that can be looked up
        try:
            subprocess.run([script, "start", folder, str(os.getpid())], check=True)
            yield
        finally:
            subprocess.run([script, "stop", folder], check=True)
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    return write_training_pairs(tmp_path_factory.mktemp("data") / "pairs.h5", training=11, validation=3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The settings of a training that takes seconds."""
    path = tmp_path_factory.mktemp("settings") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module", autouse=True)
def limited(slurm, pairs, tiny, tmp_path_factory) -> tuple[Submitted, Path, dict[str, Any]]:
    """A training in a job that reaches its time limit while other tests run; its run, and its arguments."""
    run = tmp_path_factory.mktemp("limited") / "run"
    work = {"kind": "spectrum", "data": pairs, "config": tiny, "gpus": 0}
    launcher = Launcher(run / "slurm", "test", SlurmOptions(time="60"))
    [job] = launcher.submit(slurm_jobs.train_to_the_limit, [work | {"run": run}], {"resume": True})
    return job, run, work


@pytest.fixture
def launcher(slurm, tmp_path) -> Launcher:
    return Launcher(tmp_path / "slurm", "test", SlurmOptions(time="10"))


def signal(job: Submitted, name: str) -> None:
    subprocess.run(["scancel", "--signal", name, job.id], check=True)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(WAIT_S * 10):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


def log_of(job: Submitted) -> list[str]:
    """Follow a job to its end, and return what was shown."""
    lines: list[str] = []
    follow([job], lines.append)
    return lines


def astroclip(*words: object) -> str:
    """Run the program, and return what it prints."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_job_is_submitted_and_followed(launcher, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "9")  # as inside of another job
    calls = [{"output": tmp_path / "n.json", "more": 3}]
    [job] = launcher.submit(slurm_jobs.count, calls)
    assert os.environ["SLURM_NTASKS"] == "9"
    lines = log_of(job)
    assert lines[-1] == f"job {job.id}: completed"
    assert json.loads((tmp_path / "n.json").read_text()) == {"step": 3, "starts": [0]}
    written = (launcher.folder / f"{job.id}_submission.sh").read_text()
    assert written == launcher.script(slurm_jobs.count, calls, {})


def test_jobs_that_fail(launcher):
    refused, bug = (launcher.submit(slurm_jobs.fail, [{"message": text}])[0] for text in ("x.fits: bad", ""))
    lines: list[str] = []
    with pytest.raises(JobFailedError, match=rf"^job {refused.id}: x\.fits: bad$") as failure:
        follow([refused], lines.append)
    assert failure.value.exit_code == 3
    assert [line for line in lines if line in ("about to fail", "Error: x.fits: bad")] == [
        "about to fail", "Error: x.fits: bad",
    ]  # fmt: skip
    with pytest.raises(JobFailedError, match=rf"job {bug.id}: failed, its log is {bug.log}") as failure:
        follow([bug], lines.append)
    assert failure.value.exit_code == 1
    assert "ZeroDivisionError" in lines


def test_slurm_refuses(launcher, tmp_path):
    nowhere = Launcher(tmp_path / "slurm", "test", SlurmOptions(partition="nowhere"))
    with pytest.raises(UsageError, match=r"Slurm refuses the job: .*invalid partition"):
        nowhere.submit(slurm_jobs.fail, [{"message": ""}])


def test_jobs_that_are_stopped_go_on(launcher, tmp_path):
    """Stopped by the signal before a time limit or a pre-emption, or by Slurm itself; not if cancelled."""
    functions = {
        "killed": slurm_jobs.count, "saved": slurm_jobs.count_and_save, "ended": slurm_jobs.count_and_save,
        "requeued": slurm_jobs.count_and_save, "cancelled": slurm_jobs.count_and_save,
    }  # fmt: skip
    outputs = {name: tmp_path / f"{name}.json" for name in functions}
    again = {"resume": True, "more": 3}
    jobs = {
        name: launcher.submit(function, [{"output": outputs[name], "more": 100_000}], again)[0]
        for name, function in functions.items()
    }
    for output in outputs.values():
        wait_for(output.exists)
    wait_for(lambda: json.loads(outputs["killed"].read_text())["step"] >= 5)
    signal(jobs["killed"], "USR2")
    signal(jobs["saved"], "USR2")
    signal(jobs["ended"], "TERM")
    subprocess.run(["scontrol", "requeue", jobs["requeued"].id], check=True)
    subprocess.run(["scancel", jobs["cancelled"].id], check=True)
    for name in ("killed", "saved", "ended", "requeued"):
        assert log_of(jobs[name])[-1] == f"job {jobs[name].id}: completed"
        state = json.loads(outputs[name].read_text())
        begun, begun_again = state["starts"]
        assert begun == 0 < begun_again
        assert state["step"] == begun_again + 3
    with pytest.raises(JobFailedError, match="stopped at step"):
        log_of(jobs["cancelled"])
    assert json.loads(outputs["cancelled"].read_text())["starts"] == [0]


def test_two_nodes_of_two_tasks(slurm, tmp_path):
    options = SlurmOptions(time="10", nodes=2, gpus=2, setup=("export CUDA_DEVICE_ORDER=PCI_BUS_ID",))
    launcher = Launcher(tmp_path / "slurm", "test", options, tasks_per_node=2)
    log_of(launcher.submit(slurm_jobs.tell_place, [{"output": tmp_path}])[0])
    places = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]
    assert places == [
        ["node1", "0", "0,1"],
        ["node1", "1", "0,1"],
        ["node2", "0", "0,1"],
        ["node2", "1", "0,1"],
    ]


def test_an_array_and_what_waits_for_it(launcher, tmp_path):
    calls = [{"output": tmp_path / f"{i}.json", "more": 3} for i in range(3)]
    good = launcher.submit(slurm_jobs.count, calls)
    bad = launcher.submit(slurm_jobs.fail, [{"message": "bad"}, {"message": "too"}])
    after = {
        name: launcher.following(jobs).submit(slurm_jobs.count, [{"output": tmp_path / name, "more": 1}])[0]
        for name, jobs in {"good": good, "bad": bad}.items()
    }
    assert [job.id.partition("_")[2] for job in good] == ["0", "1", "2"]
    lines: list[str] = []
    follow([*good, after["good"]], lines.append)
    assert {json.loads(call["output"].read_text())["step"] for call in calls} == {3}
    assert lines[-1] == f"job {after['good'].id}: completed"
    with pytest.raises(JobFailedError, match=rf"job {bad[0].id}: bad"):
        follow([*bad, after["bad"]], lines.append)
    assert lines[-1] == f"job {after['bad'].id}: cancelled"
    assert not (tmp_path / "bad").exists()


def test_embed_as_an_array(slurm, tiny_model, tmp_path, rng):
    flux = rng.normal(2, 1, (100, 7781)).astype("f4")
    catalog, merged = tmp_path / "galaxies.fits", tmp_path / "merged.fits"
    fitsio.write(catalog, [np.arange(100), flux], names=["TARGETID", "FLUX"])
    options = ["-m", tiny_model, "--batch-size", 32, "--slurm", "--time", 10]
    shown = astroclip("embed", catalog, *options, "-o", merged, "--array", 2, "--follow").splitlines()
    number = shown[0].split()[1]
    last = shown[2].split()[1]
    assert shown[0] == f"job   {number}"
    assert shown[1] == f"log   {merged.with_suffix('.slurm') / number}_*_0_log.out"
    assert shown[2] == f"then  {last}"
    words = {" ".join(line.split()) for line in shown}
    assert {f"{number}_0: rows 64", f"{number}_1: rows 36"} <= words
    assert not any("Warning" in line for line in shown)
    assert shown[-1] == f"job {last}: completed"
    whole = embed_catalog(catalog, tmp_path / "whole.fits", model=tiny_model, batch_size=32).output
    np.testing.assert_array_equal(fitsio.read(merged), fitsio.read(whole))
    with pytest.raises(JobFailedError, match=r"job \d+: failed, its log is"):
        astroclip("embed", catalog, *options, "-o", tmp_path / "e.fits", "--follow", "--setup", "exit 7")


def test_a_training_goes_on_after_its_time_limit(limited, pairs, tmp_path):
    job, run, work = limited
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the job
    train(**work, run=tmp_path / "whole")
    torch.set_num_threads(threads)
    lines = log_of(job)
    assert lines[-1] == f"job {job.id}: completed"
    assert sum("Requeued job" in line for line in lines) == 1
    states = [torch.load(r / "checkpoints/last.ckpt", weights_only=True) for r in (run, tmp_path / "whole")]
    assert [state["global_step"] for state in states] == [300, 300]
    weights, expected = (state["state_dict"] for state in states)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def test_a_training_over_two_nodes(slurm, pairs, tiny, tmp_path):
    config, run = tmp_path / "tiny.yaml", tmp_path / "run"
    shutil.copy(tiny, config)
    words = [
        "train",
        "spectrum",
        pairs,
        "-o",
        run,
        "-c",
        config,
        "run.steps=3",
        "--slurm",
        "--nodes",
        2,
        "--gpus",
        1,
    ]
    submitted = json.loads(astroclip("--json", *words))
    config.write_text("changed while the job waits")
    job = Submitted(submitted["job"], Path(submitted["log"]))
    lines = log_of(job)
    assert lines[-1] == f"job {job.id}: completed"
    assert any(line.startswith("step 3: ") for line in lines)
    assert (run / "slurm" / f"{job.id}_1_log.out").exists()
    assert read_yaml(run / "training.yaml")["devices"] == 2
    assert is_model_directory(run)


def test_a_training_inside_an_allocation(slurm, pairs, tiny, tmp_path):
    words = ["train", "spectrum", pairs, "-o", tmp_path / "run", "-c", tiny, "run.steps=3"]
    command = ["srun", "--ntasks", "2", sys.executable, "-m", "astroclip.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished") == 1  # one of them speaks
    assert read_yaml(tmp_path / "run/training.yaml")["devices"] == 2


def test_a_training_is_checked_before_it_is_queued(slurm, pairs, tiny, tmp_path):
    words = ["train", "spectrum", pairs, "-o", tmp_path / "run", "-c", tiny, "optim.lrr=1"]
    with pytest.raises(ConfigError, match=r"optim\.lrr"):
        astroclip(*words, "--slurm", "--gpus", 1)
    assert not (tmp_path / "run").exists()
