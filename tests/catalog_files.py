"""A FITS file with every trap for a program that adds columns, made byte by byte from the standard."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from astroclip.schema import ColumnSpec
from astroclip.tables import append_columns, open_table

# name, TFORM, type as stored, further cards
LAYOUT: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("TARGETID", "K", ">i8", {"TTYPE_COMMENT": "unique id"}),
    ("I8", "B", "u1", {"TZERO": -128}),
    ("U16", "I", ">i2", {"TZERO": 32768}),
    ("U32", "1J", ">i4", {"TSCAL": 1.0, "TZERO": 2147483648}),
    ("U64", "K", ">i8", {"TZERO": 9223372036854775808}),
    ("SCALED", "I", ">i2", {"TSCAL": 0.01, "TZERO": 5.0, "TNULL": -999}),
    ("FSCALED", "2E", (">f4", (2,)), {"TSCAL": 2.0}),
    ("NULLED", "J", ">i4", {"TNULL": -99, "TDISP": "I6"}),
    ("BITS", "11X", ("u1", (2,)), {}),
    ("GOOD", "L", "S1", {}),
    ("name", "8A", "S8", {}),
    ("ARMS", "12A", ("S4", (3,)), {"TDIM": "(4,3)"}),
    ("CX", "C", ">c8", {}),
    ("CM", "2M", (">c16", (2,)), {}),
    ("FLUXES", "6E", (">f4", (2, 3)), {"TDIM": "(3,2)", "TUNIT": "nanomaggy"}),
    ("VAR", "PE(5)", (">i4", (2,)), {"TUNIT": "Angstrom"}),
    ("VARQ", "1QJ(4)", (">i8", (2,)), {}),
    ("NOTHING", "0E", (">f4", (0,)), {}),
    ("Z", "D", ">f8", {}),
]
GAP = 24  # bytes between rows and heap
CHANGED = {"NAXIS1", "TFIELDS", "THEAP", "CHECKSUM", "DATASUM"}


def need(program: str) -> str:
    """Return the path of a program; skip where it is missing, but fail in CI."""
    path = shutil.which(program)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{program} is missing: run .ci/install-system-packages")
    if path is None:
        pytest.skip(f"needs the program {program}: run .ci/install-system-packages")
    return path


def fitsverify(path: Path) -> str:
    """Return what fitsverify says about a file: OK, or how many warnings and errors."""
    done = subprocess.run([need("fitsverify"), "-q", path], capture_output=True, text=True, check=False)
    return "OK" if "verification OK" in done.stdout else done.stdout.rpartition(",")[2].strip()


def trap_rows(nrows: int, seed: int = 0) -> tuple[NDArray[Any], bytes]:
    """Make the stored rows of the trap table, and its heap."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype([(name, stored) for name, _, stored, _ in LAYOUT])
    rows = np.frombuffer(rng.bytes(nrows * dtype.itemsize), dtype).copy()
    rows["GOOD"] = rng.choice([b"T", b"F", b"\0"], nrows)
    rows["BITS"][:, 1] &= 0b11100000
    rows["name"] = rng.choice([b"a", b"b c", b"abcdefgh", b"", b" lead"], nrows)
    rows["ARMS"] = rng.choice([b"b", b"r  ", b"zzzz"], (nrows, 3))
    rows["SCALED"][::3] = -999
    rows["NULLED"][::4] = -99
    rows["U64"][:2] = [1, -1][:nrows]  # 2^63 + 1 and 2^63 - 1: more than a double can hold
    for name in ("FSCALED", "CX", "CM", "FLUXES", "Z"):
        shape = rows[name].shape
        rows[name] = rng.normal(size=shape)
    heap = b""
    for row in range(nrows):
        floats, ints = rng.normal(size=row % 6).astype(">f4"), rng.integers(-9, 9, row % 5).astype(">i4")
        rows["VAR"][row] = floats.size, len(heap)
        rows["VARQ"][row] = ints.size, len(heap) + floats.nbytes
        heap += floats.tobytes() + ints.tobytes()
    return rows, heap + b"\0" * (3 + len(heap) % 2)


def _pad(data: bytes, fill: bytes = b"\0") -> bytes:
    return data + fill * (-len(data) % 2880)


def trap_table(nrows: int, seed: int = 0) -> bytes:
    """Return the HDU of the trap table, without checksums."""
    rows, heap = trap_rows(nrows, seed)
    header = fits.Header()
    header["XTENSION"], header["BITPIX"], header["NAXIS"] = "BINTABLE", 8, 2
    header["NAXIS1"] = (rows.dtype.itemsize, "bytes in a row")
    header["NAXIS2"], header["PCOUNT"], header["GCOUNT"] = nrows, GAP + len(heap), 1
    header["TFIELDS"], header["THEAP"] = len(LAYOUT), rows.nbytes + GAP
    header["EXTNAME"] = "ZCATALOG"
    for n, (name, form, _, cards) in enumerate(LAYOUT, 1):
        header[f"TTYPE{n}"] = (name, cards.get("TTYPE_COMMENT", ""))
        header[f"TFORM{n}"] = form
        for key, value in cards.items():
            if key != "TTYPE_COMMENT":
                header[f"{key}{n}"] = value
    header["LONGSTRN"] = "OGIP 1.0"
    header["LONGTEXT"] = "a text of more than one card " * 5
    header["HIERARCH ESO INS FILTER NAME"] = "r band"
    header["PIXSCALE"] = (0.262, "[arcsec] of the cut-outs")
    header.add_history("made by hand")
    header.add_comment("kept as it is")
    header.append(fits.Card())
    return header.tostring().encode() + _pad(rows.tobytes() + bytes(GAP) + heap)


def write_trap(path: Path, nrows: int = 17, seed: int = 0, *, checksums: bool = True) -> Path:
    """Write a file of images, tables before and after, a packed image, an ASCII table and the trap table."""
    rng = np.random.default_rng(seed)
    primary = fits.PrimaryHDU(rng.integers(0, 9, (5, 7)).astype("i2"))
    primary.header["LONGSTRN"] = "OGIP 1.0"
    primary.header["OBSERVER"] = ("somebody with a long name " * 4, "a comment")
    primary.header["HIERARCH ESO TEL ALT"] = 45.0
    primary.header.add_history("from the telescope")
    before = fits.BinTableHDU.from_columns([fits.Column("A", "J", array=[1, 2, 3])], name="BEFORE")
    packed = fits.CompImageHDU(rng.integers(0, 99, (40, 40)).astype("i2"), name="PACKED")
    image = fits.ImageHDU(rng.normal(size=(4, 4)), name="MAP")
    text = fits.TableHDU.from_columns([fits.Column("T", "I6", ascii=True, array=[7, 8])], name="TEXT")
    lists = fits.Column("L", "PJ()", array=np.array([np.arange(2), np.arange(5)], object))
    after = fits.BinTableHDU.from_columns([lists], name="AFTER")
    head, tail = path.with_suffix(".head"), path.with_suffix(".tail")
    fits.HDUList([primary, before, packed]).writeto(head, checksum=checksums)
    fits.HDUList([fits.PrimaryHDU(), image, text, after]).writeto(tail, checksum=checksums)
    path.write_bytes(head.read_bytes() + trap_table(nrows, seed) + tail.read_bytes()[2880:])
    head.unlink()
    tail.unlink()
    if checksums:
        with fitsio.FITS(str(path), "rw") as file:
            file["ZCATALOG"].write_checksum()
    return path


def simple_columns(nrows: int, width: int = 8) -> tuple[list[ColumnSpec], dict[str, NDArray[Any]]]:
    """Make columns to add: a vector, a flag, a text, an unsigned integer, a logical."""
    rng = np.random.default_rng(nrows)
    columns = [
        ColumnSpec("IMAGE_EMBEDDING", "f4", (width,), "", "embedding of the image"),
        ColumnSpec("EMBED_FLAG", "i4", (), "", "bit mask"),
        ColumnSpec("BEST", "U5", (), "", "a text"),
        ColumnSpec("BIG", "u8"),
        ColumnSpec("OK", "bool"),
        ColumnSpec("COVARIANCE", "f8", (2, 3), "nanomaggy"),
    ]
    values = {
        "IMAGE_EMBEDDING": rng.normal(size=(nrows, width)).astype("f4"),
        "EMBED_FLAG": rng.integers(0, 99, nrows).astype("i4"),
        "BEST": rng.choice(["a", "bcd", "vwxyz"], nrows).astype("U5"),
        "BIG": rng.integers(0, 2**64, nrows, "u8"),
        "OK": rng.random(nrows) < 0.5,
        "COVARIANCE": rng.normal(size=(nrows, 2, 3)),
    }
    return columns, values


def parts_of(path: Path, hdu: int) -> tuple[list[str], NDArray[np.uint8], bytes, list[bytes]]:
    """Return a table's cards, its rows as bytes, what follows them in the data, and all other HDUs."""
    raw = path.read_bytes()
    with fits.open(path, disable_image_compression=True) as hdus:
        info = [h.fileinfo() for h in hdus]
        width, nrows = hdus[hdu].header["NAXIS1"], hdus[hdu].header["NAXIS2"]
        after = hdus[hdu].header["PCOUNT"]
    header = raw[info[hdu]["hdrLoc"] : info[hdu]["datLoc"]].decode()
    cards = [header[at : at + 80] for at in range(0, len(header), 80)]
    data = raw[info[hdu]["datLoc"] :]
    rows = np.frombuffer(data, np.uint8, width * nrows).reshape(nrows, width)
    others = [raw[i["hdrLoc"] : i["datLoc"] + i["datSpan"]] for n, i in enumerate(info) if n != hdu]
    return cards[: cards.index("END".ljust(80))], rows, data[rows.size : rows.size + after], others


def append_all(source: Path, output: Path, block: int = 5, **kwargs: Any) -> dict[str, NDArray[Any]]:
    """Add the simple columns to a catalogue, block by block, and return their values."""
    with open_table(source, scratch=output.parent) as catalog:
        columns, values = simple_columns(catalog.nrows)
        with append_columns(catalog, output, columns, **kwargs) as appender:
            for at in range(0, catalog.nrows, block):
                appender.write({name: value[at : at + block] for name, value in values.items()})
    return values


def read_all(path: Path) -> dict[str, NDArray[Any]]:
    """Read all columns of a catalogue."""
    with open_table(path) as catalog:
        return catalog.read(catalog.columns)


def names_in(folder: Path) -> list[str]:
    """Return the names of a folder's files, sorted."""
    return sorted(path.name for path in folder.iterdir())
