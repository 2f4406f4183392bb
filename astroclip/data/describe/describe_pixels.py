"""Describe files and folders of pixels: who is in them, as in their catalogue, and how good the pixels are.

The pixels of a single file are looked at, but for those of Stein et al. (280 GB each); those of folders not.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.coadd_sets import CoaddRows
from astroclip.data.describe.file_report import (
    ColumnInfo,
    FileReport,
    Repeats,
    dtype_name,
    name_some,
    name_unreadable,
)
from astroclip.data.describe.row_tally import RowTally
from astroclip.data.desi import ARMS, COMBINED_ARM, redrock_path
from astroclip.data.fitsfile import FitsFile
from astroclip.data.hdf5file import Hdf5File
from astroclip.data.kinds import Kind
from astroclip.data.legacysurvey import ImageFolder
from astroclip.data.pairs import open_pairs
from astroclip.data.pixel_catalogue import catalogue_columns
from astroclip.data.pixel_part import FILE, ROW, PixelPart, open_part
from astroclip.data.pixels import PixelFiles
from astroclip.data.sdss import SpecFiles, read_spec
from astroclip.data.stein import IMAGES
from astroclip.data.targetid import encode_targetid
from astroclip.errors import DataError
from astroclip.schema import PAIRS_COLUMNS, PIXSCALE, SCALE_TOLERANCE, ColumnSpec, Split

ALL_ARMS = (*ARMS, COMBINED_ARM)
READ_ROWS = 128  # spectra or images read at a time, up to 40 MB
Said = tuple[dict[str, Any], list[str]]  # facts and problems


def describe_pixels(path: Path, kind: str) -> FileReport:
    """Describe a file or folder of spectra, images or pairs.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    part = open_part(path)
    try:
        lost = _unreadable(part)
        facts, problems = _MORE.get(part.kind, lambda part: ({}, []))(part)  # noqa: ARG005
        rows, (said, wrong) = _describe_rows(part, part.names([file for file, _ in lost]))
        columns = _stored_columns(part) or _to_infos(catalogue_columns([part]))
        if path.is_dir():
            facts = {
                "files": len(part.files),
                "unreadable": len(lost),
                **facts,
            }
        odd = [what for file, what in part.first.problems if file not in {file for file, _ in lost}]
        return FileReport(
            path, kind, rows, columns, facts | said, [*odd, *name_unreadable(lost), *wrong, *problems]
        )
    finally:
        part.close()


def _describe_rows(part: PixelPart, lost: NDArray[np.str_]) -> tuple[int, Said]:
    """Count the rows of readable files, and return what they say."""
    rows, (ra, dec), columns = 0, part.position, catalogue_columns([part])
    ids = [column.name for column in columns if column.dtype == "i8" and column.name != ROW]
    with Repeats() as repeats:
        tally = RowTally(_to_infos(columns), repeats)
        for values in part.blocks():
            kept = ~np.isin(values[FILE], lost)
            block = {name: column[kept] for name, column in values.items()} if len(lost) else values
            tally.add(block | {name: np.ma.masked_equal(block[name], -1) for name in ids})
            if (
                part.kind != Kind.PAIRS or np.isfinite(block[ra]).any()
            ):  # the published pairs have no positions
                tally.sky.add(block[ra], block[dec])
            rows += len(block[ra])
        return rows, (tally.facts(), tally.problems(lambda _, start, stop: part.take(np.arange(start, stop))))


def _to_infos(columns: Iterable[ColumnSpec]) -> list[ColumnInfo]:
    return [ColumnInfo(c.name, dtype_name(np.dtype(c.dtype)), c.shape, c.unit) for c in columns]


def _unreadable(part: PixelPart) -> list[tuple[Path, str]]:
    """Return the files that cannot be read; others may only be odd."""
    pixels = part.first
    readable = set() if isinstance(pixels, ImageFolder | SpecFiles) else set(pixels.files)
    lost = [(file, what) for file, what in pixels.problems if file not in readable]
    for file in pixels.files if part.kind == Kind.COADDS else ():
        try:
            FitsFile(file).close()
        except DataError as error:  # cut short behind its FIBERMAP
            lost.append((file, str(error)))
    return lost


def _stored_columns(part: PixelPart) -> list[ColumnInfo]:
    """Return the datasets of HDF5 files, of the first; none of other files."""
    if part.kind == Kind.PAIRS:
        with open_pairs(part.path) as pairs:
            labels = [
                ColumnInfo(f"label {name}", dtype_name(np.dtype(label.dtype)), (), label.unit)
                for name, label in pairs.labels.items()
            ]
            return _to_infos(spec for spec in PAIRS_COLUMNS if spec.name in pairs.columns) + labels
    if part.kind not in (Kind.STEIN, Kind.MULTIMODAL_IMAGES, Kind.MULTIMODAL_SPECTRA):
        return []
    with Hdf5File(part.files[0]) as h5:
        return hdf5_columns(h5)


def hdf5_columns(h5: Hdf5File) -> list[ColumnInfo]:
    """Return the datasets at the top level of a file."""
    columns = []
    for name in h5.names:
        dtype, shape = h5.dtype(name), h5.shape(name)
        text = ", ".join(dtype.names) if dtype.names else dtype_name(dtype)
        columns.append(ColumnInfo(name, text, shape[1:]))
    return columns


def _of_coadd(part: PixelPart) -> Said:
    """Tell the arms of a file of DESI spectra, which rows hold data, the Redrock file beside it."""
    with FitsFile(part.path) as file:
        grids = {arm: file.pixels(f"{arm}_WAVELENGTH") for arm in ALL_ARMS if f"{arm}_WAVELENGTH" in file}
    arms = {arm: f"{wave.min():.1f}-{wave.max():.1f} Å, {wave.size} px" for arm, wave in grids.items()}
    dead, beside = _dead_spectra(part), redrock_path(part.path)
    facts = {"arms": arms, "rows with data": len(part) - len(dead)}
    facts["redrock"] = beside.name if beside else "none beside it"
    problems = []
    if len(dead):
        found, why = part.take(dead), ""
        if "OBJTYPE" in found:
            bad, sky = int((found["COADD_FIBERSTATUS"] != 0).sum()), int((found["OBJTYPE"] != b"TGT").sum())
            why = f"; of these {bad} have a bad COADD_FIBERSTATUS, {sky} are no target (OBJTYPE)"
        problems.append(_no_data(dead) + why)
    if isinstance(part.first, CoaddRows):
        problems.append("no FIBERMAP: its spectra have no TARGETID and no position, only a row")
    elif beside and not any(np.isfinite(block["Z"]).any() for block in part.blocks()):
        problems.append(f"{beside.name} has other targets: it belongs to another coadd")
    return facts, problems


def _of_coadds(part: PixelPart) -> Said:
    without = sum(redrock_path(file) is None for file in part.files)
    return {}, [f"{without} coadds have no Redrock file beside them"] if without else []


def _of_spec(part: PixelPart) -> Said:
    """Tell who a single SDSS spectrum is of, its wavelengths, and how many pixels are good."""
    spec = read_spec(part.path)
    good = float((spec.mask == 0).mean())
    facts = {"wave_angstrom": [float(spec.wave[0]), float(spec.wave[-1])], "pixels": len(spec.wave)}
    facts |= {"good pixels": f"{good:.1%}"}
    ids = {
        name: int(part.take(np.zeros(1, int))[name][0]) for name in ("PLATE", "MJD", "FIBERID", "CATALOGID")
    }
    return facts | {name: value for name, value in ids.items() if value >= 0}, [] if good else [
        "no good pixel"
    ]


def _of_multimodal_spectra(part: PixelPart) -> Said:
    dead = np.zeros(0, np.int64) if part.path.is_dir() else _dead_spectra(part)
    return {}, [*_wrong_lengths(part), *([_no_data(dead)] if len(dead) else [])]


def _of_multimodal_images(part: PixelPart) -> Said:
    """Tell how many pixels of a file are bad."""
    if part.path.is_dir():
        return {}, []
    dead, bad = 0, 0.0
    for _, images in _read(part.pixels["image"]):
        missing = ~images.good
        dead += int(missing.all(axis=(1, 2, 3)).sum())
        bad += float(missing.mean(axis=(1, 2, 3)).sum())
    said = [f"{dead} images have no good pixel"] if dead else []
    return {"bad pixels": f"{bad / max(len(part), 1):.2%}"}, [*_wrong_lengths(part), *said]


def _of_stein(part: PixelPart) -> Said:
    """Tell the size of the images, and how many have no usable identifier."""
    with Hdf5File(part.files[0]) as h5:
        *_, height, width = h5.shape(IMAGES)
    brick = ("RELEASE", "BRICKID", "OBJID")
    lacking = (encode_targetid(*(block[name] for name in brick)) < 0 for block in part.blocks(facts=False))
    unknown = sum(int(lacks.sum()) for lacks in lacking)
    problem = f"{unknown} rows have no usable (release, brickid, objid)"
    return {"size": f"{width} x {height} px"}, [problem] if unknown else []


def _of_images(part: PixelPart) -> Said:
    """Tell the sizes and pixel scales of images by their headers."""
    folder = part.first
    if not isinstance(folder, ImageFolder):
        return {}, []
    there = folder.shape[:, 0] > 0
    sizes = Counter(f"{width} x {height} px" for height, width in folder.shape[there].tolist())
    lost = int((there & ~np.isfinite(folder.pixscale)).sum())
    named = int((folder.ids[there] != "").sum())
    facts = {"sizes": dict(sizes.most_common(10)), "named by an identifier": f"{named} files"}
    problems = [f"{lost} images have no celestial WCS"] if lost else []
    return facts, problems + scale_problem(folder.pixscale[there])


def _of_pairs(part: PixelPart) -> Said:
    """Tell the parts of a set of pairs, and how it was made."""
    parts, unknown = Counter[str](), 0
    for block in part.blocks():
        parts.update(Split(value).name.lower() for value in block["SPLIT"].tolist())
        unknown += int((~np.isfinite(block["Z"])).sum())
    with open_pairs(part.path) as pairs:
        sources = {name: label.source for name, label in pairs.labels.items() if label.source}
        facts = {"parts": dict(parts)} | {key: value for key, value in pairs.provenance.items() if value}
    facts |= {"label sources": sources} if sources else {}
    dead = _dead_spectra(part)
    problems = [] if len(part) else ["no rows"]
    problems += [f"{unknown} rows have no redshift (NaN)"] if unknown else []
    return facts, problems + ([_no_data(dead)] if len(dead) else [])


def scale_problem(pixscale: NDArray[np.float64]) -> list[str]:
    """Say how many images are at another pixel scale than the survey's."""
    other = pixscale[np.abs(pixscale / PIXSCALE - 1) > SCALE_TOLERANCE]
    if not len(other):
        return []
    found = ", ".join(f"{scale:.4g}" for scale in np.unique(other.round(4))[:5])
    return [
        f"{len(other)} images are at {found} arcsec/px, expected {PIXSCALE}. Resample them (--resample) or "
        "their embeddings are flagged"
    ]


def _read(pixels: PixelFiles) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """Yield the numbers of all pixels, some at a time, and the pixels."""
    for start in range(0, len(pixels), READ_ROWS):
        numbers = np.arange(start, min(start + READ_ROWS, len(pixels)))
        yield numbers, pixels.read(numbers)


def _dead_spectra(part: PixelPart) -> NDArray[np.int64]:
    """Return the rows whose spectrum has no good pixel."""
    found = [numbers[~spectra.good.any(axis=1)] for numbers, spectra in _read(part.pixels["spectrum"])]
    return np.concatenate([np.zeros(0, np.int64), *found])


def _no_data(rows: NDArray[np.int64]) -> str:
    return (
        f"{len(rows)} rows have no data, all their pixels are masked or have inverse variance 0: rows "
        f"{name_some(rows, len(rows))} (from 0)"
    )


def _wrong_lengths(part: PixelPart) -> list[str]:
    """Say which datasets of an HDF5 file have another number of rows than its pixels."""
    with Hdf5File(part.files[0]) as h5:
        n = int((part.first.locate(np.arange(len(part)))[0] == 0).sum())
        shapes = {name: h5.shape(name) for name in h5.names if h5.shape(name) and h5.shape(name)[0] != n}
    return [f"dataset '{name}' has shape {shape}, but there are {n} rows" for name, shape in shapes.items()]


_MORE: dict[Kind, Callable[[PixelPart], Said]] = {
    Kind.COADD: _of_coadd,
    Kind.SPECTRA: _of_coadd,
    Kind.COADDS: _of_coadds,
    Kind.SPEC: _of_spec,
    Kind.MULTIMODAL_SPECTRA: _of_multimodal_spectra,
    Kind.MULTIMODAL_IMAGES: _of_multimodal_images,
    Kind.STEIN: _of_stein,
    Kind.IMAGES: _of_images,
    Kind.PICTURE: _of_images,
    Kind.PAIRS: _of_pairs,
}
