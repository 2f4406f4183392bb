"""`astroclip search`: the galaxies of a table that are most similar to those named."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from astroclip.errors import UsageError

from .output import MANY
from .output import output as out

if TYPE_CHECKING:
    from astroclip.search import SearchReport


class ExampleEmbedding(StrEnum):
    """Which embedding of an example in the table."""

    IMAGE = "image"
    SPECTRUM = "spectrum"


class SearchedEmbedding(StrEnum):
    """Which embeddings are searched."""

    IMAGE = "image"
    SPECTRUM = "spectrum"
    BOTH = "both"


def search(
    catalog: Annotated[Path, typer.Argument(help="Table with embeddings: the set that is searched.")],
    targetid: Annotated[list[str] | None, typer.Option(help="Like the row with this TARGETID.")] = None,
    row: Annotated[list[str] | None, typer.Option(help="Like this row, from 0.")] = None,
    radec: Annotated[
        list[str] | None, typer.Option(help="Like the row nearest to 'RA DEC', degrees.")
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="Like the cut-out in this file; FILE:ROW of a table.")
    ] = None,
    spectrum: Annotated[
        list[str] | None, typer.Option(help="Like the spectrum in this coadd or spec file; FILE:ROW of many.")
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(help="The same as KIND=VALUE: row=17, radec=150.1,2.2, image=FILE.")
    ] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="And not like this one, KIND=VALUE.")] = None,
    source: Annotated[
        ExampleEmbedding | None,
        typer.Option("--from", help="Embedding of examples in CATALOG. Default: image."),
    ] = None,
    target: Annotated[
        SearchedEmbedding | None, typer.Option("--to", help="Embeddings searched. Default: as the examples.")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many to find.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="Only rows such as 'Z < 0.3 & MAG_R < 19'; also | ~ ( ) == !=.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="Of CATALOG in the output, 'A,B'. Default: all.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="FITS or Parquet. Default: CATALOG-search.fits.")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="Draw what is found: .png, .pdf or .html.")] = None,
    images: Annotated[str | None, typer.Option(help="Pixels of the gallery, as in embed.")] = None,
    spectra: Annotated[str | None, typer.Option(help="Pixels of the gallery, as in embed.")] = None,
    radius_arcsec: Annotated[float, typer.Option(help="How far the row of --radec may be.")] = 1.0,
    keep_examples: Annotated[
        bool, typer.Option("--keep-examples", help="Find the examples themselves, too.")
    ] = False,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="To embed files with. Default: that of CATALOG.")
    ] = None,
    device: Annotated[str, typer.Option(help="To embed files on: cpu, cuda, ...; or auto.")] = "auto",
    index: Annotated[Path | None, typer.Option(help="Use this index, made by --build-index.")] = None,
    build_index: Annotated[
        Path | None, typer.Option(help="Make an index of the column --to, and no search.")
    ] = None,
    hdu: Annotated[str | None, typer.Option(help="Name or number of the table's HDU.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
) -> None:
    """Find the galaxies of CATALOG most similar to those named, by image or spectrum."""
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
    chosen: dict[str, Any] = {"target": target and target.value, "hdu": hdu, "overwrite": overwrite}
    with out.progress("Indexing" if build_index else "Searching") as progress:
        if build_index:
            if examples or index:
                raise UsageError("--build-index makes an index and does no search: leave the galaxies out")
            facts = index_catalog(catalog, build_index, **chosen, progress=progress)
            out.result({"index": build_index, "column": facts.column, "rows": facts.rows, "bad": facts.bad})
            return
        report = search_catalog(
            catalog, examples, output, **chosen, source=source and source.value, k=k, where=where,
            columns=[name.strip() for name in columns.split(",")] if columns else None,
            keep_examples=keep_examples, radius_arcsec=radius_arcsec, model=model, device=device, index=index,
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
