"""The tables that are written: who matches whom, and who is left out and why."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.ids import find_sources
from astroclip.crossmatch.image_side import ImageSide
from astroclip.crossmatch.plan import Plan
from astroclip.crossmatch.spectra_side import BLOCK_ROWS, SpectraTable
from astroclip.data.label_tables import LabelRows, LabelTable
from astroclip.data.pairs import SplitSettings, split_by_healpix
from astroclip.data.targetid import decode_targetid
from astroclip.schema import MATCH_COLUMNS, TARGETID, ColumnSpec, Reason
from astroclip.sky import IntArray
from astroclip.tables.columns import stored_dtype
from astroclip.tables.identity import exact_integers

_REASON_NAMES = np.array([reason.name for reason in Reason], "S")


def describe_images(side: ImageSide, root: Path, image: IntArray) -> dict[str, NDArray]:
    """Return the columns of the match table that tell of images (m,); NaN, -1 or blank where that is -1.

    Ids and positions are read in one pass over all images. Files are named as seen from the folder `root`:
    surveys have files of one name in the north and the south.
    """
    wanted, of_row = np.unique(image[image >= 0], return_inverse=True)
    ra, dec = np.full((2, len(wanted)), np.nan)
    sources, first = np.full(len(wanted), -1), 0
    for block in side.blocks():
        a, b = np.searchsorted(wanted, [first, first + len(block.ra)])
        rows = wanted[a:b] - first
        ra[a:b], dec[a:b], sources[a:b] = block.ra[rows], block.dec[rows], find_sources(block)[rows]
        first += len(block.ra)
    file, row = side.locate(wanted)
    inside = [path.relative_to(root).as_posix() if root.is_dir() else path.name for path in side.files]
    names = np.array([name.encode("ascii", "replace") for name in inside])
    values: dict[str, tuple[NDArray, float | bytes]] = {"IMAGE_RA": (ra, np.nan), "IMAGE_DEC": (dec, np.nan)}
    values |= {
        f"IMAGE_{k}": (v.astype(np.int32), -1)
        for k, v in zip(("RELEASE", "BRICKID", "OBJID"), decode_targetid(sources), strict=True)
    }
    values |= {"IMAGE_FILE": (names[file], b""), "IMAGE_ROW": (row, -1)}
    columns = {name: np.full(len(image), missing, v.dtype) for name, (v, missing) in values.items()}
    for name, (found, _) in values.items():
        columns[name][image >= 0] = found[of_row]
    return columns


class MatchTable:
    """The match table: its columns, its size, and its rows block by block.

    Parameters
    ----------
    labels
        Tables of labels, and the row of each in which a row of this table finds its labels.
    pairs
        Whether there is a file of pairs to point to.
    """

    def __init__(
        self,
        spectra: SpectraTable,
        plan: Plan,
        images: dict[str, NDArray],
        labels: list[tuple[LabelTable, LabelRows]],
        split: SplitSettings,
        *,
        pairs: bool,
    ) -> None:
        self._spectra, self._plan, self._images = spectra, plan, images
        self._labels, self._split = labels, split
        carried = [_plain(spectra.catalog.spec(column.name)) for column in spectra.columns]
        width = images["IMAGE_FILE"].dtype.itemsize
        own = [s._replace(dtype=f"S{width}") if s.name == "IMAGE_FILE" else s for s in MATCH_COLUMNS]
        self.columns = [*carried, *(spec for spec in own if pairs or spec.name != "PAIR")]
        self.columns += [spec for labelled, _ in labels for spec in labelled.specs]
        self.nulls: dict[str, int | None] = {c.name: c.null for c in spectra.columns}
        for labelled, _ in labels:
            self.nulls |= labelled.nulls

    @property
    def nrows(self) -> int:
        """Number of rows."""
        return len(self._plan.row)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return self.nrows * sum(stored_dtype(spec).itemsize for spec in self.columns)

    def blocks(self) -> Iterator[dict[str, NDArray]]:
        """Yield the rows in blocks, reading the table of spectra once more."""
        plan = self._plan
        for start in range(0, self._spectra.nrows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, self._spectra.nrows)
            a, b = np.searchsorted(plan.row, [start, stop])
            if a == b:
                continue
            read = self._spectra.read(start, stop)
            block = {name: values[plan.row[a:b] - start] for name, values in read.items()}
            ra, dec = self._spectra.position.read(block, start)
            block |= {
                "SPECTRA_ROW": plan.row[a:b],
                "REASON": _REASON_NAMES[plan.reason[a:b]],
                "SEPARATION": plan.separation_arcsec[a:b],
                "MATCH_METHOD": plan.method[a:b],
                "PAIR": plan.pair[a:b],
                "SPLIT": split_by_healpix(ra, dec, *self._split),
            }
            block |= {name: values[a:b] for name, values in self._images.items()}
            for labels, rows in self._labels:
                block |= labels.take(rows.row[a:b])
            yield block


class RejectTable:
    """The rows of the table of spectra that are in no pair: TARGETID, row, reason."""

    def __init__(self, spectra: SpectraTable, plan: Plan) -> None:
        self._spectra, self._plan = spectra, plan
        self._targetid = spectra.catalog.find(TARGETID)
        self.columns = [
            ColumnSpec("ROW", "i8", comment="row of the table of spectra, from 0"),
            ColumnSpec("REASON", "S16", comment="why it is in no pair"),
        ]
        if self._targetid:
            self.columns.insert(0, ColumnSpec(TARGETID, "i8", comment="DESI target"))
        self.nrows = int((plan.row_reason != Reason.PAIRED).sum())

    def blocks(self) -> Iterator[dict[str, NDArray]]:
        """Yield the rows in blocks."""
        for start in range(0, self._spectra.nrows, BLOCK_ROWS):
            reason = self._plan.row_reason[start : start + BLOCK_ROWS]
            rows = np.flatnonzero(reason != Reason.PAIRED)
            block: dict[str, NDArray] = {"ROW": rows + start, "REASON": _REASON_NAMES[reason[rows]]}
            if self._targetid:
                ids = self._spectra.catalog.read([self._targetid], start, start + len(reason))
                block[TARGETID] = exact_integers(ids[self._targetid], f"column '{self._targetid}'", start)[
                    rows
                ]
            yield block


def find_labels(
    labels: list[LabelTable], spectra: SpectraTable, plan: Plan
) -> list[tuple[LabelTable, LabelRows]]:
    """Return for each table of labels which of its rows belongs to each of the match table; load those."""
    m = len(plan.row)
    rows = [LabelRows(np.full(m, -1), np.zeros(m, bool)) for _ in labels]
    for start in range(0, spectra.nrows if labels else 0, BLOCK_ROWS):
        a, b = np.searchsorted(plan.row, [start, start + BLOCK_ROWS])
        block = spectra.catalog.read(spectra.who.columns, start, min(start + BLOCK_ROWS, spectra.nrows))
        who = spectra.who.read({name: values[plan.row[a:b] - start] for name, values in block.items()}, start)
        for found, one in zip(rows, labels, strict=True):
            found.row[a:b], found.ambiguous[a:b] = one.find(who)
    for found, one in zip(rows, labels, strict=True):
        one.load(np.unique(found.row[found.row >= 0]))
    return list(zip(labels, rows, strict=True))


def _plain(spec: ColumnSpec) -> ColumnSpec:
    """Return a column of the table of spectra as a column of bytes, if it is text."""
    dtype = np.dtype(spec.dtype)
    return spec._replace(dtype=f"S{dtype.itemsize // 4}" if dtype.kind == "U" else dtype.str.lstrip("<=|"))
