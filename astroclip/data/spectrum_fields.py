"""What people call the parts of a spectrum, in columns of a table or fields of a nested column.

Names are compared without case and without underscores. Wavelengths are vacuum unless their name says air.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.sdss import BAD_PIXEL
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, WAVE_MIN, WAVE_STEP

_WAVE = (
    "wave",
    "wavelength",
    "lambda",
    "lam",
    "wavelengths",
    "waves",
    "lambdas",
    "wl",
    "wvl",
    "spectralaxis",
)
_VACUUM = ("{}", "{}vac", "vac{}", "{}vacuum", "vacuum{}", "{}obs", "obs{}", "observed{}")
_UNITS = ("", "angstrom", "angstroms", "ang", "aa", "a", "nm", "um", "micron", "microns")
# names of wavelengths, and the unit that each says itself
WAVE_NAMES = {f"{form.format(n)}{unit}": unit for unit in _UNITS for form in _VACUUM for n in _WAVE}
LOG_WAVE_NAMES = tuple(f"{log}{n}" for log in ("log", "log10") for n in _WAVE)
AIR_NAMES = tuple(form.format(n) for form in ("{}air", "air{}", "{}inair") for n in _WAVE)
IVAR_NAMES = ("ivar", "inversevariance", "invvar", "inversevar", "invvariance")
ERROR_NAMES = ("err", "error", "sigma", "noise", "uncertainty", "unc", "std", "stddev", "e")
VARIANCE_NAMES = ("var", "variance")
MASK_NAMES = ("mask", "badpix", "badpixel", "badpixels", "bad")
AND_MASK = "andmask"  # of SDSS: most of its bits warn only
# what a wavelength is multiplied with to be in Å, by unit
ANGSTROMS = {
    **dict.fromkeys(("", "angstrom", "angstroms", "ang", "aa", "a", "å", "0.1nm", "1e-10m", "10**-10m"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 10.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e10),
}
_LOG_UNIT = re.compile(r"(?:log10|log|dex)[(\[ ]*([^)\]]*)[)\]]*")


class SpectrumParts(NamedTuple):
    """Names of the parts of a spectrum; None where there is no such part.

    `noise_kind` is ``ivar``, ``error`` or ``variance``.
    """

    flux: str
    wave: str | None
    noise: str | None
    noise_kind: str
    mask: str | None

    @property
    def names(self) -> list[str]:
        """All that there are."""
        return [name for name in (self.flux, self.wave, self.noise, self.mask) if name]


def plain(name: str) -> str:
    """Return a name without case, underscores and the like."""
    return re.sub(r"[\W_]", "", name.lower())


def find_parts(names: Iterable[str], flux: str) -> SpectrumParts:
    """Return which of some names are the wavelengths, the noise and the mask that belong to a flux.

    Those named like the flux come first: beside ``spectrum_flux``, ``spectrum_ivar`` before ``ivar``.
    """
    known = {plain(name): name for name in reversed(list(names)) if name != flux}
    before, _, behind = plain(flux).partition("flux")

    def find(*candidates: str) -> str | None:
        forms = [f"{before}{c}{behind}" for c in candidates] if before or behind else []
        forms += [form for c in candidates for form in (c, f"flux{c}", f"{c}flux")]
        return next((known[form] for form in forms if form in known and form != plain(flux)), None)

    kinds = {"ivar": IVAR_NAMES, "error": ERROR_NAMES, "variance": VARIANCE_NAMES}
    kind = next((kind for kind, forms in kinds.items() if find(*forms)), "ivar")
    wave, mask = find(*WAVE_NAMES, *LOG_WAVE_NAMES), find(*MASK_NAMES, AND_MASK)
    return SpectrumParts(flux, wave, find(*kinds[kind]), kind, mask)


def find_flux(names: Iterable[str]) -> str | None:
    """Return the name of the flux among the fields of a structure."""
    known = {plain(name): name for name in reversed(list(names))}
    return next(
        (known[form] for form in ("flux", "spectrumflux", "fluxlambda", "flam") if form in known), None
    )


def find_air(names: Iterable[str]) -> str | None:
    """Return the first name that says wavelengths in air."""
    return next((name for name in names if plain(name) in AIR_NAMES), None)


def is_wave_name(name: str) -> bool:
    """Tell whether a name is one of wavelengths in vacuum."""
    return plain(name) in WAVE_NAMES or plain(name) in LOG_WAVE_NAMES


def sounds_like_wave(name: str) -> bool:
    """Tell whether a name speaks of wavelengths."""
    return any(word in plain(name) for word in ("wave", "lambda", "loglam", "angstrom"))


def to_angstrom(values: NDArray, name: str, unit: str, where: str) -> NDArray[np.float64]:
    """Return wavelengths in Å, by unit and name: linear, or their logarithm to base 10.

    Raises
    ------
    DataError
        If the unit is none of length.
    """
    text = plain(name).replace("flux", "")
    is_log = text.endswith(LOG_WAVE_NAMES)
    said = max((form for form in WAVE_NAMES if text.endswith(form)), key=len, default="")
    found = re.sub(r"\s", "", unit.lower()) or ("" if is_log else WAVE_NAMES.get(said, ""))
    log_unit = _LOG_UNIT.fullmatch(found)
    factor = ANGSTROMS.get(log_unit[1] if log_unit else found)
    if factor is None:
        raise DataError(
            f"{where}: wavelengths in '{unit}', expected Angstrom, nm, um or log10(Angstrom). Convert them"
        )
    wave = np.asarray(values, np.float64)
    return (10.0**wave if log_unit or is_log else wave) * factor


def check_wave(wave: NDArray[np.float64], where: str) -> None:
    """Refuse wavelengths of one spectrum that do not ascend, or are not in Å.

    Raises
    ------
    DataError
        Naming `where`, and the unit that they seem to be in.
    """
    known = wave[np.isfinite(wave)]
    if (np.diff(known) <= 0).any():
        raise DataError(
            f"{where}: wavelengths do not ascend. Sort the pixels by vacuum wavelength in Angstrom"
        )
    if known.size and (problem := explain_range(float(known[0]), float(known[-1]))):
        raise DataError(f"{where}: wavelengths run {problem}")


def explain_range(low: float, high: float) -> str | None:
    """Say what is wrong with wavelengths that do not reach DESI's grid; None if they do."""
    end = WAVE_MIN + WAVE_STEP * (N_WAVE - 1)
    if high > WAVE_MIN and low < end:
        return None
    guesses = {"nm": (10 * low, 10 * high), "micron": (1e4 * low, 1e4 * high), "m": (1e10 * low, 1e10 * high)}
    if high < 10:
        guesses["log10(Å)"] = (10**low, 10**high)
    guess = next((f": is it in {unit}?" for unit, (a, b) in guesses.items() if b > WAVE_MIN and a < end), ".")
    return (
        f"from {low:.6g} to {high:.6g}, outside DESI's {WAVE_MIN:.0f} to {end:.0f} Å{guess} Expected vacuum "
        "wavelengths in Å"
    )


def to_ivar(values: NDArray, kind: str) -> NDArray[np.float32]:
    """Return inverse variances, 0 where an error or a variance is not positive."""
    noise = np.asarray(values, np.float64)
    if kind == "ivar":
        return noise.astype(np.float32)
    variance = noise**2 if kind == "error" else noise
    good = np.isfinite(noise) & (noise > 0)
    return np.divide(1, variance, out=np.zeros_like(variance), where=good).astype(np.float32)


def to_mask(values: NDArray, name: str) -> NDArray[np.int32]:
    """Return a mask, 0 where a pixel is good; one that is missing is bad."""
    mask = np.ma.filled(np.ma.asarray(values), 1)
    if mask.dtype.kind == "f":
        mask = np.nan_to_num(mask, nan=1)
    if mask.dtype.itemsize > np.dtype(np.int32).itemsize:
        mask = (mask != 0).astype(np.int32)
    bits: NDArray[np.int32] = mask.astype(np.int32)
    return bits & BAD_PIXEL if plain(name) == AND_MASK else bits
