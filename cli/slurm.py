"""The options of the commands that may run as a Slurm job, and the way into the queue."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from astroclip.errors import UsageError

from .output import output as out


def _option(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Slurm")


class SlurmRequest(NamedTuple):
    """What was asked of Slurm: `options` of `SlurmOptions`, and what to do with the job."""

    options: dict[str, Any]
    follow: bool
    dry_run: bool


def _slurm_options(
    slurm: Annotated[bool, _option("--slurm", help="Run as a Slurm job.")] = False,
    partition: Annotated[str | None, _option(help="Slurm partition.")] = None,
    constraint: Annotated[str | None, _option(help="Required features of the nodes, such as a100.")] = None,
    account: Annotated[str | None, _option(help="Slurm account to charge.")] = None,
    qos: Annotated[str | None, _option(help="Slurm quality of service.")] = None,
    time: Annotated[
        str,
        _option(
            help="Time limit, such as 48:00:00 or 2-00:00:00. A job that reaches it is requeued "
            "and continues."
        ),
    ] = "24:00:00",
    mem_per_gpu: Annotated[str | None, _option(help="Host memory for each GPU, such as 64G.")] = None,
    cpus_per_task: Annotated[int | None, _option(help="CPU cores for each process.")] = None,
    setup: Annotated[
        list[str] | None,
        _option(help="Shell command to run first, such as 'module load python'. Repeatable."),
    ] = None,
    stop_before: Annotated[int, _option(help="Save and stop this many seconds before the time limit.")] = 120,
    follow: Annotated[bool, _option("--follow", help="Show the log until the job ends.")] = False,
    dry_run: Annotated[
        bool, _option("--dry-run", help="Print the batch script without submitting it.")
    ] = False,
) -> None:
    """Take the options of all commands that may run as a job."""


def takes_slurm(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options above to a command; it gets what they say as its argument `slurm`."""
    own = inspect.signature(command, eval_str=True)
    added = inspect.signature(_slurm_options, eval_str=True).parameters

    @functools.wraps(command)
    def with_slurm(**values: Any) -> None:
        said = {name: values.pop(name) for name in added}
        changed = [name for name, parameter in added.items() if said[name] != parameter.default]
        if changed and not said["slurm"]:
            raise UsageError(f"--{changed[0].replace('_', '-')} needs --slurm")
        if not said.pop("slurm"):
            command(**values, slurm=None)
            return
        follow, dry_run = said.pop("follow"), said.pop("dry_run")
        options = said | {"setup": tuple(said["setup"] or ())}
        command(**values, slurm=SlurmRequest(options, follow, dry_run))

    parameters = [p for name, p in own.parameters.items() if name != "slurm"] + list(added.values())
    with_slurm.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_slurm.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_slurm


def submit(
    request: SlurmRequest,
    function: Callable[..., Any],
    calls: Sequence[Mapping[str, Any]],
    *,
    again: Mapping[str, Any],
    folder: Path,
    name: str,
    nodes: int = 1,
    gpus: int | None = None,
    tasks_per_node: int = 1,
    then: tuple[Callable[..., Any], Mapping[str, Any]] | None = None,
) -> None:
    """Submit a job, or an array of jobs and a last one after it; say their numbers; follow them if asked to.

    The arguments `again` replace those of a call whose job starts again. With --dry-run, print the scripts.
    """
    from astroclip.cluster import Launcher, SlurmOptions, Submitted, follow

    options = SlurmOptions(nodes=nodes, gpus=gpus, **request.options)
    launcher = Launcher(folder, name, options, tasks_per_node)
    if request.dry_run:
        scripts = [launcher.script(function, calls, again)]
        if then:
            last = launcher.following([Submitted("ARRAY-JOB", folder)])
            scripts.append(last.script(then[0], [then[1]], {}))
        out.result({"scripts": scripts}) if out.json else out.say("\n".join(scripts))
        return
    jobs = launcher.submit(function, calls, again)
    number = jobs[0].id.partition("_")[0]
    log = jobs[0].log
    said = {"job": number, "log": log if len(calls) == 1 else log.with_name(f"{number}_*_0_log.out")}
    if then:
        jobs += launcher.following(jobs).submit(then[0], [then[1]])
        said["then"] = jobs[-1].id
    out.result(said)
    if request.follow:
        follow(jobs, _say_now)


def _say_now(line: str) -> None:
    """Print a line at once, also into a pipe."""
    out.say(line)
    sys.stdout.flush()
