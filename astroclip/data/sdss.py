"""SDSS: single spectra of the SDSS and BOSS spectrographs, on their own wavelength grid.

Data model: https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html
Shapes: W pixels of a spectrum, n files of a folder, m rows asked for.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.fitsfile import FitsFile, check_flux_unit
from astroclip.errors import DataError
from astroclip.sky import match_nearest

# Bits of SPPIXMASK (https://www.sdss4.org/dr17/algorithms/bitmasks) that spoil a pixel if every exposure
# has them: three that come with ivar 0, and bright sky, which the SDSS redshift pipeline leaves out too.
FULLREJECT, NOSKY, BRIGHTSKY, NODATA = 1 << 18, 1 << 22, 1 << 23, 1 << 24
BAD_PIXEL = FULLREJECT | NOSKY | BRIGHTSKY | NODATA
_NAME = re.compile(r"spec(?:-lite)?-(\d+)-(\d+)-(\d+)\.fits(?:\.gz)?$")


class SdssSpectrum(NamedTuple):
    """One SDSS spectrum with what the survey says of it.

    Attributes
    ----------
    wave
        (W,) Å, vacuum, barycentric, equal steps in log wave.
    flux
        (W,) float32, 1e-17 erg/s/cm²/Å; 0 where `ivar` is 0.
    ivar
        (W,) float32; 0 where there is no good measurement.
    mask
        (W,) int32 SPPIXMASK bits; 0 where `ivar` is positive, never 0 elsewhere.
    plate, mjd, fiber
        Identity; -1 where the file does not tell.
    ra, dec
        ICRS degrees; NaN where the file does not tell.
    redshift, redshift_err
        The pipeline's; NaN where the file does not tell.
    zwarn
        0 is good, -1 where the file does not tell.
    spectype
        GALAXY, QSO or STAR; "" where the file does not tell.
    """

    wave: NDArray[np.float64]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    mask: NDArray[np.int32]
    plate: int
    mjd: int
    fiber: int
    ra: float
    dec: float
    redshift: float
    redshift_err: float
    zwarn: int
    spectype: str


def read_spec(path: str | Path) -> SdssSpectrum:
    """Read a spec-PLATE-MJD-FIBER.fits file: its COADD, and its SPECOBJ (or SPALL) row.

    A pixel is bad if its ivar is not positive, its flux not finite, or `and_mask` has one of `BAD_PIXEL`;
    then flux and ivar are 0 and the mask holds these bits, or `NODATA`. Other bits of `and_mask` warn only
    and are not passed on.

    Raises
    ------
    DataError
        If the file is cut short, lacks COADD or its flux, loglam, ivar, or has other units.
    """
    with FitsFile(path) as file:
        header = file.header("COADD")
        table = file.table("COADD", ["FLUX", "LOGLAM", "IVAR"], ["AND_MASK"])
        unit = header.get(f"TUNIT{file.columns('COADD').index('FLUX') + 1}") or file.header(0).get("BUNIT")
        check_flux_unit(f"{file.path}: HDU COADD", unit)
        facts = _read_facts(file)
    loglam = table["LOGLAM"].astype(np.float64)
    if not (loglam.size and np.all(np.diff(loglam) > 0) and 2 < loglam[0] < loglam[-1] < 5):
        raise DataError(
            f"{path}: HDU COADD, column LOGLAM: not the rising log10 of wavelengths in Angstrom. "
            "Expected values near 3.55 to 4.02"
        )
    flux, ivar = table["FLUX"].astype(np.float32), table["IVAR"].astype(np.float32)
    mask = table.get("AND_MASK", np.zeros(loglam.size)).astype(np.int32) & BAD_PIXEL
    good = (mask == 0) & np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
    mask = np.where(good, 0, np.where(mask == 0, NODATA, mask)).astype(np.int32)
    wave = 10.0**loglam
    return SdssSpectrum(wave, np.where(good, flux, 0), np.where(good, ivar, 0), mask, **facts)


def is_spec(path: str | Path) -> bool:
    """Tell whether `path` is a FITS file with a table COADD of flux and loglam; reads headers only."""
    try:
        with FitsFile(path, whole=False) as file:
            return "COADD" in file and {"FLUX", "LOGLAM"} <= set(file.columns("COADD"))
    except DataError:
        return False


def spec_path(folder: str | Path, plate: int, mjd: int, fiber: int) -> Path | None:
    """Return the file of a spectrum, in `folder` or in a sub-folder named by the 4-digit plate, or None."""
    root, name = Path(folder), f"spec-{plate:04d}-{mjd:05d}-{fiber:04d}.fits"
    places = (root / part / f"{name}{gz}" for part in ("", f"{plate:04d}") for gz in ("", ".gz"))
    return next((place for place in places if place.is_file()), None)


class SpecIndex(NamedTuple):
    """The spectra of a folder.

    Attributes
    ----------
    files
        All of them, sorted, also those that cannot be read.
    plate, mjd, fiber
        (n,) from the file's name, else from its SPECOBJ; -1 where neither tells.
    ra, dec
        (n,) ICRS degrees; NaN where the file cannot be read or does not tell.
    unreadable
        The files that cannot be read, and why.
    """

    files: list[Path]
    plate: NDArray[np.int64]
    mjd: NDArray[np.int64]
    fiber: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    unreadable: list[tuple[Path, str]]

    def lookup(
        self, plate: ArrayLike, mjd: ArrayLike, fiber: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return for each (plate, mjd, fiber) its file's index (-1: none) and whether several fit, (m,)."""
        asked = np.stack([np.atleast_1d(np.asarray(x, np.int64)) for x in (plate, mjd, fiber)], axis=1)
        have = np.stack([self.plate, self.mjd, self.fiber], axis=1)
        _, key = np.unique(np.concatenate([have, asked]), axis=0, return_inverse=True)
        have_key, asked_key = key[: len(have)], key[len(have) :]
        order = np.argsort(have_key, kind="stable")
        low = np.searchsorted(have_key[order], asked_key, side="left")
        count = np.searchsorted(have_key[order], asked_key, side="right") - low
        count[(asked < 0).any(axis=1)] = 0
        first = np.append(order, -1)[np.minimum(low, len(order))]
        return np.where(count > 0, first, -1), count > 1

    def lookup_position(
        self, ra: ArrayLike, dec: ArrayLike, radius_arcsec: float = 1.0
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return for each position the nearest file within the radius (-1: none), and whether several fit."""
        if not radius_arcsec > 0:
            return np.full(np.size(ra), -1), np.zeros(np.size(ra), bool)
        near = match_nearest((ra, dec), (self.ra, self.dec), radius_arcsec)
        return near.row, near.several


def find_specs(folder: str | Path) -> SpecIndex:
    """Index the spec-*.fits under a folder (or one file) by identity and position.

    Raises
    ------
    DataError
        If the path does not exist. A folder without spectra gives an empty index.
    """
    root = Path(folder)
    if not root.exists():
        raise DataError(f"{root}: no such file or folder")
    patterns = ("spec-*.fits", "spec-*.fits.gz")
    files = [root] if root.is_file() else sorted(p for pattern in patterns for p in root.rglob(pattern))
    rows, unreadable = [], []
    for path in files:
        row = [-1.0, -1.0, -1.0, np.nan, np.nan]
        try:
            with FitsFile(path, whole=False) as file:
                facts = _read_facts(file)
            row = [float(facts[key]) for key in ("plate", "mjd", "fiber", "ra", "dec")]
        except DataError as error:
            unreadable.append((path, str(error)))
        if name := _NAME.match(path.name):
            row[:3] = map(float, name.groups())
        rows.append(row)
    table = np.array(rows, float).reshape(len(files), 5)
    plate, mjd, fiber = table[:, :3].astype(np.int64).T
    return SpecIndex(files, plate, mjd, fiber, table[:, 3], table[:, 4], unreadable)


def _read_facts(file: FitsFile) -> dict[str, Any]:
    """Read what the survey says of a spectrum, from the one row of SPECOBJ (SPALL in old files)."""
    hdu = next((name for name in ("SPECOBJ", "SPALL") if name in file), None)
    names = ("PLATE", "MJD", "FIBERID", "PLUG_RA", "PLUG_DEC", "Z", "Z_ERR", "ZWARNING", "CLASS")
    row = {k: v[0] for k, v in file.table(hdu, [], names).items() if len(v)} if hdu else {}
    return {
        "plate": int(row.get("PLATE", -1)),
        "mjd": int(row.get("MJD", -1)),
        "fiber": int(row.get("FIBERID", -1)),
        "ra": float(row.get("PLUG_RA", np.nan)),
        "dec": float(row.get("PLUG_DEC", np.nan)),
        "redshift": float(row.get("Z", np.nan)),
        "redshift_err": float(row.get("Z_ERR", np.nan)),
        "zwarn": int(row.get("ZWARNING", -1)),
        "spectype": str(row.get("CLASS", "")),
    }
