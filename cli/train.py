"""`astroclip train`: a spectrum encoder, an image encoder, or the alignment of both."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .output import output as out
from .slurm import SlurmRequest, submit, takes_slurm


@takes_slurm
def train(
    kind: Annotated[
        Literal["spectrum", "image", "clip"],
        typer.Argument(help="Spectrum encoder (SpecFormer), image encoder (DINOv2), or their alignment."),
    ],
    data: Annotated[
        Path,
        typer.Argument(help="Pairs that crossmatch wrote; for `image` also a file or folder of cut-outs."),
    ],
    run: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; it becomes a model directory.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as optim.lr=1e-4."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            help="Recipe: mini-spectrum, mini-image, mini-clip, or a YAML file. Default: as published.",
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="Number of GPUs on each node; 0 trains on the CPU. Default: all GPUs; with --slurm, "
            "whatever the job gets."
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(help="Number of nodes.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run if it was started before.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again a run that exists.")] = False,
    slurm: SlurmRequest | None = None,
) -> None:
    """Train a model on DATA. A run that is interrupted saves its state, and --resume continues it."""
    work = {
        "kind": kind, "data": data, "run": run, "config": config, "overrides": settings or [],
        "resume": resume, "overwrite": overwrite,
    }  # fmt: skip
    if slurm:
        _submit(slurm, work, gpus, nodes)
    else:
        _train(**work, gpus=gpus, nodes=nodes)


def _train(**work: Any) -> None:
    """Train, as one of the processes that do; the settings may be those that a job was given."""
    from astroclip.config import make_settings
    from astroclip.training.devices import is_first_process
    from astroclip.training.fit import train as fit
    from astroclip.training.settings import KINDS

    if isinstance(work["config"], dict):
        work["config"] = make_settings(KINDS[work["kind"]], work["config"], "the settings of the job")
    out.quiet = out.quiet or not is_first_process()
    with out.progress("Training") as progress:
        report = fit(**work, progress=progress)
    if is_first_process():
        out.result(report._asdict())


def _submit(slurm: SlurmRequest, work: dict[str, Any], gpus: int | None, nodes: int) -> None:
    """Train in a job, with one process a GPU; what is wrong is said beforehand, and the settings are kept."""
    from astroclip.training.fit import check_training
    from astroclip.training.runs import JOBS

    settings = check_training(**work).model_dump(mode="json")
    settled = {"config": settings, "overrides": (), "gpus": gpus, "nodes": nodes}
    again = {"resume": True, "overwrite": False}
    submit(
        slurm, _train, [work | settled], again=again, folder=work["run"] / JOBS,
        name=f"astroclip-{work['kind']}", nodes=nodes, gpus=gpus, tasks_per_node=max(gpus or 1, 1),
    )  # fmt: skip
