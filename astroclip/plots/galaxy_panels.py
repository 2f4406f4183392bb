"""Galaxies: what they look like, images beside their spectra.

Shapes: n galaxies, H W rows and columns of an image, S wavelengths.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from astroclip.data.pixels import Spectra
from astroclip.errors import DataError
from astroclip.model.prepare_images import to_rgb
from astroclip.plots.figure_files import check_figure, write_figure
from astroclip.schema import PIXSCALE

SMOOTHING = (1.0, 3.0)  # px, least and most that a drawn line is smoothed, standard deviation of a Gaussian
SMOOTHED_SNR = 9.0  # median signal-to-noise ratio of a pixel, above which a line is smoothed least

ROW, WIDTH = 2.0, 11.0  # inches: height of a galaxy's row, width of a figure with spectra
IMAGES_A_ROW = 4
MISSING = 0.5  # grey of pixels without a measurement
# Okabe & Ito 2008, told apart by the colour-blind; line styles tell the same
EMISSION, ABSORPTION, RAW, SMOOTH, ERROR = "#D55E00", "#0072B2", "#BDBDBD", "#000000", "#56B4E9"


class Line(NamedTuple):
    """A feature of galaxy spectra: `name`, rest wavelengths (Å, vacuum), whether it is seen in emission."""

    name: str
    wave: tuple[float, ...]
    emission: bool


# Vacuum wavelengths: NIST Atomic Spectra Database, https://www.nist.gov/pml/atomic-spectra-database
LINES = (
    Line("[O II]", (3727.09, 3729.88), True),
    Line("Ca K", (3934.78,), False),
    Line("Ca H", (3969.59,), False),
    Line("Hδ", (4102.89,), True),
    Line("Hγ", (4341.68,), True),
    Line("Hβ", (4862.68,), True),
    Line("[O III]", (4960.30, 5008.24), True),
    Line("Mg b", (5168.76, 5174.13, 5185.05), False),
    Line("Na D", (5891.58, 5897.56), False),
    Line("Hα", (6564.61,), True),
    Line("[N II]", (6549.86, 6585.27), True),
    Line("[S II]", (6718.29, 6732.67), True),
)


def plot_pairs(
    images: ArrayLike | None,
    spectra: Spectra | None,
    redshifts: ArrayLike | None,
    titles: Sequence[str],
    path: str | Path,
    pixscale: float | None = PIXSCALE,
    stretched: bool = False,
    *,
    overwrite: bool = False,
) -> None:
    """Draw galaxies, see `draw_pairs`, into a PNG or PDF file, which appears when it is complete.

    Raises
    ------
    UsageError
        If the file exists without `overwrite`, or its name ends in neither .png nor .pdf.
    DataError
        If the folder cannot be written, or there is nothing to draw.
    """
    check_figure(path, overwrite)
    figure = draw_pairs(images, spectra, redshifts, titles, pixscale=pixscale, stretched=stretched)
    write_figure(figure, path)


def draw_pairs(
    images: ArrayLike | None,
    spectra: Spectra | None,
    redshifts: ArrayLike | None,
    titles: Sequence[str],
    *,
    pixscale: float | None = PIXSCALE,
    stretched: bool = False,
) -> Figure:
    """Draw galaxies: the image of each beside its spectrum, a row each; without spectra, images alone.

    Images have the stretch that the encoder sees (`preprocess.image.to_rgb`), the first row of pixels at the
    bottom. The black line is the spectrum smoothed by a Gaussian with inverse variance weights, the blue band
    its 1 σ error, the grey line the pixels as they are. The Gaussian has 3 pixels where the median
    signal-to-noise ratio of a pixel is 3 or less, down to 1 pixel where it is 9 or more. The main lines are
    marked where the redshift puts them, whether or not the galaxy shows them. Missing pixels are grey in an
    image and gaps in a spectrum.

    Parameters
    ----------
    images
        (n, 3, H, W) g, r, z nanomaggies, NaN where there is no measurement; None for spectra alone.
    spectra
        n spectra on any grid; NaN in `ivar` means that the error is not known. None for images alone.
    redshifts
        (n,), NaN where unknown: no lines are marked.
    titles
        n texts, one a galaxy.
    pixscale
        arcsec/px of the images; None: no scale bar.
    stretched
        The images are z, r, g in [0, 1] already, as the encoder sees them.

    Raises
    ------
    DataError
        If there is nothing to draw, or numbers of galaxies differ.
    """
    n = len(titles)
    rgb = None if images is None else np.moveaxis(np.asarray(images if stretched else to_rgb(images)), 1, -1)
    z = np.full(n, np.nan) if redshifts is None else np.asarray(redshifts, float)
    found = {"images": rgb, "spectra": None if spectra is None else spectra.flux, "redshifts": z}
    wrong = [f"{len(what)} {name}" for name, what in found.items() if what is not None and len(what) != n]
    if not n or (rgb is None and spectra is None) or wrong:
        raise DataError(f"nothing to draw: {n} galaxies, {', '.join(wrong) or 'no images and no spectra'}")
    if spectra is None:
        axes, figure = _image_axes(n)
    else:
        axes, figure = _pair_axes(n, rgb is not None)
    for i, (left, right) in enumerate(axes):
        if rgb is not None:
            _draw_image(left, rgb[i], pixscale)
        if spectra is not None:
            wave = spectra.wave if spectra.wave.ndim == 1 else spectra.wave[i]
            there = np.isfinite(wave)
            one = [np.asarray(values[i], float)[there] for values in (spectra.flux, spectra.ivar)]
            _draw_spectrum(right, wave[there], *one)
            _mark_lines(right, z[i])
        known = f"$z$ = {z[i]:.4f}" if np.isfinite(z[i]) else ""
        if spectra is None:
            left.set_title(f"{titles[i]}\n{known}".strip(), fontsize=8)
        else:
            right.set_title(f"{titles[i]}   {known}".strip(), fontsize=8.5, loc="left", pad=3)
    if spectra is not None:
        _finish_columns(figure, [right for _, right in axes])
    return figure


def smooth_spectrum(
    flux: NDArray[np.float64], ivar: NDArray[np.float64], sigma: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smooth a spectrum by a Gaussian, weighted by inverse variance; return it and its 1 σ error, (S,) each.

    A pixel without a measurement (flux not finite, ivar 0) stays missing: NaN. Where ivar is NaN all pixels
    weigh the same and the error is NaN.

    Parameters
    ----------
    flux, ivar
        (S,).
    sigma
        Pixels.
    """
    known = np.isfinite(ivar)
    good = np.isfinite(flux) & (~known | (ivar > 0))
    weight = np.where(good, np.where(known, ivar, 1), 0)
    offset = np.arange(-int(4 * sigma), int(4 * sigma) + 1)
    kernel = np.exp(-0.5 * (offset / sigma) ** 2)
    total = np.convolve(weight, kernel, "same")
    with np.errstate(invalid="ignore", divide="ignore"):
        line = np.convolve(np.where(good, weight * flux, 0), kernel, "same") / total
        error = np.sqrt(np.convolve(weight, kernel**2, "same")) / total
    line[~good] = error[~good | ~known] = np.nan
    return line, error


def _image_axes(n: int) -> tuple[list[tuple[Axes, Axes]], Figure]:
    """Return a grid of axes for images alone; left and right of a galaxy are the same."""
    columns = min(n, IMAGES_A_ROW)
    rows = -(-n // columns)
    figure = Figure((2.4 * columns, 2.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in grid[n:]:
        unused.remove()
    return [(axes, axes) for axes in grid[:n]], figure


def _pair_axes(n: int, with_images: bool) -> tuple[list[tuple[Axes, Axes]], Figure]:
    """Return (image, spectrum) axes a galaxy; without images both are the spectrum's."""
    layout = ConstrainedLayoutEngine(h_pad=0.03, w_pad=0.03, hspace=0.03, wspace=0.01)
    figure = Figure((WIDTH, ROW * n + 0.5), layout=layout)
    if not with_images:
        grid = figure.subplots(n, 1, squeeze=False, sharex=True)
        return [(axes[0], axes[0]) for axes in grid], figure
    ratios = {"width_ratios": [ROW, WIDTH - ROW - 0.6]}
    grid = figure.subplots(n, 2, squeeze=False, gridspec_kw=ratios)
    for _, axes in grid[1:]:
        axes.sharex(grid[0, 1])
    return [(left, right) for left, right in grid], figure


def _draw_image(axes: Axes, rgb: NDArray[np.float32], pixscale: float | None) -> None:
    """Draw a stretched image (H, W, 3) and a scale bar."""
    shown = np.where(np.isfinite(rgb).all(axis=-1, keepdims=True), rgb, MISSING)
    axes.imshow(shown, origin="lower", interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    if pixscale is None:
        return
    side = rgb.shape[1] * pixscale
    length = max((b for b in (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300) if b <= side / 3), default=side / 3)
    x, y = 0.06 * rgb.shape[1], 0.07 * rgb.shape[0]
    outline = [withStroke(linewidth=2.5, foreground="black")]
    axes.plot([x, x + length / pixscale], [y, y], color="white", lw=1.5, path_effects=outline)
    above = y + 0.02 * rgb.shape[0]
    axes.text(x, above, f"{length:.3g}″", color="white", fontsize=8, va="bottom", path_effects=outline)


def _draw_spectrum(axes: Axes, wave: NDArray, flux: NDArray[np.float64], ivar: NDArray[np.float64]) -> None:
    """Draw one spectrum and choose the range of flux that shows it."""
    with np.errstate(invalid="ignore"):
        snr = (flux * np.sqrt(ivar))[ivar > 0]
    least, most = SMOOTHING
    sigma = float(np.clip(least * SMOOTHED_SNR / max(np.median(snr), 0.1), least, most)) if snr.size else most
    line, error = smooth_spectrum(flux, ivar, sigma)
    raw = np.where(np.isfinite(line), flux, np.nan)
    axes.plot(wave, raw, color=RAW, lw=0.4, zorder=1, label="pixels")
    axes.plot(wave, line, color=SMOOTH, lw=0.7, zorder=3, label="smoothed")
    if np.isfinite(error).any():
        low, high = line - error, line + error
        axes.fill_between(wave, low, high, color=ERROR, alpha=0.8, lw=0, zorder=2, label="its 1 σ error")
    axes.set_ylim(*_flux_range(line, error))
    if not np.isfinite(line).any():
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color="#666666")


def _flux_range(line: NDArray[np.float64], error: NDArray[np.float64]) -> tuple[float, float]:
    """Return limits that hold nearly all of a line, all peaks that are not noise, and above them names."""
    seen = np.isfinite(line)
    if not seen.any():
        return 0.0, 1.0
    usual = error <= 3 * np.nanmedian(error) if np.isfinite(error).any() else seen  # not the noisy ends
    low, high = np.quantile(line[usual], [0.005, 0.995])
    sure = seen & (line > low + 8 * np.nan_to_num(error, nan=np.inf))
    high = max(high, np.max(line[sure], initial=high))
    low = min(low, 0)
    span = max(high - low, 1e-3)
    return low - 0.06 * span, high + 0.42 * span


def _mark_lines(axes: Axes, redshift: float) -> None:
    """Mark the lines that fall on a spectrum; names stand on three levels, so that none covers another."""
    if not np.isfinite(redshift):
        return
    first, last = axes.dataLim.intervalx
    free = [-np.inf] * 3  # where the next name may begin, on each level
    halo = [withStroke(linewidth=2, foreground="white")]
    width = 0.0072 * (last - first)  # of a letter, Å
    for line in sorted(LINES, key=lambda one: one.wave[-1]):
        colour, style = (EMISSION, "--") if line.emission else (ABSORPTION, ":")
        places = [(1 + redshift) * wave for wave in line.wave]
        on = [place for place in places if first < place < last]
        for place in on:
            axes.axvline(place, ymax=0.76, color=colour, ls=style, lw=0.7, zorder=1.5)
        if not on:
            continue
        half = width * len(line.name) / 2
        level = next((i for i, end in enumerate(free) if on[-1] - half > end), int(np.argmin(free)))
        free[level] = on[-1] + half
        axes.text(
            on[-1], 0.77 + 0.068 * level, line.name, transform=axes.get_xaxis_transform(),
            color=colour, fontsize=7.5, ha="center", va="bottom", zorder=4, path_effects=halo,
        )  # fmt: skip


def _finish_columns(figure: Figure, spectra: list[Axes]) -> None:
    """Label a column of spectra: wavelengths below the last one, what is drawn above the first."""
    for axes in spectra:
        axes.tick_params(labelsize=8, labelbottom=axes is spectra[-1], direction="in", top=True, right=True)
        axes.set_ylabel("$F_λ$\n[10$^{-17}$ erg s$^{-1}$ cm$^{-2}$ Å$^{-1}$]", fontsize=7.5)
        axes.minorticks_on()
        axes.tick_params(which="minor", direction="in", top=True, right=True)
        axes.margins(x=0.01)
    figure.legend(
        *spectra[0].get_legend_handles_labels(), loc="outside upper right", borderpad=0, ncols=3,
        frameon=False, fontsize=7.5, handlelength=1.5,
    )  # fmt: skip
    spectra[-1].set_xlabel("observed wavelength (vacuum)  [Å]", fontsize=9)
