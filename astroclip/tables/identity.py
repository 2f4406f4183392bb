"""Who is in a row and where on the sky: the one reader of identifiers and positions that every verb uses."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Who(NamedTuple):
    """Identity and position of n rows.

    Attributes
    ----------
    ids
        By name, (n,) each, those that the table has: TARGETID, SURVEY, PROGRAM, HEALPIX, RELEASE, BRICKID,
        OBJID, PLATE, MJD, FIBERID, FIELD, CATALOGID, OBJECT_ID. Integers are int64, -1 where missing; texts
        are str, "" where missing.
    ra, dec
        (n,) ICRS degrees; NaN where missing or not on the sky, and in a table without positions.
    """

    ids: dict[str, NDArray]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
