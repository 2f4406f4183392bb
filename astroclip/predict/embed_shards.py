"""Shards of an embedding run: which rows each has, where it is written, and how they are put together."""

from pathlib import Path

from astroclip.data.pixel_part import Paths, list_paths
from astroclip.errors import UsageError
from astroclip.files import check_outputs
from astroclip.tables import merge_shards
from astroclip.tables.outputs import SHARD_FORMATS, default_output, output_format


def merge_embedded(
    catalog: Paths, output: str | Path | None, shards: int | None, *, overwrite: bool = False
) -> Path:
    """Put the finished shards of ``embed_catalog(catalog, output, shard=(i, N))`` together.

    Parameters
    ----------
    catalog, output : str or Path
        As given to `embed_catalog`; by default the output is ``<catalog>-embedded.fits``,
        or .parquet where the catalogue is Parquet or HATS.
    shards : int
        N; all of them must be there.
    overwrite : bool
        Replace an output.

    Returns
    -------
    Path
        The output: the same bytes of data as from a run in one go. The shards are kept.

    Raises
    ------
    UsageError, DataError
        If a shard is missing, or they do not come from the same catalogue, model and settings.
    """
    if not shards or shards < 1:
        raise UsageError("--merge needs the number of parts: --shards N")
    whole = embed_output(list_paths(catalog)[0], output, None)
    merge_shards([embed_output(whole, whole, (i, shards)) for i in range(shards)], whole, overwrite=overwrite)
    return whole


def missing_shards(output: Path, count: int, overwrite: bool, resume: bool) -> list[tuple[int, int]]:
    """Return the shards (i, `count`) of an output that have to be written; with `resume`, not those there.

    Raises
    ------
    UsageError
        If there is nothing to write, a shard exists already, or shards of this output cannot be written.
    """
    if count < 1:
        raise UsageError(f"{output}: {count} shards, expected at least 1")
    paths = [embed_output(output, output, (i, count)) for i in range(count)]
    missing = [i for i, path in enumerate(paths) if not (resume and path.exists())]
    if not missing:
        raise UsageError(f"{output}: all {count} shards are there. Join them with --merge --shards {count}")
    for i in missing:
        if output_format(paths[i]) not in SHARD_FORMATS:
            raise UsageError(f"{paths[i]}: a shard is written as .fits or .parquet")
        check_outputs([paths[i]], [], overwrite)
    return [(i, count) for i in missing]


def embed_output(catalog: Path, output: str | Path | None, shard: tuple[int, int] | None) -> Path:
    """Return the file to write, of the whole or of one shard."""
    path = Path(output) if output else default_output(catalog, "embedded")
    return (
        path if shard is None else path.with_name(f"{path.stem}.shard-{shard[0]}-of-{shard[1]}{path.suffix}")
    )


def check_shard(shard: tuple[int | None, int | None] | None) -> tuple[int, int] | None:
    """Return the shard if it is one."""
    if shard is None:
        return None
    index, count = shard
    if index is None or count is None or not 0 <= index < count:
        raise UsageError(f"shard {index} of {count}: expected --shards N with --shard from 0 to N - 1")
    return index, count


def shard_rows(nrows: int, shard: tuple[int, int] | None, block_size: int) -> tuple[int, int]:
    """Return the rows of a shard; cuts lie between blocks, so that shards give the bytes of a whole run."""
    index, count = shard or (0, 1)
    blocks = -(-nrows // block_size)
    first, last = (min(nrows, blocks * i // count * block_size) for i in (index, index + 1))
    return first, last
