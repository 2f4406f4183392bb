"""End to end: `embed_catalog` from a FITS table against the bare forward pass on tensors in memory.

    python benchmarks/embed.py [--preset paper|mini] [--rows 24] [--precision fp32|bf16] [--repeat 3]

Prints the rate of each, their ratio (the goal is at least 0.9) and the peak memory of embedding a table of
that many rows and of one four times as long, each in a process of its own.
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
import torch

from astroclip.config import read_model_config
from astroclip.model.checkpoint import save_model
from astroclip.model.clip import build_model
from astroclip.model.embedder import load_model
from astroclip.model.prepare_images import prepare_images
from astroclip.model.prepare_spectra import prepare_spectra
from astroclip.predict.embed import embed_catalog


def write_catalog(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    table = np.zeros(
        rows, [("TARGETID", "i8"), ("IMAGE", "f4", (3, 152, 152)), ("FLUX", "f4", 7781), ("IVAR", "f4", 7781)]
    )
    table["TARGETID"], table["IVAR"] = np.arange(rows), 1
    table["IMAGE"] = rng.normal(0.1, 0.1, table["IMAGE"].shape)
    table["FLUX"] = rng.normal(2, 1, table["FLUX"].shape)
    fitsio.write(path, table, clobber=True)


def seconds_of_forward(model, path: Path) -> float:
    table = fitsio.read(path)
    rgb = prepare_images(table["IMAGE"].astype("f4")).rgb
    flux = prepare_spectra(table["FLUX"].astype("f4"), table["IVAR"].astype("f4")).flux
    start = time.perf_counter()
    model.encode_image(rgb)
    model.encode_spectrum(flux)
    return time.perf_counter() - start


def seconds_of_embed(model, path: Path) -> float:
    start = time.perf_counter()
    embed_catalog(path, path.with_name("out.fits"), model=model, overwrite=True)
    return time.perf_counter() - start


def peak_memory(model_dir: Path, path: Path, precision: str) -> float:
    """Return the peak memory in GiB of embedding a table in a process of its own."""
    words = [sys.executable, __file__, "--child", str(model_dir), str(path), precision]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        config = read_model_config(options.preset)
        save_model(build_model(config, 0), config, Path(folder, "model"))
        model = load_model(Path(folder, "model"), "cpu", options.precision)
        path = Path(folder, "catalog.fits")
        write_catalog(path, options.rows)
        seconds_of_embed(model, path)
        pairs = [
            (seconds_of_forward(model, path), seconds_of_embed(model, path)) for _ in range(options.repeat)
        ]
        forward, embed = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(f / e for f, e in pairs)
        print(f"{options.preset} {options.precision}, {options.rows} galaxies with image and spectrum, CPU")
        print(f"bare forward   {options.rows / forward:8.2f} galaxies/s")
        print(f"embed_catalog  {options.rows / embed:8.2f} galaxies/s, ratio {ratio:.3f}")
        write_catalog(Path(folder, "long.fits"), 4 * options.rows)
        few, many = (
            peak_memory(Path(folder, "model"), p, options.precision)
            for p in (path, Path(folder, "long.fits"))
        )
        print(f"peak memory    {few:.2f} GiB for {options.rows} rows, {many:.2f} GiB for {4 * options.rows}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        embed_catalog(sys.argv[3], model=load_model(sys.argv[2], "cpu", sys.argv[4]), overwrite=True)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    else:
        main()
