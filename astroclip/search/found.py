"""The table of what a search found: rank and cosine, then the rows as they are in the table searched."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.schema import (
    SEARCH_COLUMNS,
    SEARCH_HDU,
    TARGETID,
    ColumnSpec,
    redshift_names,
)
from astroclip.search.index import model_of
from astroclip.search.scan import Counts, read_rows
from astroclip.tables import Table, write_table
from astroclip.tables.positions import find_position_names


def choose_columns(table: Table, wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the columns of the table that the output shall have, and those that it cannot have.

    Those of variable length are left out; RANK, SIMILARITY, CATALOG_ROW of an earlier search are replaced.

    Raises
    ------
    DataError
        If the table has no such column.
    """
    names = list(table.columns) if wanted is None else [table.column(name).name for name in wanted]
    ours = {spec.name for spec in SEARCH_COLUMNS}
    names = [name for name in dict.fromkeys(names) if name.upper() not in ours]
    ragged = [name for name in names if not table.column(name).is_plain]
    return [name for name in names if name not in ragged], ragged


def identity_columns(table: Table) -> list[str]:
    """Return the columns that say which galaxy a row is: TARGETID, position and redshift, where they are."""
    redshift = table.find(*redshift_names(table.columns))
    found = [table.find(TARGETID), *(find_position_names(table) or ()), redshift]
    return [name for name in found if name and not table.column(name).shape]


def write_found(
    table: Table,
    output: Path,
    names: list[str],
    rows: NDArray[np.int64],
    cosine: NDArray[np.float64],
    counts: Counts,
    settings: dict[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Write the rows found, with some columns of the table that was searched, see `catalog.write_table`.

    Parameters
    ----------
    names
        Columns, from `choose_columns`.
    rows, cosine
        The most similar first.
    counts, settings
        For the header.
    """
    block = read_rows(table, names, rows)
    kept = [table.column(name) for name in names]
    specs = [ColumnSpec(c.name, block[c.name].dtype.str, c.shape, c.unit, c.comment) for c in kept]
    found: dict[str, NDArray[Any]] = {
        "RANK": np.arange(1, len(rows) + 1, dtype=np.int32),
        "SIMILARITY": cosine.astype(np.float32),
        "CATALOG_ROW": rows,
    }
    write_table(
        output,
        [*SEARCH_COLUMNS, *specs],
        len(rows),
        [found | block],
        extname=SEARCH_HDU,
        nulls={c.name: c.null for c in kept},
        overwrite=overwrite,
        **_provenance(table, settings, counts),
    )


def _provenance(table: Table, settings: dict[str, Any], counts: Counts) -> dict[str, Any]:
    """Return the cards of the output: the model of the rows' embeddings, what was asked for, and of what."""
    model, digest = model_of(table)
    cards: dict[str, Any] = {}
    if digest:
        cards = {
            "ACMODEL": (model, "astroclip model"),
            "ACHASH": (digest, "SHA-256 of its weights, first 16 digits"),
        }
    datasum = table.header.get("DATASUM")  # a SHA-256 would take longer than the search itself
    said = f"DATASUM {datasum}" if datasum else f"SHA-256 {table.fingerprint['sha256']}"
    counted = ", ".join(f"{count} {name}" for name, count in counts._asdict().items())
    history = [
        f"astroclip search: look-alikes in {Path(table.name).name}, HDU {table.hdu}, {said}",
        f"settings: {json.dumps(settings)}",
        f"rows: {counted}",
    ]
    return {"cards": cards, "history": history}
