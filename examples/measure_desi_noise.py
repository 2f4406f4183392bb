"""Measure the shape of DESI's noise on real coadds: how `astroclip/mock/desi_noise.npz` was made.

    python examples/measure_desi_noise.py DIR OUT.npz

DIR holds real DESI coadds (EDR/DR1; CC BY 4.0, DESI Collaboration 2023, arXiv:2306.06308). The variance of
each spectrum is normalised by its median in the R arm; the median over spectra removes the objects. OUT has
for each arm log10 of the variance without sky lines (`<arm>_continuum`, every 16 pixels) and log10 of the
factor by which sky lines raise it (`<arm>_sky`, every pixel); no spectrum is copied.
"""

import sys
from pathlib import Path

import fitsio
import numpy as np

KNOT = 16  # px


def read_variances(folder: Path) -> dict[str, np.ndarray]:
    """Return, for each arm, the variances (N, n) of all spectra that hold data, in units of the R median."""
    found: dict[str, list[np.ndarray]] = {arm: [] for arm in "BRZ"}
    for path in sorted(folder.glob("coadd-*.fits*")):
        ivar = {arm: fitsio.read(path, f"{arm}_IVAR").astype(float) for arm in "BRZ"}
        for row in np.flatnonzero((ivar["R"] > 0).any(axis=1)):
            with np.errstate(divide="ignore"):
                variance = {arm: np.where(ivar[arm][row] > 0, 1 / ivar[arm][row], np.nan) for arm in "BRZ"}
            for arm in "BRZ":
                found[arm].append(variance[arm] / np.nanmedian(variance["R"]))
    return {arm: np.array(rows) for arm, rows in found.items()}


def smooth(values: np.ndarray, width: int, percentile: float) -> np.ndarray:
    """Return a running percentile over `width` pixels."""
    padded = np.pad(values, width // 2, mode="reflect", reflect_type="odd")
    return np.percentile(np.lib.stride_tricks.sliding_window_view(padded, width), percentile, axis=1)


def main() -> None:
    """Measure and write."""
    table = {}
    for arm, rows in read_variances(Path(sys.argv[1])).items():
        log_variance = np.log10(np.nanmedian(rows, axis=0))
        # The percentile follows the gaps between OH lines; the blue arm has one line only.
        base = smooth(smooth(log_variance, 61 if arm != "B" else 41, 25 if arm == "Z" else 40), 25, 50)
        knots = base[::KNOT]
        grid = np.arange(len(base))
        continuum = np.interp(grid, grid[::KNOT], knots)
        sky = np.where(log_variance - continuum > 0.06, log_variance - continuum, 0.0)
        if arm == "B":
            sky[:2400] = 0.0  # below 5520 Å: amplifier glow of single spectrographs, not sky
        table[f"{arm.lower()}_continuum"] = knots.astype(np.float16)
        table[f"{arm.lower()}_sky"] = np.round(sky, 2).astype(np.float16)
    np.savez_compressed(sys.argv[2], **table)


if __name__ == "__main__":
    main()
