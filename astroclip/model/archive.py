"""The zip archive that ``torch.save`` writes, memory-mapped: its pickle, and tensors as views of its entries.

Nothing is ever extracted, so names of entries cannot lead anywhere; every offset, size and checksum is
checked against the bytes that are there.
"""

import math
import mmap
import re
import struct
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from astroclip.errors import CheckpointError

MAX_PICKLE_BYTES = 1 << 24  # the published ones have less than 1 MB; bounds the memory a hostile one can take
MAX_DIMS = 8
MAX_EMPTY = 1 << 31  # product of the other dimensions of a tensor without elements


@dataclass(frozen=True)
class Storage:
    """The bytes behind one or more tensors: `count` elements of `dtype`, from byte `start` of the file."""

    dtype: torch.dtype
    start: int
    count: int


class Archive:
    """A checkpoint file, ``<root>/data.pkl`` with stored entries ``<root>/data/<key>``.

    Raises
    ------
    CheckpointError
        From every method, naming the file and what is wrong with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, tuple[int, int]] = {}
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                self.entries = {entry.filename: entry for entry in archive.infolist()}
                # A private map: tensors are writable, the file is not.
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (
            zipfile.BadZipFile,
            NotImplementedError,
            ValueError,
            OSError,
            EOFError,
            struct.error,
        ) as error:
            self.refuse(f"{_kind_of(path)} ({error})")
        roots = [
            name.removesuffix("data.pkl") for name in self.entries if re.fullmatch(r"[^/]+/data\.pkl", name)
        ]
        if len(roots) != 1:
            self.refuse("a zip file, but not a PyTorch checkpoint: that has exactly one <name>/data.pkl")
        self.root = roots[0]
        if any(name.startswith((f"{self.root}code/", f"{self.root}constants.pkl")) for name in self.entries):
            self.refuse("a TorchScript program, not a checkpoint; ask its owner for the state_dict")
        if sum(entry.file_size for entry in self.entries.values()) > len(self.bytes):
            self.refuse("its entries are larger than the file: compressed, damaged, or made to overlap")
        byteorder = self.read("byteorder") if f"{self.root}byteorder" in self.entries else b"little"
        if byteorder != sys.byteorder.encode():
            self.refuse(f"written in {byteorder[:8]!r} byte order, this machine's is {sys.byteorder!r}")

    def refuse(self, why: str) -> NoReturn:
        """Raise the error of this file."""
        raise CheckpointError(f"{self.path}: cannot be read safely: {why}")

    def find(self, name: str) -> tuple[int, int]:
        """Return the first byte and the size of the entry ``<root>/<name>``, its checksum verified."""
        if name in self.found:
            return self.found[name]
        entry = self.entries.get(self.root + name)
        if entry is None:
            self.refuse(f"the entry '{self.root}{name[:80]}' is missing")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            self.refuse(f"the entry '{entry.filename}' is compressed or encrypted; torch.save does neither")
        header = self.bytes[entry.header_offset : entry.header_offset + 30]
        if entry.header_offset < 0 or len(header) < 30 or header[:4] != b"PK\3\4":
            self.refuse(f"the entry '{entry.filename}' is truncated or damaged; download the file again")
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))  # name, extra field
        stop = start + entry.file_size
        with memoryview(self.bytes) as view, view[start:stop] as content:
            if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
                self.refuse(f"the entry '{entry.filename}' is truncated or damaged; download the file again")
        self.found[name] = start, entry.file_size
        return self.found[name]

    def read(self, name: str) -> bytes:
        """Return the content of a small entry."""
        start, size = self.find(name)
        if size > MAX_PICKLE_BYTES:
            self.refuse(f"'{self.root}{name}' has {size} bytes; no more than {MAX_PICKLE_BYTES} are read")
        return self.bytes[start : start + size]

    def storage(self, key: str, dtype: torch.dtype, count: int) -> Storage:
        """Return the storage kept in the entry ``data/<key>``."""
        start, size = self.find(f"data/{key}")
        if not 0 <= count * dtype.itemsize <= size:
            self.refuse(f"storage {key[:20]!r} claims {count} elements of {dtype} in {size} bytes")
        return Storage(dtype, start, count)

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any) -> torch.Tensor:
        """Return a view of `storage`; all four come from the pickle and are checked here."""
        lengths = (
            isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= MAX_DIMS
        )
        if not (isinstance(storage, Storage) and lengths):
            self.refuse("a tensor that is not made of a storage, offset, size and stride")
        if not all(isinstance(n, int) and n >= 0 for n in (offset, *size, *stride)):
            self.refuse("a tensor with a negative or non-integer offset, size or stride")
        if 0 in size:
            if math.prod(max(n, 1) for n in size) > MAX_EMPTY:
                self.refuse(f"an empty tensor of size {size}")
            return torch.empty(size, dtype=storage.dtype)
        steps = tuple(step if n > 1 else 1 for n, step in zip(size, stride, strict=True))
        last = offset + sum((n - 1) * step for n, step in zip(size, steps, strict=True))
        # The product keeps a stride of 0 from turning a few bytes into terabytes.
        if max(last + 1, math.prod(size)) > storage.count:
            self.refuse(f"a tensor of size {size} reaches outside its storage of {storage.count} elements")
        flat = torch.frombuffer(self.bytes, dtype=storage.dtype, count=storage.count, offset=storage.start)
        return flat.as_strided(size, steps, offset)


def _kind_of(path: Path) -> str:
    """Say what a file that is not a zip archive probably is."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return "not a readable file"
    if head[:4] == b"PK\3\4":
        return "a truncated or damaged zip archive; download it again"
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return (
            "an old PyTorch file (before 1.6), not a zip archive; its owner can save it again with torch.save"
        )
    return "not a PyTorch checkpoint (a zip archive with a data.pkl)"
