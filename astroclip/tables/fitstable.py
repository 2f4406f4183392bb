"""FITS tables: one binary table of a file, or several that are aligned row by row, read in blocks of rows."""

import os
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.tables.anytable import Block, Table, find_name
from astroclip.tables.columns import FitsColumn, element_dtype, read_columns, to_native
from astroclip.tables.fingerprint import fingerprint_of
from astroclip.tables.hdus import Hdu, open_fits, scan_hdus

# HDUs that hold one row a target although another table comes first: DESI zcatalogs, coadds and Redrock
# files; SDSS spectra (spec-*.fits and spectrum-lite files); catalogues of SExtractor, of THELI
TARGET_HDUS = ("ZCATALOG", "FIBERMAP", "SPECOBJ", "SPALL", "LDAC_OBJECTS", "OBJECTS")
# Columns that say who is in a row: HDUs that agree in them, and have one of the first, are of the same rows
_WHO = ("TARGETID", "CATALOGID", "SDSS_ID", "OBJECT_ID", "SPECOBJID")
ALIGNING = (*_WHO, "BRICKID", "OBJID", "SURVEY", "PROGRAM", "HEALPIX")
MAPPED_BYTES = 64 << 20  # rows mapped into memory at a time


class FitsTable(Table):
    """A FITS table opened for reading; made by `open_table`, used as a context manager.

    Attributes
    ----------
    hdu : int
        Number of the table's HDU, the primary HDU being 0.
    hdus : list of Hdu
        All HDUs of the file, `table` being the one that is read.
    file : BinaryIO
        The open file; read from it by `os.pread` only, threads share it. Of a packed file this is an
        unpacked copy that has no name.
    row_width : int
        Bytes in a row.
    """

    columns: dict[str, FitsColumn]

    def __init__(
        self,
        path: Path,
        hdu: int | str | None = None,
        *,
        name: str = "",
        file: BinaryIO | None = None,
        join: bool = False,
    ) -> None:
        self.source, self.name = path, name or str(path)
        self.file = open_fits(path, self.name) if file is None else file
        try:
            self._read_layout(hdu, join)
        except BaseException:
            self.file.close()
            raise

    def _read_layout(self, hdu: int | str | None, join: bool) -> None:
        self.hdus = scan_hdus(self.file, self.name)
        self.table = choose_table(self.hdus, hdu, self.name)
        self.place = str(self.table)
        self.others = [str(other) for other in self.hdus if other is not self.table and other.is_table]
        self.hdu, self.nrows = self.table.index, self.table.integer("NAXIS2")
        self.row_width = self.table.integer("NAXIS1")
        self.columns = {}
        if self.is_compressed:
            return
        self._refuse_columns_as_rows()
        for column in read_columns(self.table, self.name):
            self.columns.setdefault(column.name, column)  # of a name that is there twice the first is kept
        for other in self.hdus if join else ():
            if other is not self.table and other.is_table and self._is_aligned(other):
                for column in read_columns(other, self.name):
                    if self.find(column.name) is None:
                        self.columns[column.name] = column
                self.place += f" + {other}"
                self.others.remove(str(other))

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

    def read(self, names: Iterable[str], start: int = 0, stop: int | None = None) -> Block:
        """Read rows `start` to `stop` of some columns, as `Table.read` says.

        TSCAL and TZERO are applied: integers whose TZERO marks the other signedness stay integers, exactly;
        other scaled numbers become float64, NaN where they equal TNULL. Logicals and bits are bool, text has
        no blanks around it.

        Raises
        ------
        DataError
            If a column does not exist, or its variable-length data lie outside the heap.
        """
        wanted = {name: self.columns[self.need(name)] for name in names}
        stop = self.nrows if stop is None else stop
        if not 0 <= start <= stop <= self.nrows:
            raise ValueError(f"rows {start} to {stop} of a table with {self.nrows}")
        return self._read_columns(wanted, start, stop)

    def _read_columns(self, wanted: dict[str, FitsColumn], start: int, stop: int) -> Block:
        """Read rows piece by piece, each piece for all columns: a page of the file is read once."""
        result: Block = {name: np.empty((stop - start, *c.shape), c.dtype) for name, c in wanted.items()}
        step = max(MAPPED_BYTES // max(self.row_width, 1), 1)
        for at in range(start, stop, step):
            rows = slice(at - start, min(at + step, stop) - start)
            for name, column, stored in self._stored(wanted, at, min(at + step, stop)):
                values = self._from_heap(stored, column) if column.descriptor else to_native(stored, column)
                result[name][rows] = values
                if np.ma.isMaskedArray(values):
                    if not np.ma.isMaskedArray(result[name]):
                        result[name] = np.ma.MaskedArray(result[name], np.zeros(result[name].shape, bool))
                    result[name][rows] = values
        return result

    def _stored(
        self, wanted: dict[str, FitsColumn], start: int, stop: int
    ) -> Iterator[tuple[str, FitsColumn, NDArray[Any]]]:
        """Map rows into memory, and yield the stored elements of each column; only touched pages are read."""
        for index in sorted({column.hdu for column in wanted.values()}):
            table, columns = self.hdus[index], {n: c for n, c in wanted.items() if c.hdu == index}
            width, unique = table.integer("NAXIS1"), {c.name: c for c in columns.values()}
            layout = np.dtype(
                {
                    "names": list(unique),
                    "formats": [c.stored for c in unique.values()],
                    "offsets": [c.offset for c in unique.values()],
                    "itemsize": width,
                }
            )
            rows = np.memmap(self.file, layout, "r", table.data + start * width, (stop - start,))
            for name, column in columns.items():
                yield name, column, rows[column.name]

    def _from_heap(self, descriptors: NDArray[Any], column: FitsColumn) -> NDArray[np.object_]:
        """Read the elements that variable-length descriptors (length, offset) point at."""
        table = self.hdus[column.hdu]
        heap = table.data + table.integer("THEAP", table.integer("NAXIS1") * self.nrows)
        end = table.data + table.size
        values = np.empty(len(descriptors), object)
        for row, descriptor in enumerate(descriptors):
            length, offset = (int(d) for d in descriptor[0]) if len(descriptor) else (0, 0)
            element = replace(column, shape=(length,), descriptor="", width=length)
            if column.letter == "X":
                element = replace(element, width=-(-length // 8))
            size = element.width if column.letter in "XA" else element.stored.itemsize
            if length < 0 or offset < 0 or heap + offset + size > end:
                raise DataError(f"{self.name}: column '{column.name}' points outside the heap of {table}")
            values[row] = _one_row(os.pread(self.file.fileno(), size, heap + offset), element)
        return values

    def _elsewhere(self, *candidates: str) -> str:
        for hdu in self.hdus:
            titles = [str(value).strip() for key, value in hdu.header.items() if key.startswith("TTYPE")]
            found = find_name(titles, *candidates) if hdu.is_table else None
            if found:
                return f". {hdu} has '{found}': name it by --hdu {hdu.index} or FILE#{hdu.index}"
        return ""

    def _is_aligned(self, other: Hdu) -> bool:
        """Whether the rows of another HDU are those of the table: as many, and the same identifiers."""
        if other.integer("NAXIS2") != self.nrows or other.header.get("ZTABLE", False) is True:
            return False
        theirs = {column.name.upper(): column for column in read_columns(other, self.name)}
        ours = {name: self.columns[found] for name in ALIGNING if (found := self.find(name))}
        shared = [name for name in ALIGNING if name in ours and name in theirs]
        return not set(_WHO).isdisjoint(shared) and all(
            self._is_same(ours[name], theirs[name]) for name in shared
        )

    def _is_same(self, one: FitsColumn, other: FitsColumn) -> bool:
        """Whether two columns hold the same in every row."""
        if one.descriptor or other.descriptor or one.shape != other.shape:
            return False
        rows = max(MAPPED_BYTES // max(self.row_width, self.hdus[other.hdu].integer("NAXIS1"), 1), 1)
        for start in range(0, self.nrows, rows):
            stop = min(start + rows, self.nrows)
            a, b = (np.ma.getdata(self._read_columns({"": c}, start, stop)[""]) for c in (one, other))
            if not np.array_equal(a, b):
                return False
        return True

    def _refuse_columns_as_rows(self) -> None:
        """Refuse the column-oriented tables of TOPCAT: one row, in which each cell is a whole column."""
        dims = [
            str(self.table.header.get(f"TDIM{i + 1}", "")).strip(" ()").split(",")
            for i in range(self.table.integer("TFIELDS"))
        ]
        lengths = {sizes[-1].strip() for sizes in dims}
        scalar = any(len(sizes) == 2 and sizes[0].strip() == "1" for sizes in dims)
        if self.nrows == 1 and len(lengths) == 1 and scalar and min(map(len, dims)) > 1 and lengths != {"1"}:
            raise DataError(
                f"{self.name}: {self.table} is column-oriented (colfits), expected rows. Rewrite it: "
                f"stilts tcopy in={shlex.quote(str(self.source))} out=rows.fits ofmt=fits-basic"
            )

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _one_row(data: bytes, column: FitsColumn) -> NDArray[Any]:
    """Return one row's variable-length elements; text comes as a single string."""
    if column.letter == "A":
        return np.asarray(data.split(b"\0")[0].decode("latin-1").strip())
    if column.letter == "X":
        return to_native(np.frombuffer(data, "u1"), column)[0] if column.width else np.empty(0, bool)
    stored = np.frombuffer(data, column.stored.base)
    return to_native(stored, replace(column, dtype=element_dtype(column)))


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
        if str(chosen[0].header.get("XTENSION", "")).strip() == "TABLE":
            raise _ascii(name)
        if not chosen[0].is_table:
            raise DataError(f"{name}: {chosen[0]} is not a binary table; it has {listing}")
        return chosen[0]
    if any(hdu.header.get("XTENSION", "").strip() == "TABLE" for hdu in hdus) and not tables:
        raise _ascii(name)
    if not tables:
        raise DataError(f"{name}: not a table, no HDU is a binary table; it has {listing}")
    named = [hdu for target in TARGET_HDUS for hdu in tables if hdu.name == target]
    filled = [hdu for hdu in tables if hdu.integer("NAXIS2") > 0]
    return (named or filled or tables)[0]


def _ascii(name: str) -> DataError:
    """Return the error of an ASCII table."""
    file = shlex.quote(name.partition("#")[0])
    return DataError(
        f"{name}: an ASCII table, expected a binary one. Rewrite it: stilts tcopy {file} binary.fits"
    )
