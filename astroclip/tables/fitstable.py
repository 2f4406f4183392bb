"""Open a catalogue: one FITS binary table, read in blocks of rows, only the columns asked for."""

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.files import fingerprint_of
from astroclip.tables.columns import Column, element_dtype, find_name, get_name, read_columns, to_native
from astroclip.tables.hdus import Hdu, open_fits, scan_hdus

# HDUs that hold one row a target although another table comes first: DESI zcatalogs, coadds and Redrock
# files; SDSS spectra (spec-*.fits and spectrum-lite files)
TARGET_HDUS = ("ZCATALOG", "FIBERMAP", "SPECOBJ", "SPALL")
MAPPED_BYTES = 64 << 20  # rows mapped into memory at a time


class FitsTable:
    """A table opened for reading; made by `open_table`, used as a context manager.

    Attributes
    ----------
    path : Path
        The plain FITS file that is read (a converted copy, if the user's file is not plain FITS).
    name : str
        What the user called the file.
    source : Path
        The user's own file.
    hdu : int
        Number of the table's HDU in `path`, the primary HDU being 0.
    nrows : int
    columns : dict of str to Column
        In the table's order, with the names as written there.
    header : astropy.io.fits.Header
        The table's cards, for looking up values.
    hdus : list of Hdu
        All HDUs of the file, `table` being the one that is read.
    file : BufferedReader
        The open file; read from it by `os.pread` only, threads share it.
    row_width : int
        Bytes in a row.
    keep_scratch : bool
        Set while an output is unfinished: a converted copy then stays for the resumed run.
    """

    def __init__(
        self,
        path: Path,
        hdu: int | str | None = None,
        *,
        name: str = "",
        source: Path | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.path, self.name, self.source = path, name or str(path), source or path
        self.keep_scratch = False
        self._scratch = scratch
        self.file = open_fits(path, self.name)
        try:
            self._read_layout(hdu)
        except BaseException:
            self.file.close()
            raise

    def _read_layout(self, hdu: int | str | None) -> None:
        self.hdus = scan_hdus(self.file, self.name)
        self.table = choose_table(self.hdus, hdu, self.name)
        self.hdu, self.nrows = self.table.index, self.table.integer("NAXIS2")
        self.row_width = self.table.integer("NAXIS1")
        self.columns: dict[str, Column] = {}
        for column in read_columns(self.table, self.name) if not self.is_compressed else []:
            self.columns.setdefault(column.name, column)

    @property
    def header(self) -> fits.Header:
        """The table's cards as an astropy header."""
        return self.table.header

    @property
    def is_compressed(self) -> bool:
        """Whether the rows are packed by ``fpack -table`` (ZTABLE = T) and cannot be read as they are."""
        return self.header.get("ZTABLE", False) is True

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Size, time of change (ns) and SHA-256 of the user's file; reads all of it, once."""
        return fingerprint_of(self.source, self.name)

    def find(self, *candidates: str) -> str | None:
        """Return the name of the first column that exists, in any case; None if none does."""
        return find_name(self.columns, *candidates)

    def column(self, name: str) -> Column:
        """Return a column by name, in any case.

        Raises
        ------
        DataError
            If there is none; the message lists names that are close.
        """
        return self.columns[get_name(self.columns, name, f"{self.name}: {self.table}")]

    def read(self, names: Iterable[str], start: int = 0, stop: int | None = None) -> dict[str, NDArray[Any]]:
        """Read rows `start` to `stop` of some columns; keys are the names as asked for.

        Values are in native byte order with TSCAL and TZERO applied: integers whose TZERO marks the other
        signedness stay integers, exactly; other scaled numbers become float64. Missing data: a scaled integer
        equal to TNULL is NaN; an integer that is not scaled stays, and `Column.null` is the value that means
        missing. Logicals are bool (undefined: False), bits are bool, text has no blanks around it. Columns of
        variable length come as an object array, one array a row.

        Raises
        ------
        DataError
            If a column does not exist, or its variable-length data lie outside the heap.
        """
        wanted = {name: self.column(name) for name in names}
        stop = self.nrows if stop is None else stop
        if not 0 <= start <= stop <= self.nrows:
            raise ValueError(f"rows {start} to {stop} of a table with {self.nrows}")
        result: dict[str, NDArray[Any]] = {
            name: np.empty((stop - start, *c.shape), c.dtype) for name, c in wanted.items()
        }
        step = max(MAPPED_BYTES // max(self.row_width, 1), 1)
        for at in range(start, stop, step):
            block = self._stored(list(wanted.values()), at, min(at + step, stop))
            for name, column in wanted.items():
                values = block[column.name]
                into = result[name][at - start : at - start + len(values)]
                into[...] = (
                    self._from_heap(values, column) if column.descriptor else to_native(values, column)
                )
        return result

    def _stored(self, columns: list[Column], start: int, stop: int) -> NDArray[Any]:
        """Map rows into memory, as a record array of the columns alone; only touched pages are read."""
        unique = {c.name: c for c in columns}
        layout = np.dtype(
            {
                "names": list(unique),
                "formats": [c.stored for c in unique.values()],
                "offsets": [c.offset for c in unique.values()],
                "itemsize": self.row_width,
            }
        )
        at = self.table.data + start * self.row_width
        return np.memmap(self.file, layout, "r", at, (stop - start,))

    def _from_heap(self, descriptors: NDArray[Any], column: Column) -> NDArray[np.object_]:
        """Read the elements that variable-length descriptors (length, offset) point at."""
        heap = self.table.data + self.table.integer("THEAP", self.row_width * self.nrows)
        end = self.table.data + self.table.size
        values = np.empty(len(descriptors), object)
        for row, descriptor in enumerate(descriptors):
            length, offset = (int(d) for d in descriptor[0]) if len(descriptor) else (0, 0)
            element = column._replace(shape=(length,), descriptor="", width=length)
            if column.letter == "X":
                element = element._replace(width=-(-length // 8))
            size = element.width if column.letter in "XA" else element.stored.itemsize
            if length < 0 or offset < 0 or heap + offset + size > end:
                raise DataError(
                    f"{self.name}: column '{column.name}' points outside the heap of {self.table}"
                )
            values[row] = _one_row(os.pread(self.file.fileno(), size, heap + offset), element)
        return values

    def close(self) -> None:
        """Close the file; a converted copy is removed unless an unfinished output may still need it."""
        self.file.close()
        if self._scratch is not None and not self.keep_scratch:
            self._scratch.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _one_row(data: bytes, column: Column) -> NDArray[Any]:
    """Return one row's variable-length elements; text comes as a single string."""
    if column.letter == "A":
        return np.asarray(data.split(b"\0")[0].decode("latin-1").strip())
    if column.letter == "X":
        return to_native(np.frombuffer(data, "u1"), column)[0] if column.width else np.empty(0, bool)
    stored = np.frombuffer(data, column.stored.base)
    return to_native(stored, column._replace(dtype=element_dtype(column)))


def choose_table(hdus: list[Hdu], wanted: int | str | None, name: str) -> Hdu:
    """Return the table HDU with a number or name; without one, the table of targets.

    The table of targets is the first named in `TARGET_HDUS`, else the first binary table that has rows, else
    the first binary table.

    Raises
    ------
    DataError
        If the HDU does not exist or is not a binary table; the message lists the HDUs.
    """
    listing = ", ".join(str(hdu) for hdu in hdus)
    tables = [hdu for hdu in hdus if hdu.is_table]
    if wanted is not None:
        chosen = [hdu for hdu in hdus if str(wanted).upper() == hdu.name or str(wanted) == str(hdu.index)]
        if not chosen:
            raise DataError(f"{name}: no HDU {wanted}; it has {listing}")
        if not chosen[0].is_table:
            raise DataError(f"{name}: {chosen[0]} is not a binary table; it has {listing}")
        return chosen[0]
    if any(hdu.header.get("XTENSION", "").strip() == "TABLE" for hdu in hdus) and not tables:
        raise DataError(
            f"{name}: an ASCII table. Make it a binary one, e.g.: stilts tcopy {name} binary.fits"
        )
    if not tables:
        raise DataError(f"{name}: not a table, no HDU is a binary table; it has {listing}")
    named = [hdu for target in TARGET_HDUS for hdu in tables if hdu.name == target]
    filled = [hdu for hdu in tables if hdu.integer("NAXIS2") > 0]
    return (named or filled or tables)[0]
