"""Describe pairs files: astroclip's own and the two published forms."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.describe.file_report import (
    ColumnInfo,
    FileReport,
    Repeats,
    SkyRange,
    dtype_name,
    name_some,
)
from astroclip.data.pairs import Pairs, open_pairs
from astroclip.schema import PAIRS_COLUMNS, PairsKey, Split

BLOCK_ROWS = 512  # 32 MB of flux and ivar
_PER_ROW = (PairsKey.RA, PairsKey.DEC, PairsKey.REDSHIFT, PairsKey.SPLIT, PairsKey.IVAR)
_IDENTITY = (PairsKey.TARGETID, PairsKey.SURVEY, PairsKey.PROGRAM)


def describe_pairs(path: Path, kind: str) -> FileReport:
    """Describe a pairs file: its columns and labels, parts, coverage; images are not read.

    Raises
    ------
    DataError
        If it is cut short, of another version, or lacks a dataset.
    """
    with open_pairs(path) as pairs:
        facts, problems = _describe_rows(pairs)
        columns = [
            ColumnInfo(str(spec.name), dtype_name(np.dtype(spec.dtype)), spec.shape, spec.unit)
            for spec in PAIRS_COLUMNS
            if spec.name in pairs.columns
        ]
        for name, label in pairs.labels.items():
            columns.append(ColumnInfo(f"label {name}", dtype_name(np.dtype(label.dtype)), (), label.unit))
        sources = {name: label.source for name, label in pairs.labels.items() if label.source}
        facts |= {key: value for key, value in pairs.provenance.items() if value}
        facts |= {"label sources": sources} if sources else {}
        return FileReport(path, kind, len(pairs), columns, facts, problems)


def _describe_rows(pairs: Pairs) -> tuple[dict[str, Any], list[str]]:
    """Return what the rows say and what is wrong with them, read in blocks."""
    sky, parts = SkyRange(), Counter[str]()
    low, high, unknown, dead = np.inf, -np.inf, 0, 0
    with Repeats() as repeats:
        for block in pairs.blocks([*_IDENTITY, *_PER_ROW], BLOCK_ROWS):
            values: dict[str, NDArray[Any] | None] = block.values
            ra, dec, redshift, split, ivar = (values[key] for key in _PER_ROW)
            repeats.add([column for key in _IDENTITY if (column := values[key]) is not None])
            if ra is not None and dec is not None:
                sky.add(ra, dec)
            if redshift is not None:
                known = redshift[np.isfinite(redshift)]
                low, high = min(low, known.min(initial=low)), max(high, known.max(initial=high))
                unknown += len(redshift) - len(known)
            if split is not None:
                parts.update(Split(part).name.lower() for part in split.tolist())
            if ivar is not None:
                dead += int((~(ivar > 0).any(axis=1)).sum())
        total, again = repeats.find()
    facts: dict[str, Any] = {"parts": dict(parts), **sky.facts()}
    facts |= {"redshift": [float(low), float(high)]} if low <= high else {}
    problems = [] if len(pairs) else ["no rows"]
    problems += sky.problems()
    if unknown:
        problems.append(f"{unknown} rows have no redshift (NaN)")
    if dead:
        problems.append(f"{dead} rows have a spectrum without data: its inverse variance is 0 everywhere")
    if total:
        problems.append(f"{total} rows repeat an earlier spectrum: rows {name_some(again, total)} (from 0)")
    return facts, problems
