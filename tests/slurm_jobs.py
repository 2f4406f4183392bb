"""Functions that the tests run as Slurm jobs."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

from astroclip.errors import DataError, StoppedError

STEP_S = 0.1


def count(output: Path, more: int, resume: bool = False) -> None:
    """Count so many steps in a file; may be killed between any two."""
    begun = _begin(output, resume)
    for step in range(begun + 1, begun + more + 1):
        _write(output, step)
        time.sleep(STEP_S)


def count_and_save(output: Path, more: int, resume: bool = False) -> None:
    """Count as `count` does, beside a forked process, but save only when told to stop, as a training does."""
    stop: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda signum, _: stop.append(signum))
    reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
    reader.start()
    begun = _begin(output, resume)
    for step in range(begun + 1, begun + more + 1):
        time.sleep(STEP_S)
        if stop:
            _write(output, step)
            raise StoppedError(f"stopped at step {step}")
    _write(output, begun + more)
    reader.kill()


def fail(message: str) -> None:
    """Fail as a survey file would make a command fail, or by a bug."""
    print("about to fail")
    if not message:
        raise ZeroDivisionError
    raise DataError(message)


def tell_place(output: Path) -> None:
    """Tell where this task is among the tasks of its job."""
    told = {name: os.environ[name] for name in ("SLURMD_NODENAME", "SLURM_LOCALID", "CUDA_VISIBLE_DEVICES")}
    (output / f"{os.environ['SLURM_PROCID']}.json").write_text(json.dumps(list(told.values())))


def train_slowly(delay_s: float, **arguments: Any) -> None:
    """Train, with a rest after every step."""
    from astroclip.training.fit import train

    train(**arguments, progress=lambda done, total, note: time.sleep(delay_s))


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
