"""Run by test_catalog_resume: add columns to a catalogue, killed by SIGKILL again and again until done.

Usage: python killed_runs.py SOURCE OUTPUT SEED BLOCK KILLS. Each run is a forked process that kills itself
within a write, or before or after an fsync (of part, journal or folder), and the next one resumes. Prints how
many rows each run found done.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
from catalog_files import simple_columns

from astroclip.tables import append_columns, appender, open_table


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(budget: int) -> None:
    """Let `budget` bytes be written, the last write only in part."""
    write, left = os.write, budget

    def failing(fd: int, data: memoryview) -> int:
        nonlocal left
        if left <= len(data):
            write(fd, data[:left])
            die()
        left -= len(data)
        return write(fd, data)

    os.write = failing  # type: ignore[assignment]


def die_while_syncing(budget: int, *, before: bool) -> None:
    fsync, left = os.fsync, budget

    def failing(fd: int) -> None:
        nonlocal left
        left -= 1
        if left <= 0 and before:
            die()
        fsync(fd)
        if left <= 0:
            die()

    os.fsync = failing  # type: ignore[assignment]


def run(source: Path, output: Path, block: int) -> None:
    appender.JOURNAL_SECONDS = 0
    with open_table(source, scratch=output.parent) as catalog:
        columns, values = simple_columns(catalog.nrows)
        with append_columns(
            catalog, output, columns, resume=True, cards={"RUN": os.getpid() % 7}
        ) as appending:
            print(appending.done, flush=True)
            for at in range(appending.done, catalog.nrows, block):
                appending.write({name: value[at : at + block] for name, value in values.items()})


def main() -> None:
    source, output = Path(sys.argv[1]), Path(sys.argv[2])
    rng, block, kills = np.random.default_rng(int(sys.argv[3])), int(sys.argv[4]), int(sys.argv[5])
    journal, size = output.with_name(f".{output.name}.part.json"), source.stat().st_size
    for kill in range(kills + 1):
        # a run that goes on is killed after a few blocks, one that begins after it got to the rows
        written = int(rng.integers(1, size // 20 if journal.exists() and block < 100 else size))
        synced, before = int(rng.integers(1, 12 if block < 100 else 4)), bool(rng.integers(2))
        if os.fork() == 0:
            if kill % 3:
                die_while_writing(written)
            elif kill < kills:
                die_while_syncing(synced, before=before)
            run(source, output, block)
            os._exit(0)
        os.wait()
        if output.exists():
            break


if __name__ == "__main__":
    main()
