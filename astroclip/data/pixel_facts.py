"""What surveys say of the galaxies in files of pixels, beside who they are: redshifts, parts, labels.

Redrock's table lies beside a coadd, SDSS's in the spectrum's own file, labels in the pairs.
Shapes: n galaxies of a block.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.coadd_sets import CoaddRows
from astroclip.data.desi import read_redrock, redrock_path
from astroclip.data.fitsfile import FitsFile
from astroclip.data.kinds import Kind
from astroclip.data.multimodal_spectra import MultimodalSpectra
from astroclip.data.pairs import Pairs
from astroclip.data.pixels import PixelFiles
from astroclip.data.sdss import read_facts
from astroclip.errors import DataError
from astroclip.schema import PAIRS_COLUMNS, TARGETID, ColumnSpec, PairsKey
from astroclip.tables.identity import Who

logger = logging.getLogger(__name__)
Values = Mapping[str, NDArray]
PIPELINE = [
    ColumnSpec("Z", "f8", (), "", "redshift of the survey's pipeline"),
    ColumnSpec("ZERR", "f8", (), "", "its error"),
    ColumnSpec("ZWARN", "i8", (), "", "the pipeline's warning bits, 0 is good"),
    ColumnSpec("SPECTYPE", "S6", (), "", "GALAXY, QSO or STAR"),
]
REDROCK = [*PIPELINE, ColumnSpec("DELTACHI2", "f8", (), "", "chi2 of the second best fit, minus the best")]
FIBERMAP = [
    ColumnSpec("OBJTYPE", "S3", (), "", "TGT, SKY, NON or BAD"),
    ColumnSpec("COADD_FIBERSTATUS", "i4", (), "", "bit mask, 0 is good"),
]
MULTIMODAL = [
    ColumnSpec("Z", "f8", (), "", "redshift"),
    ColumnSpec("Z_GOOD", "?", (), "", "whether the file says that it is good"),
]


class PixelFacts(NamedTuple):
    """Columns of what a survey says, and `read`: from the numbers (n,) of pixels and who they are, (n,) each.

    A fact that is not known is NaN, -1 or "".
    """

    columns: list[ColumnSpec]
    read: Callable[[NDArray[np.int64], Who], Values]


def find_facts(kind: Kind, pixels: PixelFiles, pairs: Pairs | None = None) -> PixelFacts:
    """Return what the files of some kind say of their galaxies; `pairs` are those in a set of pairs."""
    if kind in (Kind.COADD, Kind.SPECTRA, Kind.COADDS):
        columns = [] if isinstance(pixels, CoaddRows) else list(FIBERMAP)
        columns += REDROCK if any(redrock_path(file) for file in pixels.files) else []
        return PixelFacts(columns, partial(_read_desi, pixels, columns))
    if kind in (Kind.SPEC, Kind.SPECS):
        return PixelFacts(PIPELINE, partial(_read_specs, pixels))
    if isinstance(pixels, MultimodalSpectra):
        return PixelFacts(MULTIMODAL, partial(_read_multimodal, pixels))
    if pairs is not None:
        names = {"Z": str(PairsKey.REDSHIFT), "SPLIT": str(PairsKey.SPLIT)}
        columns = [
            ColumnSpec("Z", "f8", (), "", "spectroscopic redshift"),
            ColumnSpec("SPLIT", "u1", (), "", "0 train, 1 validation, 2 test, 255 none"),
        ]
        for spec in PAIRS_COLUMNS:
            if spec.name in (PairsKey.SURVEY, PairsKey.PROGRAM) and spec.name in pairs.columns:
                names[spec.name.upper()] = str(spec.name)
                columns.append(spec._replace(name=spec.name.upper()))
        for name, label in pairs.labels.items():
            names[name.upper()] = name
            columns.append(ColumnSpec(name.upper(), label.dtype, (), label.unit, label.source[:47]))
        return PixelFacts(columns, partial(_read_pairs, pairs, names, columns))
    return PixelFacts([], lambda numbers, who: {})  # noqa: ARG005


def unknown(columns: list[ColumnSpec], n: int) -> dict[str, NDArray]:
    """Return columns (n,) of nothing known: NaN, -1, "" or False."""
    blank = {"f": np.nan, "i": -1, "u": 255, "b": False, "S": b"", "U": ""}
    kinds = {column.name: np.dtype(column.dtype) for column in columns}
    return {name: np.full(n, blank[dtype.kind], dtype) for name, dtype in kinds.items()}


def _read_desi(pixels: PixelFiles, columns: list[ColumnSpec], numbers: NDArray[np.int64], who: Who) -> Values:
    """Read the fibres' state, and Redrock's fits of the same targets, file by file."""
    values = unknown(columns, len(numbers))
    file, row = pixels.locate(numbers)
    for one in np.unique(file):
        path, mine = pixels.files[one], np.flatnonzero(file == one)
        with FitsFile(path, whole=False) as fits:
            names = [*(column.name for column in FIBERMAP), "TARGET_RA", "TARGET_DEC"]  # of sky fibres, too
            found = fits.table("FIBERMAP", [], names) if "FIBERMAP" in fits else {}
        for name, column in found.items():
            values.setdefault(name, np.full(len(numbers), np.nan))[mine] = column[row[mine]]
        if TARGETID in who.ids and "Z" in values:
            _add_redrock(values, path, mine, who.ids[TARGETID][mine])
    return values


def _add_redrock(
    values: dict[str, NDArray], path: Path, rows: NDArray[np.int64], targetid: NDArray[np.int64]
) -> None:
    """Add the fits of the Redrock file beside a coadd; its rows are told by TARGETID, in any order."""
    beside = redrock_path(path)
    try:
        found = read_redrock(beside) if beside else None
    except DataError as error:
        logger.warning("%s", error)
        return
    if found is None or not len(found[TARGETID]):
        return
    order = np.argsort(found[TARGETID], kind="stable")
    place = np.searchsorted(found[TARGETID], targetid, sorter=order)
    place = order[np.minimum(place, len(order) - 1)]
    same = found[TARGETID][place] == targetid
    if not same.all():
        logger.warning("%s: %d targets of %s are not in it", beside, (~same).sum(), path.name)
    for column in REDROCK:
        values[column.name][rows[same]] = found[column.name][place[same]]


def _read_specs(pixels: PixelFiles, numbers: NDArray[np.int64], who: Who) -> Values:  # noqa: ARG001
    """Read what SPECOBJ or SPALL say, of one file a spectrum."""
    values = unknown(PIPELINE, len(numbers))
    file, _ = pixels.locate(numbers)
    for i, one in enumerate(file):
        try:
            facts = read_facts(pixels.files[one])
        except DataError:  # among the problems of the set
            continue
        for column, fact in zip(PIPELINE, ("redshift", "redshift_err", "zwarn", "spectype"), strict=True):
            values[column.name][i] = facts[fact]
    return values


def _read_multimodal(pixels: MultimodalSpectra, numbers: NDArray[np.int64], who: Who) -> Values:  # noqa: ARG001
    redshift, good = pixels.read_redshifts(numbers)
    return {"Z": redshift, "Z_GOOD": good}


def _read_pairs(
    pairs: Pairs, names: dict[str, str], columns: list[ColumnSpec], numbers: NDArray[np.int64], who: Who  # noqa: ARG001
) -> Values:  # fmt: skip
    values = unknown(columns, len(numbers))
    found = pairs.take(list(names.values()), numbers)
    return values | {name: part for name, key in names.items() if (part := found.get(key)) is not None}
