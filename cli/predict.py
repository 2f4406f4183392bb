"""`astroclip predict`: estimates as columns of the same table."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from astroclip.errors import UsageError

from .options import (
    Catalog,
    Dec,
    Device,
    Drop,
    Hdu,
    Images,
    KeepPixels,
    MatchRadius,
    MaxBad,
    Overwrite,
    Pixscale,
    Precision,
    Ra,
    Resample,
    Seed,
    Spectra,
    examples,
)
from .output import output as out

app = typer.Typer(
    no_args_is_help=True,
    epilog=examples("predict redshift galaxies.fits --images south", "predict morphology embedded.fits"),
)

TOLERANCES = ("max_bad", "radius_arcsec", "resample", "pixscale", "ra", "dec")  # of `InputOptions`
EMBEDDING = ("model", "images", "spectra", *TOLERANCES, "device", "precision", "keep_pixels")
Label = Annotated[
    str | None, typer.Option(help="Label column of the reference. Default: found by its usual names.")
]
OneLabel = Annotated[
    str, typer.Option(help="Label column of the reference to predict, numeric or categorical.")
]
Kind = Annotated[str, typer.Option(help="Kind of label: number, class or auto.")]
Pdf = Annotated[
    Path | None, typer.Option(help="HDF5 file for the probability densities, for the package qp.")
]


Templates = Annotated[
    Path | None,
    typer.Option(help="Folder of templates in Redrock's format, for --method template. Default: shipped."),
]
NOT_OF_TEMPLATES = {  # options that a fit of templates has no use for
    "reference": "--reference", "vector": "--vector", "k": "--neighbours", "predictor": "--predictor",
    "save_to": "--save-predictor", "label": "--label", "pdf": "--pdf",
}  # fmt: skip


def _options(
    catalog: Catalog,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output table. Default: CATALOG-TASK.fits; .parquet if CATALOG is Parquet.",
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Table with embeddings and labels, or a model. Default: the model's reference set."
        ),
    ] = None,
    use: Annotated[
        str, typer.Option("--from", help="Embeddings to predict from: image, spectrum, both or auto.")
    ] = "auto",
    vector: Annotated[
        str | None,
        typer.Option(help="Use this vector column, or these scalar columns 'G,R,Z', instead of embeddings."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="knn, mlp, flow, or auto: mlp from 30 labels on, else knn. Of redshifts also template: fit "
            "templates of galaxies, quasars and stars to the spectra, without a reference."
        ),
    ] = "auto",
    k: Annotated[
        int | None,
        typer.Option("--neighbours", "-k", help="Number of neighbours. Default: 64, as published."),
    ] = None,
    seed: Seed = 0,
    predictor: Annotated[
        Path | None, typer.Option(help="Directory of a fitted predictor, instead of --reference.")
    ] = None,
    save_to: Annotated[
        Path | None, typer.Option("--save-predictor", help="Directory to save the fitted predictor in.")
    ] = None,
    hdu: Hdu = None,
    keep_pixels: KeepPixels = False,
    drop: Drop = None,
    overwrite: Overwrite = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model to embed CATALOG with first. Default: mini.")
    ] = None,
    images: Images = None,
    spectra: Spectra = None,
    max_bad: MaxBad = 0.1,
    radius_arcsec: MatchRadius = 1.0,
    resample: Resample = False,
    pixscale: Pixscale = 0.262,
    ra: Ra = None,
    dec: Dec = None,
    device: Device = "auto",
    precision: Precision = "auto",
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
        values["drop"] = values["drop"] or []
        templates = values.pop("templates", None)
        if values["method"] == "template" and command.__name__ == "redshift":
            _fit_templates(templates, tolerances, given, values)
            return
        if templates is not None:
            raise UsageError("--templates needs --method template")
        embedding = {**given, "options": tolerances}
        with out.progress("Predicting") as progress:
            report = predict_catalog(task=command.__name__, embedding=embedding, progress=progress, **values)
        out.result(report._asdict())

    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in (*shared, *own.parameters.values())]
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def _fit_templates(
    templates: Path | None, options: Any, given: dict[str, Any], values: dict[str, Any]
) -> None:
    """Fit templates to the spectra of a catalogue."""
    from astroclip.predict.template_columns import predict_from_templates

    if unused := [name for key, name in NOT_OF_TEMPLATES.items() if values[key] is not None]:
        raise UsageError(f"--method template has no use for {', '.join(unused)}")
    if given["images"] is not None or values["use"] == "image":
        raise UsageError("--method template fits spectra: leave out --images and --from image")
    device = "cpu" if given["device"] == "auto" else given["device"]
    taken = {name: values[name] for name in ("catalog", "output", "hdu", "drop", "overwrite")}
    with out.progress("Fitting templates") as progress:
        report = predict_from_templates(
            **taken, spectra=given["spectra"], templates=templates, options=options, device=device,
            progress=progress,
        )  # fmt: skip
    out.result(report._asdict())


@app.command(
    epilog=examples(
        "predict redshift galaxies.fits --images south",
        "predict redshift coadd-main-dark-27247.fits --method template",
    )
)
@_task
def redshift(label: Label = None, pdf: Pdf = None, templates: Templates = None) -> None:
    """Predict redshifts with intervals of 68 and 95 %, or fit them with --method template."""


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
    """Predict morphology as the vote fractions of Galaxy Zoo DECaLS."""


@app.command(
    epilog=examples(
        "predict label embedded.fits --label IS_MERGER --reference classified.fits",
        "predict label embedded.fits --label MAG_J --kind number --reference near-infrared.fits",
    )
)
@_task
def label(label: OneLabel, kind: Kind = "auto", pdf: Pdf = None) -> None:
    """Predict any column of the reference, from as few as 10 labels."""
