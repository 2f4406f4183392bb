"""Builders of pairs: the file of our own, and the two published forms."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from astroclip.data.pairs import Label, SplitSettings, write_pairs

LABELS = [
    Label("log_mstar", "<f4", "dex(Msun)", "PROVABGS, Chabrier, h = 0.7"),
    Label("votes", "<i2", "", "Galaxy Zoo DECaLS", "-1: not asked"),
    Label("barred", "?"),
    Label("iauname", "S20"),
]
MADE = {
    "labels": LABELS,
    "settings": {"cut": "galaxy", "radius_arcsec": 1.0},
    "inputs": {"zall.fits": "sha256:1f"},
}
SPLIT = SplitSettings(seed=7)


def galaxies(n: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Build n pairs with every column and label."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.random((n, 3, 152, 152), np.float32),
        "flux": rng.random((n, 7781), np.float32),
        "ivar": rng.random((n, 7781), np.float32),
        "mask": rng.integers(0, 1 << 16, (n, 7781), np.int32),
        "targetid": 39_627_000_000_000_000 + np.arange(n),
        "survey": np.array(["sv3", "special"] * n)[:n],
        "program": np.array(["dark", "bright"] * n)[:n],
        "healpix": rng.integers(0, 49152, n),
        "release": np.full(n, 9010, np.int16),
        "brickid": rng.integers(0, 600_000, n),
        "objid": np.arange(n),
        "ra": rng.uniform(0, 360, n),
        "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
        "redshift": rng.uniform(0, 0.6, n),
        "separation_arcsec": rng.uniform(0, 1, n).astype(np.float32),
        "log_mstar": rng.normal(10, 1, n).astype(np.float32),
        "votes": rng.integers(-1, 40, n),
        "barred": rng.random(n) < 0.3,
        "iauname": np.array([f"J{i:06d}é" for i in range(n)]),
    }


def cut(block: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: values[start:stop] for name, values in block.items()}


def write(path: Path, block: dict[str, np.ndarray], stops: tuple[int, ...] = (), **options) -> Path:
    """Write pairs in blocks that end at `stops`."""
    n = len(block["targetid"])
    with write_pairs(
        path, options.pop("nrows", n), **({"created": "2024-06-07", "split": SPLIT} | MADE | options)
    ) as writer:
        for start, stop in pairwise([0, *stops, n]):
            writer.write(cut(block, start, stop))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def published(n: int, seed: int) -> dict[str, np.ndarray]:
    """Build n rows as published: the image as (x, y, band)."""
    rng = np.random.default_rng(seed)
    return {
        "images": rng.random((n, 152, 152, 3), np.float32),
        "spectra": rng.random((n, 7781, 1), np.float32),
        "redshifts": rng.random(n).astype(np.float32),
        "targetids": 39_627_000_000_000_000 + 100 * seed + np.arange(n),
    }


def write_published(path: Path, rows: list[dict[str, np.ndarray]]) -> Path:
    with h5py.File(path, "w") as file:
        for i, group in enumerate(rows):
            for name, values in group.items():
                file[f"{i}/{name}"] = values
    return path


def nested(values: np.ndarray) -> pa.Array:
    """Build an Arrow array of lists of lists, as Hugging Face stores Array2D and Array3D."""
    array = pa.array(values.reshape(-1))
    for size in values.shape[:0:-1]:
        array = pa.ListArray.from_arrays(np.arange(0, len(array) + 1, size, dtype=np.int32), array)
    return array


def save_to_disk(folder: Path, parts: list[dict[str, np.ndarray]], split: str | None = None) -> Path:
    """Write a dataset folder with one Arrow stream a part, in batches of two rows."""
    folder.mkdir(parents=True)
    files = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, rows in zip(files, parts, strict=True):
        features = ["image", "spectrum", "redshift", "targetid"]
        table = pa.table([nested(values) for values in rows.values()], features)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": f} for f in files], "_split": split})
    )
    (folder / "dataset_info.json").write_text("{}")
    return folder
