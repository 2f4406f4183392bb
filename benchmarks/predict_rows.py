"""How long `astroclip predict redshift` takes with the model that ships, start included, and its peak memory.

    python benchmarks/predict_rows.py                     25,000 and 100,000 rows

The rows are those of the model's own reference, drawn again and again with a little noise.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fitsio
import numpy as np

from astroclip.predict.reference import read_reference
from astroclip.schema import SPECTRUM_EMBEDDING


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 100_000])
    args = parser.parse_args()
    known, rng = read_reference("mini"), np.random.default_rng(0)
    vectors = known.read([SPECTRUM_EMBEDDING])[SPECTRUM_EMBEDDING].astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for rows in args.rows:
            drawn = vectors[rng.integers(len(vectors), size=rows)]
            drawn += 0.01 * rng.standard_normal(drawn.shape, np.float32)
            table, out = Path(folder, "rows.fits"), Path(folder, "z.fits")
            header = {"ACMODEL": known.model, "ACHASH": known.digest}
            fitsio.write(table, [drawn], names=[SPECTRUM_EMBEDDING], header=header, clobber=True)
            begin = time.perf_counter()
            words = ["predict", "redshift", str(table), "-o", str(out), "--overwrite", "--quiet"]
            subprocess.run([sys.executable, "-m", "astroclip.cli.main", *words], check=True)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # the largest so far
            print(f"{rows} rows: {time.perf_counter() - begin:.0f} s, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
