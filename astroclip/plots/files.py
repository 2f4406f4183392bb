"""Files of figures: checked before anything is drawn, complete or not there at all."""

import os
from pathlib import Path

from matplotlib.figure import Figure

from astroclip.errors import DataError, UsageError

SUFFIXES = (".png", ".pdf")
DPI = 160


def check_figure(path: str | Path, overwrite: bool = False) -> None:
    """Refuse a figure that cannot be written, before anything is drawn; see `plots.plot_pairs`."""
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: figures are written as {' or '.join(SUFFIXES)}")
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
    target = Path(path)
    form = target.suffix.lower().removeprefix(".")
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    undated = {"CreationDate": None} if form == "pdf" else {}  # the same data give the same bytes
    try:
        figure.savefig(beside, format=form, dpi=DPI, metadata=undated)
        beside.replace(target)
    except OSError as error:
        raise DataError(f"{path}: cannot write it: {error.strerror}. Choose another place") from error
    finally:
        beside.unlink(missing_ok=True)
