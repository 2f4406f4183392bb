"""Open any catalogue: plain FITS as it is, everything else through a plain FITS copy beside the output."""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from astroclip import __version__
from astroclip.errors import DataError
from astroclip.files import fingerprint_of, listing_of, writing, written_beside
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.hats import HatsCatalog, is_hats
from astroclip.tables.hdus import join_cards, open_fits, padded
from astroclip.tables.layout import MAX_COLUMNS
from astroclip.tables.tabular import Table
from astroclip.tables.write import PRIMARY, new_table

_COPIED_BYTES = 8 << 20


def open_table(
    path: str | Path,
    hdu: int | str | None = None,
    scratch: str | Path | None = None,
    columns: Collection[str] | None = None,
) -> FitsTable:
    """Open a table for reading in blocks; use the result as a context manager.

    Plain FITS (also ``.fits.fz`` whose table is not compressed) is read where it lies. ``.fits.gz``, tables
    packed by ``fpack -table``, Parquet, CSV (also ``.csv.gz``) and HATS catalogues are first converted,
    streaming, to a plain FITS copy; `close` removes it, unless an unfinished output needs it to be resumed.

    Parameters
    ----------
    path : path
        Told apart by content: FITS, gzip and Parquet by their first bytes; CSV also by its name. The folder
        of a HATS catalogue is a table too, with its rows in the order of `HatsCatalog`.
    hdu : int or str, optional
        Number (primary is 0) or EXTNAME of the table. Without it the first of the HDUs ZCATALOG, FIBERMAP,
        SPECOBJ, SPALL, else the first binary table that has rows.
    scratch : path, optional
        Folder of the converted copy; give the folder of the output. Without it the system's temporary one.
    columns : collection of str, optional
        Names (in upper case) of the columns that are wanted of a HATS catalogue, which may be larger than the
        disk: the others are not copied. Other tables have all their columns.

    Notes
    -----
    CSV: a column is int64, uint64, float64 or bool if all of its values are, else text; "", nan, NaN, NA,
    N/A, null, NULL are missing. Missing values: NaN in floats, blanks in text, undefined in logicals,
    TNULL (the lowest integer) in integers; unsigned integers with missing values become the next signed
    type (uint64: its highest value marks them). Lists of one length become vector columns.

    Raises
    ------
    DataError
        If the file does not exist, is no table, is cut short, or has columns FITS cannot hold.
    """
    source, name = Path(path), str(path)
    kind = _kind_of(source, name)
    if kind == "fits":
        catalog = FitsTable(source, hdu, name=name)
        if not catalog.is_compressed:
            return catalog
        catalog.close()
    folder = Path(scratch) if scratch is not None else Path(tempfile.gettempdir())
    files = HatsCatalog(source).files if kind == "hats" else [source]
    fingerprint = listing_of(files) if kind == "hats" else fingerprint_of(source, name)
    wanted = sorted(columns) if columns is not None and kind == "hats" else None
    identity = hashlib.sha256(f"{fingerprint['sha256']} {wanted} {__version__}".encode()).hexdigest()[:16]
    copy = folder / f".{source.absolute().name}.{identity}.fits"
    if not copy.exists():
        _convert(files, name, kind, copy, wanted)
    try:
        catalog = FitsTable(copy, hdu, name=name, source=source, scratch=copy)
    except DataError:
        copy.unlink()
        raise
    if catalog.is_compressed:
        catalog.close()
        raise DataError(f"{name}: the table is packed twice, by gzip and by fpack. Gunzip it first")
    catalog.fingerprint = fingerprint
    return catalog


def _kind_of(source: Path, name: str) -> str:
    """Tell what a file is: fits, fits.gz, parquet or csv, by its first bytes; or hats, a folder."""
    if is_hats(source):
        return "hats"
    with open_fits(source, name) as file:
        begin = file.read(8)
    csv = source.name.lower().removesuffix(".gz").endswith(".csv")
    if begin.startswith(b"\x1f\x8b"):
        with _unzipping(name), gzip.open(source) as unzipped:
            begin = unzipped.read(8)
        if begin.startswith(b"SIMPLE"):
            return "fits.gz"
    elif begin.startswith(b"SIMPLE"):
        return "fits"
    elif begin.startswith(b"PAR1"):
        return "parquet"
    if csv:
        return "csv"
    raise DataError(f"{name}: not a table; expected FITS (also .gz, .fz), Parquet or a .csv file")


def _convert(files: list[Path], name: str, kind: str, copy: Path, wanted: list[str] | None) -> None:
    """Make the plain FITS copy beside its final name, and rename it when it is complete."""
    source = files[0]
    with written_beside(copy, name) as beside:
        if kind == "fits":
            _funpack(source, name, beside)
        elif kind == "fits.gz":
            _gunzip(source, name, beside)
        else:
            _write_fits(Table(files, name, is_csv=kind == "csv", wanted=wanted), beside)


@contextmanager
def _unzipping(name: str) -> Iterator[None]:
    """Turn what gzip says about a broken file into a `DataError`."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name}: cut short or damaged gzip file ({error}). Copy the file again") from None


def _gunzip(source: Path, name: str, target: Path) -> None:
    with writing(name), target.open("wb") as plain, _unzipping(name), gzip.open(source) as packed:
        shutil.copyfileobj(packed, plain, _COPIED_BYTES)


def _funpack(source: Path, name: str, target: Path) -> None:
    """Unpack an ``fpack -table`` file with CFITSIO's own program."""
    program = shutil.which("funpack")
    if program is None:
        raise DataError(
            f"{name}: its table is packed by fpack, and the program funpack is not here. "
            "Install CFITSIO's programs (Debian: libcfitsio-bin; conda: cfitsio), or unpack it yourself"
        )
    # CFITSIO reads brackets, + and ! in a file name as commands: give it plain names in a folder of its own
    with writing(name), tempfile.TemporaryDirectory(dir=target.parent, prefix=".funpack-") as folder:
        Path(folder, "table.fits.fz").symlink_to(source.resolve())
        command = [program, "-O", "table.fits", "table.fits.fz"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - fixed names, no shell
        if done.returncode:
            raise DataError(f"{name}: funpack cannot unpack it: {(done.stderr or done.stdout).strip()}")
        Path(folder, "table.fits").replace(target)


def _write_fits(table: Table, target: Path) -> None:
    """Write a Parquet or CSV table as a FITS file with one binary table."""
    specs = [column.spec for column in table.columns]
    names = [spec.name.upper() for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or len(specs) > MAX_COLUMNS:
        wrong = (
            f"columns {', '.join(twice)} are there twice"
            if twice
            else f"{len(specs)} columns, FITS allows 999"
        )
        raise DataError(f"{table.name}: {wrong}")
    row, header = new_table(specs, table.nrows, {column.name: column.tnull for column in table.columns})
    with writing(table.name), target.open("wb") as file:
        file.write(join_cards([card.encode() for card in PRIMARY]))
        file.write(join_cards(header))
        for arrays in table.stored_batches():
            block = np.empty(len(arrays[0]), row)
            for i, array in enumerate(arrays):
                block[f"c{i}"] = array
            file.write(block.view(np.uint8).data)
        file.write(bytes(padded(file.tell()) - file.tell()))
        file.flush()
        os.fsync(file.fileno())
