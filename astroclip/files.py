"""How files are written: checked before, beside their place, and renamed when they are complete.

`written_beside` is for a file that is made in one go. `Part` is for one that takes long: a locked part file
``.<output>.part`` beside the target, and a journal ``.<output>.part.json`` that says how many rows are safely
in it, so that an interrupted run can be resumed. `check_outputs` compares the outputs of a call with its
inputs. Here are also the folders of what is fetched.
"""

import errno
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_COPIED_BYTES = 8 << 20
_SAID_BYTES = 1 << 20

Seen = Callable[[NDArray[np.uint8]], None]
Name = str | Path  # of a file, as the user wrote it


def cache_folder(kind: str) -> Path:
    """Return where fetched things of a kind are kept: ``$ASTROCLIP_CACHE/<kind>``, by default in ~/.cache."""
    return Path(os.environ.get("ASTROCLIP_CACHE") or Path.home() / ".cache" / "astroclip") / kind


def check_outputs(
    outputs: Sequence[Name | None],
    inputs: Sequence[Name | None],
    overwrite: bool,
    *,
    folders: Sequence[Name | None] = (),
    own: Name | None = None,
) -> None:
    """Refuse the outputs of a call that cannot be written, or would destroy an input or each other.

    Nothing is written before all are checked. Two names are one file if device and inode are the same, or, of
    a file that is not there yet, if they are the same once symbolic links are followed. A file in a folder
    that is read may only be replaced if this program wrote it.

    Parameters
    ----------
    outputs, folders
        Files, and folders of files, that the call writes; None stands for one that is not wanted.
    inputs
        Files and folders that it reads; None, and the names of web services and models, are no files.
    overwrite
        Whether an output file may exist.
    own
        The one input that the first output may replace, because the output holds all of it.

    Raises
    ------
    UsageError
        If an output exists without `overwrite`, is a folder, is an input or a file of one, or is there twice.
    DataError
        If an output's folder does not exist.
    """
    wanted = [path for path in outputs if path is not None]
    for path in wanted:
        check_output(Path(os.path.realpath(path)), str(path), overwrite)
    read = [path for path in inputs if path is not None]
    written = [*wanted, *(path for path in folders if path is not None)]
    for number, path in enumerate(written):
        replaced = own if number == 0 else None
        for other in read:
            if is_same_file(path, other) and not (replaced is not None and is_same_file(replaced, other)):
                raise UsageError(f"{path}: is an input of this run. Choose another name for the output")
            if _is_in(path, other) and not _is_ours(path):
                raise UsageError(
                    f"{path}: lies in {other}, which this run reads, and is no output of astroclip. "
                    "Choose another name for the output"
                )
        for other in written[:number]:
            if is_same_file(path, other):
                raise UsageError(f"{path}: is named for two outputs of this run. Give each its own name")


def is_same_file(one: Name, other: Name) -> bool:
    """Tell whether two names are of one file or folder, links followed, whichever HDU they name."""
    one, other = split_hdu(one)[0], split_hdu(other)[0]
    if Path(one).exists() and Path(other).exists():
        return Path(one).samefile(other)
    return os.path.realpath(one) == os.path.realpath(other)


def _is_in(path: Name, folder: Name) -> bool:
    """Tell whether a file that exists lies in a folder, at any depth."""
    real = Path(os.path.realpath(path))
    return real.is_file() and Path(folder).is_dir() and Path(os.path.realpath(folder)) in real.parents


def _is_ours(path: Name) -> bool:
    """Tell whether a file says that this program wrote it, in its first or last megabyte."""
    with Path(path).open("rb") as file:
        begin = file.read(_SAID_BYTES)
        file.seek(max(file.seek(0, os.SEEK_END) - _SAID_BYTES, 0))
        return b"astroclip" in begin + file.read()


def split_hdu(path: Name) -> tuple[Path, str | None]:
    """Return the file and the HDU of ``FILE#HDU``; no HDU where there is a file of that very name."""
    file, _, hdu = str(path).rpartition("#")
    if file and hdu and not Path(path).exists() and Path(file).exists():
        return Path(file), hdu
    return Path(path), None


def check_output(output: Path, name: str, overwrite: bool, suffixes: Sequence[str] = ()) -> None:
    """Refuse an output that cannot be written, before anything is; `name` is what the user called it.

    Raises
    ------
    UsageError
        If it exists without `overwrite`, is a folder, or has none of the suffixes (without: any will do).
    DataError
        If its folder does not exist.
    """
    if suffixes and output.suffix.lower() not in suffixes:
        hint = f" (write {suffixes[0]}, then gzip it)" if output.suffix.lower() == ".gz" else ""
        raise UsageError(f"{name}: outputs are written as {', '.join(suffixes)}{hint}")
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
    """Raise `DataError` if `size` bytes, what is in the part already among them, do not fit on the disk."""
    free = shutil.disk_usage(output.parent).free
    if part_path(output).exists():
        free += part_path(output).stat().st_blocks * 512  # a sparse part takes less than its size
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
        why = "the disk or quota is full" if error.errno in _FULL else error.strerror or error
        hint = "Make room or choose another place, then resume the run or begin again"
        raise DataError(f"{name}: cannot write it: {why}. {hint}") from error


@contextmanager
def written_beside(path: Name, name: str = "") -> Iterator[Path]:
    """Yield a hidden name beside `path`; what is written there gets the name `path` when it is complete.

    It has the rights of the file that it replaces, else those of any new file. If the context is left by an
    exception, or what was written is removed there, nothing is left, and `path` is as it was. `name` is what
    the user called the file.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with writing(name or str(path)):
            beside.touch()
            # some libraries let nobody but the owner read what they write (safetensors)
            mode = (target if target.exists() else beside).stat().st_mode
            yield beside
            if beside.exists():
                beside.chmod(mode & 0o7777)
                beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def scratch_folder(beside: Path, name: str) -> Iterator[Path]:
    """Yield a private folder in which a step can write; it is removed at the end, however the step ends.

    Parameters
    ----------
    beside
        Folder to make it in.
    name
        What it is for, in the folder's name and in errors.

    Raises
    ------
    DataError
        If it cannot be made.
    """
    with writing(name):
        folder = tempfile.TemporaryDirectory(prefix=f".{Path(name).name}.", dir=beside)
    with folder as path:
        yield Path(path)


class Part:
    """The part file of one output, open for writing and locked against a second run.

    Attributes
    ----------
    path, journal_path : Path
        ``.<output>.part`` and ``.<output>.part.json``.
    finished : Path
        ``.<output>.part.whole``, for an output that is made from the part at the end.

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
        self.finished = output.with_name(f".{output.name}.part.whole")
        self._noted = time.monotonic()
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
        self._noted = time.monotonic()

    @property
    def journal_age(self) -> float:
        """Seconds since the journal was written, or since the part was opened."""
        return time.monotonic() - self._noted

    def suspend(self, done: int, journal: dict[str, Any]) -> None:
        """Keep the part and its journal for a resumed run; if no row is done, leave nothing."""
        if done == 0:
            self.remove()
            return
        with suppress(DataError):  # on a full disk the last journal still holds
            self.write_journal(journal)

    def restart(self) -> None:
        """Forget the earlier run. The journal goes first: it must never tell of rows that are not there."""
        with writing(self.name):
            self.journal_path.unlink(missing_ok=True)
            self.finished.unlink(missing_ok=True)
            self.cut(0)

    def cut(self, size: int) -> None:
        """Drop everything after `size` bytes and go on from there."""
        os.ftruncate(self._fd, size)
        os.lseek(self._fd, size, os.SEEK_SET)

    def write(self, data: bytes | NDArray[np.uint8]) -> None:
        """Append bytes."""
        rest = _as_bytes(data).data
        with writing(self.name):
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def copy(self, file: BinaryIO, start: int, stop: int, seen: Seen | None = None) -> None:
        """Append bytes `start` to `stop` of another file; `seen` is called with each piece of them."""
        for at in range(start, stop, _COPIED_BYTES):
            piece = _as_bytes(read_exactly(file, at, min(_COPIED_BYTES, stop - at), self.name))
            if seen:
                seen(piece)
            self.write(piece)

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of the part itself."""
        return os.pread(self._fd, size, start)

    def patch(self, start: int, data: bytes | NDArray[np.uint8]) -> None:
        """Write over bytes that are there already, or fill a hole."""
        rest = _as_bytes(data).data
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
        self.finished.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Give up the lock."""
        os.close(self._fd)


def _as_bytes(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data


def read_exactly(file: BinaryIO, start: int, size: int, name: str) -> bytes:
    """Read `size` bytes at `start`; fewer mean that the file shrank while it was used (`DataError`)."""
    data = os.pread(file.fileno(), size, start)
    while len(data) < size:
        more = os.pread(file.fileno(), size - len(data), start + len(data))
        if not more:
            raise DataError(f"{name}: the input became shorter while it was read. Start again")
        data += more
    return data
