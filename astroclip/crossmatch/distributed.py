"""The same match over LSDB and Dask, for catalogues that outgrow memory.

A task searches one partition of a HATS catalogue, or one block of a table, and returns the rows that may
matter: those within the radius of any left row, and those with the id of one. Among them the in-memory
matcher decides: it would not have used the others, so both engines return the same rows. As every task
knows the whole left side, no pair is lost where partitions meet, and catalogues need no margin cache.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from astroclip.crossmatch import match
from astroclip.crossmatch.ids import IdIndex
from astroclip.crossmatch.match import ID_RADIUS_ARCSEC, ObjectMatches, Objects
from astroclip.crossmatch.positions import FloatArray, floats
from astroclip.crossmatch.sky import Find, Pairs, match_sky
from astroclip.crossmatch.zones import IntArray, build_index
from astroclip.errors import DataError, UsageError

if TYPE_CHECKING:
    import lsdb
    import pandas as pd
    from dask.delayed import Delayed
    from distributed import Client

Block = Mapping[str, NDArray[Any]]

_ROWS = 1 << 20  # of a table in a task
_ID_NAMES = ("RELEASE", "BRICKID", "OBJID")
_PROPERTIES = ("hats.properties", "collection.properties", "properties")


def _load_lsdb() -> None:
    """Import LSDB, or say how to install it."""
    try:
        import lsdb  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"the engine lsdb needs packages that are not installed ({error}). "
            "Install them: pip install 'astroclip[distributed]'"
        ) from error


@dataclass(frozen=True)
class HatsObjects:
    """A HATS catalogue as a side of a match: iterate over it for its `Objects`, a partition at a time.

    Rows are numbered from partition to partition, in the order along the sky that LSDB gives them, and
    within one as they lie in the file. A margin cache has no part in it. The in-memory matcher takes it too.

    Parameters
    ----------
    folder
        Of a HATS catalogue, or of a collection.
    columns
        What `to_objects` needs. By default the positions that the catalogue declares as its own (deg), and
        RELEASE, BRICKID, OBJID, in any case, if it has all three.
    to_objects
        Makes `Objects` of these columns, (N,) each; a missing integer is masked, a missing float NaN. It
        runs where the partitions are read.
    """

    folder: str | Path
    columns: tuple[str, ...] = ()
    to_objects: Callable[[Block], Objects] | None = None

    def __iter__(self) -> Iterator[Objects]:
        return (objects for part in self.partitions() for objects in _compute([part], None))

    def partitions(self) -> list["Delayed"]:
        """Return the partitions in order, each a `dask.delayed` that gives `Objects`."""
        catalog = _open(self.folder, "all")
        names, to_objects = list(self.columns), self.to_objects
        if to_objects is None:
            names, to_objects = _declared(catalog), _by_place
        return _blocks(self.folder, names, to_objects)


def is_hats(path: str | Path) -> bool:
    """Say whether a path is the folder of a HATS catalogue or collection; needs no LSDB."""
    return any((Path(path) / name).is_file() for name in _PROPERTIES)


def read_hats(folder: str | Path, columns: Iterable[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """Read columns of a HATS catalogue, a partition at a time, rows in the order of `HatsObjects`.

    Yields
    ------
    ``{name: (N,)}``; a missing integer is masked, a missing float NaN.

    Raises
    ------
    UsageError
        If the extra ``[distributed]`` is not installed.
    DataError
        If the folder is not a HATS catalogue, lacks a column, or is damaged.
    """
    return (block for part in _blocks(folder, list(columns), dict) for block in _compute([part], None))


def match_objects(
    left: Objects | HatsObjects,
    right: Objects | HatsObjects | Iterable[Objects],
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
        The same, or blocks of it, which are read here and dealt out; or `HatsObjects`, whose partitions
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
    left = _whole(left) if isinstance(left, HatsObjects) else left
    nobody: FloatArray = np.empty(0)
    match_sky((left.ra, left.dec), (nobody, nobody), radius_arcsec, find)  # refuses what makes no sense
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
        self.sky = build_index(floats(left.ra), floats(left.dec), radius_arcsec)
        self.ids = IdIndex(left.ids) if left.ids is not None else None


class _Found(NamedTuple):
    """What a task found: how many rows it searched, and those of them that may have a partner."""

    searched: int
    rows: IntArray
    objects: Objects


def _search(block: Objects, left: _Left) -> _Found:
    """Find the rows of a block that are near a left row or have the id of one."""
    ra, dec = floats(block.ra), floats(block.dec)
    wanted = np.zeros(ra.size, np.bool_)
    for _, near, _ in Pairs(left.sky, (ra, dec)):
        wanted[near] = True
    if block.ids is not None and left.ids is not None:
        wanted[left.ids.look_up(block.ids)[0]] = True
    rows = np.flatnonzero(wanted)
    return _Found(ra.size, rows, _pick(block, rows))


def _pick(objects: Objects, rows: IntArray | slice) -> Objects:
    """Return some of the rows."""
    ids: Any = objects.ids and tuple(np.asanyarray(column)[rows] for column in objects.ids)
    return Objects(np.asanyarray(objects.ra)[rows], np.asanyarray(objects.dec)[rows], ids)


def _search_all(
    left: _Left, right: Objects | HatsObjects | Iterable[Objects], client: "Client | None"
) -> Iterator[_Found]:
    """Search all of the right side, in order. Of blocks read here, one a thread is held."""
    import dask

    everyone = client.scatter(left, broadcast=True) if client else dask.delayed(left, traverse=False)
    search = dask.delayed(_search)
    if isinstance(right, HatsObjects):
        yield from _compute([search(part, everyone) for part in right.partitions()], client)
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


def _whole(side: HatsObjects) -> Objects:
    """Read all of a HATS catalogue."""
    blocks = list(side)
    if not blocks:
        return Objects(np.empty(0), np.empty(0))
    ids = [block.ids for block in blocks if block.ids is not None]
    if ids and len(ids) < len(blocks):
        raise DataError(f"{side.folder}: some partitions have ids, others have none")
    return Objects(
        np.concatenate([floats(block.ra) for block in blocks]),
        np.concatenate([floats(block.dec) for block in blocks]),
        tuple(np.ma.concatenate(column) for column in zip(*ids, strict=True)) or None,
    )


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


def _open(folder: str | Path, columns: list[str] | str) -> "lsdb.Catalog":
    """Open a HATS catalogue; only its metadata is read."""
    _load_lsdb()
    import lsdb

    try:
        return lsdb.open_catalog(folder, columns=columns)
    except (OSError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder}: not a HATS catalogue that LSDB can open ({error}). "
            "Expected the folder of a catalogue or of a collection"
        ) from error


def _blocks(folder: str | Path, names: list[str], make: Callable[[Block], Any]) -> list["Delayed"]:
    """Return what `make` makes of the columns of each partition, to be computed."""
    import dask

    known = list(_open(folder, "all").all_columns)
    if missing := [name for name in names if name not in known]:
        raise DataError(f"{folder}: no column {', '.join(missing)}; columns: {', '.join(known)}")
    take = dask.delayed(_take)
    return [take(part, names, make) for part in _open(folder, names).to_delayed()]


def _take(frame: "pd.DataFrame", names: list[str], make: Callable[[Block], Any]) -> Any:
    """Hand the columns of a partition to `make`, as NumPy arrays."""
    table = pa.Table.from_pandas(frame[names], preserve_index=False)
    return make({name: _to_numpy(table[name]) for name in names})


def _to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column; a missing integer is masked, a missing float NaN."""
    if column.null_count and pa.types.is_integer(column.type):
        return np.ma.array(column.fill_null(0).to_numpy(), mask=column.is_null().to_numpy())
    return column.to_numpy()


def _declared(catalog: "lsdb.Catalog") -> list[str]:
    """Return the names of a catalogue's own positions, and of the Legacy Survey's ids if it has them."""
    info = catalog.hc_structure.catalog_info
    known = {name.upper(): name for name in catalog.all_columns}
    ids = [known[name] for name in _ID_NAMES if name in known]
    return [info.ra_column, info.dec_column, *(ids if len(ids) == len(_ID_NAMES) else ())]


def _by_place(block: Block) -> Objects:
    """Take columns as RA, Dec and, if there are more, the three ids."""
    ra, dec, *ids = block.values()
    return Objects(ra, dec, (ids[0], ids[1], ids[2]) if ids else None)
