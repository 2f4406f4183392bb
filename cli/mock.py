"""``astroclip mock``: a small sky with known truth, in the surveys' own file formats."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .output import output as out


def mock(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    galaxies: Annotated[int, typer.Option(help="Galaxies that DESI targets, at least 50.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files, bit for bit.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; default: all cores.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a mock that is there.")] = False,
) -> None:
    """Write a mock survey: DESI coadds and catalogue, Legacy Survey cut-outs, labels, and truth.fits."""
    from astroclip.mock.survey import make_mock

    with out.progress("Galaxies and spectra") as report:
        counts = make_mock(
            folder, galaxies, seed, workers=workers or os.cpu_count() or 1, overwrite=overwrite, report=report
        )
    out.result({"mock": str(folder), **{f"{name} rows": n for name, n in counts.items()}})
