"""Which formats tables are written in; the suffix of the output's name says which."""

from enum import StrEnum
from pathlib import Path

from astroclip.errors import UsageError
from astroclip.files import split_hdu
from astroclip.tables.formats import TableFormat, find_format
from astroclip.tables.hats import is_hats


class OutputFormat(StrEnum):
    """The formats tables are written in."""

    FITS = "FITS"
    PARQUET = "Parquet"
    CSV = "CSV"
    TSV = "TSV"
    ECSV = "ECSV"
    VOTABLE = "VOTable"


SUFFIXES = {
    ".fits": OutputFormat.FITS, ".fit": OutputFormat.FITS, ".parquet": OutputFormat.PARQUET,
    ".csv": OutputFormat.CSV, ".tsv": OutputFormat.TSV, ".ecsv": OutputFormat.ECSV,
    ".vot": OutputFormat.VOTABLE, ".xml": OutputFormat.VOTABLE,
}  # fmt: skip
SHARD_FORMATS = (OutputFormat.FITS, OutputFormat.PARQUET)


def default_output(table: str | Path, ending: str) -> Path:
    """Return the name of an output that the user did not name: beside the table, Parquet where that is.

    Raises
    ------
    DataError
        If the table is a file that cannot be read.
    """
    source, _ = split_hdu(table)
    arrow = (TableFormat.PARQUET, TableFormat.HATS)
    stays = (is_hats(source) or source.is_file()) and find_format(source) in arrow
    return source.with_name(f"{source.name.split('.')[0]}-{ending}{'.parquet' if stays else '.fits'}")


def output_format(name: str | Path) -> OutputFormat:
    """Return the format of a table that is written under a name.

    Raises
    ------
    UsageError
        If tables are not written with this suffix.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        hint = " (write .fits, then gzip it)" if suffix == ".gz" else ""
        raise UsageError(f"{name}: tables are written as {', '.join(SUFFIXES)}{hint}")
    return SUFFIXES[suffix]
