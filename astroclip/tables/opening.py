"""Open any table: FITS and Parquet where they lie, everything else through a copy without a name."""

import shlex
from pathlib import Path

from astroclip.errors import DataError
from astroclip.files import split_hdu
from astroclip.tables.arrowtable import ArrowTable
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.formats import TableFormat, find_format, is_gzipped
from astroclip.tables.hats import open_hats
from astroclip.tables.markup import open_ecsv, open_votable
from astroclip.tables.textfile import open_csv
from astroclip.tables.unpack import funpack, gunzip


def open_table(
    path: str | Path,
    hdu: int | str | None = None,
    scratch: str | Path | None = None,
    *,
    join: bool = False,
) -> FitsTable | ArrowTable:
    """Open a table for reading in blocks; use the result as a context manager.

    FITS (also ``.fits.fz`` whose table is not compressed), Parquet and HATS catalogues are read where they
    lie. ``.fits.gz`` and tables packed by ``fpack -table`` are unpacked first, CSV, ECSV and VOTables
    converted, into a file that has no name and goes when the table is closed.

    Parameters
    ----------
    path : path
        Told apart by content, see `find_format`. ``FILE#HDU`` names an HDU too, as STILTS writes it, where
        there is no file of that very name.
    hdu : int or str, optional
        Number (the primary HDU is 0) or EXTNAME of the table. Without it the first of the HDUs ZCATALOG,
        FIBERMAP, SPECOBJ, SPALL, LDAC_OBJECTS, OBJECTS, else the first binary table that has rows. Of a
        VOTable the number (from 0), ID or name of a table.
    scratch : path, optional
        Folder of a copy; give the folder of the output. Without it the system's temporary one.
    join : bool
        Add the columns of all HDUs whose rows are those of the table: as many rows, and the same TARGETID
        (or CATALOGID, SDSS_ID, OBJECT_ID, SPECOBJID) in each, and SURVEY, PROGRAM, HEALPIX where both have
        them. Of a name that is there twice the first is taken. FastSpecFit's METADATA, SPECPHOT and FASTSPEC
        are such HDUs.

    Raises
    ------
    DataError
        If the file does not exist, is no table or cut short, or has no such HDU.
    """
    name = str(path)
    source, part = split_hdu(path)
    hdu = part if hdu is None else hdu
    folder = Path(scratch) if scratch is not None else None
    kind = find_format(source)
    if kind is TableFormat.FITS:
        return _open_fits(source, name, hdu, folder, join)
    if kind is TableFormat.VOTABLE:
        return open_votable(source, name, folder, hdu)
    if hdu is not None and kind is not None:
        raise DataError(f"{name}: a {kind} table has no HDUs, expected FITS to choose {hdu}")
    if kind is TableFormat.HATS:
        return open_hats(source, name)
    if kind is TableFormat.PARQUET:
        return ArrowTable([source], name, source)
    if kind is TableFormat.ECSV:
        return open_ecsv(source, name, folder)
    if kind is TableFormat.CSV:
        return open_csv(source, name, folder)
    raise DataError(
        f"{name}: not a table; expected FITS (also .gz, .fz), Parquet, HATS, ECSV, VOTable, or a file called "
        f".csv or .tsv. Rewrite others: stilts tcopy in={shlex.quote(str(source))} ifmt=ascii out=table.fits"
    )


def _open_fits(source: Path, name: str, hdu: int | str | None, scratch: Path | None, join: bool) -> FitsTable:
    """Open a FITS file, unpacked if it is packed."""
    unpacked = gunzip(source, name, scratch) if is_gzipped(source) else None
    table = FitsTable(source, hdu, name=name, file=unpacked, join=join)
    if not table.is_compressed:
        return table
    table.close()
    if unpacked is not None:
        raise DataError(f"{name}: the table is packed twice, by gzip and by fpack. Gunzip it first")
    return FitsTable(source, hdu, name=name, file=funpack(source, name, scratch), join=join)
