"""Multimodal Universe (arXiv:2412.02527): spectra of DESI and SDSS in HDF5; see `multimodal`.

Shapes: N rows of all files, m rows asked for, S wavelengths.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.grid import clean_spectra, combine_arms, place_arm, stack_spectra
from astroclip.data.hdf5file import Hdf5File, find_hdf5
from astroclip.data.multimodal import PATTERNS, SPECTRUM, MultimodalFiles
from astroclip.data.pixels import Spectra
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, desi_wave


class MultimodalSpectra(MultimodalFiles[Spectra]):
    """Spectra of Multimodal Universe files (use `open_multimodal_spectra`), each on its own grid.

    A pixel is bad where `spectrum_mask` is not 0. There is none where `spectrum_lambda` is not positive:
    behind the end of a shorter spectrum. Without `spectrum_lambda` the grid is DESI's. Not for several
    threads.
    """

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        parts = []
        for path, inside in self.by_file(rows):
            with Hdf5File(path) as h5:
                parts.append(_read_spectra(h5, inside))
        return stack_spectra(parts)

    def read_redshifts(self, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return redshift (NaN where a file has none) and whether it is good, of rows by number.

        Trap: in these files ZWARN is a truth value that is True where the redshift is *good*. Where it is a
        number it is Redrock's bit mask, good where 0; without ZWARN nothing is good.
        """
        unique, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        redshift, good = np.full(len(unique), np.nan), np.zeros(len(unique), bool)
        done = 0
        for path, inside in self.by_file(unique):
            at = slice(done, done + len(inside))
            done = at.stop
            with Hdf5File(path) as h5:
                if "Z" in h5:
                    redshift[at] = h5.read_rows("Z", inside)
                if "ZWARN" in h5:
                    zwarn = h5.read_rows("ZWARN", inside)
                    good[at] = zwarn if zwarn.dtype.kind == "b" else zwarn == 0
        return redshift[inverse], good[inverse] & np.isfinite(redshift[inverse])


def open_multimodal_spectra(path: str | Path) -> MultimodalSpectra:
    """Index the spectra of a file, or of all ``*.hdf5`` under a folder, by identity and position.

    Raises
    ------
    DataError
        If the path does not exist, or no file under it holds spectra; it names the first one's fault.
    """
    return MultimodalSpectra(f"spectra of {Path(path).name}", find_hdf5(path, PATTERNS), SPECTRUM)


def _read_spectra(h5: Hdf5File, rows: NDArray[np.int64]) -> Spectra:
    """Read ascending rows of a file."""
    flux, ivar = (h5.read_rows(f"spectrum_{name}", rows) for name in ("flux", "ivar"))
    wave, mask = desi_wave(), None
    if "spectrum_lambda" in h5:
        own = len(h5.shape("spectrum_lambda")) == 2
        wave = h5.read_rows("spectrum_lambda", rows) if own else h5.read("spectrum_lambda")
        wave = wave[0] if own and (wave == wave[:1]).all() else wave
    if flux.shape != ivar.shape or flux.shape[1:] != wave.shape[-1:]:
        raise DataError(
            f"{h5.path}: spectrum_flux of {flux.shape[1:]} pixels, spectrum_ivar {ivar.shape[1:]}, "
            f"wavelengths {wave.shape}. Expected the same of all, {N_WAVE} for DESI"
        )
    if "spectrum_mask" in h5:
        mask = h5.read_rows("spectrum_mask", rows)
    spectra = clean_spectra(wave, flux, ivar, mask)
    try:
        return combine_arms(len(rows), [place_arm(spectra)])
    except DataError:
        return spectra  # on another grid
