"""The `astroclip` program: its global options, its verbs, and the way from an error to an exit code."""

import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from astroclip.errors import AstroclipError

from . import crossmatch, demo, embed, evaluate, inspect, mock, models, predict, search, train
from .options import examples
from .output import output

app = typer.Typer(
    name="astroclip",
    help="Galaxies in one embedding space: images and spectra to embeddings, redshifts and look-alikes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples("demo", "predict redshift galaxies.fits --images south"),
)
EXAMPLES: dict[Callable[..., None], tuple[str, str]] = {
    crossmatch.crossmatch: (
        "crossmatch zall-pix-iron.fits south -o pairs",
        "crossmatch a.hats b.hats -o match --no-pairs",
    ),
    demo.demo: ("demo", "demo small --galaxies 100"),
    embed.embed: (
        "embed galaxies.fits --images south",
        "embed galaxies.fits --spectra sparcl -m astroclip -o embedded.fits",
    ),
    inspect.inspect: ("inspect galaxies.fits", "inspect healpix --plot sample.png"),
    mock.mock: ("mock sky", "mock sky --galaxies 5000 --seed 3"),
    search.search: (
        "search embedded.fits --targetid 39627835576420141 --gallery found.html",
        "search embedded.fits --image cutout.fits --to spectrum -k 50 --where 'Z < 0.1'",
    ),
    train.train: (
        "train spectrum pairs.h5 -o specformer",
        "train clip pairs.h5 -o run -c mini-clip optim.lr=1e-3 --resume",
    ),
}
for command, calls in EXAMPLES.items():
    app.command(command.__name__, epilog=examples(*calls))(command)
app.add_typer(evaluate.app, name="evaluate", help="Score predictions and embeddings; the published table.")
app.add_typer(predict.app, name="predict", help="Predict redshifts, properties, morphology or any label.")
app.add_typer(models.app, name="models", help="List, make, fetch, convert and describe models.")

GLOBAL_FLAGS = ("-q", "--quiet", "-v", "--verbose", "--json")


def _print_version(wanted: bool) -> None:
    if wanted:
        from astroclip.schema import VERSION

        sys.stdout.write(f"astroclip {VERSION}\n")
        raise typer.Exit


@app.callback()
def _global_options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more (-vv: debug).")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    output.quiet, output.verbose, output.json = quiet, verbose, json
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", force=True)
    logging.getLogger("astroclip").setLevel(logging.ERROR if quiet else level)
    # before torch is loaded: threads that wait leave their core to those that work, on a busy machine too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _hoist(argv: list[str]) -> list[str]:
    """Move the global flags to the front, so that they work before and after the verb."""
    cut = argv.index("--") if "--" in argv else len(argv)
    front = [a for a in argv[:cut] if a in GLOBAL_FLAGS]
    return front + [a for a in argv[:cut] if a not in GLOBAL_FLAGS] + argv[cut:]


def main(words: list[str] | None = None) -> None:
    """Run the program and exit: 0 ok, 1 bug, 2 usage, 3 data, 4 config, 5 checkpoint, 130 interrupted."""
    try:
        app(_hoist(sys.argv[1:] if words is None else words), prog_name="astroclip")
    except AstroclipError as error:
        output.error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def image_trainer() -> None:
    """Run ``astroclip train image`` under the name it has in the published code."""
    main(["train", "image", *sys.argv[1:]])


def spectrum_trainer() -> None:
    """Run ``astroclip train spectrum`` under the name it has in the published code, with or without fit."""
    words = sys.argv[1:]
    main(["train", "spectrum", *(words[1:] if words[:1] == ["fit"] else words)])


if __name__ == "__main__":
    main()
