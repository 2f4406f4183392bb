"""Batches for training: shuffled, shared out to ranks, resumable at any batch; validation in order.

Where the random order comes from: of the rows of the training part, in the order of the files, R (`run_rows`)
consecutive ones form a run. Each epoch has its own row at which run 0 begins, and its own permutation of
runs, both drawn from (seed, epoch) alone. So any batch of any epoch is known without those before it, and
what is kept in memory is 1 + 8 / R bytes a row.

Shapes: B galaxies of a rank's batch, W ranks, n rows of a part.
"""

import signal
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from astroclip.errors import ConfigError, DataError, UsageError
from astroclip.schema import Split
from astroclip.training.galaxies import Batch, Galaxies

# What stops a run, which saves first: Slurm's time limit and pre-emption, Ctrl-C
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_BLOCK = 4096  # rows whose members are counted together


class SplitRows:
    """The rows of one part, numbered through in the order of the file: ``part[numbers]`` are their rows."""

    def __init__(self, split: NDArray[np.uint8], part: Split) -> None:
        self._split, self._part = split, part
        counts = [np.count_nonzero(split[at : at + _BLOCK] == part) for at in range(0, len(split), _BLOCK)]
        self._before = np.cumsum([0, *counts])  # rows of the part before each block

    def __len__(self) -> int:
        return int(self._before[-1])

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        blocks = np.searchsorted(self._before, numbers, side="right") - 1
        rows = np.empty_like(numbers)
        for block in np.unique(blocks):
            mine, start = blocks == block, block * _BLOCK
            members = np.flatnonzero(self._split[start : start + _BLOCK] == self._part)
            rows[mine] = start + members[numbers[mine] - self._before[block]]
        return rows


class TrainingBatches(Sampler[NDArray[np.int64]]):
    """Rows of one batch after the other, without end, from batch `start_batch` on.

    An epoch has n // (W B) global batches of W B rows; rank r has rows r B to (r + 1) B - 1 of each, so the
    same rows make one step whether W ranks read B or one reads W B. In an epoch a row comes once at most. The
    remainder, less than one global batch, is left out, and is another one in every epoch.

    Attributes
    ----------
    epoch_batches
        Global batches in an epoch.

    Raises
    ------
    ConfigError
        If the part has fewer rows than one global batch.
    """

    def __init__(
        self,
        part: SplitRows,
        batch_size: int,
        run_rows: int,
        seed: int,
        rank: int,
        world: int,
        start_batch: int,
    ) -> None:
        self._part, self._batch_size, self._run_rows, self._seed = part, batch_size, run_rows, seed
        self._rank, self._world, self._start = rank, world, start_batch
        self.epoch_batches = len(part) // (world * batch_size)
        if not self.epoch_batches:
            raise ConfigError(
                f"a batch of {world} x {batch_size} galaxies, but only {len(part)} to train with: "
                "lower data.batch_size"
            )
        self._order: tuple[int, int, NDArray[np.int64]] = (-1, 0, np.empty(0, np.int64))

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        for batch in count(self._start):
            yield self.rows(batch)

    def rows(self, batch: int) -> NDArray[np.int64]:
        """Return this rank's rows of a global batch, counted from 0 through all epochs: (B,)."""
        epoch, within = divmod(batch, self.epoch_batches)
        first = (within * self._world + self._rank) * self._batch_size
        run, place = np.divmod(np.arange(first, first + self._batch_size), self._run_rows)
        offset, order = self._shuffle(epoch)
        return self._part[(offset + order[run] * self._run_rows + place) % len(self._part)]

    def _shuffle(self, epoch: int) -> tuple[int, NDArray[np.int64]]:
        """Return the first row of run 0, and the runs in the order of an epoch, the incomplete one last."""
        if self._order[0] != epoch:
            rng, runs = np.random.default_rng((self._seed, epoch)), len(self._part) // self._run_rows
            self._order = (epoch, int(rng.integers(len(self._part))), np.append(rng.permutation(runs), runs))
        return self._order[1:]


class ValidationBatches(Sampler[NDArray[np.int64]]):
    """Rows of a part in order, once: as many batches on each rank, of at most B rows and nearly equal size.

    The W ranks' batches together are the same rows whatever W is, for the same W B and B > 1. With `limit`,
    no more than that many batches a rank, spread evenly over the part. Trap: at B = 1 some batches have 2
    rows, so that no rank is left without.

    Raises
    ------
    DataError
        If the part has fewer rows than there are ranks.
    """

    def __init__(
        self, part: SplitRows, batch_size: int, rank: int, world: int, limit: int | None = None
    ) -> None:
        if len(part) < world:
            raise DataError(
                f"{len(part)} galaxies to validate with, expected {world} or more: use more data, or another "
                "split"
            )
        self._part, self._rank, self._world = part, rank, world
        self._total = min(-(-len(part) // (world * batch_size)), len(part) // world)
        self._chosen = self._total if limit is None else min(limit, self._total)

    def __len__(self) -> int:
        return self._chosen

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        n, pieces = len(self._part), self._total * self._world
        for batch in range(self._chosen):
            piece = batch * self._total // self._chosen * self._world + self._rank
            yield self._part[np.arange(piece * n // pieces, (piece + 1) * n // pieces)]


class _RowDataset(Dataset[Batch]):
    """Some columns of galaxies, indexed by arrays of rows: what a reading process is given."""

    def __init__(self, source: Galaxies, columns: Sequence[str]) -> None:
        self._source, self._columns = source, tuple(columns)

    def __getitem__(self, rows: NDArray[np.int64]) -> Batch:
        return self._source.read(self._columns, rows)


def make_loader(
    source: Galaxies,
    columns: Sequence[str],
    split: Split,
    batch_size: int,
    *,
    run_rows: int = 1,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    start_batch: int = 0,
    workers: int = 0,
    limit: int | None = None,
) -> DataLoader[Batch]:
    """Return what feeds one rank with batches, as `Galaxies.read` makes them.

    Trap: it shares rows out to ranks itself; with Lightning's Trainer set ``use_distributed_sampler=False``.

    Parameters
    ----------
    source
        The galaxies.
    columns
        What to read.
    split
        TRAIN: endless, shuffled (`TrainingBatches`). VALIDATION: in order, once (`ValidationBatches`).
    batch_size
        B, galaxies a rank.
    run_rows, seed, start_batch
        Of the training part: rows that are read together and shuffled as one; of the order; batches that
        were done before. A run resumes exactly with the same data and the same W B, run_rows and seed.
    rank, world
        This rank and the number of ranks, W.
    workers
        Reading processes; 0: the calling process reads. The batches and their order are the same.
    limit
        Of the validation part: batches at most, on each rank.

    Raises
    ------
    UsageError
        If another part is asked for: the test part is not for training.
    ConfigError, DataError
        If there are too few galaxies in the part.
    """
    part = SplitRows(source.split, split)
    sampler: TrainingBatches | ValidationBatches
    if split == Split.TRAIN:
        sampler = TrainingBatches(part, batch_size, run_rows, seed, rank, world, start_batch)
    elif split == Split.VALIDATION:
        sampler = ValidationBatches(part, batch_size, rank, world, limit)
    else:
        raise UsageError(f"part {split.name}: training uses TRAIN and VALIDATION only")
    return DataLoader(
        _RowDataset(source, columns),
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_ignore_stop_signals,
    )


def _ignore_stop_signals(worker: int) -> None:  # noqa: ARG001 - as DataLoader calls it
    """Leave these signals to the process that trains and ends this one; Slurm sends them to both."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
