"""Match positions on the sky: this package against astropy in memory, and against STILTS from FITS to FITS.

Each contender runs in a process of its own, in turn, several times; printed are medians, peak memory (of the
whole process, interpreter included) over the size of the position columns, and the median of the ratios.
STILTS is asked for its own symmetric best match.

    python benchmarks/match.py                        # 1 million x 10 million at 1 arcsec
    python benchmarks/match.py --right 76e6 --peers stilts
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import fitsio
import numpy as np

BLOCK = 1_000_000  # rows
POSITION = np.dtype([("RA", ">f8"), ("DEC", ">f8")])


class Table:
    """The positions of a FITS file, read in blocks each time it is iterated."""

    def __init__(self, path: str) -> None:
        with fitsio.FITS(path) as fits:
            self.path, self.start, self.rows = path, fits[1].get_offsets()["data_start"], fits[1].get_nrows()

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with Path(self.path).open("rb") as file:
            file.seek(self.start)
            for first in range(0, self.rows, BLOCK):
                block = np.fromfile(file, POSITION, min(BLOCK, self.rows - first))
                yield block["RA"], block["DEC"]

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Read all of it."""
        ra, dec, first = np.empty(self.rows), np.empty(self.rows), 0
        for block in self:
            ra[first : first + block[0].size], dec[first : first + block[0].size] = block
            first += block[0].size
        return ra, dec


def write_sky(path: str, rows: int, seed: int, near: Table | None = None) -> None:
    """Write random positions in blocks; half of them within 0.5 arcsec of the first rows of `near`."""
    rng = np.random.default_rng(seed)
    partners = next(iter(near)) if near else None
    with fitsio.FITS(path, "rw", clobber=True) as fits:
        for first in range(0, rows, BLOCK):
            n = min(BLOCK, rows - first)
            block = np.empty(n, POSITION.newbyteorder("="))
            block["RA"], block["DEC"] = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
            if partners is not None:
                half = rng.choice(partners[0].size, n // 2, replace=n // 2 > partners[0].size)
                for name, column in zip(("RA", "DEC"), partners, strict=True):
                    block[name][: n // 2] = column[half] + rng.uniform(-0.3, 0.3, n // 2) / 3600
                block["DEC"] = np.clip(block["DEC"], -90, 90)
            if first == 0:
                fits.write(block)
            else:
                fits[1].append(block)


def clock() -> np.ndarray:
    """Return the wall time and this process's processor time, s."""
    return np.array([time.perf_counter(), time.process_time()])


def run_ours(left: str, right: str, radius: float) -> dict[str, float]:
    """In memory, warm: the second call."""
    from astroclip.sky import match_sky

    a, b = Table(left).load(), Table(right).load()
    for _ in range(2):
        start = clock()
        pairs = match_sky(a, b, radius).left.size
        seconds, cpu = clock() - start
    return {"seconds": seconds, "cpu": cpu, "pairs": pairs}


def run_astropy(left: str, right: str, radius: float) -> dict[str, float]:
    """In memory, warm: the second call, on fresh coordinates; then again on the tree that is there by now."""
    from astropy.coordinates import SkyCoord

    a, b = (SkyCoord(*Table(path).load(), unit="deg") for path in (left, right))
    for _ in range(2):
        a, b = SkyCoord(a.ra, a.dec), SkyCoord(b.ra, b.dec)
        start = clock()
        separation = a.match_to_catalog_sky(b)[1]
        seconds, cpu = clock() - start
    start = clock()
    a.match_to_catalog_sky(b)
    again = clock() - start
    within = int((separation.arcsec <= radius).sum())
    return {"seconds": seconds, "cpu": cpu, "with_tree": again[0], "tree_cpu": again[1], "pairs": within}


def run_ours_files(left: str, right: str, radius: float, output: str) -> dict[str, float]:
    """From FITS to FITS, the right side streamed."""
    from astroclip.sky import match_sky

    matches = match_sky(Table(left).load(), Table(right), radius)
    columns = [matches.left, matches.right, matches.separation_arcsec]
    fitsio.write(output, columns, names=["ROW_1", "ROW_2", "SEPARATION"], clobber=True)
    return {"pairs": matches.left.size}


def measure(command: list[str]) -> dict[str, float]:
    """Run a command; return what it printed, the wall time and the peak memory in GB."""
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        if process.returncode:
            raise SystemExit(f"{command[0]} ended with exit code {process.returncode}: {log.read()}")
    seconds = {"wall": time.perf_counter() - start, "process_cpu": usage.ru_utime + usage.ru_stime}
    result = seconds | {"gb": usage.ru_maxrss / 1024**2}
    return result | (json.loads(printed) if printed.startswith("{") else {})


def contenders(left: str, right: str, radius: float, output: str, peers: list[str]) -> dict[str, list[str]]:
    """Return the command of each contender."""
    me = [sys.executable, __file__, "--run"]
    commands = {}
    if "astropy" in peers:
        commands["ours"] = [*me, "ours", left, right, str(radius)]
        commands["astropy"] = [*me, "astropy", left, right, str(radius)]
    commands["ours_files"] = [*me, "ours_files", left, right, str(radius), output]
    if "stilts" in peers:
        positions = ["ra1=RA", "dec1=DEC", "ra2=RA", "dec2=DEC", f"error={radius}", "find=best"]
        files = [f"in1={left}", f"in2={right}", f"out={output}", "ofmt=fits"]
        commands["stilts"] = ["stilts", "tskymatch2", *files, *positions]
    return commands


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--left", type=float, default=1e6)
    parser.add_argument("--right", type=float, default=1e7)
    parser.add_argument("--radius", type=float, default=1.0, help="arcsec")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--peers", nargs="*", default=["astropy", "stilts"], choices=["astropy", "stilts"])
    parser.add_argument("--folder", help="where the temporary files go")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        name, left, right, radius, *output = options.run
        print(json.dumps(globals()[f"run_{name}"](left, right, float(radius), *output)))
        return
    columns_gb = (options.left + options.right) * 16 / 1024**3
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        left, right, output = (f"{folder}/{name}.fits" for name in ("left", "right", "out"))
        write_sky(right, int(options.right), seed=1)
        write_sky(left, int(options.left), seed=2, near=Table(right))
        commands = contenders(left, right, options.radius, output, options.peers)
        measure(commands["ours_files"])  # compiles, if this is the first run here
        runs = [{name: measure(command) for name, command in commands.items()} for _ in range(options.repeat)]
    report(runs, columns_gb)


def report(runs: list[dict[str, dict[str, float]]], columns_gb: float) -> None:
    print(f"position columns {columns_gb:.2f} GB; load average {os.getloadavg()[0]:.1f}")
    for name in runs[0]:
        keys = [
            key
            for key in ("seconds", "cpu", "with_tree", "wall", "process_cpu", "gb", "pairs")
            if key in runs[0][name]
        ]
        numbers = {key: median(run[name][key] for run in runs) for key in keys}
        text = ", ".join(
            f"{key} {value:.3g}" if key != "pairs" else f"{value} pairs" for key, value in numbers.items()
        )
        print(f"{name:10s} {text}, peak / columns {numbers['gb'] / columns_gb:.2f}")
    ratios = {
        "astropy / ours, in memory, warm": ("astropy", "seconds", "ours", "seconds"),
        "the same, processor time": ("astropy", "cpu", "ours", "cpu"),
        "astropy with its tree built before / ours, processor time": ("astropy", "tree_cpu", "ours", "cpu"),
        "stilts / ours, FITS to FITS": ("stilts", "wall", "ours_files", "wall"),
        "stilts / ours, FITS to FITS, processor time": ("stilts", "process_cpu", "ours_files", "process_cpu"),
    }
    for text, (peer, what, ours, which) in ratios.items():
        if peer in runs[0] and ours in runs[0]:
            each = [run[peer][what] / run[ours][which] for run in runs]
            print(f"{text}: {median(each):.1f}x ({min(each):.1f} to {max(each):.1f})")


if __name__ == "__main__":
    main()
