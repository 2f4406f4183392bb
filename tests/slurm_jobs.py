"""Functions that the tests run as Slurm jobs."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from astroclip.errors import DataError, StoppedError

STEP_S = 0.1


def count(output: str, more: int, resume: bool = False) -> None:
    """Count so many steps in a file; may be killed between any two."""
    begun = _begin(Path(output), resume)
    for step in range(begun + 1, begun + more + 1):
        _write(Path(output), step)
        time.sleep(STEP_S)


def count_and_save(output: str, more: int, resume: bool = False) -> None:
    """Count as `count` does, beside a forked process, but save only when told to stop, as a training does."""
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda signum, _: stop.append(signum))
    reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
    reader.start()
    begun = _begin(Path(output), resume)
    for step in range(begun + 1, begun + more + 1):
        time.sleep(STEP_S)
        if stop:
            _write(Path(output), step)
            raise StoppedError(f"stopped at step {step}")
    _write(Path(output), begun + more)
    reader.kill()


def fail(message: str) -> None:
    """Fail as a survey file would make a command fail, or by a bug."""
    print("about to fail")
    if not message:
        raise ZeroDivisionError
    raise DataError(message)


def tell_place(output: str) -> None:
    """Tell where this task is among the tasks of its job."""
    told = {name: os.environ[name] for name in ("SLURMD_NODENAME", "SLURM_LOCALID", "CUDA_VISIBLE_DEVICES")}
    (Path(output) / f"{os.environ['SLURM_PROCID']}.json").write_text(json.dumps(list(told.values())))


def train_to_the_limit(resume: bool = False, **arguments: Any) -> None:
    """Train; after two steps bring the job's time limit near, and go on at half a second a step."""
    from astroclip.training.fit import train

    step = itertools.count(1)

    def linger(done: int, total: int, note: str) -> None:
        if next(step) == 2:
            _set_time_limit(2)
        time.sleep(0.5)

    try:
        train(**arguments, resume=resume, progress=None if resume else linger)
    except StoppedError:
        _set_time_limit(60)
        raise


def _set_time_limit(minutes: int) -> None:
    """Let this job run for so many minutes from now on, rounded down."""
    job = os.environ["SLURM_JOB_ID"]
    told = subprocess.run(["squeue", "-h", "-j", job, "-o", "%M"], capture_output=True, text=True, check=True)
    limit = int(told.stdout.split(":")[-2]) + minutes
    subprocess.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={limit}"], check=True)


def _begin(output: Path, resume: bool) -> int:
    """Return the step to go on from, and note this start."""
    state = json.loads(output.read_text()) if resume and output.exists() else {"step": 0, "starts": []}
    state["starts"].append(state["step"])
    output.write_text(json.dumps(state))
    return int(state["step"])


def _write(output: Path, step: int) -> None:
    state = json.loads(output.read_text())
    beside = output.with_suffix(".new")
    beside.write_text(json.dumps({**state, "step": step}))
    beside.rename(output)
