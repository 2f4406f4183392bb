"""First: a sky of mock galaxies in the surveys' own files, and which image belongs to which spectrum.

    python examples/1_make_pairs.py FOLDER

With real files leave `make_mock` out, and give `build_pairs` a DESI catalogue and a folder of images.
"""

import os
import sys
from pathlib import Path

from astroclip.crossmatch.build import build_pairs
from astroclip.mock.survey import make_mock


def main(folder: Path, galaxies: int = 500) -> None:
    sky = folder / "sky"
    make_mock(sky, galaxies, seed=7, workers=os.cpu_count() or 1)
    labels = [sky / "BGS_ANY_full.provabgs.sv3.v0.hdf5", sky / "gz_decals_volunteers_5.csv"]
    report = build_pairs(
        sky / "zcatalog" / "zall-pix-mock.fits", sky / "south", folder / "pairs", labels=labels
    )
    print(f"{report.pairs}: {report.pair_rows} pairs")
    for reason, rows in report.reasons.items():
        print(f"  {reason}: {rows} of {report.rows} spectra")


if __name__ == "__main__":  # the workers of make_mock read this file too
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "walk"))
