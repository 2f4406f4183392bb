"""`astroclip train`: a spectrum encoder, an image encoder, or the alignment of both."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .output import output as out


class Kind(StrEnum):
    """What can be trained."""

    SPECTRUM = "spectrum"
    IMAGE = "image"
    CLIP = "clip"


def train(
    kind: Annotated[Kind, typer.Argument(help="SpecFormer, DINOv2, or the alignment of both.")],
    data: Annotated[
        Path, typer.Argument(help="File of pairs; for images also a file or folder of cut-outs.")
    ],
    run: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the run; ends as a model directory.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as optim.lr=1e-4.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option("--config", "-c", help="mini-spectrum, ... or a YAML file. Default: as published."),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of each node. Default: all; 0: the CPU.")] = None,
    nodes: Annotated[int, typer.Option(help="Number of nodes.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run, if it was begun.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin again a run that is there.")] = False,
) -> None:
    """Train a model on DATA; stopped by a signal, it saves and goes on with --resume."""
    _need_lightning()
    from astroclip.training.devices import is_first_process
    from astroclip.training.fit import train as fit

    out.quiet = out.quiet or not is_first_process()
    with out.progress("Training") as progress:
        report = fit(
            kind.value,
            data,
            run,
            config,
            settings or [],
            gpus=gpus,
            nodes=nodes,
            resume=resume,
            overwrite=overwrite,
            progress=progress,
        )
    out.result(report._asdict())


def _need_lightning() -> None:
    from astroclip.errors import UsageError

    if find_spec("lightning") is None:
        raise UsageError("training needs Lightning: pip install 'astroclip[train]'")
