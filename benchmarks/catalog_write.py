"""How fast columns are added to a catalogue, against fitsio writing a table of the same bytes.

Run: python benchmarks/catalog_write.py [folder]. Prints both times, their ratio (target: at least 0.7), and
the peak memory at 50,000 and 200,000 rows (target: the same).
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fitsio
import numpy as np

from astroclip.schema import IMAGE_EMBEDDING, SPECTRUM_EMBEDDING, ColumnSpec
from astroclip.tables import append_columns, open_table

ROWS = (50_000, 200_000)
BLOCK = 2048  # rows
WIDTH = 128  # of the `mini` embeddings
REPEATS = 5


def make_block(rng: np.random.Generator) -> dict[str, np.ndarray]:
    names = (IMAGE_EMBEDDING, SPECTRUM_EMBEDDING)
    return {name: rng.normal(size=(BLOCK, WIDTH)).astype("f4") for name in names}


def write_input(path: Path, rows: int) -> None:
    table = np.zeros(rows, [("TARGETID", "i8"), ("RA", "f8"), ("DEC", "f8"), ("Z", "f4"), ("SURVEY", "S7")])
    table["TARGETID"] = np.arange(rows)
    fitsio.write(str(path), table, extname="ZCATALOG", clobber=True)


def append(source: Path, output: Path, block: dict[str, np.ndarray]) -> float:
    start = time.perf_counter()
    columns = [ColumnSpec(name, "f4", (WIDTH,)) for name in block]
    with (
        open_table(source) as catalog,
        append_columns(catalog, output, columns, overwrite=True) as appender,
    ):
        for at in range(0, catalog.nrows, BLOCK):
            rows = min(BLOCK, catalog.nrows - at)
            appender.write({name: value[:rows] for name, value in block.items()})
    return time.perf_counter() - start


def write_with_fitsio(source: Path, output: Path, block: dict[str, np.ndarray]) -> float:
    """Write input columns and embeddings as one table, appending blocks of rows."""
    old = fitsio.read(str(source))
    table = np.zeros(BLOCK, [*old.dtype.descr, *((name, "f4", (WIDTH,)) for name in block)])
    for name, value in block.items():
        table[name] = value
    start = time.perf_counter()
    with fitsio.FITS(str(output), "rw", clobber=True) as file:
        for at in range(0, old.size, BLOCK):
            rows = old[at : at + BLOCK]
            for name in old.dtype.names:
                table[name][: rows.size] = rows[name]
            if at:
                file[1].append(table[: rows.size])
            else:
                file.write(table[: rows.size])
    return time.perf_counter() - start


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    if "--peak" in sys.argv:
        append(folder / f"in-{sys.argv[-1]}.fits", folder / "ours.fits", make_block(np.random.default_rng(1)))
        # not ru_maxrss: a child begins with its parent's
        print(int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) // 1024)
        return
    block = make_block(np.random.default_rng(1))
    for rows in ROWS:
        source = folder / f"in-{rows}.fits"
        write_input(source, rows)
        ours, peer = [], []
        for _ in range(REPEATS):
            peer.append(write_with_fitsio(source, folder / "peer.fits", block))
            ours.append(append(source, folder / "ours.fits", block))
        command = [sys.executable, __file__, str(folder), "--peak", str(rows)]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        size = (folder / "ours.fits").stat().st_size / 1e6
        print(
            f"{rows} rows, {size:.0f} MB: astroclip {min(ours):.3f} s, fitsio {min(peer):.3f} s, "
            f"speed ratio {min(peer) / min(ours):.2f}; peak memory {peak} MiB"
        )


if __name__ == "__main__":
    main()
