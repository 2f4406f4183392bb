"""Describe tables: catalogues with or without embeddings and predictions, Redrock files."""

from collections import Counter
from collections.abc import Mapping
from enum import IntFlag
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.describe.file_report import (
    ColumnInfo,
    FileReport,
    Repeats,
    SkyRange,
    count_values,
    dtype_name,
    name_some,
)
from astroclip.data.fitsfile import FitsFile, check_flux_unit, check_image_unit, check_wave_unit
from astroclip.errors import DataError
from astroclip.schema import (
    DEC_NAMES,
    EMBED_FLAG,
    FLUX,
    IMAGE,
    IMAGE_EMBEDDING,
    IVAR,
    PREDICT_FLAG,
    RA_NAMES,
    REDSHIFT_NAMES,
    SPECTRUM_EMBEDDING,
    TARGETID,
    WAVE,
    EmbedFlag,
    PredictFlag,
)
from astroclip.tables import FitsTable, HatsCatalog, open_table

BLOCK_BYTES = 64 << 20
# what tells a row apart: the columns of the first group of which all are there
ID_COLUMNS = (
    (TARGETID, "SURVEY", "PROGRAM"),
    (TARGETID,),
    ("RELEASE", "BRICKID", "OBJID"),
    ("SPECOBJID",),
    ("OBJECT_ID",),
    ("SOURCE_ID",),
    ("IAUNAME",),
    ("ID",),
)
COUNTED = (
    "OBJTYPE",
    "SPECTYPE",
    "CLASS",
    "SURVEY",
    "PROGRAM",
    "REASON",
    "MATCH_METHOD",
)  # texts with few values
ZERO_IS_GOOD = ("COADD_FIBERSTATUS", "ZWARN", "ZWARNING")
FLAGS: dict[str, type[IntFlag]] = {EMBED_FLAG: EmbedFlag, PREDICT_FLAG: PredictFlag}
EMBEDDINGS = {
    IMAGE_EMBEDDING: EmbedFlag.NO_IMAGE,
    SPECTRUM_EMBEDDING: EmbedFlag.NO_SPECTRUM,
}
PREDICTION = "Z_PRED_MEAN"
MIN_PIXELS = 100  # of a spectrum: a shorter column FLUX or IVAR is photometry
DEGREES = ("", "deg", "degree", "degrees", "d")


def describe_catalog(path: Path, kind: str, hdu: str | None = None) -> FileReport:
    """Describe a table, reading in blocks only the columns that say where, who and how good its rows are.

    Raises
    ------
    DataError
        If the table cannot be read.
    """
    if packed := _describe_packed(path, kind):
        return packed
    with open_table(path, hdu=hdu) as table, Repeats() as repeats:
        tally = _Tally(table, repeats)
        widths = [table.column(name).width for name in tally.names]
        step = max(BLOCK_BYTES // max(8 * sum(widths), 1), 1)
        for start in range(0, table.nrows if tally.names else 0, step):
            tally.add(table.read(tally.names, start, min(start + step, table.nrows)))
        columns = [ColumnInfo(c.name, dtype_name(c.dtype), c.shape, c.unit) for c in table.columns.values()]
        problems = [*([] if table.nrows else ["no rows"]), *_column_problems(table), *tally.problems(table)]
        facts = {"hdu": str(table.table), **tally.facts(), **_model_facts(table)}
        return FileReport(path, kind, table.nrows, columns, facts, problems)


def describe_hats(path: Path, kind: str) -> FileReport:
    """Describe a HATS catalogue, reading its positions file by file; nested columns are not listed.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    hats, sky = HatsCatalog(path), SkyRange()
    position = [name for name in hats.position if name]
    for file in range(len(hats.files)) if len(position) == 2 else ():
        sky.add(*hats.read(file, position).values())
    columns = [
        ColumnInfo(c.name, "text" if c.dtype.startswith("S") else c.dtype, c.shape, c.unit)
        for c in hats.columns.values()
    ]
    facts = {"files": len(hats.files), "position": ", ".join(position), **sky.facts()}
    return FileReport(path, kind, len(hats), columns, facts, sky.problems())


def _describe_packed(path: Path, kind: str) -> FileReport | None:
    """Describe a table that ``fpack -table`` compressed, by its header alone; None if it is none."""
    with path.open("rb") as file:
        if file.read(6) != b"SIMPLE":
            return None
    with FitsFile(path) as fits:
        headers = [fits.header(hdu) for hdu in range(len(fits))]
    header = next((header for header in headers if header.get("ZTABLE")), None)
    if header is None:
        return None
    columns = [
        ColumnInfo(str(header[f"TTYPE{i}"]).strip(), f"FITS {header.get(f'ZFORM{i}', '?')}", (),
                   str(header.get(f"TUNIT{i}") or "").strip())
        for i in range(1, int(header["TFIELDS"]) + 1)
    ]  # fmt: skip
    problem = (
        "the table is compressed by fpack (ZTABLE): its rows were not looked at. astroclip reads it with "
        "the program funpack; unpack it yourself to be quicker"
    )
    return FileReport(path, kind, int(header["ZNAXIS2"]), columns, {"packed": "fpack -table"}, [problem])


class _Tally:
    """What the rows of a table say, gathered block by block: `names` are the columns it needs."""

    def __init__(self, table: FitsTable, repeats: Repeats) -> None:
        self._repeats, self._sky = repeats, SkyRange()
        self.position = [name for name in (table.find(*RA_NAMES), table.find(*DEC_NAMES)) if name]
        groups = [[table.find(name) for name in group] for group in ID_COLUMNS]
        self.identity = [str(name) for name in next((group for group in groups if all(group)), [])]
        pixels = {c.name for c in table.columns.values() if prod(c.shape) >= MIN_PIXELS}
        self.redshift = [n for n in (table.find(*REDSHIFT_NAMES), table.find(PREDICTION)) if n]
        self.redshift = [
            n for n in self.redshift if table.column(n).dtype.kind == "f" and not table.column(n).shape
        ]
        self.counted = {n: Counter[str]() for name in COUNTED if (n := table.find(name))}
        self.nonzero = {n: 0 for name in ZERO_IS_GOOD if (n := table.find(name))}
        self.flags = {n: Counter[str]() for name in FLAGS if (n := table.find(name))}
        self.embed_flag = table.find(EMBED_FLAG)
        self.without = {n: 0 for name in EMBEDDINGS if (n := table.find(name))}
        self.unflagged = dict.fromkeys(self.without, 0)
        self.dead = {n: 0 for name in (IVAR, FLUX, IMAGE) if (n := table.find(name)) in pixels}
        self.unsorted = {n: 0 for name in (WAVE,) if (n := table.find(name)) in pixels}
        self.range = {name: [np.inf, -np.inf] for name in self.redshift}
        parts = (self.identity, self.redshift, self.counted, self.nonzero, self.flags, self.without)
        wanted = [*(self.position if len(self.position) == 2 else []), *self.dead, *self.unsorted]
        wanted += [name for part in parts for name in part]
        self.names = list(dict.fromkeys(n for n in wanted if not table.column(n).descriptor))

    def add(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Take note of a block of rows."""
        if len(self.position) == 2:
            self._sky.add(*(block[name] for name in self.position))
        if self.identity:
            self._repeats.add([block[name] for name in self.identity])
        for name, counts in self.counted.items():
            count_values(counts, block[name])
        for name in self.nonzero:
            self.nonzero[name] += int((block[name] != 0).sum())
        for name, counts in self.flags.items():
            bits = FLAGS[name.upper()]
            counts.update({str(bit.name): int((block[name] & bit != 0).sum()) for bit in bits})
        for name in self.redshift:
            values = block[name][np.isfinite(block[name])]
            low, high = self.range[name]
            self.range[name] = [float(values.min(initial=low)), float(values.max(initial=high))]
        for name in self.dead:
            values = block[name].reshape(len(block[name]), -1)
            self.dead[name] += int((~np.isfinite(values) | (values == 0)).all(axis=1).sum())
        for name in self.unsorted:
            self.unsorted[name] += int((~(np.diff(block[name], axis=1) > 0).all(axis=1)).sum())
        self._add_embeddings(block)

    def _add_embeddings(self, block: Mapping[str, NDArray[Any]]) -> None:
        """Count vectors with a missing value, and those of them that no flag explains."""
        for name in self.without:
            missing = ~np.isfinite(block[name]).reshape(len(block[name]), -1).all(axis=1)
            self.without[name] += int(missing.sum())
            flags = block[self.embed_flag] if self.embed_flag else None
            explained = missing if flags is None else flags & EMBEDDINGS[name.upper()] != 0
            self.unflagged[name] += int((missing & ~explained).sum())

    def facts(self) -> dict[str, Any]:
        """Return what was found."""
        facts: dict[str, Any] = dict(self._sky.facts())
        if self.identity:
            facts["identifier"] = ", ".join(self.identity)
        facts |= {name: ends for name, ends in self.range.items() if ends[0] <= ends[1]}
        facts |= {name: dict(counts.most_common(10)) for name, counts in self.counted.items()}
        facts |= {f"{name} not 0": f"{count} rows" for name, count in self.nonzero.items()}
        facts |= {name: {bit: n for bit, n in counts.items() if n} for name, counts in self.flags.items()}
        facts |= {f"{name} missing": f"{count} rows" for name, count in self.without.items()}
        return facts

    def problems(self, table: FitsTable) -> list[str]:
        """Say what is wrong with the rows."""
        said = self._sky.problems()
        total, rows = self._repeats.find()
        if total:
            first = table.read(self.identity, rows[0], rows[0] + 1)
            ident = ", ".join(str(first[name][0]) for name in self.identity)
            said.append(
                f"{total} rows repeat the {', '.join(self.identity)} of an earlier row: "
                f"rows {name_some(rows, total)} (from 0), the first with {ident}"
            )
        what = "{} rows have nothing in {}: no pixel of the row is finite and not 0"
        said += [what.format(count, name) for name, count in self.dead.items() if count]
        said += [f"{n} rows of {name} are not in rising order" for name, n in self.unsorted.items() if n]
        what = "{} rows have a NaN in {} that EMBED_FLAG does not explain"
        return said + [what.format(count, name) for name, count in self.unflagged.items() if count]


def _column_problems(table: FitsTable) -> list[str]:
    """Say which columns that astroclip reads have a unit or length that cannot be right."""
    position = [table.column(name) for names in (RA_NAMES, DEC_NAMES) if (name := table.find(*names))]
    wrong = [column for column in position if column.unit.lower() not in DEGREES]
    said = [f"column {column.name}: positions in '{column.unit}', expected deg" for column in wrong]
    checks = ((FLUX, check_flux_unit), (WAVE, check_wave_unit), (IMAGE, check_image_unit))
    for wanted, check in checks:
        name = table.find(wanted)
        if name and prod(table.column(name).shape) >= MIN_PIXELS:
            try:
                check(f"column {name}", table.column(name).unit)
            except DataError as error:
                said.append(str(error))
    found = [table.column(name) for wanted in (FLUX, IVAR, WAVE) if (name := table.find(wanted))]
    found = [column for column in found if prod(column.shape) >= MIN_PIXELS]
    if len({column.shape for column in found}) > 1:
        lengths = ", ".join(f"{column.name} {prod(column.shape)}" for column in found)
        said.append(f"columns of different length: {lengths} pixels")
    return said


def _model_facts(table: FitsTable) -> dict[str, Any]:
    """Return which model made the embeddings, and how long they are."""
    widths = {name: prod(table.column(name).shape) for name in EMBEDDINGS if table.find(name)}
    if not widths:
        return {}
    model = {"model": table.header.get("ACMODEL"), "model hash": table.header.get("ACHASH")}
    return {**{k: str(v) for k, v in model.items() if v}, "embedding width": widths}
