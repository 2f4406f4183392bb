"""Galleries of look-alikes: a figure, or a page that needs nothing but itself.

Shapes: S side of an image, W = 7781 wavelengths.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from astroclip.data.pixels import Spectra
from astroclip.files import written_beside
from astroclip.plots.figure_files import SUFFIXES, check_figure, write_figure
from astroclip.plots.galaxy_panels import draw_pairs
from astroclip.schema import desi_wave

PAGE = ".html"
PAGE_DPI = 110

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222 }
body { max-width: 78rem; margin: 2rem auto; padding: 0 1rem }
figure { margin: 0 0 1.5rem; border: 1px solid #ccc; border-radius: 6px; padding: 1rem }
figure.example { border-color: #D55E00; border-width: 2px }
img { max-width: 100% }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin: 0 0 .5rem }
dl { display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; margin: .5rem 0 0; font-size: .85rem }
dl div { display: flex; gap: .4rem } dt { color: #666 } dd { margin: 0 }
"""


class Shown(NamedTuple):
    """A galaxy of a gallery.

    Attributes
    ----------
    title
    rgb
        (3, S, S) z, r, g in [0, 1], at the survey's pixel scale; None: there is no image.
    flux
        (W,) on DESI's grid, 1e-17 erg/s/cm²/Å; None: there is no spectrum.
    redshift
        NaN where unknown: no lines are marked.
    facts
        What a page says below it, by name.
    is_example
        It was searched for, not found.
    """

    title: str
    rgb: NDArray[np.float32] | None
    flux: NDArray[np.float32] | None
    redshift: float = np.nan
    facts: Mapping[str, str] = {}
    is_example: bool = False


def check_gallery(path: str | Path, overwrite: bool = False) -> None:
    """Refuse a gallery that cannot be written, before anything is searched.

    Raises
    ------
    UsageError
        If the file exists without `overwrite`, or its name ends in none of .png, .pdf, .html.
    DataError
        If there is no such folder.
    """
    check_figure(path, overwrite, (*SUFFIXES, PAGE))


def plot_gallery(shown: Sequence[Shown], path: str | Path, *, title: str, overwrite: bool = False) -> None:
    """Draw galaxies, image beside spectrum, into a PNG or PDF file or an HTML page.

    Images and spectra are drawn as by `draw_pairs`; what the encoder sees has no errors and no gaps. The page
    is one file: pictures are in it, it has no script and asks for nothing from elsewhere; texts are escaped.

    Raises
    ------
    UsageError, DataError
        As `check_gallery`; if there is nothing to draw, or the file cannot be written.
    """
    check_gallery(path, overwrite)
    if Path(path).suffix.lower() == PAGE:
        with written_beside(path) as beside:
            beside.write_text(make_page(shown, title), encoding="utf-8")
    else:
        write_figure(draw_gallery(shown), path)


def draw_gallery(shown: Sequence[Shown]) -> Figure:
    """Draw galaxies one below the other; without any spectra, images alone.

    Raises
    ------
    DataError
        If there is nothing to draw.
    """
    images = _stack([one.rgb for one in shown])
    flux = _stack([one.flux for one in shown])
    unknown = None if flux is None else np.full_like(flux, np.nan)
    spectra = None
    if flux is not None and unknown is not None:
        spectra = Spectra(desi_wave(), flux, unknown, np.zeros(flux.shape, np.int32))
    redshifts = [one.redshift for one in shown]
    return draw_pairs(images, spectra, redshifts, [one.title for one in shown], stretched=True)


def make_page(shown: Sequence[Shown], title: str) -> str:
    """Return a gallery as an HTML page that needs nothing but itself."""
    return "\n".join([
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>",
        *(_figure(one) for one in shown),
        "</body>\n</html>\n",
    ])  # fmt: skip


def _figure(one: Shown) -> str:
    """Return one galaxy of the page."""
    picture = "<p>no pixels</p>"
    if one.rgb is not None or one.flux is not None:
        png = BytesIO()
        draw_gallery([one._replace(title="")]).savefig(png, format="png", dpi=PAGE_DPI)
        what = " and ".join(["image"] * (one.rgb is not None) + ["spectrum"] * (one.flux is not None))
        data = b64encode(png.getvalue()).decode()
        picture = f'<img alt="{what} of {escape(one.title)}" src="data:image/png;base64,{data}">'
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in one.facts.items()
    )
    kind = ' class="example"' if one.is_example else ""
    caption = f"<figcaption><dl>{facts}</dl></figcaption>"
    return f"<figure{kind}>\n<h2>{escape(one.title)}</h2>\n{picture}\n{caption}\n</figure>"


def _stack(parts: Sequence[NDArray[np.float32] | None]) -> NDArray[np.float32] | None:
    """Return arrays of one shape one below the other, NaN for one that is not there; None if none is."""
    missing = next((np.full_like(part, np.nan) for part in parts if part is not None), None)
    return None if missing is None else np.stack([missing if part is None else part for part in parts])
