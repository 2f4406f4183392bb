"""A small survey on disk with one galaxy a reason: catalogue, tree of coadds, cut-outs, and the reasons."""

from pathlib import Path
from typing import Any, NamedTuple

import fitsio
import numpy as np
from builders import truncate, write_coadd
from builders_hdf5 import write_stein

from astroclip.data.targetid import encode_targetid
from astroclip.schema import Reason

BRICK = 5000
SIZE = 8  # px of the cut-outs
ARCSEC = 1 / 3600
# what is planted -> the reason under which it must be counted
PLANTED = {
    "by id": "PAIRED",
    "by position": "PAIRED",
    "sky fibre": "NOT_A_TARGET",
    "stuck fibre": "BAD_FIBER",
    "bad redshift": "BAD_REDSHIFT",
    "second best": "NOT_PRIMARY",
    "quasar": "NOT_A_GALAXY",
    "id elsewhere": "ID_TOO_FAR",
    "id twice": "AMBIGUOUS_ID",
    "nowhere": "NO_POSITION",
    "nowhere, by id": "PAIRED",
    "no image": "NO_IMAGE",
    "no coadd": "NO_COADD",
    "damaged coadd": "UNREADABLE_COADD",
    "not in coadd": "NOT_IN_COADD",
    "dead fibre": "NO_GOOD_PIXEL",
    "blank image": "NO_IMAGE_PIXEL",
    "across RA 0": "PAIRED",
    "moving": "PAIRED",
    "at the pole": "PAIRED",
    "other program": "PAIRED",
}
NAMES = list(PLANTED)
PAIRED = [i for i, name in enumerate(NAMES) if PLANTED[name] == "PAIRED"]
POSITION_ONLY = ("by position", "moving", "across RA 0", "at the pole")


class Survey(NamedTuple):
    """Files of the survey, its catalogue's columns, and the datasets of the cut-outs."""

    folder: Path
    catalogue: Path
    images: Path
    columns: dict[str, np.ndarray]
    stein: dict[str, np.ndarray]


def make_survey(folder: Path) -> Survey:
    """Write the survey; cut-out i is that of galaxy i, but for those that have none, and two at the end."""
    columns = _catalogue()
    path = folder / "zcatalog" / "zall.fits"
    path.parent.mkdir()
    write_catalogue(path, columns)
    _write_coadds(folder / "healpix", columns["TARGETID"])
    stein = _write_images(folder / "south", columns)
    return Survey(folder, path, folder / "south", columns, stein)


def write_catalogue(path: Path, columns: dict[str, np.ndarray], **header: Any) -> None:
    units = {"TARGET_RA": "deg", "TARGET_DEC": "deg", "PMRA": "mas yr-1", "PMDEC": "mas yr-1"}
    with fitsio.FITS(path, "rw", clobber=True) as file:
        file.write(
            list(columns.values()),
            names=list(columns),
            extname="ZCATALOG",
            header=header,
            units=[units.get(name, "") for name in columns],
        )


def reasons_by_name(path: Path, rows: int) -> dict[str, str]:
    """Return the reason of each galaxy from the table of rejects."""
    rejects = fitsio.read(path)
    found = dict.fromkeys(NAMES[:rows], "PAIRED")
    for row, reason in zip(rejects["ROW"], rejects["REASON"].astype(str), strict=True):
        found[NAMES[row]] = reason.strip()
    return found


def counts_of(reasons: list[str]) -> dict[str, int]:
    """Return how many there are of each reason."""
    return {r.name: reasons.count(r.name) for r in Reason if r.name in reasons}


def _set(values: Any, **at: Any) -> np.ndarray:
    """Change values by the names of galaxies (blanks and commas as _)."""
    values = np.asarray(values)
    for name, value in at.items():
        values[NAMES.index(name.replace("__", ", ").replace("_", " "))] = value
    return values


def _catalogue() -> dict[str, np.ndarray]:
    n = len(NAMES)
    objid = np.arange(1, n + 1, dtype="i4")
    release = np.full(n, 9010, "i2")
    nan = {"nowhere": np.nan, "nowhere__by_id": np.nan}
    return {
        "TARGETID": encode_targetid(release, BRICK, objid),
        "SURVEY": np.full(n, "main", "S7"),
        "PROGRAM": _set(np.full(n, "bright", "S6"), other_program="dark"),
        "HEALPIX": _set(np.full(n, 101, "i4"), no_coadd=999, damaged_coadd=102, by_position=103),
        "Z": np.linspace(0.1, 0.5, n),
        "ZERR": np.full(n, 1e-5),
        "ZWARN": _set(np.zeros(n, "i8"), bad_redshift=4),
        "SPECTYPE": _set(np.full(n, "GALAXY", "S6"), quasar="QSO"),
        "OBJTYPE": _set(np.full(n, "TGT", "S3"), sky_fibre="SKY"),
        "COADD_FIBERSTATUS": _set(np.zeros(n, "i4"), stuck_fibre=512),
        "ZCAT_PRIMARY": _set(np.ones(n, bool), second_best=False),
        "TARGET_RA": _set(np.linspace(10, 30, n), across_RA_0=359.99995, at_the_pole=100.0, **nan),
        "TARGET_DEC": _set(np.linspace(-5, 5, n), at_the_pole=89.9999, **nan),
        "PMRA": _set(np.zeros(n, "f4"), moving=1000.0),
        "PMDEC": _set(np.zeros(n, "f4"), moving=-500.0),
        "REF_EPOCH": _set(np.zeros(n, "f4"), moving=2010.0),
        "RELEASE": release,
        "BRICKID": np.full(n, BRICK, "i4"),
        "BRICK_OBJID": objid,
    }


def _write_coadds(root: Path, targetid: np.ndarray) -> None:
    def at(program: str, pixel: int) -> Path:
        name = f"coadd-main-{program}-{pixel}.fits"
        return root / "main" / program / str(pixel // 100) / str(pixel) / name

    there = np.delete(targetid, NAMES.index("not in coadd"))[::-1]
    first = at("bright", 101)
    write_coadd(first, targetid=there, seed=1)
    dead = int(np.flatnonzero(there == targetid[NAMES.index("dead fibre")])[0])
    with fitsio.FITS(first, "rw") as file:
        for arm in "BRZ":
            ivar = file[f"{arm}_IVAR"].read()
            ivar[dead] = 0
            file[f"{arm}_IVAR"].write(ivar)
    write_coadd(at("bright", 102), targetid=targetid[:2])
    truncate(at("bright", 102), 0.7)
    write_coadd(at("bright", 103), targetid=targetid[:2], seed=2)
    write_coadd(at("dark", 101), targetid=targetid[-2:], seed=3)


def _write_images(folder: Path, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Write the cut-outs in two files, in an order of their own."""
    n = len(NAMES)
    rng = np.random.default_rng(5)
    ra, dec = columns["TARGET_RA"].copy(), columns["TARGET_DEC"].copy()
    objid = columns["BRICK_OBJID"].astype("i4")
    number = np.arange(n)
    for i, name in enumerate(NAMES):
        objid[i] += 1000 * (name in POSITION_ONLY)  # somebody else's id
    _set(ra, across_RA_0=0.00005, nowhere__by_id=77.0)
    _set(dec, nowhere__by_id=7.0)
    pole, moving, far = (NAMES.index(name) for name in ("at the pole", "moving", "id elsewhere"))
    ra[pole] += 60.0  # 0.36 arcsec
    ra[moving] += 6.0 * ARCSEC / np.cos(np.radians(dec[moving]))  # 2010 to 2016
    dec[moving] -= 3.0 * ARCSEC
    dec[NAMES.index("by position")] += 0.4 * ARCSEC
    dec[far] += 40 * ARCSEC
    twice = NAMES.index("id twice")
    dec[twice] += 20 * ARCSEC
    absent = [NAMES.index(name) for name in ("no image", "nowhere")]
    number = np.concatenate([np.delete(number, absent), [twice]])
    number = rng.permutation(number)
    images = rng.normal(0, 1, (len(number), 3, SIZE, SIZE)).astype("f4")
    images[number == NAMES.index("blank image")] = 0
    data = {
        "images": images,
        "ra": ra[number],
        "dec": dec[number],
        "release": np.full(len(number), 9010, "i4"),
        "brickid": np.full(len(number), BRICK, "i4"),
        "objid": objid[number],
        "flux": np.zeros((len(number), 3), "f4"),
        "inds": np.zeros(len(number), "i8"),
        "z_spec": np.zeros(len(number), "f4"),
    }
    half = len(number) // 2
    for k, part in enumerate((slice(0, half), slice(half, None))):
        path = folder / f"images_npix152_{k:09d}_{k + 1:09d}.h5"
        write_stein(path, len(number[part]), replace={name: values[part] for name, values in data.items()})
    return data | {"number": number}
