"""Angles as tables write them: units in many spellings, and sexagesimal text.

The readers of positions (`tables.positions`) and what a user types (`parse_position`) use both.
"""

import re
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from astroclip.errors import UsageError
from astroclip.sky import FloatArray

HOURS = 15.0  # degrees
YEARS = ("", "yr", "y", "year", "a", "jyear", "jyr", "julianyear", "julianyr")
# how units are written, without blanks, brackets and a final s, in lower case -> degrees
_DIALECTS = {
    1.0: ("", "deg", "degree", "d", "°", "º", "ddeg", "decimaldeg", "decimaldegree", "angledeg", "degdeg"),
    15.0: ("h", "hr", "hour", "hourangle", "decimalhour"),
    180 / np.pi: ("rad", "radian", "anglerad"),
    1 / 60: ("arcmin", "arcminute", "amin", "minuteofarc"),
    1 / 3600: ("arcsec", "arcsecond", "asec", "secondofarc"),
    1 / 3.6e6: ("mas", "milliarcsec", "milliarcsecond"),
}
_SCALES = {name: scale for scale, names in _DIALECTS.items() for name in names}
_MARKS = {"'": 1 / 60, "′": 1 / 60, '"': 1 / 3600, "″": 1 / 3600, "''": 1 / 3600}
_SEXAGESIMAL = ("hms", "hhmmss", "hhmmss.s", "dms", "ddmmss", "ddmmss.s", "hmsdms", "sexagesimal")
_PLURAL = {f"{name}s" for name in (*_SCALES, *YEARS, "day") if len(name) > 1}
# 10:41:02.5, 10 41 02.5, 10h41m02.5s, 10d41'02.5", 10:41.5, 10.5h; a number alone is none
_ANGLE = (
    r"^(?P<sign>[+−-]?)\s*(?P<whole>\d+(?:\.\d*)?|\.\d+)"
    r"(?:(?P<unit>\s*[hHdD°º]\s*|\s*:\s*|\s+)"
    r"(?:(?P<minute>\d+(?:\.\d*)?)\s*(?:[mM'′:]|\s|$)\s*(?:(?P<second>\d+(?:\.\d*)?|\.\d+)\s*(?:s|S|\"|″|'')?)?)?)?$"
)


def degrees_of(unit: str) -> float | None:
    """Return how many degrees a unit of angle is, 1 for none; None if it is no unit of angle."""
    scale = _MARKS.get(unit.strip(), _SCALES.get(bare_unit(unit)))
    return _by_astropy(unit, "deg") if scale is None else scale


def is_sexagesimal(unit: str) -> bool:
    """Tell whether a unit says that a text is sexagesimal, as ``"h:m:s"`` of VizieR."""
    return bare_unit(unit).replace(":", "") in _SEXAGESIMAL


def mas_per_year(unit: str) -> float | None:
    """Return how many mas/yr a unit of proper motion is, 1 for none; None if it is no such unit."""
    if not unit.strip():
        return 1.0
    words = re.match(
        r"^(.*?)(?:/|\s*per\s*|[\s.*]+(?=[a-z]+\s*\^?\(?(?:\*\*)?\(?-1))(.*)$", unit.strip().lower()
    )
    if words is None:
        return _by_astropy(unit, "mas / yr")
    angle = _SCALES.get(bare_unit(words[1]))
    year = re.sub(r"\*\*|\^|\(|\)|-1", "", bare_unit(words[2]))
    if angle is None or not bare_unit(words[1]) or year not in YEARS[1:]:
        return _by_astropy(unit, "mas / yr")
    return angle * 3.6e6


def bare_unit(unit: str) -> str:
    """Return a unit in lower case without blanks, brackets, quotes, and a plural's s."""
    bare = re.sub(r"[\s\[\]\"'`_]|\(.*?\)", "", unit.lower()).rstrip(".")
    return bare[:-1] if bare in _PLURAL else bare


def _by_astropy(unit: str, into: str) -> float | None:
    """Return what a unit counts in another one, if astropy knows it in any of the formats in use."""
    from astropy import units

    for form in ("generic", "fits", "cds", "ogip", "vounit"):
        try:
            with warnings.catch_warnings(action="ignore"):
                known = units.Unit(unit.strip(), format=form, parse_strict="raise")
            return float(known.to(units.Unit(into)))
        except (ValueError, TypeError, units.UnitsError):
            continue
    return None


def parse_angles(
    texts: NDArray[np.str_], number: float = 1.0, sexagesimal: float = HOURS
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Read angles in text, as astropy's Angle does.

    Parameters
    ----------
    texts
        (n,): numbers, or sexagesimal as 10:41:02.5, 10 41 02.5, 10h41m02.5s, -5d30m1.5s, 10:41.5.
    number
        Degrees that a plain number counts.
    sexagesimal
        Degrees that the first part of a sexagesimal text counts, 15 for hours; h or d in the text win.

    Returns
    -------
    (n,) deg, NaN where there is none; and which texts are no angle.
    """
    parts = pc.extract_regex(pa.array(texts.tolist(), pa.string()), _ANGLE)
    bad = np.asarray(parts.is_null())
    part = {name: pc.struct_field(parts, name) for name in ("sign", "whole", "unit", "minute", "second")}
    unit = np.char.lower(np.char.strip(np.asarray(pc.fill_null(part["unit"], "").to_pylist(), str)))
    whole, minute, second = (_numbers(part[name]) for name in ("whole", "minute", "second"))
    split = np.asarray(pc.not_equal(pc.fill_null(part["unit"], ""), ""))
    alone = split & np.asarray(pc.equal(pc.fill_null(part["minute"], ""), ""))
    bad |= (minute > 60) | (second > 60) | (alone & ~np.isin(unit, ("h", "d", "°", "º")))
    bad |= (split & ~alone & (whole % 1 != 0)) | ((second > 0) & (minute % 1 != 0))
    scale = np.select([np.isin(unit, ("d", "°", "º")), unit == "h", split], [1.0, 15.0, sexagesimal], number)
    sign = np.where(np.asarray(pc.is_in(part["sign"], pa.array(["-", "−"]))), -1.0, 1.0)
    angles = sign * (whole + minute / 60 + second / 3600) * scale
    plain = bad.copy()
    for i in np.flatnonzero(plain):  # numbers in another notation, as 1.5e2; the rest is no angle
        try:
            angles[i], bad[i] = float(texts[i]) * number, False
        except ValueError:
            angles[i] = np.nan
    return angles, bad


def parse_position(text: str) -> tuple[float, float]:
    """Return the right ascension and declination, ICRS degrees, that a user wrote.

    Two numbers are degrees; sexagesimal is hours and degrees: ``150.1 2.2``, ``150.1,2.2``,
    ``10:00:24 +02:12:00``, ``10h00m24s 2d12m``, ``10 00 24 +02 12 00``.

    Raises
    ------
    UsageError
        If it is no position, or not on the sky.
    """
    parts = [part.strip() for part in text.split(",")] if "," in text else _halves(text.split())
    angles, bad = np.zeros(2), np.ones(2, bool)
    if len(parts) == 2:
        found = [
            parse_angles(np.array([part]), 1.0, scale) for part, scale in zip(parts, (15.0, 1.0), strict=True)
        ]
        angles, bad = np.array([angle[0] for angle, _ in found]), np.array([wrong[0] for _, wrong in found])
    if bad.any():
        raise UsageError(
            f"position '{text}': expected right ascension and declination in degrees, as '150.1 2.2', or in "
            "hours and degrees, as '10:00:24 +02:12:00'"
        )
    ra, dec = (float(angle) for angle in angles)
    if not (-360 <= ra <= 360 and -90 <= dec <= 90):
        raise UsageError(f"position '{text}': no such place on the sky (ICRS)")
    return ra, dec


def _halves(words: list[str]) -> list[str]:
    """Divide words into the two coordinates: before a sign, else in the middle."""
    signed = [at for at, word in enumerate(words) if at and word[0] in "+-−"]
    at = signed[0] if len(signed) == 1 else len(words) // 2
    return [" ".join(words[:at]), " ".join(words[at:])] if words and (signed or not len(words) % 2) else []


def _numbers(texts: pa.Array) -> FloatArray:
    """Return parts of a text as numbers, 0 where there is none."""
    filled = pc.if_else(pc.equal(pc.fill_null(texts, ""), ""), "0", texts)
    return np.asarray(filled.cast(pa.float64()))
