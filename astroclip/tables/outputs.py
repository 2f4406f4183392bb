"""Which formats tables are written in; the suffix of the output's name says which."""

from pathlib import Path

from astroclip.errors import UsageError

FITS, PARQUET = "fits", "parquet"
FORMATS = {".fits": FITS, ".fit": FITS, ".parquet": PARQUET}


def output_format(name: str | Path) -> str:
    """Return the format of a table that is written under a name.

    Raises
    ------
    UsageError
        If tables are not written with this suffix.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in FORMATS:
        hint = " (write .fits, then gzip it)" if suffix == ".gz" else ""
        raise UsageError(f"{name}: tables are written as {', '.join(FORMATS)}{hint}")
    return FORMATS[suffix]
