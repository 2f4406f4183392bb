"""Files of figures: checked before anything is drawn, complete or not there at all."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from astroclip.errors import UsageError
from astroclip.files import check_output, written_beside

SUFFIXES = (".png", ".pdf")
DPI = 160


def check_figure(path: str | Path, overwrite: bool = False, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Refuse a figure that cannot be written, before anything is drawn; see `plots.plot_pairs`."""
    if Path(path).suffix.lower() not in suffixes:
        raise UsageError(f"{path}: figures are written as {' or '.join(suffixes)}")
    check_output(Path(path).resolve(), str(path), overwrite)


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
