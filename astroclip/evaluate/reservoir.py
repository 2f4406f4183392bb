"""A sample of rows that stays small however long the table is."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
