"""Losses of a training."""

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from astroclip.plots.figure_files import check_figure, write_figure

LOSSES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")  # Okabe & Ito


def plot_losses(rows: Sequence[Mapping[str, float]], path: str | Path, *, overwrite: bool = False) -> None:
    """Draw how the losses of a training fell with its steps, into a PNG or PDF file.

    Every metric whose name ends in ``loss`` is a line: that of training as it is, that of validation with a
    circle at each value, the best one ringed. The axis of losses is logarithmic if all are positive.

    Parameters
    ----------
    rows
        Metrics of steps, each with a `step`; as from `astroclip.training.record.read_metrics`.

    Raises
    ------
    UsageError, DataError
        As `plot_pairs`.
    """
    check_figure(path, overwrite)
    figure = Figure((6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    names = sorted({name for row in rows for name in row if name.endswith("loss")})
    lines = {name: [(row["step"], row[name]) for row in rows if name in row] for name in names}
    for name, style in zip(names, cycle(product(("-", "--", ":"), LOSSES)), strict=False):
        steps, losses = zip(*lines[name], strict=True)
        validates = name.startswith("val")
        marker, width = ("o", 1.4) if validates else (None, 0.9)
        axes.plot(steps, losses, style[0], color=style[1], lw=width, marker=marker, ms=3, label=name)
        if validates:
            best = int(np.argmin(losses))
            axes.plot(steps[best], losses[best], "o", color=style[1], ms=9, mfc="none", mew=1.4)
    if names and min(loss for line in lines.values() for _, loss in line) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("step (updates of the weights)")
    axes.set_ylabel("loss")
    axes.tick_params(which="both", direction="in", top=True, right=True)
    if names:
        axes.legend(frameon=False)
    write_figure(figure, path)
