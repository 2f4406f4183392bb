"""What a gallery shows of a search: the examples, then those found, with their pixels and a few facts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.plots import Shown
from astroclip.schema import TARGETID, redshift_names
from astroclip.search.examples import Example
from astroclip.search.found import identity_columns
from astroclip.search.query_pixels import PixelPlaces, read_pixels
from astroclip.search.scan import read_rows
from astroclip.tables import Table

GALLERY_SIZE = 144  # px, what the published model sees of an image
GALLERY_ROWS = 50  # of those found, so many are drawn
MAX_FACTS = 24


def describe_galaxies(
    table: Table,
    examples: Sequence[Example],
    example_rows: Sequence[int | None],
    rows: NDArray[np.int64],
    cosine: NDArray[np.float64],
    pixels: PixelPlaces,
) -> list[Shown]:
    """Return the examples and the first `GALLERY_ROWS` rows found, ready to be drawn.

    Parameters
    ----------
    table
        The one that was searched.
    examples, example_rows
        What was asked for, and the row of each; None of a file.
    rows, cosine
        What was found, the most similar first.
    pixels
        Where the pixels are.
    """
    titles = [str(example) for example in examples]
    titles += [f"{rank}. cosine {value:.3f}" for rank, value in enumerate(cosine[:GALLERY_ROWS], 1)]
    asked = [example if row is None else row for example, row in zip(examples, example_rows, strict=True)]
    shown = show_galaxies(table, titles, [*asked, *rows[:GALLERY_ROWS].tolist()], pixels)
    return [one._replace(is_example=i < len(examples)) for i, one in enumerate(shown)]


def show_galaxies(
    table: Table, titles: Sequence[str], places: Sequence[int | Example], pixels: PixelPlaces
) -> list[Shown]:
    """Return galaxies ready to be drawn: rows of a table, or examples that are files; a title for each."""
    target, redshift = table.find(TARGETID), table.find(*redshift_names(table.columns))
    names, shown = _facts(table), []
    seen_by_place = read_pixels(table, places, pixels, GALLERY_SIZE)
    for title, place, seen in zip(titles, places, seen_by_place, strict=True):
        known: dict[str, Any] = {}
        if not isinstance(place, Example):
            read = read_rows(table, names, np.array([place]))
            known = {"row": place} | {name: values[0] for name, values in read.items()}
        who = f"   {known[target]}" if target in known and str(known[target]) not in title else ""
        z = float(known.get(redshift, np.nan)) if redshift else np.nan
        facts = {name: _in_words(value) for name, value in known.items()}
        shown.append(Shown(title + who, *seen, z, facts))
    return shown


def _facts(table: Table) -> list[str]:
    """Return the columns that a page tells: who, where and how far it is, then others of one value a row."""
    scalar = [name for name, column in table.columns.items() if not column.shape and column.is_plain]
    return list(dict.fromkeys(identity_columns(table) + scalar))[:MAX_FACTS]


def _in_words(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float | np.floating) else str(value)
