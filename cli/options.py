"""Options that several commands have, and the examples at the end of a command's help."""

from pathlib import Path
from typing import Annotated

import typer

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Drop = Annotated[
    list[str] | None,
    typer.Option("--drop", help="Leave this column out of the output, e.g. if its format cannot hold it."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue where a killed run stopped.")]
Hdu = Annotated[str | None, typer.Option(help="HDU of the table, by name or number.")]
Ra = Annotated[
    str | None, typer.Option("--ra", help="Column of right ascension. Default: found by its usual names.")
]
Dec = Annotated[
    str | None, typer.Option("--dec", help="Column of declination. Default: found by its usual names.")
]
Seed = Annotated[int, typer.Option(help="Random seed: the same seed gives the same result.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Name or directory of a model.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: the GPUs if there are any, else the CPU.")
]
Precision = Annotated[
    str, typer.Option(help="fp32, bf16, or auto: bf16 on a GPU that supports it, else fp32.")
]
MaxBad = Annotated[float, typer.Option(help="Flag rows with a larger fraction of bad pixels than this.")]
MatchRadius = Annotated[
    float,
    typer.Option("--radius-arcsec", help="Largest separation of images and spectra from a row's position."),
]
Resample = Annotated[
    bool, typer.Option("--resample", help="Resample images at another pixel scale to 0.262 arcsec/px.")
]
Pixscale = Annotated[
    float,
    typer.Option(help="Pixel scale in arcsec/px of images that do not state theirs, such as PNG and JPEG."),
]
Images = Annotated[
    str | None,
    typer.Option(
        help="Image source: a vector column; a file or folder of images (FITS, PNG or JPEG of the viewer, "
        "HDF5 of Stein et al. or Multimodal Universe); ls-dr9, ls-dr9-north, ls-dr9-south or ls-dr10 to "
        "fetch cut-outs. Default: column IMAGE."
    ),
]
Spectra = Annotated[
    str | None,
    typer.Option(
        help="Spectrum source: a column of fluxes or a nested column; a file or folder of spectra (DESI "
        "coadds or spectra, SDSS spec files, HDF5 of Multimodal Universe, pairs); sparcl or sparcl:DESI-EDR "
        "to fetch spectra by TARGETID. Default: the spectra in the table itself, column FLUX."
    ),
]
Catalog = Annotated[
    list[Path],
    typer.Argument(
        metavar="CATALOG...",
        help="Table of galaxies; or files and folders with their pixels, of which a table is made: DESI "
        "coadds, SDSS spectra, cut-outs, pairs.",
        show_default=False,
    ),
]
KeepPixels = Annotated[
    bool,
    typer.Option("--keep-pixels", help="Copy a coadd, or an SDSS spectrum, whole with its pixels."),
]
GalleryImages = Annotated[
    str | None,
    typer.Option("--images", help="Image source of the gallery (same values as `embed --images`)."),
]
GallerySpectra = Annotated[
    str | None,
    typer.Option("--spectra", help="Spectrum source of the gallery (same values as `embed --spectra`)."),
]
ResultFolder = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the results; created if it does not exist.")
]


def examples(*calls: str) -> str:
    """Return what stands at the end of a command's help: calls as one would type them."""
    return "\n\n".join(["Examples:", *(f"$ astroclip {call}" for call in calls)])
