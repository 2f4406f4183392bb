"""Parquet tables with every type that astronomers have in them, and columns to add to them."""

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BIG = 2**53 + 1  # more than a double can hold


def every_type(nrows: int = 12, seed: int = 0) -> pa.Table:
    """Return a table with a column of every kind, some with missing values."""
    rng = np.random.default_rng(seed)

    def some(values: list[Any], kind: pa.DataType) -> pa.Array:
        picked = [None if i % 5 == 3 else values[i % len(values)] for i in range(nrows)]
        return pa.array(picked, kind)

    spectrum = pa.struct([("flux", pa.list_(pa.float32())), ("mask", pa.list_(pa.bool_()))])
    plane = pa.list_(pa.list_(pa.list_(pa.float32())))
    columns = {
        "TARGETID": pa.array(rng.integers(BIG, 2**62, nrows)),
        "U64": some([2**64 - 2, 0], pa.uint64()),
        "I8": some([-127, 127], pa.int8()),
        "F16": pa.array(np.arange(nrows, dtype="f2")),
        "F": some([1.5, float("nan")], pa.float32()),
        "GOOD": some([True, False], pa.bool_()),
        "NAME": some(["a", "é β", "", "longer"], pa.string()),
        "LARGE": some(["x", "yy"], pa.large_string()),
        "WORD": pa.array(rng.choice(["x", "yy"], nrows)).dictionary_encode(),
        "WHEN": some([datetime(2024, 6, 7, 1, 2, 3, 456)], pa.timestamp("us")),
        "WHEN_UTC": some([datetime(2024, 6, 7)], pa.timestamp("ms", "UTC")),
        "DAY": some([date(2024, 6, 7)], pa.date32()),
        "EXACT": some([Decimal("12345678901234567890.12")], pa.decimal128(30, 2)),
        "PNG": some([b"\x89PNG\0\xff", b""], pa.binary()),
        "HASH": some([b"abcd"], pa.binary(4)),
        "NOTHING": pa.nulls(nrows),
        "VECTOR": some([[1.0, 2.0, None]], pa.list_(pa.float64(), 3)),
        "LISTS": pa.array([rng.normal(size=i % 4).tolist() for i in range(nrows)], pa.list_(pa.float32())),
        "WORDS": some([["a", None], []], pa.list_(pa.string())),
        "spectrum": some([{"flux": [1.0, 2.0], "mask": [True, False]}, {"flux": [], "mask": None}], spectrum),
        "image": some([[[[1.0, 2.0], [3.0, 4.0]]]], plane),
        "arms": some([[{"a": 1, "b": "x"}]], pa.list_(pa.struct([("a", pa.int32()), ("b", pa.string())]))),
        "map": some([[("k", 1)]], pa.map_(pa.string(), pa.int32())),
    }
    fields = [pa.field(name, array.type, metadata={"unit": "deg"} if name == "F" else None)
              for name, array in columns.items()]  # fmt: skip
    return pa.table(list(columns.values()), pa.schema(fields, {"who": "wrote it", "ACMODEL": "mini"}))


def write_parquet(path: Path, table: pa.Table | None = None, group: int = 5, **options: Any) -> Path:
    """Write a table in small row groups."""
    pq.write_table(every_type() if table is None else table, path, row_group_size=group, **options)
    return path


def same_columns(ours: pa.Table, expected: pa.Table) -> None:
    """Assert that columns have the same names, types, metadata and values, missing ones and NaN alike."""
    assert ours.schema.equals(expected.schema, check_metadata=False)
    for field in expected.schema:
        assert ours.field(field.name).metadata == field.metadata, field.name
        assert repr(ours[field.name].to_pylist()) == repr(expected[field.name].to_pylist()), field.name
        assert ours[field.name].null_count == expected[field.name].null_count, field.name
