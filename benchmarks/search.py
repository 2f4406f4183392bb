"""Search an embedded table: exactly from the file, and with an index, against one NumPy product in memory.

    python benchmarks/search.py [--rows 200000] [--width 256] [--queries 5] [--index]

Prints seconds a query of each, its ratio to the product of the matrix that is in memory already (the limit of
any exact search), the peak memory of a search of this table and of one four times as long, each in a process
of its own, and what the index finds of the exact result (recall).
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fitsio
import numpy as np

from astroclip.search import Example, ExampleKind, index_catalog, search_catalog

K = 10


def write_table(path: Path, rows: int, width: int) -> None:
    """Write embeddings on a curved surface of 12 dimensions, as those of galaxies roughly are."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(12, width)).astype("f4")
    with fitsio.FITS(path, "rw", clobber=True) as file:
        for start in range(0, rows, 50_000):
            n = min(50_000, rows - start)
            table = np.zeros(n, [("TARGETID", "i8"), ("Z", "f8"), ("IMAGE_EMBEDDING", "f4", width)])
            table["TARGETID"], table["Z"] = np.arange(start, start + n), rng.uniform(0, 1, n)
            noise = 0.1 * rng.normal(size=(n, width))
            table["IMAGE_EMBEDDING"] = np.tanh(rng.normal(size=(n, 12)).astype("f4") @ mixing / 3) + noise
            file[-1].append(table) if start else file.write(table, header={"ACMODEL": "none", "ACHASH": "0"})


def search(path: Path, row: int, **options):
    """Search for one row; return the seconds it took and the rows found."""
    start = time.perf_counter()
    examples = [Example(ExampleKind.ROW, str(row))]
    report = search_catalog(path, examples, path.with_name("out.fits"), k=K, overwrite=True, **options)
    return time.perf_counter() - start, report.rows


def seconds_of_product(vectors: np.ndarray, row: int) -> float:
    start = time.perf_counter()
    cosine = vectors @ vectors[row]
    np.argpartition(-cosine, K)
    return time.perf_counter() - start


def peak_memory(path: Path) -> float:
    """Return the peak memory in GiB of a search in a process of its own."""
    words = [sys.executable, __file__, "--child", str(path)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--queries", type=int, default=5)
    parser.add_argument("--index", action="store_true")
    options = parser.parse_args()
    wanted = np.random.default_rng(1).integers(0, options.rows, options.queries).tolist()
    with tempfile.TemporaryDirectory() as folder:
        path, index = Path(folder, "table.fits"), Path(folder, "table.usearch")
        write_table(path, options.rows, options.width)
        vectors = fitsio.read(path, columns=["IMAGE_EMBEDDING"])["IMAGE_EMBEDDING"].astype("f4")
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        product = statistics.median(seconds_of_product(vectors, row) for row in wanted)
        del vectors
        search(path, wanted[0])
        exact = [search(path, row) for row in wanted]
        scan = statistics.median(seconds for seconds, _ in exact)
        print(f"{options.rows} rows x {options.width}, median of {options.queries} queries")
        print(f"product in memory  {product:8.4f} s")
        print(f"search, exact      {scan:8.4f} s, ratio {scan / product:.1f}")
        if options.index:
            start = time.perf_counter()
            index_catalog(path, index)
            made = time.perf_counter() - start
            print(f"making the index   {made:8.1f} s, {index.stat().st_size / 1e9:.2f} GB")
            quick = [search(path, row, index=index) for row in wanted]
            seconds = statistics.median(seconds for seconds, _ in quick)
            recall = np.mean([np.isin(a, b).mean() for (_, a), (_, b) in zip(exact, quick, strict=True)])
            print(
                f"search, index      {seconds:8.4f} s, ratio {seconds / product:.2f}, recall@{K} {recall:.3f}"
            )
        few = peak_memory(path)
        write_table(path, 4 * options.rows, options.width)
        print(f"peak memory        {few:.2f} GiB for {options.rows} rows, {peak_memory(path):.2f} GiB for 4x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        search(Path(sys.argv[2]), 0)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    else:
        main()
