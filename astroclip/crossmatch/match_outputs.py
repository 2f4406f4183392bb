"""Write what the crossmatch found: pairs first, which takes long, then the tables, each in one rename."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.image_side import ImageSide, TablePositions
from astroclip.crossmatch.match_table import MatchTable, RejectTable
from astroclip.crossmatch.pair_pixels import PairReader, describe_labels, write_pixels
from astroclip.crossmatch.plan import CrossmatchSettings, Plan, Progress
from astroclip.crossmatch.spectra_side import SpectraTable, TargetRows
from astroclip.data.coadd_tree import find_coadds_of
from astroclip.data.label_tables import LabelRows, LabelTable
from astroclip.data.pairs import Label, open_pairs, write_pairs
from astroclip.data.pairs.pairs_format import row_bytes
from astroclip.errors import UsageError
from astroclip.files import check_space
from astroclip.schema import MATCH_HDU, VERSION
from astroclip.tables import write_table
from astroclip.tables.fingerprint import listing_of

REJECTS_HDU = "REJECTS"


class Outputs(NamedTuple):
    """Where to write: the match table, the pairs if there shall be any, the rejected rows if wanted."""

    table: Path
    pairs: Path | None
    rejects: Path | None
    drop: tuple[str, ...] = ()  # columns of the match table


class Job(NamedTuple):
    """All that is needed to write, once everything is known; `tree` is None if no pairs shall be written."""

    table: SpectraTable
    side: ImageSide
    tree: Path | None
    targets: TargetRows
    plan: Plan
    images: dict[str, NDArray]
    matches: MatchTable
    labels: list[tuple[LabelTable, LabelRows]]
    settings: CrossmatchSettings
    names: dict[str, Any]  # what the user gave as spectra, images, coadds, labels

    @property
    def coadd_files(self) -> list[Path]:
        """The coadds that the pairs come from."""
        if self.tree is None:
            return []
        used = self.plan.target[self.plan.pair >= 0]
        return find_coadds_of(self.tree, *self.targets.coadd_key(used)).files

    @property
    def pair_labels(self) -> list[Label]:
        """Labels as the file of pairs has them."""
        return [label for labels, _ in self.labels for label in describe_labels(labels)]


def write_outputs(
    job: Job, outputs: Outputs, *, overwrite: bool, resume: bool, progress: Progress | None
) -> None:
    """Write all outputs of a job.

    Raises
    ------
    UsageError
        If an output exists and is not that of the run that is resumed.
    DataError
        If the disk is too small, or becomes full.
    """
    story = _describe_settings(job), _describe_inputs(job)
    done = _is_done(job, outputs, story, resume=resume, overwrite=overwrite)
    for path in (outputs.table, outputs.rejects):
        if path and path.exists() and not overwrite and not done:
            raise UsageError(f"{path}: exists already, and is not of the run to be resumed. Overwrite it")
    if outputs.pairs and job.tree and not done:
        settings, inputs = story
        reader = PairReader(job.targets, job.plan, job.side, job.images, job.tree, job.labels)
        with closing(reader), write_pairs(
            outputs.pairs, job.plan.n_pairs, labels=job.pair_labels, split=job.settings.split,
            settings=settings, inputs=inputs, overwrite=overwrite, resume=resume,
        ) as writer:  # fmt: skip
            write_pixels(reader, writer, progress)
    table, history = job.matches, _history(*story)
    write_table(
        outputs.table, table.columns, table.nrows, table.blocks(), extname=MATCH_HDU, nulls=table.nulls,
        cards=_cards(job), history=history, drop=outputs.drop, overwrite=overwrite or done,
    )  # fmt: skip
    if outputs.rejects:
        rejects = RejectTable(job.table, job.plan)
        write_table(
            outputs.rejects, rejects.columns, rejects.nrows, rejects.blocks(), extname=REJECTS_HDU,
            history=history, overwrite=overwrite or done,
        )  # fmt: skip


def _is_done(
    job: Job, outputs: Outputs, story: tuple[dict[str, Any], dict[str, str]], *, resume: bool, overwrite: bool
) -> bool:
    """Tell whether the file of pairs is there and is what this run would write; check that there is room."""
    if not (outputs.pairs and job.tree):
        return False
    size = job.matches.nbytes + job.plan.n_pairs * row_bytes(job.pair_labels)
    check_space(outputs.pairs.resolve(), str(outputs.pairs), size)
    if not (resume and outputs.pairs.exists()):
        return False
    with open_pairs(outputs.pairs) as pairs:
        found = len(pairs), pairs.provenance.get("settings"), pairs.provenance.get("inputs")
    settings, inputs = story
    same = found == (job.plan.n_pairs, json.loads(json.dumps(settings)), inputs)
    if not (same or overwrite):
        raise UsageError(f"{outputs.pairs}: exists already, of other inputs or settings. Overwrite it")
    return same


def _describe_settings(job: Job) -> dict[str, Any]:
    """Return what decided about rows and pixels, and the count of every reason."""
    settings = job.settings._asdict() | {"split": job.settings.split._asdict()}
    del settings["engine"], settings["cluster"]  # the same rows either way
    settings["labels"] = [Path(path).name for path in job.names["labels"]]
    settings["false_match_rate"] = [
        None if np.isnan(value) else value for value in (job.plan.chance.rate, job.plan.chance.error)
    ]
    return settings | {"reasons": job.plan.reasons()}


def _describe_inputs(job: Job) -> dict[str, str]:
    """Return the checksums of inputs: of tables their SHA-256; of folders that of names, sizes and times."""
    inputs = {_name_of(job.names["spectra"]): job.table.catalog.fingerprint["sha256"]}
    inputs |= {labels.name: labels.sha256 for labels, _ in job.labels}
    name = _name_of(job.names["images"])
    if isinstance(job.side, TablePositions) and job.side.sha256:
        inputs[name] = job.side.sha256
    else:
        inputs |= _listing(name, job.side.files)
    return inputs | (_listing(_name_of(job.tree), job.coadd_files) if job.tree else {})


def _name_of(path: str | Path) -> str:
    """Return the name of a file or folder, that of ``.`` too."""
    name = Path(path).name
    return Path(path).resolve().name if name in ("", "..") else name  # a link keeps its own


def _listing(name: str, files: list[Path]) -> dict[str, str]:
    """Return the checksum of a folder by what it is of."""
    return {f"{name}: names, sizes and times of {len(files)} files": listing_of(files)["sha256"]}


def _cards(job: Job) -> dict[str, Any]:
    """Return the cards of the match table: counts, the chance of false matches, what labels rest on."""
    rate, error = job.plan.chance.rate, job.plan.chance.error
    cards: dict[str, Any] = {
        "CUT": (job.settings.cut, "quality cut"),
        "RADIUS": (job.settings.radius_arcsec, "[arcsec] of the match by position"),
        "NSPECTRA": (len(job.plan.row_reason), "rows of the table of spectra"),
        "NPAIRS": (job.plan.n_pairs, "rows of the file of pairs"),
    }
    if np.isfinite(rate):
        cards["FALSERAT"] = (rate, "false matches by position for each target")
        cards["FALSEERR"] = (error, "its error")
    for number, (labels, _) in enumerate(job.labels, start=1):
        for key, value in labels.facts.items():
            cards[key if number == 1 else f"{key[:7]}{number}"] = (value, f"labels of {labels.name}")
    return cards


def _history(settings: dict[str, Any], inputs: dict[str, str]) -> list[str]:
    """Return the lines that tell what was done to which files, and the count of every reason."""
    return [
        f"astroclip {VERSION}: crossmatch",
        *(f"SHA-256 of {name}: {sha256}" for name, sha256 in inputs.items()),
        f"settings: {json.dumps({key: value for key, value in settings.items() if key != 'reasons'})}",
        *(f"{reason}: {count} rows" for reason, count in settings["reasons"].items()),
    ]
