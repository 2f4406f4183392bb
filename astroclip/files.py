"""The unfinished output: a locked part file beside the target, with a journal that tells how far it is.

``.<output>.part`` holds the bytes, ``.<output>.part.json`` the number of rows that are safely in it. The
target appears in one rename, when it is complete.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError

FITS_SUFFIXES = (".fits", ".fit")
PARQUET_SUFFIX = ".parquet"
TABLE_SUFFIXES = (*FITS_SUFFIXES, PARQUET_SUFFIX)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_COPIED_BYTES = 8 << 20

WORD = 0xFFFFFFFF


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
        total = (total >> turn | total << (32 - turn)) & WORD
        self.total = _fold(self.total + total)
        self.phase = (self.phase + block.size) % 4


def _fold(total: int) -> int:
    """Add the carries of a sum of 32-bit words back in."""
    while total > WORD:
        total = (total & WORD) + (total >> 32)
    return total


def check_output(
    output: Path, name: str, overwrite: bool, suffixes: tuple[str, ...] = TABLE_SUFFIXES
) -> None:
    """Refuse an output that cannot be written, before anything is; `name` is what the user called it.

    Raises
    ------
    UsageError
        If it exists without `overwrite`, is a folder, or has a suffix that is not written.
    DataError
        If its folder does not exist.
    """
    if output.suffix.lower() not in suffixes:
        hint = f" (write {suffixes[0]}, then gzip it)" if output.suffix.lower() == ".gz" else ""
        raise UsageError(f"{name}: outputs are written as {suffixes[0]} or {suffixes[-1]}{hint}")
    if not output.parent.is_dir():
        raise DataError(f"{name}: there is no folder {output.parent}. Make it first")
    if output.is_dir():
        raise UsageError(f"{name}: is a folder, expected a file name")
    if output.exists() and not overwrite:
        raise UsageError(f"{name}: exists already. Choose another name, or overwrite it")


def part_path(output: Path) -> Path:
    """Return where an output is written until it is complete."""
    return output.with_name(f".{output.name}.part")


def check_space(output: Path, name: str, size: int) -> None:
    """Raise `DataError` if a part of `size` bytes does not fit (for Parquet: with the file made from it)."""
    free = shutil.disk_usage(output.parent).free
    if part_path(output).exists():
        free += part_path(output).stat().st_blocks * 512  # a sparse part takes less than its size
    size *= 2 if output.suffix.lower() == PARQUET_SUFFIX else 1
    if free < size:
        raise DataError(
            f"{name}: needs {size / 1e9:.3g} GB, but {output.parent} has {free / 1e9:.3g} GB free"
        )


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn what the system says about a failed write into a `DataError`."""
    try:
        yield
    except OSError as error:
        why = "the disk or quota is full" if error.errno in _FULL else error.strerror
        raise DataError(
            f"{name}: cannot write it: {why}. Make room or choose another place, then resume the run"
        ) from error


class Part:
    """The part file of one output, open for writing and locked against a second run.

    Attributes
    ----------
    path, journal_path : Path
        ``.<output>.part`` and ``.<output>.part.json``.
    checksum : Checksum
        Of the bytes written with ``summed=True``.

    Raises
    ------
    DataError
        If the folder cannot be written.
    UsageError
        If another run holds the lock. File systems without locks are used without.
    """

    def __init__(self, output: Path, name: str) -> None:
        self.output, self.name = output, name
        self.path = part_path(output)
        self.journal_path = output.with_name(f".{output.name}.part.json")
        self.checksum = Checksum()
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise DataError(f"{name}: cannot write in {output.parent}: {error.strerror}") from None
        try:
            self._lock()
        except BaseException:
            os.close(self._fd)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise UsageError(f"{self.name}: another run is writing it. Wait for that one") from None
        # the other run may have renamed the file between our open and our lock
        if not self.path.exists() or not os.path.samestat(os.fstat(self._fd), self.path.stat()):
            raise UsageError(f"{self.name}: another run has just finished it")

    @property
    def size(self) -> int:
        """Bytes in the part file."""
        return os.fstat(self._fd).st_size

    def read_journal(self) -> dict[str, Any] | None:
        """Return the journal of an earlier run, or None if there is nothing to resume."""
        try:
            journal = json.loads(self.journal_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return journal if isinstance(journal, dict) else None

    def write_journal(self, journal: dict[str, Any]) -> None:
        """Write the journal in one step, after all bytes so far are on disk."""
        with writing(self.name):
            os.fsync(self._fd)
            beside = self.journal_path.with_suffix(".tmp")
            with beside.open("w", encoding="utf-8") as file:
                json.dump(journal, file)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.journal_path)

    def restart(self) -> None:
        """Forget the earlier run. The journal goes first: it must never tell of rows that are not there."""
        with writing(self.name):
            self.journal_path.unlink(missing_ok=True)
            self.cut(0)

    def cut(self, size: int) -> None:
        """Drop everything after `size` bytes and go on from there."""
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, size, os.SEEK_SET)

    def write(self, data: bytes | NDArray[np.uint8], *, summed: bool = False) -> None:
        """Append bytes; with `summed` they count for the checksum."""
        block = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        if summed:
            self.checksum.update(block)
        rest = block.data
        with writing(self.name):
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def copy(self, file: BinaryIO, start: int, stop: int, *, summed: bool = False) -> None:
        """Append bytes `start` to `stop` of another file."""
        for at in range(start, stop, _COPIED_BYTES):
            self.write(read_exactly(file, at, min(_COPIED_BYTES, stop - at), self.name), summed=summed)

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of the part itself."""
        return os.pread(self._fd, size, start)

    def patch(self, start: int, data: bytes | NDArray[np.uint8]) -> None:
        """Write over bytes that are there already, or fill a hole."""
        rest = (np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data).data
        with writing(self.name):
            while rest:  # a disk about to be full takes a piece first, and only then refuses
                written = os.pwrite(self._fd, rest, start)
                rest, start = rest[written:], start + written

    def push(self, start: int, size: int) -> None:
        """Have the system begin to put these bytes on disk, so that the journal waits less for it."""
        if hasattr(os, "posix_fadvise"):  # Linux
            os.posix_fadvise(self._fd, start, size, os.POSIX_FADV_DONTNEED)

    def publish(self, finished: Path | None = None) -> None:
        """Give the output its name: the part itself, or the file `finished` made from it."""
        with writing(self.name):
            with (finished or self.path).open("rb") as file:
                os.fsync(file.fileno())
            if self.output.exists():
                shutil.copymode(self.output, finished or self.path)
            (finished or self.path).replace(self.output)
            if finished:
                self.path.unlink()
            self.journal_path.unlink(missing_ok=True)
            folder = os.open(self.output.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def remove(self) -> None:
        """Leave nothing behind: there is nothing to resume."""
        self.journal_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the lock."""
        os.close(self._fd)


def read_exactly(file: BinaryIO, start: int, size: int, name: str) -> bytes:
    """Read `size` bytes at `start`; fewer mean that the file shrank while it was used (`DataError`)."""
    data = os.pread(file.fileno(), size, start)
    while len(data) < size:
        more = os.pread(file.fileno(), size - len(data), start + len(data))
        if not more:
            raise DataError(f"{name}: the input became shorter while it was read. Start again")
        data += more
    return data
