"""What the rows of a catalogue say, gathered block by block in little memory."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import IntFlag
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.describe.file_report import ColumnInfo, Repeats, SkyRange, count_values, name_some
from astroclip.schema import (
    EMBED_FLAG,
    FLUX,
    IMAGE,
    IMAGE_EMBEDDING,
    IVAR,
    PREDICT_FLAG,
    REDSHIFT_NAMES,
    SPECTRUM_EMBEDDING,
    TARGETID,
    WAVE,
    EmbedFlag,
    PredictFlag,
    possible_range,
)
from astroclip.tables.anytable import find_name
from astroclip.tables.missing import Taken, is_missing, sentinel_lines, to_quantity

# what tells a row apart: the columns of the first group of which all are there
ID_COLUMNS = (
    (TARGETID, "SURVEY", "PROGRAM"), (TARGETID,), ("RELEASE", "BRICKID", "OBJID"),
    ("PLATE", "MJD", "FIBERID"), ("CATALOGID", "MJD"), ("SPECOBJID",), ("OBJECT_ID",), ("SOURCE_ID",),
    ("IAUNAME",), ("ID",),
)  # fmt: skip
# columns with few values
COUNTED = ("OBJTYPE", "SPECTYPE", "CLASS", "SURVEY", "PROGRAM", "REASON", "MATCH_METHOD", "Z_GOOD")
ZERO_IS_GOOD = ("COADD_FIBERSTATUS", "ZWARN", "ZWARNING")
FLAGS: dict[str, type[IntFlag]] = {EMBED_FLAG: EmbedFlag, PREDICT_FLAG: PredictFlag}
EMBEDDINGS = {IMAGE_EMBEDDING: EmbedFlag.NO_IMAGE, SPECTRUM_EMBEDDING: EmbedFlag.NO_SPECTRUM}
PREDICTION = "Z_PRED_MEAN"
MIN_PIXELS = 100  # of a spectrum: a shorter column FLUX or IVAR is photometry


class RowTally:
    """What rows say: where, who, how good, what is missing.

    Parameters
    ----------
    columns
        All there are.
    repeats
        Open; takes note of the identifiers.
    every
        Count missing values in every column of one value a row; else in those that are read anyway.

    Attributes
    ----------
    names
        Columns that `add` needs.
    identity
        Those that tell a row apart.
    """

    def __init__(self, columns: Sequence[ColumnInfo], repeats: Repeats, every: bool = True) -> None:
        self._repeats, self.sky = repeats, SkyRange()
        self._known = {column.name: column for column in columns}
        groups = [[self._find(name) for name in group] for group in ID_COLUMNS]
        self.identity = [str(name) for name in next((group for group in groups if all(group)), [])]
        redshifts = [self._find(*REDSHIFT_NAMES), self._find(PREDICTION)]
        self._range = {n: [np.inf, -np.inf] for n in redshifts if n and self._is_scalar(n, "float")}
        self._counted = {n: Counter[str]() for name in COUNTED if (n := self._find(name))}
        self._nonzero = {n: 0 for name in ZERO_IS_GOOD if (n := self._find(name))}
        self._flags = {n: Counter[str]() for name in FLAGS if (n := self._find(name))}
        self._without = {n: 0 for name in EMBEDDINGS if (n := self._find(name))}
        self._unflagged = dict.fromkeys(self._without, 0)
        pixels = [n for name in (IVAR, FLUX, IMAGE, WAVE) if (n := self._find(name)) and self._is_long(n)]
        self._dead = {n: 0 for n in pixels if n.upper() != WAVE}
        self._unsorted = {n: 0 for n in pixels if n.upper() == WAVE}
        scalars = [n for n in self._known if self._is_scalar(n, "float", "int", "uint", "bool", "str")]
        numbers = [n for n in scalars if self._is_scalar(n, "float")]
        self._quantities = [n for n in numbers if possible_range(n) != (-np.inf, np.inf)]
        parts = (self.identity, self._range, self._counted, self._nonzero, self._flags, self._without, pixels,
                 self._quantities, scalars if every else ())  # fmt: skip
        self.names = list(dict.fromkeys(name for part in parts for name in part))
        self._missing = {name: 0 for name in scalars if name in self.names}
        self._taken: Taken = Counter()

    def add(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Take note of a block of rows; their positions are for `sky`."""
        lost = {name: is_missing(block[name]) for name in self._missing}
        for name, missing in lost.items():
            self._missing[name] += int(missing.sum())
        if self.identity:
            keys = [name for name in self.identity if not self._is_scalar(name, "str")] or self.identity
            nobody = np.logical_or.reduce([lost[name] for name in keys])  # a blank SURVEY says little
            self._repeats.add([np.ma.getdata(block[name]) for name in self.identity], nobody)
        for name, counts in self._counted.items():
            count_values(counts, np.ma.filled(block[name], ""))
        for name in self._nonzero:
            self._nonzero[name] += int(np.count_nonzero((np.ma.getdata(block[name]) != 0) & ~lost[name]))
        for name, flags in self._flags.items():
            bits = FLAGS[name.upper()]
            flags.update({str(bit.name): int((block[name] & bit != 0).sum()) for bit in bits})
        for name in dict.fromkeys([*self._quantities, *self._range]):
            values = to_quantity(block[name], name, self._taken)
            self._add_range(name, values[np.isfinite(values)])
        self._add_vectors(block)

    def facts(self) -> dict[str, Any]:
        """Return what was found."""
        facts: dict[str, Any] = dict(self.sky.facts())
        if self.identity:
            facts["identifier"] = ", ".join(self.identity)
        facts |= {name: ends for name, ends in self._range.items() if ends[0] <= ends[1]}
        facts |= {name: dict(counts.most_common(10)) for name, counts in self._counted.items()}
        facts |= {f"{name} not 0": f"{count} rows" for name, count in self._nonzero.items()}
        facts |= {name: {bit: n for bit, n in counts.items() if n} for name, counts in self._flags.items()}
        facts |= {f"{name} missing": f"{count} rows" for name, count in self._without.items()}
        missing = {name: count for name, count in self._missing.items() if count}
        return facts | ({"missing values": missing} if missing else {})

    def problems(self, read: Callable[[list[str], int, int], Mapping[str, NDArray[Any]]]) -> list[str]:
        """Say what is wrong with the rows; `read` reads columns of some of them again."""
        said = self.sky.problems()
        total, rows = self._repeats.find()
        if total:
            first = read(self.identity, rows[0], rows[0] + 1)
            said.append(
                f"{total} rows repeat the {', '.join(self.identity)} of an earlier row: rows "
                f"{name_some(rows, total)} (from 0), the first with "
                f"{', '.join(text for name in self.identity if (text := str(first[name][0])))}"
                + (f" ({first['FILE'][0]} row {first['ROW'][0]})" if "FILE" in first else "")
            )
        what = "{} rows have nothing in {}: no pixel of the row is finite and not 0"
        said += [what.format(count, name) for name, count in self._dead.items() if count]
        said += [f"{n} rows of {name} are not in rising order" for name, n in self._unsorted.items() if n]
        what = "{} rows have a NaN in {} that EMBED_FLAG does not explain"
        said += [what.format(count, name) for name, count in self._unflagged.items() if count]
        return said + sentinel_lines(self._taken)

    def _find(self, *names: str) -> str | None:
        return find_name(self._known, *names)

    def _is_scalar(self, name: str, *kinds: str) -> bool:
        """Tell whether a column has one value a row, of some types."""
        return not self._known[name].shape and self._known[name].dtype.startswith((*kinds,))

    def _is_long(self, name: str) -> bool:
        return prod(self._known[name].shape) >= MIN_PIXELS

    def _add_range(self, name: str, values: NDArray[np.float64]) -> None:
        if name in self._range:
            low, high = self._range[name]
            self._range[name] = [float(values.min(initial=low)), float(values.max(initial=high))]

    def _add_vectors(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Count vectors with nothing in them, wavelengths out of order, and NaN that no flag explains."""
        flag = find_name(block, EMBED_FLAG)
        for name in self._without:
            missing = ~np.isfinite(block[name]).reshape(len(block[name]), -1).all(axis=1)
            self._without[name] += int(missing.sum())
            explained = block[flag] & EMBEDDINGS[name.upper()] != 0 if flag else missing
            self._unflagged[name] += int((missing & ~explained).sum())
        for name in self._dead:
            values = block[name].reshape(len(block[name]), -1)
            self._dead[name] += int((~np.isfinite(values) | (values == 0)).all(axis=1).sum())
        for name in self._unsorted:
            self._unsorted[name] += int((~(np.diff(block[name], axis=1) > 0).all(axis=1)).sum())
