"""`astroclip evaluate`: how good predictions are, and where; the published table."""

from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .options import (
    Dec,
    Device,
    GalleryImages,
    GallerySpectra,
    Model,
    Overwrite,
    Ra,
    ResultFolder,
    Seed,
    examples,
)
from .output import output as out

if TYPE_CHECKING:
    from astroclip.evaluate import Report
    from astroclip.evaluate.paper.table import PaperReport


class _TableFirst(TyperGroup):
    """``astroclip evaluate TABLE`` is ``astroclip evaluate table TABLE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "-h", "--help"}:
            args = ["table", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_TableFirst,
    no_args_is_help=True,
    epilog=examples("evaluate predicted.fits -o evaluation", "evaluate paper --data pairs.h5 -o paper"),
)

Resamples = Annotated[int, typer.Option(help="Number of bootstrap resamples, for the errors.")]


@app.command(
    epilog=examples(
        "evaluate predicted.fits -o evaluation",
        "evaluate predicted.fits -o redshifts --kind redshift --truth Z --unflagged",
    )
)
def table(
    table: Annotated[
        Path, typer.Argument(help="Table with predictions and their true values, or with embeddings.")
    ],
    output: ResultFolder,
    truth: Annotated[
        str | None, typer.Option(help="Column of true values. Default: found by its usual names.")
    ] = None,
    predicted: Annotated[
        str | None, typer.Option(help="Prefix of the prediction's columns, such as Z_PHOT.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="What to evaluate: redshift, property, morphology or retrieval. Default: everything found."
        ),
    ] = None,
    magnitude: Annotated[
        str | None, typer.Option(help="Magnitude column to bin by. Default: found by its usual names.")
    ] = None,
    snr: Annotated[
        str | None,
        typer.Option(help="Signal-to-noise column to bin by. Default: found by its usual names."),
    ] = None,
    redshift: Annotated[
        str | None, typer.Option(help="Redshift column to bin by. Default: the true redshift.")
    ] = None,
    ra: Ra = None,
    dec: Dec = None,
    images: GalleryImages = None,
    spectra: GallerySpectra = None,
    min_votes: Annotated[
        int, typer.Option(help="Score a question only on galaxies with more votes than this.")
    ] = 34,
    unflagged: Annotated[bool, typer.Option("--unflagged", help="Exclude flagged rows.")] = False,
    resamples: Resamples = 200,
    seed: Seed = 0,
    figures: Annotated[bool, typer.Option("--figures/--no-figures", help="Draw figures.")] = True,
    umap_rows: Annotated[
        int,
        typer.Option("--umap", help="Number of galaxies on the UMAP maps; 0 draws principal components."),
    ] = 2000,
    overwrite: Overwrite = False,
) -> None:
    """Score predictions against true values, overall and by magnitude, redshift, SNR and survey half."""
    from astroclip.evaluate import evaluate_table

    with out.progress("Evaluating") as progress:
        report = evaluate_table(
            table, output, truth=truth, predicted=predicted, kind=kind, magnitude=magnitude, snr=snr,
            redshift=redshift, ra=ra, dec=dec, images=images, spectra=spectra, min_votes=min_votes,
            unflagged=unflagged,
            resamples=resamples, seed=seed, figures=figures, umap_rows=umap_rows, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    _print_report(report)


@app.command(
    epilog=examples(
        "evaluate paper --data pairs.h5 -o paper",
        "evaluate paper --data pairs.h5 -o paper -m run --no-baselines --rows 2000",
    )
)
def paper(
    data: Annotated[Path, typer.Option("--data", help="Pairs that crossmatch wrote, or their folder.")],
    output: ResultFolder,
    model: Model = "mini",
    about: Annotated[
        str | None,
        typer.Option(help="Description of the galaxies, for the figure. Default: what the pairs record."),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(help="Largest number of galaxies from each of the training, validation and test sets."),
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines", help="Also train the supervised networks, which takes longest."
        ),
    ] = True,
    epochs: Annotated[
        int, typer.Option(help="Largest number of epochs of the supervised networks; they stop early.")
    ] = 50,
    steps: Annotated[
        int | None, typer.Option(help="Largest number of steps of the supervised networks.")
    ] = None,
    seed: Seed = 0,
    resamples: Resamples = 200,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Reproduce the table of Parker et al. 2024 on your pairs: zero-shot, few-shot and supervised."""
    from astroclip.evaluate.paper.baselines import Training
    from astroclip.evaluate.paper.table import evaluate_paper

    training = Training(epochs, steps, seed=seed)
    with out.progress("Evaluating") as progress:
        report = evaluate_paper(
            data, output, model=model, about=about, rows=rows, baselines=baselines, training=training,
            resamples=resamples, device=device, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    _print_paper(report)


def _print_paper(report: "PaperReport") -> None:
    """Print ours with the published scores in brackets, or one JSON object: what paper.yaml holds."""
    if out.json:
        import yaml

        content = yaml.safe_load(report.table.read_text(encoding="utf-8"))
        out.result({**content, "table": report.table, "figures": report.figures})
        return
    found = {(e.source, e.method, e.target): e for e in report.entries}
    targets = list(dict.fromkeys(e.target for e in report.entries))

    def cell(source: str, method: str, target: str) -> str:
        entry, theirs = found.get((source, method, target)), report.published.get((source, method, target))
        name = "accuracy" if target == "morphology" else "r2"
        error = f" ± {entry.errors[name]:.3f}" if entry and name in entry.errors else ""
        ours = f"{entry.metrics[name]:.3f}{error}" if entry else ""
        return ours if theirs is None else f"{ours or '-'} [{theirs:.2f}]"

    out.say(
        f"Ours on {report.data}; in brackets Parker et al. 2024 on real galaxies. R²; morphology: accuracy."
    )
    rows = dict.fromkeys((key[0], key[1]) for key in (*found, *report.published))
    out.table(("from", "method", *targets), [(*row, *(cell(*row, name) for name in targets)) for row in rows])
    _print_questions(report)
    for reason in report.left_out:
        out.say(f"left out: {reason}")
    for path in (report.table, *report.figures):
        out.say(str(path))


def _print_questions(report: "PaperReport") -> None:
    """Print accuracy and weighted F1 of each question."""
    votes = [entry for entry in report.entries if entry.target == "morphology"]
    names = [name.removesuffix("_f1") for name in (votes[0].metrics if votes else ()) if name.endswith("_f1")]
    rows = [
        (
            name,
            *(
                ", ".join(f"{e.metrics.get(f'{name}_{m}', nan):.3f}" for m in ("accuracy", "f1"))
                for e in votes
            ),
        )
        for name in names
    ]
    if rows:
        out.say(
            "\nAccuracy and weighted F1 of Galaxy Zoo's questions (of under 10 galaxies: not in the mean):"
        )
        out.table(("question", *(f"{e.source} {e.method}" for e in votes)), rows)


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
    for note in report.notes:
        out.say(note)
