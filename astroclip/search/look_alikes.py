"""Search a table of embeddings: from what is asked for to the table of what was found."""

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import UsageError
from astroclip.files import check_outputs
from astroclip.model.embedder import Embedder, load_model
from astroclip.plots import check_gallery, plot_gallery
from astroclip.predict.embed import COLUMN
from astroclip.search.examples import Example
from astroclip.search.found import choose_columns, identity_columns, write_found
from astroclip.search.index import IndexFacts, VectorIndex, build_index, model_of, open_index
from astroclip.search.lookalike_gallery import GALLERY_SIZE, describe_galaxies
from astroclip.search.query import build_query, choose_modalities
from astroclip.search.query_pixels import PixelPlaces, check_pixels
from astroclip.search.scan import SPARE, Progress, Shortlist, rank, read_rows, scan
from astroclip.tables import Table, open_table
from astroclip.tables.outputs import default_output, output_format
from astroclip.tables.where import Where

WIDER = 8  # with a condition the index is asked for so many times more rows, again and again


class SearchReport(NamedTuple):
    """What a search found.

    Attributes
    ----------
    output
        The table of those found.
    found
        How many: k, unless fewer rows were left to be compared.
    searched, excluded, bad
        Rows compared; left out by the condition or as examples; left out for a missing embedding. With an
        index `searched` counts the rows in it, and `excluded` those it proposed in vain.
    source, target
        Modality that examples in the table were taken from, and those that were searched.
    rows, similarity
        Rows of the table searched, from 0, and cosines; most similar first.
    identity
        TARGETID, position and redshift of those rows, by column, where the table has them.
    left_out
        Columns of variable length, which the output does not have.
    """

    output: Path
    found: int
    searched: int
    excluded: int
    bad: int
    source: str
    target: tuple[str, ...]
    rows: NDArray[np.int64]
    similarity: NDArray[np.float64]
    identity: dict[str, NDArray[Any]]
    left_out: list[str]


def search_catalog(
    catalog: str | Path,
    examples: Sequence[Example],
    output: str | Path | None = None,
    *,
    source: str | None = None,
    target: str | None = None,
    k: int = 10,
    where: str | None = None,
    columns: Sequence[str] | None = None,
    keep_examples: bool = False,
    radius_arcsec: float = 1.0,
    ra: str | None = None,
    dec: str | None = None,
    model: str | Path | Embedder | None = None,
    device: str = "auto",
    index: str | Path | None = None,
    gallery: str | Path | None = None,
    images: str | None = None,
    spectra: str | None = None,
    hdu: str | int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> SearchReport:
    """Find the galaxies of a table whose embeddings are most similar to those of examples.

    The similarity is the cosine to the mean of the examples that the found ones shall be like, minus the mean
    of those that they shall be unlike, each normalised before (a vector shorter than 1e-3 is divided by 1e-3,
    as in the model). All rows are compared, exactly, in memory that does not grow with them; or an index
    proposes candidates, which are ordered by their exact cosines. Rows whose embedding is missing are skipped
    and counted. Equal cosines: the first row of the table first. Source: Parker et al. 2024.

    Parameters
    ----------
    catalog
        Table with embeddings, as from `embed_catalog`.
    examples
        At least one to be like.
    output
        FITS or Parquet file, by default ``<catalog>-search.fits``: RANK, SIMILARITY and CATALOG_ROW (schema's
        `SEARCH_COLUMNS`), then the columns of the rows found.
    source
        ``image`` or ``spectrum``: which embedding of examples in the table.
    target
        ``image``, ``spectrum``, or ``both``: the mean of the two cosines, of rows that have both. By
        default what the examples are, if the table has it. Across modalities: needs one model of both.
    k
        How many.
    where
        Only rows that fulfil this, as in ``Z < 0.3 & MAG_R < 19``; see `catalog.where`.
    columns
        Of the table, by default all; those of variable length are left out.
    keep_examples
        Also find the examples themselves; by default not in the column that they were taken from.
    radius_arcsec
        How far the row of a position may be from it.
    ra, dec
        Names of the table's position columns, if they are not usual ones.
    model, device
        To embed files with, as in `load_model`; by default the one that the table names.
    index
        File made by `build_index`.
    gallery
        Draw what was found: .png, .pdf or .html.
    images, spectra
        Where the gallery's pixels are, as in `embed_catalog`.

    Raises
    ------
    UsageError, DataError, CheckpointError
        Before anything is written, if the examples, the table, the model and the index do not fit.
    """
    path = Path(catalog)
    output = Path(output) if output else default_output(path, "search")
    if k < 1:
        raise UsageError(f"{k} galaxies to find: expected at least 1")
    output_format(output)
    files = [example.value for example in examples if example.is_file]
    check_outputs([output, gallery], [path, index, images, spectra, *files], overwrite)
    pixels = PixelPlaces(images, spectra, ra, dec)
    if gallery:
        check_gallery(gallery, overwrite)
    with open_table(path, hdu=hdu, scratch=output.parent) as table:
        chosen = choose_modalities(table, examples, source, target)
        searched = [table.column(COLUMN[modality]).name for modality in chosen.target]
        condition = Where(where, table) if where else None
        kept, left_out = choose_columns(table, columns)
        if gallery:
            check_pixels(table, pixels, GALLERY_SIZE)
        graph = _open_index(index, table, searched)
        load = cache(partial(_load, table, model, device))
        query = build_query(table, examples, chosen, load, radius_arcsec, ra, dec)
        same = chosen.source in chosen.target and not keep_examples
        leave_out = [row for row in query.rows if row is not None] if same else []
        if graph:
            near = _ask_index(graph, table, query.vector, k, condition, leave_out)
        else:
            near = scan(table, searched, query.vector, k + SPARE, condition, leave_out, progress=progress)
        rows, cosine = rank(table, searched, query.vector, near, k)
        named = [str(example) for example in examples]
        settings = {
            "examples": named, "from": chosen.source, "to": chosen.target, "k": k, "where": where,
            "index": index and str(index),
        }  # fmt: skip
        write_found(table, output, kept, rows, cosine, near.counts, settings, overwrite=overwrite)
        if gallery:
            shown = describe_galaxies(table, examples, query.rows, rows, cosine, pixels)
            plot_gallery(shown, gallery, title=f"{path.name}: {', '.join(named)}", overwrite=overwrite)
        identity = read_rows(table, identity_columns(table), rows)
        return SearchReport(output, len(rows), *near.counts, *chosen, rows, cosine, identity, left_out)


def index_catalog(
    catalog: str | Path,
    path: str | Path,
    *,
    target: str | None = None,
    hdu: str | int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IndexFacts:
    """Make the index ``path`` of a table's embeddings, for `search_catalog`; see `search.index.build_index`.

    Parameters
    ----------
    target
        ``image`` or ``spectrum``; by default images, if the table has both.

    Raises
    ------
    UsageError, DataError
        Before anything is written, if the table has no such embeddings or the index cannot be written.
    """
    with open_table(catalog, hdu=hdu) as table:
        chosen = choose_modalities(table, [], target, target)
        if len(chosen.target) > 1:
            raise UsageError("an index is of one column: --to image or --to spectrum")
        column = table.column(COLUMN[chosen.target[0]]).name
        return build_index(table, column, path, overwrite=overwrite, progress=progress)


def _load(table: Table, model: str | Path | Embedder | None, device: str) -> Embedder:
    """Return the model to embed files with, by default the one that the table names."""
    if isinstance(model, Embedder):
        return model
    name = model or model_of(table)[0]
    if not name:
        raise UsageError(f"{table.name}: does not say by which model it was embedded; name it with --model")
    return load_model(name, device)


def _open_index(index: str | Path | None, table: Table, searched: list[str]) -> VectorIndex | None:
    """Open the index of the column that is searched."""
    if index is None:
        return None
    if len(searched) > 1:
        raise UsageError("an index is of one column: search images or spectra, not both, or without --index")
    return open_index(index, table, searched[0])


def _ask_index(
    graph: VectorIndex,
    table: Table,
    query: NDArray[np.float64],
    k: int,
    where: Where | None,
    leave_out: Sequence[int],
) -> Shortlist:
    """Return candidates of an index; where a condition excludes most of them, of all rows."""
    # to read the table is quicker than to let the index propose more than a quarter of it
    count = k + SPARE + len(leave_out)
    while count <= max(table.nrows // 4, SPARE):
        near = graph.search(query, count)
        taken = ~np.isin(near.rows, leave_out)
        if where is not None:
            taken &= where.select(read_rows(table, where.columns, near.rows))
        if taken.sum() >= k or where is None:
            counts = near.counts._replace(excluded=int((~taken).sum()))
            return Shortlist(near.rows[taken], near.cosine[taken], counts)
        count *= WIDER
    return scan(table, [graph.facts.column], query, k + SPARE, where, leave_out)
