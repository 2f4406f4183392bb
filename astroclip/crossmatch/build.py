"""Crossmatch a table of spectra with images: a match table, and the paired data set."""

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from astroclip.crossmatch.image_side import ImageSide, has_images, open_image_side
from astroclip.crossmatch.match_outputs import Job, Outputs, write_outputs
from astroclip.crossmatch.match_table import MatchTable, describe_images, find_labels
from astroclip.crossmatch.plan import CrossmatchSettings, Plan, Progress, check_settings, make_plan
from astroclip.crossmatch.spectra_side import SpectraTable, TargetRows, default_coadds, open_spectra
from astroclip.data.label_tables import LabelTable, open_labels
from astroclip.data.pairs.pairs_format import row_bytes
from astroclip.errors import DataError, UsageError
from astroclip.files import check_outputs
from astroclip.schema import MATCH_COLUMNS
from astroclip.tables.outputs import SUFFIXES, output_format
from astroclip.tables.write import check_new_columns

logger = logging.getLogger(__name__)


class CrossmatchReport(NamedTuple):
    """What was done, or (not `written`) would be.

    Attributes
    ----------
    table, pairs, rejects
        The files; None for those that were not asked for.
    rows
        Of the table of spectra.
    reasons
        How many of these there are of each `Reason`, zeros left out; the sum is `rows`.
    matches
        Rows with an image, by method.
    false_match_rate, false_match_error
        Chance matches by position for each row that passed the cut, from shifted skies, and its error; None
        where no row has a position.
    labels
        Rows of the match table with labels, by file.
    ambiguous_labels
        Rows of the match table that are left without labels because several rows of the file have their key.
    coadd_files, image_files
        Files that the pairs come from.
    table_rows, pair_rows, gigabytes
        Rows of the match table and of the file of pairs, and the size of both.
    problems
        Files that are missing, damaged or odd; values that were taken as missing.
    """

    written: bool
    table: str
    pairs: str | None
    rejects: str | None
    rows: int
    reasons: dict[str, int]
    matches: dict[str, int]
    false_match_rate: float | None
    false_match_error: float | None
    labels: dict[str, int]
    ambiguous_labels: dict[str, int]
    coadd_files: int
    image_files: int
    table_rows: int
    pair_rows: int
    gigabytes: float
    problems: tuple[str, ...]


def build_pairs(
    spectra: str | Path,
    images: str | Path,
    output: str | Path,
    *,
    coadds: str | Path | None = None,
    labels: Sequence[str | Path] = (),
    rejects: str | Path | None = None,
    pairs: bool = True,
    settings: CrossmatchSettings | None = None,
    drop: Sequence[str] = (),
    overwrite: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> CrossmatchReport:
    """Match spectra with images, and write the match table ``OUT.fits`` and the pairs ``OUT.h5``.

    Rows that fail the quality cut take no part. The others are matched by RELEASE, BRICKID, OBJID, then by
    position (`match_objects`), moved by their proper motion to the epoch of the images where PMRA, PMDEC and
    REF_EPOCH are there. A pair needs a spectrum with a good pixel and an image with a finite one. Every row
    of the table of spectra is counted under one `Reason`.

    Parameters
    ----------
    spectra
        A DESI redshift catalogue; or any FITS, Parquet or CSV table with positions: then there are no pairs,
        only the match table.
    images
        A folder of files of Stein et al., a folder of cut-outs, or any table with positions (with pairs if it
        has a vector column IMAGE).
    output
        ``OUT``, with or without the suffix .h5, or one of a table, which then is the match table's.
    coadds
        Folder with the tree healpix/SURVEY/PROGRAM/...; default: ``../healpix`` of the catalogue.
    labels
        Tables of labels to be joined, see `open_labels`.
    rejects
        Where to write the rows that are in no pair; the suffix says the format.
    pairs
        Whether to write pairs; without, no pixel is read.
    settings
        Cut, radius, split and more.
    drop
        Columns that the match table is not to have.
    overwrite
        Replace outputs, each when the new one is complete.
    resume
        Go on with the pairs that a killed run left; ends with the same bytes. Refuses other settings.
    dry_run
        Do all but write.
    progress
        Told (rows done, all rows): of the check of spectra, then of the pairs.

    Raises
    ------
    UsageError
        If an output exists, settings make no sense or differ from those of the part.
    DataError
        If an input cannot be read or lacks columns, or the disk is too small or becomes full. A coadd or
        cut-out that cannot be read is a reason, not an error.
    """
    settings = settings or CrossmatchSettings()
    check_settings(settings)
    outputs = _name_outputs(output, rejects, drop)
    if not dry_run:
        output_format(outputs.rejects or outputs.table)
        written = [outputs.table, outputs.rejects, outputs.pairs if pairs else None]
        check_outputs(written, [spectra, images, coadds, *labels], overwrite or resume)
    scratch = None if dry_run else outputs.table.parent
    with (
        open_spectra(spectra, settings.cut, settings.ra, settings.dec, settings.epoch, scratch) as table,
        closing(
            open_image_side(images, settings.image_ra, settings.image_dec, settings.epoch, scratch)
        ) as side,
    ):
        tree = _find_tree(table, side, spectra, coadds) if pairs else None
        outputs = outputs if tree else outputs._replace(pairs=None)
        settings = settings._replace(cut=table.cut.name)
        names = {"spectra": spectra, "images": images, "coadds": tree, "labels": list(labels)}
        taken = {column.name.upper() for column in table.columns} | {spec.name for spec in MATCH_COLUMNS}
        sets = [open_labels(path, settings.radius_arcsec, taken) for path in labels]
        targets, row_reason = table.read_targets()
        plan = make_plan(targets, row_reason, side, settings, tree, progress)
        job = _lay_out(table, side, targets, plan, sets, settings, names)
        check_new_columns(outputs.table, job.matches.columns, drop)
        report = _report(job, outputs, written=not dry_run)
        if not dry_run:
            write_outputs(job, outputs, overwrite=overwrite, resume=resume, progress=progress)
        return report


def _name_outputs(output: str | Path, rejects: str | Path | None, drop: Sequence[str]) -> Outputs:
    """Return the names of the outputs."""
    base, suffix = Path(output), ".fits"
    if base.suffix.lower() in (*SUFFIXES, ".h5", ".hdf5"):
        suffix = base.suffix if base.suffix.lower() in SUFFIXES else suffix
        base = base.with_suffix("")
    table, pairs = (base.with_name(base.name + ending) for ending in (suffix, ".h5"))
    return Outputs(table, pairs, Path(rejects) if rejects else None, tuple(drop))


def _find_tree(
    table: SpectraTable, side: ImageSide, spectra: str | Path, coadds: str | Path | None
) -> Path | None:
    """Return the tree of coadds if both sides have pixels."""
    if coadds is not None and not table.has_coadds:
        raise UsageError(f"{spectra}: has no TARGETID, SURVEY, PROGRAM and HEALPIX to find its coadds by")
    if coadds is not None and not Path(coadds).is_dir():
        raise DataError(f"{coadds}: no such folder of coadds")
    if not (table.has_coadds and has_images(side)):
        return None
    return Path(coadds) if coadds is not None else default_coadds(spectra)


def _lay_out(
    table: SpectraTable,
    side: ImageSide,
    targets: TargetRows,
    plan: Plan,
    labels: list[LabelTable],
    settings: CrossmatchSettings,
    names: dict[str, Any],
) -> Job:
    """Look up what shall be written of images and labels, and lay out the match table."""
    images = describe_images(side, Path(names["images"]), plan.image)
    found = find_labels(labels, table, plan)
    matches = MatchTable(table, plan, images, found, settings.split, pairs=names["coadds"] is not None)
    return Job(table, side, names["coadds"], targets, plan, images, matches, found, settings, names)


def _report(job: Job, outputs: Outputs, *, written: bool) -> CrossmatchReport:
    """Say what the plan is."""
    plan = job.plan
    known = bool(np.isfinite(plan.chance.rate))
    used = plan.image[plan.pair >= 0]
    pair_bytes = row_bytes(job.pair_labels) * plan.n_pairs
    notes = [note for labels, _ in job.labels for note in labels.notes]
    problems = (*plan.problems, *job.table.notes, *notes)
    for text in problems:
        logger.info("%s", text)
    return CrossmatchReport(
        written=written,
        table=str(outputs.table),
        pairs=str(outputs.pairs) if outputs.pairs else None,
        rejects=str(outputs.rejects) if outputs.rejects else None,
        rows=len(plan.row_reason),
        reasons=plan.reasons(),
        matches={method: int((plan.method == method.encode()).sum()) for method in ("id", "position")},
        false_match_rate=plan.chance.rate if known else None,
        false_match_error=plan.chance.error if known else None,
        labels={labels.name: int((rows.row >= 0).sum()) for labels, rows in job.labels},
        ambiguous_labels={labels.name: int(rows.ambiguous.sum()) for labels, rows in job.labels},
        coadd_files=len(job.coadd_files),
        image_files=len(np.unique(job.side.locate(used)[0])),
        table_rows=job.matches.nrows,
        pair_rows=plan.n_pairs,
        gigabytes=(job.matches.nbytes + pair_bytes) / 1e9,
        problems=problems,
    )
