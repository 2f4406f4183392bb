"""The published protocol: every task from every source with every method, scored on the test part.

Shapes: n galaxies of the test part, N pairs, L labels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.evaluate.find import find_targets
from astroclip.evaluate.metrics import OUTLIER, Metrics, Rows, bootstrap, measure_estimates, redshift_error
from astroclip.evaluate.paper.baselines import KINDS, Training, train_baseline
from astroclip.evaluate.paper.published import Key
from astroclip.evaluate.rows import read_rows
from astroclip.evaluate.splits import Splits
from astroclip.evaluate.targets import PUBLISHED_VOTES
from astroclip.model.embedder import Embedder
from astroclip.predict.embed import embed_catalog
from astroclip.predict.label_columns import ReferenceLabels, read_labels
from astroclip.predict.reference import read_reference
from astroclip.predict.tasks import predict_catalog
from astroclip.schema import Split
from astroclip.tables import open_table
from astroclip.training.galaxies import Galaxies

TASKS = {"redshift": "redshift", "properties": "property", "morphology": "morphology"}  # kinds of targets
METHODS = ("knn", "mlp")  # zero-shot and few-shot

Tables = Mapping[Split, Path]  # the parts, as `parts.write_part` writes them


class Entry(NamedTuple):
    """A score: of a target, predicted from `source` with `method`; `published` is None where unknown.

    Targets are ``redshift``, each property, ``properties`` (their mean R²), ``morphology``.
    """

    source: str
    method: str
    target: str
    rows: int
    metrics: Metrics
    errors: Metrics
    published: float | None


class Scores:
    """What was found so far, and what was left out and why; `tell` is called with each step.

    Parameters
    ----------
    published
        Scores to stand beside ours.
    resamples, seed
        Of the bootstrap that gives the errors.
    tell
        Called with what is done now.
    """

    def __init__(
        self, published: Mapping[Key, float], resamples: int, seed: int, tell: Callable[[str], None]
    ) -> None:
        self.entries: list[Entry] = []
        self.left_out: list[str] = []
        self.tell, self.seed = tell, seed
        self._published, self._resamples = published, resamples

    def measure(self, key: Key, measure: Callable[[Rows], Metrics], rows: Rows) -> None:
        """Score rows."""
        n = len(next(iter(rows.values()), ()))
        if not n:
            raise DataError(f"no galaxy of the test part has both a {key[2]} and a prediction of it")
        errors = bootstrap(measure, rows, self._resamples, self.seed)
        self._add(key, n, measure(rows), errors)

    def add_mean(self, source: str, method: str) -> None:
        """Add the mean R² over the properties, as it is published."""
        mine = [e for e in self.entries if (e.source, e.method) == (source, method) and e.target not in TASKS]
        if mine:
            mean = {"r2": float(np.mean([entry.metrics["r2"] for entry in mine]))}
            self._add((source, method, "properties"), min(entry.rows for entry in mine), mean, {})

    def _add(self, key: Key, rows: int, metrics: Metrics, errors: Metrics) -> None:
        self.entries.append(Entry(*key, rows, metrics, errors, self._published.get(key)))


def score_model(tables: Tables, pairs: Path, embedder: Embedder, scores: Scores) -> None:
    """Embed the training and the test part, predict every task for the test part, and score it."""
    sources = [name for name in ("image", "spectrum") if getattr(embedder.config, name)]
    images, spectra = (str(pairs) if name in sources else None for name in ("image", "spectrum"))
    embedded = {}
    for part in (Split.TRAIN, Split.TEST):
        scores.tell(f"embedding the part {part.name}")
        embedded[part] = tables[part].with_suffix(".embedded.fits")
        embed_catalog(tables[part], embedded[part], model=embedder, images=images, spectra=spectra)
    for source in sources:
        for method in METHODS:
            for task in TASKS:
                scores.tell(f"{task} from {source} by {method}")
                try:
                    _score_task(embedded, source, method, task, scores)
                except (DataError, UsageError) as error:
                    scores.left_out.append(f"{task} from {source} by {method}: {error}")


def _score_task(tables: Tables, source: str, method: str, task: str, scores: Scores) -> None:
    """Predict one task for the test part, and score it."""
    predicted = tables[Split.TEST].with_name("predicted.fits")
    predict_catalog(
        tables[Split.TEST], task, predicted, reference=tables[Split.TRAIN], use=source, method=method,
        seed=scores.seed, overwrite=True,
    )  # fmt: skip
    with open_table(predicted) as catalog:
        targets = find_targets(catalog, None, None, TASKS[task], PUBLISHED_VOTES)
        held = read_rows(catalog, targets, Splits(catalog), False, False)
    for target, scored in zip(targets, held.scored, strict=True):
        name = target.name if task == "properties" else task
        scores.measure((source, method, name), target.measure, scored.rows)
    if task == "properties":
        scores.add_mean(source, method)


def score_baselines(
    tables: Tables,
    galaxies: Galaxies,
    split: NDArray[np.uint8],
    training: Training,
    device: torch.device,
    scores: Scores,
) -> None:
    """Train every baseline on redshifts and on properties, as published apart, and score them."""
    for task in ("redshift", "properties"):
        for method, kind in KINDS.items():
            scores.tell(f"training {method} for {task} on {kind.source}")
            try:
                labels = _read_labels(tables, split, task)
                baseline = train_baseline(
                    method, galaxies, split, labels.values, training=training, device=device
                )
                rows = np.flatnonzero((split == Split.TEST) & np.isfinite(labels.values).any(1))
                predicted = baseline.predict(galaxies, rows)
                _score_labels((kind.source, method), task, labels, rows, predicted, scores)
            except (DataError, UsageError) as error:
                scores.left_out.append(f"{task} from {kind.source} by {method}: {error}")


def _read_labels(tables: Tables, split: NDArray[np.uint8], task: str) -> ReferenceLabels:
    """Return the labels (N, L) of all pairs in a part, as predict understands them; NaN elsewhere."""
    read = {part: read_labels(read_reference(path), task) for part, path in tables.items()}
    values = np.full((len(split), len(read[Split.TRAIN].names)), np.nan)
    for part, labels in read.items():
        values[split == part] = labels.values
    return read[Split.TRAIN]._replace(values=values)


def _score_labels(
    who: tuple[str, str],
    task: str,
    labels: ReferenceLabels,
    rows: NDArray[np.int64],
    predicted: NDArray[np.float64],
    scores: Scores,
) -> None:
    """Score predictions (n, L) of rows (n,)."""
    for i, name in enumerate(labels.names):
        truth, guess = labels.values[rows, i], predicted[:, i]
        both = np.isfinite(truth) & np.isfinite(guess)
        error = redshift_error(guess, truth) if task == "redshift" else guess - truth
        held = {"truth": truth[both], "predicted": guess[both], "error": error[both]}
        measure = partial(measure_estimates, outlier=OUTLIER if task == "redshift" else None)
        scores.measure((*who, task if task == "redshift" else name), measure, held)
    if task == "properties":
        scores.add_mean(*who)
