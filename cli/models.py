"""`astroclip models`: list, describe, fetch, convert and make models."""

from pathlib import Path
from typing import Annotated

import typer

from .output import output as out

app = typer.Typer(no_args_is_help=True)

Directory = Annotated[Path, typer.Option("--output", "-o", help="Model directory to make.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, as image.num_heads=16.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")]


@app.command("list")
def list_() -> None:
    """List the models that are here, and the published ones to pull."""
    from astroclip.model.hub import list_models

    columns = ("name", "modality", "width", "parameters", "source", "path")
    out.table(columns, [(*model[:5], model.path or "not pulled") for model in list_models()])


@app.command()
def info(name: Annotated[str, typer.Argument(metavar="NAME|DIR", help="Model name or directory.")]) -> None:
    """Describe a model: sizes, origin, hash of its weights, settings."""
    from astroclip.config import read_model_config
    from astroclip.model.checkpoint import CONFIG, model_hash, read_info
    from astroclip.model.hub import find_model

    directory = find_model(name)
    config = read_model_config(directory / CONFIG).model_dump(exclude_none=True)
    out.result({**read_info(directory)._asdict(), "hash": model_hash(directory), "config": config})


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME|ORG/REPO[@REV]", help="astroclip, astrodino, ...")],
    offline: Annotated[bool, typer.Option("--offline", help="Use what was fetched before.")] = False,
) -> None:
    """Fetch a model from the Hugging Face hub; a published pickle is converted without executing it."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from astroclip.model.hub import pull_model

    if out.quiet or out.json:
        disable_progress_bars()
    out.result({"model": name, "path": pull_model(name, offline=offline)})


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="astroclip.ckpt, astrodino.ckpt, specformer.ckpt ...")],
    output: Directory,
    settings: Overrides = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn a published checkpoint into a model directory, without executing it."""
    from astroclip.model.checkpoint import convert_checkpoint

    with out.progress("Converting"):
        config = convert_checkpoint(checkpoint, output, settings, overwrite=overwrite)
    out.result({"model": config.name, "path": output})


@app.command()
def init(
    preset: Annotated[str, typer.Argument(metavar="PRESET|CONFIG.yaml", help="mini, paper, or a YAML file.")],
    output: Directory,
    settings: Overrides = None,
    seed: Annotated[int, typer.Option(help="Seed of the random weights.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make an untrained model: random weights, for tests and for training from scratch."""
    from astroclip.model.checkpoint import init_model

    with out.progress("Drawing weights"):
        config = init_model(preset, output, settings, seed=seed, overwrite=overwrite)
    out.result({"model": config.name, "path": output})


@app.command()
def reference(
    catalog: Annotated[Path, typer.Argument(help="Table embedded with the model, with known labels.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name or directory of the model.")],
    columns: Annotated[
        str | None, typer.Option(help="Labels to keep, as Z,LOGMSTAR,*_debiased. Default: all numbers.")
    ] = None,
    where: Annotated[str | None, typer.Option(help='Only these rows, as "SPLIT == 1 & Z < 0.6".')] = None,
    overwrite: Overwrite = False,
) -> None:
    """Give a model the reference set that `astroclip predict` takes by default."""
    from astroclip.predict.reference import write_reference

    names = [name.strip() for name in columns.split(",")] if columns else None
    out.result({"reference": write_reference(catalog, model, names, where, overwrite=overwrite)})
