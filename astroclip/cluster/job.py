"""What runs inside a job: a call, its way back into the queue, and its error in the job's folder.

The batch script of `astroclip.cluster.submit` starts ``python -m astroclip.cluster FOLDER`` once a task,
with the calls as JSON on standard input.
"""

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from astroclip.cluster.queue import Submitted, ask, done_file, error_file
from astroclip.errors import AstroclipError, StoppedError

STOP_SIGNAL = signal.SIGUSR2  # Slurm sends it before the time limit; SIGUSR1 may be NCCL's
MAX_RESTARTS = 100  # so often a job may reach its time limit and go on
KILLED_S = 600  # a task that waits for the end of its requeued job waits no longer
_log = logging.getLogger("astroclip")  # what the program tells of its progress is the log of the job


def run_call(folder: Path, work: Mapping[str, Any]) -> None:
    """Make the call of this task; an error is written down, and becomes the exit code of the job.

    Shortly before the time limit Slurm signals every process of the job, and the first task puts the job back
    into the queue; at once where the function does nothing about signals. A function that does, so as to save
    what it has, ends with `StoppedError`. Started again, the call is made with the arguments ``again``.

    Parameters
    ----------
    folder
        Of the job's files.
    work
        The ``function`` as ``module:name``, keyword arguments of each of its ``calls``, one a job of the
        array, and those that replace them where a job starts ``again``.
    """
    _log.addHandler(logging.StreamHandler())
    _log.setLevel(logging.INFO)
    job = _own_id()
    signal.signal(STOP_SIGNAL, _only_here(lambda *_: put_back(job)))
    error_file(folder, job).unlink(missing_ok=True)  # of an earlier start
    arguments = work["calls"][int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]
    try:
        _find(work["function"])(**arguments | (work["again"] if _count_restarts() else {}))
    except AstroclipError as error:
        # a job that is cancelled, or put back by Slurm itself, is not RUNNING any more
        if isinstance(error, StoppedError) and ask([Submitted(job, folder)]) == ["RUNNING"]:
            put_back(job)
            time.sleep(KILLED_S)  # until the first task has put the job back
        _log.error("Error: %s", error)
        what = {"message": str(error), "exit_code": error.exit_code}
        error_file(folder, job).write_text(json.dumps(what), encoding="utf-8")
        raise SystemExit(error.exit_code) from error
    done_file(folder, job).touch()


def _own_id() -> str:
    """Return the number of the job that this process is part of."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _count_restarts() -> int:
    """Return how often this job was started before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _find(name: str) -> Callable[..., Any]:
    """Return a function by ``module:name``."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def put_back(job: str) -> None:
    """Put the job back into the queue and exit; tasks but the first do nothing, and end with that one."""
    if os.environ["SLURM_PROCID"] != "0":
        return
    if _count_restarts() >= MAX_RESTARTS:
        _log.error("Error: stopped, and not put back into the queue after %d starts", MAX_RESTARTS + 1)
        raise SystemExit(1)
    subprocess.run(["scontrol", "requeue", job], check=True)  # noqa: S603, S607
    _log.info("Requeued job %s", job)
    raise SystemExit(1)  # Slurm takes the job back whatever this is


def _only_here(handler: Callable[..., None]) -> Callable[[int, FrameType | None], None]:
    """Return a signal handler that does nothing in forked processes, as those that read data."""
    owner = os.getpid()

    def guarded(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            handler(signum, frame)

    return guarded
