"""The side of the spectra: a redshift catalogue of DESI, or any table of positions."""

from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.who import Block, as_integers, find_ids, find_position
from astroclip.data.zcatalog import Cut, find_cut
from astroclip.errors import UsageError
from astroclip.schema import TARGETID, PairsKey, redshift_names
from astroclip.sky import FloatArray, IntArray, floats
from astroclip.tables import ArrowTable, Column, Table, open_table

BLOCK_ROWS = 65536
COADD_KEY = (TARGETID, "SURVEY", "PROGRAM", "HEALPIX")  # what a coadd is found by
# columns that go into the match table where they are there, besides position, ids and those of the cut
CARRIED = (*COADD_KEY, "Z", "ZERR", "ZWARN", "SPECTYPE", "SUBTYPE", "DELTACHI2", "DESINAME")


class Targets(NamedTuple):
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
    def ids(self) -> tuple[IntArray, IntArray, IntArray]:
        """Release, brickid, objid."""
        return tuple(self.columns[key] for key in (PairsKey.RELEASE, PairsKey.BRICKID, PairsKey.OBJID))  # type: ignore[return-value]


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
    has_coadds
        Whether its rows can be looked up in a tree of coadds.
    """

    def __init__(self, catalog: Table, cut: str | None, ra: str | None, dec: str | None) -> None:
        self.catalog = catalog
        self.has_coadds = all(catalog.find(name) for name in COADD_KEY)
        self.position = find_position(catalog, ra, dec)
        self.ids = find_ids(catalog)
        self.cut: Cut = find_cut(cut or ("galaxy" if self.has_coadds else "none"), catalog.columns)
        self._redshift = catalog.find(*redshift_names(catalog.columns))
        found = {catalog.find(name) for name in CARRIED}
        found |= {*self.position.names, *self.ids.names, *self.cut.columns, self._redshift}
        self.columns: list[Column] = [c for name, c in catalog.columns.items() if name in found]

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

    def read_targets(self, epoch: float) -> tuple[Targets, NDArray[np.int8]]:
        """Return the rows that pass the cut, and of every row of the table why it does not (0: it does).

        About 100 bytes a row that passes are held in memory.
        """
        reasons, parts = [np.zeros(0, np.int8)], []
        for start in range(0, max(self.nrows, 1), BLOCK_ROWS):
            block = self.read(start, min(start + BLOCK_ROWS, self.nrows))
            reason = self.cut.reject(block) if self.cut.columns else np.zeros(_rows(block), np.int8)
            rows = np.flatnonzero(reason == 0)
            kept = {name: values[rows] for name, values in block.items()}
            parts.append(Targets(rows + start, *self.position.read(kept, epoch), self._describe(kept)))
            reasons.append(reason)
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        row, ra, dec = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return Targets(row, ra, dec, columns), np.concatenate(reasons)

    def _describe(self, block: Block) -> dict[str, NDArray]:
        """Return what the file of pairs stores of rows."""
        n = _rows(block)
        key = {name: self.catalog.find(name) for name in COADD_KEY}
        ids = self.ids.read(block) or [np.full(n, -1)] * 3
        columns: dict[str, NDArray] = {
            PairsKey.RA: floats(block[self.position.ra]),
            PairsKey.DEC: floats(block[self.position.dec]),
            PairsKey.RELEASE: ids[0],
            PairsKey.BRICKID: ids[1],
            PairsKey.OBJID: ids[2],
            PairsKey.TARGETID: as_integers(block[key[TARGETID] or ""]) if key[TARGETID] else np.full(n, -1),
        }
        if self._redshift:
            columns[PairsKey.REDSHIFT] = floats(block[self._redshift])
        if self.has_coadds:
            columns[PairsKey.SURVEY] = np.char.encode(block[str(key["SURVEY"])], "ascii", "replace")
            columns[PairsKey.PROGRAM] = np.char.encode(block[str(key["PROGRAM"])], "ascii", "replace")
            columns[PairsKey.HEALPIX] = as_integers(block[str(key["HEALPIX"])])
        return columns


def _rows(block: Block) -> int:
    return len(next(iter(block.values())))


def open_spectra(
    path: str | Path,
    cut: str | None = None,
    ra: str | None = None,
    dec: str | None = None,
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
    scratch
        Folder for a plain copy of a packed table.

    Raises
    ------
    DataError
        If the table cannot be read, or lacks a position or a column that the cut needs.
    """
    catalog = open_table(path, scratch=scratch)
    try:
        if isinstance(catalog, ArrowTable):
            ra, dec = ra or catalog.position[0], dec or catalog.position[1]
        return SpectraTable(catalog, cut, ra, dec)
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
