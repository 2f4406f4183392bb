"""The published pairs of Parker et al. 2024, as HDF5 and as a Hugging Face dataset.

HDF5 (`astroclip_desi.1.1.5.h5`): groups ``0`` to ``9``, each with images (n, 152, 152, 3), spectra
(n, 7781, 1), redshifts, targetids. Hugging Face: a folder from ``save_to_disk`` with features image,
spectrum, redshift, targetid, read by mapping its Arrow files into memory.

Both store an image as (x, y, band); here it becomes (band, row, column) = (band, y, x). Neither has ivar,
mask, positions or labels.
"""

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from astroclip.data.pairs.dataset import Pairs, RowReader
from astroclip.errors import DataError
from astroclip.schema import CUTOUT_SIZE, N_WAVE, PairsKey, Split

TRAIN_FRACTION = 0.8  # of each group's rows, the first ones; the rest is test
_STORED_IMAGE = (CUTOUT_SIZE, CUTOUT_SIZE, 3)
_SPECTRUM_SHAPES = ((N_WAVE, 1), (N_WAVE,))
# dataset of a group, feature of the Hugging Face form, name here
_NAMES = (
    ("images", "image", PairsKey.IMAGE),
    ("spectra", "spectrum", PairsKey.FLUX),
    ("redshifts", "redshift", PairsKey.REDSHIFT),
    ("targetids", "targetid", PairsKey.TARGETID),
)
_SPLITS = {
    "train": Split.TRAIN,
    "validation": Split.VALIDATION,
    "val": Split.VALIDATION,
    "valid": Split.VALIDATION,
    "test": Split.TEST,
}


def _to_own(key: PairsKey, stored: NDArray[Any]) -> NDArray[Any]:
    """Turn stored rows of a column into shape, order and type of a pairs file."""
    if key is PairsKey.IMAGE:
        rows = stored.reshape(-1, *_STORED_IMAGE).transpose(0, 3, 2, 1)  # x, y, band -> band, y, x
        return np.ascontiguousarray(rows, np.float32)
    if key is PairsKey.FLUX:
        return stored.reshape(-1, N_WAVE).astype(np.float32, copy=False)
    return stored.reshape(-1).astype(np.int64 if key is PairsKey.TARGETID else np.float64, copy=False)


def _check_shape(key: PairsKey, shape: tuple[int, ...], where: str) -> None:
    """Refuse rows of another shape than the published ones."""
    expected = {PairsKey.IMAGE: (_STORED_IMAGE,), PairsKey.FLUX: _SPECTRUM_SHAPES}.get(key, ((), (1,)))
    if shape not in expected:
        raise DataError(
            f"{where}: rows have shape {shape}, expected {expected[0]}, as in the published pairs"
        )


def _constant_reader(values: NDArray[np.uint8]) -> RowReader:
    return lambda start, stop: values[start:stop]


# --- HDF5 ------------------------------------------------------------------------------------------------


def released_groups(file: h5py.File) -> list[str]:
    """Return the names of the groups of pairs, in order: those that are numbers."""
    return sorted((name for name in file if name.isdecimal()), key=int)


def open_released(file: h5py.File, path: Path) -> Pairs:
    """Open the published HDF5 file, its groups one after the other.

    Raises
    ------
    DataError
        If a group lacks a dataset, or one has another shape.
    """
    groups = released_groups(file)
    parts: dict[PairsKey, list[h5py.Dataset]] = {key: [] for _, _, key in _NAMES}
    for group in groups:
        for name, _, key in _NAMES:
            dataset = file[group].get(name)
            if not isinstance(dataset, h5py.Dataset):
                raise DataError(f"{path}: group '{group}' has no dataset '{name}', as the published file has")
            _check_shape(key, dataset.shape[1:], f"{path}: dataset '{group}/{name}'")
            parts[key].append(dataset)
        lengths = {name: len(parts[key][-1]) for name, _, key in _NAMES}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{path}: the datasets of group '{group}' differ in length: {lengths}")
    sizes = [len(part) for part in parts[PairsKey.TARGETID]]
    edges = np.concatenate([[0], np.cumsum(sizes)])
    readers = {str(key): _group_reader(key, datasets, edges) for key, datasets in parts.items()}
    splits = [np.repeat([Split.TRAIN, Split.TEST], [n_train, n - n_train]).astype(np.uint8)
              for n, n_train in ((n, int(TRAIN_FRACTION * n)) for n in sizes)]  # fmt: skip
    readers[str(PairsKey.SPLIT)] = _constant_reader(np.concatenate(splits))
    return Pairs(path, int(edges[-1]), readers, close=file.close)


def _group_reader(key: PairsKey, parts: Sequence[h5py.Dataset], edges: NDArray[np.int64]) -> RowReader:
    """Return what reads rows counted over all groups; group i begins at row ``edges[i]``."""

    def read(start: int, stop: int) -> NDArray[Any]:
        touched = [i for i in range(len(parts)) if edges[i] < stop and start < edges[i + 1]] or [0]
        rows = [_to_own(key, parts[i][max(start - edges[i], 0) : max(stop - edges[i], 0)]) for i in touched]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    return read


# --- Hugging Face ----------------------------------------------------------------------------------------


def open_hugging_face(folder: Path) -> Pairs:
    """Open a dataset folder, or a folder of splits (``dataset_dict.json``), these one after the other.

    A folder without splits is in the part that its ``state.json`` names, or in none (`Split.NONE`).

    Raises
    ------
    DataError
        If it is no such folder, an Arrow file is missing or cut short, a feature is missing or has another
        shape, or rows are missing.
    """
    index = folder / "dataset_dict.json"
    splits = _read_json(index)["splits"] if index.is_file() else []
    tables = [_read_table(folder / split) for split in splits] if splits else [_read_table(folder)]
    names = splits or [_read_json(folder / "state.json").get("_split")]
    table = pa.concat_tables([table.select([feature for _, feature, _ in _NAMES]) for table in tables])
    readers = {}
    for _, feature, key in _NAMES:
        column = table[feature]
        if table.num_rows:
            _check_shape(key, _row_shape(column), f"{folder}: feature '{feature}'")
        readers[str(key)] = _arrow_reader(key, column)
    parts = [
        np.full(len(t), _SPLITS.get(n, Split.NONE), np.uint8) for n, t in zip(names, tables, strict=True)
    ]
    readers[str(PairsKey.SPLIT)] = _constant_reader(np.concatenate(parts))
    return Pairs(folder, table.num_rows, readers, close=lambda: None)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{path.parent}: not a folder of pairs: there is no {path.name}, as a Hugging Face dataset has"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: expected a JSON object")
    return values


def _read_table(folder: Path) -> pa.Table:
    """Map the Arrow files of a dataset folder into memory."""
    state = _read_json(folder / "state.json")
    if state.get("_indices_files"):
        raise DataError(f"{folder}: its rows are reordered by an index. Save it after flatten_indices()")
    tables = [_map_arrow(folder / entry["filename"]) for entry in state.get("_data_files", [])]
    if not tables:
        raise DataError(f"{folder}: state.json names no data files")
    for _, feature, _ in _NAMES:
        if any(feature not in table.column_names for table in tables):
            raise DataError(f"{folder}: has no feature '{feature}', only {', '.join(tables[0].column_names)}")
    return pa.concat_tables(tables)


def _map_arrow(path: Path) -> pa.Table:
    """Map one Arrow stream; one that is cut between two batches has no end mark."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
            table = stream.read_all()
            source.seek(source.size() - 8)
            ended = source.read(8) == b"\xff\xff\xff\xff\0\0\0\0"
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a whole Arrow stream ({error}). Fetch it again") from None
    if not ended:
        raise DataError(f"{path}: the Arrow stream has no end: it is cut short. Fetch it again")
    return table


def _flat(array: pa.Array) -> pa.Array:
    """Take one level of lists off; an extension type is its storage."""
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    return array.flatten()


def _is_nested(array: pa.Array) -> bool:
    return isinstance(array, pa.ExtensionArray) or pa.types.is_nested(array.type)


def _row_shape(column: pa.ChunkedArray) -> tuple[int, ...]:
    """Return the lengths of the nested lists of the first row."""
    shape: list[int] = []
    array = column.slice(0, 1).chunk(0)
    while _is_nested(array):
        array = _flat(array)
        shape.append(len(array) // prod(shape, start=1))
    return tuple(shape)


def _arrow_reader(key: PairsKey, column: pa.ChunkedArray) -> RowReader:
    """Return what reads rows of a column; nothing is copied but what is asked for."""

    def read(start: int, stop: int) -> NDArray[Any]:
        rows = []
        for array in column.slice(start, stop - start).chunks:
            while _is_nested(array):
                array = _flat(array)  # noqa: PLW2901
            rows.append(array.to_numpy(zero_copy_only=False))
        return _to_own(key, np.concatenate(rows) if rows else np.empty(0))

    return read
