"""How far predictions can be trusted: against the truth, calibration, metrics by part, answers, retrieval.

Shapes: n galaxies, A answers of a question.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import NDArray

# Okabe & Ito 2008, told apart by the colour-blind; markers tell the same
BLUE, VERMILION, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C8C8C"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE)
MARKERS = ("o", "s", "^", "D")
DENSITY = "cividis"  # for counts and fractions; made for the colour-blind (Nuñez et al. 2018)
SHOWN = 0.998  # of the galaxies lie within the axes
PIT_BINS = 20


class Curve(NamedTuple):
    """Metrics along a split: `values` and standard errors by metric, one a part.

    Parts are bins from `low` to `high` with the median `middle`, or have names if those are empty.
    """

    axis: str
    labels: Sequence[str]
    low: Sequence[float]
    high: Sequence[float]
    middle: Sequence[float]
    values: Mapping[str, Sequence[float]]
    errors: Mapping[str, Sequence[float]]


def draw_estimates(
    truth: NDArray, predicted: NDArray, error: NDArray, axis: str, error_axis: str, note: str
) -> Figure:
    """Draw predicted against true numbers as a density, and below it their errors against the truth.

    Parameters
    ----------
    truth, predicted, error
        (n,), finite.
    axis, error_axis
        What they are, with the unit: ``redshift``; ``LOGMSTAR [dex(Msun)]``.
    note
        Metrics to write into a corner.
    """
    figure = Figure((5.4, 6.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.25))
    low, high = _range(np.concatenate([truth, predicted]))
    density = _draw_density(upper, truth, predicted, (low, high), (low, high), (64, 36))
    upper.plot([low, high], [low, high], "--", color=VERMILION, lw=1.2, label="predicted = true")
    upper.set_ylabel(f"predicted {axis}")
    upper.legend(loc="lower right", frameon=False, fontsize=8)
    upper.text(0.03, 0.97, note, transform=upper.transAxes, va="top", fontsize=8.5, linespacing=1.4)
    most = float(np.quantile(np.abs(error), SHOWN)) * 1.1 or 1.0
    _draw_density(lower, truth, error, (low, high), (-most, most), (64, 16))
    lower.axhline(0, ls="--", color=VERMILION, lw=1.2)
    _draw_running(lower, truth, error)
    lower.set_xlabel(f"true {axis}")
    lower.set_ylabel(error_axis)
    lower.legend(loc="upper right", framealpha=0.9, edgecolor="none", fontsize=8, ncols=2, borderpad=0.2)
    bar = figure.colorbar(density, ax=[upper, lower], label="galaxies in a cell", pad=0.02, aspect=40)
    for axis_part in (bar.ax.yaxis.set_major_formatter, bar.ax.yaxis.set_minor_formatter):
        axis_part(LogFormatter(minor_thresholds=(2, 0.4)))
    figure.align_ylabels()
    return figure


def draw_calibration(pit: NDArray, ks: float, name: str) -> Figure:
    """Draw the histogram of PIT values (n,), and how much of the truth central intervals cover."""
    figure = Figure((8.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    heights, edges = np.histogram(pit, PIT_BINS, (0, 1))
    expected = len(pit) / PIT_BINS
    scatter = 2 * np.sqrt(expected * (1 - 1 / PIT_BINS)) / expected
    left.stairs(heights / expected, edges, fill=True, color=BLUE, alpha=0.75, label=f"{len(pit):,} galaxies")
    left.axhline(1, color="black", ls="--", lw=1, label="right uncertainties")
    left.axhspan(1 - scatter, 1 + scatter, color=GREY, alpha=0.35, lw=0, label="its 2 σ counting error")
    left.set(xlim=(0, 1), xlabel="PIT: level of the truth in its distribution", ylabel="density")
    left.set_ylim(0, 1.45 * max(1 + scatter, heights.max() / expected))
    left.set_title(f"{name}: KS distance from uniform {ks:.3f}", fontsize=9.5)
    left.legend(frameon=False, fontsize=8)
    levels = np.linspace(0, 1, 101)
    found = np.searchsorted(np.sort(np.abs(pit - 0.5) * 2), levels, side="right") / len(pit)
    right.plot([0, 1], [0, 1], "--", color="black", lw=1, label="right uncertainties")
    right.plot(levels, found, color=BLUE, lw=1.8, label="found")
    for level, marker in ((0.68, "o"), (0.95, "s")):
        at = float(np.interp(level, levels, found))
        right.plot(level, at, marker, color=VERMILION, ms=6, label=f"{100 * level:.0f} %: {100 * at:.1f} %")
    right.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the central interval")
    right.set_ylabel("fraction of truths inside")
    right.set_title("above the line: intervals too wide", fontsize=9.5)
    right.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def draw_curves(
    curves: Sequence[Curve], metrics: Mapping[str, tuple[str, float | None]], name: str
) -> Figure:
    """Draw metrics with 1 σ errors along every split: a column of panels a split, a row a metric.

    `metrics` gives by name the label of its axis, and the value to reach if there is one (a dashed line).
    Axes span the parts that are well measured; a part of a few galaxies may reach beyond.
    """
    figure = Figure((2.3 + 2.4 * len(curves), 1.1 + 1.5 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), len(curves), squeeze=False, sharey="row", sharex="col")
    for column, curve in enumerate(curves):
        places, widths = _places(curve)
        for row, (metric, (label, goal)) in enumerate(metrics.items()):
            axes = panels[row, column]
            values, errors = (np.asarray(side[metric], float) for side in (curve.values, curve.errors))
            axes.errorbar(places, values, errors, widths, fmt=MARKERS[0], color=BLUE, ms=4, lw=1.2, capsize=2)
            if goal is not None:
                axes.axhline(goal, ls="--", color=VERMILION, lw=1)
            axes.tick_params(direction="in", top=True, right=True, labelsize=8)
            axes.margins(x=0.06, y=0.15)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            if column == 0:
                axes.set_ylabel(label, fontsize=9)
                axes.set_ylim(_span(curves, metric, goal))
        panels[-1, column].set_xlabel(curve.axis, fontsize=9)
        if not len(curve.low):
            panels[-1, column].set_xticks(places, curve.labels)
            panels[-1, column].set_xlim(-0.6, len(places) - 0.4)
        else:
            panels[-1, column].xaxis.set_major_locator(MaxNLocator(5))
    figure.suptitle(f"{name}: points are bins with 1 σ bootstrap errors", fontsize=10)
    figure.align_ylabels()
    return figure


def draw_confusions(confusions: Mapping[str, tuple[Sequence[str], NDArray[np.int64]]]) -> Figure:
    """Draw for each question, by its true answer, which answer was predicted.

    Parameters
    ----------
    confusions
        By question, the answers and the numbers of galaxies (A, A): rows true, columns predicted.
    """
    columns = min(len(confusions), 3)
    rows = -(-len(confusions) // columns)
    figure = Figure((3.9 * columns + 0.9, 3.6 * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in panels[len(confusions) :]:
        unused.remove()
    for axes, (question, (answers, counts)) in zip(panels, confusions.items(), strict=False):
        asked = counts.sum(1, keepdims=True)
        share = np.where(asked > 0, counts / np.maximum(asked, 1), np.nan)
        drawn = axes.imshow(share, cmap=DENSITY, vmin=0, vmax=1)
        axes.set_facecolor("#E6E6E6")
        for i, j in np.argwhere(np.isfinite(share)):
            number, dark = counts[i, j], share[i, j] < 0.5
            text = f"{100 * share[i, j]:.0f} %\n{number:,}"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        axes.set_xticks(range(len(answers)), answers, rotation=30, ha="right", fontsize=7.5)
        axes.set_yticks(range(len(answers)), answers, fontsize=7.5)
        axes.set_title(f"{question} (n = {counts.sum():,})", fontsize=9.5)
        axes.set_xlabel("predicted answer", fontsize=8.5)
        axes.set_ylabel("answer of the volunteers", fontsize=8.5)
    label = "share of the galaxies with this\nanswer of the volunteers (grey: none)"
    figure.colorbar(drawn, ax=list(panels[: len(confusions)]), label=label, aspect=20 * rows)
    return figure


def draw_recall(ranks: Mapping[str, NDArray], name: str) -> Figure:
    """Draw recall@k against k for each direction, and what chance would reach.

    `ranks` has by direction how many candidates are nearer than a galaxy's own half (n,).
    """
    figure = Figure((5.6, 4.2), layout="constrained")
    axes = figure.subplots()
    n = max(map(len, ranks.values()))
    k = np.unique(np.geomspace(1, n, 200).round())
    for (direction, values), colour, marker in zip(ranks.items(), COLOURS, MARKERS, strict=False):
        recall = np.searchsorted(np.sort(values), k - 1, side="right") / len(values)
        axes.plot(
            k, recall, color=colour, marker=marker, markevery=20, ms=4, label=direction.replace("_", " ")
        )
    axes.plot(k, k / n, "--", color="black", lw=1, label="chance")
    axes.set(xscale="log", xlim=(1, n), ylim=(0, 1), xlabel=f"k, of {n:,} candidates")
    axes.set_ylabel("recall@k: own half among the k nearest")
    axes.set_title(name, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def draw_map(
    places: NDArray, values: NDArray | None, axes_names: Sequence[str], label: str, name: str
) -> Figure:
    """Draw galaxies at places (n, 2), coloured by values (n,); where a value is NaN the point is grey."""
    figure = Figure((6.2, 5.0), layout="constrained")
    axes = figure.subplots()
    known = np.isfinite(values) if values is not None else np.zeros(len(places), bool)
    size = float(np.clip(20_000 / max(len(places), 1), 3, 25))
    axes.scatter(places[~known, 0], places[~known, 1], s=size, color=GREY, lw=0)
    if values is not None and known.any():
        low, high = np.quantile(values[known], [0.01, 0.99])
        points = axes.scatter(
            places[known, 0],
            places[known, 1],
            s=size,
            c=values[known],
            lw=0,
            cmap="viridis",
            vmin=low,
            vmax=high,
        )
        figure.colorbar(points, label=label, extend="both")
    axes.set(xlabel=axes_names[0], ylabel=axes_names[1], xticks=[], yticks=[])
    axes.set_title(name, fontsize=10)
    return figure


def _draw_density(
    axes: Axes,
    x: NDArray,
    y: NDArray,
    across: tuple[float, float],
    up: tuple[float, float],
    cells: tuple[int, int],
) -> PolyCollection:
    """Draw numbers of galaxies in hexagons, on a logarithmic scale, and set the limits."""
    axes.set(xlim=across, ylim=up)
    axes.tick_params(direction="in", top=True, right=True)
    inside = (x >= across[0]) & (x <= across[1]) & (y >= up[0]) & (y <= up[1])
    return axes.hexbin(
        x[inside],
        y[inside],
        gridsize=cells,
        extent=(*across, *up),
        bins="log",
        mincnt=1,
        cmap=DENSITY,
        lw=0.2,
    )


def _draw_running(axes: Axes, x: NDArray, y: NDArray) -> None:
    """Draw median and 16 to 84 % of y in bins of equally many galaxies along x."""
    bins = int(np.clip(len(x) // 50, 1, 15))
    middles, quantiles = [], []
    for part in np.array_split(np.argsort(x, kind="stable"), bins):
        middles.append(np.median(x[part]))
        quantiles.append(np.quantile(y[part], [0.16, 0.5, 0.84]))
    low, middle, high = np.transpose(quantiles)
    halo = [withStroke(linewidth=3, foreground="white")]
    axes.plot(middles, middle, color=VERMILION, lw=1.6, marker="o", ms=3, path_effects=halo, label="median")
    axes.plot(middles, low, color=VERMILION, lw=0.9, path_effects=halo, label="16 and 84 %")
    axes.plot(middles, high, color=VERMILION, lw=0.9, path_effects=halo)


def _range(values: NDArray) -> tuple[float, float]:
    """Return limits that show nearly all values."""
    low, high = np.quantile(values, [(1 - SHOWN) / 2, (1 + SHOWN) / 2])
    margin = 0.04 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _span(curves: Sequence[Curve], metric: str, goal: float | None) -> tuple[float, float]:
    """Return limits that show a metric of all parts but those with exceptionally large errors."""
    values, errors = (
        np.concatenate([np.asarray(side[metric], float) for side in sides])
        for sides in ([curve.values for curve in curves], [curve.errors for curve in curves])
    )
    known = np.isfinite(values) & np.isfinite(errors)
    if not known.any():
        return 0.0, 1.0
    shown = known & (errors <= 4 * np.median(errors[known]))
    ends = [*(values - errors)[shown], *(values + errors)[shown], *([] if goal is None else [goal])]
    margin = 0.12 * (max(ends) - min(ends)) or 0.1
    return min(ends) - margin, max(ends) + margin


def _places(curve: Curve) -> tuple[NDArray, NDArray | None]:
    """Return where the points of a curve stand, and how far bins reach to both sides (2, parts)."""
    if not len(curve.low):
        return np.arange(len(curve.labels)), None
    low, high, middle = (np.asarray(side) for side in (curve.low, curve.high, curve.middle))
    return middle, np.stack([middle - low, high - middle])
