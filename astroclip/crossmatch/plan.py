"""Who is paired with whom, and what becomes of every row, before anything is written.

Shapes: N rows of the table of spectra, n of them pass the cut (targets), m rows of the match table.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch import distributed
from astroclip.crossmatch.image_side import ImageSide, TablePositions, check_images, has_images
from astroclip.crossmatch.match import Again, FalseMatchRate, ObjectMatches, false_match_rate, match_objects
from astroclip.crossmatch.spectra_side import TargetRows
from astroclip.data.coadd_tree import SpectrumStatus, check_coadds, find_coadds_of
from astroclip.data.pairs import SplitSettings
from astroclip.data.pairs.split import check_split
from astroclip.errors import UsageError
from astroclip.schema import Reason
from astroclip.sky import Find, FloatArray, IntArray, check_search, has_position

Join = Literal["inner", "left"]
Engine = Literal["memory", "lsdb"]
Progress = Callable[[int, int], None]

IMAGE_EPOCH = 2016.0
"""Julian year to which positions that move are brought, unless told otherwise.

Legacy Survey DR9 and DR10 take the positions of moving sources from Gaia DR2 and EDR3, which give them at
2015.5 and 2016.0; their images were taken from 2014 to 2019.
"""

_REASONS = {
    SpectrumStatus.NO_FILE: Reason.NO_COADD,
    SpectrumStatus.UNREADABLE: Reason.UNREADABLE_COADD,
    SpectrumStatus.NOT_IN_FILE: Reason.NOT_IN_COADD,
    SpectrumStatus.NO_GOOD_PIXEL: Reason.NO_GOOD_PIXEL,
}


class CrossmatchSettings(NamedTuple):
    """Everything that decides which rows are paired.

    Attributes
    ----------
    cut
        Quality cut by name, see `find_cut`; None: ``galaxy`` of a redshift catalogue, else ``none``.
    radius_arcsec, find
        See `match_objects`.
    join
        ``inner``: the match table has the rows with an image. ``left``: all rows of the table of spectra.
    epoch
        Julian year of the images' positions, see `IMAGE_EPOCH`.
    split
        How SPLIT follows from the position.
    ra, dec, image_ra, image_dec
        Names of position columns of the two tables; guessed by default.
    engine, cluster
        ``memory``, or ``lsdb`` with the address of a Dask scheduler (None: threads of this process): the same
        rows either way.
    """

    cut: str | None = None
    radius_arcsec: float = 1.0
    find: Find = "best"
    join: Join = "inner"
    epoch: float = IMAGE_EPOCH
    split: SplitSettings = SplitSettings()
    ra: str | None = None
    dec: str | None = None
    image_ra: str | None = None
    image_dec: str | None = None
    engine: Engine = "memory"
    cluster: str | None = None


def check_settings(settings: CrossmatchSettings) -> None:
    """Raise `UsageError` unless the settings make sense; the cut and columns depend on the tables."""
    check_search(settings.radius_arcsec, settings.find)
    check_split(settings.split)
    if settings.engine not in ("memory", "lsdb"):
        raise UsageError(f"engine is {settings.engine!r}: expected 'memory' or 'lsdb'")
    if settings.join not in ("inner", "left"):
        raise UsageError(f"join is {settings.join!r}: expected 'inner' or 'left'")
    if not np.isfinite(settings.epoch):
        raise UsageError(f"epoch is {settings.epoch}: expected a Julian year, as 2016.0")


class Plan(NamedTuple):
    """The match table, column by column, and the reason of every row of the table of spectra.

    Attributes
    ----------
    row
        (m,) rows of the table of spectra, ascending.
    target, image
        (m,) numbers of target and image, -1 where there is no such.
    separation_arcsec, method
        (m,) of the match; NaN and blank where there is none.
    reason
        (m,) `Reason` of each.
    pair
        (m,) row of the file of pairs, -1 for none. Pairs follow the table of spectra, but those of one coadd
        stay together: where they begin is the order of their coadds.
    row_reason
        (N,) `Reason`; PAIRED if the row is in one pair or more.
    problems
        What is wrong with files.
    chance
        How many targets match by position by chance.
    """

    row: IntArray
    target: IntArray
    image: IntArray
    separation_arcsec: FloatArray
    method: NDArray[np.bytes_]
    reason: NDArray[np.int8]
    pair: IntArray
    row_reason: NDArray[np.int8]
    problems: list[str]
    chance: FalseMatchRate

    @property
    def n_pairs(self) -> int:
        """Rows of the file of pairs."""
        return int((self.pair >= 0).sum())

    def reasons(self) -> dict[str, int]:
        """Return how many rows of the table of spectra there are of each reason; the sum is N."""
        counts = np.bincount(self.row_reason, minlength=len(Reason))
        return {reason.name: int(counts[reason]) for reason in Reason if counts[reason]}


def make_plan(
    targets: TargetRows,
    row_reason: NDArray[np.int8],
    side: ImageSide,
    settings: CrossmatchSettings,
    coadds: Path | None,
    progress: Progress | None,
) -> Plan:
    """Match the targets with images, and look at the pixels of what matched if pairs shall be written.

    Parameters
    ----------
    targets, row_reason
        What `SpectraTable.read_targets` says of the table; `row_reason` is changed.
    side
        The images.
    coadds
        The tree of coadds; None if no pairs shall be written.
    progress
        Told (spectra looked at, all).
    """
    radius, find = settings.radius_arcsec, settings.find
    if settings.engine == "memory":
        match = match_objects(targets.who, Again(side.blocks), radius, find)
    else:
        hats = side.hats if isinstance(side, TablePositions) else None
        match = distributed.match_objects(
            targets.who, hats or side.blocks(), radius, find, cluster=settings.cluster
        )
    reason = _unmatched(targets, match)
    found, problems = np.zeros(len(match.left), np.int8), list[str]()
    pair = np.full(len(match.left), -1, np.int64)
    if coadds is not None and has_images(side):
        found, problems = _check_pixels(targets, match, side, coadds, progress)
        complete = np.flatnonzero(found == Reason.PAIRED)
        place = find_coadds_of(coadds, *targets.coadd_key(match.left[complete])).file
        pair[complete[np.argsort(place, kind="stable")]] = np.arange(len(complete))
    unmatched = len(Reason)  # larger than any
    best = np.full(len(reason), unmatched, np.int64)
    np.minimum.at(best, match.left, found)
    reason = np.where(best < unmatched, best, reason).astype(np.int8)
    row_reason[targets.row] = reason
    positions = Again(lambda: ((who.ra, who.dec) for who in side.blocks()))
    chance = false_match_rate((targets.ra, targets.dec), positions, radius, find)
    plan = Plan(
        row=targets.row[match.left],
        target=match.left,
        image=match.right,
        separation_arcsec=match.separation_arcsec,
        method=match.method.astype("S8"),
        reason=found,
        pair=pair,
        row_reason=row_reason,
        problems=[*(text for _, text in side.problems), *problems],
        chance=chance,
    )
    return _with_all_rows(plan, targets) if settings.join == "left" else plan


def _unmatched(targets: TargetRows, match: ObjectMatches) -> NDArray[np.int8]:
    """Return for each target why it has no image, if it has none."""
    placed = has_position(targets.ra, targets.dec)
    reason = np.where(placed, Reason.NO_IMAGE, Reason.NO_POSITION).astype(np.int8)
    reason[match.repeated_left] = Reason.AMBIGUOUS_ID
    reason[match.far_left] = Reason.ID_TOO_FAR
    return reason


def _check_pixels(
    targets: TargetRows, match: ObjectMatches, side: ImageSide, coadds: Path, progress: Progress | None
) -> tuple[NDArray[np.int8], list[str]]:
    """Return the reason against each match, and the problems of coadds."""
    chosen, of_match = np.unique(match.left, return_inverse=True)
    status, problems = check_coadds(coadds, *targets.coadd_key(chosen), progress)
    reasons = np.zeros(len(SpectrumStatus), np.int8)
    for bad, reason in _REASONS.items():
        reasons[bad] = reason
    found = reasons[status][of_match]
    good = np.flatnonzero(found == Reason.PAIRED)
    images, of_good = np.unique(match.right[good], return_inverse=True)
    found[good] = check_images(side, images)[of_good]
    return found, [text for _, text in problems]


def _with_all_rows(plan: Plan, targets: TargetRows) -> Plan:
    """Return the plan with the rows of the table of spectra that have no image."""
    without = np.setdiff1d(np.arange(len(plan.row_reason)), plan.row)
    n = len(without)
    place = np.searchsorted(targets.row, without)
    is_target = np.append(targets.row, -1)[place] == without
    nothing = np.full(n, -1)
    row = np.append(plan.row, without)
    order = np.argsort(row, kind="stable")
    return plan._replace(
        row=row[order],
        target=np.append(plan.target, np.where(is_target, place, -1))[order],
        image=np.append(plan.image, nothing)[order],
        separation_arcsec=np.append(plan.separation_arcsec, np.full(n, np.nan))[order],
        method=np.append(plan.method, np.zeros(n, "S8"))[order],
        reason=np.append(plan.reason, plan.row_reason[without])[order],
        pair=np.append(plan.pair, nothing)[order],
    )
