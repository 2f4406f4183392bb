"""An open FITS file of a survey: HDUs and columns found by name, and one clear sentence where it differs."""

import gzip
import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import fitsio
import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError

BLOCK = 2880  # bytes: FITS files come in blocks of this size
_PLAIN = re.compile(r"[\w./ -]+", re.ASCII)  # anything else may be CFITSIO's extended file name syntax


class FitsFile:
    """A FITS file open for reading; a context manager.

    HDUs are named in any case or numbered from 0; every failure is a `DataError` that names the file.
    One `FitsFile` must not be shared between threads.

    Parameters
    ----------
    path
        A plain, gzip- or fpack-compressed FITS file.
    whole
        Refuse a file that is cut short. Without this check only the HDUs before the cut are seen, which
        is enough to index a file.

    Raises
    ------
    DataError
        If the file does not exist, is not FITS, or is cut short.
    """

    def __init__(self, path: str | Path, whole: bool = True) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file")
        with self._reading("the file"), plain_path(self.path) as plain:
            self._fits = fitsio.FITS(str(plain))
            self.names = [hdu.get_extname().upper() for hdu in self._fits]
        if whole and not self._is_whole():
            self.close()
            raise DataError(f"{self.path}: cut short after HDU {len(self.names) - 1}. Fetch the file again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return name.upper() in self.names

    def __len__(self) -> int:
        return len(self.names)

    def close(self) -> None:
        """Close the file; reading from it afterwards is an error."""
        self._fits.close()

    def header(self, hdu: int | str) -> dict[str, Any]:
        """Return the cards of an HDU, by upper-case key."""
        with self._reading(f"the header of HDU {hdu}"):
            header = self._hdu(hdu).read_header()
        return {record["name"]: record["value"] for record in header.records() if record["name"]}

    def shape(self, hdu: int | str) -> tuple[int, ...]:
        """Return the shape of an image HDU, () where it is empty or a table."""
        handle = self._hdu(hdu)
        return tuple(handle.get_dims()) if handle.get_exttype() == "IMAGE_HDU" else ()

    def pixels(self, hdu: int | str, *section: slice) -> NDArray:
        """Return the pixels of an image HDU, or the section of them that one slice an axis cuts out."""
        handle = self._hdu(hdu)
        if handle.get_exttype() != "IMAGE_HDU" or not handle.get_dims():
            raise DataError(f"{self.path}: HDU {hdu} holds no pixels, expected an image")
        with self._reading(f"the pixels of HDU {hdu}"):
            return _native(handle[section] if section else handle.read())

    def columns(self, hdu: int | str) -> list[str]:
        """Return the upper-case names of a table's columns; none where the HDU is an image."""
        handle = self._hdu(hdu)
        return [] if handle.get_exttype() == "IMAGE_HDU" else [n.upper() for n in handle.get_colnames()]

    def table(
        self, hdu: int | str, needed: Sequence[str], optional: Sequence[str] = ()
    ) -> dict[str, NDArray]:
        """Return columns of a table by upper-case name: all of `needed`, and of `optional` those present.

        Strings are stripped of their padding.

        Raises
        ------
        DataError
            If a needed column is missing, or the table is compressed by ``fpack -table``.
        """
        header, present = self.header(hdu), self.columns(hdu)
        if header.get("ZTABLE"):  # read as rows of compressed bytes, without an error
            raise DataError(f"{self.path}: the table in HDU {hdu} is compressed. Decompress it with funpack")
        if missing := [name for name in needed if name not in present]:
            raise DataError(f"{self.path}: HDU {hdu} has no column {', '.join(missing)} (found {present})")
        with self._reading(f"the columns of HDU {hdu}"):
            return {n: self._column(hdu, n, header, present) for n in (*needed, *optional) if n in present}

    def _column(self, hdu: int | str, name: str, header: dict[str, Any], present: list[str]) -> NDArray:
        if header.get(f"TSCAL{present.index(name) + 1}", 1) != 1:
            # fitsio 1.4.2 rounds scaled integers, and spoils the columns that are read beside one
            from astropy.io import fits  # rarely needed, and slow to import

            return np.asarray(fits.getdata(self.path, hdu)[name]).astype(np.float64)
        values = self._hdu(hdu)[name].read()
        return np.char.strip(values.astype(str)) if values.dtype.kind in "SU" else _native(values)

    def _hdu(self, hdu: int | str) -> Any:
        """Return the HDU of a number, or the first one of a name."""
        if isinstance(hdu, int):
            return self._fits[hdu]
        if hdu.upper() not in self.names:
            found = ", ".join(n for n in self.names if n) or "only unnamed ones"
            raise DataError(f"{self.path}: no HDU '{hdu}' (found {found})")
        return self._fits[self.names.index(hdu.upper())]

    def _is_whole(self) -> bool:
        """Tell whether the file reaches the end of its last HDU, and no half HDU follows that."""
        end = max(hdu.get_offsets()["data_end"] for hdu in self._fits)
        with self.path.open("rb") as raw:
            if raw.read(2) == b"\x1f\x8b":
                raw.seek(-4, 2)  # a gzip file ends with its unpacked size
                return int.from_bytes(raw.read(4), "little") == end % 2**32 or _unpacks(self.path)
            size = raw.seek(0, 2)
            raw.seek(min(end, size))
            return size > end - BLOCK and raw.read(8) != b"XTENSION"

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """Turn what the FITS library raises into one sentence."""
        try:
            yield
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(
                f"{self.path}: cannot read {what} ({reason}). Not FITS, or damaged: fetch it again"
            ) from error


@contextmanager
def plain_path(path: Path) -> Iterator[Path]:
    """Yield a name of a file for the CFITSIO library, in which no character means anything to it.

    The library takes ``run[1]`` and ``cut+10`` for parts of a file, and cannot be told not to. Where a name
    has such characters this is a link, gone when the context is left: the file is open then.
    """
    if _PLAIN.fullmatch(str(path)):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="astroclip-") as folder:
        link = Path(folder, "folder")
        link.symlink_to(path.absolute().parent)
        if not _PLAIN.fullmatch(path.name):
            link = Path(folder, "file.fits")
            link.symlink_to(path.absolute())
            yield link
            return
        yield link / path.name


@contextmanager
def create_fits(path: Path) -> Iterator[fitsio.FITS]:
    """Open a new FITS file for writing, whatever its folder is called; what is there is overwritten."""
    with plain_path(path) as plain, fitsio.FITS(str(plain), "rw", clobber=True) as hdus:
        yield hdus


def _native(values: NDArray) -> NDArray:
    """Return big-endian values in this machine's byte order."""
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _unpacks(path: Path) -> bool:
    """Tell whether a gzip file can be unpacked to its end."""
    try:
        with gzip.open(path) as stream:
            while stream.read(1 << 22):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False
    return True


def check_flux_unit(where: str, unit: object) -> None:
    """Refuse a flux density that is not in 1e-17 erg/s/cm²/Å; a file that gives no unit is believed.

    Raises
    ------
    DataError
        Naming `where` and the unit found.
    """
    text = re.sub(r"[\s*^()]", "", str(unit or "")).lower()
    if text and not (re.match(r"1(\.0*)?(0|e)-17erg", text) and re.search(r"ang|aa|å|/a|a-1", text)):
        raise DataError(f"{where}: flux in '{unit}', expected 1e-17 erg/(s cm2 Angstrom). Convert it")


def check_wave_unit(where: str, unit: object) -> None:
    """Refuse wavelengths that are not in Å; a file that gives no unit is believed.

    Raises
    ------
    DataError
        Naming `where` and the unit found.
    """
    if str(unit or "").strip().lower() not in {"", "angstrom", "angstroms", "ang", "aa", "a", "0.1 nm"}:
        raise DataError(f"{where}: wavelengths in '{unit}', expected Angstrom. Convert them")


def check_image_unit(where: str, unit: object) -> None:
    """Refuse an image that is not in nanomaggies; a file that gives no unit is believed.

    Raises
    ------
    DataError
        Naming `where` and the unit found.
    """
    if not re.fullmatch(r"|nanomagg(y|ys|ie|ies)|nmgys?|nmaggy|nmaggies", str(unit or "").strip().lower()):
        raise DataError(f"{where}: image in '{unit}', expected nanomaggy. Convert it")
