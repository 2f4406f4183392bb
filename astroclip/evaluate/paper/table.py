"""The published table on a set of pairs: zero-shot and few-shot from both modalities, and the baselines.

Predictions are made by `predict.tasks`, as by anybody, and scored as `report.evaluate_table` does. All learn
from the training part and are scored on the test part; only the baselines see the validation part.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroclip.errors import DataError, UsageError
from astroclip.evaluate.paper.baselines import KINDS, Training
from astroclip.evaluate.paper.protocol import (
    METHODS,
    TASKS,
    Entry,
    Scores,
    score_baselines,
    score_model,
)
from astroclip.evaluate.paper.published import SOURCE, Key, published_scores
from astroclip.evaluate.parts import PARTS, choose_rows, find_pairs, say_data, write_part
from astroclip.evaluate.report import check_folder, write_figures, write_yaml
from astroclip.files import check_outputs, scratch_folder
from astroclip.model.embedder import choose_device, load_model
from astroclip.model.hub import SHIPPED
from astroclip.plots.comparison import Compared, draw_comparison
from astroclip.schema import VERSION, Split
from astroclip.training.galaxies import Galaxies

PAPER_FILE = "paper.yaml"
MAIN = {"redshift": "r2", "properties": "r2", "morphology": "accuracy"}  # what is published of each task
PANELS = {
    "redshift": "redshift: $R^2$",
    "properties": "properties: mean $R^2$",
    "morphology": "morphology: accuracy",
}
METHOD_NAMES = {
    "knn": "neighbours (zero-shot)",
    "mlp": "network (few-shot)",
    "resnet18": "ResNet18",
    "conv+att": "Conv+Att",
    "zoobot": "ZooBot",
}

Progress = Callable[[int, int, str], None]


class PaperReport(NamedTuple):
    """The table: on which galaxies, the scores, what was left out and why, and the files written.

    `published` are the scores to compare with, ours or not.
    """

    data: str
    entries: list[Entry]
    published: dict[Key, float]
    left_out: list[str]
    table: Path
    figures: list[Path]


def evaluate_paper(
    data: str | Path,
    output: str | Path,
    *,
    model: str | Path = SHIPPED,
    about: str | None = None,
    rows: int | None = None,
    baselines: bool = True,
    training: Training = Training(),  # noqa: B008 (immutable)
    resamples: int = 200,
    device: str = "auto",
    figures: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PaperReport:
    """Make the published table on a set of pairs; write ``paper.yaml`` and a figure into a folder.

    Parameters
    ----------
    data
        A set of pairs, or the folder that has it. A task whose labels it lacks is left out.
    output
        Folder, made if it is not there.
    model
        Name or directory. Of one encoder alone, the published scores are those of such.
    about
        What the galaxies are; by default what the pairs say of their making: mock galaxies or not.
    rows
        Galaxies of each part at most, evenly spread.
    baselines
        Whether to train the supervised networks too, which takes by far the longest.
    training
        Of the baselines; its seed is that of everything.
    resamples
        Of the bootstrap that gives the errors.
    device
        As in `embedder.load_model`.

    Raises
    ------
    UsageError, DataError, CheckpointError
        If results exist, a part has no galaxy, there is no such model, or nothing could be predicted.
    """
    output, source = Path(output), find_pairs(data)
    check_folder(output, overwrite, PAPER_FILE)
    check_outputs([], [source], overwrite, folders=[output])
    _check_options(rows, training, resamples)
    embedder, said = load_model(model, device), about or say_data(source)
    galaxies = Galaxies(source)
    split = choose_rows(galaxies.split, rows)
    parts = PARTS if baselines else (Split.TRAIN, Split.TEST)
    for part in parts:
        if not (split == part).any():
            raise DataError(
                f"{source}: no galaxy in the part {part.name}. Choose other --fractions or --seed"
            )
    published = published_scores(aligned=embedder.config.head is not None)
    scores = Scores(published, resamples, training.seed, _teller(progress, baselines))
    output.mkdir(parents=True, exist_ok=True)
    with scratch_folder(output, str(output)) as folder:
        tables = {
            part: write_part(folder / f"{part.name.lower()}.fits", source, np.flatnonzero(split == part))
            for part in parts
        }
        score_model(tables, source, embedder, scores)
        if baselines:
            score_baselines(tables, galaxies, split, training, choose_device(device), scores)
    if not scores.entries:
        raise DataError(f"{source}: nothing could be predicted. {'; '.join(scores.left_out)}")
    drawn = [("paper", draw_comparison(_compared(scores.entries, published), said))] if figures else []
    paths = write_figures(output, drawn)
    described = {
        "astroclip": VERSION, "data": said, "pairs": str(source), "model": embedder.name,
        "model_hash": embedder.digest, "aligned": embedder.config.head is not None,
        "rows": {part.name.lower(): int((split == part).sum()) for part in PARTS},
        "baselines": training._asdict() if baselines else None, "published": SOURCE,
        "scores": [_as_dict(entry) for entry in scores.entries], "left_out": scores.left_out,
    }  # fmt: skip
    write_yaml(output / PAPER_FILE, described)
    return PaperReport(said, scores.entries, published, scores.left_out, output / PAPER_FILE, paths)


def _check_options(rows: int | None, training: Training, resamples: int) -> None:
    """Refuse numbers that make no sense."""
    numbers = {"rows": rows, **training._asdict(), "resamples": resamples - 1}
    for name in ("rows", "epochs", "steps", "resamples"):
        if numbers[name] is not None and numbers[name] < 1:
            raise UsageError(f"too few {name}")


def _teller(progress: Progress | None, baselines: bool) -> Callable[[str], None]:
    """Return what counts the steps and reports each."""
    total = 2 + 2 * len(METHODS) * len(TASKS) + (2 * len(KINDS) if baselines else 0)
    done = 0

    def tell(note: str) -> None:
        nonlocal done
        if progress:
            progress(done, total, note)
        done += 1

    return tell


def _compared(entries: Sequence[Entry], published: dict[Key, float]) -> dict[str, list[Compared]]:
    """Return ours beside the published scores, by panel, in one order of sources and methods."""
    ours = {(e.source, e.method, e.target): e for e in entries}
    keys = dict.fromkeys([*ours, *published])
    panels: dict[str, list[Compared]] = {}
    for target, label in PANELS.items():
        for key in (key for key in keys if key[2] == target):
            metric, entry = MAIN[target], ours.get(key)
            value = entry.metrics[metric] if entry else np.nan
            error = entry.errors.get(metric, np.nan) if entry else np.nan
            name = f"{key[0]}: {'network' if key[0] == 'photometry' else METHOD_NAMES[key[1]]}"
            panels.setdefault(label, []).append(Compared(name, value, error, published.get(key, np.nan)))
    return panels


def _as_dict(entry: Entry) -> dict[str, Any]:
    """Return a score as YAML holds it."""
    metrics = {
        name: {"value": value if np.isfinite(value) else None, "error": entry.errors.get(name)}
        for name, value in entry.metrics.items()
    }
    about = {"from": entry.source, "method": entry.method, "target": entry.target, "rows": entry.rows}
    return about | {"published": entry.published, "metrics": metrics}
