"""Who is in a file, by its name: an identifier or a position, as people and services write them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.lookup import FILE
from astroclip.data.targetid import encode_targetid
from astroclip.schema import TARGETID
from astroclip.tables.identity import Who

_SUFFIX = re.compile(r"(\.fits(\.fz|\.gz)?|\.png|\.jpe?g)$", re.IGNORECASE)
_ID = re.compile(r"(?:^|_)(\d{1,18}(?:-\d+-\d+)?)$")  # of a stem: TARGETID, or RELEASE-BRICKID-OBJID
_DEGREES = re.compile(r"(?<![\d.])(\d{1,3}\.\d+)(?:[_,\s]+([+-]?\d{1,2}\.\d+)|([+-]\d{1,2}\.\d+))")
_IAU = re.compile(r"J(\d\d)(\d\d)(\d\d\.\d+)([+-])(\d\d)(\d\d)(\d\d(?:\.\d+)?)")  # hours and degrees


class FileNames(NamedTuple):
    """What the names of n files say.

    Attributes
    ----------
    text
        (n,) the identifier as it is written, "" where there is none.
    who
        TARGETID, which RELEASE-BRICKID-OBJID is encoded to, the name itself as FILE, and position.
    """

    text: NDArray[np.str_]
    who: Who


def read_names(files: Sequence[Path]) -> FileNames:
    """Read identifier and position in the names of files.

    The identifier is the whole name or what follows the last underscore: a TARGETID, or
    RELEASE-BRICKID-OBJID. The position is in degrees, as in ``cutout_150.1234_-2.2000.jpg``, or in hours and
    degrees, as in ``J100030.12-021200.5.png``.
    """
    stems = [_SUFFIX.sub("", path.name) for path in files]
    text = [found[1] if (found := _ID.search(stem)) else "" for stem in stems]
    places = np.array([_position(stem) for stem in stems], float).reshape(-1, 2)
    ids = {
        TARGETID: np.array([_targetid(one) for one in text], np.int64),
        FILE: np.array([path.name for path in files], str),
    }
    return FileNames(np.array(text, str), Who(ids, places[:, 0], places[:, 1]))


def _targetid(text: str) -> int:
    """Return the TARGETID of an identifier, -1 for none."""
    numbers = [int(number) for number in text.split("-") if number]
    if len(numbers) == 3:
        return int(encode_targetid(*numbers))
    return numbers[0] if numbers else -1


def _position(stem: str) -> tuple[float, float]:
    """Return the right ascension and declination in a name, degrees; NaN for none."""
    if found := _DEGREES.search(stem):
        ra, dec = float(found[1]), float(found[2] or found[3])
    elif found := _IAU.search(stem):
        ra, dec = (
            float(hours) + float(minutes) / 60 + float(seconds) / 3600
            for hours, minutes, seconds in (found.group(1, 2, 3), found.group(5, 6, 7))
        )
        ra, dec = 15 * ra, -dec if found[4] == "-" else dec
    else:
        return np.nan, np.nan
    return (ra, dec) if ra <= 360 and abs(dec) <= 90 else (np.nan, np.nan)
