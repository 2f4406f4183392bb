"""Galaxies for training, by row number: pairs in any of their forms, or images as the surveys store them.

Shapes: N rows, B rows of a batch, S = 7781 wavelengths.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from astroclip.data.hdf5file import runs
from astroclip.data.kinds import Kind, find_kind
from astroclip.data.legacysurvey import ImageFolder
from astroclip.data.pairs import Pairs, open_pairs, split_by_healpix
from astroclip.data.pictures import PictureFolder
from astroclip.data.pixel_sets import open_pixel_files
from astroclip.data.pixels import PixelFiles
from astroclip.errors import DataError
from astroclip.schema import PairsKey, Split

ROWS = "rows"  # key of a batch: (B,) row numbers
OPTIONAL = (PairsKey.IVAR, PairsKey.MASK)  # the published pairs have neither
VALIDATION_FRACTION = 0.1  # of the training part, where a set of pairs knows neither validation nor positions
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Fibonacci hashing

Files = Pairs | PixelFiles
Batch = dict[str, Tensor]


class Galaxies:
    """Galaxies in survey files, by row number; each process that reads opens the files for itself.

    A set of pairs in any of its three forms; or images alone: a file or folder in the layout of Stein et al.
    or of Multimodal Universe, or FITS cut-outs (a folder; opening it reads every header).

    Pairs are in the part that their SPLIT says. Images alone are split as `split_by_healpix` does by default:
    by their position, so that more files change nothing for those that are there. Images without a position,
    of another pixel scale, and files that cannot be read are in no part.

    Differs from Parker+24: where a set of pairs has neither a validation part nor positions, as the published
    one, a tenth of its training part, chosen by TARGETID, validates. The original validates on its test part.

    Attributes
    ----------
    path
        File or folder.
    columns
        What there is to read, see `read`.
    split
        (N,) uint8 `Split` value of each row.

    Raises
    ------
    DataError
        If the path does not exist, or is none of these.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        files = _open(self.path)
        self._files: Files | None = files
        self._pid = os.getpid()
        self.columns: tuple[str, ...] = (str(PairsKey.IMAGE),)
        if isinstance(files, Pairs):
            self.columns = (*files.columns, *files.labels)
        self.split = _find_parts(files)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": None}

    def __len__(self) -> int:
        return len(self.split)

    def read(self, columns: Sequence[str], rows: NDArray[np.int64]) -> Batch:
        """Read rows in any order, each stretch of consecutive ones at once.

        Parameters
        ----------
        columns
            Of `columns`. `OPTIONAL` ones that the files do not have are left out of the result.
        rows
            (B,) numbers.

        Returns
        -------
        dict
            image (B, 3, 152, 152) float32 nanomaggies, bands g, r, z, NaN where nothing was observed;
            flux, ivar (B, S) float32, mask (B, S) int32; other columns (B,); `ROWS` (B,) int64.

        Raises
        ------
        DataError
            If the files cannot be read, or do not have a column.
        """
        lacking = [name for name in columns if name not in self.columns and name not in OPTIONAL]
        if lacking:
            raise DataError(f"{self.path}: has no '{lacking[0]}', only {', '.join(self.columns)}")
        wanted, place = np.unique(rows, return_inverse=True)
        # one copy puts the rows in order, in a reading process into memory that it shares with its parent
        batch = {
            str(name): default_collate([values[i] for i in place])
            for name, values in self._read_rows(columns, wanted).items()
        }
        return batch | {ROWS: torch.from_numpy(rows)}

    def close(self) -> None:
        """Close the files; reading opens them again."""
        if self._files is not None:
            self._files.close()
            self._files = None

    def _read_rows(self, columns: Sequence[str], rows: NDArray[np.int64]) -> dict[str, list[NDArray[Any]]]:
        """Read ascending rows, each on its own in a list; columns that the files do not have are left out."""
        if self._files is None or self._pid != os.getpid():  # no handle is used on both sides of a fork
            self._files, self._pid = _open(self.path), os.getpid()
        files = self._files
        if isinstance(files, Pairs):
            blocks = [files.read(columns, rows[first], rows[last - 1] + 1) for first, last in runs(rows)]
            found = [name for name in columns if name in self.columns]
            return {name: [row for block in blocks for row in _usable(block[name])] for name in found}
        return {PairsKey.IMAGE: list(files.read(rows).flux)}


def _open(path: Path) -> Files:
    """Open galaxies in whichever format they are."""
    if find_kind(path, "image") is Kind.PAIRS:
        return open_pairs(path)
    images = open_pixel_files(path, "image")
    if isinstance(images, PictureFolder):
        raise DataError(
            f"{path}: PNG and JPEG are stretched already, and training stretches nanomaggies. Fetch FITS "
            "cut-outs of them"
        )
    return images


def _find_parts(files: Files) -> NDArray[np.uint8]:
    """Return the `Split` value of each row."""
    if isinstance(files, Pairs):
        split = files.split
        if PairsKey.RA in files.columns or (split == Split.VALIDATION).any():
            return split
        targetid = np.asarray(files.read([PairsKey.TARGETID])[PairsKey.TARGETID]).astype(np.uint64)
        held_out = targetid * _GOLDEN < np.uint64(VALIDATION_FRACTION * 2**64)
        return np.where((split == Split.TRAIN) & held_out, np.uint8(Split.VALIDATION), split)
    parts = [split_by_healpix(block.ra, block.dec) for block in files.blocks()]
    split = np.concatenate([np.zeros(0, np.uint8), *parts])
    if isinstance(files, ImageFolder):
        split[~files.is_usable] = Split.NONE
    return split


def _usable(values: NDArray[Any] | None) -> NDArray[Any]:
    """Return a column as torch wants it: nothing read-only, and no unsigned integers but bytes."""
    values = np.require(values, requirements=["W"])
    return values.astype(np.int32) if values.dtype == np.uint16 else values
