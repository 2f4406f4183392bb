"""Legacy Survey cut-outs in the HDF5 layout of Stein et al. 2021 (arXiv:2110.00023)."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from astroclip.mock import render as images
from astroclip.mock.desi_tables import tractor_shape
from astroclip.mock.truth import Draw, Table, row_rng, transmission
from astroclip.schema import CUTOUT_SIZE

ROWS_PER_FILE = 250  # cut-outs in a file (the published files hold 1,000,000)
SKIPPED_INDEX = 97  # after so many rows the published numbering skips one: `inds` is not the row number


def image_name(first: int, last: int) -> str:
    """Return the name of the file with cut-outs `first` (included) to `last` (excluded)."""
    return f"images_npix152_{first:09d}_{last:09d}.h5"


def imaged_rows(table: Table) -> NDArray[np.int64]:
    """Return the truth's rows that have a cut-out, in the order of the image files."""
    rows = np.flatnonzero(table["HAS_IMAGE"] & (table["KIND"] != "repeat"))
    return rows[np.argsort(table["IMAGE_INDEX"][rows], kind="stable")]


def make_cutout(table: Table, index: int, seed: int) -> NDArray[np.float32]:
    """Return the cut-out (3, 152, 152) of row `index` of the truth, in nanomaggies."""
    row, rng = table[index], row_rng(seed, Draw.IMAGE, index)
    image = images.render(row, rng, draw_field(row, index, seed))
    return images.observe(row, image, rng)


def draw_field(row: np.void, index: int, seed: int) -> images.NearbyGalaxies:
    """Return the neighbours of one target, the same for its image and for the catalogue."""
    return images.draw_neighbours(row, row_rng(seed, Draw.FIELD, index))


def write_images(folder: Path, first: int, table: Table, seed: int) -> int:
    """Write the image file that starts with cut-out `first`; return its number of rows."""
    chosen = imaged_rows(table)[first : first + ROWS_PER_FILE]
    path = folder / "south" / image_name(first, first + len(chosen))
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", libver="earliest") as file:
        stack = file.create_dataset(
            "images", (len(chosen), 3, CUTOUT_SIZE, CUTOUT_SIZE), "f4", track_times=False
        )
        for k, index in enumerate(chosen):
            stack[k] = make_cutout(table, int(index), seed)
        for name, values in _catalogue(table[chosen], seed, first).items():
            file.create_dataset(name, data=values, track_times=False)
    return len(chosen)


def _catalogue(part: Table, seed: int, first: int) -> dict[str, NDArray[Any]]:
    """Return the datasets beside `images`: bands g, r, z in columns."""
    n, flux = len(part), part["FLUX_OBS"][:, :3].astype("f4")
    rng = row_rng(seed, Draw.IMAGE_CATALOGUE, first)
    error = (
        0.02
        * (1 + part["Z_TRUE"])
        * 10 ** (0.2 * np.clip(22.5 - 2.5 * np.log10(part["FLUX"][:, 1]) - 19, 0, 4))
    )
    mean = np.abs(part["Z_TRUE"] + error * rng.standard_normal(n))
    with_z = rng.random(n) < 0.1  # had a redshift from earlier surveys
    rank = part["IMAGE_INDEX"]
    found: dict[str, NDArray[Any]] = {
        "ra": part["RA"],
        "dec": part["DEC"],
        "release": part["RELEASE"].astype("i4"),
        "brickid": part["BRICKID"],
        "objid": part["OBJID"],
        "inds": rank + rank // SKIPPED_INDEX,
        "flux": flux,
        "fiberflux": (flux * part["FIBRE_SHARE"]).astype("f4"),
        "fracin": np.ones((n, 3), "f4"),
        "ebv": part["EBV"],
        "maskbits": np.zeros(n, "i2"),
        "nobs": 2 + rng.integers(0, 4, (n, 3)).astype("i2"),
        "psfdepth": (1 / images.point_source_sigma(part["DEPTH"]) ** 2).astype("f4"),
        "psfsize": part["PSFSIZE"].astype("f4"),
        "source_type": tractor_shape(part)["TYPE"].astype("S3"),
        "transmission": transmission(part["EBV"])[:, :3].astype("f4"),
        "z_phot_mean": mean,
        "z_phot_median": mean + 0.1 * error * rng.standard_normal(n),
        "z_phot_std": error,
        "z_spec": np.where(with_z, part["Z_TRUE"], -99.0),
        "z_training": with_z,
    }
    for name, sigmas in {"l95": -1.96, "l68": -1.0, "u68": 1.0, "u95": 1.96}.items():
        found[f"z_phot_{name}"] = np.maximum(mean + sigmas * error, 0.0)
    return {k: v.astype("f4") if k.startswith("z_") and v.dtype.kind == "f" else v for k, v in found.items()}
