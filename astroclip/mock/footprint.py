"""Where the mock galaxies are, and the names that the surveys give to places and objects."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

NSIDE = 64  # of DESI's healpix tree, NESTED
RELEASE = 9010  # Legacy Survey DR9, DECam south
REGION = (350.0, 376.0, -4.0, 11.0)  # RA (beyond 360: past RA 0) and Dec limits in deg: 390 deg2
ROSETTE_DEG = 0.8  # radius of a patch
MIN_SEPARATION = 30.0  # arcsec between two targets, so that no cut-out shows another target


def draw_positions(n: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw RA, Dec (deg) of `n` objects in round patches, as DESI's survey validation observed.

    The patches (6 to 60, with n) lie in 390 deg2 across RA 0; the first is centred on RA 0. No two objects
    are nearer than 30 arcsec.
    """
    from scipy.spatial import cKDTree

    patches = int(np.clip(n // 200, 6, 60))
    low, high, south, north = REGION
    centre_ra = np.r_[360.0, rng.uniform(low + 1, high - 1, patches - 1)]
    centre_dec = rng.uniform(south + 1, north - 1, patches)
    kept = np.empty((0, 2))
    while len(kept) < n:
        m = 2 * n
        patch = rng.integers(patches, size=m)
        radius, angle = ROSETTE_DEG * np.sqrt(rng.random(m)), rng.uniform(0, 2 * np.pi, m)
        dec = centre_dec[patch] + radius * np.sin(angle)
        ra = centre_ra[patch] + radius * np.cos(angle) / np.cos(np.deg2rad(dec))
        kept = np.concatenate([kept, np.stack([ra, dec], axis=1)])
        flat = kept * [np.cos(np.deg2rad((south + north) / 2)), 1.0]
        pairs = cKDTree(flat).query_pairs(MIN_SEPARATION / 3600 * 1.02, output_type="ndarray")
        kept = np.delete(kept, np.unique(pairs.max(axis=1)) if len(pairs) else [], axis=0)
    return kept[:n, 0] % 360.0, kept[:n, 1]


def healpix(ra: Array, dec: Array, nside: int = NSIDE) -> NDArray[np.int64]:
    """Return the NESTED HEALPix pixel of positions in deg."""
    import healpy

    return np.asarray(healpy.ang2pix(nside, ra, dec, nest=True, lonlat=True), np.int64)


def brick(ra: Array, dec: Array) -> tuple[NDArray[np.int64], NDArray[np.str_]]:
    """Return Legacy Survey BRICKID and BRICKNAME.

    Rows of 0.25 deg are centred on -90, -89.75 ... 90 and each is cut into the even number that makes
    bricks of at most 0.25 deg; they are counted from 1, from the south and from RA 0.
    """
    centre = -90 + 0.25 * np.arange(721)
    nearest_equator = np.maximum(np.abs(centre) - 0.125, 0.0)
    columns = (np.ceil(1440 * np.cos(np.deg2rad(nearest_equator)) / 2) * 2).astype(np.int64)
    columns[[0, -1]] = 1  # the poles
    first = np.r_[0, np.cumsum(columns)]
    row = np.clip(((dec + 90.125) / 0.25).astype(np.int64), 0, 720)
    column = (ra / 360 * columns[row]).astype(np.int64)
    middle_ra, middle_dec = (column + 0.5) * 360 / columns[row], centre[row]
    names = [
        f"{int(a * 10):04d}{'p' if d >= 0 else 'm'}{int(abs(d) * 10):03d}"
        for a, d in zip(middle_ra, middle_dec, strict=True)
    ]
    return first[row] + column + 1, np.array(names, "U8")


def targetid(
    release: NDArray[np.integer], brickid: NDArray[np.integer], objid: NDArray[np.integer], sky: bool = False
) -> NDArray[np.int64]:
    """Return DESI's TARGETID: OBJID in bits 0-21, BRICKID in 22-41, RELEASE in 42-57, sky in 59."""
    parts = [np.asarray(v, np.int64) for v in (objid, brickid, release)]
    return parts[0] | parts[1] << 22 | parts[2] << 42 | int(sky) << 59


def desi_name(ra: Array, dec: Array) -> NDArray[np.str_]:
    """Return DESINAME, the truncated position: ``DESI J149.4654+01.7936``."""
    return np.array(
        [f"DESI J{int(a * 1e4) / 1e4:08.4f}{'-' if d < 0 else '+'}{int(abs(d) * 1e4) / 1e4:07.4f}"
         for a, d in zip(ra, dec, strict=True)],
        "U22",
    )  # fmt: skip
