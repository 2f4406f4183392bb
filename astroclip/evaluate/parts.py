"""The parts of a set of pairs as tables: what predictions are made from and tested on.

Shapes: N pairs, n rows of a part.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.kinds import Kind, is_kind
from astroclip.data.pairs import Pairs, open_pairs
from astroclip.errors import DataError, UsageError
from astroclip.schema import GALAXY_ZOO, LOGSFR_NAMES, PROPERTIES, SFR_NAMES, ColumnSpec, PairsKey, Split
from astroclip.tables import write_table

BLOCK = 4096
PARTS = (Split.TRAIN, Split.VALIDATION, Split.TEST)
# what a table of a part has of the columns of the pairs, and what it calls them
COLUMNS = {
    PairsKey.TARGETID: ColumnSpec("TARGETID", "i8"),
    PairsKey.RA: ColumnSpec("RA", "f8", (), "deg"),
    PairsKey.DEC: ColumnSpec("DEC", "f8", (), "deg"),
    PairsKey.REDSHIFT: ColumnSpec("Z", "f8"),
}


def find_pairs(data: str | Path) -> Path:
    """Return the one set of pairs that a path is, or that a folder holds.

    Raises
    ------
    DataError
        If there is none.
    UsageError
        If a folder holds several.
    """
    path = Path(data)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. Make pairs first: astroclip crossmatch --help")
    if is_kind(path, Kind.PAIRS):
        return path
    found = [file for file in sorted(path.glob("*.h5")) if is_kind(file, Kind.PAIRS)]
    if len(found) > 1:
        raise UsageError(f"{path}: several sets of pairs: {', '.join(file.name for file in found)}. Name one")
    if not found:
        raise DataError(f"{path}: no set of pairs (*.h5). Make one first: astroclip crossmatch --help")
    return found[0]


def choose_rows(split: NDArray[np.uint8], most: int | None) -> NDArray[np.uint8]:
    """Return the parts (N,) with at most so many rows each, evenly spread; the others are in none."""
    if most is None:
        return split
    chosen = np.full_like(split, Split.NONE)
    for part in PARTS:
        rows = np.flatnonzero(split == part)
        chosen[rows[np.arange(min(most, len(rows))) * len(rows) // min(most, max(len(rows), 1))]] = part
    return chosen


def say_data(path: Path) -> str:
    """Say what galaxies a set of pairs holds: whether its inputs are those of a mock survey.

    `mock.make_mock` has the word in the name of its catalogue; any file renamed loses it.
    """
    with open_pairs(path) as pairs:
        inputs = list(pairs.provenance.get("inputs", {}))
    if any("mock" in name for name in inputs):
        return f"mock galaxies, made up ({path.name})"
    return f"{path.name}, from {', '.join(inputs)}" if inputs else f"{path.name}, of unknown origin"


def write_part(path: Path, source: Path, rows: NDArray[np.int64]) -> Path:
    """Write ids, positions, redshifts, properties and votes of some rows (n,) of a set of pairs as a table.

    Redshifts are those of the pairs, whatever else the labels call so.
    """
    with open_pairs(source) as pairs:
        names = {str(key): spec for key, spec in COLUMNS.items() if key in pairs.columns}
        names |= {name: _describe(pairs, name) for name in _label_names() if name in pairs.labels}
        write_table(path, list(names.values()), len(rows), _blocks(pairs, names, rows), extname="PART")
    return path


def _label_names() -> list[str]:
    """Return the names of all labels that can be predicted."""
    known = [name for names in PROPERTIES.values() for name in names]
    votes = [
        f"{question}_{answer}_{ending}"
        for question, answers in GALAXY_ZOO.items()
        for answer in answers
        for ending in ("debiased", "fraction")
    ]
    return [
        *known, *SFR_NAMES, *LOGSFR_NAMES, *votes, *(f"{question}_total-votes" for question in GALAXY_ZOO)
    ]  # fmt: skip


def _describe(pairs: Pairs, name: str) -> ColumnSpec:
    """Return the column of a label."""
    label = pairs.labels[name]
    return ColumnSpec(name, np.dtype(label.dtype).str[1:], (), label.unit)


def _blocks(
    pairs: Pairs, names: dict[str, ColumnSpec], rows: NDArray[np.int64]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield rows by the names of their columns."""
    for start in range(0, len(rows), BLOCK):
        read = pairs.take(list(names), rows[start : start + BLOCK])
        yield {spec.name: np.asarray(read[name]).astype(spec.dtype) for name, spec in names.items()}
