"""Feed a training, against reading the same images from begin to end, and one by one in random order.

    python benchmarks/training_data.py [--images 3000] [--batch 72] [--runs 1 8 32] [--workers 0 1 2]

Writes noise as a file of pairs and as a file in the layout of Stein et al., and takes one epoch of images
from each. The first peer reads the bytes of as many images in pieces of 8 MB; the second reads single rows
with h5py in random order and makes batches of them. Every run begins with a cold page cache, and is the best
of `--repeat`. The first batch of reading processes, which waits for them to start, is not timed.

What the published training of the image encoder consumes: 250,000 steps of 72 images on each of 20 A100s in
46 hours, 435 images/s for a node of 4. The goal is 3 times that.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from itertools import islice, product
from pathlib import Path

import h5py
import numpy as np
import torch

from astroclip.data.pairs import write_pairs
from astroclip.data.pairs.pairs_format import find_places
from astroclip.schema import CUTOUT_SIZE, N_WAVE, Split
from astroclip.training.batches import make_loader
from astroclip.training.galaxies import Galaxies

NEEDED = 250_000 * 72 * 4 / (46 * 3600)  # images/s of a node of 4 A100s, as published
PIECE = 8 << 20
IMAGE_BYTES = 3 * CUTOUT_SIZE**2 * 4
BLOCK = 100


def write_survey(folder: Path, n: int) -> dict[str, tuple[Path, str, int]]:
    """Write n images in both layouts; return file, dataset and where its bytes begin."""
    rng = np.random.default_rng(0)
    ra, dec = np.sort(rng.uniform(0, 360, n)), rng.uniform(-20, 70, n)
    pairs, stein = folder / "pairs.h5", folder / "images_npix152_000000000_001000000.h5"
    shape = (CUTOUT_SIZE, CUTOUT_SIZE)
    with write_pairs(pairs, n) as writer, h5py.File(stein, "w") as file:
        images = file.create_dataset("images", (n, 3, *shape), "f4")
        file["ra"], file["dec"] = rng.permutation(ra), rng.permutation(dec)
        for start in range(0, n, BLOCK):
            rows = slice(start, min(start + BLOCK, n))
            m = len(ra[rows])
            block = rng.standard_normal((m, 3, *shape), dtype=np.float32)
            spectra = {key: np.ones((m, N_WAVE), np.float32) for key in ("flux", "ivar")}
            mask = np.zeros((m, N_WAVE), np.uint16)
            writer.write({"image": block, **spectra, "mask": mask, "targetid": np.arange(n)[rows],
                          "ra": ra[rows], "dec": dec[rows]})  # fmt: skip
            images[rows] = block
    with h5py.File(stein) as file:
        offset = file["images"].id.get_offset()
    return {
        "pairs": (pairs, "image", find_places(pairs, [])["image"].offset),
        "Stein": (stein, "images", offset),
    }


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_plainly(path: Path, offset: int, n: int) -> None:
    piece = bytearray(PIECE)
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        rest = n * IMAGE_BYTES
        while rest:
            rest -= file.readinto(memoryview(piece)[: min(PIECE, rest)])


def read_singly(path: Path, dataset: str, rows: np.ndarray, batch: int) -> None:
    with h5py.File(path) as file:
        images = file[dataset]
        for start in range(0, len(rows), batch):
            torch.from_numpy(np.stack([images[row] for row in rows[start : start + batch]]))


def start_stream(
    source: Galaxies, batch: int, batches: int, run_rows: int, workers: int
) -> Callable[[], None]:
    """Return what reads an epoch, its processes running."""
    loader = make_loader(source, ["image"], Split.TRAIN, batch, run_rows=run_rows, workers=workers)
    stream = iter(loader)
    next(stream)

    def run() -> None:
        for each in islice(stream, batches):
            assert each["image"].shape == (batch, 3, CUTOUT_SIZE, CUTOUT_SIZE)

    return run


def measure(path: Path, images: int, repeat: int, run: Callable[[], None]) -> float:
    """Return images/s of the best run."""
    seconds = []
    for _ in range(repeat):
        forget(path)
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return images / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=72)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        for name, (path, dataset, offset) in write_survey(folder, args.images).items():
            source = Galaxies(path)
            rows = np.flatnonzero(source.split == Split.TRAIN)
            batches = len(rows) // args.batch
            n = batches * args.batch
            plain = measure(path, n, args.repeat, lambda: read_plainly(path, offset, n))  # noqa: B023
            singles = np.random.default_rng(1).permutation(rows)[:n]
            single = measure(path, n, 1, lambda: read_singly(path, dataset, singles, args.batch))  # noqa: B023
            print(
                f"{name}, {n} images: plain reading {plain:.0f} images/s, single rows {single:.0f}, "
                f"needed {NEEDED:.0f}"
            )
            for run_rows, workers in product(args.runs, args.workers):
                run = start_stream(source, args.batch, batches, run_rows, workers)
                speed = measure(path, n, args.repeat, run)
                print(
                    f"  runs of {run_rows:3d}, {workers} workers: {speed:6.0f} images/s, {speed / plain:.2f} "
                    f"of plain, {speed / single:.1f} x single rows, {speed / NEEDED:.1f} x the needed"
                )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
