"""Describe HDF5 files: Multimodal Universe, and any other with datasets at its top level."""

from pathlib import Path
from typing import Any

import numpy as np

from astroclip.data.describe.describe_images import hdf5_columns
from astroclip.data.describe.file_report import FileReport, Repeats, SkyRange, name_some, name_unreadable
from astroclip.data.hdf5file import Hdf5File
from astroclip.data.multimodal import MultimodalFiles
from astroclip.data.multimodal_images import open_multimodal_images
from astroclip.data.multimodal_spectra import open_multimodal_spectra

BLOCK_ROWS = 128  # spectra or images read at a time, up to 40 MB


def describe_multimodal_spectra(path: Path, kind: str) -> FileReport:
    """Describe Multimodal Universe spectra; the pixels of a folder are not read."""
    spectra = open_multimodal_spectra(path)
    report = _describe_rows(path, kind, spectra)
    redshift, good = spectra.read_redshifts(np.arange(len(spectra)))
    facts: dict[str, Any] = {**report.facts, "good redshifts": f"{int(good.sum())} rows"}
    if np.isfinite(redshift).any():
        facts["Z"] = [float(np.nanmin(redshift)), float(np.nanmax(redshift))]
    if path.is_dir():
        return report._replace(facts=facts)
    dead = 0
    for rows in _blocks(len(spectra)):
        dead += int((~(spectra.read(rows).ivar > 0).any(axis=1)).sum())
    what = f"{dead} rows have no data: their inverse variance is 0, or the mask set, everywhere"
    return report._replace(facts=facts, problems=[*report.problems, *([what] if dead else [])])


def describe_multimodal_images(path: Path, kind: str) -> FileReport:
    """Describe Multimodal Universe images; the pixels of a folder are not read."""
    images = open_multimodal_images(path)
    report = _describe_rows(path, kind, images)
    if path.is_dir():
        return report
    dead, bad = 0, 0.0
    for rows in _blocks(len(images)):
        missing = ~images.read(rows).good
        dead += int(missing.all(axis=(1, 2, 3)).sum())
        bad += float(missing.mean(axis=(1, 2, 3)).sum())
    facts = {**report.facts, "bad pixels": f"{bad / max(len(images), 1):.2%}"}
    what = [f"{dead} images have no good pixel"] if dead else []
    return report._replace(facts=facts, problems=[*report.problems, *what])


def describe_hdf5(path: Path, kind: str) -> FileReport:
    """Describe an HDF5 file that astroclip has no reader for: its datasets."""
    with Hdf5File(path) as h5:
        columns = hdf5_columns(h5)
        lengths = {h5.shape(name)[0] for name in h5.names if h5.shape(name)}
    rows = lengths.pop() if len(lengths) == 1 else None
    return FileReport(path, kind, rows, columns, {"datasets": len(columns)}, [])


def _describe_rows(path: Path, kind: str, found: MultimodalFiles) -> FileReport:
    """Describe who is in the files of Multimodal Universe."""
    sky = SkyRange()
    sky.add(found.who.ra, found.who.dec)
    with Repeats() as repeats:
        repeats.add([found.who.ids["OBJECT_ID"]])
        total, again = repeats.find()
    with Hdf5File(found.files[0]) as h5:
        columns = hdf5_columns(h5)
        n = int(found.first[1])
        wrong = {name: h5.shape(name) for name in h5.names if h5.shape(name) and h5.shape(name)[0] != n}
    problems = [*name_unreadable(found.problems), *sky.problems()]
    problems += [
        f"dataset '{name}' has shape {shape}, but there are {n} rows" for name, shape in wrong.items()
    ]
    if total:
        names = name_some((str(found.who.ids["OBJECT_ID"][row]) for row in again), total)
        problems.append(f"{total} rows repeat the object_id of an earlier row: {names}")
    facts = {"files": len(found.files), "unreadable": len(found.problems), "identifier": "object_id"}
    return FileReport(path, kind, len(found), columns, facts | sky.facts(), problems)


def _blocks(rows: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + BLOCK_ROWS, rows)) for start in range(0, rows, BLOCK_ROWS)]
