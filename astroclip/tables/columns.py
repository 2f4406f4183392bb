"""Columns of a FITS binary table: what TFORM, TDIM, TSCAL, TZERO and TNULL say, and values made native.

Source: FITS standard 4.0, section 7.3. Written out here because fitsio 1.4.2 reads scaled integers wrong and
astropy 8.0.2 loses the low bits of unsigned 64-bit integers.
"""

import re
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.schema import ColumnSpec
from astroclip.tables.anytable import Column
from astroclip.tables.hdus import Card, Hdu

# TFORM letter -> type of one element as stored (A: one character, X: eight bits, P and Q: a descriptor)
_STORED = {
    "L": "u1", "X": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "A": "S1",
    "E": ">f4", "D": ">f8", "C": ">c8", "M": ">c16",
}  # fmt: skip
_DESCRIPTOR = {"P": ">i4", "Q": ">i8"}
_LETTER = {
    "bool": "L", "uint8": "B", "int8": "B", "int16": "I", "uint16": "I", "int32": "J", "uint32": "J",
    "int64": "K", "uint64": "K", "float32": "E", "float64": "D", "complex64": "C", "complex128": "M",
}  # fmt: skip
# Letter -> TZERO that marks the other signedness
_SIGN_OFFSET = {"B": -(2**7), "I": 2**15, "J": 2**31, "K": 2**63}
_OTHER_SIGN = {"B": "i1", "I": "u2", "J": "u4", "K": "u8"}


@dataclass(frozen=True, kw_only=True)
class FitsColumn(Column):
    """One column of a FITS table: the rest says how it is stored.

    `null` is the integer that marks a missing value, as `FitsTable.read` has it under the mask.
    """

    hdu: int  # number of the HDU, in a table of several that are joined
    number: int  # n of TFORMn
    form: str  # TFORM without what follows the letters
    letter: str  # TFORM letter of the elements
    descriptor: str  # "P" or "Q" if the elements lie in the heap, else ""
    offset: int  # bytes from the begin of the row
    width: int  # bytes in the row
    scale: float
    zero: float

    @property
    def stored(self) -> np.dtype[Any]:
        """The type of this column's bytes in a row, big-endian."""
        if self.descriptor:
            return np.dtype((_DESCRIPTOR[self.descriptor], (self.width // _descriptor_size(self), 2)))
        if self.letter == "X":
            return np.dtype(("u1", (self.width,)))
        if self.letter == "A":
            return np.dtype((f"S{self.width // max(prod(self.shape), 1)}", self.shape))
        return np.dtype((_STORED[self.letter], self.shape))

    @property
    def sign_flipped(self) -> bool:
        """Whether TZERO only turns the stored integers into the other signedness."""
        return self.letter in _SIGN_OFFSET and self.scale == 1 and self.zero == _SIGN_OFFSET[self.letter]

    @property
    def scaled(self) -> bool:
        """Whether TSCAL and TZERO make another number of the stored one."""
        return self.letter not in "LXA" and (self.scale, self.zero) != (1, 0) and not self.sign_flipped


def _descriptor_size(column: FitsColumn) -> int:
    return 2 * np.dtype(_DESCRIPTOR[column.descriptor]).itemsize


def read_columns(hdu: Hdu, name: str) -> list[FitsColumn]:
    """Return the columns a table's header describes, in order.

    Raises
    ------
    DataError
        If a TFORM is missing or unreadable, or the columns do not fill the row.
    """
    columns: list[FitsColumn] = []
    offset = 0
    for number in range(1, hdu.integer("TFIELDS") + 1):
        column, repeat, dims = _read_column(hdu, number, offset, name)
        columns.append(_as_read(column, repeat, dims))
        offset += column.width
    if offset != hdu.integer("NAXIS1"):
        raise DataError(
            f"{name}: the columns of {hdu} take {offset} bytes a row, but NAXIS1 is {hdu.integer('NAXIS1')}"
        )
    return columns


def _read_column(hdu: Hdu, number: int, offset: int, name: str) -> tuple[FitsColumn, int, tuple[int, ...]]:
    """Read the cards of one column: how it is stored, its repeat count, and its TDIM."""
    header = hdu.header
    title = str(header.get(f"TTYPE{number}", f"COL{number}")).strip()
    form = str(header.get(f"TFORM{number}", "")).strip()
    match = re.match(r"(?P<n>\d*)(?:(?P<d>[PQ])(?P<e>[LXBIJKAEDCM])|(?P<t>[LXBIJKAEDCM]))", form.upper())
    scale, zero = header.get(f"TSCAL{number}", 1.0), header.get(f"TZERO{number}", 0.0)
    null = header.get(f"TNULL{number}")
    if not match:
        raise DataError(
            f"{name}: column '{title}' of {hdu} has TFORM{number} = {form!r}, which is no FITS format"
        )
    if not isinstance(scale, int | float) or not isinstance(zero, int | float):
        raise DataError(
            f"{name}: column '{title}' of {hdu}: TSCAL{number}, TZERO{number} = {scale!r}, {zero!r}, "
            "expected numbers"
        )
    repeat = int(match["n"] or 1)
    letter, descriptor = match["e"] or match["t"], match["d"] or ""
    if descriptor:
        width = repeat * 2 * np.dtype(_DESCRIPTOR[descriptor]).itemsize
    else:
        width = -(-repeat // 8) if letter == "X" else repeat * np.dtype(_STORED[letter]).itemsize
    column = FitsColumn(
        name=title, dtype=np.dtype(object), unit=str(header.get(f"TUNIT{number}", "")).strip(),
        comment=_comment(header, f"TTYPE{number}"), null=null if isinstance(null, int) else None,
        lists=bool(descriptor) and letter != "A", hdu=hdu.index, number=number, form=match[0], letter=letter,
        descriptor=descriptor, offset=offset, width=width, scale=scale, zero=zero,
    )  # fmt: skip
    return column, repeat, _dims(header.get(f"TDIM{number}"))


def _comment(header: fits.Header, key: str) -> str:
    return str(header.comments[key]) if key in header else ""


def _dims(tdim: object) -> tuple[int, ...]:
    """Return the shape of a TDIM, slowest axis first as in NumPy; empty if there is none or it is broken."""
    sizes = str(tdim or "").strip().strip("()").split(",")
    return tuple(int(size) for size in reversed(sizes)) if all(s.strip().isdigit() for s in sizes) else ()


def _as_read(column: FitsColumn, repeat: int, dims: tuple[int, ...]) -> FitsColumn:
    """Return the column with type and shape of what a reader gets; a TDIM that does not fit is ignored."""
    if column.descriptor:
        return column
    shape = dims if dims and prod(dims) == repeat else () if repeat == 1 else (repeat,)
    if column.letter == "A":
        length = shape[-1] if shape == dims and dims else repeat
        return replace(column, dtype=np.dtype(f"U{max(length, 1)}"), shape=shape[:-1] if length else ())
    if column.letter in "LX":
        return replace(column, dtype=np.dtype(bool), shape=shape)
    column = replace(column, dtype=element_dtype(column), shape=shape)
    if column.null is None or column.letter not in _SIGN_OFFSET or column.scaled:
        return replace(column, null=None if column.letter not in _SIGN_OFFSET else column.null)
    return replace(column, null=column.null + (int(column.zero) if column.sign_flipped else 0))


def element_dtype(column: FitsColumn) -> np.dtype[Any]:
    """Return the native type of one element after scaling."""
    if column.sign_flipped:
        return np.dtype(_OTHER_SIGN[column.letter])
    if column.scaled:
        return np.dtype("c16" if column.letter in "CM" else "f8")
    return np.dtype(_STORED[column.letter]).newbyteorder("=")


def to_native(stored: NDArray[Any], column: FitsColumn) -> NDArray[Any]:
    """Turn stored big-endian elements of a column into values (rules: see `FitsTable.read`)."""
    if column.letter == "A":
        return _text(stored, column.dtype)
    if column.letter == "L":
        undefined = stored == 0  # FITS standard 4.0, 7.3.3.1
        return _masked(stored == ord("T"), undefined)
    if column.letter == "X":
        bits = np.unpackbits(stored, axis=-1)[..., : prod(column.shape)]
        return bits.reshape(-1, *column.shape).astype(bool)
    if column.sign_flipped:
        native = stored.astype(stored.dtype.newbyteorder("="))
        top_bit = np.array(1 << (8 * native.itemsize - 1), f"u{native.itemsize}")
        flipped = (native.view(top_bit.dtype) ^ top_bit).view(_OTHER_SIGN[column.letter])
        null = column.null
        return flipped if null is None else _masked(flipped, stored == null - int(column.zero))
    if not column.scaled:
        native = stored.astype(stored.dtype.newbyteorder("="))
        return native if column.null is None else _masked(native, native == column.null)
    values = stored.astype(element_dtype(column)) * column.scale + column.zero
    if column.null is not None:
        values[stored == column.null] = np.nan
    return values


def _masked(values: NDArray[Any], missing: NDArray[np.bool_]) -> NDArray[Any]:
    """Return values masked where they are missing, as they are where none is."""
    return np.ma.MaskedArray(values, missing) if missing.any() else values


def _text(stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.str_]:
    """Decode strings; they end at the first NUL, and blanks around them do not count."""
    characters = np.ascontiguousarray(stored).view("u1").reshape(*stored.shape, stored.itemsize)
    ended = np.logical_or.accumulate(characters == 0, axis=-1)
    text = np.where(ended, np.uint8(0), characters).view(stored.dtype)[..., 0]
    return np.char.strip(np.char.decode(text, "latin-1")).astype(dtype)


def form_of(spec: ColumnSpec) -> str:
    """Return the TFORM that stores a `ColumnSpec`; a type FITS does not know is a `UsageError`."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "US":
        return f"{string_width(dtype) * prod(spec.shape)}A"
    if dtype.name not in _LETTER:
        raise UsageError(f"column '{spec.name}': FITS tables have no type {dtype.name}")
    return f"{prod(spec.shape)}{_LETTER[dtype.name]}"


def string_width(dtype: np.dtype[Any]) -> int:
    """Return the number of characters of a NumPy string type, at least 1."""
    return max(dtype.itemsize // (4 if dtype.kind == "U" else 1), 1)


def stored_dtype(spec: ColumnSpec) -> np.dtype[Any]:
    """Return the big-endian type of one row of a `ColumnSpec`."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "US":
        return np.dtype((f"S{string_width(dtype)}", spec.shape))
    return np.dtype((_STORED[_LETTER[dtype.name]], spec.shape))


def to_stored(values: NDArray[Any], spec: ColumnSpec) -> NDArray[Any]:
    """Turn native values of a `ColumnSpec` into what a FITS row holds (byte order changes on assignment)."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "b":
        stored = np.where(np.ma.getdata(values), np.uint8(ord("T")), np.uint8(ord("F")))
        stored[np.ma.getmaskarray(values)] = 0
        return stored
    values = np.ma.getdata(values)
    if dtype.name in ("int8", "uint16", "uint32", "uint64"):
        native = np.ascontiguousarray(values, dtype).view(f"u{dtype.itemsize}")
        flipped = native ^ native.dtype.type(1 << (8 * dtype.itemsize - 1))
        return flipped if dtype.name == "int8" else flipped.view(f"i{dtype.itemsize}")
    # FITS text is ASCII
    return np.char.encode(values, "ascii", "replace") if values.dtype.kind == "U" else values


def column_cards(spec: ColumnSpec, number: int, null: int | None = None) -> list[Card]:
    """Return the cards that describe a `ColumnSpec` as column `number`; `null` marks a missing integer."""
    dtype = np.dtype(spec.dtype)
    cards = [Card(f"TTYPE{number}", spec.name, spec.comment), Card(f"TFORM{number}", form_of(spec))]
    text = dtype.kind in "US"
    if len(spec.shape) > 1 or spec.shape == (1,) or (text and spec.shape):
        sizes = [*([string_width(dtype)] if text else []), *reversed(spec.shape)]
        cards.append(Card(f"TDIM{number}", f"({','.join(map(str, sizes))})"))
    if spec.unit:
        cards.append(Card(f"TUNIT{number}", spec.unit))
    if dtype.name in ("int8", "uint16", "uint32", "uint64"):
        cards.append(Card(f"TSCAL{number}", 1))
        cards.append(Card(f"TZERO{number}", _SIGN_OFFSET[_LETTER[dtype.name]]))
    if null is not None:
        flipped = dtype.name in ("int8", "uint16", "uint32", "uint64")
        cards.append(Card(f"TNULL{number}", null - (_SIGN_OFFSET[_LETTER[dtype.name]] if flipped else 0)))
    return cards
