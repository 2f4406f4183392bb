"""Run by test_crossmatch: build pairs, killed by SIGKILL again and again, the last run to its end.

Usage: python killed_crossmatch.py SPECTRA IMAGES OUT SEED KILLS. Each run is a forked process that kills
itself before a random write of rows, of the journal or of a table; prints which write it was.
"""

import os
import signal
import sys

import numpy as np

from astroclip.crossmatch import pixels
from astroclip.crossmatch.build import build_pairs
from astroclip.pairs import writer


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


def main() -> None:
    spectra, images, out, seed, kills = sys.argv[1:]
    rng = np.random.default_rng(int(seed))
    pixels.BLOCK_PAIRS, writer.JOURNAL_SECONDS = 1, 0
    for kill in range(int(kills) + 1):
        number = int(rng.integers(5, 60))
        child = os.fork()
        if child == 0:
            if kill < int(kills):
                die_at(number)
            build_pairs(spectra, images, out, resume=True)
            os._exit(0)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            print(number, flush=True)


if __name__ == "__main__":
    main()
