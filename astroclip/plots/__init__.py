"""Figures: what galaxies look like, images beside their spectra; losses. The only room that draws.

Figures are made without pyplot: no window, no backend chosen, no setting of the caller's changed.
"""

from astroclip.plots.files import check_figure, write_figure
from astroclip.plots.losses import plot_losses
from astroclip.plots.pairs import (
    EMISSION,
    IMAGES_A_ROW,
    LINES,
    draw_pairs,
    plot_pairs,
    smooth_spectrum,
)

__all__ = [
    "EMISSION",
    "IMAGES_A_ROW",
    "LINES",
    "check_figure",
    "draw_pairs",
    "plot_losses",
    "plot_pairs",
    "smooth_spectrum",
    "write_figure",
]
