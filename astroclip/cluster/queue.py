"""What Slurm does with a job, and what the job writes.

Asked is ``squeue`` alone: accounting (``sacct``) is not there on every cluster.
"""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from astroclip.errors import AstroclipError

POLL_S = 1.0  # between two looks at a job that is followed
UNKNOWN, GONE = "UNKNOWN", "GONE"  # Slurm does not answer; it has forgotten the job, some time after its end
_FAILED = ("FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE", GONE)
_ENDED = ("COMPLETED", *_FAILED)


class JobFailedError(AstroclipError):
    """A job did not succeed; `exit_code` is that of the error inside it, else 1."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Submitted(NamedTuple):
    """A job in the queue: its number (``12``, in an array ``12_0``), and where its first task writes."""

    id: str
    log: Path


def follow(jobs: Sequence[Submitted], echo: Callable[[str], None]) -> None:
    """Hand on, line by line, what jobs write and what becomes of them, until all have ended.

    Jobs go on when this is left early. A job that went back into the queue has not ended.

    Raises
    ------
    JobFailedError
        If a job did not succeed: the error inside it with its exit code, or what Slurm says of it.
    """
    told: dict[str, str] = {}
    read = dict.fromkeys(jobs, 0)
    while True:
        states = {job: _state_or_result(job, state) for job, state in zip(jobs, ask(jobs), strict=True)}
        for job, state in states.items():
            mark = f"{job.id}: " if len(jobs) > 1 else ""
            lines, read[job] = _new_lines(job.log, read[job], last=state in _ENDED)
            for line in lines:
                echo(mark + line)
            if told.get(job.id) != state:
                told[job.id] = state
                echo(f"job {job.id}: {state.lower()}")
        if all(state in _ENDED for state in states.values()):
            break
        time.sleep(POLL_S)
    for job, state in states.items():
        if state in _FAILED:
            raise _failure(job, state)


def ask(jobs: Sequence[Submitted]) -> list[str]:
    """Return what Slurm says of each job, as ``PENDING`` or ``RUNNING``; else `UNKNOWN` or `GONE`."""
    numbers = ",".join(dict.fromkeys(job.id.partition("_")[0] for job in jobs))
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={numbers}", "--format=%i %T"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    answered = answer.returncode == 0 or "Invalid job id" in answer.stderr
    found = dict(line.split() for line in answer.stdout.splitlines())
    return [found.get(job.id, GONE if answered else UNKNOWN) for job in jobs]


def error_file(folder: Path, job: str) -> Path:
    """Return where a job that fails writes its error."""
    return folder / f"{job}_error.json"


def done_file(folder: Path, job: str) -> Path:
    """Return the empty file that a job which succeeds leaves."""
    return folder / f"{job}_done"


def _state_or_result(job: Submitted, state: str) -> str:
    """Return the state of a job; of one that Slurm has forgotten, whether it succeeded."""
    done = state == GONE and done_file(job.log.parent, job.id).exists()
    return "COMPLETED" if done else state


def _new_lines(log: Path, start: int, *, last: bool) -> tuple[list[str], int]:
    """Return the whole lines of a log from a byte on, and the byte after them; at `last` any rest too."""
    if not log.is_file():
        return [], start
    with log.open("rb") as file:
        file.seek(start)
        text = file.read()
    whole = text if last else text[: text.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), start + len(whole)


def _failure(job: Submitted, state: str) -> JobFailedError:
    """Return the error inside a job that failed, or what is known of it."""
    try:
        error = json.loads(error_file(job.log.parent, job.id).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return JobFailedError(f"job {job.id}: {state.lower()}, its log is {job.log}", 1)
    return JobFailedError(f"job {job.id}: {error['message']}", error["exit_code"])
