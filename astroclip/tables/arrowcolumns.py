"""Columns of Arrow tables: what a type of Arrow is in NumPy, and values made native.

The metadata of a field may hold its unit, comment and shape, as `tables.parquet` writes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.tables.anytable import Column
from astroclip.tables.arrowfields import SHAPE_KEY

types = pa.types


@dataclass(frozen=True, kw_only=True)
class ArrowColumn(Column):
    """One column of an Arrow table; `type` is its type there, as stored."""

    type: pa.DataType

    @property
    def element(self) -> np.dtype[Any]:
        """The type of one value, in lists too."""
        return numpy_type(plain_type(plain_type(self.type).value_type)) if self.lists else self.dtype


def arrow_column(arrow: pa.Field, unit: str = "", comment: str = "") -> ArrowColumn:
    """Describe a field; `lists` is True where the type allows rows of different lengths."""
    known = {key.decode(): text.decode(errors="replace") for key, text in (arrow.metadata or {}).items()}
    kind, sizes = plain_type(arrow.type), []
    while types.is_fixed_size_list(kind):
        sizes.append(kind.list_size)
        kind = plain_type(kind.value_type)
    lists = is_list(kind) and not types.is_map(kind)
    if lists:
        kind = plain_type(kind.value_type)
    nested = types.is_nested(kind) or (lists and (sizes or not is_number(kind)))
    if SHAPE_KEY in known and not lists:
        sizes = [int(size) for size in known[SHAPE_KEY].split(",")]
    return ArrowColumn(
        name=arrow.name,
        dtype=np.dtype(object) if nested or lists else numpy_type(kind),
        shape=() if nested else tuple(sizes),
        unit=known.get("unit", unit),
        comment=known.get("comment", comment),
        lists=lists and not nested,
        fields=_fields(arrow.type),
        type=arrow.type,
    )


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, without a dictionary or an extension around them."""
    while types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if types.is_dictionary(kind) else kind.storage_type
    return kind


def is_list(kind: pa.DataType) -> bool:
    """Tell whether rows of a type may differ in length."""
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind))


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a type is text."""
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a type is numbers or logicals."""
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def numpy_type(kind: pa.DataType) -> np.dtype[Any]:
    """Return the type of one value as `to_numpy` gives it."""
    if is_text(kind):
        return np.dtype("U")
    if is_number(kind):
        return np.dtype("f4") if types.is_float16(kind) else np.dtype(kind.to_pandas_dtype())
    if types.is_decimal(kind) or types.is_null(kind):
        return np.dtype("f8")
    if types.is_timestamp(kind) or types.is_duration(kind):
        return np.dtype(f"{'M' if types.is_timestamp(kind) else 'm'}8[{kind.unit}]")
    return np.dtype("M8[D]") if types.is_date(kind) else np.dtype(object)


def _fields(kind: pa.DataType, axes: int = 0) -> dict[str, int]:
    """Return the names inside a nested type, each with its number of axes in one row."""
    kind = plain_type(kind)
    if types.is_map(kind):
        return {}
    if types.is_struct(kind):
        return {field.name: axes + _axes(field.type) for field in kind}
    return _fields(kind.value_type, axes + 1) if is_list(kind) or types.is_fixed_size_list(kind) else {}


def _axes(kind: pa.DataType) -> int:
    kind = plain_type(kind)
    return 1 + _axes(kind.value_type) if is_list(kind) or types.is_fixed_size_list(kind) else 0


def column_values(array: pa.Array, column: ArrowColumn, where: str) -> NDArray[Any]:
    """Return rows of a column as `Table.read` promises them; `where` is what an error calls the column.

    Raises
    ------
    DataError
        If lists that are a vector column have another length.
    """
    if column.shape and is_list(plain_type(array.type)):
        array = _as_vectors(array, prod(column.shape), where)
    values = to_numpy(array, column.null)
    if column.lists and values.ndim > 1:
        return _rows_of(values)
    if column.shape:
        return values.reshape(len(array), *column.shape)
    return _rows_of(values) if values.ndim > 1 and column.dtype == object else values


def _as_vectors(array: pa.Array, length: int, where: str) -> pa.Array:
    """Turn lists of one length into lists of fixed size."""
    lengths = pc.unique(pc.list_value_length(array).drop_null()).to_pylist()
    if lengths not in ([], [length]):
        raise DataError(f"{where} has lists of {lengths[:3]} values, expected {length}. The file was changed")
    try:
        return array.cast(pa.list_(plain_type(array.type).value_type, length))
    except pa.ArrowException as error:
        raise DataError(f"{where}: its lists cannot be read as vectors ({error})") from None


def to_numpy(array: pa.Array, null: int | None = None) -> NDArray[Any]:
    """Return the values of an array: dense (n, ...) where all rows have one length, else rows as objects.

    Missing numbers are NaN; missing integers, logicals and texts are masked, with `null` (or 0, False, "")
    under the mask; a list that is missing is empty, a struct an empty dict.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if types.is_struct(kind):
        return _structs(array)
    if types.is_map(kind):
        return _objects(array.to_pylist())
    if types.is_fixed_size_list(kind):
        inner = plain_type(kind.value_type)
        if types.is_struct(inner) or is_list(inner):
            return _lists(array.cast(pa.list_(kind.value_type)), null)
        return _fixed_lists(array, null)
    if is_list(kind):
        return _lists(array, null)
    return _scalars(array, null)


def _scalars(array: pa.Array, null: int | None) -> NDArray[Any]:
    """Return an array of a type that is not nested."""
    if types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    kind, dtype = array.type, numpy_type(array.type)
    if types.is_null(kind):
        return np.full(len(array), np.nan)
    if types.is_decimal(kind):
        array = array.cast(pa.float64())
    if dtype.kind == "f":
        return array.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    if dtype.kind in "biuU":
        missing = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
        if missing is not None:
            fill = {"b": False, "U": ""}.get(dtype.kind, null or 0)
            array = pc.fill_null(array, pa.scalar(fill, kind))
        values = array.to_numpy(zero_copy_only=False)
        values = values.astype(str) if dtype.kind == "U" else values
        return values if missing is None else np.ma.MaskedArray(values, missing)
    if dtype.kind in "mM":
        return array.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    values = np.empty(len(array), object)
    values[:] = array.to_pylist()
    return values


def _fixed_lists(array: pa.Array, null: int | None) -> NDArray[Any]:
    """Return vectors of one length; all of a missing row is missing."""
    inner, there = to_numpy(array.flatten(), null), array.is_valid().to_numpy(zero_copy_only=False)
    shape = (int(there.sum()), array.type.list_size, *inner.shape[1:])
    if there.all():
        return inner.reshape(shape)
    values = np.ma.MaskedArray(np.zeros((len(array), *shape[1:]), inner.dtype), ~_of_rows(there, shape))
    values[there] = inner.reshape(shape)
    if inner.dtype.kind == "f":
        return values.filled(np.nan)
    if null is not None and inner.dtype.kind in "iu":
        values.data[~there] = null
    return values


def _of_rows(there: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Spread a mask of rows over the vectors."""
    return np.broadcast_to(there.reshape(-1, *[1] * (len(shape) - 1)), (len(there), *shape[1:])).copy()


def _lists(array: pa.Array, null: int | None) -> NDArray[Any]:
    """Return lists: one array a row; of structs, one dict of arrays a row."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    inner = pc.list_flatten(array)
    stops = np.cumsum(lengths)
    if types.is_struct(plain_type(inner.type)):
        parts = {field.name: to_numpy(child) for field, child in _children(inner)}
        rows = [
            {name: _dense(values[stop - length : stop]) for name, values in parts.items()}
            for stop, length in zip(stops, lengths, strict=True)
        ]
        return _objects(rows)
    values = to_numpy(inner, null)
    if len(array) and lengths.min() == lengths.max() > 0 and not array.null_count and values.dtype != object:
        return values.reshape(len(array), lengths[0], *values.shape[1:])
    return _objects(
        [_dense(values[stop - length : stop]) for stop, length in zip(stops, lengths, strict=True)]
    )


def _children(array: pa.Array) -> list[tuple[pa.Field, pa.Array]]:
    """Return the fields of a struct array and their values."""
    return list(zip(array.type, array.flatten(), strict=True))


def _structs(array: pa.Array) -> NDArray[np.object_]:
    """Return one dict a row, of values and arrays."""
    parts = {field.name: to_numpy(child) for field, child in _children(array)}
    there = array.is_valid().to_numpy(zero_copy_only=False)
    return _objects(
        [{name: values[i] for name, values in parts.items()} if there[i] else {} for i in range(len(array))]
    )


def _dense(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array of arrays of one shape as an array with one more axis."""
    if values.dtype != object or not len(values) or not isinstance(values[0], np.ndarray):
        return values
    shapes = {value.shape for value in values}
    return np.stack(list(values)) if len(shapes) == 1 else values


def _rows_of(values: NDArray[Any]) -> NDArray[np.object_]:
    """Return an array's rows as objects."""
    return _objects(list(values))


def _objects(rows: list[Any]) -> NDArray[np.object_]:
    """Return a one-dimensional array of objects, whatever their shapes."""
    result = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        result[i] = row
    return result


def astropy_units(metadata: Mapping[bytes, bytes] | None) -> dict[str, tuple[str, str]]:
    """Return unit and description by column that `astropy.table` wrote into a schema's metadata."""
    if not metadata or b"table_meta_yaml" not in metadata:
        return {}
    from astropy.table.meta import get_header_from_yaml

    try:
        header = get_header_from_yaml(metadata[b"table_meta_yaml"].decode().splitlines())
        columns = header["datatype"]
    except (yaml.YAMLError, ValueError, KeyError, TypeError):
        return {}  # what another program left there
    return {c["name"]: (str(c.get("unit") or ""), str(c.get("description") or "")) for c in columns}
