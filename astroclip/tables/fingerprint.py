"""Which file an input is: its size, time and SHA-256, by which a resumed run knows it again."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from astroclip.errors import DataError


def fingerprint_of(path: Path, name: str) -> dict[str, Any]:
    """Return size, time of change (ns) and SHA-256 of a file; `name` is what it is called in an error."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{name}: cannot read it ({error.strerror})") from None
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}


def listing_of(files: Iterable[Path]) -> dict[str, Any]:
    """Return size and last time of change (ns) of files, and the SHA-256 of their names, sizes and times.

    A file that is not there counts too.
    """
    size, latest, sha256 = 0, 0, hashlib.sha256()
    for path in files:
        stat = path.stat() if path.is_file() else None
        sha256.update(f"{path.name} {stat and stat.st_size} {stat and stat.st_mtime_ns}\n".encode())
        size += stat.st_size if stat else 0
        latest = max(latest, stat.st_mtime_ns if stat else 0)
    return {"size": size, "mtime_ns": latest, "sha256": sha256.hexdigest()}
