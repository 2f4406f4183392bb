"""Run by test_crossmatch_failures: crossmatch again and again, killed by SIGKILL, each time resumed.

Usage: python killed_crossmatch.py SPECTRA IMAGES FOLDER SEED KILLS. Writes FOLDER/whole without a kill, then
FOLDER/out0, out1, ... as often as it takes until so many runs were killed: in turn at a random moment of the
time that the whole run took, and before a random write of rows, of the journal or of a table. Prints for each
kill how many bytes of outputs and parts it left.
"""

import os
import signal
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np

from astroclip.crossmatch import pair_pixels as pixels
from astroclip.crossmatch.build import build_pairs
from astroclip.data.pairs import writer


def die_at(number: int) -> None:
    """Die before the write of that number."""
    left = number

    def counted(function):
        def call(*words):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*words)

        return call

    os.pwrite, os.write, os.fsync = counted(os.pwrite), counted(os.write), counted(os.fsync)


def is_killed(spectra: str, images: str, out: Path, *, write: int | None, seconds: float) -> bool:
    """Run in a process that is killed before a write, or else after some time; tell if it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            if write is not None:
                die_at(write)
            build_pairs(spectra, images, out, resume=True)
            os._exit(0)
        finally:
            os._exit(1)
    if write is None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        sys.exit("a resumed run failed")
    return os.WIFSIGNALED(status)


def main() -> None:
    spectra, images, folder, seed, kills = sys.argv[1:]
    rng = np.random.default_rng(int(seed))
    pixels.BLOCK_PAIRS, writer.JOURNAL_SECONDS = 1, 0
    os.fsync = lambda fd: None  # a killed process loses nothing that the system has, and disks are slow
    for _ in range(2):  # the first one compiles
        start = time.monotonic()
        build_pairs(spectra, images, Path(folder, "whole"), overwrite=True)
        whole = time.monotonic() - start
    done = 0
    for number in count():
        out = Path(folder, f"out{number}")
        while done < int(kills):
            write = int(rng.integers(1, 60)) if done % 2 else None
            if not is_killed(spectra, images, out, write=write, seconds=rng.uniform(0, whole)):
                break
            done += 1
            print(
                sum(path.stat().st_blocks * 512 for path in Path(folder).glob(f".out{number}*")), flush=True
            )
        else:
            build_pairs(spectra, images, out, resume=True)
            return


if __name__ == "__main__":
    main()
