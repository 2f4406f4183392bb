"""Describe spectra: DESI coadds, single or in a tree, and SDSS spectra."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.describe.describe_tables import describe_table
from astroclip.data.describe.file_report import (
    FileReport,
    Repeats,
    SkyRange,
    count_values,
    name_some,
    name_unreadable,
)
from astroclip.data.desi import ARMS, COMBINED_ARM, Coadd, find_coadds, open_coadd, read_redrock, redrock_path
from astroclip.data.fitsfile import FitsFile
from astroclip.data.sdss import open_specs, read_spec
from astroclip.errors import DataError

SPEC_FACTS = (
    "plate",
    "mjd",
    "fiber",
    "field",
    "catalogid",
    "ra",
    "dec",
    "redshift",
    "redshift_err",
    "zwarn",
    "spectype",
)
SPEC_KEY = ("PLATE", "MJD", "FIBERID", "FIELD", "CATALOGID")


def describe_coadd(path: Path, kind: str) -> FileReport:
    """Describe a DESI coadd: its FIBERMAP, the arms, which rows hold data, the Redrock file beside it."""
    report = describe_table(path, kind, hdu="FIBERMAP")
    with FitsFile(path) as file:
        arms = _arm_facts(file)
    with open_coadd(path) as coadd:
        live = coadd.is_measured()
        redrock, problems = _redrock_facts(path, coadd.targetid)
        problems = [*_dead_problem(coadd, live), *problems]
    facts = {"arms": arms, "rows with data": int(live.sum()), **report.facts, **redrock}
    return report._replace(facts=facts, problems=[*report.problems, *problems])


def describe_coadds(path: Path, kind: str) -> FileReport:
    """Describe all coadds below a folder by their FIBERMAPs; pixels are not read."""
    files, sky, types, unreadable = find_coadds(path), SkyRange(), Counter[str](), []
    bad_fibers = without = 0
    with Repeats() as repeats:
        for file in files:
            try:
                with open_coadd(file) as coadd:
                    table = coadd.fibermap
            except DataError as error:
                unreadable.append((file, str(error)))
                continue
            tree = np.full(len(table["TARGETID"]), "-".join(file.name.split("-")[1:3]))  # survey-program
            repeats.add([table["TARGETID"], tree])
            sky.add(*(table.get(name, np.full(len(tree), np.nan)) for name in ("TARGET_RA", "TARGET_DEC")))
            count_values(types, table.get("OBJTYPE", np.empty(0, str)))
            bad_fibers += int(np.count_nonzero(table.get("COADD_FIBERSTATUS", 0)))
            without += redrock_path(file) is None
        total, _ = repeats.find()
        rows = repeats.rows
    problems = [*sky.problems(), *name_unreadable(unreadable)]
    if total:
        problems.append(f"{total} spectra are of a target that has one already in its survey and program")
    if without:
        problems.append(f"{without} coadds have no Redrock file beside them")
    facts: dict[str, Any] = {"files": len(files), "unreadable": len(unreadable), **sky.facts()}
    facts |= {"OBJTYPE": dict(types), "COADD_FIBERSTATUS not 0": f"{bad_fibers} rows"}
    return FileReport(path, kind, rows, [], facts, problems)


def describe_spec(path: Path, kind: str) -> FileReport:
    """Describe an SDSS spectrum: its COADD table, wavelengths, and what SPECOBJ says of it."""
    columns = describe_table(path, kind, hdu="COADD").columns
    spec = read_spec(path)
    good = float((spec.mask == 0).mean())
    facts: dict[str, Any] = {
        "wave_angstrom": [float(spec.wave[0]), float(spec.wave[-1])],
        "pixels": len(spec.wave),
        "good pixels": f"{good:.1%}",
    }
    said = {name: getattr(spec, name) for name in SPEC_FACTS}
    facts |= {name: value for name, value in said.items() if value == value}  # noqa: PLR0124 - not NaN
    problems = [] if good else ["no good pixel"]
    if not np.isfinite(spec.ra):
        problems.append("no position: the file has neither SPECOBJ nor SPALL, or no PLUG_RA in it")
    return FileReport(path, kind, 1, columns, facts, problems)


def describe_specs(path: Path, kind: str) -> FileReport:
    """Describe all SDSS spectra below a folder by what SPECOBJ says; pixels are not read."""
    specs, sky = open_specs(path), SkyRange()
    sky.add(specs.who.ra, specs.who.dec)
    with Repeats() as repeats:
        repeats.add([specs.who.ids[name] for name in SPEC_KEY])
        total, rows = repeats.find()
    problems = [*sky.problems(), *name_unreadable(specs.problems)]
    if total:
        names = name_some((specs.files[row].name for row in rows), total)
        problems.append(f"{total} files are of a spectrum that an earlier file has: {names}")
    facts = {"files": len(specs.files), "unreadable": len(specs.problems), **sky.facts()}
    return FileReport(path, kind, len(specs.files), [], facts, problems)


def _arm_facts(file: FitsFile) -> dict[str, str]:
    """Return the wavelength range and number of pixels of each arm."""
    facts = {}
    for arm in (*ARMS, COMBINED_ARM):
        if f"{arm}_WAVELENGTH" in file:
            wave = file.pixels(f"{arm}_WAVELENGTH").ravel()
            facts[arm] = f"{wave.min():.1f}-{wave.max():.1f} Å, {wave.size} px"
    return facts


def _dead_problem(coadd: Coadd, live: NDArray[np.bool_]) -> list[str]:
    """Say which rows have no data, and how many of them the fibre's status explains."""
    dead = np.flatnonzero(~live)
    if not len(dead):
        return []
    status = coadd.fibermap.get("COADD_FIBERSTATUS", np.zeros(len(live)))[dead] != 0
    sky = coadd.fibermap.get("OBJTYPE", np.full(len(live), "TGT"))[dead] != "TGT"
    return [
        f"{len(dead)} rows have no data, all their pixels are masked or have inverse variance 0: "
        f"rows {name_some(dead, len(dead))} (from 0); of these {int(status.sum())} have a bad "
        f"COADD_FIBERSTATUS, {int(sky.sum())} are no target (OBJTYPE)"
    ]


def _redrock_facts(path: Path, targetid: NDArray[np.int64]) -> tuple[dict[str, Any], list[str]]:
    """Return what the Redrock file beside a coadd says, and whether it belongs to it."""
    beside = redrock_path(path)
    if beside is None:
        return {"redrock": "none beside it"}, []
    try:
        found = read_redrock(beside)
    except DataError as error:
        return {"redrock": beside.name}, [str(error)]
    if not np.array_equal(found["TARGETID"], targetid):
        return {"redrock": beside.name}, [f"{beside.name} has other targets: it belongs to another coadd"]
    types: Counter[str] = Counter()
    count_values(types, found["SPECTYPE"])
    z = found["Z"]
    return {
        "redrock": beside.name,
        "redrock Z": [float(z.min()), float(z.max())] if z.size else [],
        "redrock SPECTYPE": dict(types),
        "redrock ZWARN 0": f"{int((found['ZWARN'] == 0).sum())} rows",
    }, []
