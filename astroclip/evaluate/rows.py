"""Stream a table once and keep what scores and figures need of each row: numbers, and a sample of vectors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.evaluate.splits import Splits
from astroclip.evaluate.targets import Target
from astroclip.schema import IMAGE_EMBEDDING, SPECTRUM_EMBEDDING
from astroclip.tables import Table

BLOCK = 8192  # rows read at a time
PAIR_ROWS = 20_000  # galaxies that look for their other half: n² similarities
MAP_ROWS = 5_000  # galaxies of a map of the embedding
VECTORS = {"image": IMAGE_EMBEDDING, "spectrum": SPECTRUM_EMBEDDING}

Block = Mapping[str, NDArray[Any]]
Values = dict[str, NDArray]


class Scored(NamedTuple):
    """The rows of one target that can be scored, what splits them, and how many rows there were of a kind."""

    rows: Values
    values: Values
    counts: dict[str, int]


class Held(NamedTuple):
    """What was kept of a table: rows by target; sampled pairs of vectors; sampled vectors by modality."""

    scored: list[Scored]
    pairs: Scored | None
    vectors: dict[str, Values]


def read_rows(
    catalog: Table,
    targets: Sequence[Target],
    splits: Splits,
    retrieves: bool,
    unflagged: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Held:
    """Read the columns of targets and splits, and the embeddings if the table has them, block by block.

    With `unflagged` rows with a flag are left out. Of pairs of vectors `PAIR_ROWS` are kept at most, for maps
    `MAP_ROWS` vectors, evenly spread.
    """
    vectors = {name: catalog.find(column) for name, column in VECTORS.items()}
    embedded = {name: column for name, column in vectors.items() if column}
    columns = dict.fromkeys(name for target in targets for name in target.columns)
    columns |= dict.fromkeys([*splits.names, *embedded.values()])
    keeps = [_Keep() for _ in targets]
    pairs = _Keep(Reservoir(PAIR_ROWS))
    maps = {name: Reservoir(MAP_ROWS) for name in embedded}
    for start in range(0, catalog.nrows, BLOCK):
        stop = min(start + BLOCK, catalog.nrows)
        block = catalog.read(columns, start, stop)
        values = splits.take(block)
        flagged = values.get("flagged", np.zeros(stop - start, bool))
        left_out = flagged if unflagged else np.zeros_like(flagged)
        for target, keep in zip(targets, keeps, strict=True):
            rows, usable = target.take(block)
            keep.add(rows, values, usable, flagged, left_out)
        whole = {name: np.asarray(np.isfinite(block[column]).all(1)) for name, column in embedded.items()}
        if retrieves:
            both = {name: block[column] for name, column in embedded.items()}
            both["row"] = np.arange(start, stop)
            pairs.add(both, values, (whole["image"], whole["spectrum"]), flagged, left_out)
        for name, column in embedded.items():
            used = whole[name] & ~left_out
            maps[name].add(
                {"vector": block[column][used], **{key: value[used] for key, value in values.items()}}
            )
        if progress:
            progress(stop, catalog.nrows)
    held = [keep.scored() for keep in keeps]
    return Held(
        held, pairs.scored() if retrieves else None, {name: kept.rows() for name, kept in maps.items()}
    )


class Reservoir:
    """At most `most` of the rows that are added, evenly spread over all of them, at least half as many.

    Every `stride`-th row is kept; the stride doubles when there are too many.
    """

    def __init__(self, most: int) -> None:
        self._most, self._stride, self._seen, self._kept = most, 1, 0, 0
        self._blocks: list[dict[Any, NDArray]] = []

    def add(self, rows: Mapping[Any, NDArray]) -> None:
        """Take rows: arrays of one length."""
        n = len(next(iter(rows.values())))
        kept = np.arange(-self._seen % self._stride, n, self._stride)
        self._seen += n
        self._kept += len(kept)
        self._blocks.append({name: values[kept] for name, values in rows.items()})
        while self._kept > self._most:
            whole = self.rows()
            self._blocks = [{name: values[::2].copy() for name, values in whole.items()}]
            self._stride, self._kept = 2 * self._stride, -(-self._kept // 2)

    def rows(self) -> dict[Any, NDArray]:
        """Return what was kept."""
        return join(self._blocks)


def join(blocks: Sequence[Mapping[Any, NDArray]]) -> dict[Any, NDArray]:
    """Return blocks of arrays one after the other."""
    return {name: np.concatenate([block[name] for block in blocks]) for name in (blocks[0] if blocks else ())}


class _Keep:
    """Rows of one target as they come, all or a sample of them."""

    def __init__(self, sample: Reservoir | None = None) -> None:
        self._sample, self._blocks = sample, list[dict[Any, NDArray]]()
        self._counts = dict.fromkeys(
            ("rows", "no_truth", "no_prediction", "flagged", "left_out", "scored"), 0
        )

    def add(
        self,
        rows: Mapping[str, NDArray],
        values: Values,
        usable: tuple[NDArray[np.bool_], NDArray[np.bool_]],
        flagged: NDArray[np.bool_],
        left_out: NDArray[np.bool_],
    ) -> None:
        """Keep the rows that can be scored, and count the others."""
        known, predicted = usable
        both = known & predicted
        used = both & ~left_out
        found = (len(both), (~known).sum(), (known & ~predicted).sum(), (both & flagged).sum())
        for name, count in zip(self._counts, (*found, (both & left_out).sum(), used.sum()), strict=True):
            self._counts[name] += int(count)
        kept: dict[Any, NDArray] = {("row", name): array[used] for name, array in rows.items()}
        kept |= {("value", name): array[used] for name, array in values.items()}
        if self._sample:
            self._sample.add(kept)
        else:
            self._blocks.append(kept)

    def scored(self) -> Scored:
        """Return what was kept."""
        whole = self._sample.rows() if self._sample else join(self._blocks)
        rows, values = (
            {key[1]: array for key, array in whole.items() if key[0] == side} for side in ("row", "value")
        )
        return Scored(rows, values, self._counts)
