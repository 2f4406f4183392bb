"""What others measured of the mock galaxies, and the truth: property table, volunteers' votes, truth.fits."""

import csv
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from astroclip.data.fitsfile import create_fits
from astroclip.mock import lines
from astroclip.mock import volunteers as votes
from astroclip.mock.desi_tables import columns
from astroclip.mock.truth import COLUMNS, Draw, Table, row_rng, transmission

PROVABGS_NAME = "BGS_ANY_full.provabgs.sv3.v0.hdf5"
VOTES_NAME = "gz_decals_volunteers_5.csv"
VOTES_LIMIT = 19.0  # r mag of galaxies shown to volunteers (the real campaign: 17.77)
FAILED_FITS = 0.01  # of property fits: PROVABGS_LOGMSTAR_BF = 0
CHAIN = 100  # samples of each posterior


def write_properties(path: Path, table: Table, seed: int) -> int:
    """Write a table like PROVABGS's of the bright galaxies with a spectrum; return its rows.

    One compound dataset as astropy writes tables. PROVABGS_THETA_BF has its 13 parameters: log M*, four
    star-formation history, two burst, two metallicity, three dust, redshift. Masses err by 0.08 dex.
    Z_MW, TAGE_MW (Gyr) and AVG_SFR (solar masses a year) are in no published file: users compute them from
    THETA_BF with the provabgs package; here they are the truth with its errors (0.1, 0.1 and 0.2 dex).
    """
    part = table[
        (table["SAMPLE"] == "BGS") & table["HAS_SPECTRUM"] & ~np.isin(table["KIND"], ("repeat", "bad_fiber"))
    ]
    n, rng = len(part), row_rng(seed, Draw.PROPERTIES)
    theta = np.concatenate([rng.dirichlet(np.ones(4), n), rng.random((n, 7))], axis=1)
    mass = part["LOGMSTAR"] + 0.08 * rng.standard_normal(n)
    theta = np.column_stack([mass, theta[:, :11], part["Z"]])
    chain = theta[:, None] + rng.standard_normal((n, CHAIN, 13)) * np.r_[0.08, np.full(11, 0.05), 0.0]
    mass[rng.random(n) < FAILED_FITS] = 0.0
    clear = part["FLUX_OBS"] / transmission(part["EBV"])
    mag = 22.5 - 2.5 * np.log10(np.maximum(clear, 1e-3))
    values: dict[str, Any] = {name: part[name] for name in ("TARGETID", "RA", "DEC")}
    values |= {"Z_HP": part["Z"], "ZERR": part["ZERR"]}
    values |= {f"MAG_{b}": mag[:, k].astype("f4") for k, b in enumerate(("G", "R", "Z", "W1"))}
    values |= {"PROVABGS_LOGMSTAR_BF": mass, "PROVABGS_THETA_BF": theta}
    values |= {"PROVABGS_MCMC": chain.astype("f4")}
    values |= {"Z_MW": part["METALLICITY"] * 10 ** (0.1 * rng.standard_normal(n))}
    values |= {"TAGE_MW": part["AGE"] * 10 ** (0.1 * rng.standard_normal(n))}
    values |= {"AVG_SFR": 10 ** (part["LOGSFR"] + 0.2 * rng.standard_normal(n))}
    with h5py.File(path, "w", libver="earliest") as file:
        data = file.create_dataset("__astropy_table__", data=columns(values), track_times=False)
        data.attrs["comment"] = "mock: Chabrier IMF, Planck 2018 (h = 0.6766), masses in solar masses"
    return n


def write_votes(path: Path, table: Table, seed: int) -> int:
    """Write volunteers' votes on the bright galaxies with an image (r < 19); return their number.

    Positions are off by 0.1 arcsec, as from another catalogue; 3 % of the rows lack the merging question.
    """
    bright = table["FLUX"][:, 1] > 10 ** (0.4 * (22.5 - VOTES_LIMIT))
    rows = np.flatnonzero(bright & table["HAS_IMAGE"] & (table["KIND"] != "repeat"))
    names = ["iauname", "ra", "dec", "redshift", *votes.vote_columns()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for index in rows:
            row, rng = table[index], row_rng(seed, Draw.VOTES, int(index))
            found: dict[str, Any] = {k: _short(v) for k, v in votes.draw_votes(row, rng).items()}
            if rng.random() < 0.03:
                found |= {name: "" for name in found if name.startswith("merging_")}
            dec = float(row["DEC"]) + 0.1 / 3600 * rng.standard_normal()
            ra = (float(row["RA"]) + 0.1 / 3600 / np.cos(np.deg2rad(dec)) * rng.standard_normal()) % 360
            found |= {"iauname": _iau_name(ra, dec), "ra": f"{ra:.8f}", "dec": f"{dec:.8f}"}
            writer.writerow(found | {"redshift": f"{float(row['Z_TRUE']):.6f}"})
    return len(rows)


def _short(value: float) -> float | str:
    return "" if np.isnan(value) else round(value, 6)


def _iau_name(ra: float, dec: float) -> str:
    """Return the truncated sexagesimal name, ``J103438.28-005109.6``."""
    hours, degrees = int(ra / 15 * 360000), int(abs(dec) * 36000)
    h, m, s = hours // 360000, hours // 6000 % 60, hours % 6000 / 100
    d, am, a = degrees // 36000, degrees // 600 % 60, degrees % 600 / 10
    return f"J{h:02d}{m:02d}{s:05.2f}{'-' if dec < 0 else '+'}{d:02d}{am:02d}{a:04.1f}"


def write_truth(path: Path, table: Table, seed: int) -> None:
    """Write the truth: HDU TRUTH, a row for each galaxy, sky fibre and planted problem, columns commented."""
    values = {name: table[name] for name in table.dtype.names or ()}
    header: list[dict[str, Any]] = [{"name": "SEED", "value": seed, "comment": "seed of the mock sky"}]
    for k, (_, _, _, comment) in enumerate(COLUMNS):
        header.append({"name": f"TCOMM{k + 1}", "value": comment[:67]})
    header += [{"name": f"LINE{k:02d}", "value": name} for k, name in enumerate(lines.LINES)]
    with create_fits(path) as hdus:
        hdus.write(None)
        hdus.write(columns(values), extname="TRUTH", units=[unit for _, _, unit, _ in COLUMNS], header=header)
