"""Builders of small HDF5 files as Stein et al., Multimodal Universe and PROVABGS lay them out, all seeded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from astroclip.schema import desi_wave


def write_hdf5(path: Path, datasets: dict[str, Any], chunks: dict[str, Any] | None = None) -> None:
    """Write datasets at the top level of a new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as h5:
        for name, values in datasets.items():
            h5.create_dataset(name, data=values, chunks=(chunks or {}).get(name))


def write_stein(
    path: Path,
    n: int = 10,
    *,
    seed: int = 0,
    size: int = 16,
    dtype: str = "f4",
    omit: Sequence[str] = (),
    replace: dict[str, Any] | None = None,
    upper_case: bool = False,
) -> dict[str, NDArray]:
    """Write a file of the Stein et al. layout and return its datasets; `inds` lies, as in the real files."""
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {
        "images": rng.normal(0, 1, (n, 3, size, size)).astype(dtype),
        "ra": rng.uniform(0, 360, n),
        "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
        "release": np.full(n, 9010, "i4"),
        "brickid": rng.integers(1, 662174, n).astype("i4"),
        "objid": rng.integers(0, 20000, n).astype("i4"),
        "inds": rng.permutation(np.arange(n) // 2 * 3),
        "flux": rng.uniform(1, 100, (n, 3)).astype("f4"),
        "z_spec": rng.uniform(0, 1, n).astype("f4"),
    }
    data |= replace or {}
    data = {k: np.asarray(v) for k, v in data.items() if k not in omit}
    chunks = {"images": (1, *data["images"].shape[1:])} if "images" in data and n else None
    write_hdf5(
        path,
        {k.upper() if upper_case else k: v for k, v in data.items()},
        {k.upper() if upper_case else k: v for k, v in (chunks or {}).items()},
    )
    return data


def write_multimodal_spectra(
    path: Path, object_id: ArrayLike = (11, 12, 13), *, seed: int = 0, omit: Sequence[str] = (), **other: Any
) -> dict[str, NDArray]:
    """Write DESI spectra as Multimodal Universe does; `other` gives other datasets."""
    rng = np.random.default_rng(seed)
    ids = np.asarray(object_id)
    n = len(ids)
    wave = desi_wave()
    data: dict[str, Any] = {
        "object_id": ids,
        "ra": rng.uniform(0, 360, n),
        "dec": rng.uniform(-80, 80, n),
        "spectrum_flux": rng.normal(2, 1, (n, wave.size)).astype("f4"),
        "spectrum_ivar": rng.uniform(0.5, 2, (n, wave.size)).astype("f4"),
        "spectrum_mask": rng.random((n, wave.size)) < 0.01,
        "spectrum_lambda": np.broadcast_to(wave.astype("f4"), (n, wave.size)),
        "Z": rng.uniform(0, 0.5, n),
        "ZWARN": rng.random(n) < 0.8,
    }
    data |= other
    data = {k: np.asarray(v) for k, v in data.items() if k not in omit}
    write_hdf5(path, data)
    return data


def write_multimodal_images(
    path: Path, object_id: ArrayLike, *, seed: int = 0, size: int = 20, omit: Sequence[str] = (), **other: Any
) -> dict[str, NDArray]:
    """Write Legacy Survey DR10 images as Multimodal Universe does; `other` gives other datasets."""
    rng = np.random.default_rng(seed)
    ids = np.asarray(object_id)
    n = len(ids)
    ivar = rng.uniform(1, 2, (n, 4, size, size)).astype("f4")
    ivar[rng.random(ivar.shape) < 0.01] = 0
    data: dict[str, Any] = {
        "object_id": ids.astype("S") if ids.dtype.kind == "U" else ids,
        "ra": rng.uniform(0, 360, n),
        "dec": rng.uniform(-80, 30, n),
        "image_array": rng.normal(0, 1, (n, 4, size, size)).astype("f4"),
        "image_ivar": ivar,
        "image_mask": rng.random((n, size, size)) < 0.5,
        "image_band": np.full((n, 4), [b"des-g", b"des-r", b"des-i", b"des-z"]),
        "image_scale": np.full((n, 4), 0.262, "f4"),
    }
    data |= other
    data = {k: np.asarray(v) for k, v in data.items() if k not in omit}
    write_hdf5(path, data)
    return data


def write_provabgs(
    path: Path, n: int = 20, *, seed: int = 0, layout: str = "astropy", omit: Sequence[str] = (), **other: Any
) -> dict[str, NDArray]:
    """Write a PROVABGS table as astropy does, or one dataset a column (`layout` "columns").

    The first three rows fail the usual cuts.
    """
    rng = np.random.default_rng(seed)
    data: dict[str, Any] = {
        "TARGETID": np.arange(39627866878511337, 39627866878511337 + n),
        "RA": rng.uniform(0, 360, n),
        "DEC": rng.uniform(-20, 80, n),
        "Z_HP": rng.uniform(0.01, 0.6, n),
        "ZERR": np.full(n, 1e-5),
        "MAG_G": rng.uniform(17, 21, n),
        "MAG_R": rng.uniform(16, 20, n),
        "MAG_Z": rng.uniform(16, 20, n),
        "MAG_W1": rng.uniform(16, 20, n),
        "PROVABGS_LOGMSTAR_BF": rng.uniform(8, 12, n),
        "PROVABGS_THETA_BF": rng.normal(0, 1, (n, 13)),
        "PROVABGS_MCMC": rng.normal(0, 1, (n, 10, 13)),
    }
    data["PROVABGS_LOGMSTAR_BF"][0] = -999.0
    data["MAG_G"][1] = np.nan
    data["MAG_Z"][2] = -1.0
    data |= other
    data = {k: np.asarray(v) for k, v in data.items() if k not in omit}
    if layout == "astropy":
        datasets: dict[str, Any] = {"__astropy_table__": Table(data).as_array()}
        datasets["__astropy_table__.__table_column_meta__"] = [b"datatype: ..."]
        write_hdf5(path, datasets)
    else:
        write_hdf5(path, data)
    return data
