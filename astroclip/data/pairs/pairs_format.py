"""The pairs file, format version 1: HDF5, row i of every dataset is pair i.

::

    /             attributes: format, format_version, nrows, program, created, bands, pixscale_arcsec,
                  settings and inputs (JSON: what made the file, input names with checksums)
    image         (N, 3, 152, 152) f4  nanomaggies; g, r, z; row; column
    flux, ivar    (N, 7781) f4         1e-17 erg/(s cm2 Å), and its inverse variance
    mask          (N, 7781) u2         desispec specmask bits, 0 = good
    wave          (7781,) f8           Å, vacuum; once
    targetid, survey, program, healpix, release, brickid, objid, ra, dec, redshift, separation_arcsec
                  (N,)                 `astroclip.schema.PAIRS_COLUMNS` has types, units, missing values
    SPLIT         (N,) u1              0 train, 1 validation, 2 test, 255 none; attributes: fractions, nside,
                                       nest, seed
    labels/NAME   (N,) any type        attributes: unit, source, comment

Every dataset has attributes `unit` and `comment`. Texts are UTF-8 of fixed width, padded with zeros.

Nothing is compressed: noise leaves gzip 14 % to gain, at 4 times the reading and 10 times the writing time.
Image, flux, ivar and mask are in chunks of `CHUNK_ROWS` rows, all allocated when the file is made, which HDF5
1.10 lays out one behind the other without an index. So blocks of consecutive rows read as fast as from a
contiguous dataset (1 row a chunk: 15 % slower; 16 and more: no faster, and single rows up to 4 times slower),
and it is known where row i will be before any is written: the writer puts rows there and never changes a
byte of HDF5's own.
"""

import json
import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from astroclip.data.pairs.split import SplitSettings
from astroclip.errors import UsageError
from astroclip.schema import (
    BANDS,
    PAIRS_COLUMNS,
    PAIRS_FORMAT,
    PAIRS_LABELS,
    PAIRS_VERSION,
    PIXSCALE,
    VERSION,
    WAVE_UNIT,
    ColumnSpec,
    PairsKey,
    desi_wave,
)

CHUNK_ROWS = 8  # 2.2 MB of images, 250 kB of flux
PROGRAM = f"astroclip {VERSION}"
_HDF5_VERSIONS = ("v110", "v110")  # oldest and newest file format: readable since HDF5 1.10 (2016)


class Label(NamedTuple):
    """A quantity known of the galaxies: a column to train on or to compare with.

    `dtype` is a NumPy type, ``S<bytes>`` for texts (UTF-8). `source` tells what the number rests on: the
    table, the code, its initial mass function and h. Missing values are NaN, an empty text, or what `comment`
    says.
    """

    name: str
    dtype: str = "<f4"
    unit: str = ""
    source: str = ""
    comment: str = ""


class Place(NamedTuple):
    """Where the rows of a dataset lie: row i takes `row_bytes` from ``offset + i * row_bytes`` on."""

    offset: int
    row_bytes: int


def check_labels(labels: Sequence[Label]) -> None:
    """Refuse labels that cannot be stored.

    Raises
    ------
    UsageError
        If a name is empty, repeated, has a slash, or is that of a column, or a type is none of bool,
        integer, float, ``S<bytes>``.
    """
    taken = {str(key) for key in PairsKey}
    for label in labels:
        if not label.name.strip(". ") or "/" in label.name or label.name in taken:
            raise UsageError(f"label '{label.name}': the name is empty, has a slash, or is taken. Rename it")
        try:
            dtype = np.dtype(label.dtype)
        except TypeError:
            raise UsageError(f"label '{label.name}': '{label.dtype}' is no NumPy type") from None
        if dtype.kind not in "biufS" or dtype.itemsize == 0:
            raise UsageError(
                f"label '{label.name}': type {label.dtype}, expected a bool, integer, float or S<bytes>"
            )
        taken.add(label.name)


def row_specs(labels: Sequence[Label]) -> dict[str, ColumnSpec]:
    """Return the dataset path and specification of everything that has one row a galaxy."""
    specs = {str(spec.name): spec for spec in PAIRS_COLUMNS}
    return specs | {
        f"{PAIRS_LABELS}/{label.name}": ColumnSpec(label.name, label.dtype, (), label.unit, label.comment)
        for label in labels
    }


def row_bytes(labels: Sequence[Label]) -> int:
    """Return the bytes that one pair takes."""
    return sum(_spec_bytes(spec) for spec in row_specs(labels).values())


def _spec_bytes(spec: ColumnSpec) -> int:
    """Return the bytes that one row of a dataset takes."""
    return np.dtype(spec.dtype).itemsize * prod(spec.shape)


class Frame:
    """The bytes of an HDF5 file apart from its rows; the file object that h5py writes into.

    HDF5 itself must not write to the disk: it crashes (2.0.0) when it cannot.

    Attributes
    ----------
    size : int
        Of the file, rows included.
    pages : dict of int to bytearray
        What is not zero: `PAGE` bytes by their offset.
    """

    PAGE = 4096

    def __init__(self) -> None:
        self.size, self.pages, self._at = 0, dict[int, bytearray](), 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to an offset from the begin, from here or from the end."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        """Return the offset."""
        return self._at

    def truncate(self, size: int) -> int:
        """Set the size."""
        self.size = size
        return size

    def flush(self) -> None:
        """Do nothing: all is in memory."""

    def write(self, data: memoryview) -> int:
        """Write bytes from here on."""
        rest = memoryview(data).cast("B")
        self.size = max(self.size, self._at + len(rest))
        while rest:
            page, at = divmod(self._at, self.PAGE)
            piece = rest[: self.PAGE - at]
            self.pages.setdefault(page * self.PAGE, bytearray(self.PAGE))[at : at + len(piece)] = piece
            rest, self._at = rest[len(piece) :], self._at + len(piece)
        return len(memoryview(data).cast("B"))

    def read(self, size: int) -> bytes:
        """Return `size` bytes from here on, zeros beyond the end."""
        pieces, stop = [], self._at + size
        while self._at < stop:
            page, at = divmod(self._at, self.PAGE)
            pieces.append(
                bytes(self.pages.get(page * self.PAGE, bytes(self.PAGE))[at : at + stop - self._at])
            )
            self._at += len(pieces[-1])
        return b"".join(pieces)


def make_frame(
    nrows: int,
    *,
    labels: Sequence[Label],
    split: SplitSettings,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    created: str,
) -> Frame:
    """Make a complete pairs file whose rows are all zero.

    Its bytes depend on the arguments and the HDF5 library alone.
    """
    frame = Frame()
    with h5py.File(frame, "w", libver=_HDF5_VERSIONS) as file:
        for name, spec in row_specs(labels).items():
            _make_dataset(file, name, nrows, spec)
        wave = file.create_dataset(PairsKey.WAVE, data=desi_wave(), dtype="<f8", track_times=False)
        wave.attrs.update(unit=WAVE_UNIT, comment="vacuum")
        for label in labels:
            file[PAIRS_LABELS][label.name].attrs["source"] = label.source
        file.require_group(PAIRS_LABELS)
        file[PairsKey.SPLIT].attrs.update(
            fractions=np.asarray(split.fractions, "<f8"), nside=split.nside, nest=True, seed=split.seed
        )
        file.attrs.update(
            format=PAIRS_FORMAT, format_version=PAIRS_VERSION, nrows=nrows, program=PROGRAM, created=created,
            bands="".join(BANDS), pixscale_arcsec=PIXSCALE,
            settings=json.dumps(settings, sort_keys=True), inputs=json.dumps(inputs, sort_keys=True),
        )  # fmt: skip
    return frame


def _make_dataset(file: h5py.File, name: str, nrows: int, spec: ColumnSpec) -> None:
    """Make a dataset with its place in the file allocated and not filled."""
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    dtype = np.dtype(spec.dtype)
    dataset = file.create_dataset(
        name,
        (nrows, *spec.shape),
        h5py.string_dtype("utf-8", dtype.itemsize) if dtype.kind == "S" else dtype,
        chunks=(min(CHUNK_ROWS, nrows), *spec.shape) if spec.shape and nrows else None,
        dcpl=early,
        fill_time="never",
        track_times=False,
    )
    dataset.attrs.update(unit=spec.unit, comment=spec.comment)


def find_places(path: Path, labels: Sequence[Label]) -> dict[str, Place]:
    """Return where the rows of each dataset lie in a file begun with `make_frame`."""
    places = {}
    with h5py.File(path, "r", locking=False) as file:
        for name, spec in row_specs(labels).items():
            dataset = file[name]
            chunked = dataset.chunks is not None
            offset = dataset.id.get_chunk_info(0).byte_offset if chunked else dataset.id.get_offset()
            places[name] = Place(offset or 0, _spec_bytes(spec))  # a dataset without rows has no offset
    return places
