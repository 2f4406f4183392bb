"""Open paired galaxies: astroclip's own file, or one of the two forms the published pairs come in."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from astroclip.data.pairs.dataset import Pairs, RowReader
from astroclip.data.pairs.pairs_format import Label, row_specs
from astroclip.data.pairs.published_pairs import open_hugging_face, open_released, released_groups
from astroclip.errors import DataError
from astroclip.schema import (
    PAIRS_FORMAT,
    PAIRS_LABELS,
    PAIRS_VERSION,
    WAVE_STEP,
    ColumnSpec,
    PairsKey,
    desi_wave,
)

_REBUILD = "Rebuild it: astroclip crossmatch --help"


def open_pairs(path: str | Path) -> Pairs:
    """Open a set of pairs: a pairs file, the published HDF5 file, or its Hugging Face dataset folder.

    Raises
    ------
    DataError
        If it does not exist, is cut short, is none of the three, has another format version, or a dataset
        is missing or of another shape.
    """
    source = Path(path)
    if source.is_dir():
        return open_hugging_face(source)
    if not source.exists():
        raise DataError(f"{path}: no such file")
    try:
        file = h5py.File(source, "r")
    except OSError as error:
        raise DataError(f"{path}: not a whole HDF5 file ({error}). Fetch it again, or: {_REBUILD}") from None
    try:
        return _open_hdf5(file, source)
    except BaseException:
        file.close()
        raise


def is_pairs(path: str | Path) -> bool:
    """Tell whether it says that it is a set of pairs; `open_pairs` says whether it is a whole one."""
    source = Path(path)
    if source.is_dir():
        return any((source / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        with h5py.File(source, "r") as file:
            return file.attrs.get("format") == PAIRS_FORMAT or bool(released_groups(file))
    except OSError:
        return False


def _open_hdf5(file: h5py.File, path: Path) -> Pairs:
    if file.attrs.get("format") == PAIRS_FORMAT:
        return _open_own(file, path)
    if released_groups(file):
        return open_released(file, path)
    found = ", ".join(list(file)[:10]) or "nothing"
    raise DataError(
        f"{path}: not a file of pairs: no attribute format = '{PAIRS_FORMAT}', nor groups 0 to 9 as in the "
        f"published file, but {found}. {_REBUILD}"
    )


def _open_own(file: h5py.File, path: Path) -> Pairs:
    """Check every dataset of a pairs file."""
    version, nrows = int(file.attrs.get("format_version", 0)), file.attrs.get("nrows")
    if version > PAIRS_VERSION:
        raise DataError(f"{path}: format {version}, this astroclip reads {PAIRS_VERSION}. Update astroclip")
    if version < PAIRS_VERSION or nrows is None:
        raise DataError(f"{path}: format {version}, need {PAIRS_VERSION}. {_REBUILD}")
    wave = _dataset(file, PairsKey.WAVE, path)
    if wave.shape != desi_wave().shape or np.abs(wave[:] - desi_wave()).max() > WAVE_STEP / 100:
        raise DataError(f"{path}: dataset 'wave' is not 3600 + 0.8 k Angstrom, {len(desi_wave())} values")
    labels = _read_labels(file, path)
    readers = {}
    for name, spec in row_specs(list(labels.values())).items():
        dataset = _dataset(file, name, path)
        _check_rows(dataset, spec, int(nrows), f"{path}: dataset '{name}'")
        readers[str(spec.name)] = _row_reader(dataset)
    return Pairs(
        path, int(nrows), readers, labels=labels, provenance=_read_provenance(file), close=file.close
    )


def _dataset(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        version = file.attrs["format_version"]
        raise DataError(
            f"{path}: there is no dataset '{name}' (format {version}, need {PAIRS_VERSION}). {_REBUILD}"
        )
    return dataset


def _check_rows(dataset: h5py.Dataset, spec: ColumnSpec, nrows: int, where: str) -> None:
    """Refuse a dataset of another shape or kind than the format's."""
    expected, kind = (nrows, *spec.shape), np.dtype(spec.dtype).kind
    if dataset.shape != expected or dataset.dtype.kind != kind:
        found = f"{dataset.dtype} {dataset.shape}"
        raise DataError(f"{where} is {found}, expected {np.dtype(spec.dtype)} {expected}. {_REBUILD}")


def _read_labels(file: h5py.File, path: Path) -> dict[str, Label]:
    group = file.get(PAIRS_LABELS, {})
    labels = {}
    for name in group:
        dataset = _dataset(file, f"{PAIRS_LABELS}/{name}", path)
        about = {key: str(dataset.attrs.get(key, "")) for key in ("unit", "source", "comment")}
        labels[name] = Label(name, dataset.dtype.str, **about)
    return labels


def _read_provenance(file: h5py.File) -> dict[str, Any]:
    about = {key: file.attrs.get(key) for key in ("program", "created")}
    about |= {key: json.loads(file.attrs.get(key, "{}")) for key in ("settings", "inputs")}
    split = file[PairsKey.SPLIT].attrs
    keys = ("fractions", "nside", "nest", "seed")
    return about | {"split": {key: np.asarray(split[key]).tolist() for key in keys if key in split}}


def _row_reader(dataset: h5py.Dataset) -> RowReader:
    """Return what reads rows of a dataset, texts as str."""

    def read(start: int, stop: int) -> NDArray[Any]:
        rows: NDArray[Any] = dataset[start:stop]
        return np.char.decode(rows, "utf-8") if rows.dtype.kind == "S" else rows

    return read
