"""How fast columns are added to a Parquet table, against pyarrow copying a table of the same columns.

Run: python benchmarks/parquet_write.py [folder]. Prints both times, their ratio (target: at least 0.7), and
the peak memory at 50,000 and 200,000 rows (target: the same).
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroclip.schema import IMAGE_EMBEDDING, ColumnSpec
from astroclip.tables import append_columns, open_table

ROWS = (50_000, 200_000)
BLOCK = 2048  # rows
WIDTH = 128  # of the `mini` embeddings
REPEATS = 5


def write_input(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    columns = {
        "TARGETID": np.arange(rows),
        "RA": rng.uniform(0, 360, rows),
        "DEC": rng.uniform(-90, 90, rows),
        "Z": rng.gamma(3, 0.1, rows).astype("f4"),
        "SURVEY": rng.choice(["main", "sv3"], rows),
    }
    pq.write_table(pa.table(columns), path, row_group_size=65536)


def append(source: Path, output: Path, rows: int) -> float:
    values = np.random.default_rng(1).normal(size=(BLOCK, WIDTH)).astype("f4")
    start = time.perf_counter()
    with (
        open_table(source) as table,
        append_columns(
            table, output, [ColumnSpec(IMAGE_EMBEDDING, "f4", (WIDTH,))], overwrite=True
        ) as appender,
    ):
        for at in range(0, rows, BLOCK):
            appender.write({IMAGE_EMBEDDING: values[: min(BLOCK, rows - at)]})
    return time.perf_counter() - start


def copy(source: Path, output: Path) -> float:
    """Copy a Parquet file row group by row group, as pyarrow writes by default."""
    start = time.perf_counter()
    file = pq.ParquetFile(source)
    with pq.ParquetWriter(output, file.schema_arrow) as writer:
        for group in range(file.num_row_groups):
            writer.write_table(file.read_row_group(group))
    return time.perf_counter() - start


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    if "--peak" in sys.argv:
        append(folder / f"in-{sys.argv[-1]}.parquet", folder / "ours.parquet", int(sys.argv[-1]))
        # not ru_maxrss: a child begins with its parent's
        print(int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) // 1024)
        return
    for rows in ROWS:
        source, output = folder / f"in-{rows}.parquet", folder / "ours.parquet"
        write_input(source, rows)
        ours, peer = [], []
        for _ in range(REPEATS):
            ours.append(append(source, output, rows))
            peer.append(copy(output, folder / "peer.parquet"))
        command = [sys.executable, __file__, str(folder), "--peak", str(rows)]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        print(
            f"{rows} rows, {output.stat().st_size / 1e6:.0f} MB: astroclip {min(ours):.3f} s, "
            f"pyarrow {min(peer):.3f} s, speed ratio {min(peer) / min(ours):.2f}; peak memory {peak} MiB"
        )


if __name__ == "__main__":
    main()
