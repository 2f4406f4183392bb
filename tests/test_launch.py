"""Jobs for Slurm: their batch scripts, what is refused beforehand, and following them. Needs no Slurm."""

import json
import shlex
import sys
from pathlib import Path

import fitsio
import numpy as np
import pytest
from slurm_jobs import count
from training_pairs import write_training_pairs
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.cluster import JobFailedError, Launcher, SlurmOptions, Submitted, follow, job, queue
from astroclip.errors import AstroclipError, DataError, UsageError


@pytest.fixture
def catalog(tmp_path, rng) -> Path:
    path = tmp_path / "galaxies.fits"
    flux = rng.normal(2, 1, (130, 7781)).astype("f4")
    fitsio.write(path, [np.arange(130), flux], names=["TARGETID", "FLUX"])
    return path


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A folder of programs, and nothing else to be found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def write_squeue(folder: Path, *answers: str) -> None:
    """Make a squeue that gives each of the answers once, then the last one for ever; ! = an error."""
    program = f"""#!{sys.executable}
import pathlib, sys
told = pathlib.Path({str(folder / "told")!r})
n = len(told.read_text()) if told.exists() else 0
told.write_text("x" * (n + 1))
answer = {answers!r}[min(n, {len(answers) - 1})]
if answer.startswith("!"):
    sys.exit(answer[1:])
print(answer)
"""
    (folder / "squeue").write_text(program)
    (folder / "squeue").chmod(0o755)


def flags(script: str) -> dict[str, str | bool]:
    """Return the #SBATCH flags of a batch script."""
    words = [shlex.split(line)[1] for line in script.splitlines() if line.startswith("#SBATCH --")]
    pairs = [word.removeprefix("--").partition("=") for word in words]
    return {name: value if equals else True for name, equals, value in pairs}


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


# ---- batch scripts


def test_the_script_asks_for_what_was_said(tmp_path):
    options = SlurmOptions(
        partition="gpu", constraint="a100&80gb", account="m42", qos="regular", nodes=5, gpus=4,
        time="2-00:00:00", mem_per_gpu="64G", cpus_per_task=8, setup=("module load python", "export A='b c'"),
    )  # fmt: skip
    launcher = Launcher(tmp_path / "my run", "astroclip-clip", options, tasks_per_node=4)
    script = launcher.script(count, [{"output": tmp_path, "more": 2}], {"resume": True})
    log = tmp_path / "my run" / "%j_0_log.out"
    assert flags(script) == {
        "partition": "gpu", "constraint": "a100&80gb", "account": "m42", "qos": "regular", "nodes": "5",
        "ntasks-per-node": "4", "gpus-per-node": "4", "time": "2880", "mem-per-gpu": "64G",
        "cpus-per-task": "8", "job-name": "astroclip-clip", "output": str(log), "open-mode": "append",
        "requeue": True, "signal": "USR2@120",
    }  # fmt: skip
    lines = script.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines.index("export A='b c'") == lines.index("module load python") + 1
    command, said, end = lines[-3:]
    words = shlex.split(command)
    run = [sys.executable, "-u", "-m", "astroclip.cluster", str(tmp_path / "my run"), f"<<{end}"]
    assert (words[0], words[-6:]) == ("srun", run)
    assert "--kill-on-bad-exit=1" in words
    calls = [{"output": str(tmp_path), "more": 2}]
    assert json.loads(said) == {"function": "slurm_jobs:count", "again": {"resume": True}, "calls": calls}
    assert not list(tmp_path.iterdir())


def test_nothing_is_asked_for_that_was_not_said(tmp_path):
    asked = flags(Launcher(tmp_path, "name", SlurmOptions()).script(count, [{}], {}))
    assert set(asked) == {
        "job-name", "nodes", "ntasks-per-node", "open-mode", "output", "requeue", "signal", "time",
    }  # fmt: skip


def test_scripts_of_an_array_and_of_what_follows_it(tmp_path):
    launcher = Launcher(tmp_path, "embed", SlurmOptions())
    array = flags(launcher.script(count, [{}] * 3, {}))
    assert array["array"] == "0-2"
    assert array["output"] == str(tmp_path / "%A_%a_0_log.out")
    jobs = [Submitted(f"12_{i}", tmp_path / "log") for i in range(3)]
    last = flags(launcher.following(jobs).script(count, [{}], {}))
    assert (last["dependency"], last["kill-on-invalid-dep"]) == ("afterok:12", "yes")


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [
        ("90", 90), ("10:30", 11), ("48:00:00", 2880), ("00:00:30", 1), ("1-12", 2160), ("1-01:30", 1530),
        ("2-00:00:01", 2881),
    ],
)  # fmt: skip
def test_time_limits_are_read_as_slurm_reads_them(limit, minutes, tmp_path):
    options = SlurmOptions(time=limit, stop_before=1)
    assert flags(Launcher(tmp_path, "name", options).script(count, [{}], {}))["time"] == str(minutes)


# ---- refused beforehand


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time": "2 days"}, "--time 2 days: expected minutes, hours:minutes:seconds"),
        ({"time": "-5"}, "--time -5: expected"),
        ({"time": "1:2:3:4"}, "--time 1:2:3:4: expected"),
        ({"time": "2", "stop_before": 120}, "--stop-before 120 s: --time 2 is not longer"),
        ({"stop_before": 0}, "--stop-before 0: expected a number of at least 1"),
        ({"nodes": 0}, "--nodes 0: expected a number of at least 1"),
        ({"gpus": -1}, "--gpus -1: expected a number of at least 0"),
        ({"cpus_per_task": 0}, "--cpus-per-task 0: expected"),
    ],
)
def test_options_without_sense(options, said, tmp_path):
    launcher = Launcher(tmp_path / "run", "name", SlurmOptions(**options))
    for refused in (launcher.script, launcher.submit):
        with pytest.raises(UsageError, match=said):
            refused(count, [{}], {})
    assert not list(tmp_path.iterdir())


def test_without_slurm(programs, tmp_path):
    launcher = Launcher(tmp_path / "run", "name", SlurmOptions())
    with pytest.raises(UsageError, match=r"no Slurm on this machine \(sbatch, srun\)"):
        launcher.submit(count, [{}])
    assert not (tmp_path / "run").exists()


def test_a_job_is_handed_nothing_but_paths_and_plain_values(tmp_path):
    launcher = Launcher(tmp_path / "run", "name", SlurmOptions())
    with pytest.raises(TypeError, match="SlurmOptions cannot be handed to a job"):
        launcher.script(count, [{"output": SlurmOptions()}], {})


def test_a_job_is_not_put_back_for_ever(monkeypatch, programs):
    (programs / "scontrol").write_text("#!/bin/sh\nexit 0\n")
    (programs / "scontrol").chmod(0o755)
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(job.MAX_RESTARTS - 1))
    job.put_back("7")  # the first task does it
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(SystemExit):
        job.put_back("7")
    (programs / "scontrol").unlink()
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(job.MAX_RESTARTS))
    with pytest.raises(SystemExit):
        job.put_back("7")


# ---- following


def test_following_shows_lines_and_states(programs, tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "POLL_S", 0)
    job = Submitted("7", tmp_path / "7_0_log.out")
    job.log.write_text("step 1\nstep 2\nunfinished")
    write_squeue(programs, "7 PENDING", "!Unable to contact slurm controller", "7 RUNNING", "7 COMPLETED")
    lines: list[str] = []
    follow([job], lines.append)
    assert lines == [
        "step 1", "step 2", "job 7: pending", "job 7: unknown", "job 7: running", "unfinished",
        "job 7: completed",
    ]  # fmt: skip


def test_a_job_that_slurm_has_forgotten(programs, tmp_path):
    job = Submitted("7", tmp_path / "7_0_log.out")
    write_squeue(programs, "!slurm_load_jobs error: Invalid job id specified")
    with pytest.raises(JobFailedError, match=r"job 7: gone, its log is .*7_0_log\.out") as failure:
        follow([job], lambda _: None)
    assert failure.value.exit_code == 1
    queue.done_file(tmp_path, "7").touch()
    follow([job], lambda _: None)


def test_the_error_inside_a_job(programs, tmp_path):
    jobs = [Submitted(f"7_{i}", tmp_path / f"7_{i}_0_log.out") for i in range(2)]
    jobs[1].log.write_text("Error: bad\n")
    error = {"message": "x.fits: no column FLUX", "exit_code": DataError.exit_code}
    queue.error_file(tmp_path, "7_1").write_text(json.dumps(error))
    write_squeue(programs, "7_0 COMPLETED\n7_1 FAILED")
    lines: list[str] = []
    with pytest.raises(AstroclipError, match=r"job 7_1: x\.fits: no column FLUX") as failure:
        follow(jobs, lines.append)
    assert failure.value.exit_code == 3
    assert lines == ["job 7_0: completed", "7_1: Error: bad", "job 7_1: failed"]


# ---- the command line


def test_dry_run_prints_scripts_and_writes_nothing(catalog, tiny_model, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    words = ["embed", catalog, "-m", tiny_model, "--slurm", "--dry-run", "--partition", "gpu", "--gpus", 1]
    done = run(*words, "--setup", "module load a", "--setup", "module load b", "--time", "10:00:00")
    assert done.exit_code == 0
    asked = flags(done.stdout)
    assert (asked["partition"], asked["gpus-per-node"], asked["time"]) == ("gpu", "1", "600")
    assert asked["output"] == str(tmp_path / "galaxies-embedded.slurm" / "%j_0_log.out")
    assert "module load a\nmodule load b\n" in done.stdout
    two = run(*words, "--array", 2).stdout.split("#!/bin/bash")[1:]
    assert flags(two[0])["array"] == "0-1"
    assert "dependency" in flags(two[1])
    assert len(json.loads(run("--json", *words, "--array", 2).stdout)["scripts"]) == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_trainings_have_a_process_a_gpu(tmp_path):
    pairs = write_training_pairs(tmp_path / "pairs.h5", training=2, validation=1)
    words = ["train", "clip", pairs, "-o", tmp_path / "run", "-c", "mini-clip", "train_encoders=true"]
    slurm = ["--slurm", "--dry-run", "--constraint", "a100", "--gpus", 4, "--nodes", 5, "--time", "2-0"]
    done = run(*words, *slurm)
    assert done.exit_code == 0, done.exception
    asked = flags(done.stdout)
    assert {name: asked[name] for name in ("nodes", "gpus-per-node", "ntasks-per-node", "time")} == {
        "nodes": "5", "gpus-per-node": "4", "ntasks-per-node": "4", "time": "2880",
    }  # fmt: skip
    assert asked["output"] == str(tmp_path / "run" / "slurm" / "%j_0_log.out")
    assert flags(run(*words, "--slurm", "--dry-run").stdout)["ntasks-per-node"] == "1"
    with pytest.raises(AstroclipError, match="optim"):
        raise run(*words, "optim.lrr=1", *slurm).exception
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.h5"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--partition", "gpu"], "--partition needs --slurm"),
        (["--follow"], "--follow needs --slurm"),
        (["--array", 3], "--array needs --slurm"),
        (["--slurm", "--array", 3, "--shard", 0, "--shards", 3], "--array makes the shards itself"),
        (["--slurm", "--array", 0], "0 shards, expected at least 1"),
        (["--slurm", "--array", 2, "-o", "e.ecsv"], r"a shard is written as \.fits or \.parquet"),
        (["--slurm", "--images", "PIXELS"], "PIXELS"),
    ],
)
def test_what_cannot_be_embedded_is_said_before_it_is_queued(words, said, catalog, tiny_model, monkeypatch):
    monkeypatch.chdir(catalog.parent)
    with pytest.raises(AstroclipError, match=said):
        CliRunner().invoke(
            app, ["embed", str(catalog), "-m", str(tiny_model), *map(str, words)], catch_exceptions=False
        )
    assert [path.name for path in catalog.parent.iterdir()] == ["galaxies.fits"]


def test_outputs_and_shards_that_are_there(catalog, tiny_model):
    words = ["embed", catalog, "-m", tiny_model, "--slurm", "--dry-run"]
    shards = [catalog.with_name(f"galaxies-embedded.shard-{i}-of-3.fits") for i in range(3)]
    shards[1].touch()
    with pytest.raises(UsageError, match=r"shard-1-of-3\.fits: exists already"):
        raise run(*words, "--array", 3).exception
    assert flags(run(*words, "--array", 3, "--resume").stdout.split("#!")[1])["array"] == "0-1"
    assert flags(run(*words, "--array", 3, "--overwrite").stdout.split("#!")[1])["array"] == "0-2"
    for shard in shards:
        shard.touch()
    with pytest.raises(UsageError, match=r"all 3 shards are there.*--merge --shards 3"):
        raise run(*words, "--array", 3, "--resume").exception
    catalog.with_name("galaxies-embedded.fits").touch()
    with pytest.raises(UsageError, match=r"galaxies-embedded\.fits: exists already"):
        raise run(*words).exception
