"""``astroclip mock``: a small sky with known truth, in the surveys' own file formats."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .options import Overwrite, Seed
from .output import output as out


def mock(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create.")],
    galaxies: Annotated[int, typer.Option(help="Number of galaxies that DESI targets (50 or more).")] = 1000,
    seed: Seed = 0,
    disturbed: Annotated[
        bool,
        typer.Option(
            "--disturbed",
            help="Add what real spectra have besides noise, and quasars, stars and blank fibres as targets.",
        ),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(help="Number of processes. Default: one for each core.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a mock survey: DESI coadds and catalogue, Legacy Survey cut-outs, labels, and the truth."""
    from astroclip.mock.survey import make_mock

    with out.progress("Galaxies and spectra") as report:
        counts = make_mock(
            folder,
            galaxies,
            seed,
            disturbed=disturbed,
            workers=workers or os.cpu_count() or 1,
            overwrite=overwrite,
            report=report,
        )
    out.result({"mock": str(folder), **{f"{name} rows": n for name, n in counts.items()}})
