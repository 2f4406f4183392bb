"""Write a pairs file in blocks: its frame first, then the rows into their places, beside the target.

``.<output>.part`` is a complete pairs file from the first moment on, with rows that are still zero, and HDF5
never writes to it. What a kill can interrupt is the writing of rows, and those that the journal
does not count are written again.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.pairs.pairs_format import (
    PROGRAM,
    Label,
    check_labels,
    find_places,
    make_frame,
    row_bytes,
    row_specs,
)
from astroclip.data.pairs.split import SplitSettings, check_split, split_by_healpix
from astroclip.errors import DataError
from astroclip.files import Part, check_output, check_space, writing
from astroclip.schema import PAIRS_REQUIRED, PAIRS_VERSION, ColumnSpec, PairsKey
from astroclip.tables.provenance import check_same_settings

SUFFIXES = (".h5", ".hdf5")
JOURNAL_SECONDS = 5.0  # between two entries of the journal; each waits for the disk
_FRAME_BYTES = 1 << 20  # attributes and headers, generously


class PairsWriter:
    """Takes pairs block by block, in row order; made by `write_pairs`.

    Attributes
    ----------
    nrows : int
        Rows of the file.
    done : int
        How many of them are written: the next row to give. Larger than 0 at the begin of a resumed run.
    resumed : bool
        Whether an earlier run's part was found and is continued.
    """

    def __init__(self, part: Part, nrows: int, labels: Sequence[Label], split: SplitSettings) -> None:
        self.nrows, self.done, self.resumed = nrows, 0, False
        self._part, self._labels, self._split = part, labels, split
        self._specs = row_specs(labels)
        self._run: dict[str, Any] = {}

    def write(self, block: Mapping[str, ArrayLike]) -> None:
        """Write the next rows.

        Parameters
        ----------
        block
            One array a column, all of the same length n: image (n, 3, 152, 152) nanomaggies; flux, ivar, mask
            (n, 7781); targetid, ra, dec (n,); and what is known of the other columns (`PAIRS_COLUMNS`) and
            labels, by name. A column that is not given is NaN, -1 (0 if unsigned) or empty texts: what else
            marks a missing value too. SPLIT follows from ra and dec.

        Raises
        ------
        ValueError
            If a column is missing or unknown, has another shape or kind, or there are more rows than left.
        DataError
            If a number or text does not fit its column, or the disk is full; what was written before is kept
            for a resumed run.
        """
        rows = self._check_columns(block)
        stored = {name: self._to_stored(block, spec, rows) for name, spec in self._specs.items()}
        for name, values in stored.items():
            place = self._places[name]
            start = place.offset + self.done * place.row_bytes
            self._part.patch(start, values.reshape(-1).view(np.uint8))
            self._part.push(start, values.nbytes)
        self.done += rows
        if rows and self._part.journal_age >= JOURNAL_SECONDS:
            self._part.write_journal(self._journal())

    def _check_columns(self, block: Mapping[str, ArrayLike]) -> int:
        """Return the number of rows of a block that has the right columns."""
        known = {spec.name for spec in self._specs.values()} - {PairsKey.SPLIT}
        missing, unknown = (
            ", ".join(sorted(n)) for n in (set(PAIRS_REQUIRED) - set(block), set(block) - known)
        )
        if missing or unknown:
            raise ValueError(f"columns missing: {missing or 'none'}; unknown: {unknown or 'none'}")
        rows = len(np.asarray(block[PairsKey.TARGETID]))
        if rows > self.nrows - self.done:
            raise ValueError(f"{rows} rows, but only {self.nrows - self.done} are left")
        return rows

    def _to_stored(self, block: Mapping[str, ArrayLike], spec: ColumnSpec, rows: int) -> NDArray[Any]:
        """Return the values of a column as they are stored."""
        if spec.name == PairsKey.SPLIT:
            return split_by_healpix(block[PairsKey.RA], block[PairsKey.DEC], *self._split)
        dtype = np.dtype(spec.dtype)
        if spec.name not in block:
            missing = {"f": np.nan, "i": -1, "S": b""}
            return np.full(rows, missing.get(dtype.kind, 0), dtype)
        values = np.asarray(block[spec.name])
        if values.shape != (rows, *spec.shape):
            raise ValueError(f"column {spec.name}: shape {values.shape}, expected {(rows, *spec.shape)}")
        return to_stored(values, dtype, spec.name)

    def begin(self, run: dict[str, Any], provenance: Mapping[str, Any], resume: bool) -> None:
        """Continue the earlier run if asked to and there is one, else make the frame of the file."""
        self._run = run
        earlier = self._part.read_journal() if resume and self._part.size else None
        if earlier:
            _check_same_run(earlier, run, self._part.name)
        if earlier and earlier["size"] == self._part.size:
            self.done, self.resumed = earlier["rows"], True
        else:
            self._make_frame(provenance)
        self._places = find_places(self._part.path, self._labels)

    def _make_frame(self, provenance: Mapping[str, Any]) -> None:
        """Make the file, all rows zero, and the journal that says so."""
        frame = make_frame(self.nrows, labels=self._labels, split=self._split, **provenance)
        self._part.restart()
        try:
            with writing(self._part.name):
                self._part.cut(frame.size)  # rows that are not written take no space
            for offset, page in frame.pages.items():
                self._part.patch(offset, bytes(page[: frame.size - offset]))
            self._part.write_journal(self._journal())
        except DataError:
            self._part.remove()
            raise

    def _journal(self) -> dict[str, Any]:
        """Return what the journal says: whose part it is, and how far it is."""
        return {**self._run, "size": self._part.size, "rows": self.done}

    def suspend(self) -> None:
        """Keep the part for a resumed run; if no row is done, leave nothing."""
        self._part.suspend(self.done, self._journal())

    def finish(self) -> None:
        """Give the file its name."""
        if self.done != self.nrows:
            raise ValueError(f"{self.done} rows written, expected {self.nrows}")
        self._part.publish()


def to_stored(values: NDArray[Any], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Return values in the type of their column, contiguous, if they fit: nothing wraps around, is cut."""
    accepted = {"S": "SU", "f": "fiu", "b": "b"}.get(dtype.kind, "iu")
    if values.size and values.dtype.kind not in accepted:
        raise ValueError(f"column {name}: type {values.dtype}, cannot be stored as {dtype}")
    if dtype.kind == "S":
        values = np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values
        if len(values) and np.char.str_len(values).max() > dtype.itemsize:
            raise DataError(f"column {name}: a text of more than {dtype.itemsize} bytes")
    elif dtype.kind in "iu" and values.size and not np.can_cast(values.dtype, dtype):
        low, high, limits = int(values.min()), int(values.max()), np.iinfo(dtype)
        if low < limits.min or high > limits.max:
            raise DataError(f"column {name}: values from {low} to {high} do not fit {dtype.name}")
    return np.ascontiguousarray(values, dtype)


def _check_same_run(earlier: dict[str, Any], run: dict[str, Any], name: str) -> None:
    """Refuse to continue a part that other inputs, other settings or another program began."""
    if earlier["inputs_sha256"] != run["inputs_sha256"]:
        raise DataError(
            f"{name}: its part was begun with other input files, or they have changed. "
            "Start again without resume"
        )
    check_same_settings(earlier, run, [key for key in run if key not in ("inputs_sha256", "settings")], name)


@contextmanager
def write_pairs(
    path: str | Path,
    nrows: int,
    *,
    labels: Sequence[Label] = (),
    split: SplitSettings | None = None,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    created: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> Iterator[PairsWriter]:
    """Write a pairs file of `nrows` rows, in the order they are given.

    Leaving the context normally gives the file its name in one rename; until then nothing is there under that
    name. Leaving it by an exception, or being killed at any moment, leaves a part for ``resume=True`` (none
    if no row was written yet). Interrupted or not, the file has the same bytes, but for `created`.

    Parameters
    ----------
    path : path
        ``.h5`` or ``.hdf5``.
    nrows : int
        Number of pairs, known before the first is read.
    labels : sequence of Label
        What else is known of the galaxies.
    split : SplitSettings
        How SPLIT follows from the positions; default: 80, 10, 10 % of nside 32 pixels, seed 0.
    settings : mapping
        Everything that decided about rows and pixels; must be writable as JSON. Stored in the file; a
        resumed run must have the same.
    inputs : mapping of str to str
        Names and checksums of the files that the pairs were made from, the same way.
    created : str
        Date to store, ISO 8601; default: now, UTC. A resumed run keeps that of the first.
    overwrite : bool
        Replace an existing file, when the new one is complete.
    resume : bool
        Continue the part that an interrupted run left; without one, begin (`PairsWriter.resumed` tells).
        Without `resume` a part is discarded.

    Yields
    ------
    PairsWriter

    Raises
    ------
    UsageError
        If the file exists, a label or the split makes no sense, settings differ from those of the part, or
        another run writes the same file.
    DataError
        If the folder cannot be written, the disk is too small or becomes full, or the inputs changed.
    """
    name, target = str(path), Path(os.path.realpath(path))
    labels, split = list(labels), split or SplitSettings()
    check_output(target, name, overwrite, SUFFIXES)
    check_labels(labels)
    check_split(split)
    check_space(target, name, nrows * row_bytes(labels) + _FRAME_BYTES)
    provenance = {
        "settings": dict(settings or {}),
        "inputs": dict(inputs or {}),
        "created": created or datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with Part(target, name) as part:
        writer = PairsWriter(part, nrows, labels, split)
        writer.begin(_describe_run(nrows, labels, split, provenance), provenance, resume)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.suspend()
            raise


def _describe_run(
    nrows: int, labels: Sequence[Label], split: SplitSettings, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what must be the same in a resumed run, in the types that JSON gives back."""
    inputs = json.dumps(provenance["inputs"], sort_keys=True)
    run = {
        "format_version": PAIRS_VERSION,
        "program": PROGRAM,
        "nrows": nrows,
        "labels": labels,
        "split": split._asdict(),
        "inputs_sha256": hashlib.sha256(inputs.encode()).hexdigest(),
        "settings": provenance["settings"],
    }
    described: dict[str, Any] = json.loads(json.dumps(run))
    return described
