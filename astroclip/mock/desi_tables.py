"""The tables of DESI's files: fibre map, exposures, scores, redshifts.

Columns, types and units are those of the data model (https://desidatamodel.readthedocs.io) as found in DR1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.mock import footprint
from astroclip.mock import observe as spectra
from astroclip.mock.fibre import POINT_IN_FIBRE
from astroclip.mock.truth import SKY_VARIANCE_R, Table

NO_DATA = ("stuck", "bad_fiber")  # rows of a coadd with IVAR = 0 everywhere
FIRST_MJD, FIRST_EXPID, FIRST_TILEID = 59500.2, 100000, 1000  # of the mock's observing season

_UNITS = {
    **dict.fromkeys(["TARGET_RA", "TARGET_DEC", "PLATE_RA", "PLATE_DEC", "FIBER_RA", "FIBER_DEC"], "deg"),
    **dict.fromkeys(["MEAN_FIBER_RA", "MEAN_FIBER_DEC", "STD_FIBER_RA", "STD_FIBER_DEC"], "deg"),
    **dict.fromkeys(["PMRA", "PMDEC"], "mas yr-1"),
    **dict.fromkeys(["MJD", "MIN_MJD", "MAX_MJD", "MEAN_MJD"], "d"),
    **dict.fromkeys(["EXPTIME", "COADD_EXPTIME"], "s"),
    **dict.fromkeys(["FIBERASSIGN_X", "FIBERASSIGN_Y", "FIBER_X", "FIBER_Y", "DELTA_X", "DELTA_Y"], "mm"),
    **dict.fromkeys(["MEAN_DELTA_X", "MEAN_DELTA_Y", "RMS_DELTA_X", "RMS_DELTA_Y"], "mm"),
    "REF_EPOCH": "yr",
    "EBV": "mag",
    "SHAPE_R": "arcsec",
    **dict.fromkeys([f"GAIA_PHOT_{b}_MEAN_MAG" for b in ("G", "BP", "RP")], "mag"),
    "PARALLAX": "mas",
    "LAMBDA_REF": "Angstrom",
}
# Squared template signal-to-noise per effective second in B, R, Z, from a real coadd; 12.15 TSNR2_LRG is 1 s
_TSNR2 = {
    "BGS": (0.718, 1.883, 4.330),
    "ELG": (1.363e-4, 0.02489, 0.09816),
    "GPBBACKUP": (0.3667, 12.01, 3.6e-8),
    "GPBBRIGHT": (0.05291, 1.762, 5.0e-9),
    "GPBDARK": (0.2958, 9.926, 2.8e-8),
    "LRG": (1.408e-3, 0.03447, 0.04643),
    "LYA": (0.1006, 2.77e-5, 0.0),
    "QSO": (3.553e-3, 6.80e-3, 0.02008),
}


def unit(column: str) -> str:
    """Return the unit of one of DESI's columns, empty where it has none."""
    if column.startswith(("FLUX_IVAR", "FIBERFLUX_IVAR")):
        return "nanomaggy^-2"
    return (
        "nanomaggy" if column.startswith(("FLUX_", "FIBERFLUX_", "FIBERTOTFLUX_")) else _UNITS.get(column, "")
    )


def columns(values: dict[str, Any]) -> Table:
    """Return named arrays as one structured array, text as bytes."""
    arrays = {name: np.asarray(v) for name, v in values.items()}
    arrays = {
        k: v.astype(f"S{v.dtype.itemsize // 4}") if v.dtype.kind == "U" else v for k, v in arrays.items()
    }
    table = np.zeros(len(next(iter(arrays.values()))), [(k, v.dtype, v.shape[1:]) for k, v in arrays.items()])
    for name, array in arrays.items():
        table[name] = array
    return table


def make_fibermap(part: Table) -> Table:
    """Return FIBERMAP for rows of the truth, in the columns of a DR1 coadd."""
    target, stuck = part["SAMPLE"] != "", part["KIND"] == "stuck"
    zero, zero_i8 = np.zeros(len(part), "f4"), np.zeros(len(part), "i8")
    desi, bgs = target_bits(part)
    values: dict[str, Any] = {
        "TARGETID": part["TARGETID"],
        "COADD_FIBERSTATUS": part["COADD_FIBERSTATUS"],
        "TARGET_RA": part["RA"],
        "TARGET_DEC": part["DEC"],
        "DESINAME": footprint.desi_name(part["RA"], part["DEC"]),
        "PMRA": zero,
        "PMDEC": zero,
        "REF_EPOCH": np.where(target, 2015.5, 0).astype("f4"),
        "FA_TARGET": desi,
        "FA_TYPE": np.where(part["KIND"] == "sky", 4, np.where(stuck, 0, 1)).astype("u1"),
        "OBJTYPE": np.where(target, "TGT", np.where(stuck, "", "SKY")),
        "SUBPRIORITY": np.modf(np.abs(part["TARGETID"]) * 0.6180339887)[0],
        "OBSCONDITIONS": np.where(part["PROGRAM"] == "bright", 4, 1).astype("i4"),
        **_photometry(part, target),
        "REF_ID": zero_i8,
        "REF_CAT": np.full(len(part), "", "U2"),
        **{f"GAIA_PHOT_{b}_MEAN_MAG": zero for b in ("G", "BP", "RP")},
        "PARALLAX": zero,
        "PHOTSYS": np.where(target, "S", ""),
        "PRIORITY_INIT": np.where(target, 2000, -1).astype("i8"),
        "NUMOBS_INIT": np.where(target, 1, -1).astype("i8"),
        "DESI_TARGET": desi,
        "BGS_TARGET": bgs,
        "MWS_TARGET": zero_i8,
        "SCND_TARGET": zero_i8,
        **_coadded(part, stuck),
    }
    return columns(values | {name: _mjd(part) for name in ("MIN_MJD", "MAX_MJD", "MEAN_MJD")})


def _photometry(part: Table, target: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Return the columns of FIBERMAP that come from the Legacy Survey's catalogue."""
    shape = tractor_shape(part)
    flux, ivar = (
        np.where(target[:, None], part[name], 0.0).astype("f4") for name in ("FLUX_OBS", "FLUX_IVAR")
    )
    fibre = (flux[:, :3] * part["FIBRE_SHARE"]).astype("f4")
    values = {
        "RELEASE": part["RELEASE"],
        "BRICKNAME": part["BRICKNAME"],
        "BRICKID": part["BRICKID"],
        "BRICK_OBJID": part["OBJID"],
        "MORPHTYPE": np.where(target, shape["TYPE"], "").astype("U4"),
        "EBV": part["EBV"],
    }
    for name, array, bands in (
        ("FLUX", flux, ("G", "R", "Z", "W1", "W2")),
        ("FLUX_IVAR", ivar, ("G", "R", "Z", "W1", "W2")),
        ("FIBERFLUX", fibre, "GRZ"),
        ("FIBERTOTFLUX", fibre, "GRZ"),
    ):
        values |= {f"{name}_{band}": array[:, k] for k, band in enumerate(bands)}
    values["MASKBITS"] = np.zeros(len(part), "i2")
    shapes = ("SERSIC", "SHAPE_R", "SHAPE_E1", "SHAPE_E2")
    return values | {name: np.where(target, shape[name], 0).astype("f4") for name in shapes}


def _coadded(part: Table, stuck: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """Return the columns of FIBERMAP that sum up the exposures."""
    zero = np.zeros(len(part), "f4")
    offset = {"MEAN_DELTA_X": 0.0, "RMS_DELTA_X": 0.006, "MEAN_DELTA_Y": 0.0, "RMS_DELTA_Y": 0.006}
    return {
        "PLATE_RA": part["RA"],
        "PLATE_DEC": part["DEC"],
        "COADD_NUMEXP": np.where(stuck, 0, part["NUMEXP"]).astype("i2"),
        "COADD_EXPTIME": np.where(stuck, 0, part["EXPTIME"]).astype("f4"),
        "COADD_NUMNIGHT": np.where(stuck, 0, 1).astype("i2"),
        "COADD_NUMTILE": np.where(stuck, 0, 1).astype("i2"),
        **{name: np.where(stuck, 1.588, value).astype("f4") for name, value in offset.items()},
        "MEAN_PSF_TO_FIBER_SPECFLUX": np.where(stuck, 0, POINT_IN_FIBRE).astype("f4"),
        "MEAN_FIBER_RA": part["RA"],
        "STD_FIBER_RA": zero,
        "MEAN_FIBER_DEC": part["DEC"],
        "STD_FIBER_DEC": zero,
    }


def target_bits(part: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return DESI_TARGET and BGS_TARGET: bits 0 LRG, 1 ELG, 32 SKY, 60 BGS_ANY, 62 SCND_ANY; 1 BGS_BRIGHT."""
    bits = {"LRG": 1, "ELG": 2, "BGS": 1 << 60, "SCND": 1 << 62}
    desi = np.zeros(len(part), np.int64)
    for sample, bit in bits.items():
        desi[part["SAMPLE"] == sample] = bit
    desi[part["KIND"] == "sky"] = 1 << 32
    return desi, np.where(part["SAMPLE"] == "BGS", 2, 0).astype(np.int64)


def tractor_shape(part: Table) -> dict[str, NDArray[Any]]:
    """Return TYPE, SERSIC, SHAPE_R, SHAPE_E1, SHAPE_E2 as the Tractor would choose them (Dey et al. 2019)."""
    bulge = part["BULGE_FRACTION"]
    radius = bulge * part["BULGE_RADIUS"] + (1 - bulge) * part["DISK_RADIUS"]
    mag = 22.5 - 2.5 * np.log10(np.maximum(part["FLUX"][:, 1], 1e-9))
    kind = np.select(
        [radius < 0.12, (radius < 0.45) | (mag > 22.5), bulge > 0.75, bulge < 0.15],
        ["PSF", "REX", "DEV", "EXP"],
        "SER",
    )
    ratio = np.where(part["FEATURED"], part["AXIS_RATIO"], part["BULGE_AXIS_RATIO"])
    ellipticity = np.where((kind == "PSF") | (kind == "REX"), 0, (1 - ratio) / (1 + ratio))
    return {
        "TYPE": kind,
        "SERSIC": np.select([kind == "PSF", kind == "DEV", kind == "SER"], [0.0, 4.0, 1 + 3 * bulge], 1.0),
        "SHAPE_R": np.where(kind == "PSF", 0.0, radius),
        "SHAPE_E1": ellipticity * np.cos(2 * part["ANGLE"]),
        "SHAPE_E2": ellipticity * np.sin(2 * part["ANGLE"]),
    }


def _mjd(part: Table) -> NDArray[np.float64]:
    return np.asarray(
        FIRST_MJD + part["HEALPIX"] % 97 + np.where(part["PROGRAM"] == "bright", 0.1, 0.0), float
    )


def make_exposures(part: Table) -> Table:
    """Return EXP_FIBERMAP: one row an exposure."""
    count = np.maximum(part["NUMEXP"], 1)
    rows = np.repeat(np.arange(len(part)), count)
    each = part[rows]
    number = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    stuck = each["KIND"] == "stuck"
    mjd = _mjd(each) + 0.02 * number
    petal = (each["HEALPIX"] % 10).astype("i2")
    device = (np.abs(each["TARGETID"]) % 500).astype("i4")
    zero_f4, zero_f8 = np.zeros(len(each), "f4"), np.zeros(len(each))
    values: dict[str, Any] = {
        "TARGETID": each["TARGETID"],
        "PRIORITY": np.full(len(each), 2000, "i4"),
        "SUBPRIORITY": np.modf(np.abs(each["TARGETID"]) * 0.6180339887)[0],
        "NIGHT": (20211013 + each["HEALPIX"] % 17).astype("i4"),
        "EXPID": (FIRST_EXPID + 10 * (each["HEALPIX"] % 997) + number).astype("i4"),
        "MJD": mjd,
        "TILEID": (FIRST_TILEID + each["HEALPIX"] % 997).astype("i4"),
        "EXPTIME": each["EXPTIME"] / np.repeat(count, count),
        "PETAL_LOC": petal,
        "DEVICE_LOC": device,
        "LOCATION": petal.astype("i8") * 1000 + device,
        "FIBER": (petal.astype("i4") * 500 + device).astype("i4"),
        "FIBERSTATUS": each["COADD_FIBERSTATUS"],
        "FIBERASSIGN_X": zero_f4,
        "FIBERASSIGN_Y": zero_f4,
        "LAMBDA_REF": np.full(len(each), 5400, "f4"),
        "PLATE_RA": each["RA"],
        "PLATE_DEC": each["DEC"],
        "NUM_ITER": np.full(len(each), 2, "i8"),
    }
    values |= dict.fromkeys(("FIBER_X", "FIBER_Y", "DELTA_X", "DELTA_Y"), zero_f8)
    values |= {"FIBER_RA": each["RA"], "FIBER_DEC": each["DEC"]}
    values["PSF_TO_FIBER_SPECFLUX"] = np.where(stuck, 0.0, POINT_IN_FIBRE)
    return columns(values | {f"IN_COADD_{a}": ~np.isin(each["KIND"], NO_DATA) for a in "BRZ"})


def make_scores(part: Table, arms: dict[str, list[NDArray[Any]]]) -> Table:
    """Return SCORES from the flux and ivar (N, n) of each arm."""
    values: dict[str, Any] = {"TARGETID": part["TARGETID"]}
    for name, (flux, ivar, _, _) in arms.items():
        values[f"INTEG_COADD_FLUX_{name}"] = (flux.sum(axis=1) * spectra.STEP).astype("f4")
        values[f"MEDIAN_COADD_FLUX_{name}"] = np.median(flux, axis=1).astype("f4")
        values[f"MEDIAN_COADD_SNR_{name}"] = np.median(flux * np.sqrt(ivar), axis=1).astype("f4")
    return columns(values | tsnr2(part))


def tsnr2(part: Table) -> dict[str, NDArray[np.float32]]:
    """Return the squared template signal-to-noise of each target class, in each arm and in all."""
    seconds = SKY_VARIANCE_R * 1000 / part["SKY_VARIANCE"]
    values = {
        f"TSNR2_{t}_{a}": (seconds * c[k]).astype("f4")
        for k, a in enumerate("BRZ")
        for t, c in _TSNR2.items()
    }
    return values | {f"TSNR2_{t}": (seconds * sum(c)).astype("f4") for t, c in _TSNR2.items()}


def make_redshifts(part: Table) -> Table:
    """Return REDSHIFTS, what Redrock would report."""
    n = len(part)
    return columns(
        {
            "TARGETID": part["TARGETID"],
            "Z": part["Z"],
            "ZERR": part["ZERR"],
            "ZWARN": part["ZWARN"],
            "CHI2": np.full(n, 7900.0),
            "COEFF": np.zeros((n, 10)),
            "FITMETHOD": np.full(n, "PCA", "U4"),
            "NPIXELS": np.full(n, 7928, "i8"),
            "SPECTYPE": part["SPECTYPE"],
            "SUBTYPE": np.full(n, "", "U20"),
            "NCOEFF": np.full(n, 10, "i8"),
            "DELTACHI2": part["DELTACHI2"],
        }
    )
