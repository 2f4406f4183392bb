"""Build a pairs file, against a plain sequential read and write of the same bytes; and the memory it takes.

    python benchmarks/pairs_write.py [--rows 10000] [--folder /tmp]

Needs twice the size of the file (355 kB a pair) in the folder. Each step runs in a process of its own, with
the input dropped from the page cache, and ends when the output is on disk.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.pairs import open_pairs, write_pairs
from astroclip.schema import CUTOUT_SIZE, N_WAVE

BLOCK_ROWS = 256
COLUMNS = {  # in the input, block by block, one column after the other
    "targetid": ("<i8", ()),
    "ra": ("<f8", ()),
    "dec": ("<f8", ()),
    "redshift": ("<f8", ()),
    "image": ("<f4", (3, CUTOUT_SIZE, CUTOUT_SIZE)),
    "flux": ("<f4", (N_WAVE,)),
    "ivar": ("<f4", (N_WAVE,)),
    "mask": ("<u2", (N_WAVE,)),
}
ROW_BYTES = sum(np.dtype(dtype).itemsize * prod(shape) for dtype, shape in COLUMNS.values())


def columns(block: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """View the bytes of a block as its columns."""
    rows, at, views = len(block) // ROW_BYTES, 0, {}
    for name, (dtype, shape) in COLUMNS.items():
        size = rows * np.dtype(dtype).itemsize * prod(shape)
        views[name] = block[at : at + size].view(dtype).reshape(rows, *shape)
        at += size
    return views


def make_input(path: Path, nrows: int) -> None:
    """Write blocks of noise."""
    rng = np.random.default_rng(1)
    noise = np.frombuffer(rng.bytes(BLOCK_ROWS * ROW_BYTES), np.uint8).copy()
    with path.open("wb") as file:
        for start in range(0, nrows, BLOCK_ROWS):
            block = noise[: min(BLOCK_ROWS, nrows - start) * ROW_BYTES]
            views = columns(block)
            rows = len(views["ra"])
            views["targetid"][:] = start + np.arange(rows)
            views["ra"][:], views["dec"][:] = rng.uniform(0, 360, rows), rng.uniform(-90, 90, rows)
            file.write(block.data)
        os.fsync(file.fileno())


def copy(source: Path, target: Path) -> None:
    """Read and write the bytes as they are, in the same blocks."""
    block = np.empty(BLOCK_ROWS * ROW_BYTES, np.uint8)
    with source.open("rb", buffering=0) as file, target.open("wb", buffering=0) as out:
        while size := file.readinto(block.data):
            out.write(block[:size].data)
        os.fsync(out.fileno())


def build(source: Path, target: Path) -> None:
    """Read the same blocks and write them as pairs."""
    block = np.empty(BLOCK_ROWS * ROW_BYTES, np.uint8)
    nrows = source.stat().st_size // ROW_BYTES
    with source.open("rb", buffering=0) as file, write_pairs(target, nrows) as writer:
        while size := file.readinto(block.data):
            writer.write(columns(block[:size]))


def read(source: Path) -> None:
    """Read the pairs as training does: blocks of consecutive rows in random order."""
    with open_pairs(source) as pairs:
        blocks = np.random.default_rng(2).permutation(-(-pairs.nrows // BLOCK_ROWS))
        for start in blocks * BLOCK_ROWS:
            pairs.read(["image", "flux", "ivar"], start, start + BLOCK_ROWS)


STEPS = {"copy": copy, "build": build, "read": read}


def run(step: str, *paths: Path) -> tuple[float, float]:
    """Run a step in a fresh process with a cold input; return seconds of the work and peak memory in GB."""
    os.sync()
    fd = os.open(paths[0], os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    done = subprocess.run(
        [sys.executable, __file__, "--step", step, *map(str, paths)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def compare(folder: Path, nrows: int, repeats: int) -> None:
    source, target = folder / "pairs_write.bin", folder / "pairs_write.h5"
    make_input(source, nrows)
    size = source.stat().st_size
    rates: dict[str, list[float]] = {step: [] for step in STEPS}
    peak = 0.0
    for _ in range(repeats):
        for step in STEPS:
            inputs = [target] if step == "read" else [source, target]
            if step != "read":
                target.unlink(missing_ok=True)
            seconds, memory = run(step, *inputs)
            rates[step].append(size / seconds / 1e6)
            peak = max(peak, memory) if step == "build" else peak
    source.unlink()
    target.unlink()
    middle = {step: float(np.median(rate)) for step, rate in rates.items()}
    ratios = [b / c for b, c in zip(rates["build"], rates["copy"], strict=True)]
    print(
        f"{nrows:6d} pairs, {size / 1e9:5.2f} GB: plain copy {middle['copy']:5.0f} MB/s, "
        f"pairs {middle['build']:5.0f} MB/s, ratio {np.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}; limit 0.70), peak memory {peak:.2f} GB (limit 1.00), "
        f"cold shuffled read {middle['read']:.0f} MB/s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("paths", type=Path, nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        begin = time.perf_counter()
        STEPS[args.step](*args.paths)
        print(time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
        return
    for nrows in args.rows:
        compare(args.folder, nrows, args.repeats)


if __name__ == "__main__":
    main()
