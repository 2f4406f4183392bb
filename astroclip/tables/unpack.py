"""Packed FITS files, unpacked into a file without a name: it goes with the program, however that ends."""

import gzip
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from astroclip.errors import DataError
from astroclip.files import writing
from astroclip.tables.formats import unzipping

_COPIED_BYTES = 8 << 20


def nameless_file(folder: Path | None, name: str) -> BinaryIO:
    """Open a new file without a name in a folder, by default the system's temporary one; nobody else sees it.

    Raises
    ------
    DataError
        If nothing can be written there; `name` is the table that it is for.
    """
    with writing(name):
        return cast(BinaryIO, tempfile.TemporaryFile(dir=folder, prefix=".astroclip-"))


def gunzip(source: Path, name: str, folder: Path | None) -> BinaryIO:
    """Unpack a gzip file; `DataError` if it is damaged or there is no room."""
    plain = nameless_file(folder, name)
    try:
        with writing(name), unzipping(name), gzip.open(source) as packed:
            shutil.copyfileobj(packed, plain, _COPIED_BYTES)
            plain.flush()
    except BaseException:
        plain.close()
        raise
    return plain


def funpack(source: Path, name: str, folder: Path | None) -> BinaryIO:
    """Unpack an ``fpack -table`` file with CFITSIO's own program."""
    program = shutil.which("funpack")
    if program is None:
        raise DataError(
            f"{name}: its table is packed by fpack, and the program funpack is not here. "
            "Install CFITSIO's programs (Debian: libcfitsio-bin; conda: cfitsio), or unpack it yourself"
        )
    # CFITSIO reads brackets, + and ! in a file name as commands: give it plain names in a folder of its own
    with writing(name), tempfile.TemporaryDirectory(dir=folder, prefix=".astroclip-") as private:
        Path(private, "table.fits.fz").symlink_to(source.resolve())
        command = [program, "-O", "table.fits", "table.fits.fz"]
        done = subprocess.run(command, cwd=private, capture_output=True, text=True, check=False)  # noqa: S603 - fixed names, no shell
        if done.returncode:
            raise DataError(f"{name}: funpack cannot unpack it: {(done.stderr or done.stdout).strip()}")
        return Path(private, "table.fits").open("rb")
