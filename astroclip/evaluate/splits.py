"""Parts of a table that are scored on their own: bins of magnitude, redshift and SNR; survey halves; flags.

Shapes: n rows of a block.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.schema import EMBED_FLAG, PREDICT_FLAG, redshift_names
from astroclip.tables import Table
from astroclip.tables.missing import Taken, to_floats, to_quantity, to_texts
from astroclip.tables.positions import find_position

MAGNITUDES = ("MAG_R", "R_MAG", "DERED_MAG_R")
FLUXES = ("FLUX_R",)  # nanomaggies
SNRS = ("SNR", "MEDIAN_COADD_SNR_R", "SN_MEDIAN_ALL", "SN_MEDIAN")
RELEASES = ("RELEASE", "IMAGE_RELEASE")
NORTH_RELEASES = (8001, 9011)  # BASS and MzLS; DECam is 8000, 9010, 9012, and all since DR10
NORTH_DEC = 32.375  # deg, above which the Legacy Survey images come from BASS and MzLS
MOST_BINS, BIN_ROWS = 6, 100  # a split has so many bins at most, of so many rows at least

Block = Mapping[str, NDArray[Any]]


class Subset(NamedTuple):
    """Rows that are scored together: of `split` those named `label`; of a bin its edges and median."""

    split: str
    label: str
    rows: NDArray[np.bool_]
    low: float | None = None
    high: float | None = None
    middle: float | None = None


class Splits:
    """The columns by which a table can be split, and their values, block by block.

    Parameters
    ----------
    catalog
    magnitude, snr, redshift, ra, dec
        Columns; by default guessed from usual names, and a magnitude from FLUX_R.

    Raises
    ------
    DataError
        If a column that is named does not exist, or positions have no unit of angle.
    """

    def __init__(
        self,
        catalog: Table,
        magnitude: str | None = None,
        snr: str | None = None,
        redshift: str | None = None,
        ra: str | None = None,
        dec: str | None = None,
    ) -> None:
        def column(named: str | None, *usual: str) -> str | None:
            return catalog.column(named).name if named else catalog.find(*usual)

        found = {
            "magnitude": column(magnitude, *MAGNITUDES),
            "redshift": column(redshift, *redshift_names(catalog.columns)),
            "snr": column(snr, *SNRS),
            "flux": None if column(magnitude, *MAGNITUDES) else catalog.find(*FLUXES),
            "photsys": catalog.find("PHOTSYS"),
            "release": catalog.find(*RELEASES),
            "predict_flag": catalog.find(PREDICT_FLAG),
            "embed_flag": catalog.find(EMBED_FLAG),
        }
        self.columns = {name: column for name, column in found.items() if column is not None}
        self.position = find_position(catalog, ra, dec)

    @property
    def names(self) -> list[str]:
        """Names of all columns that `take` needs."""
        return [*self.columns.values(), *(self.position.columns if self.position else [])]

    @property
    def described(self) -> dict[str, str]:
        """The columns by what they are."""
        return self.columns | ({"dec": self.position.dec.column.name} if self.position else {})

    def take(self, block: Block) -> dict[str, NDArray]:
        """Return values (n,): `magnitude`, `redshift`, `snr` (NaN unknown), `half` (N, S), `flagged`."""
        held = {name: block[column] for name, column in self.columns.items()}
        values: dict[str, NDArray] = {}
        for name in ("magnitude", "redshift", "snr", "flux"):
            if name in held:
                column = self.columns[name]
                values[name] = to_quantity(held[name], column, Taken(), f"column '{column}'").astype(
                    np.float32
                )
        if "flux" in held:
            with np.errstate(divide="ignore", invalid="ignore"):
                values["magnitude"] = 22.5 - 2.5 * np.log10(values.pop("flux"))
        if self.position:
            held["dec"] = self.position.read(block)[1]
        if {"photsys", "release", "dec"} & held.keys():
            values["half"] = _halves(held)
        flags = [
            np.ma.filled(held[name] != 0, True) for name in ("predict_flag", "embed_flag") if name in held
        ]
        if flags:
            values["flagged"] = np.any(flags, axis=0)
        return values


def _halves(held: Block) -> NDArray[np.str_]:
    """Return N or S by PHOTSYS, else by release, else by declination; blank where nothing tells."""
    half = np.full(len(next(iter(held.values()))), "", "U1")
    if "dec" in held:
        half[held["dec"] > NORTH_DEC] = "N"
        half[held["dec"] <= NORTH_DEC] = "S"
    if "release" in held:
        release = to_floats(held["release"])
        half = np.where(release > 0, np.where(np.isin(release, NORTH_RELEASES), "N", "S"), half)
    if "photsys" in held:
        photsys = to_texts(held["photsys"])
        half = np.where(np.isin(photsys, ("N", "S")), photsys, half)
    return half.astype("U1")


def part_rows(values: Mapping[str, NDArray]) -> list[Subset]:
    """Divide rows into the parts of every split; one that would have a single part is left out.

    Bins of numbers hold equally many rows, `BIN_ROWS` at least, and there are `MOST_BINS` at most. Halves and
    flags are parts whatever their size. Rows whose value is unknown are in no part of that split.
    """
    parts: list[Subset] = []
    for split in ("magnitude", "redshift", "snr"):
        if split in values:
            parts += _bins(split, values[split])
    if "half" in values:
        names = {"N": "north", "S": "south"}
        halves = [Subset("half", name, values["half"] == letter) for letter, name in names.items()]
        parts += halves if all(part.rows.any() for part in halves) else []
    if "flagged" in values:
        flagged = values["flagged"]
        sides = [Subset("flags", "no flag", ~flagged), Subset("flags", "flagged", flagged)]
        parts += sides if all(part.rows.any() for part in sides) else []
    return parts


def _bins(split: str, values: NDArray) -> list[Subset]:
    """Return bins of equally many rows."""
    known = values[np.isfinite(values)]
    bins = min(len(known) // BIN_ROWS, MOST_BINS)
    if bins < 2:
        return []
    edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)))
    parts: list[Subset] = []
    for i, (low, high) in enumerate(pairwise(edges)):
        last = i == len(edges) - 2
        inside = (values >= low) & ((values <= high) if last else (values < high))
        parts.append(
            Subset(
                split,
                f"{low:.4g} to {high:.4g}",
                inside,
                float(low),
                float(high),
                float(np.median(values[inside])),
            )
        )
    return parts
