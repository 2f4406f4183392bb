"""Who n rows are, as the reader of identifiers and positions gives it."""

import numpy as np
from numpy.typing import ArrayLike

from astroclip.tables.identity import Who


def who(ra: ArrayLike | None = None, dec: ArrayLike | None = None, **ids: ArrayLike) -> Who:
    """Say who n rows are, by identifiers and positions; these are missing unless given."""
    known = {name: np.asarray(values) for name, values in ids.items()}
    n = len(next(iter(known.values()))) if known else len(np.asarray(ra))
    ra, dec = (np.full(n, np.nan) if values is None else np.asarray(values, float) for values in (ra, dec))
    return Who(known, ra, dec)
