"""The same match over LSDB and Dask, for catalogues that outgrow memory.

A task searches one partition of a HATS catalogue, or one block of a table, and returns the rows that may
matter: those within the radius of any left row, and those with the id of one. Among them the in-memory
matcher decides: it would not have used the others, so both engines return the same rows. As every task
knows the whole left side, no pair is lost where partitions meet, and catalogues need no margin cache.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from astroclip.cluster.dask_cluster import check_installed, connect_dask, work_on_blocks, work_on_partitions
from astroclip.crossmatch import match
from astroclip.crossmatch.ids import SourceIndex, find_sources
from astroclip.crossmatch.image_side import HatsPositions
from astroclip.crossmatch.match import ID_RADIUS_ARCSEC, ObjectMatches
from astroclip.sky import Find, IntArray, build_index, check_search, match_nearest
from astroclip.tables.identity import Who

TASK_ROWS = 1 << 20  # of a table in a task


def match_objects(
    left: Who,
    right: Who | Iterable[Who] | HatsPositions,
    radius_arcsec: float = 1.0,
    find: Find = "best",
    id_radius_arcsec: float = ID_RADIUS_ARCSEC,
    *,
    cluster: str | None = None,
) -> ObjectMatches:
    """Match as `astroclip.crossmatch.match.match_objects` does, with the same result, over LSDB and Dask.

    The left side is held in memory, its index by each worker too: 50 bytes a row, 75 with ids. The right
    side is read once, a partition or a block at a time; held are only its rows that may have a partner. All
    partitions are read, as an id may be anywhere.

    Parameters
    ----------
    left
        Who and where, (N,).
    right
        The same, or blocks of it, which are read here and dealt out; or a HATS catalogue, whose partitions
        the workers read themselves (a cluster has to see the folder).
    radius_arcsec, find, id_radius_arcsec
        As in the in-memory matcher.
    cluster
        Address of a Dask scheduler, as ``tcp://host:8786``. By default threads of this process.

    Raises
    ------
    UsageError
        If the extra ``[distributed]`` is not installed, nothing answers at the address, or an argument
        makes no sense.
    DataError
        If columns do not have the shapes and types described, or a HATS catalogue cannot be read.
    """
    check_installed()
    check_search(radius_arcsec, find)
    shared = _LeftSide(left, radius_arcsec)
    with connect_dask(cluster) as client:
        if isinstance(right, HatsPositions):
            search = partial(_search_partition, hats=right)
            found = list(work_on_partitions(search, shared, right.folder, right.who.columns, client))
        else:
            blocks = _cut(right) if isinstance(right, Who) else right
            found = list(work_on_blocks(_search, shared, blocks, client))
    first_row = np.cumsum([0, *(part.searched for part in found)])
    numbered = (part.rows + first for part, first in zip(found, first_row[:-1], strict=True))
    rows = np.concatenate([np.empty(0, np.int64), *numbered])
    near = [part.who for part in found]
    matches = match.match_objects(left, near, radius_arcsec, find, id_radius_arcsec)
    return matches._replace(right=rows[matches.right])


class _LeftSide:
    """The left side as every task needs it."""

    def __init__(self, left: Who, radius_arcsec: float) -> None:
        self.sky, self.radius_arcsec = build_index(left.ra, left.dec, radius_arcsec), radius_arcsec
        self.sources = SourceIndex(find_sources(left))


class _Candidates(NamedTuple):
    """What a task found: how many rows it searched, and those of them that may have a partner."""

    searched: int
    rows: IntArray
    who: Who


def _search(block: Who, left: _LeftSide) -> _Candidates:
    """Find the rows of a block that are near a left row or have the id of one."""
    wanted = match_nearest((block.ra, block.dec), left.sky, left.radius_arcsec).row >= 0
    wanted[left.sources.look_up(find_sources(block))[0]] = True
    rows = np.flatnonzero(wanted)
    return _Candidates(len(block.ra), rows, _pick(block, rows))


def _search_partition(table: pa.Table, left: _LeftSide, hats: HatsPositions) -> _Candidates:
    """Find the rows of a partition that matter."""
    return _search(hats.read(table), left)


def _pick(who: Who, rows: IntArray | slice) -> Who:
    """Return some of the rows."""
    return Who({name: values[rows] for name, values in who.ids.items()}, who.ra[rows], who.dec[rows])


def _cut(who: Who) -> Iterator[Who]:
    """Cut a table in memory into blocks for tasks."""
    for start in range(0, len(who.ra), TASK_ROWS):
        yield _pick(who, slice(start, start + TASK_ROWS))
