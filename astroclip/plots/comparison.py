"""Our scores beside published ones."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from astroclip.plots.evaluation import BLUE, VERMILION


class Compared(NamedTuple):
    """A score, its 1 σ error, and the published score; NaN where there is none."""

    name: str
    value: float
    error: float
    published: float


def draw_comparison(panels: Mapping[str, Sequence[Compared]], data: str) -> Figure:
    """Draw scores as points, a panel a target, a row a method; `data` says of which galaxies ours are."""
    names = list(dict.fromkeys(one.name for scores in panels.values() for one in scores))
    figure = Figure((3.2 + 3.0 * len(panels), 1.9 + 0.36 * len(names)), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (label, scores) in zip(drawn, panels.items(), strict=True):
        places = [names.index(one.name) for one in scores]
        ours, errors, published = np.array([one[1:] for one in scores], float).T
        low = float(np.nanmin([0.0, *ours]))
        axes.errorbar(
            np.clip(ours, -1, None), places, xerr=np.nan_to_num(errors), fmt="o", color=BLUE, ms=6, lw=1.4,
            label=f"ours, on {data}",
        )  # fmt: skip
        axes.plot(
            published, places, "s", color=VERMILION, mfc="none", ms=8, mew=1.6,
            label="Parker et al. 2024, on real galaxies",
        )  # fmt: skip
        axes.set_xlim(max(low, -1) - 0.05, 1.05)
        axes.set_xlabel(label)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(alpha=0.3)
    figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    return figure
