"""Legacy Survey sweep catalogues: the targets, and every neighbour that their cut-outs show."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.fitsfile import create_fits
from astroclip.mock import render as images
from astroclip.mock.cutout_files import draw_field
from astroclip.mock.desi_tables import columns, tractor_shape
from astroclip.mock.truth import Draw, Table, row_rng, transmission
from astroclip.schema import PIXSCALE

LIMIT = 23.5  # r mag: fainter neighbours are in the images and not in the catalogue
MAX_NEIGHBOURS = 48  # catalogued for one target: the numbering of objects leaves that much room
WISE_ERROR = (0.5, 1.0)  # nanomaggies in W1 and W2

_UNITS = {
    **dict.fromkeys(("RA", "DEC"), "deg"),
    **dict.fromkeys(("PMRA", "PMDEC"), "mas/yr"),
    **dict.fromkeys((f"PSFSIZE_{band}" for band in "GRZ"), "arcsec"),
    "SHAPE_R": "arcsec",
    "EBV": "mag",
    "REF_EPOCH": "yr",
}


def write_sweeps(folder: Path, table: Table, seed: int) -> int:
    """Write the catalogue, a file for each 10 by 5 deg as in DR9; return its number of rows.

    Neighbours belong to the brick of the target whose cut-out shows them, as objects beyond a brick's edge
    do in DR9; stars brighter than r = 20 move.
    """
    rows = np.flatnonzero((table["SAMPLE"] != "") & (table["KIND"] != "repeat"))
    catalogue = np.concatenate([_targets(table[rows]), _neighbours(rows, table, seed)])
    west = np.floor(catalogue["RA"] / 10).astype(int) * 10
    south = np.floor(catalogue["DEC"] / 5).astype(int) * 5
    target = folder / "sweep" / "9.0"
    target.mkdir(parents=True, exist_ok=True)
    for ra, dec in sorted(set(zip(west.tolist(), south.tolist(), strict=True))):
        inside = catalogue[(west == ra) & (south == dec)]
        inside = inside[np.lexsort((inside["OBJID"], inside["BRICKID"]))]
        name = f"sweep-{_corner(ra, dec)}-{_corner(ra + 10, dec + 5)}.fits"
        with create_fits(target / name) as hdus:
            hdus.write(None)
            hdus.write(inside, extname="SWEEP", units=[_unit(c) for c in inside.dtype.names])
    return len(catalogue)


def _corner(ra: int, dec: int) -> str:
    return f"{ra:03d}{'m' if dec < 0 else 'p'}{abs(dec):03d}"


def _unit(column: str) -> str:
    if column.startswith(("FLUX_IVAR", "PSFDEPTH")):
        return "1/nanomaggy^2"
    nanomaggy = column.startswith(("FLUX_", "FIBERFLUX_", "FIBERTOTFLUX_"))
    return "nanomaggy" if nanomaggy else _UNITS.get(column, "")


def _targets(part: Table) -> Table:
    fibre = part["FLUX_OBS"][:, :3] * part["FIBRE_SHARE"]
    still = np.zeros((len(part), 2))
    names = ("OBJID", "RA", "DEC", "FLUX_OBS", "FLUX_IVAR")
    values = {name: part[name] for name in names} | {"FIBERFLUX": fibre, "PM": still}
    return _sweep(part, values | tractor_shape(part))


def _neighbours(rows: NDArray[np.int64], table: Table, seed: int) -> Table:
    """Return the neighbours that the images of `rows` show, brighter than `LIMIT`."""
    owners, fields = [], []
    for index in rows:
        field = draw_field(table[index], int(index), seed)
        bright = np.flatnonzero(field.flux[:, 1] > 10 ** (0.4 * (22.5 - LIMIT)))[:MAX_NEIGHBOURS]
        owners.append(np.stack([np.full(len(bright), index), np.arange(len(bright))]))
        fields.append(images.NearbyGalaxies(*(values[bright] for values in field)))
    owner, number = np.concatenate(owners, axis=1)
    field = images.NearbyGalaxies(*(np.concatenate(values) for values in zip(*fields, strict=True)))
    part, rng = table[owner], row_rng(seed, Draw.SWEEP)
    n, star = len(part), field.radius == 0
    dec = part["DEC"] + field.y * PIXSCALE / 3600
    error = np.hstack([images.point_source_sigma(part["DEPTH"]), np.tile(WISE_ERROR, (n, 1))])
    flux = np.hstack([field.flux, field.flux[:, 2:3] * np.array([1.2, 0.8])])
    ellipticity = np.where(star, 0.0, (1 - field.axis_ratio) / (1 + field.axis_ratio))
    moving = star & (field.flux[:, 1] > 10)
    values = {
        "OBJID": (60 * (part["OBJID"] // 60) + 11 + number).astype("i4"),
        "RA": (part["RA"] - field.x * PIXSCALE / 3600 / np.cos(np.deg2rad(dec))) % 360,
        "DEC": dec,
        "TYPE": np.where(star, "PSF", np.where(field.radius < 0.45, "REX", "EXP")),
        "FLUX_OBS": flux + error * rng.standard_normal((n, 5)),
        "FLUX_IVAR": 1 / error**2,
        "FIBERFLUX": field.flux * (0.79 / (1 + (field.radius / 0.6) ** 1.5))[:, None],
        "SERSIC": np.where(star, 0.0, 1.0),
        "SHAPE_R": field.radius,
        "SHAPE_E1": ellipticity * np.cos(2 * field.angle),
        "SHAPE_E2": ellipticity * np.sin(2 * field.angle),
        "PM": np.where(moving, 8.0, 0.0)[:, None] * rng.standard_normal((n, 2)),
    }
    return _sweep(part, values)


def _sweep(part: Table, values: dict[str, Any]) -> Table:
    """Return rows in the columns of DR9 that users of galaxies read; `part` gives place and conditions."""
    n = len(part)
    found: dict[str, Any] = {name: part[name] for name in ("RELEASE", "BRICKID", "BRICKNAME")}
    found |= {name: values[name] for name in ("OBJID", "TYPE", "RA", "DEC")} | {"EBV": part["EBV"]}
    wide, grz = ("G", "R", "Z", "W1", "W2"), ("G", "R", "Z")
    by_band = (
        ("FLUX", wide, values["FLUX_OBS"]),
        ("FLUX_IVAR", wide, values["FLUX_IVAR"]),
        ("MW_TRANSMISSION", wide, transmission(part["EBV"])),
        ("FIBERFLUX", grz, values["FIBERFLUX"]),
        ("FIBERTOTFLUX", grz, values["FIBERFLUX"]),
        ("PSFSIZE", grz, part["PSFSIZE"]),
        ("PSFDEPTH", grz, 1 / images.point_source_sigma(part["DEPTH"]) ** 2),
    )
    for name, bands, array in by_band:
        found |= {f"{name}_{band}": array[:, k].astype("f4") for k, band in enumerate(bands)}
    found |= {f"NOBS_{band}": np.full(n, 3, "i2") for band in grz}
    found |= {name: values[name].astype("f4") for name in ("SERSIC", "SHAPE_R", "SHAPE_E1", "SHAPE_E2")}
    pm = values["PM"].astype("f4")
    found |= {"PMRA": pm[:, 0], "PMDEC": pm[:, 1]}
    found |= {"REF_EPOCH": np.where(pm[:, 0] != 0, 2015.5, 0).astype("f4")}
    return columns(found | {"MASKBITS": np.zeros(n, "i2"), "PHOTSYS": np.full(n, "S")})
