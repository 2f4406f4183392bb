"""A table of labels of galaxies, whatever survey published it, ready to be joined to other tables."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.schema import ColumnSpec


class Labels(NamedTuple):
    """Labels of n galaxies, all rows of the file in its order.

    Attributes
    ----------
    columns
        By name, (n,) or (n, k) each: TARGETID where there is one, RA and DEC in ICRS degrees, and the labels.
        What a file does not have is not here; NaN where a row has no value.
    specs
        Type, unit and comment of each column, in the same order.
    good
        (n,) whether a row passes the cuts that are usual for this table.
    facts
        Cards for the header of what is made from them, by FITS keyword: where the labels come from, and what
        they assume.
    """

    columns: dict[str, NDArray]
    specs: tuple[ColumnSpec, ...]
    good: NDArray[np.bool_]
    facts: dict[str, str | float]
