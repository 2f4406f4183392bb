"""`astroclip embed`: the same table, with embedding columns."""

from pathlib import Path
from typing import Annotated

import typer

from .output import output as out


def embed(
    catalog: Annotated[
        Path, typer.Argument(help="FITS, Parquet or CSV table; a DESI coadd or SDSS spec file.")
    ],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Name or directory of a model.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="FITS or Parquet. Default: CATALOG-embedded.fits.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Vector column; file or folder of images (FITS, HDF5 of Stein et al. or Multimodal "
            "Universe); ls-dr9, ls-dr9-north, ls-dr9-south or ls-dr10: fetch cut-outs. Default: IMAGE."
        ),
    ] = None,
    spectra: Annotated[
        str | None,
        typer.Option(
            help="Vector column; file or folder of spectra (DESI coadds, SDSS spec files, HDF5 of Multimodal "
            "Universe); sparcl or sparcl:DESI-EDR: fetch spectra by TARGETID. Default: FLUX."
        ),
    ] = None,
    hdu: Annotated[str | None, typer.Option(help="Name or number of the table's HDU.")] = None,
    max_bad: Annotated[
        float, typer.Option(help="Fraction of bad pixels above which a row is flagged.")
    ] = 0.1,
    radius_arcsec: Annotated[float, typer.Option(help="Match cut-outs to positions within this.")] = 1.0,
    resample: Annotated[
        bool, typer.Option("--resample", help="Resample images at another pixel scale to 0.262.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto: every GPU there is.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 on a GPU that has it.")] = "auto",
    batch_size: Annotated[str, typer.Option(help="Galaxies a forward pass, or auto.")] = "auto",
    shard: Annotated[int | None, typer.Option(help="Write only this part of the rows, from 0.")] = None,
    shards: Annotated[int | None, typer.Option(help="Number of parts.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Put finished shards of -o together.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")] = False,
) -> None:
    """Embed the galaxies of CATALOG: the same rows, with embedding columns and a flag."""
    from astroclip.embed import embed_catalog, merge_embedded
    from astroclip.sources import SourceOptions

    if merge:
        out.result({"output": merge_embedded(catalog, output, shards, overwrite=overwrite)})
        return
    with out.progress("Embedding") as progress:
        report = embed_catalog(
            catalog,
            output,
            model=model,
            images=images,
            spectra=spectra,
            hdu=hdu,
            options=SourceOptions(max_bad, radius_arcsec, resample),
            device=device,
            precision=precision,
            batch_size=batch_size,
            shard=None if shard is None and shards is None else (shard, shards),
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
    out.result(report._asdict())
