"""`astroclip models`: list, describe, fetch, convert and make models."""

from pathlib import Path
from typing import Annotated

import typer

from .options import Overwrite, Seed, examples
from .output import output as out

app = typer.Typer(no_args_is_help=True, epilog=examples("models list", "models pull astroclip"))

Directory = Annotated[Path, typer.Option("--output", "-o", help="Model directory to create.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as image.num_heads=16."),
]


@app.command("list", epilog=examples("models list", "--json models list"))
def list_() -> None:
    """List the models on this machine, and the published ones that can be downloaded."""
    from astroclip.model.hub import list_models

    columns = ("name", "modality", "width", "parameters", "source", "path")
    out.table(columns, [(*model[:5], model.path or "not pulled") for model in list_models()])


@app.command(epilog=examples("models info mini", "models info run"))
def info(
    name: Annotated[str, typer.Argument(metavar="NAME|DIR", help="Name or directory of a model.")],
) -> None:
    """Describe a model: its sizes, origin, settings, and the hash of its weights."""
    from astroclip.config import read_model_config
    from astroclip.model.checkpoint import CONFIG, model_hash, read_info
    from astroclip.model.hub import find_model

    directory = find_model(name)
    config = read_model_config(directory / CONFIG).model_dump(exclude_none=True)
    out.result({**read_info(directory)._asdict(), "hash": model_hash(directory), "config": config})


@app.command(epilog=examples("models pull astroclip", "models pull polymathic-ai/specformer@main"))
def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|ORG/REPO[@REV]",
            help="astroclip, astrodino, specformer, or a repository on the Hugging Face hub.",
        ),
    ],
    offline: Annotated[
        bool, typer.Option("--offline", help="Use no network: only models that were downloaded before.")
    ] = False,
) -> None:
    """Download a model from the Hugging Face hub; a pickled checkpoint is converted without executing it."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from astroclip.model.hub import pull_model

    if out.quiet or out.json:
        disable_progress_bars()
    out.result({"model": name, "path": pull_model(name, offline=offline)})


@app.command(
    epilog=examples(
        "models convert astroclip.ckpt -o astroclip", "models convert specformer.ckpt -o specformer"
    )
)
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="Published checkpoint, such as astroclip.ckpt.")],
    output: Directory,
    settings: Overrides = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a published checkpoint into a model directory, without executing anything in it."""
    from astroclip.model.checkpoint import convert_checkpoint

    with out.progress("Converting"):
        config = convert_checkpoint(checkpoint, output, settings, overwrite=overwrite)
    out.result({"model": config.name, "path": output})


@app.command(epilog=examples("models init mini -o random", "models init paper -o random image.depth=12"))
def init(
    preset: Annotated[
        str,
        typer.Argument(metavar="PRESET|CONFIG.yaml", help="Sizes of the model: mini, paper, or a YAML file."),
    ],
    output: Directory,
    settings: Overrides = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Create an untrained model with random weights, for tests."""
    from astroclip.model.checkpoint import init_model

    with out.progress("Drawing weights"):
        config = init_model(preset, output, settings, seed=seed, overwrite=overwrite)
    out.result({"model": config.name, "path": output})


@app.command(
    epilog=examples(
        "models reference embedded.fits -m run",
        "models reference embedded.fits -m run --where 'SPLIT == 1' --columns Z,LOGMSTAR",
    )
)
def reference(
    catalog: Annotated[
        Path, typer.Argument(help="Table that was embedded with the model and has known labels.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Name or directory of the model.")],
    columns: Annotated[
        str | None,
        typer.Option(help="Labels to keep, such as Z,LOGMSTAR,*_debiased. Default: all numeric columns."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(help='Use only these rows, for example "SPLIT == 1 & Z < 0.6".')
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Give a model the reference set that `astroclip predict` takes by default."""
    from astroclip.predict.reference import write_reference

    names = [name.strip() for name in columns.split(",")] if columns else None
    out.result({"reference": write_reference(catalog, model, names, where, overwrite=overwrite)})
