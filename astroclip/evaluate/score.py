"""Score rows: metrics with bootstrap errors, of all rows and of every part of every split."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from numpy.typing import NDArray

from astroclip.evaluate.metrics import Metrics, Rows, bootstrap, measure_ranks
from astroclip.evaluate.rows import Scored
from astroclip.evaluate.splits import part_rows
from astroclip.evaluate.targets import Target
from astroclip.training.retrieval import find_ranks


class Score(NamedTuple):
    """Metrics of some rows with their standard errors: of all rows, or of one part of a split.

    A part that is a bin of numbers has its edges, `low` and `high`, and the median of its rows, `middle`.
    """

    split: str
    part: str
    rows: int
    metrics: Metrics
    errors: Metrics
    low: float | None = None
    high: float | None = None
    middle: float | None = None


class Evaluation(NamedTuple):
    """What was found of one target.

    `truth` is its column; `counts` are of rows: in all, without truth, without prediction, flagged of those
    with both, left out for their flags, scored. `rows` are those that were scored. The first of `scores` is
    that of all of them.
    """

    kind: str
    name: str
    truth: str
    unit: str
    counts: dict[str, int]
    rows: Rows
    scores: list[Score]


def score_target(target: Target, held: Scored, resamples: int, seed: int) -> Evaluation:
    """Score one target; without a row that has both truth and prediction there are no scores."""
    scores = _score_parts(target.measure, held.rows, held, resamples, seed)
    return Evaluation(target.kind, target.name, target.against, target.unit, held.counts, held.rows, scores)


def score_retrieval(held: Scored, resamples: int, seed: int) -> Evaluation:
    """Score how well images and spectra find each other; parts ask, all are candidates.

    Candidates are the pairs that were kept. A candidate exactly as near as the galaxy's own half counts as
    half a nearer one (`training.retrieval.find_ranks`).
    """
    image, spectrum = (torch.from_numpy(held.rows[name]) for name in ("image", "spectrum"))
    directions = {"image_to_spectrum": (image, spectrum), "spectrum_to_image": (spectrum, image)}
    ranks = {name: find_ranks(*sides).numpy() for name, sides in directions.items()}
    held = held._replace(counts={**held.counts, "scored": len(image)})
    scores = _score_parts(measure_ranks, ranks, held, resamples, seed)
    return Evaluation("retrieval", "retrieval", "the galaxy itself", "", held.counts, ranks, scores)


def _score_parts(
    measure: Callable[[Rows], Metrics], rows: Mapping[str, NDArray], held: Scored, resamples: int, seed: int
) -> list[Score]:
    """Return the score of all rows, then those of the parts."""
    n = held.counts["scored"]
    if not n:
        return []
    scores = [Score("all", "all", n, measure(rows), bootstrap(measure, rows, resamples, seed))]
    for part in part_rows(held.values):
        chosen = {name: values[part.rows] for name, values in rows.items()}
        metrics, errors = measure(chosen), bootstrap(measure, chosen, resamples, seed)
        edges = (part.low, part.high, part.middle)
        scores.append(Score(part.split, part.label, int(part.rows.sum()), metrics, errors, *edges))
    return scores
