"""Submit calls of a function to Slurm.

The folder of a job holds ``<id>_submission.sh``, its batch script, which has the calls in it;
``<id>_<task>_log.out``, what it writes; and ``<id>_done`` or ``<id>_error.json`` when it has ended.
"""

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from astroclip.cluster.job import STOP_SIGNAL
from astroclip.cluster.queue import Submitted
from astroclip.errors import UsageError

Calls = Sequence[Mapping[str, Any]]
LOG = "{job}_{task}_log.out"


@dataclass(frozen=True)
class SlurmOptions:
    """What to ask Slurm for; the names are those of ``sbatch``.

    Attributes
    ----------
    partition, constraint, account, qos : str, optional
        Where to run, and the account to charge; by default as the cluster has it.
    nodes : int
        Number of nodes.
    gpus : int, optional
        GPUs of each node; by default none is asked for.
    time : str
        Limit of one run: ``minutes``, ``hours:minutes:seconds`` or ``days-hours:minutes:seconds``. A job
        that reaches it is requeued and continues.
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

    def script(self, function: Callable[..., Any], calls: Calls, again: Mapping[str, Any]) -> str:
        """Return the batch script that `submit` hands to Slurm.

        Raises
        ------
        UsageError
            If an option makes no sense.
        """
        folder = self.folder.absolute()
        job = "%A_%a" if len(calls) > 1 else "%j"
        flags = {
            **self._flags(),
            "array": f"0-{len(calls) - 1}" if len(calls) > 1 else None,
            "output": folder / LOG.format(job=job, task=0),
        }
        lines = [f"#SBATCH --{name}={shlex.quote(str(value))}" for name, value in flags.items() if value]
        log = shlex.quote(str(folder / LOG.format(job=job, task="%t")))
        run = shlex.join([sys.executable, "-u", "-m", "astroclip.cluster", str(folder)])
        work = {"function": f"{function.__module__}:{function.__qualname__}", "again": again, "calls": calls}
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                "#SBATCH --requeue",
                *self.options.setup,
                f"srun --unbuffered --kill-on-bad-exit=1 --output {log} {run} <<'CALLS'",
                json.dumps(work, default=_as_text),
                "CALLS\n",
            ]
        )

    def submit(
        self, function: Callable[..., Any], calls: Calls, again: Mapping[str, Any] | None = None
    ) -> list[Submitted]:
        """Submit a job that calls a function, or an array of jobs for several calls.

        Parameters
        ----------
        function : callable
            Of a module that is installed where the job runs. What it returns is dropped.
        calls : sequence of mappings
            Keyword arguments of each call: paths, and what JSON can hold.
        again : mapping, optional
            Keyword arguments that replace those of a call whose job starts again: after its time limit, a
            pre-emption, or the failure of a node.

        Raises
        ------
        UsageError
            If an option makes no sense, there is no Slurm here, or Slurm refuses.
        """
        script = self.script(function, calls, again or {})
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UsageError(
                "no Slurm on this machine (sbatch, srun). Submit from a login node of the cluster; --dry-run "
                "prints the batch script anywhere"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        # a job that is submitted from inside another one would take over its layout
        own = {n: v for n, v in os.environ.items() if not n.startswith("SLURM_") or n == "SLURM_CONF"}
        done = subprocess.run(
            ["sbatch", "--parsable"],  # noqa: S607
            input=script, env=own, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise UsageError(f"Slurm refuses the job: {done.stderr.strip()}")
        number = done.stdout.strip().partition(";")[0]  # "number;cluster" where there are several
        folder = self.folder.absolute()
        (folder / f"{number}_submission.sh").write_text(script, encoding="utf-8")
        jobs = [f"{number}_{i}" for i in range(len(calls))] if len(calls) > 1 else [number]
        return [Submitted(job, folder / LOG.format(job=job, task=0)) for job in jobs]

    def following(self, jobs: Sequence[Submitted]) -> "Launcher":
        """Return a launcher of jobs that wait until all of these, submitted together, have succeeded."""
        return replace(self, after=jobs[0].id.partition("_")[0])

    def _flags(self) -> dict[str, Any]:
        """Return the flags of the batch script; those that are empty are not asked for."""
        options = self.options
        for name, least in {"nodes": 1, "gpus": 0, "cpus_per_task": 1, "stop_before": 1}.items():
            value = getattr(options, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} {value}: expected a number of at least {least}")
        if options.stop_before >= 60 * _minutes(options.time):
            raise UsageError(f"--stop-before {options.stop_before} s: --time {options.time} is not longer")
        return {
            "job-name": self.name,
            "partition": options.partition,
            "constraint": options.constraint,
            "account": options.account,
            "qos": options.qos,
            "nodes": options.nodes,
            "ntasks-per-node": self.tasks_per_node,
            "gpus-per-node": options.gpus,
            "time": _minutes(options.time),
            "mem-per-gpu": options.mem_per_gpu,
            "cpus-per-task": options.cpus_per_task,
            "signal": f"{STOP_SIGNAL.name.removeprefix('SIG')}@{options.stop_before}",
            "open-mode": "append",
            "dependency": f"afterok:{self.after}" if self.after else None,
            "kill-on-invalid-dep": "yes" if self.after else None,
        }


def _as_text(value: Any) -> str:
    """Return a path as JSON can hold it."""
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be handed to a job")


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
