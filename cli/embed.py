"""`astroclip embed`: the same table, with embedding columns."""

from pathlib import Path
from typing import Annotated, Any

import typer

from astroclip.errors import UsageError

from .options import Dec, Ra
from .output import output as out
from .slurm import SlurmRequest, submit, takes_slurm


@takes_slurm
def embed(
    catalog: Annotated[
        Path, typer.Argument(help="FITS, Parquet or CSV table; a DESI coadd or SDSS spec file.")
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Name or directory of a model.")] = "mini",
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
    ra: Ra = None,
    dec: Dec = None,
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
    array: Annotated[
        int | None, typer.Option(help="As so many jobs, and one that merges.", rich_help_panel="Slurm")
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Of each job.", rich_help_panel="Slurm")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output if it exists.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a killed run stopped.")] = False,
    slurm: SlurmRequest | None = None,
) -> None:
    """Embed the galaxies of CATALOG: the same rows, with embedding columns and a flag."""
    if merge:
        _merge(catalog, output, shards, overwrite)
        return
    part = None if shard is None and shards is None else (shard, shards)
    run = {
        "catalog": catalog, "output": output, "model": model, "images": images, "spectra": spectra,
        "hdu": hdu, "device": device, "precision": precision, "batch_size": batch_size, "shard": part,
        "overwrite": overwrite, "resume": resume,
        "options": {
            "max_bad": max_bad, "radius_arcsec": radius_arcsec, "resample": resample, "ra": ra, "dec": dec,
        },
    }  # fmt: skip
    if slurm:
        _submit(slurm, run, array, gpus)
    elif array or gpus:
        raise UsageError(f"{'--array' if array else '--gpus'} needs --slurm")
    else:
        _embed(**run)


def _embed(**run: Any) -> None:
    """Embed a catalogue, or a part of it."""
    from astroclip.model.inputs import InputOptions
    from astroclip.predict.embed import embed_catalog

    run["options"] = InputOptions(**run["options"])
    with out.progress("Embedding") as progress:
        report = embed_catalog(**run, progress=progress)
    out.caution(run["model"])
    out.result(report._asdict())


def _merge(catalog: Path, output: Path | None, shards: int | None, overwrite: bool) -> None:
    """Put parts together."""
    from astroclip.predict.embed import merge_embedded

    out.result({"output": merge_embedded(catalog, output, shards, overwrite=overwrite)})


def _submit(slurm: SlurmRequest, run: dict[str, Any], array: int | None, gpus: int | None) -> None:
    """Embed in a job, or in an array of jobs and a last one that merges; what is wrong is said beforehand."""
    from astroclip.model.inputs import InputOptions
    from astroclip.predict.embed import embed_catalog, missing_shards

    if array is not None and run["shard"]:
        raise UsageError("--array makes the shards itself: leave out --shard and --shards")
    # the machine it is submitted from may have no GPU
    elsewhere = {"options": InputOptions(**run["options"]), "device": "cpu", "dry_run": True}
    whole = embed_catalog(**run | elsewhere).output
    calls, then = [run], None
    if array is not None:
        same = {"catalog": run["catalog"], "output": whole, "overwrite": run["overwrite"]}
        calls = [
            {**run, "shard": shard} for shard in missing_shards(whole, array, run["overwrite"], run["resume"])
        ]
        then = _merge, {**same, "shards": array}
    folder = whole.with_name(f"{whole.stem}.slurm")
    again = {"resume": True}
    submit(slurm, _embed, calls, again=again, folder=folder, name="astroclip-embed", gpus=gpus, then=then)
