"""ECSV and VOTables: parsed by astropy, then written to a Parquet file without a name."""

import re
import shlex
import warnings
from collections.abc import Sequence
from io import BytesIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from astroclip.errors import DataError
from astroclip.tables.arrowfields import SHAPE_KEY
from astroclip.tables.arrowtable import ArrowTable
from astroclip.tables.formats import open_unzipped
from astroclip.tables.unpack import nameless_file

if TYPE_CHECKING:
    from astropy import table as astropy_table


def open_ecsv(source: Path, name: str, scratch: Path | None) -> ArrowTable:
    """Open an ECSV file, with units and descriptions; mixins (SkyCoord, Time) as astropy writes them to FITS.

    Raises
    ------
    DataError
        If astropy cannot read it.
    """
    from astropy.table import QTable, represent_mixins_as_columns

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = represent_mixins_as_columns(QTable.read(source, format="ascii.ecsv"))
    except (ValueError, OSError, TypeError, LookupError) as error:
        raise DataError(f"{name}: cannot be read as an ECSV table ({_line_of(error)})") from error
    return _open_converted(read, source, name, scratch)


def open_votable(source: Path, name: str, scratch: Path | None, hdu: int | str | None = None) -> ArrowTable:
    """Open a table of a VOTable: the one with a number (from 0), ID or name, else the first that has rows.

    Raises
    ------
    DataError
        If astropy cannot read it, or there is no such table.
    """
    from astropy.io import votable

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = votable.parse(_read_document(source, name), verify="ignore")
            tables = list(parsed.iter_tables())
            places = [_place(i, one) for i, one in enumerate(tables)]
            chosen = _choose(tables, hdu, f"{name}: a VOTable of {', '.join(places) or 'no table'}")
            read = tables[chosen].to_table(use_names_over_ids=True)
            read.meta |= {one.name: one.value for one in (*tables[chosen].params, *tables[chosen].infos)}
    except (ValueError, OSError, TypeError, LookupError, NotImplementedError) as error:
        raise DataError(
            f"{name}: cannot be read as a VOTable ({_line_of(error)}). Rewrite it: "
            f"stilts tcopy in={shlex.quote(str(source))} out=table.fits"
        ) from error
    others = places[:chosen] + places[chosen + 1 :]
    return _open_converted(read, source, name, scratch, places[chosen] if others else "", others)


def _read_document(source: Path, name: str) -> BytesIO:
    """Read a VOTable whose data are in it: astropy would fetch what a stream points to."""
    with open_unzipped(source, name) as file:
        document = file.read()
    if re.search(rb"<(?:[\w.-]+:)?STREAM\s[^>]*\bhref\s*=", document):
        raise DataError(
            f"{name}: its data lie in another file (STREAM href). Put them into one: "
            f"stilts tcopy in={shlex.quote(str(source))} out=table.fits"
        )
    return BytesIO(document)


def _place(i: int, table: Any) -> str:
    called = table.name or table.ID
    return f"table {i}" + (f" ({called})" if called else "")


def _choose(tables: Sequence[Any], wanted: int | str | None, where: str) -> int:
    """Return the number of the table with a number, ID or name; of the first with rows."""
    if wanted is not None:
        called = [(str(i), str(one.name).upper(), str(one.ID).upper()) for i, one in enumerate(tables)]
        found = [i for i, names in enumerate(called) if str(wanted).upper() in names]
    else:
        found = [i for i, one in enumerate(tables) if len(one.array)] or list(range(len(tables)))
    if not found:
        raise DataError(f"{where}, expected {wanted if wanted is not None else 'one'}")
    return found[0]


def _line_of(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _open_converted(
    read: "astropy_table.Table",
    source: Path,
    name: str,
    scratch: Path | None,
    place: str = "",
    others: Sequence[str] = (),
) -> ArrowTable:
    """Write a table of astropy to a file without a name, and open that."""
    columns = [_to_arrow(read[column], column, name) for column in read.colnames]
    said = {key: str(value) for key, value in read.meta.items() if isinstance(value, str | int | float)}
    schema = pa.schema([field for field, _ in columns], said)
    file = nameless_file(scratch, name)
    try:
        pq.write_table(pa.table([values for _, values in columns], schema=schema), file)
        return ArrowTable([file], name, source, place=place, others=others)
    except BaseException:
        file.close()
        raise


def _to_arrow(column: Any, title: str, name: str) -> tuple[pa.Field, pa.Array]:
    """Return a column of astropy as one of Arrow, with its unit and description."""
    values, missing = np.ma.getdata(getattr(column, "value", column)), np.ma.getmaskarray(column)
    values = np.asarray(values)
    if values.dtype.kind == "c":
        raise DataError(
            f"{name}: column '{title}' holds complex numbers, which are read from FITS tables only"
        )
    shape = values.shape[1:]
    if values.dtype.kind == "O":
        array = pa.array([None if np.all(m) else _plain(v) for v, m in zip(values, missing, strict=True)])
    else:
        if values.dtype.kind == "S":
            values = np.char.decode(values, "utf-8", "replace")
        native = values.astype(values.dtype.newbyteorder("=")).reshape(-1)
        array = pa.array(
            native.astype(object) if native.dtype.kind == "U" else native, mask=missing.reshape(-1)
        )
        if shape:
            array = pa.FixedSizeListArray.from_arrays(array, prod(shape))
    sizes = ",".join(map(str, shape)) if len(shape) > 1 and values.dtype.kind != "O" else ""
    known = {
        "unit": str(getattr(column, "unit", None) or ""),
        "comment": str(column.info.description or ""),
        SHAPE_KEY: sizes,
    }
    return pa.field(title, array.type, metadata={k: v for k, v in known.items() if v}), array


def _plain(value: Any) -> Any:
    """Return a cell of astropy in types that Arrow knows."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
