"""`astroclip evaluate`: how good predictions are, and where."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import output as out

if TYPE_CHECKING:
    from astroclip.evaluate import Report


def evaluate(
    table: Annotated[
        Path, typer.Argument(help="Table with predictions and their truth, or with embeddings.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of metrics.yaml and the figures.")],
    truth: Annotated[str | None, typer.Option(help="Column of the truth. Default: guessed.")] = None,
    predicted: Annotated[str | None, typer.Option(help="Prefix of the predictions, as Z_PHOT.")] = None,
    kind: Annotated[
        str | None, typer.Option(help="redshift, property, morphology, retrieval. Default: all found.")
    ] = None,
    magnitude: Annotated[str | None, typer.Option(help="Column to split by. Default: guessed.")] = None,
    snr: Annotated[str | None, typer.Option(help="Column to split by. Default: guessed.")] = None,
    redshift: Annotated[str | None, typer.Option(help="Column to split by. Default: the truth.")] = None,
    min_votes: Annotated[int, typer.Option(help="Score questions with more votes than this.")] = 34,
    unflagged: Annotated[bool, typer.Option("--unflagged", help="Leave flagged rows out.")] = False,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap that gives the errors.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the bootstrap and of UMAP.")] = 0,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw them.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results there.")] = False,
) -> None:
    """Score predictions against a truth: whole, by magnitude, redshift, SNR and survey half; draw figures."""
    from astroclip.evaluate import evaluate_table

    with out.progress("Evaluating") as progress:
        report = evaluate_table(
            table, output, truth=truth, predicted=predicted, kind=kind, magnitude=magnitude, snr=snr,
            redshift=redshift, min_votes=min_votes, unflagged=unflagged, resamples=resamples, seed=seed,
            figures=figures, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    _print_report(report)


def _print_report(report: "Report") -> None:
    """Print a table a target, or one JSON object: what metrics.yaml holds, and the paths of the figures."""
    if out.json:
        import yaml

        content = yaml.safe_load(report.metrics.read_text(encoding="utf-8"))
        out.result({**content, "metrics_file": report.metrics, "figures": report.figures})
        return
    for found in report.evaluations:
        counts = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in found.counts.items())
        out.say(f"{found.name} against {found.truth}: {counts}")
        names = [name for name in (found.scores[0].metrics if found.scores else ()) if name.count("_") < 4]
        shown = [name for name in names if not name.endswith(("_accuracy", "_f1"))]
        rows = [
            [score.split, score.part, f"{score.rows:,}"]
            + [f"{score.metrics[name]:.4f} ± {score.errors[name]:.4f}" for name in shown]
            for score in found.scores
        ]
        out.table(("split", "part", "rows", *shown), rows)
        out.say("")
    out.say(f"metrics  {report.metrics}")
    for figure in report.figures:
        out.say(f"figure   {figure}")
