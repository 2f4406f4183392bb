"""`astroclip predict`: estimates as columns of the same table."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Dec, Ra, examples
from .output import output as out

app = typer.Typer(no_args_is_help=True)

TOLERANCES = ("max_bad", "radius_arcsec", "resample", "ra", "dec")  # of `InputOptions`
EMBEDDING = ("model", "images", "spectra", *TOLERANCES, "device", "precision")
Label = Annotated[str | None, typer.Option(help="Column of the reference. Default: guessed.")]
OneLabel = Annotated[str, typer.Option(help="Column of the reference to predict: numbers or classes.")]
Kind = Annotated[str, typer.Option(help="number, class or auto.")]
Pdf = Annotated[Path | None, typer.Option(help="HDF5 file for the densities, as the package qp reads it.")]


def _options(
    catalog: Annotated[Path, typer.Argument(help="Table with embeddings, or with what can be embedded.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="FITS or Parquet. Default: CATALOG-TASK.fits.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Table with embeddings and labels, or a model. Default: the model's own."),
    ] = None,
    use: Annotated[str, typer.Option("--from", help="image, spectrum, both or auto.")] = "auto",
    vector: Annotated[
        str | None, typer.Option(help="Vector column, or scalar columns 'G,R,Z', instead of embeddings.")
    ] = None,
    method: Annotated[str, typer.Option(help="knn, mlp, flow or auto: mlp from 30 labels on.")] = "auto",
    k: Annotated[
        int | None, typer.Option("--neighbours", "-k", help="Number of neighbours. Default: 64 as published.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn in training.")] = 0,
    predictor: Annotated[Path | None, typer.Option(help="Directory of a fitted predictor.")] = None,
    save_to: Annotated[
        Path | None, typer.Option("--save-predictor", help="Directory to keep the fitted predictor in.")
    ] = None,
    hdu: Annotated[str | None, typer.Option(help="Name or number of the table's HDU.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Embed with it first. Default: mini.", rich_help_panel="Embedding"
        ),
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="As of astroclip embed.", rich_help_panel="Embedding")
    ] = None,
    spectra: Annotated[
        str | None, typer.Option(help="As of astroclip embed.", rich_help_panel="Embedding")
    ] = None,
    max_bad: Annotated[float, typer.Option(help="As of astroclip embed.", rich_help_panel="Embedding")] = 0.1,
    radius_arcsec: Annotated[
        float, typer.Option(help="As of astroclip embed.", rich_help_panel="Embedding")
    ] = 1.0,
    resample: Annotated[
        bool, typer.Option("--resample", help="As of astroclip embed.", rich_help_panel="Embedding")
    ] = False,
    ra: Ra = None,
    dec: Dec = None,
    device: Annotated[str, typer.Option(help="As of astroclip embed.", rich_help_panel="Embedding")] = "auto",
    precision: Annotated[
        str, typer.Option(help="As of astroclip embed.", rich_help_panel="Embedding")
    ] = "auto",
) -> None:
    """Take the options that all tasks share."""


def _task(command: Callable[..., None]) -> Callable[..., None]:
    """Give a task's command the shared options too, and run it with all of them."""
    own = inspect.signature(command)
    shared = inspect.signature(_options).parameters.values()

    @wraps(command)
    def run(**values: Any) -> None:
        from astroclip.model.inputs import InputOptions
        from astroclip.predict.tasks import predict_catalog

        given = {name: values.pop(name) for name in EMBEDDING}
        tolerances = InputOptions(**{name: given.pop(name) for name in TOLERANCES})
        embedding = {**given, "options": tolerances}
        with out.progress("Predicting") as progress:
            report = predict_catalog(task=command.__name__, embedding=embedding, progress=progress, **values)
        out.result(report._asdict())

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*shared, *own.parameters.values())]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


@app.command(
    epilog=examples(
        "predict redshift galaxies.fits --images south",
        "predict redshift embedded.fits --reference labelled.fits --from both",
    )
)
@_task
def redshift(label: Label = None, pdf: Pdf = None) -> None:
    """Predict redshifts with their intervals."""


@app.command(
    epilog=examples(
        "predict properties embedded.fits",
        "predict properties embedded.fits --reference provabgs.fits --method flow",
    )
)
@_task
def properties() -> None:
    """Predict stellar mass, metallicity, age and specific star-formation rate."""


@app.command(
    epilog=examples(
        "predict morphology embedded.fits --from image", "predict morphology embedded.fits --method knn -k 32"
    )
)
@_task
def morphology() -> None:
    """Predict the votes of Galaxy Zoo DECaLS."""


@app.command(
    epilog=examples(
        "predict label embedded.fits --label IS_MERGER --reference classified.fits",
        "predict label embedded.fits --label MAG_J --kind number --reference near-infrared.fits",
    )
)
@_task
def label(label: OneLabel, kind: Kind = "auto", pdf: Pdf = None) -> None:
    """Predict any column of the reference, from as few as 10 labels."""
