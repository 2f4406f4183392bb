"""The pixels of pairs: spectra out of the tree of coadds, images out of what holds them, block by block."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.image_side import ImageSide, read_images
from astroclip.crossmatch.plan import Plan, Progress
from astroclip.crossmatch.spectra_side import TargetRows
from astroclip.data.coadd_tree import CoaddTree
from astroclip.data.grid import NODATA
from astroclip.data.label_tables import LabelRows, LabelTable
from astroclip.data.lookup import BRICK
from astroclip.data.pairs import Label, PairsWriter
from astroclip.errors import DataError
from astroclip.schema import PairsKey

BLOCK_PAIRS = 128  # 48 MB of pixels, and about as much again while they are combined

PairRows = dict[str, NDArray]


class PairReader:
    """Reads the pairs of a plan in their order."""

    def __init__(
        self,
        targets: TargetRows,
        plan: Plan,
        side: ImageSide,
        images: dict[str, NDArray],
        coadds: Path,
        labels: list[tuple[LabelTable, LabelRows]],
    ) -> None:
        self._targets, self._plan, self._side, self._images = targets, plan, side, images
        self._spectra, self._labels = CoaddTree(coadds), labels
        self._thread = ThreadPoolExecutor(1, "images")
        self._row = np.argsort(plan.pair, kind="stable")[len(plan.pair) - plan.n_pairs :]  # of each pair

    def close(self) -> None:
        """End the thread that reads images, and close the coadds."""
        self._thread.shutdown()
        self._spectra.close()

    def read(self, start: int, stop: int) -> PairRows:
        """Return pairs as the writer takes them.

        Raises
        ------
        DataError
            If a file cannot be read any more.
        """
        rows = self._row[start:stop]
        target, image = self._plan.target[rows], self._plan.image[rows]
        columns = {name: values[target] for name, values in self._targets.columns.items()}
        images = self._thread.submit(read_images, self._side, image)
        number = self._spectra.find(*self._targets.coadd_key(target))
        if (number < 0).any():
            reasons = "; ".join(text for _, text in self._spectra.problems)
            raise DataError(
                f"{self._spectra.name}: {int((number < 0).sum())} spectra that were there have gone "
                f"({reasons}). Restore them and resume, or start again"
            )
        _, flux, ivar, mask = self._spectra.read(number)
        low = mask & 0xFFFF  # the file has room for 16 bits
        columns |= {PairsKey.FLUX: flux, PairsKey.IVAR: ivar}
        columns[PairsKey.MASK] = np.where((mask != 0) & (low == 0), NODATA, low).astype(np.uint16)
        columns[PairsKey.IMAGE] = images.result().flux
        columns[PairsKey.SEPARATION] = self._plan.separation_arcsec[rows].astype(np.float32)
        unknown = columns[PairsKey.RELEASE] <= 0
        for name in BRICK:
            of_image = self._images[f"IMAGE_{name}"][rows]
            columns[name.lower()] = np.where(unknown, of_image, columns[name.lower()])
        for labels, label_rows in self._labels:
            taken = labels.take(label_rows.row[rows])
            columns |= {label.name: taken[label.name] for label in describe_labels(labels)}
        return columns


def describe_labels(labels: LabelTable) -> list[Label]:
    """Return how the file of pairs describes labels; vectors are left to the match table."""
    source = "; ".join(f"{key} {value}" for key, value in labels.facts.items())
    found = []
    for spec in labels.specs:
        missing = f"{labels.nulls[spec.name]} = missing" if spec.name in labels.nulls else ""
        comment = "; ".join(filter(None, (spec.comment, missing)))
        found += [] if spec.shape else [Label(spec.name, spec.dtype, spec.unit, source, comment)]
    return found


def write_pixels(reader: PairReader, writer: PairsWriter, progress: Progress | None) -> None:
    """Write all pairs that are not written yet; a thread reads ahead."""
    for block in _read_ahead(reader.read, range(writer.done, writer.nrows, BLOCK_PAIRS), writer.nrows):
        writer.write(block)
        if progress:
            progress(writer.done, writer.nrows)


def _read_ahead(read: Callable[[int, int], PairRows], starts: range, nrows: int) -> Iterator[PairRows]:
    """Yield blocks, the next one being read while one is used."""
    with ThreadPoolExecutor(1, "crossmatch") as pool:
        pending = [pool.submit(read, start, min(start + BLOCK_PAIRS, nrows)) for start in starts[:1]]
        for start in [*starts[1:], None]:
            if not pending:
                return
            block = pending.pop().result()
            if start is not None:
                pending.append(pool.submit(read, start, min(start + BLOCK_PAIRS, nrows)))
            yield block
