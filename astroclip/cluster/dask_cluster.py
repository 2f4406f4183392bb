"""Work on many blocks of rows on a Dask cluster, or on the threads of this process.

Blocks are read here and dealt out, or are the partitions of a HATS catalogue, which LSDB opens and the
workers read themselves.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from astroclip.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from dask.delayed import Delayed
    from distributed import Client

Work = Callable[[Any, Any], Any]  # (block, what all tasks share) -> what is found in the block


def check_installed() -> None:
    """Refuse to go on without LSDB and Dask.

    Raises
    ------
    UsageError
        If they are not installed; it says how to.
    """
    try:
        import lsdb  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"the engine lsdb needs packages that are not installed ({error}). "
            "Install them: pip install 'astroclip[distributed]'"
        ) from error


@contextmanager
def connect_dask(address: str | None) -> Iterator["Client | None"]:
    """Connect to a Dask scheduler, as ``tcp://host:8786``; without an address there is none: threads work.

    Raises
    ------
    UsageError
        If nothing answers at the address.
    """
    if address is None:
        yield None
        return
    from distributed import Client

    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {address!r} ({error}); expected an address as tcp://host:8786"
        ) from error
    with client:
        yield client


def work_on_blocks(
    work: Work, shared: object, blocks: Iterable[object], client: "Client | None"
) -> Iterator[Any]:
    """Yield ``work(block, shared)`` of blocks that are read here, in order; one a thread is held.

    `shared` must be no tuple, list or dict, which Dask would take apart.
    """
    import dask

    everyone, call, rest = _share(shared, client), dask.delayed(work), iter(blocks)
    threads = (sum(client.nthreads().values()) if client else os.cpu_count()) or 1
    while batch := list(islice(rest, threads)):
        parts = client.scatter(batch) if client else [dask.delayed(block, traverse=False) for block in batch]
        yield from _compute([call(part, everyone) for part in parts], client)


def work_on_partitions(
    work: Work, shared: object, folder: Path, columns: Sequence[str], client: "Client | None"
) -> Iterator[Any]:
    """Yield ``work(table, shared)`` of the partitions of a HATS catalogue, in the order of its rows.

    The workers read them, as Arrow tables of these columns: a cluster has to see the folder.

    Raises
    ------
    DataError
        If the catalogue, or a partition of it, cannot be read.
    """
    import dask
    import lsdb

    try:
        catalog = lsdb.open_catalog(folder, columns=list(columns))
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: LSDB cannot open it ({error})") from error
    everyone, take, call = _share(shared, client), dask.delayed(_take), dask.delayed(work)
    tasks = [call(take(part, list(columns)), everyone) for part in catalog.to_delayed()]
    yield from _compute(tasks, client)


def _share(shared: object, client: "Client | None") -> Any:
    """Give all workers what all tasks need, once."""
    import dask

    return client.scatter(shared, broadcast=True) if client else dask.delayed(shared, traverse=False)


def _take(frame: "pd.DataFrame", columns: list[str]) -> pa.Table:
    """Return columns of a partition."""
    return pa.Table.from_pandas(frame[columns], preserve_index=False)


def _compute(tasks: list["Delayed"], client: "Client | None") -> tuple[Any, ...]:
    """Run tasks on the cluster, else on threads."""
    import dask

    try:
        return dask.compute(*tasks, scheduler=client or "threads")
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"a partition cannot be read through LSDB: {error}") from error
