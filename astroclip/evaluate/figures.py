"""The figures of an evaluation: which there are, and what they are called."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from astroclip.evaluate.metrics import ASKED, OUTLIER, count_answers
from astroclip.evaluate.project import has_umap, project_vectors
from astroclip.evaluate.score import Evaluation, Score
from astroclip.plots.evaluation import (
    Curve,
    draw_calibration,
    draw_confusions,
    draw_curves,
    draw_estimates,
    draw_map,
    draw_recall,
)
from astroclip.schema import GALAXY_ZOO

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# metrics drawn along splits, by kind: the label of the axis, and the value to reach
_DRAWN: dict[str, dict[str, tuple[str, float | None]]] = {
    "redshift": {
        "bias": ("bias, Δz/(1+z)", 0.0),
        "sigma_nmad": ("$σ_{NMAD}$", None),
        "outliers": (f"outliers > {OUTLIER}", None),
        "coverage_68": ("68 % coverage", 0.68),
        "coverage_95": ("95 % coverage", 0.95),
    },
    "property": {
        "r2": ("$R^2$", None),
        "bias": ("bias", 0.0),
        "sigma_nmad": ("$σ_{NMAD}$", None),
        "coverage_68": ("68 % coverage", 0.68),
        "coverage_95": ("95 % coverage", 0.95),
    },
    "morphology": {"accuracy": ("accuracy", None), "f1": ("weighted F1", None)},
    "retrieval": {
        "image_to_spectrum_recall1": ("image → spectrum\nrecall@1", None),
        "image_to_spectrum_recall10": ("image → spectrum\nrecall@10", None),
        "spectrum_to_image_recall1": ("spectrum → image\nrecall@1", None),
        "spectrum_to_image_recall10": ("spectrum → image\nrecall@10", None),
    },
}
_IN_UNITS = ("bias", "sigma_nmad")  # of what is predicted; redshifts have none
_AXES = {"magnitude": "r magnitude [mag]", "redshift": "redshift", "snr": "signal-to-noise ratio"}


def draw_evaluation(found: Evaluation) -> Iterator[tuple[str, "Figure"]]:
    """Yield the figures of one target and the stems of their files; none if nothing was scored."""
    if not found.scores:
        return
    stem = found.name.lower()
    if found.kind == "morphology":
        yield f"{stem}-confusion", draw_confusions(_confusions(found.rows))
    elif found.kind == "retrieval":
        yield (
            f"{stem}-recall",
            draw_recall(found.rows, f"{found.counts['scored']:,} images and their spectra"),
        )
    else:
        yield stem, _draw_estimates(found)
        if "pit" in found.rows:
            yield (
                f"{stem}-calibration",
                draw_calibration(found.rows["pit"], found.scores[0].metrics["pit_ks"], found.name),
            )
    curves = _curves(found.scores)
    unit = f" [{found.unit}]" if found.unit else ""
    drawn = {
        name: (f"{said}{unit}" if name in _IN_UNITS else said, goal)
        for name, (said, goal) in _DRAWN[found.kind].items()
        if name in found.scores[0].metrics
    }
    if curves:
        yield f"{stem}-splits", draw_curves(curves, drawn, found.name)


def draw_maps(
    vectors: Mapping[str, Mapping[str, NDArray]], seed: int, umap_rows: int
) -> Iterator[tuple[str, "Figure"]]:
    """Yield a map of each embedding, coloured by redshift, else by magnitude.

    With UMAP, where it is installed, of `umap_rows` evenly spread galaxies at most; at 0 without it.
    """
    umap = umap_rows > 0 and has_umap()
    for modality, held in vectors.items():
        n = len(held.get("vector", ()))
        if n < 3:
            continue
        kept = np.arange(umap_rows) * n // umap_rows if umap and n > umap_rows else np.arange(n)
        rows = {name: values[kept] for name, values in held.items()}
        places, names = project_vectors(rows["vector"], seed, umap)
        label = next((name for name in ("redshift", "magnitude") if name in rows), None)
        said = _AXES[label] if label else ""
        title = f"{modality} embeddings of {len(places):,} galaxies"
        yield f"{modality}-map", draw_map(places, rows[label] if label else None, names, said, title)


def _draw_estimates(found: Evaluation) -> "Figure":
    """Draw predicted against true numbers, with the metrics of all rows."""
    metrics, errors = found.scores[0].metrics, found.scores[0].errors
    names = {"r2": "$R^2$", "bias": "bias", "sigma_nmad": "$σ_{NMAD}$", "outliers": "outliers"}
    lines = [f"{said} = {metrics[k]:.4f} ± {errors[k]:.4f}" for k, said in names.items() if k in metrics]
    unit = f" [{found.unit}]" if found.unit else ""
    axis = "redshift" if found.kind == "redshift" else f"{found.name}{unit}"
    error = "Δz / (1 + z)" if found.kind == "redshift" else f"predicted − true{unit}"
    note = "\n".join([f"{found.name}, {found.counts['scored']:,} galaxies", *lines])
    rows = found.rows
    return draw_estimates(rows["truth"], rows["predicted"], rows["error"], axis, error, note)


def _confusions(rows: Mapping[str, NDArray]) -> dict[str, tuple[tuple[str, ...], NDArray[np.int64]]]:
    """Return answers and confusion matrices of the questions asked `ASKED` times, or else of all."""
    found = {}
    for question, answers in GALAXY_ZOO.items():
        if question in rows:
            counts = count_answers(rows[question], rows[f"{question}_predicted"], len(answers))
            if counts.any():
                found[question] = (answers, counts)
    return {name: each for name, each in found.items() if each[1].sum() >= ASKED} or found


def _curves(scores: list[Score]) -> list[Curve]:
    """Return metrics along each split."""
    curves = []
    for split in dict.fromkeys(score.split for score in scores[1:]):
        parts = [score for score in scores if score.split == split]
        names = scores[0].metrics
        curves.append(
            Curve(
                _AXES.get(split, {"half": "survey half", "flags": "flags"}.get(split, split)),
                [score.part for score in parts],
                [score.low for score in parts if score.low is not None],
                [score.high for score in parts if score.high is not None],
                [score.middle for score in parts if score.middle is not None],
                {name: [score.metrics.get(name, np.nan) for score in parts] for name in names},
                {name: [score.errors.get(name, np.nan) for score in parts] for name in names},
            )
        )
    return curves
