"""`astroclip search`: the galaxies of a table that are most similar to those named."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from astroclip.errors import UsageError

from .options import Dec, GalleryImages, GallerySpectra, Hdu, Overwrite, Ra
from .output import MANY
from .output import output as out

if TYPE_CHECKING:
    from astroclip.search import SearchReport


def search(
    catalog: Annotated[Path, typer.Argument(help="Table with embeddings, which is searched.")],
    targetid: Annotated[
        list[str] | None,
        typer.Option(
            help="Search for galaxies like the row with this TARGETID. Repeatable, as all such options."
        ),
    ] = None,
    row: Annotated[
        list[str] | None, typer.Option(help="Like the row with this number, counted from 0.")
    ] = None,
    radec: Annotated[
        list[str] | None,
        typer.Option(
            help="Like the row nearest to this position: '150.1 2.2' (degrees) or '10:00:24 +02:12:00'."
        ),
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="Like the image in this file; FILE:ROW in a table.")
    ] = None,
    spectrum: Annotated[
        list[str] | None,
        typer.Option(help="Like the spectrum in this coadd or spec file; FILE:ROW if it has several."),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(help="Any of these as KIND=VALUE: row=17, radec=150.1,2.2, image=FILE."),
    ] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="Unlike this galaxy, as KIND=VALUE.")] = None,
    source: Annotated[
        Literal["image", "spectrum"] | None,
        typer.Option("--from", help="Embedding of the examples that are rows of CATALOG. Default: image."),
    ] = None,
    target: Annotated[
        Literal["image", "spectrum", "both"] | None,
        typer.Option("--to", help="Embeddings to search among. Default: those of the examples."),
    ] = None,
    k: Annotated[int, typer.Option("-k", help="Number of galaxies to find.")] = 10,
    where: Annotated[
        str | None,
        typer.Option(help="Search only rows that satisfy this, for example 'Z < 0.3 & MAG_R < 19'."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns of CATALOG to keep in the output, such as 'RA,DEC,Z'. Default: all."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Output table. Default: CATALOG-search.fits; .parquet if CATALOG is Parquet.",
        ),
    ] = None,
    gallery: Annotated[
        Path | None, typer.Option(help="Draw the galaxies that are found: .png, .pdf or .html.")
    ] = None,
    images: GalleryImages = None,
    spectra: GallerySpectra = None,
    radius_arcsec: Annotated[float, typer.Option(help="Largest separation of a row from --radec.")] = 1.0,
    ra: Ra = None,
    dec: Dec = None,
    keep_examples: Annotated[
        bool, typer.Option("--keep-examples", help="Include the examples in the results.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Model to embed files with. Default: the model of CATALOG."),
    ] = None,
    device: Annotated[str, typer.Option(help="Device to embed files on: cpu, cuda, ..., or auto.")] = "auto",
    index: Annotated[Path | None, typer.Option(help="Index to search, made with --build-index.")] = None,
    build_index: Annotated[
        Path | None, typer.Option(help="Build an index of the embeddings --to, and do not search.")
    ] = None,
    hdu: Hdu = None,
    overwrite: Overwrite = False,
) -> None:
    """Find the galaxies in CATALOG that are most similar to the given ones, by image or spectrum."""
    from astroclip.search import Example, ExampleKind, index_catalog, parse_example, search_catalog

    named = {
        ExampleKind.TARGETID: targetid,
        ExampleKind.ROW: row,
        ExampleKind.RADEC: radec,
        ExampleKind.IMAGE: image,
    }
    named[ExampleKind.SPECTRUM] = spectrum
    examples = [Example(kind, value) for kind, values in named.items() for value in values or []]
    examples += [parse_example(text) for text in like or []]
    examples += [parse_example(text, like=False) for text in unlike or []]
    chosen: dict[str, Any] = {"target": target, "hdu": hdu, "overwrite": overwrite}
    with out.progress("Indexing" if build_index else "Searching") as progress:
        if build_index:
            if examples or index:
                raise UsageError("--build-index makes an index and does no search: leave the galaxies out")
            facts = index_catalog(catalog, build_index, **chosen, progress=progress)
            out.result({"index": build_index, "column": facts.column, "rows": facts.rows, "bad": facts.bad})
            return
        report = search_catalog(
            catalog, examples, output, **chosen, source=source, k=k, where=where,
            columns=[name.strip() for name in columns.split(",")] if columns else None,
            keep_examples=keep_examples, radius_arcsec=radius_arcsec, ra=ra, dec=dec, model=model,
            device=device, index=index,
            gallery=gallery, images=images, spectra=spectra, progress=progress,
        )  # fmt: skip
    _print(report, gallery)


def _print(report: "SearchReport", gallery: Path | None) -> None:
    """Print the best of what was found, and what became of the other rows."""
    found = {"row": report.rows, "cosine": report.similarity.round(4), **report.identity}
    names = ("rank", *found)
    rows = list(zip(range(1, report.found + 1), *(values.tolist() for values in found.values()), strict=True))
    facts = report._asdict()
    for name in ("rows", "similarity", "identity"):
        del facts[name]
    facts |= {"target": " and ".join(report.target)} | ({"gallery": gallery} if gallery else {})
    if out.json:
        out.result({**facts, "rows": [dict(zip(names, row, strict=True)) for row in rows]})
        return
    words = [[f"{value:.7g}" if isinstance(value, float) else value for value in row] for row in rows[:MANY]]
    out.table(names, words)
    out.say("")
    out.result({name: value for name, value in facts.items() if value != []})
