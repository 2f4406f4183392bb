"""What a run reads: the training and the validation part of its galaxies, shared out to ranks."""

from collections.abc import Sequence

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from astroclip.errors import DataError
from astroclip.schema import PairsKey, Split
from astroclip.training.batches import make_loader
from astroclip.training.galaxies import Batch, Galaxies
from astroclip.training.runs import Run
from astroclip.training.settings import SpectrumTraining


class Loaders(LightningDataModule):
    """Makes the loaders of a rank when the ranks know each other; training starts at batch `first_batch`."""

    def __init__(self, run: Run, source: Galaxies, columns: Sequence[str], first_batch: int) -> None:
        super().__init__()
        self._run, self._source, self._columns, self._first = run, source, columns, first_batch

    def check(self) -> None:
        """Raise what is wrong with the data."""
        data, settings = self._run.data, self._run.settings
        if not data.training_rows:
            raise DataError(
                f"{data.path}: no galaxy to train with, all are in other parts (SPLIT). Expected a file made "
                "by astroclip crossmatch, or images with positions"
            )
        weighted = isinstance(settings, SpectrumTraining) and settings.loss == "ivar"
        if weighted and PairsKey.IVAR not in self._source.columns:
            raise DataError(f"{data.path}: has no 'ivar', which loss=ivar needs; use loss=mse")
        self._source.read(self._columns, np.zeros(1, np.int64))  # what is missing shows before any worker
        self._loader(Split.TRAIN, 0, self._run.devices)
        if data.validation_rows:
            self._loader(Split.VALIDATION, 0, self._run.devices)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return endless batches."""
        return self._loader(Split.TRAIN, *self._rank())

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Return the batches of the validation part, if there is one."""
        return self._loader(Split.VALIDATION, *self._rank()) if self._run.data.validation_rows else []

    def _rank(self) -> tuple[int, int]:
        """Return the rank and the number of ranks."""
        if self.trainer is None:
            raise TypeError("the loaders of a rank are made by a trainer")
        return self.trainer.global_rank, self.trainer.world_size

    def _loader(self, part: Split, rank: int, world: int) -> DataLoader[Batch]:
        """Return the loader of one part for one rank."""
        data, run = self._run.settings.data, self._run.settings.run
        return make_loader(
            self._source, self._columns, part, data.batch_size, run_rows=data.run_rows, seed=run.seed,
            rank=rank, world=world, start_batch=self._first, workers=data.workers, limit=run.val_batches,
        )  # fmt: skip
