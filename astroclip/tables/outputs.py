"""Which formats tables are written in; the suffix of the output's name says which."""

from enum import StrEnum
from pathlib import Path

from astroclip.errors import UsageError


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
