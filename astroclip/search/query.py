"""What is searched for, made one vector, and the columns that it is compared with.

Shape: D width of the embeddings.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.data.pixels import Modality
from astroclip.errors import DataError, UsageError
from astroclip.model.embedder import Embedder
from astroclip.model.inputs import NOTHING
from astroclip.predict.embed import COLUMN
from astroclip.search.examples import Example, ExampleKind, find_rows
from astroclip.search.index import model_of
from astroclip.search.query_pixels import read_file
from astroclip.search.scan import normalise
from astroclip.tables import Table


class Query(NamedTuple):
    """What is searched for: a vector (D,) of length 1, and the row of each example, None of a file."""

    vector: NDArray[np.float64]
    rows: list[int | None]


class Modalities(NamedTuple):
    """Which column the rows among the examples are taken from, and which columns are searched."""

    source: str
    target: tuple[str, ...]


def choose_modalities(
    table: Table, examples: Sequence[Example], source: str | None, target: str | None
) -> Modalities:
    """Say which embeddings are compared with which.

    By default rows are taken from the image embeddings if there are any, and the modality of the examples is
    searched if the table has it.

    Raises
    ------
    UsageError
        If the table does not have what is asked for, or its columns are not known to share a space.
    """
    has = [modality for modality, column in COLUMN.items() if table.find(column)]
    if not has:
        raise UsageError(
            f"{table.name}: no embeddings. Make them first: astroclip embed {table.name} --model MODEL"
        )
    source = source or has[0]
    if source not in has and not all(example.is_file for example in examples):
        raise UsageError(
            f"{table.name}: no column {COLUMN[source]} to take rows from; it has those of {has[0]}s"
        )
    of_examples = {example.kind.value if example.is_file else source for example in examples} or {source}
    default = min(of_examples & set(has), default=has[0])
    searched = tuple(COLUMN) if target == "both" else (target or default,)
    for modality in searched:
        if modality not in has:
            raise UsageError(
                f"{table.name}: no column {COLUMN[modality]} to search; it has those of {has[0]}s"
            )
    if len(of_examples | set(searched)) > 1:
        _check_shared(table)
    return Modalities(source, searched)


def build_query(
    table: Table,
    examples: Sequence[Example],
    modalities: Modalities,
    embedder: Callable[[], Embedder],
    radius_arcsec: float,
    ra: str | None = None,
    dec: str | None = None,
) -> Query:
    """Return what is searched for: the mean of those alike minus the mean of those unlike, all normalised.

    Parameters
    ----------
    embedder
        Called if there is a file among the examples; must give the model of the table.
    radius_arcsec, ra, dec
        See `examples.find_rows`.

    Raises
    ------
    UsageError
        If there is no example to be like, or the model lacks a modality.
    DataError
        If an example is not in the table, has no embedding, or all together cancel out.
    """
    if not any(example.like for example in examples):
        raise UsageError(
            "nothing to search for: name a galaxy with --targetid, --row, --radec, --image or --like"
        )
    rows = find_rows(table, examples, radius_arcsec, ra, dec)
    column = COLUMN[modalities.source]
    vectors = []
    for example, row in zip(examples, rows, strict=True):
        if row is None:
            vector = _embed_file(table, example, embedder())
        else:
            vector = table.read([column], row, row + 1)[column][0].astype(np.float64)
        if not np.isfinite(vector).all():
            raise DataError(f"{table.name}: {example} has no {modalities.source} embedding. Take another one")
        if len(vector) != table.column(COLUMN[modalities.target[0]]).shape[0]:
            raise DataError(
                f"{table.name}: {example} has {len(vector)} numbers, the column searched has others"
            )
        vectors.append(normalise(vector))
    signs = np.array([example.like for example in examples])
    total = np.mean(np.stack(vectors)[signs], axis=0)
    if not signs.all():
        total = total - np.mean(np.stack(vectors)[~signs], axis=0)
    length = float(np.linalg.norm(total))
    if length < 1e-6:  # rounding of float32 embeddings
        raise DataError(f"{table.name}: the examples cancel out; nothing is left to search for")
    return Query(total / length, rows)


def _embed_file(table: Table, example: Example, embedder: Embedder) -> NDArray[np.float64]:
    """Embed the galaxy of a file with the table's own model."""
    name, digest = model_of(table)
    if embedder.digest != digest:
        raise DataError(
            f"{table.name} was embedded by model {name or 'unknown'} ({digest or 'no card ACHASH'}), "
            f"'{embedder.name}' is another one ({embedder.digest}): their vectors cannot be compared. "
            "Name the right one with --model, or embed the table again"
        )
    modality: Modality = "image" if example.kind is ExampleKind.IMAGE else "spectrum"
    embedder.check(modality)
    inputs, flag = read_file(modality, example.value, embedder.image_size)
    if flag[0] & NOTHING[modality]:
        raise DataError(f"{example.value}: not one good pixel; nothing to search for")
    return embedder.embed(modality, inputs, torch.ones(1, dtype=torch.bool))[0].double().numpy()


def _check_shared(table: Table) -> None:
    """Refuse a search across modalities where the table does not show that they share a space."""
    widths = {table.column(found).shape for column in COLUMN.values() if (found := table.find(column))}
    if len(widths) > 1 or not model_of(table)[1]:
        raise UsageError(
            f"{table.name}: images and spectra can be compared only if one model put both in one space, and "
            "the table does not say so (columns of one width, card ACHASH). Embed both with such a model, or "
            "search among those of the query's kind: --to"
        )
