"""What runs inside a job: the function, its way back into the queue, and its error in the job's folder."""

import json
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from astroclip.cluster.queue import Submitted, ask, error_file
from astroclip.errors import AstroclipError, StoppedError

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

KILLED_S = 600  # a task that waits for the end of its requeued job waits no longer
_log = logging.getLogger("astroclip")  # what the program tells of its progress is the log of the job


@dataclass(frozen=True)
class Call:
    """A call of a function, on each task of a job.

    Shortly before the time limit Slurm signals every process of the job, and submitit puts the job back into
    the queue; at once where the function does nothing about signals. A function that does, so as to save
    what it has, ends with `StoppedError`. Started again, the call is made with the arguments `again`.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    again: dict[str, Any]
    folder: Path

    def __call__(self) -> None:
        """Make the call; an error is written down, and becomes the exit code of the job."""
        _log.addHandler(logging.StreamHandler())
        _log.setLevel(logging.INFO)
        requeue = _keep_to_this_process(_stop_signal())
        restarted = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
        error_file(self.folder, _own_id()).unlink(missing_ok=True)  # of an earlier start
        try:
            self.function(**self.arguments | (self.again if restarted else {}))
        except AstroclipError as error:
            # a job that is cancelled, or put back by Slurm itself, is not RUNNING any more
            if isinstance(error, StoppedError) and ask([Submitted(_own_id(), self.folder)]) == ["RUNNING"]:
                signal.signal(_stop_signal(), requeue)
                signal.raise_signal(_stop_signal())
                time.sleep(KILLED_S)  # the first task puts the job back; the others end with it
            self._write_down(error)
            raise SystemExit(error.exit_code) from error

    def checkpoint(self) -> "DelayedSubmission":
        """Return what to run when the job starts again; called by submitit."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)

    def _write_down(self, error: AstroclipError) -> None:
        """Put an error into the log, and where `queue.follow` finds it."""
        _log.error("Error: %s", error)
        what = {"message": str(error), "exit_code": error.exit_code}
        error_file(self.folder, _own_id()).write_text(json.dumps(what), encoding="utf-8")


def _own_id() -> str:
    """Return the number of the job that this process is part of."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _stop_signal() -> signal.Signals:
    """Return the signal that Slurm sends before the time limit."""
    from submitit import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]


def _keep_to_this_process(number: signal.Signals) -> Callable[[int, FrameType | None], None]:
    """Make the handler of a signal do nothing in forked processes, as those that read data; return it."""
    handler, owner = signal.getsignal(number), os.getpid()

    def guarded(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == owner and callable(handler):
            handler(signum, frame)

    signal.signal(number, guarded)
    return guarded
