"""Which values of a column are missing: the one rule of every verb, by the type of the column.

NaN in floats; masked values of `Table.read`, which are TNULL, undefined logicals and nulls of Arrow; texts
that say so (`schema.MISSING_TEXTS`); and in a label the numbers that no such quantity has
(`find_sentinels`, by the data dictionary in `schema`). Positions: `tables.positions`; identifiers:
`tables.identity`.
"""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.schema import ANY_SCALE, MISSING_TEXTS, SENTINELS, possible_range

Taken = Counter[tuple[str, float]]  # how many values of a column, by name and value, were taken as missing

_MIN_SPIKE, _SPIKE_FRACTION = 10, 0.02  # of a label's values that are the same, at an edge: fewer say nothing
_SPIKE_RATIO = 5  # how many times as many as the next most frequent value


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which values are missing, by type; of the shape of `values`.

    Floats: NaN. Texts: nothing but blanks, or one of `schema.MISSING_TEXTS`. Dates: NaT. Objects: None and
    all of these. Integers and logicals only where they are masked, as other types may be too.
    """
    data = np.ma.getdata(values)
    if data.dtype.kind in "fc":
        missing = np.isnan(data)
    elif data.dtype.kind in "mM":
        missing = np.isnat(data)
    elif data.dtype.kind in "US":
        missing = np.isin(np.char.strip(_decoded(data)), MISSING_TEXTS)
    elif data.dtype.kind == "O":
        flat = [_lacks(value) for value in data.ravel()]
        missing = np.array(flat, bool).reshape(data.shape)
    else:
        missing = np.zeros(data.shape, bool)
    return missing | np.ma.getmaskarray(values)


def to_floats(values: NDArray[Any], where: str = "values", first_row: int = 0) -> NDArray[np.float64]:
    """Return numbers, logicals or texts of numbers as float64, NaN where they are missing.

    Parameters
    ----------
    values
        (n, ...), as `Table.read` returns a column.
    where
        What an error calls them, as ``cat.fits: column 'Z'``.
    first_row
        Row of the table that the first one is.

    Raises
    ------
    DataError
        If a text is no number, or the values are of another type; names the first bad row.
    """
    data = np.ma.getdata(values)
    if data.dtype.kind in "biuf" and not np.ma.isMaskedArray(values):
        return data.astype(np.float64)
    missing = is_missing(values)
    if data.dtype.kind in "biuf":
        numbers = data.astype(np.float64)
    elif data.dtype.kind in "USO":
        numbers = _parsed(data, missing, where, first_row)
    else:
        raise DataError(f"{where} is {data.dtype}, expected numbers")
    numbers[missing] = np.nan
    return numbers


def to_texts(values: NDArray[Any]) -> NDArray[np.str_]:
    """Return values as texts without blanks around them, "" where they are missing."""
    data = np.ma.getdata(values)
    if data.dtype.kind == "O":
        data = np.array([v.decode() if isinstance(v, bytes) else str(v) for v in data.ravel()], str).reshape(
            data.shape
        )
    texts = np.char.strip(_decoded(data) if data.dtype.kind in "US" else data.astype(str))
    return np.where(is_missing(values), "", texts)


def find_sentinels(values: NDArray[np.float64], quantity: str) -> NDArray[np.bool_]:
    """Say which numbers stand for a missing value of a quantity.

    `schema.SENTINELS` (-99, -999, -9999, ...) do in any; beyond these, values that it cannot have by the data
    dictionary (`schema.possible_range`), as a stellar mass of 0. Where more than one different value lies
    outside of that range, metallicities and ages are logarithms, and their 0 is a value.

    Parameters
    ----------
    values
        (n,) or (n, k), NaN where they are missing already.
    quantity
        Name of the column.
    """
    low, high = possible_range(quantity)
    always = np.isin(values.astype(np.float32), np.array(SENTINELS, np.float32))
    beyond = ~always & ((values <= low) | (values >= high))
    if quantity.upper() in ANY_SCALE and np.unique(values[beyond & (values != 0)]).size > 1:
        return always
    return always | beyond


def to_quantity(
    values: NDArray[Any], name: str, taken: Taken, where: str = "values", quantity: str | None = None
) -> NDArray[np.float64]:
    """Return a column of labels as float64, NaN where one is missing or a sentinel; count those in `taken`.

    Parameters
    ----------
    values, where
        See `to_floats`.
    name
        The column.
    taken
        Sentinels by column and value; those of `values` are added.
    quantity
        What the column holds, where its name does not tell: see `find_sentinels`.
    """
    numbers = to_floats(values, where)
    sentinels = find_sentinels(numbers, quantity or name)
    if sentinels.any():
        found, counts = np.unique(numbers[sentinels].astype(np.float32), return_counts=True)
        taken.update({(name, float(value)): int(n) for value, n in zip(found, counts, strict=True)})
        numbers[sentinels] = np.nan
    return numbers


def sentinel_lines(taken: Taken) -> list[str]:
    """Say what was taken as missing, as in ``LOGMSTAR: 38 values of -999 taken as missing``."""
    lines = []
    for name in dict.fromkeys(name for name, _ in taken):
        counts = Counter({value: n for (column, value), n in taken.items() if column == name}).most_common()
        said = [f"{n} value{'s' if n > 1 else ''} of {value:.6g}" for value, n in counts[:4]]
        more = sum(n for _, n in counts[4:])
        said += [f"{more} more"] if more else []
        lines.append(f"{name}: {', '.join(said)} taken as missing")
    return lines


def find_spike(values: NDArray[np.float64]) -> tuple[float, int] | None:
    """Return the lowest or highest value of a label and how often it is there, if suspiciously often.

    Ten times at least, by 2 % of the rows, and five times as often as any other value: that may be how a
    table marks what was not measured.
    """
    found, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    if found.size < _MIN_SPIKE:  # classes, votes, bits
        return None
    at = int(counts.argmax())
    others = np.delete(counts, at).max()
    often = counts[at] >= max(_MIN_SPIKE, _SPIKE_FRACTION * counts.sum(), _SPIKE_RATIO * others)
    return (float(found[at]), int(counts[at])) if often and at in (0, found.size - 1) else None


def _lacks(value: object) -> bool:
    """Say whether one object is missing."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.strip() in MISSING_TEXTS
    return (
        value is None or value is np.ma.masked or (isinstance(value, float | np.floating) and np.isnan(value))
    )


def _decoded(texts: NDArray[Any]) -> NDArray[np.str_]:
    """Return bytes as text."""
    return np.char.decode(texts, "utf-8", "replace") if texts.dtype.kind == "S" else texts


def _parsed(
    data: NDArray[Any], missing: NDArray[np.bool_], where: str, first_row: int
) -> NDArray[np.float64]:
    """Return texts, or objects, as numbers; 0 where they are missing."""
    texts = np.where(missing, "0", to_texts(data))
    try:
        return texts.astype(np.float64)
    except ValueError:
        bad = next(i for i, text in enumerate(texts.ravel()) if not _is_number(text))
        row, text = first_row + bad // max(texts[0].size, 1), str(texts.ravel()[bad])
        raise DataError(
            f"{where}, row {row} (from 0): {text!r} is no number. Write "
            "numbers there, and NaN or nothing where a value is missing"
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
