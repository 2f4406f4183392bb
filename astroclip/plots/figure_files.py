"""Files of figures: checked before anything is drawn, complete or not there at all."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matplotlib.figure import Figure

from astroclip.errors import DataError, UsageError

SUFFIXES = (".png", ".pdf")
DPI = 160


def check_figure(path: str | Path, overwrite: bool = False, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Refuse a figure that cannot be written, before anything is drawn; see `plots.plot_pairs`."""
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        raise UsageError(f"{path}: figures are written as {' or '.join(suffixes)}")
    if not target.parent.is_dir():
        raise DataError(f"{path}: there is no folder {target.parent}. Make it first")
    if target.is_dir() or (target.exists() and not overwrite):
        raise UsageError(f"{path}: exists already. Choose another name, or overwrite it")


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure beside its target and rename it; the suffix tells the format.

    Raises
    ------
    DataError
        If it cannot be written.
    """
    form = Path(path).suffix.lower().removeprefix(".")
    undated = {"CreationDate": None} if form == "pdf" else {}  # the same data give the same bytes
    with written_beside(path) as beside:
        figure.savefig(beside, format=form, dpi=DPI, metadata=undated)


@contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """Yield a name beside `path`; what is written there gets its own name when it is complete."""
    target = Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield beside
        beside.replace(target)
    except OSError as error:
        raise DataError(f"{path}: cannot write it: {error.strerror}. Choose another place") from error
    finally:
        beside.unlink(missing_ok=True)
