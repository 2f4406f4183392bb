"""`astroclip embed`: the same table, with embedding columns."""

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
    Model,
    Overwrite,
    Pixscale,
    Precision,
    Ra,
    Resample,
    Resume,
    Spectra,
)
from .output import output as out
from .slurm import SlurmRequest, submit, takes_slurm


@takes_slurm
def embed(
    catalog: Catalog,
    model: Model = "mini",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output table. Default: CATALOG-embedded.fits; .parquet if CATALOG is Parquet.",
        ),
    ] = None,
    images: Images = None,
    spectra: Spectra = None,
    hdu: Hdu = None,
    ra: Ra = None,
    dec: Dec = None,
    max_bad: MaxBad = 0.1,
    radius_arcsec: MatchRadius = 1.0,
    resample: Resample = False,
    pixscale: Pixscale = 0.262,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: Annotated[str, typer.Option(help="Number of galaxies in a forward pass, or auto.")] = "auto",
    shard: Annotated[
        int | None, typer.Option(help="Embed only this shard of the rows, counted from 0; needs --shards.")
    ] = None,
    shards: Annotated[int | None, typer.Option(help="Number of shards.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Combine the finished shards of the output into one table.")
    ] = False,
    array: Annotated[
        int | None,
        typer.Option(
            help="Number of Slurm jobs, each with a shard; a last one merges.", rich_help_panel="Slurm"
        ),
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(help="Number of GPUs of each job.", rich_help_panel="Slurm")
    ] = None,
    keep_pixels: KeepPixels = False,
    drop: Drop = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    slurm: SlurmRequest | None = None,
) -> None:
    """Embed the galaxies in CATALOG: the same rows, with embedding columns and a flag."""
    if merge:
        _merge(catalog, output, shards, overwrite)
        return
    part = None if shard is None and shards is None else (shard, shards)
    run = {
        "catalog": catalog, "output": output, "model": model, "images": images, "spectra": spectra,
        "hdu": hdu, "device": device, "precision": precision, "batch_size": batch_size, "shard": part,
        "keep_pixels": keep_pixels, "drop": drop or [], "overwrite": overwrite, "resume": resume,
        "options": {
            "max_bad": max_bad, "radius_arcsec": radius_arcsec, "resample": resample,
            "pixscale": pixscale, "ra": ra, "dec": dec,
        },
    }  # fmt: skip
    if slurm:
        _submit(slurm, run, array, gpus)
    elif array or gpus:
        raise UsageError(f"{'--array' if array else '--gpus'} needs --slurm")
    else:
        _embed(**run)


def _embed(**run: Any) -> None:
    """Embed a catalogue, or one shard of it."""
    from astroclip.model.inputs import InputOptions
    from astroclip.predict.embed import embed_catalog

    run["options"] = InputOptions(**run["options"])
    with out.progress("Embedding") as progress:
        report = embed_catalog(**run, progress=progress)
    out.caution(run["model"])
    out.result(report._asdict())


def _merge(catalog: list[Path], output: Path | None, shards: int | None, overwrite: bool) -> None:
    """Combine shards."""
    from astroclip.predict.embed_shards import merge_embedded

    out.result({"output": merge_embedded(catalog, output, shards, overwrite=overwrite)})


def _submit(slurm: SlurmRequest, run: dict[str, Any], array: int | None, gpus: int | None) -> None:
    """Embed in a job, or in an array of jobs and a last one that merges; what is wrong is said beforehand."""
    from astroclip.model.inputs import InputOptions
    from astroclip.predict.embed import embed_catalog
    from astroclip.predict.embed_shards import missing_shards

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
