"""Figures: what galaxies look like, look-alikes, losses. The only room that draws.

Figures are made without pyplot: no window, no backend chosen, no setting of the caller's changed.
"""

from astroclip.plots.figure_files import check_figure, write_figure
from astroclip.plots.galaxy_panels import (
    EMISSION,
    IMAGES_A_ROW,
    LINES,
    draw_pairs,
    plot_pairs,
    smooth_spectrum,
)
from astroclip.plots.gallery import Shown, check_gallery, plot_gallery
from astroclip.plots.losses import plot_losses

__all__ = [
    "EMISSION",
    "IMAGES_A_ROW",
    "LINES",
    "Shown",
    "check_figure",
    "check_gallery",
    "draw_pairs",
    "plot_gallery",
    "plot_losses",
    "plot_pairs",
    "smooth_spectrum",
    "write_figure",
]
