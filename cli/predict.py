"""`astroclip predict`: estimates as columns of the same table."""

from pathlib import Path
from typing import Annotated

import typer

from .output import output as out

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _predict() -> None:
    """Keep `redshift` a sub-command while it is the only one."""


@app.command()
def redshift(
    catalog: Annotated[Path, typer.Argument(help="Table with embeddings or another vector column.")],
    reference: Annotated[Path, typer.Option(help="Table with the same vectors and known redshifts.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="FITS or Parquet. Default: CATALOG-redshift.fits.")
    ] = None,
    vector: Annotated[
        str | None, typer.Option(help="Vector column, or scalar columns 'G,R,Z'. Default: the embeddings.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Redshift column of the reference. Default: guessed.")
    ] = None,
    neighbours: Annotated[int, typer.Option("--neighbours", "-k", help="Number of neighbours.")] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
) -> None:
    """Estimate redshifts from the nearest neighbours in a reference table."""
    from astroclip.predict.tasks import predict_redshift

    with out.progress("Predicting") as progress:
        report = predict_redshift(
            catalog,
            reference,
            output,
            vector=vector,
            label=label,
            k=neighbours,
            overwrite=overwrite,
            progress=progress,
        )
    out.result(report._asdict())
