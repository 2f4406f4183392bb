"""The pixels of pairs: spectra out of the tree of coadds, images out of what holds them, block by block."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.crossmatch.image_side import Pixels
from astroclip.crossmatch.joined_labels import LabelSet
from astroclip.crossmatch.match_table import MatchedImages, usable
from astroclip.crossmatch.plan import Plan, Progress, coadd_key
from astroclip.crossmatch.spectra_side import Targets
from astroclip.data.coadd_tree import read_coadds
from astroclip.data.grid import NODATA
from astroclip.data.pairs import PairsWriter
from astroclip.errors import DataError
from astroclip.schema import PairsKey
from astroclip.sky import IntArray

BLOCK_PAIRS = 128  # 48 MB of pixels, and about as much again while they are combined
_IDS = (PairsKey.RELEASE, PairsKey.BRICKID, PairsKey.OBJID)

PairsBlock = dict[str, NDArray]


class PairReader:
    """Reads the pairs of a plan in their order."""

    def __init__(
        self,
        targets: Targets,
        plan: Plan,
        pixels: Pixels,
        images: MatchedImages,
        coadds: Path,
        labels: list[tuple[LabelSet, IntArray]],
    ) -> None:
        self._targets, self._plan, self._pixels, self._images = targets, plan, pixels, images
        self._coadds, self._labels = coadds, labels
        self._thread = ThreadPoolExecutor(1, "images")
        self._row = np.argsort(plan.pair, kind="stable")[len(plan.pair) - plan.n_pairs :]  # of each pair

    def close(self) -> None:
        """End the thread that reads images."""
        self._thread.shutdown()

    def read(self, start: int, stop: int) -> PairsBlock:
        """Return pairs as the writer takes them.

        Raises
        ------
        DataError
            If a file cannot be read any more.
        """
        rows = self._row[start:stop]
        target, image = self._plan.target[rows], self._plan.image[rows]
        columns = {name: values[target] for name, values in self._targets.columns.items()}
        images = self._thread.submit(self._pixels.read, image)
        found = read_coadds(self._coadds, *coadd_key(self._targets, target))
        if found.status.any():
            raise DataError(
                f"{self._coadds}: {int((found.status != 0).sum())} spectra that were there have gone "
                f"({'; '.join(text for _, text in found.problems)}). Restore them and resume, or start again"
            )
        _, flux, ivar, mask = found.spectra
        low = mask & 0xFFFF  # the file has room for 16 bits
        columns |= {PairsKey.FLUX: flux, PairsKey.IVAR: ivar}
        columns[PairsKey.MASK] = np.where((mask != 0) & (low == 0), NODATA, low).astype(np.uint16)
        columns[PairsKey.IMAGE] = images.result()
        columns[PairsKey.RA], columns[PairsKey.DEC] = usable(columns[PairsKey.RA], columns[PairsKey.DEC])
        columns[PairsKey.SEPARATION] = self._plan.separation_arcsec[rows].astype(np.float32)
        unknown = columns[PairsKey.RELEASE] <= 0
        for key, of_image in zip(_IDS, self._images.ids, strict=True):
            columns[key] = np.where(unknown, of_image[rows], columns[key])
        for labels, label_rows in self._labels:
            taken = labels.take(label_rows[rows])
            columns |= {label.name: taken[label.name] for label in labels.for_pairs()}
        return columns


def write_pixels(reader: PairReader, writer: PairsWriter, progress: Progress | None) -> None:
    """Write all pairs that are not written yet; a thread reads ahead."""
    for block in _read_ahead(reader.read, range(writer.done, writer.nrows, BLOCK_PAIRS), writer.nrows):
        writer.write(block)
        if progress:
            progress(writer.done, writer.nrows)


def _read_ahead(read: Callable[[int, int], PairsBlock], starts: range, nrows: int) -> Iterator[PairsBlock]:
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
