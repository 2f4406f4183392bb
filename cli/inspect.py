"""`astroclip inspect`: what a file is, what it holds, what is wrong with it, and a picture of a sample."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Dec, Ra
from .output import output as out

if TYPE_CHECKING:
    from astroclip.data.describe import FileReport


def inspect(
    file: Annotated[Path, typer.Argument(help="Catalogue, spectra, images, model: a file or a folder.")],
    plot: Annotated[Path | None, typer.Option(help="Draw a sample of it: .png or .pdf.")] = None,
    rows: Annotated[int, typer.Option(help="Galaxies to draw.")] = 6,
    ra: Ra = None,
    dec: Dec = None,
    seed: Annotated[int, typer.Option(help="Which ones: the same seed draws the same.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the picture if it exists.")] = False,
) -> None:
    """Say what FILE is, its rows, columns, coverage and problems; draw a sample of it."""
    from astroclip.data.describe import inspect_file, read_sample

    if plot:
        from astroclip.files import check_outputs
        from astroclip.plots import check_figure, plot_pairs

        check_figure(plot, overwrite)
        check_outputs([plot], [file], overwrite)
    with out.progress("Inspecting"):
        report = inspect_file(file, ra, dec)
    _print_report(report)
    if plot:
        sample = read_sample(file, rows, seed)
        plot_pairs(*sample[:4], plot, *sample[4:], overwrite=overwrite)
        out.say(f"plot      {plot}")


def _print_report(report: "FileReport") -> None:
    """Print a report for people, or as one JSON object."""
    if out.json:
        out.result({**report._asdict(), "columns": [column._asdict() for column in report.columns]})
        return
    rows = "" if report.rows is None else f", {report.rows:,} row{'s' * (report.rows != 1)}"
    out.say(f"{report.path}: {report.kind}{rows}\n")
    facts = dict(report.facts)
    missing = facts.get("missing values", {})
    if missing.keys() <= {column.name for column in report.columns}:
        facts.pop("missing values", None)
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        out.say(f"{name:<{width}}  {_in_words(value)}")
    if report.columns:
        out.say("")
        table = [
            (c.name, c.dtype, "x".join(map(str, c.shape)), c.unit, missing.get(c.name))
            for c in report.columns
        ]
        out.table(("column", "type", "shape", "unit", "missing"), table)
    out.say(f"\n{len(report.problems) or 'no'} problem{'s' * (len(report.problems) != 1)} found")
    for problem in report.problems:
        out.say(f"  - {problem}")


def _in_words(value: Any) -> str:
    """Return a fact as people read it: ranges as `1 to 2`; what is None is left out."""
    if isinstance(value, dict):
        parts = {name: part for name, part in value.items() if part is not None}
        return ", ".join(f"{name} {_in_words(part)}" for name, part in parts.items()) or "none"
    if isinstance(value, list | tuple):
        return (" to " if len(value) == 2 else ", ").join(map(_in_words, value)) or "none"
    return f"{value:.7g}" if isinstance(value, float) else str(value)
