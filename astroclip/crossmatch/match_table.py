"""The tables that are written: who matches whom, and who is left out and why."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.image_side import ImageSide
from astroclip.crossmatch.joined_labels import LabelSet
from astroclip.crossmatch.plan import Plan
from astroclip.crossmatch.spectra_side import BLOCK_ROWS, SpectraTable
from astroclip.crossmatch.who import Block
from astroclip.data.pairs import SplitSettings, split_by_healpix
from astroclip.schema import MATCH_COLUMNS, TARGETID, ColumnSpec, Reason
from astroclip.sky import IntArray, floats, has_position
from astroclip.tables.columns import stored_dtype

_REASON_NAMES = np.array([reason.name for reason in Reason], "S")


class MatchedImages(NamedTuple):
    """What the match table tells of the image of each of its rows, (m,); NaN, -1 or blank without one."""

    columns: dict[str, NDArray]

    @property
    def ids(self) -> list[IntArray]:
        """Release, brickid, objid."""
        return [self.columns[f"IMAGE_{name}"] for name in ("RELEASE", "BRICKID", "OBJID")]


def describe_images(side: ImageSide, root: Path, image: IntArray) -> MatchedImages:
    """Read ids and positions of matched images, in one pass over all of them.

    Files are named as seen from the folder `root`: surveys have files of one name in the north and the south.
    """
    wanted, of_row = np.unique(image[image >= 0], return_inverse=True)
    ra, dec = np.full((2, len(wanted)), np.nan)
    ids = np.full((3, len(wanted)), -1, np.int64)
    first = 0
    for block in side:
        n = len(np.asarray(block.ra))
        a, b = np.searchsorted(wanted, [first, first + n])
        rows = wanted[a:b] - first
        ra[a:b], dec[a:b] = np.asarray(block.ra)[rows], np.asarray(block.dec)[rows]
        if block.ids is not None:
            ids[:, a:b] = [np.asarray(values)[rows] for values in block.ids]
        first += n
    file, row = side.locate(wanted)
    inside = [path.relative_to(root).as_posix() if root.is_dir() else path.name for path in side.files]
    names = np.array([name.encode("ascii", "replace") for name in inside])
    values: dict[str, tuple[NDArray, float | bytes]] = {"IMAGE_RA": (ra, np.nan), "IMAGE_DEC": (dec, np.nan)}
    values |= {
        f"IMAGE_{k}": (v.astype(np.int32), -1)
        for k, v in zip(("RELEASE", "BRICKID", "OBJID"), ids, strict=True)
    }
    values |= {"IMAGE_FILE": (names[file], b""), "IMAGE_ROW": (row, -1)}
    columns = {name: np.full(len(image), missing, v.dtype) for name, (v, missing) in values.items()}
    for name, (found, _) in values.items():
        columns[name][image >= 0] = found[of_row]
    return MatchedImages(columns)


class MatchTable:
    """The match table: its columns, its size, and its rows block by block.

    Parameters
    ----------
    labels
        Sets of labels, and the row of each in which a row of this table finds its labels.
    pairs
        Whether there is a file of pairs to point to.
    """

    def __init__(
        self,
        spectra: SpectraTable,
        plan: Plan,
        images: MatchedImages,
        labels: list[tuple[LabelSet, IntArray]],
        split: SplitSettings,
        *,
        pairs: bool,
    ) -> None:
        self._spectra, self._plan, self._images = spectra, plan, images
        self._labels, self._split = labels, split
        known = [spectra.catalog.spec(column.name) for column in spectra.columns]
        carried = [spec._replace(dtype=_dtype(np.dtype(spec.dtype))) for spec in known]
        width = images.columns["IMAGE_FILE"].dtype.itemsize
        own = [s._replace(dtype=f"S{width}") if s.name == "IMAGE_FILE" else s for s in MATCH_COLUMNS]
        self.columns = [*carried, *(spec for spec in own if pairs or spec.name != "PAIR")]
        self.columns += [spec for labelled, _ in labels for spec in labelled.specs]
        self.nulls = {c.name: c.tnull for c in spectra.columns}

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
            block |= {
                "SPECTRA_ROW": plan.row[a:b],
                "REASON": _REASON_NAMES[plan.reason[a:b]],
                "SEPARATION": plan.separation_arcsec[a:b],
                "MATCH_METHOD": plan.method[a:b],
                "PAIR": plan.pair[a:b],
                "SPLIT": self._split_of(block),
            }
            block |= {name: values[a:b] for name, values in self._images.columns.items()}
            for labels, rows in self._labels:
                block |= labels.take(rows[a:b])
            yield block

    def _split_of(self, block: Block) -> NDArray[np.uint8]:
        position = self._spectra.position
        ra, dec = usable(block[position.ra], block[position.dec])
        return split_by_healpix(ra, dec, *self._split)


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
                block[TARGETID] = ids[self._targetid][rows].astype(np.int64)
            yield block


def find_labels(labels: list[LabelSet], spectra: SpectraTable, plan: Plan) -> list[tuple[LabelSet, IntArray]]:
    """Return for each set of labels which of its rows belongs to each row of the match table, -1 for none."""
    rows = [np.full(len(plan.row), -1, np.int64) for _ in labels]
    targetid, position = spectra.catalog.find(TARGETID), spectra.position
    names = [position.ra, position.dec, *([targetid] if targetid else [])]
    for start in range(0, spectra.nrows if labels else 0, BLOCK_ROWS):
        a, b = np.searchsorted(plan.row, [start, start + BLOCK_ROWS])
        block = spectra.catalog.read(names, start, min(start + BLOCK_ROWS, spectra.nrows))
        block = {name: values[plan.row[a:b] - start] for name, values in block.items()}
        ids = block[targetid] if targetid else np.full(b - a, -1)
        for found, one in zip(rows, labels, strict=True):
            found[a:b] = one.find_rows(ids, block[position.ra], block[position.dec])
    return list(zip(labels, rows, strict=True))


def usable(ra: NDArray, dec: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions, NaN where there is none on the sky."""
    ra, dec = floats(ra), floats(dec)
    placed = has_position(ra, dec)
    return np.where(placed, ra, np.nan), np.where(placed, dec, np.nan)


def _dtype(dtype: np.dtype) -> str:
    """Return the type of a column of the table of spectra as a `ColumnSpec` says it."""
    return f"S{dtype.itemsize // 4}" if dtype.kind == "U" else dtype.str.lstrip("<=|")
