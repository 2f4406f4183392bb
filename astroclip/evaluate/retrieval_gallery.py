"""A gallery of retrieval: an image or spectrum, its true other half, and what was found in its place.

Shapes: n galaxies that look for their other half, D width.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.data.kinds import Kind, is_kind
from astroclip.errors import UsageError
from astroclip.model.clip import clip_logits
from astroclip.plots.gallery import draw_gallery
from astroclip.search.lookalike_gallery import GALLERY_SIZE, show_galaxies
from astroclip.search.query_pixels import PixelPlaces, check_pixels
from astroclip.tables import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUERIES = (0.1, 0.5, 0.9)  # quantiles of the rank: a good query, a typical one, a bad one
FOUND = 3  # shown of each
SIDES = {"image_to_spectrum": ("image", "spectrum"), "spectrum_to_image": ("spectrum", "image")}


def find_pixels(table: Table, pixels: PixelPlaces) -> PixelPlaces | None:
    """Return where the pixels of a table are; None if there are none and none are named.

    They are where `pixels` says; else, of a table of matches (column
    PAIR), in the one set of pairs in its folder; else in the table's own columns.

    Raises
    ------
    UsageError, DataError
        If a place that is named has no pixels.
    """
    named = pixels.images or pixels.spectra
    if not named and table.find("PAIR"):
        beside = [path for path in sorted(table.source.parent.glob("*.h5")) if is_kind(path, Kind.PAIRS)]
        if len(beside) == 1:
            named = str(beside[0])
            pixels = pixels._replace(images=named, spectra=named)
    try:
        check_pixels(table, pixels, GALLERY_SIZE)
    except UsageError:
        if named:
            raise
        return None
    return pixels


def draw_galleries(
    table: Table, held: Mapping[str, NDArray], ranks: Mapping[str, NDArray], pixels: PixelPlaces
) -> Iterator[tuple[str, "Figure"]]:
    """Yield a gallery for each direction, and the stems of their files.

    Parameters
    ----------
    table
        The one whose embeddings were scored.
    held
        `image`, `spectrum` (n, D) and `row` (n,): their rows in the table.
    ranks
        By direction, how many candidates are nearer than a galaxy's own half (n,).
    pixels
        See `find_pixels`.
    """
    for direction, (from_, to) in SIDES.items():
        order = np.argsort(ranks[direction], kind="stable")
        asked = [int(order[int(at * (len(order) - 1))]) for at in QUERIES]
        queries, candidates = torch.from_numpy(held[from_][asked]), torch.from_numpy(held[to])
        cosine = clip_logits(queries, candidates, 1.0)
        near, found = cosine.topk(min(FOUND, len(candidates)), dim=1)
        titles, chosen = [], []
        for query, values, places in zip(asked, near.tolist(), found.tolist(), strict=True):
            rank = int(ranks[direction][query]) + 1
            titles.append(f"asked: {from_}; its {to} is number {rank:,} of {len(candidates):,}")
            titles += [
                f"found: {k}. {to}, cosine {value:.3f}{', its own' if place == query else ''}"
                for k, (value, place) in enumerate(zip(values, places, strict=True), 1)
            ]
            chosen += [query, *places]
        shown = show_galaxies(table, titles, held["row"][chosen].tolist(), pixels)
        yield f"retrieval-{direction.replace('_', '-')}", draw_gallery(shown)
