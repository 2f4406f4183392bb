"""Submit calls of a function to Slurm, through submitit.

The folder of a job holds ``<id>_submission.sh``, its batch script; ``<id>_<task>_log.out``, what it writes;
and ``<id>_submitted.pkl``, the call: written here and read by the job, and by nothing else.
"""

import math
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from astroclip.cluster.job import Call
from astroclip.cluster.queue import Submitted
from astroclip.errors import UsageError

MAX_TIMEOUTS = 100  # so often a job may reach its time limit and go on


@dataclass(frozen=True)
class SlurmOptions:
    """What to ask Slurm for; the names are those of ``sbatch``.

    Attributes
    ----------
    partition, constraint, account, qos : str, optional
        Where to run and at whose expense; by default as the cluster has it.
    nodes : int
        Number of nodes.
    gpus : int, optional
        GPUs of each node; by default none is asked for.
    time : str
        Limit of one run: ``minutes``, ``hours:minutes:seconds`` or ``days-hours:minutes:seconds``. A job
        that reaches it goes on in a next run.
    mem_per_gpu : str, optional
        Host memory, as ``64G``.
    cpus_per_task : int, optional
        Cores of each task.
    setup : tuple of str
        Lines of shell that the batch script runs first, as ``module load python``.
    stop_before : int
        Seconds before the time limit at which a job is told to save and to go back into the queue.
    """

    partition: str | None = None
    constraint: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = 1
    gpus: int | None = None
    time: str = "24:00:00"
    mem_per_gpu: str | None = None
    cpus_per_task: int | None = None
    setup: tuple[str, ...] = ()
    stop_before: int = 120


@dataclass(frozen=True)
class Launcher:
    """Submits jobs of a kind.

    Attributes
    ----------
    folder : Path
        Of the jobs' files; on a disk that all nodes see.
    name : str
        In the queue.
    options : SlurmOptions
        What they ask for.
    tasks_per_node : int
        So many processes of each node make the same call.
    after : str, optional
        Number of a job that has to succeed first; if it fails, these never run.
    """

    folder: Path
    name: str
    options: SlurmOptions
    tasks_per_node: int = 1
    after: str | None = None

    def script(self, array: int = 1) -> str:
        """Return the batch script of a job, or of an array of jobs, without submitting it.

        Raises
        ------
        UsageError
            If submitit is not installed, or an option makes no sense.
        """
        parameters = self._parameters() | ({"map_count": array} if array > 1 else {})
        from submitit.slurm.slurm import _make_sbatch_string

        folder = self.folder.absolute()
        command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
        return _make_sbatch_string(command, folder, **parameters)

    def submit(
        self,
        function: Callable[..., Any],
        calls: Sequence[Mapping[str, Any]],
        again: Mapping[str, Any] | None = None,
    ) -> list[Submitted]:
        """Submit a job that calls a function, or an array of jobs for several calls.

        Parameters
        ----------
        function : callable
            Of a module that is installed where the job runs. What it returns is dropped.
        calls : sequence of mappings
            Keyword arguments of each call.
        again : mapping, optional
            Keyword arguments that replace those of a call whose job starts again: after its time limit, a
            pre-emption, or the failure of a node.

        Raises
        ------
        UsageError
            If submitit is not installed, an option makes no sense, there is no Slurm here, or Slurm refuses.
        """
        parameters = self._parameters()
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UsageError(
                "no Slurm on this machine (sbatch, srun). Submit from a login node of the cluster; --dry-run "
                "prints the batch script anywhere"
            )
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        folder = self.folder.absolute()
        executor = SlurmExecutor(folder, max_num_timeout=MAX_TIMEOUTS)
        executor.update_parameters(**parameters)
        try:
            with _outside_of_jobs():
                jobs = executor.submit_array(
                    [Call(function, dict(c), dict(again or {}), folder) for c in calls]
                )
        except (FailedJobError, FailedSubmissionError) as error:
            raise UsageError(f"Slurm refuses the job: {str(error).strip()}") from None
        return [Submitted(job.job_id, job.task(0).paths.stdout) for job in jobs]

    def following(self, jobs: Sequence[Submitted]) -> "Launcher":
        """Return a launcher of jobs that wait until all of these, submitted together, have succeeded."""
        return replace(self, after=jobs[0].id.partition("_")[0])

    def _parameters(self) -> dict[str, Any]:
        """Return the parameters of the batch script, by submitit's names."""
        if find_spec("submitit") is None:
            raise UsageError("--slurm needs submitit: pip install 'astroclip[train]'")
        options = self.options
        for name, least in {"nodes": 1, "gpus": 0, "cpus_per_task": 1, "stop_before": 1}.items():
            value = getattr(options, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} {value}: expected a number of at least {least}")
        if options.stop_before >= 60 * _minutes(options.time):
            raise UsageError(f"--stop-before {options.stop_before} s: --time {options.time} is not longer")
        more: dict[str, Any] = {"requeue": True}
        if self.after:
            more |= {"dependency": f"afterok:{self.after}", "kill-on-invalid-dep": "yes"}
        return {
            "job_name": self.name,
            "partition": options.partition,
            "constraint": options.constraint,
            "account": options.account,
            "qos": options.qos,
            "nodes": options.nodes,
            "ntasks_per_node": self.tasks_per_node,
            "gpus_per_node": options.gpus or None,
            "time": _minutes(options.time),
            "mem_per_gpu": options.mem_per_gpu,
            "cpus_per_task": options.cpus_per_task,
            "setup": list(options.setup) or None,
            "signal_delay_s": options.stop_before,
            "stderr_to_stdout": True,
            "srun_args": ["--kill-on-bad-exit=1"],
            "wckey": None,  # submitit's own is refused where such keys are enforced
            "additional_parameters": more,
        }


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the job that this process may be part of: one submitted from it would take over its layout."""
    inherited = [n for n in os.environ if n.startswith(("SLURM_", "SUBMITIT_")) and n != "SLURM_CONF"]
    hidden = {name: os.environ.pop(name) for name in inherited}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _minutes(limit: str) -> int:
    """Return a time limit in minutes, rounded up; the formats are those of ``sbatch --time``."""
    days, dash, clock = limit.rpartition("-")
    parts = clock.split(":")
    if len(parts) > 3 or not all(part.isdecimal() for part in [*parts, *([days] if dash else [])]):
        raise UsageError(
            f"--time {limit}: expected minutes, hours:minutes:seconds or days-hours:minutes:seconds"
        )
    numbers = [int(part) for part in parts]
    if not dash and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, seconds = [*numbers, 0, 0][:3]
    return (int(days or 0) * 24 + hours) * 60 + minutes + math.ceil(seconds / 60)
