"""SDSS: single spectra of the SDSS and BOSS spectrographs, on their own wavelength grid.

Data model: https://data.sdss.org/datamodel/files/BOSS_SPECTRO_REDUX/RUN2D/spectra/PLATE4/spec.html; SDSS-V
names its targets by FIELD and CATALOGID instead of PLATE and FIBERID, in files of the same form.
Shapes: W pixels of a spectrum, n files of a folder.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.fitsfile import FitsFile, check_flux_unit
from astroclip.data.grid import find_good, stack_spectra
from astroclip.data.kinds import Kind, find_fits
from astroclip.data.pixel_rows import IndexedFiles, OwnRows
from astroclip.data.pixels import BY_FIBER, BY_POSITION, Spectra
from astroclip.errors import DataError
from astroclip.tables.identity import Who

# Bits of SPPIXMASK (https://www.sdss4.org/dr17/algorithms/bitmasks) that spoil a pixel if every exposure
# has them: three that come with ivar 0, and bright sky, which the SDSS redshift pipeline leaves out too.
FULLREJECT, NOSKY, BRIGHTSKY, NODATA = 1 << 18, 1 << 22, 1 << 23, 1 << 24
BAD_PIXEL = FULLREJECT | NOSKY | BRIGHTSKY | NODATA
_NAME = re.compile(r"spec(?:-lite)?-(\d+|all[a-z]*)-(\d+)-(\d+)\.fits(?:\.gz)?$")
_LONGEST_FIBER = 4  # digits; a longer last number is a CATALOGID
# what SPECOBJ, or SPALL, may call a fact
_FACTS = {
    "plate": ("PLATE",),
    "mjd": ("MJD",),
    "fiber": ("FIBERID",),
    "field": ("FIELD",),
    "catalogid": ("CATALOGID",),
    "ra": ("PLUG_RA", "RACAT", "FIBER_RA"),
    "dec": ("PLUG_DEC", "DECCAT", "FIBER_DEC"),
    "redshift": ("Z",),
    "redshift_err": ("Z_ERR",),
    "zwarn": ("ZWARNING",),
    "spectype": ("CLASS",),
}
_MISSING = {"ra": np.nan, "dec": np.nan, "redshift": np.nan, "redshift_err": np.nan, "spectype": ""}
_KEY = {"PLATE": "plate", "MJD": "mjd", "FIBERID": "fiber", "FIELD": "field", "CATALOGID": "catalogid"}


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
    plate, mjd, fiber, field, catalogid
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
    field: int
    catalogid: int
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
    good = find_good(flux, ivar, mask)
    mask = np.where(good, 0, np.where(mask == 0, NODATA, mask)).astype(np.int32)
    wave = 10.0**loglam
    return SdssSpectrum(wave, np.where(good, flux, 0), np.where(good, ivar, 0), mask, **facts)


class SpecFiles(IndexedFiles[Spectra]):
    """The spectra of files, found by PLATE, MJD and FIBERID, by CATALOGID, else by position.

    Identity is that of the file's name, else of its SPECOBJ. A file that cannot be read is in `files` and in
    `problems`: reading its spectrum says why.
    """

    def __init__(self, name: str, files: list[Path]) -> None:
        facts, problems = [], []
        for path in files:
            try:
                with FitsFile(path, whole=False) as file:
                    found = _read_facts(file)
            except DataError as error:
                problems.append((path, str(error)))
                found = _no_facts()
            facts.append(found | _parse_name(path.name))
        ids = {key: np.array([one[fact] for one in facts], np.int64) for key, fact in _KEY.items()}
        ra, dec = (np.array([one[axis] for one in facts], float) for axis in ("ra", "dec"))
        ways = {BY_FIBER: ids["FIBERID"] >= 0, "CATALOGID": ids["CATALOGID"] >= 0, BY_POSITION: ra == ra}  # noqa: PLR0124
        found_by = tuple(way for way, known in ways.items() if known.any()) or (BY_FIBER,)
        super().__init__(name, found_by, files, [Who(ids, ra, dec)])
        self.first = np.arange(len(files) + 1)
        self.problems = problems

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        return stack_spectra(_as_spectra(read_spec(self.files[row])) for row in rows)


class SpecRow(OwnRows[Spectra]):
    """The one spectrum of a file that is the table itself."""

    def __init__(self, path: Path) -> None:
        super().__init__("its own spectra")
        self._spectra = _as_spectra(read_spec(path))

    def __len__(self) -> int:
        return 1

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        return self._spectra.take(rows)


def open_specs(path: str | Path) -> SpecFiles:
    """Index the spec-*.fits under a folder (or one file) by identity and position.

    Without any, those in the folder that hold such a spectrum under another name.

    Raises
    ------
    DataError
        If the path does not exist, or the one file cannot be read. A folder without spectra gives an empty
        set.
    """
    root = Path(path)
    name = f"spectra of {root.name}"
    if root.is_file():
        read_spec(root)
        return SpecFiles(name, [root])
    if not root.is_dir():
        raise DataError(f"{root}: no such file or folder")
    return SpecFiles(name, find_fits(root, ("spec-",), (Kind.SPEC,)))


def read_facts(path: str | Path) -> dict[str, Any]:
    """Return what the survey says of a file's spectrum: the fields of `SdssSpectrum` but the pixels."""
    with FitsFile(path, whole=False) as file:
        return _read_facts(file)


def _as_spectra(one: SdssSpectrum) -> Spectra:
    return Spectra(one.wave, one.flux[None], one.ivar[None], one.mask[None])


def _parse_name(name: str) -> dict[str, Any]:
    """Return the identity in a file's name: PLATE-MJD-FIBERID, or FIELD-MJD-CATALOGID of SDSS-V."""
    parts = _NAME.match(name)
    if not parts:
        return {}
    group, mjd, number = parts.groups()
    keys = ("plate", "fiber") if len(number) <= _LONGEST_FIBER else ("field", "catalogid")
    known = {"mjd": int(mjd), keys[1]: int(number)}
    return known | ({keys[0]: int(group)} if group.isdecimal() else {})


def _no_facts() -> dict[str, Any]:
    return {fact: _MISSING.get(fact, -1) for fact in _FACTS}


def _read_facts(file: FitsFile) -> dict[str, Any]:
    """Read what the survey says of a spectrum, from the one row of SPECOBJ (SPALL in old files, SDSS-V)."""
    hdu = next((name for name in ("SPECOBJ", "SPALL") if name in file), None)
    every = [name for names in _FACTS.values() for name in names]
    row = {k: v[0] for k, v in file.table(hdu, [], every).items() if len(v)} if hdu else {}
    facts = _no_facts()
    for fact, names in _FACTS.items():
        found = next((row[name] for name in names if name in row), None)
        if found is not None:
            facts[fact] = type(facts[fact])(found)
    return facts
