"""Paired galaxies, read in blocks of consecutive rows, whatever file form they are in.

Shapes: N pairs, n of them in a block, S = 7781 wavelengths.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.hdf5file import runs
from astroclip.data.pairs.pairs_format import Label
from astroclip.errors import DataError, UsageError
from astroclip.schema import PairsKey, Split, desi_wave

RowReader = Callable[[int, int], NDArray[Any]]  # (start, stop) -> those rows
ROW_COLUMNS = tuple(str(key) for key in PairsKey if key is not PairsKey.WAVE)


class PairsBlock(NamedTuple):
    """Some rows of a pairs file: `rows` are their numbers, (n,) ascending, `values` as from `Pairs.read`."""

    rows: NDArray[np.int64]
    values: dict[str, NDArray[Any] | None]


class Pairs:
    """An opened set of pairs; a context manager (use `open_pairs`).

    Attributes
    ----------
    path
        The file or folder.
    nrows
        N.
    columns
        Names that have one value a row, labels apart.
    labels
        `Label` by name.
    wave
        (S,) Å, vacuum.
    provenance
        What the file says about its making: program, created, settings, inputs, split. Empty for the
        published forms.
    """

    def __init__(
        self,
        path: Path,
        nrows: int,
        readers: Mapping[str, RowReader],
        *,
        labels: Mapping[str, Label] | None = None,
        provenance: Mapping[str, Any] | None = None,
        close: Callable[[], None],
    ) -> None:
        self.path, self.nrows = path, nrows
        self.labels = dict(labels or {})
        self.columns = tuple(name for name in readers if name not in self.labels)
        self.wave = desi_wave()
        self.provenance = dict(provenance or {})
        self._readers, self._close = readers, close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.nrows

    def close(self) -> None:
        """Close the file, which must not be read afterwards."""
        self._close()

    @cached_property
    def split(self) -> NDArray[np.uint8]:
        """`Split` value of each row, (N,) uint8."""
        return self._read_rows(PairsKey.SPLIT, 0, self.nrows)

    def read(
        self, names: Sequence[str], start: int = 0, stop: int | None = None
    ) -> dict[str, NDArray[Any] | None]:
        """Read consecutive rows of some columns or labels.

        Parameters
        ----------
        names
            Of `columns` or `labels`. A column of the format that this file does not have is None: the
            published forms have image, flux, targetid, redshift and SPLIT only, so ivar is None.
        start, stop
            Rows, as in a slice.

        Returns
        -------
        dict
            Name to array: image (n, 3, 152, 152) float32 nanomaggies, bands g, r, z, then row and column;
            flux, ivar (n, S) float32, mask (n, S) uint16; the rest (n,), texts as str.

        Raises
        ------
        UsageError
            If a name is neither a column of the format nor a label of this file.
        DataError
            If the rows cannot be read.
        """
        unknown = [name for name in names if name not in self._readers and name not in ROW_COLUMNS]
        if unknown:
            known = ", ".join([*self.columns, *self.labels])
            raise UsageError(f"{self.path}: there is no column or label '{unknown[0]}', only {known}")
        first, last, _ = slice(start, stop).indices(self.nrows)
        return {
            str(name): self._read_rows(name, first, max(first, last)) if name in self._readers else None
            for name in names
        }

    def take(self, names: Sequence[str], rows: ArrayLike) -> dict[str, NDArray[Any] | None]:
        """Read rows by number, in any order, repeated ones too: each stretch of consecutive ones at once.

        `names` and values as in `read`.

        Raises
        ------
        IndexError
            If there is no such row.
        """
        wanted, place = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        if wanted.size and not 0 <= wanted[0] <= wanted[-1] < self.nrows:
            raise IndexError(f"rows {wanted[0]} to {wanted[-1]} of {self.nrows}")
        stretches = [(wanted[first], wanted[last - 1] + 1) for first, last in runs(wanted)] or [(0, 0)]
        parts = [self.read(names, start, stop) for start, stop in stretches]
        taken: dict[str, NDArray[Any] | None] = {}
        for name in parts[0]:
            values = [part for each in parts if (part := each[name]) is not None]
            taken[name] = np.concatenate(values)[place] if values else None
        return taken

    def blocks(
        self, names: Sequence[str], block_rows: int = 256, split: Split | None = None
    ) -> Iterator[PairsBlock]:
        """Read the file from begin to end, `block_rows` rows at a time; with `split`, that part's rows only.

        A block without a row of the part is not read, and one with some is read from the first to the last
        of them. `names` as in `read`.
        """
        for start in range(0, self.nrows, block_rows):
            rows = np.arange(start, min(start + block_rows, self.nrows))
            if split is not None:
                rows = rows[self.split[rows] == split]
            if not len(rows):
                continue
            values = self.read(names, rows[0], rows[-1] + 1)
            if len(rows) <= rows[-1] - rows[0]:
                values = {k: v if v is None else v[rows - rows[0]] for k, v in values.items()}
            yield PairsBlock(rows, values)

    def _read_rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        try:
            return self._readers[name](start, stop)
        except (OSError, ValueError) as error:  # h5py: not readable; file closed
            raise DataError(f"{self.path}: cannot read rows {start} to {stop} of '{name}': {error}") from None
