"""Build pairs, against reading the same files and writing the same number of bytes, one after the other.

    python benchmarks/pairs_build.py [--pairs 4000] [--repeat 3] [--folder DIR]

Makes a survey of noise: coadds of 500 targets, cut-outs in the layout of Stein et al. in another order. The
peer reads every file from begin to end in pieces of 8 MB, and writes and syncs as many bytes as the pairs
take. Input files are dropped from the page cache before each run; the output is on the same disk. Peak memory
is that of a process of its own, for a fifth of the pairs and for all.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fitsio
import h5py
import numpy as np

from astroclip.data.targetid import encode_targetid
from astroclip.schema import CUTOUT_SIZE, desi_wave

TARGETS = 500  # in a coadd
PIECE = 8 << 20
ARMS = {"B": slice(0, 2751), "R": slice(2700, 5026), "Z": slice(4900, 7781)}


def write_coadd(path: Path, targetid: np.ndarray, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True)
    with fitsio.FITS(path, "rw") as file:
        file.write(None)
        file.write([targetid], names=["TARGETID"], extname="FIBERMAP")
        for arm, pixels in ARMS.items():
            wave = desi_wave()[pixels]
            flux = rng.standard_normal((len(targetid), wave.size), dtype=np.float32)
            file.write(wave, extname=f"{arm}_WAVELENGTH")
            file.write(flux, extname=f"{arm}_FLUX")
            file.write(np.ones_like(flux), extname=f"{arm}_IVAR")
            file.write(np.zeros(flux.shape, np.int32), extname=f"{arm}_MASK")


def write_survey(folder: Path, pairs: int) -> tuple[Path, Path]:
    """Write catalogue, coadds and cut-outs; return the catalogue and the folder of cut-outs."""
    rng = np.random.default_rng(0)
    number = np.arange(pairs)
    release, brick, objid = np.full(pairs, 9010), number // 1000, number % 1000
    targetid = encode_targetid(release, brick, objid)
    ra, dec = rng.uniform(0, 360, pairs), np.degrees(np.arcsin(rng.uniform(-1, 1, pairs)))
    columns = {
        "TARGETID": targetid, "SURVEY": np.full(pairs, "main", "S7"), "PROGRAM": np.full(pairs, "dark", "S6"),
        "HEALPIX": (number // TARGETS).astype("i4"), "Z": rng.uniform(0, 1, pairs), "TARGET_RA": ra,
        "TARGET_DEC": dec, "RELEASE": release.astype("i2"), "BRICKID": brick.astype("i4"),
        "BRICK_OBJID": objid.astype("i4"),
    }  # fmt: skip
    fitsio.write(folder / "zall.fits", list(columns.values()), names=list(columns), extname="ZCATALOG")
    for pixel in range(-(-pairs // TARGETS)):
        mine = slice(pixel * TARGETS, (pixel + 1) * TARGETS)
        path = folder / f"healpix/main/dark/{pixel // 100}/{pixel}/coadd-main-dark-{pixel}.fits"
        write_coadd(path, targetid[mine], rng)
    order = rng.permutation(pairs)
    (folder / "south").mkdir()
    with h5py.File(folder / "south" / "images_npix152_000000000_001000000.h5", "w") as file:
        images = file.create_dataset("images", (pairs, 3, CUTOUT_SIZE, CUTOUT_SIZE), "f4")
        for i in range(pairs):
            images[i] = rng.standard_normal(images.shape[1:], dtype=np.float32)
        for name, values in {
            "ra": ra,
            "dec": dec,
            "release": release,
            "brickid": brick,
            "objid": objid,
        }.items():
            file[name] = values[order]
    return folder / "zall.fits", folder / "south"


def forget(folder: Path) -> None:
    """Drop the files of a folder from the page cache."""
    for path in folder.rglob("*.*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy_plainly(folder: Path, target: Path, size: int) -> float:
    """Read all input files, write `size` bytes; return seconds."""
    forget(folder)
    begin, piece = time.perf_counter(), bytearray(PIECE)
    for path in [*folder.rglob("*.fits"), *folder.rglob("images_*.h5")]:
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass
    with target.open("wb", buffering=0) as file:
        for at in range(0, size, PIECE):
            file.write(memoryview(piece)[: min(PIECE, size - at)])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    target.unlink()
    return seconds


def build(spectra: str, images: str, coadds: str, out: str) -> dict[str, float]:
    """Build the pairs in this process; return seconds and the peak of memory in GB."""
    from astroclip.crossmatch.build import build_pairs
    from astroclip.crossmatch.plan import CrossmatchSettings

    begin = time.perf_counter()
    report = build_pairs(spectra, images, out, coadds=coadds, settings=CrossmatchSettings(cut="none"))
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "peak": peak, "pairs": report.pair_rows}


def measure(folder: Path, spectra: Path, images: Path, out: Path) -> dict[str, float]:
    """Run `build` in a process of its own, from a cold cache."""
    forget(folder)
    words = [str(word) for word in (spectra, images, folder, out)]
    done = subprocess.run(
        [sys.executable, __file__, "--build", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; default: the system's temporary folder")
    parser.add_argument("--build", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        print(json.dumps(build(*args.build)))
        return
    root = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        peaks = {}
        for pairs in (args.pairs // 5, args.pairs):
            folder = root / str(pairs)
            folder.mkdir()
            spectra, images = write_survey(folder, pairs)
            ours, plain = [], []
            for _ in range(args.repeat if pairs == args.pairs else 1):
                run = measure(folder, spectra, images, root / "out")
                size = (root / "out.h5").stat().st_size
                for suffix in ("h5", "fits"):
                    (root / f"out.{suffix}").unlink()
                ours.append(run["seconds"])
                plain.append(copy_plainly(folder, root / "plain", size))
                print(f"{pairs} pairs: {ours[-1]:.2f} s; plain {plain[-1]:.2f} s; peak {run['peak']:.2f} GB")
            peaks[pairs] = run["peak"]
        print(f"throughput {min(plain) / min(ours):.2f} of plain reading and writing (best of each)")
        print("peak memory " + ", ".join(f"{peak:.2f} GB for {pairs} pairs" for pairs, peak in peaks.items()))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
