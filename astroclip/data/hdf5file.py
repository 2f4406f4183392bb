"""An open HDF5 file of a survey: datasets found by name, rows read in unbroken runs, one clear sentence each.

Trap: h5py's fancy indexing of a chunked dataset is 30 times slower than reading runs; it is never used.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError


class Hdf5File:
    """An HDF5 file open for reading; a context manager.

    Datasets are named in any case; every failure is a `DataError` that names the file.

    Raises
    ------
    DataError
        If the file does not exist, is not HDF5, or is cut short.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file")
        with self._reading("the file"):
            self._h5 = h5py.File(self.path, "r")
        with self._reading("the list of datasets"):
            found = [name for name in self._h5 if isinstance(self._h5[name], h5py.Dataset)]
        self._names = {name.upper(): name for name in found}
        self._plain: FileIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return name.upper() in self._names

    @property
    def names(self) -> list[str]:
        """Names of the datasets at the top level, as the file spells them."""
        return list(self._names.values())

    def close(self) -> None:
        """Close the file; reading from it afterwards is an error."""
        self._h5.close()
        if self._plain:
            self._plain.close()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a dataset."""
        return tuple(self._dataset(name).shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type of a dataset's elements."""
        return self._dataset(name).dtype

    def unit(self, name: str) -> str:
        """Return the unit that a dataset says it has, "" if it does not."""
        found = {key.lower(): value for key, value in self._dataset(name).attrs.items()}
        value = found.get("unit", found.get("units", found.get("bunit", "")))
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray:
        """Return rows `start` to `stop` - 1 of a dataset, strings as bytes stripped of their padding."""
        dataset = self._dataset(name)
        with self._reading(f"dataset '{name}'"):
            values = dataset[start:stop]
        if values.dtype.kind not in "SOU":
            return values
        return np.char.strip(values.astype("S"))

    def read_field(self, name: str, field: str) -> NDArray:
        """Return one field of a dataset of records, all rows."""
        dataset = self._dataset(name)
        with self._reading(f"field '{field}' of dataset '{name}'"):
            return dataset[field]

    def read_rows(self, name: str, rows: NDArray[np.int64], *section: slice) -> NDArray:
        """Return ascending, unrepeated rows of a dataset of numbers, one request for each run of them.

        `section` cuts out a part of the next axes.
        """
        dataset = self._dataset(name)
        shape = [len(range(*cut.indices(n))) for cut, n in zip(section, dataset.shape[1:], strict=False)]
        with self._reading(f"dataset '{name}'"):
            values = np.empty((len(rows), *shape, *dataset.shape[1 + len(shape) :]), dataset.dtype)
            offset = None if section else _offset(dataset)
            if offset is not None:
                self._read_plainly(values, rows, offset)
                return values
            for first, last in runs(rows):
                start = int(rows[first])
                dataset.read_direct(values, np.s_[start : start + last - first, *section], np.s_[first:last])
        return values

    def _read_plainly(self, values: NDArray, rows: NDArray[np.int64], offset: int) -> None:
        """Read rows of a dataset that lies in one piece, as they are stored, from where it begins."""
        # the library takes 0.2 ms for a request, more than it takes to read an image; and the disk may know
        # of all requests before the first is waited for
        if self._plain is None:
            self._plain = self.path.open("rb", buffering=0)
        fd, width = self._plain.fileno(), values[:1].nbytes
        stretches = [(offset + int(rows[i]) * width, values[i:j]) for i, j in runs(rows)]
        for start, stretch in stretches if hasattr(os, "posix_fadvise") else []:  # macOS has none
            os.posix_fadvise(fd, start, stretch.nbytes, os.POSIX_FADV_WILLNEED)
        for start, stretch in stretches:
            rest, at = stretch.reshape(-1).view(np.uint8).data, start
            while rest:
                n = os.preadv(fd, [rest], at)
                if n == 0:
                    raise OSError(f"it ends at byte {at}")
                rest, at = rest[n:], at + n

    def _dataset(self, name: str) -> h5py.Dataset:
        if name.upper() not in self._names:
            raise DataError(
                f"{self.path}: no dataset '{name}' (found {', '.join(sorted(self.names)) or 'none'})"
            )
        return self._h5[self._names[name.upper()]]

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn what the HDF5 library raises into one sentence."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(
                f"{self.path}: cannot read {what} ({reason}). Not HDF5, or cut short: fetch it again"
            ) from error


def _offset(dataset: h5py.Dataset) -> int | None:
    """Return where a dataset begins in the file if it lies there in one piece as it is used here."""
    plain = dataset.dtype.isnative and dataset.dtype.kind in "fiu" and not dataset.external
    if not plain or dataset.file.userblock_size:
        return None
    whole = dataset.id.get_storage_size() == dataset.size * dataset.dtype.itemsize
    return dataset.id.get_offset() if whole else None  # None: in chunks, compact, or in another file


def runs(rows: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of each stretch ``rows[first:last]`` of ascending rows without a gap."""
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    starts = [0, *edges.tolist()] if len(rows) else []
    yield from zip(starts, [*edges.tolist(), len(rows)], strict=False)


def find_hdf5(path: str | Path, patterns: Sequence[str]) -> list[Path]:
    """Return a file as it is, or the files under a folder whose names fit one of the patterns, sorted.

    Raises
    ------
    DataError
        If the path does not exist, or there is no such file in the folder.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    files = sorted(p for pattern in patterns for p in root.rglob(pattern) if p.is_file())
    if not files:
        raise DataError(f"{root}: no file below it is called {' or '.join(patterns)}")
    return files
