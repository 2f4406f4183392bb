"""Describe one image of the Legacy Survey, which may be large: it is read in strips."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.describe.describe_pixels import scale_problem
from astroclip.data.describe.file_report import FileReport, SkyRange
from astroclip.data.imagefile import ImageLayout, ImageReader
from astroclip.schema import BANDS, CUTOUT_SIZE

STRIP = 256  # rows of pixels read at a time


def describe_image(path: Path, kind: str) -> FileReport:
    """Describe a Legacy Survey image: bands, size, scale, footprint, and how many pixels are missing."""
    with ImageReader(path) as reader:
        layout = reader.layout
        bad = _bad_fractions(reader)
    height, width = layout.shape
    facts: dict[str, Any] = {
        "bands": ", ".join(BANDS),
        "size": f"{width} x {height} px",
        "inverse variance": "no" if layout.invvar is None else "yes",
        "bad pixels": {band: f"{fraction:.2%}" for band, fraction in zip(BANDS, bad, strict=True)},
    }
    if layout.pixscale is not None:
        facts["pixscale_arcsec"] = round(layout.pixscale, 4)
        facts["centre_deg"] = dict(zip(("ra", "dec"), layout.centre, strict=True))
        facts |= _footprint(layout)
    problems = [] if layout.wcs else ["no celestial WCS: stamps cannot be cut by position"]
    problems += scale_problem(np.array([layout.pixscale or np.nan]))
    if min(layout.shape) < CUTOUT_SIZE:
        problems.append(f"{width} x {height} px, smaller than a cut-out of {CUTOUT_SIZE}: it will be padded")
    problems += [f"band {band} has no good pixel" for band, part in zip(BANDS, bad, strict=True) if part == 1]
    return FileReport(path, kind, 1, [], facts, problems)


def _bad_fractions(reader: ImageReader) -> NDArray[np.float64]:
    """Return the fraction of missing pixels of each band, reading strips of rows."""
    height, width = reader.layout.shape
    bad = np.zeros(len(BANDS))
    for y in range(0, height, STRIP):
        image, _ = reader.section(y, min(y + STRIP, height), 0, width)
        bad += (~np.isfinite(image)).sum(axis=(1, 2))
    return bad / (height * width)


def _footprint(layout: ImageLayout) -> dict[str, Any]:
    """Return the range of RA and Dec of an image's corners."""
    if layout.wcs is None:
        return {}
    height, width = layout.shape
    x, y = np.array([-0.5, width - 0.5])[[0, 0, 1, 1]], np.array([-0.5, height - 0.5])[[0, 1, 0, 1]]
    sky = SkyRange()
    sky.add(*layout.wcs.all_pix2world(x, y, 0, ra_dec_order=True))
    return sky.facts()
