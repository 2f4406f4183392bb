"""The side of the spectra: a redshift catalogue of DESI, or any table of positions."""

from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.ids import find_sources
from astroclip.data.lookup import BRICK
from astroclip.data.targetid import decode_targetid
from astroclip.data.zcatalog import Cut, find_cut
from astroclip.errors import UsageError
from astroclip.schema import TARGETID, PairsKey, redshift_names
from astroclip.sky import FloatArray, IntArray
from astroclip.tables import Column, Table, open_table
from astroclip.tables.identity import Who, find_who
from astroclip.tables.missing import Taken, sentinel_lines, to_quantity
from astroclip.tables.positions import need_position

BLOCK_ROWS = 65536
COADD_KEY = (TARGETID, "SURVEY", "PROGRAM", "HEALPIX")  # what a coadd is found by
# columns that go into the match table where they are there, besides position, ids and those of the cut
CARRIED = (*COADD_KEY, "Z", "ZERR", "ZWARN", "SPECTYPE", "SUBTYPE", "DELTACHI2", "DESINAME")


class TargetRows(NamedTuple):
    """The rows that pass the cut, n of them.

    Attributes
    ----------
    row
        (n,) ascending rows of the table.
    ra, dec
        (n,) deg, at the epoch of the images.
    columns
        What the file of pairs stores of them, by its names; ids are there in any case, -1 where unknown.
    """

    row: IntArray
    ra: FloatArray
    dec: FloatArray
    columns: dict[str, NDArray]

    @property
    def who(self) -> Who:
        """Who they are in the Legacy Survey, and where."""
        ids = dict(zip(BRICK, (self.columns[name.lower()] for name in BRICK), strict=True))
        return Who(ids, self.ra, self.dec)

    def coadd_key(self, chosen: IntArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        """Return TARGETID, SURVEY, PROGRAM, HEALPIX of some of them."""
        targetid, survey, program, healpix = (self.columns[name.lower()][chosen] for name in COADD_KEY)
        return targetid, survey, program, healpix


class SpectraTable:
    """An opened table of spectra; a context manager.

    Attributes
    ----------
    catalog
        The table.
    columns
        What the match table keeps of it, in its order.
    cut
        The quality cut.
    who, position
        Who and where its rows are, as it says: without proper motion.
    has_coadds
        Whether its rows can be looked up in a tree of coadds.
    notes
        Redshifts that were taken as missing, a sentence each, once `read_targets` has read them.
    """

    def __init__(
        self, catalog: Table, cut: str | None, ra: str | None, dec: str | None, epoch: float
    ) -> None:
        self.catalog = catalog
        self.position = need_position(catalog, ra, dec)
        self.who, self._moved = find_who(catalog, ra, dec), find_who(catalog, ra, dec, epoch)
        self.who.check(catalog)
        self.has_coadds = all(name in self.who.ids for name in COADD_KEY)
        self.cut: Cut = find_cut(cut or ("galaxy" if self.has_coadds else "none"), catalog.columns)
        self._redshift = catalog.find(*redshift_names(catalog.columns))
        found = {catalog.find(name) for name in CARRIED}
        found |= {*self._moved.columns, *self.cut.columns, self._redshift}
        self.columns: list[Column] = [c for name, c in catalog.columns.items() if name in found]
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.catalog.close()

    @property
    def nrows(self) -> int:
        """Rows of the table."""
        return self.catalog.nrows

    def read(self, start: int, stop: int) -> dict[str, NDArray]:
        """Read rows of the columns that are kept."""
        return self.catalog.read([column.name for column in self.columns], start, stop)

    def read_targets(self) -> tuple[TargetRows, NDArray[np.int8]]:
        """Return the rows that pass the cut, and of every row of the table why it does not (0: it does).

        About 100 bytes a row that passes are held in memory.
        """
        reasons, parts, sentinels = [np.zeros(0, np.int8)], [], Taken()
        for start in range(0, max(self.nrows, 1), BLOCK_ROWS):
            block = self.read(start, min(start + BLOCK_ROWS, self.nrows))
            n = len(next(iter(block.values())))
            reason = self.cut.reject(block) if self.cut.columns else np.zeros(n, np.int8)
            rows = np.flatnonzero(reason == 0)
            moved = self._moved.read(block, start)
            columns = self._describe(block, start, sentinels)
            kept = {name: values[rows] for name, values in columns.items()}
            parts.append(TargetRows(rows + start, moved.ra[rows], moved.dec[rows], kept))
            reasons.append(reason)
        self.notes = [f"{self.catalog.name}: {line}" for line in sentinel_lines(sentinels)]
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        row, ra, dec = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return TargetRows(row, ra, dec, columns), np.concatenate(reasons)

    def _describe(self, block: dict[str, NDArray], start: int, sentinels: Taken) -> dict[str, NDArray]:
        """Return what the file of pairs stores of rows."""
        who = self.who.read(block, start)
        if all(name in who.ids for name in BRICK):
            ids = [who.ids[name] for name in BRICK]
        else:
            ids = list(decode_targetid(find_sources(who)))
        columns: dict[str, NDArray] = {
            PairsKey.RA: who.ra,
            PairsKey.DEC: who.dec,
            **dict(zip((PairsKey.RELEASE, PairsKey.BRICKID, PairsKey.OBJID), ids, strict=True)),
            PairsKey.TARGETID: who.ids.get(TARGETID, np.full(len(who.ra), -1)),
        }
        if self._redshift:
            where = f"{self.catalog.name}: column '{self._redshift}'"
            values = block[self._redshift]
            columns[PairsKey.REDSHIFT] = to_quantity(values, self._redshift, sentinels, where)
        if self.has_coadds:
            for name in ("SURVEY", "PROGRAM"):
                columns[name.lower()] = np.char.encode(who.ids[name], "ascii", "replace")
            columns[PairsKey.HEALPIX] = who.ids["HEALPIX"]
        return columns


def open_spectra(
    path: str | Path,
    cut: str | None = None,
    ra: str | None = None,
    dec: str | None = None,
    epoch: float = np.nan,
    scratch: Path | None = None,
) -> SpectraTable:
    """Open a table of spectra.

    Parameters
    ----------
    path
        FITS, Parquet, CSV, or the folder of a HATS catalogue, whose rows are numbered from file to file, in
        their order along the sky. A table with TARGETID, SURVEY, PROGRAM and HEALPIX is taken for a redshift
        catalogue, whose spectra lie in a tree of coadds.
    cut
        Name of a quality cut, see `find_cut`. Default: ``galaxy`` of a redshift catalogue, else ``none``.
    ra, dec
        Names of the position columns; guessed by default.
    epoch
        Julian year of the images, to which positions with a proper motion are brought.
    scratch
        Folder for a plain copy of a packed table.

    Raises
    ------
    DataError
        If the table cannot be read, or lacks a position or a column that the cut needs, or an identifier is
        not exactly an integer.
    """
    catalog = open_table(path, scratch=scratch)
    try:
        return SpectraTable(catalog, cut, ra, dec, epoch)
    except BaseException:
        catalog.close()
        raise


def default_coadds(path: str | Path) -> Path:
    """Return where a release has the coadds of its catalogue: ``../healpix`` seen from the catalogue.

    Raises
    ------
    UsageError
        If that is no folder.
    """
    tree = Path(path).absolute().parent.parent / "healpix"
    if not tree.is_dir():
        raise UsageError(
            f"{path}: its coadds are not in {tree}. Name their folder (--coadds), or only match (--no-pairs)"
        )
    return tree
