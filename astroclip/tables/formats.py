"""Which format a table is in: by its first bytes, and by its name only for CSV, which has no mark."""

import gzip
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, cast

from astroclip.errors import DataError
from astroclip.tables.hats import is_hats
from astroclip.tables.hdus import open_fits

TEXT_SUFFIXES = (".csv", ".tsv", ".tab")
_BEGIN = 4096  # bytes: a VOTable may begin with comments


class TableFormat(StrEnum):
    """The formats `open_table` reads; all but HATS and Parquet also packed by gzip."""

    FITS = "FITS"
    PARQUET = "Parquet"
    HATS = "HATS"
    CSV = "CSV"
    ECSV = "ECSV"
    VOTABLE = "VOTable"


def find_format(path: str | Path) -> TableFormat | None:
    """Tell what format a file or folder has; None if it is none of a table.

    FITS, gzip, Parquet, ECSV and VOTable are told by their content, whatever the file is called; HATS is a
    folder with its properties; CSV and TSV are told by their names (also ``.csv.gz``).

    Raises
    ------
    DataError
        If the file cannot be read, or its gzip packing is damaged.
    """
    path = Path(path)
    if is_hats(path):
        return TableFormat.HATS
    open_fits(path, str(path)).close()
    with open_unzipped(path, str(path)) as file:
        begin = file.read(_BEGIN)
    for mark, kind in ((b"SIMPLE", TableFormat.FITS), (b"PAR1", TableFormat.PARQUET)):
        if begin.startswith(mark):
            return kind
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"# %ECSV"):
        return TableFormat.ECSV
    if text.startswith(b"<") and re.search(rb"<([\w.-]+:)?VOTABLE\b", text):
        return TableFormat.VOTABLE
    named = path.name.lower().removesuffix(".gz").endswith(TEXT_SUFFIXES)
    return TableFormat.CSV if named else None


def is_gzipped(path: Path) -> bool:
    """Tell whether a file is packed by gzip."""
    with open_fits(path, str(path)) as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def open_unzipped(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacked if gzip packed it; `name` is what the user called it."""
    with unzipping(name), path.open("rb") as file:
        yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if is_gzipped(path) else file


@contextmanager
def unzipping(name: str) -> Iterator[None]:
    """Turn what gzip says about a broken file into a `DataError`."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name}: cut short or damaged gzip file ({error}). Copy the file again") from None
