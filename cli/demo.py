"""`astroclip demo`: mock galaxies from end to end, command by command."""

import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Overwrite
from .output import output as out

COLUMNS = ("estimated", "from", "galaxies", "R²", "σ_NMAD", "in 68 %", "in 95 %", "accuracy")


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="[OUT]", help="Folder to create.")] = Path(
        "astroclip-demo"
    ),
    galaxies: Annotated[int, typer.Option(help="Number of mock galaxies (50 or more).")] = 500,
    seed: Annotated[
        int, typer.Option(help="Random seed of the mock sky; not 1, the sky that mini was trained on.")
    ] = 7,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name or directory of a model with a reference set.")
    ] = "mini",
    overwrite: Overwrite = False,
) -> None:
    """Run everything on mock galaxies in less than two minutes: commands, estimates and figures."""
    begin, typed = time.monotonic(), []
    from astroclip.demo import FIGURES, GALLERY, RESULT, demo_commands, read_estimates

    for words in demo_commands(folder, galaxies, seed, model, overwrite):
        typed.append(shlex.join(["astroclip", *words]))
        out.say(f"$ {typed[-1]}")
        with out.progress(words[0]):
            _run(context, words)
    estimates = read_estimates(folder)
    figures = sorted(folder.glob(f"{FIGURES}-*/*.png"))
    paths = {"table": folder / RESULT, "gallery": folder / GALLERY}
    if out.json:
        scores = [one._asdict() for one in estimates]
        out.result({**paths, "figures": figures, "galaxies": "mock", "estimates": scores, "commands": typed})
        return
    out.say(
        f"\nAll of it took {time.monotonic() - begin:.0f} s. Of mock galaxies that {model} has not seen:\n"
    )
    out.table(COLUMNS, [[*one[:2], f"{one.galaxies:,}", *map(_number, one[3:])] for one in estimates])
    out.say("")
    out.result({**paths, "figures": tuple(dict.fromkeys(figure.parent for figure in figures))})
    out.say("\nYour own catalogue, and what to read of it (docs/tutorial.md):")
    out.say(f"$ astroclip predict redshift CATALOG.fits --model {model} --images CUTOUTS --spectra COADDS")


def _run(context: typer.Context, words: list[str]) -> None:
    """Run a command of this program here, silently; errors are raised."""
    said = vars(out).copy()
    try:
        context.find_root().command.main(["--quiet", *words], "astroclip", standalone_mode=False)
    finally:
        vars(out).update(said)


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3f}"
