"""`astroclip crossmatch`: who is who in two surveys, and the paired data set."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Drop, Overwrite, Resume, Seed
from .output import output as out


def crossmatch(
    spectra: Annotated[Path, typer.Argument(help="DESI zcatalog, or any table with positions, HATS too.")],
    images: Annotated[
        Path,
        typer.Argument(help="Stein et al. files, cut-outs, or tables with positions: file, folder or HATS."),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Name of the outputs: OUT.fits (matches) and OUT.h5 (pairs). With OUT.parquet, OUT.csv, "
            "... the matches have that format.",
        ),
    ],
    coadds: Annotated[
        Path | None, typer.Option(help="Folder of coadds. Default: ../healpix beside the zcatalog.")
    ] = None,
    cut: Annotated[
        Literal["galaxy", "original", "none"] | None,
        typer.Option(help="Quality cut. Default: galaxy for a zcatalog, else none."),
    ] = None,
    radius_arcsec: Annotated[float, typer.Option(help="Largest separation of a match by position.")] = 1.0,
    find: Annotated[
        Literal["best", "all"],
        typer.Option(help="Keep mutual best matches, or all matches within the radius."),
    ] = "best",
    join: Annotated[
        Literal["inner", "left"], typer.Option(help="Keep rows that have an image, or all rows of SPECTRA.")
    ] = "inner",
    ra: Annotated[str | None, typer.Option(help="RA column of SPECTRA. Default: guessed.")] = None,
    dec: Annotated[str | None, typer.Option(help="Dec column of SPECTRA.")] = None,
    image_ra: Annotated[str | None, typer.Option(help="RA column of IMAGES, if it is a table.")] = None,
    image_dec: Annotated[str | None, typer.Option(help="Dec column of IMAGES.")] = None,
    epoch: Annotated[float, typer.Option(help="Year of the images' positions, for proper motion.")] = 2016.0,
    labels: Annotated[
        list[Path] | None,
        typer.Option(help="Table of labels, or FILE#HDU, joined by TARGETID or position. Repeatable."),
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="Table for the rows that are in no pair, with the reason.")
    ] = None,
    no_pairs: Annotated[bool, typer.Option("--no-pairs", help="Write only the match table.")] = False,
    fractions: Annotated[
        tuple[float, float, float],
        typer.Option(help="Fractions of the sky for the training, validation and test sets."),
    ] = (0.8, 0.1, 0.1),
    seed: Seed = 0,
    engine: Annotated[
        Literal["memory", "lsdb"], typer.Option(help="Match in memory, or with LSDB and Dask.")
    ] = "memory",
    cluster: Annotated[
        str | None, typer.Option(help="Address of the Dask scheduler for --engine lsdb.")
    ] = None,
    drop: Drop = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done without writing anything.")
    ] = False,
) -> None:
    """Match SPECTRA with IMAGES: a match table, and the paired data set of what has both."""
    from astroclip.crossmatch.build import build_pairs
    from astroclip.crossmatch.plan import CrossmatchSettings
    from astroclip.data.pairs import SplitSettings

    split = SplitSettings(fractions, seed=seed)
    settings = CrossmatchSettings(
        cut, radius_arcsec, find, join, epoch, split,
        ra, dec, image_ra, image_dec, engine, cluster,
    )  # fmt: skip
    with out.progress("Crossmatching") as progress:
        report = build_pairs(
            spectra, images, output, coadds=coadds, labels=labels or [], rejects=rejects, pairs=not no_pairs,
            settings=settings, drop=drop or [], overwrite=overwrite, resume=resume, dry_run=dry_run,
            progress=progress,
        )  # fmt: skip
    out.result(report._asdict())
