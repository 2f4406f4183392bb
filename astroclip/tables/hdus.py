"""The skeleton of a FITS file: where its HDUs lie, their cards as stored, and their checksums.

Source: the FITS standard 4.0, sections 3, 4, 7 and appendix J, https://fits.gsfc.nasa.gov/fits_standard.html
"""

from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from astroclip.errors import DataError

BLOCK = 2880
CARD = 80
_END = b"END".ljust(CARD)
_WORD = 0xFFFFFFFF


class Checksum:
    """The 32-bit ones'-complement sum of a stream of bytes, the D of DATASUM.

    A block that begins within a word is summed as if it began with it; rotating that sum by the bytes it is
    off gives the right one, because the carry goes round (as in RFC 1071, 2).
    """

    def __init__(self, total: int = 0, phase: int = 0) -> None:
        self.total, self.phase = total, phase

    def update(self, block: NDArray[np.uint8]) -> None:
        """Add a contiguous run of bytes."""
        whole = block.size // 4 * 4
        tail = bytes(block[whole:]).ljust(4, b"\0")
        words = int(np.add.reduce(block[:whole].view(">u4"), dtype=np.uint64))
        total = _fold(words + int.from_bytes(tail, "big"))
        turn = 8 * self.phase
        total = (total >> turn | total << (32 - turn)) & _WORD
        self.total = _fold(self.total + total)
        self.phase = (self.phase + block.size) % 4


def _fold(total: int) -> int:
    """Add the carries of a sum of 32-bit words back in."""
    while total > _WORD:
        total = (total & _WORD) + (total >> 32)
    return total


class Hdu:
    """One header-and-data unit: its raw cards and where its bytes lie.

    `start`, `data` and `end` are byte offsets of the header, of the data and of the next HDU; `size` is the
    number of data bytes without the padding; `file` is what the file is called in an error.
    """

    def __init__(self, file: str, index: int, start: int, cards: list[bytes], data: int) -> None:
        self.file, self.index, self.start, self.cards, self.data = file, index, start, cards, data

    @cached_property
    def header(self) -> fits.Header:
        """The cards as an astropy header, for values."""
        return fits.Header.fromstring(b"".join(self.cards).decode("latin-1"))

    @property
    def name(self) -> str:
        """EXTNAME in upper case, or an empty text."""
        return str(self.header.get("EXTNAME", "")).strip().upper()

    @property
    def is_table(self) -> bool:
        """Whether this is a binary table that holds rows (not a compressed image)."""
        xtension = str(self.header.get("XTENSION", "")).strip()
        return xtension in ("BINTABLE", "A3DTABLE") and self.header.get("ZIMAGE", False) is not True

    @cached_property
    def size(self) -> int:
        """Data bytes, without the padding."""
        axes = [self.integer(f"NAXIS{i + 1}") for i in range(self.integer("NAXIS"))]
        groups = self.header.get("GROUPS", False) is True and bool(axes) and axes[0] == 0
        if not axes:
            return 0
        if min(axes) < 0:
            raise DataError(f"{self.file}: {self} has an axis of negative length, NAXISn = {axes}")
        pixels = int(np.prod(axes[1:] if groups else axes, dtype=object))
        each = abs(self.integer("BITPIX")) // 8 * self.integer("GCOUNT", 1)
        return each * (self.integer("PCOUNT", 0) + pixels)

    @property
    def end(self) -> int:
        """Byte offset of the next HDU."""
        return self.data + padded(self.size)

    def integer(self, key: str, default: int | None = None) -> int:
        """Return the value of an integer card; a missing or broken one is a `DataError`."""
        try:
            value = self.header.get(key, default)
        except fits.VerifyError:
            value = None
        if isinstance(value, bool) or not isinstance(value, int):
            raise DataError(f"{self.file}: {self}: card {key} holds {value!r}, expected an integer")
        return value

    def __str__(self) -> str:
        return f"HDU {self.index}" + (f" ({self.name})" if self.name else "")


def padded(size: int) -> int:
    """Return `size` rounded up to whole FITS blocks."""
    return -(-size // BLOCK) * BLOCK


def read_cards(file: BinaryIO) -> list[bytes] | None:
    """Read one header, up to and without END; None at the end of the file or where no END follows."""
    cards: list[bytes] = []
    while len(block := file.read(BLOCK)) == BLOCK:
        for at in range(0, BLOCK, CARD):
            card = block[at : at + CARD]
            if card == _END:
                return cards
            cards.append(card)
    return None


def scan_hdus(file: BinaryIO, name: str) -> list[Hdu]:
    """Find all HDUs of an open FITS file; `name` is what the file is called in an error.

    Bytes behind the last HDU ("special records") are no HDU and no error.

    Raises
    ------
    DataError
        If the file is not FITS, a header is broken, or the file is shorter than its headers promise.
    """
    file_size = file.seek(0, 2)
    hdus: list[Hdu] = []
    start = 0
    while start < file_size:
        file.seek(start)
        if file.read(8) != (b"XTENSION" if hdus else b"SIMPLE  "):
            break
        file.seek(start)
        cards = read_cards(file)
        if cards is None:
            raise DataError(f"{name}: cut short in the header of HDU {len(hdus)}. Copy the file again")
        hdu = Hdu(name, len(hdus), start, cards, file.tell())
        if hdu.end > file_size:
            raise DataError(
                f"{name}: cut short, {hdu.end - file_size} bytes of {hdu} are missing "
                f"(its header promises {hdu.end}, the file has {file_size}). Copy the file again"
            )
        hdus.append(hdu)
        start = hdu.end
    if not hdus:
        raise DataError(f"{name}: not a FITS file (it does not begin with SIMPLE)")
    return hdus


class Card(NamedTuple):
    """A card to be written: keyword, value, comment."""

    key: str
    value: Any
    comment: str = ""

    def encode(self) -> bytes:
        """Return the 80 bytes (more with CONTINUE); a comment that does not fit is cut."""
        value = ascii_text(self.value) if isinstance(self.value, str) else self.value
        image = cast(str, fits.Card(self.key, value).image)
        if len(image) == CARD and self.comment and self.key != "HISTORY":
            image = f"{image.rstrip():<30} / {ascii_text(self.comment)}"[:CARD].ljust(CARD)
        return image.encode("ascii")


def ascii_text(text: str) -> str:
    """Return `text` with everything a FITS card cannot hold written as a backslash escape."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode() for c in text)


def keyword(card: bytes) -> str:
    """Return the keyword of a stored card."""
    return card[:8].decode("latin-1").rstrip()


def set_card(cards: list[bytes], key: str, value: Any, comment: str = "") -> None:
    """Replace the card `key` (with its CONTINUE cards) where it stands, or append it. Modifies `cards`."""
    image = Card(key, value, comment).encode()
    new = [image[at : at + CARD] for at in range(0, len(image), CARD)]
    at = next((i for i, card in enumerate(cards) if keyword(card) == key), len(cards))
    stop = min(at + 1, len(cards))
    while stop < len(cards) and keyword(cards[stop]) == "CONTINUE":
        stop += 1
    cards[at:stop] = new


def drop_cards(cards: list[bytes], *keys: str) -> list[bytes]:
    """Return the cards without those of the given keywords."""
    return [card for card in cards if keyword(card) not in keys]


def join_cards(cards: list[bytes]) -> bytes:
    """Return the cards as a header: END, and blanks up to a whole block."""
    header = b"".join(cards) + _END
    return header.ljust(padded(len(header)))


def seal_header(cards: list[bytes], datasum: int) -> bytes:
    """Return the header with DATASUM and CHECKSUM set (both cards must be there). Modifies `cards`."""
    set_card(cards, "DATASUM", str(datasum), "data unit checksum")
    set_card(cards, "CHECKSUM", "0" * 16, "HDU checksum")
    total = Checksum(datasum)
    total.update(np.frombuffer(join_cards(cards), np.uint8))
    set_card(cards, "CHECKSUM", _encode(~total.total & _WORD), "HDU checksum")
    return join_cards(cards)


def _encode(value: int) -> str:
    """Write a 32-bit sum as the 16 letters and digits of CHECKSUM (FITS standard 4.0, appendix J.2)."""
    punctuation = set(b":;<=>?@[\\]^_`")
    columns = []
    for byte in value.to_bytes(4, "big"):
        parts = [byte // 4 + ord("0") + (byte % 4 if i == 0 else 0) for i in range(4)]
        while any(part in punctuation for part in parts):
            for i in (0, 2):
                if punctuation & set(parts[i : i + 2]):
                    parts[i] += 1
                    parts[i + 1] -= 1
        columns.append(parts)
    text = "".join(chr(columns[byte][part]) for part in range(4) for byte in range(4))
    return text[-1] + text[:-1]


def open_fits(path: Path, name: str) -> BufferedReader:
    """Open a file for reading; the errors a user makes become a `DataError`."""
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{name}: cannot read it ({error.strerror})") from None
