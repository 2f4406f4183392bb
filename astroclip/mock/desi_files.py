"""DESI's files: coadds and Redrock results of one HEALPix pixel, and the redshift catalogue.

HDUs are those of the data model as found in EDR and DR1. Checksums are left out: they carry the date of
writing.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.fitsfile import create_fits
from astroclip.mock import desi_tables as tables
from astroclip.mock import disturb, footprint
from astroclip.mock import observe as spectra
from astroclip.mock.truth import NO_GALAXY, Draw, Table, row_rng
from astroclip.schema import WAVE_UNIT

FLUX_BUNIT = "10**-17 erg/(s cm2 Angstrom)"
IVAR_BUNIT = "10**+34 (s2 cm4 Angstrom2) / erg2"
SPECPROD = "mock"


def coadd_path(survey: str, program: str, pixel: int, kind: str = "coadd") -> Path:
    """Return the path of a file in DESI's healpix tree."""
    return Path(
        "healpix", survey, program, str(pixel // 100), str(pixel), f"{kind}-{survey}-{program}-{pixel}.fits"
    )


def write_pixel(folder: Path, rows: NDArray[np.int64], table: Table, seed: int) -> None:
    """Write the coadd and the Redrock file of the truth's `rows`, which share survey, program and pixel."""
    part = table[rows]
    survey, program, pixel = str(part["SURVEY"][0]), str(part["PROGRAM"][0]), int(part["HEALPIX"][0])
    header = {
        "SPGRP": "healpix",
        "SPGRPVAL": pixel,
        "HPXPIXEL": pixel,
        "HPXNSIDE": footprint.NSIDE,
        "HPXNEST": True,
    }
    header |= {"SURVEY": survey, "PROGRAM": program, "SPECPROD": SPECPROD}
    fibermap, exposures = tables.make_fibermap(part), tables.make_exposures(part)
    arms = _observe(rows, table, seed)
    path = folder / coadd_path(survey, program, pixel)
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_fits(path) as hdus:
        hdus.write(None, header=header)
        write_table(hdus, fibermap, "FIBERMAP", {"SURVEY": survey, "PROGRAM": program})
        write_table(hdus, exposures, "EXP_FIBERMAP")
        for arm in spectra.load_arms():
            hdus.write(arm.wave, extname=f"{arm.name}_WAVELENGTH", header={"BUNIT": WAVE_UNIT})
            hdus.write(arms[arm.name][0], extname=f"{arm.name}_FLUX", header={"BUNIT": FLUX_BUNIT})
            hdus.write(arms[arm.name][1], extname=f"{arm.name}_IVAR", header={"BUNIT": IVAR_BUNIT})
            hdus.write(arms[arm.name][2], extname=f"{arm.name}_MASK")
            hdus.write(arms[arm.name][3], extname=f"{arm.name}_RESOLUTION")
        write_table(hdus, tables.make_scores(part, arms), "SCORES")
    with create_fits(folder / coadd_path(survey, program, pixel, "redrock")) as hdus:
        hdus.write(None, header=header)
        write_table(hdus, tables.make_redshifts(part), "REDSHIFTS")
        write_table(hdus, fibermap, "FIBERMAP")
        write_table(hdus, exposures, "EXP_FIBERMAP")
        write_table(hdus, tables.columns({"TARGETID": part["TARGETID"], **tables.tsnr2(part)}), "TSNR2")


def write_table(hdus: Any, table: Table, name: str, header: dict[str, Any] | None = None) -> None:
    """Append a binary table with DESI's units."""
    hdus.write(table, extname=name, units=[tables.unit(c) for c in table.dtype.names or ()], header=header)


def _observe(rows: NDArray[np.int64], table: Table, seed: int) -> dict[str, list[NDArray[Any]]]:
    """Simulate the spectra of `rows`: for each arm flux, ivar, mask (N, n) and resolution (N, 11, n)."""
    found: dict[str, list[spectra.ArmSpectrum]] = {arm.name: [] for arm in spectra.load_arms()}
    for index in rows:
        for arm, seen in zip(spectra.load_arms(), observe_row(table[index], int(index), seed), strict=True):
            found[arm.name].append(seen)
    return {name: [np.stack(part) for part in zip(*seen, strict=True)] for name, seen in found.items()}


def observe_row(row: np.void, index: int, seed: int) -> list[spectra.ArmSpectrum]:
    """Simulate the spectrum of one row of the truth; `index` is its place there."""
    if row["KIND"] in tables.NO_DATA:
        return [spectra.blank(arm) for arm in spectra.load_arms()]
    light: NDArray[np.floating] = np.zeros(len(spectra.WAVE))
    if row["KIND"] in NO_GALAXY:
        light = disturb.stranger_light(row, index, seed)
    elif row["SAMPLE"]:
        light = spectra.in_fibre(row, spectra.incoming(row))
        light += disturb.broad_lines(row, light)
    rng = row_rng(seed, Draw.SPECTRUM, index)
    moon, exposures = bool(row["PROGRAM"] == "bright"), int(row["NUMEXP"])
    variance, exptime = float(row["SKY_VARIANCE"]), float(row["EXPTIME"])
    seen = spectra.observe(light, variance, exptime, rng, moon=moon, exposures=exposures)
    return disturb.disturb(seen, row, row_rng(seed, Draw.DISTURBANCE, index + 1))


def write_zcatalog(path: Path, table: Table) -> None:
    """Write the redshift catalogue of all rows with a spectrum, and of those whose coadd is missing."""
    part = table[table["KIND"] != "image_only"]
    part = part[np.lexsort((part["TARGETID"], part["HEALPIX"], part["PROGRAM"], part["SURVEY"]))]
    fibermap = tables.make_fibermap(part)
    primary = part["KIND"] != "repeat"
    redshifts = tables.make_redshifts(part)
    first = {"TARGETID": part["TARGETID"], "SURVEY": part["SURVEY"], "PROGRAM": part["PROGRAM"]}
    first |= {"HEALPIX": part["HEALPIX"], "SPGRPVAL": part["HEALPIX"].astype("i4")}
    names = [c for c in redshifts.dtype.names or () if c not in ("TARGETID", "FITMETHOD")]
    first |= {c: redshifts[c] for c in names}
    first |= {c: fibermap[c] for c in fibermap.dtype.names or () if c not in first}
    first |= {k: v for k, v in tables.tsnr2(part).items() if k.count("_") == 1}
    for survey in ("sv3", "main"):
        prefix = "SV" if survey == "sv3" else "MAIN"
        here = part["SURVEY"] == survey
        first[f"{prefix}_NSPEC"] = (here * _count_spectra(part)).astype("i2")
        first[f"{prefix}_PRIMARY"] = here & primary
    first |= {"ZCAT_NSPEC": _count_spectra(part).astype("i2"), "ZCAT_PRIMARY": primary}
    path.parent.mkdir(parents=True, exist_ok=True)
    with create_fits(path) as hdus:
        hdus.write(None)
        write_table(hdus, tables.columns(first), "ZCATALOG", {"SPECPROD": SPECPROD})


def _count_spectra(part: Table) -> NDArray[np.int64]:
    _, inverse, counts = np.unique(part["TARGETID"], return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse], np.int64)
