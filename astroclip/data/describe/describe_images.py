"""Describe images: a Legacy Survey image, a folder of them, the files of Stein et al."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.describe.file_report import (
    ColumnInfo,
    FileReport,
    Repeats,
    SkyRange,
    dtype_name,
    name_some,
    name_unreadable,
)
from astroclip.data.hdf5file import Hdf5File
from astroclip.data.imagefile import ImageLayout, ImageReader
from astroclip.data.legacysurvey import ImageFolder, open_images
from astroclip.data.stein import open_stein
from astroclip.data.targetid import encode_targetid
from astroclip.schema import BANDS, CUTOUT_SIZE, PIXSCALE, SCALE_TOLERANCE

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
    problems += _scale_problem(np.array([layout.pixscale or np.nan]))
    if min(layout.shape) < CUTOUT_SIZE:
        problems.append(f"{width} x {height} px, smaller than a cut-out of {CUTOUT_SIZE}: it will be padded")
    problems += [f"band {band} has no good pixel" for band, part in zip(BANDS, bad, strict=True) if part == 1]
    return FileReport(path, kind, 1, [], facts, problems)


def describe_images(path: Path, kind: str) -> FileReport:
    """Describe the images below a folder by their headers; pixels are not read."""
    folder, sky = open_images(path), SkyRange()
    if not isinstance(folder, ImageFolder):
        return FileReport(path, kind, len(folder), [], {"files": len(folder), "format": "PNG or JPEG"}, [])
    lost = {file for file, _ in folder.problems}
    usable = np.array([file not in lost for file in folder.files], bool)
    located = usable & np.isfinite(folder.ra)
    sky.add(folder.ra[located], folder.dec[located])
    sizes = Counter(f"{width} x {height} px" for height, width in folder.shape[usable].tolist())
    with Repeats() as repeats:
        named = np.flatnonzero(usable & (folder.ids != ""))
        repeats.add([folder.ids[named]])
        total, again = repeats.find()
    facts: dict[str, Any] = {
        "files": len(folder),
        "unreadable": len(lost),
        "sizes": dict(sizes.most_common(10)),
        "named by an identifier": f"{len(named)} files",
        **sky.facts(),
    }
    problems = name_unreadable(folder.problems)
    if n := int((usable & ~np.isfinite(folder.ra)).sum()):
        problems.append(f"{n} images have no celestial WCS")
    problems += _scale_problem(folder.pixscale[located])
    if total:
        examples = name_some((folder.ids[named[row]] for row in again), total)
        problems.append(f"{total} images have the identifier of an earlier one: {examples}")
    return FileReport(path, kind, int(usable.sum()), [], facts, problems)


def describe_stein(path: Path, kind: str) -> FileReport:
    """Describe a file of Stein et al., or all below a folder, by who is in them; pixels are not read."""
    images, sky = open_stein(path), SkyRange()
    unknown = seen = 0
    with Repeats() as repeats:
        for who in images.blocks():
            sky.add(who.ra, who.dec)
            ids = encode_targetid(*(who.ids[name] for name in ("RELEASE", "BRICKID", "OBJID")))
            row = seen + np.arange(len(ids))
            repeats.add([np.where(ids < 0, -1 - row, ids)])  # rows without an identifier repeat none
            unknown, seen = unknown + int((ids < 0).sum()), seen + len(ids)
        total, again = repeats.find()
    files, rows = images.locate(again)
    with Hdf5File(images.files[0]) as h5:
        columns = hdf5_columns(h5)
    facts: dict[str, Any] = {
        "files": len(images.files),
        "unreadable": len(images.unreadable),
        "size": f"{images.shape[1]} x {images.shape[0]} px",
        "identifier": "release, brickid, objid",
        **sky.facts(),
    }
    odd = [what for file, what in images.problems if file in images.files]
    problems = [*odd, *name_unreadable(images.unreadable), *sky.problems()]
    if unknown:
        problems.append(f"{unknown} rows have no usable (release, brickid, objid)")
    if total:
        where = [f"{images.files[f].name} row {r}" for f, r in zip(files, rows, strict=True)]
        problems.append(f"{total} rows show a galaxy that an earlier row shows: {name_some(where, total)}")
    return FileReport(path, kind, len(images), columns, facts, problems)


def hdf5_columns(h5: Hdf5File) -> list[ColumnInfo]:
    """Return the datasets at the top level of a file."""
    columns = []
    for name in h5.names:
        dtype, shape = h5.dtype(name), h5.shape(name)
        text = ", ".join(dtype.names) if dtype.names else dtype_name(dtype)
        columns.append(ColumnInfo(name, text, shape[1:]))
    return columns


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


def _scale_problem(pixscale: NDArray[np.float64]) -> list[str]:
    """Say how many images are at another pixel scale than the survey's."""
    other = pixscale[np.abs(pixscale / PIXSCALE - 1) > SCALE_TOLERANCE]
    if not len(other):
        return []
    found = ", ".join(f"{scale:.4g}" for scale in np.unique(other.round(4))[:5])
    return [
        f"{len(other)} images are at {found} arcsec/px, expected {PIXSCALE}. Resample them (--resample) or "
        "their embeddings are flagged"
    ]
