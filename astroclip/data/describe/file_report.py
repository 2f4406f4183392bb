"""The report on a file, and what is gathered for it block by block in little memory."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

SHOWN = 5  # examples named in a problem
_BINS = 3600  # of right ascension, 0.1 deg each
_NOBODY = 0x9E3779B97F4A7C15  # the keys of rows without an identifier count from here
_KEYS_AT_ONCE = 1 << 21  # sorted in memory, 100 MB
# SplitMix64 (Steele, Lea & Flood 2014), a permutation of the 64-bit numbers
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))


class ColumnInfo(NamedTuple):
    """A column or dataset: `dtype` and `shape` are those of one row, `unit` is "" where the file has none."""

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str = ""


class FileReport(NamedTuple):
    """What a file is.

    Attributes
    ----------
    path
        As it was asked for.
    kind
        One of `astroclip.data.describe.Kind`.
    rows
        Galaxies, or files of a folder of images; None where the file cannot be read.
    columns
        Columns of the table, or datasets of an HDF5 file.
    facts
        Named texts, numbers, and lists and mappings of them.
    problems
        One sentence each; empty if nothing is wrong.
    """

    path: Path
    kind: str
    rows: int | None
    columns: list[ColumnInfo]
    facts: dict[str, Any]
    problems: list[str]


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return the name of a type as people write it: int64, float32, str8."""
    if dtype.kind in "SU":
        return f"str{dtype.itemsize // (4 if dtype.kind == 'U' else 1) or ''}"
    return "variable length" if dtype.kind == "O" else dtype.name


def name_some(values: Iterable[object], total: int) -> str:
    """Return the first few of `total` values as a list: ``1, 2, 3, ...``."""
    first = [str(value) for value in list(values)[:SHOWN]]
    return ", ".join([*first, "..."] if total > len(first) else first)


def name_unreadable(files: Sequence[tuple[Path, str]]) -> list[str]:
    """Return what is wrong with the first few files that cannot be read, and how many more there are."""
    more = len(files) - SHOWN
    return [why for _, why in files[:SHOWN]] + ([f"{more} more files cannot be read"] if more > 0 else [])


def count_values(counts: Counter[str], values: NDArray[Any]) -> None:
    """Add how often each text occurs to `counts`."""
    names, numbers = np.unique(values.astype(str), return_counts=True)
    counts.update({str(name) or "(blank)": int(n) for name, n in zip(names, numbers, strict=True)})


class SkyRange:
    """The part of the sky that positions cover, also where it lies across RA 0; fixed memory.

    Attributes
    ----------
    missing, off
        Positions with a NaN; positions that are not on the sky (Dec beyond ±90, RA not in -180 to 360).
    """

    def __init__(self) -> None:
        self.missing = self.off = 0
        self._low, self._high = np.full(_BINS, np.inf), np.full(_BINS, -np.inf)
        self._dec = (np.inf, -np.inf)

    def add(self, ra: ArrayLike, dec: ArrayLike, missing: NDArray[np.bool_] | None = None) -> None:
        """Take note of positions (n,), degrees; those off the sky may be NaN where `missing` is told."""
        ra, dec = np.asarray(ra, float), np.asarray(dec, float)
        known = np.isfinite(ra) & np.isfinite(dec) if missing is None else ~missing
        on = known & (np.abs(dec) <= 90) & (ra >= -180) & (ra <= 360)
        self.missing += int((~known).sum())
        self.off += int((known & ~on).sum())
        if not on.any():
            return
        lon = ra[on] % 360
        place = np.minimum((lon / 360 * _BINS).astype(int), _BINS - 1)
        np.minimum.at(self._low, place, lon)
        np.maximum.at(self._high, place, lon)
        self._dec = min(self._dec[0], float(dec[on].min())), max(self._dec[1], float(dec[on].max()))

    def facts(self) -> dict[str, Any]:
        """Return the shortest arc of RA, eastwards from the first to the last, and the range of Dec."""
        used = np.flatnonzero(np.isfinite(self._low))
        if not len(used):
            return {}
        gaps = np.append(self._low[used[1:]], self._low[used[0]] + 360) - self._high[used]
        widest = int(np.argmax(gaps))
        first, last = self._low[used[(widest + 1) % len(used)]], self._high[used[widest]]
        across = {"across RA 0": "yes"} if first > last else {}
        return {"ra_deg": [float(first), float(last)], **across, "dec_deg": list(self._dec)}

    def problems(self) -> list[str]:
        """Say how many positions are missing or not on the sky."""
        found = [(self.missing, "no position (NaN)"), (self.off, "a position that is not on the sky")]
        return [f"{count} rows have {what}" for count, what in found if count]


class Repeats:
    """Rows whose identifier an earlier row has already; a context manager.

    Identifiers wait as 64-bit keys in a temporary file, 8 bytes a row, and are compared some millions at a
    time. The key of one integer is exact; of texts or several columns it is a hash, which takes two different
    ones for the same with a chance of 2e-5 among 28 million.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, columns: Sequence[NDArray[Any]], missing: NDArray[np.bool_] | None = None) -> None:
        """Take note of the next rows: the columns of their identifier, (n,) each, and which have none."""
        key = np.zeros(len(columns[0]), np.uint64)
        for column in columns:
            key = _mix(key * np.uint64(3) + _number(column))
        if missing is not None:  # rows without an identifier repeat none
            own = np.uint64(_NOBODY) + np.arange(self.rows, self.rows + len(key), dtype=np.uint64)
            key = np.where(missing, _mix(own), key)
        self._file.write(key.tobytes())
        self.rows += len(key)

    def find(self) -> tuple[int, list[int]]:
        """Return how many rows repeat an earlier identifier, and the numbers of the first few of them."""
        self._file.flush()
        parts = max(-(-self.rows // _KEYS_AT_ONCE), 1)
        total, first = 0, np.empty(0, np.int64)
        for part in range(parts):
            keys, rows = self._part(part, parts)
            order = np.argsort(keys, kind="stable")
            again = rows[order[1:]][np.diff(keys[order]) == 0]
            total += len(again)
            first = np.sort(np.concatenate([first, again]))[:SHOWN]
        return total, first.tolist()

    def _part(self, part: int, parts: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the keys of one part of all possible keys, and their rows."""
        keys, rows = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for start in range(0, self.rows, _KEYS_AT_ONCE):
            self._file.seek(8 * start)
            block = np.frombuffer(self._file.read(8 * _KEYS_AT_ONCE), np.uint64)
            mine = np.flatnonzero(block % np.uint64(parts) == part)
            keys.append(block[mine])
            rows.append(mine + start)
        return np.concatenate(keys), np.concatenate(rows)


def _number(column: NDArray[Any]) -> NDArray[np.uint64]:
    """Return identifiers as 64-bit numbers: integers as they are, anything else by a hash of its text."""
    if column.dtype.kind in "iub":
        return column.astype(np.int64).view(np.uint64) if column.dtype.kind != "u" else column.astype("u8")
    text = np.char.encode(np.char.strip(column.astype(str)), "utf-8")
    number = np.zeros(len(text), np.uint64)
    for letter in np.frombuffer(text.tobytes(), np.uint8).reshape(len(text), -1).T if len(text) else ():
        number = np.where(letter, number * np.uint64(0x100000001B3) + letter, number)  # FNV's prime
    return number


def _mix(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in _MIX:
        key = (key ^ (key >> np.uint64(shift))) * np.uint64(factor)
    return key
