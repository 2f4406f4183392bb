"""The same match over LSDB and Dask, for catalogues that outgrow memory.

A task searches one partition of a HATS catalogue, or one block of a table, and returns the rows that may
matter: those within the radius of any left row, and those with the id of one. Among them the in-memory
matcher decides: it would not have used the others, so both engines return the same rows. As every task
knows the whole left side, no pair is lost where partitions meet, and catalogues need no margin cache.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from astroclip.crossmatch import match
from astroclip.crossmatch.ids import IdIndex
from astroclip.crossmatch.image_side import HatsSide
from astroclip.crossmatch.match import ID_RADIUS_ARCSEC, ObjectMatches, Objects
from astroclip.crossmatch.who import Block
from astroclip.errors import DataError, UsageError
from astroclip.sky import (
    Find,
    IntArray,
    build_index,
    check_search,
    floats,
    match_nearest,
)
from astroclip.tables.arrowcolumns import to_numpy

if TYPE_CHECKING:
    import pandas as pd
    from dask.delayed import Delayed
    from distributed import Client

_ROWS = 1 << 20  # of a table in a task


def _load_lsdb() -> None:
    """Import LSDB, or say how to install it."""
    try:
        import lsdb  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"the engine lsdb needs packages that are not installed ({error}). "
            "Install them: pip install 'astroclip[distributed]'"
        ) from error


def match_objects(
    left: Objects,
    right: Objects | HatsSide | Iterable[Objects],
    radius_arcsec: float = 1.0,
    find: Find = "best",
    id_radius_arcsec: float = ID_RADIUS_ARCSEC,
    *,
    cluster: str | None = None,
) -> ObjectMatches:
    """Match as `astroclip.crossmatch.match.match_objects` does, with the same result, over LSDB and Dask.

    The left side is held in memory, its index by each worker too: 50 bytes a row, 90 with ids. The right
    side is read once, a partition or a block at a time; held are only its rows that may have a partner. All
    partitions are read, as an id may be anywhere.

    Parameters
    ----------
    left
        Positions in deg, (N,), and ids or None.
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
    _load_lsdb()
    check_search(radius_arcsec, find)
    with _connect(cluster) as client:
        found = list(_search_all(_Left(left, radius_arcsec), right, client))
    first_row = np.cumsum([0, *(part.searched for part in found)])
    rows = np.concatenate(
        [
            np.empty(0, np.int64),
            *(part.rows + first for part, first in zip(found, first_row[:-1], strict=True)),
        ]
    )
    matches = match.match_objects(
        left, [part.objects for part in found], radius_arcsec, find, id_radius_arcsec
    )
    return matches._replace(
        right=rows[matches.right],
        far_right=rows[matches.far_right],
        repeated_right=rows[matches.repeated_right],
    )


class _Left:
    """The left side as every task needs it; a class, as Dask would take a tuple apart."""

    def __init__(self, left: Objects, radius_arcsec: float) -> None:
        self.sky = build_index(left.ra, left.dec, radius_arcsec)
        self.radius_arcsec = radius_arcsec
        self.ids = IdIndex(left.ids) if left.ids is not None else None


class _FoundRows(NamedTuple):
    """What a task found: how many rows it searched, and those of them that may have a partner."""

    searched: int
    rows: IntArray
    objects: Objects


def _search(block: Objects, left: _Left) -> _FoundRows:
    """Find the rows of a block that are near a left row or have the id of one."""
    ra, dec = floats(block.ra), floats(block.dec)
    wanted = match_nearest((ra, dec), left.sky, left.radius_arcsec).row >= 0
    if block.ids is not None and left.ids is not None:
        wanted[left.ids.look_up(block.ids)[0]] = True
    rows = np.flatnonzero(wanted)
    return _FoundRows(ra.size, rows, _pick(block, rows))


def _pick(objects: Objects, rows: IntArray | slice) -> Objects:
    """Return some of the rows."""
    ids: Any = objects.ids and tuple(np.asanyarray(column)[rows] for column in objects.ids)
    return Objects(np.asanyarray(objects.ra)[rows], np.asanyarray(objects.dec)[rows], ids)


def _search_all(
    left: _Left, right: Objects | HatsSide | Iterable[Objects], client: "Client | None"
) -> Iterator[_FoundRows]:
    """Search all of the right side, in order. Of blocks read here, one a thread is held."""
    import dask

    everyone = client.scatter(left, broadcast=True) if client else dask.delayed(left, traverse=False)
    search = dask.delayed(_search)
    if isinstance(right, HatsSide):
        yield from _compute([search(part, everyone) for part in _partitions(right)], client)
        return
    blocks = iter(_cut(right) if isinstance(right, Objects) else right)
    threads = (sum(client.nthreads().values()) if client else os.cpu_count()) or 1
    while batch := list(islice(blocks, threads)):
        parts = client.scatter(batch) if client else [dask.delayed(block, traverse=False) for block in batch]
        yield from _compute([search(part, everyone) for part in parts], client)


def _cut(objects: Objects) -> Iterator[Objects]:
    """Cut a table in memory into blocks for tasks."""
    for start in range(0, max(np.size(objects.ra), np.size(objects.dec)), _ROWS):
        yield _pick(objects, slice(start, start + _ROWS))


@contextmanager
def _connect(cluster: str | None) -> Iterator["Client | None"]:
    """Connect to a Dask scheduler; without an address there is none."""
    if cluster is None:
        yield None
        return
    from distributed import Client

    try:
        client = Client(cluster, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {cluster!r} ({error}); expected an address as tcp://host:8786"
        ) from error
    with client:
        yield client


def _compute(tasks: list["Delayed"], client: "Client | None") -> tuple[Any, ...]:
    """Run tasks on the cluster, else on threads."""
    import dask

    try:
        return dask.compute(*tasks, scheduler=client or "threads")
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"a partition cannot be read through LSDB: {error}") from error


def _partitions(side: HatsSide) -> list["Delayed"]:
    """Return the partitions of a HATS catalogue, in the order of its rows, as `Objects` to be computed."""
    import dask
    import lsdb

    try:
        catalog = lsdb.open_catalog(side.folder, columns=list(side.columns))
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{side.folder}: LSDB cannot open it ({error})") from error
    take = dask.delayed(_take)
    return [take(part, side.columns, side.to_objects) for part in catalog.to_delayed()]


def _take(frame: "pd.DataFrame", names: tuple[str, ...], to_objects: Callable[[Block], Objects]) -> Objects:
    """Return who is where in a partition."""
    table = pa.Table.from_pandas(frame[list(names)], preserve_index=False)
    return to_objects({name: to_numpy(table[name].combine_chunks()) for name in names})
