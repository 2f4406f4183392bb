"""Catalogues in Parquet and CSV, and Parquet as an output."""

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalog_files import (
    append_all,
    fitsverify,
    names_in,
    parts_of,
    read_all,
    write_trap,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.errors import DataError
from astroclip.schema import ColumnSpec
from astroclip.tables import append_columns, merge_shards, open_table, textfile

BIG = 2**53 + 1  # more than a double can hold


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def parquet_table() -> pa.Table:
    return pa.table(
        {
            "TARGETID": pa.array([BIG, None, -1], pa.int64()),
            "U8": pa.array([255, None, 0], pa.uint8()),
            "U64": pa.array([2**64 - 2, None, 0], pa.uint64()),
            "I8": pa.array([-128, 0, 127], pa.int8()),
            "F16": pa.array(np.array([1, 2, 3], "f2")),
            "F": pa.array([1.5, None, np.nan], pa.float32()),
            "GOOD": pa.array([True, None, False]),
            "S": pa.array(["a", None, "longer"]),
            "D": pa.array(["x", "yy", None]).dictionary_encode(),
            "V": pa.array([[1, 2], None, [3, None]], pa.list_(pa.float64(), 2)),
            "L": pa.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], pa.list_(pa.int32())),
            "VV": pa.array([[[1, 2], [3, 4]]] * 3, pa.list_(pa.list_(pa.int16(), 2), 2)),
        }
    )


@pytest.mark.parametrize("group", [1, 2, 3])
def test_parquet_in(tmp_path: Path, out: Path, group: int) -> None:
    pq.write_table(parquet_table(), tmp_path / "in.parquet", row_group_size=group)
    append_all(tmp_path / "in.parquet", out / "out.fits")
    assert fitsverify(out / "out.fits") == "OK"
    values = read_all(out / "out.fits")
    assert values["TARGETID"].tolist() == [BIG, None, -1]
    assert values["U8"].tolist() == [255, None, 0]
    assert values["U64"].tolist() == [2**64 - 2, None, 0]
    assert values["I8"].tolist() == [-128, 0, 127]
    assert values["F16"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(values["F"], np.array([1.5, np.nan, np.nan], "f4"))
    assert values["GOOD"].tolist() == [True, None, False]
    assert values["S"].tolist() == ["a", "", "longer"]
    assert values["D"].tolist() == ["x", "yy", ""]
    np.testing.assert_array_equal(values["V"], [[1, 2], [np.nan, np.nan], [3, np.nan]])
    assert values["L"].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert values["VV"].tolist() == [[[1, 2], [3, 4]]] * 3
    with open_table(out / "out.fits") as catalog:
        nulls = {name: catalog.columns[name].null for name in ("TARGETID", "U8", "U64", "I8")}
        assert nulls == {"TARGETID": -(2**63), "U8": -(2**15), "U64": 2**64 - 1, "I8": None}
        assert values["GOOD"].dtype == bool
    assert names_in(out) == ["out.fits"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([{"a": 1}, {"a": 2}]), r"'C' \(struct<a: int64>\). Leave out: --drop C"),
        (pa.array([0, 1], pa.timestamp("ms")), r"'C' \(timestamp\[ms\]\)"),
        (pa.array([0, 1], pa.date32()), r"'C' \(date32\[day\]\)"),
        (pa.array([1, 2]).cast(pa.decimal128(21, 2)), r"'C' \(decimal128"),
        (pa.array([b"a", b"b"]), r"'C' \(binary\)"),
        (pa.array([["a"], ["b", "c"]]), r"'C' \(list<"),
        (pa.array([[[1], [2]], [[3]]]), r"'C' \(list<"),
        (
            pa.array([None, -(2**63)], pa.int64()),
            "'C' has missing values and also holds -9223372036854775808",
        ),
    ],
)
def test_parquet_columns_that_fits_cannot_hold(
    tmp_path: Path, out: Path, column: pa.Array, message: str
) -> None:
    pq.write_table(pa.table({"C": column}), tmp_path / "in.parquet")
    with pytest.raises(DataError, match=message):
        append_all(tmp_path / "in.parquet", out / "out.fits")
    assert names_in(out) == []


@pytest.mark.parametrize("names", [["A", "a"], [f"C{i}" for i in range(1000)]])
def test_names_that_fits_cannot_hold(tmp_path: Path, out: Path, names: list[str]) -> None:
    pq.write_table(pa.table([pa.array([1])] * len(names), names=names), tmp_path / "in.parquet")
    with pytest.raises(DataError, match=r"columns A are there twice|1000 columns, FITS allows 999"):
        append_all(tmp_path / "in.parquet", out / "out.fits")


def test_damaged_parquet(tmp_path: Path, out: Path) -> None:
    pq.write_table(parquet_table(), tmp_path / "in.parquet")
    os.truncate(tmp_path / "in.parquet", 900)
    with pytest.raises(DataError, match="cannot be read as a table"):
        open_table(tmp_path / "in.parquet", scratch=out)
    assert names_in(out) == []


CSV = f"""TARGETID,U64,RA,N,MIXED,WORD,FINE,EMPTY,"with, comma"
{BIG}, {2**64 - 1},1.5,1,1,a,true,,1
-3,0, nan,,2.5,"two
lines",false,,2
0,1,NA,3,,NA,,,3
"""


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".CSV"])
def test_csv_in(tmp_path: Path, out: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / f"in{suffix}"
    source.write_bytes(gzip.compress(CSV.encode()) if suffix.endswith("gz") else CSV.encode())
    append_all(source, out / "out.fits")
    values = read_all(out / "out.fits")
    assert values["TARGETID"].tolist() == [BIG, -3, 0]
    assert values["U64"].tolist() == [2**64 - 1, 0, 1]
    np.testing.assert_array_equal(values["RA"], [1.5, np.nan, np.nan])
    assert values["N"].tolist() == [1, None, 3]
    np.testing.assert_array_equal(values["MIXED"], [1, 2.5, np.nan])
    assert values["WORD"].tolist() == ["a", "two\nlines", "NA"]
    assert values["FINE"].tolist() == [True, False, None]
    assert np.isnan(values["EMPTY"]).all()
    assert values["with, comma"].tolist() == [1, 2, 3]


def test_csv_types_are_those_of_all_rows(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "CSV_BLOCK", 64)
    rows = [*range(50), "1.5", *range(50), "text"]
    lines = ["A,B", *(f"{i},{row}" for i, row in enumerate(rows))]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    append_all(tmp_path / "in.csv", out / "out.fits")
    values = read_all(out / "out.fits")
    assert values["A"].tolist() == list(range(102))
    assert values["B"].tolist() == [str(row) for row in rows]


def test_csv_without_rows(tmp_path: Path, out: Path) -> None:
    (tmp_path / "in.csv").write_text("ra,dec\n")
    append_all(tmp_path / "in.csv", out / "out.fits")
    assert read_all(out / "out.fits")["ra"].shape == (0,)


@pytest.mark.parametrize("text", ["", "a,b\n1\n", "a,b\n1,2,3\n"])
def test_broken_csv(tmp_path: Path, out: Path, text: str) -> None:
    (tmp_path / "in.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read as a table"):
        open_table(tmp_path / "in.csv", scratch=out)
    assert names_in(out) == []


def test_real_csv(survey_data: Path, out: Path) -> None:
    append_all(survey_data / "catalogues/sdss-dr14-10k.csv.gz", out / "out.fits")
    assert fitsverify(out / "out.fits") == "OK"
    values = read_all(out / "out.fits")
    assert values["ra"].shape == (10000,)
    assert values["ra"].dtype == np.float64
    assert set(values["class"]) == {"GALAXY", "QSO", "STAR"}


def without_complex(path: Path) -> Path:
    """Turn the complex columns of a trap file into floats."""
    data = path.read_bytes().replace(b"'C       '", b"'2E      '").replace(b"'2M      '", b"'4D      '")
    path.write_bytes(data)
    return path


def test_parquet_out(tmp_path: Path, out: Path) -> None:
    source = write_trap(tmp_path / "in.fits", checksums=False)
    with pytest.raises(
        DataError,
        match=r"only FITS tables hold complex numbers: column CX, CM\. Leave out: --drop CX",
    ):
        append_all(source, out / "out.parquet")
    values = append_all(without_complex(source), out / "out.parquet")
    assert names_in(out) == ["out.parquet"]
    table, expected = pq.read_table(out / "out.parquet"), read_all(source)
    assert table["TARGETID"].to_pylist() == expected["TARGETID"].tolist()
    assert table["U64"].to_pylist() == expected["U64"].tolist()
    assert table["NULLED"].to_pylist() == [None if v == -99 else v for v in expected["NULLED"].tolist()]
    assert table["BITS"].to_pylist() == expected["BITS"].tolist()
    assert table["ARMS"].to_pylist() == expected["ARMS"].tolist()
    assert table["VAR"].to_pylist() == [row.tolist() for row in expected["VAR"]]
    assert table["IMAGE_EMBEDDING"].to_pylist() == values["IMAGE_EMBEDDING"].tolist()
    assert table["BEST"].to_pylist() == values["BEST"].tolist()
    np.testing.assert_array_equal(
        np.array(table["COVARIANCE"].to_pylist()).reshape(-1, 2, 3), values["COVARIANCE"]
    )
    assert table.field("FLUXES").metadata == {b"unit": b"nanomaggy", b"astroclip_shape": b"2,3"}
    assert table.field("TARGETID").metadata[b"comment"] == b"unique id"
    assert b"PIXSCALE=                0.262" in table.schema.metadata[b"fits_header"]


def test_parquet_to_parquet_keeps_types_units_and_shapes(tmp_path: Path, out: Path) -> None:
    pq.write_table(parquet_table().drop_columns(["F16", "D", "L", "U8"]), tmp_path / "in.parquet")
    append_all(tmp_path / "in.parquet", out / "once.parquet")
    with open_table(out / "once.parquet", scratch=out) as catalog:
        assert catalog.columns["COVARIANCE"].shape == (2, 3)
        assert catalog.columns["COVARIANCE"].unit == "nanomaggy"
        with append_columns(catalog, out / "twice.parquet", [ColumnSpec("A", "f4")]) as appender:
            appender.write({"A": np.zeros(3, "f4")})
    once, twice = pq.read_table(out / "once.parquet"), pq.read_table(out / "twice.parquet")
    assert twice.schema.remove(len(twice.schema) - 1).equals(once.schema)
    assert repr(twice.drop_columns(["A"]).to_pydict()) == repr(once.to_pydict())  # NaN is not equal to itself
    assert once["TARGETID"].to_pylist() == [BIG, None, -1]
    assert once["U64"].to_pylist() == [2**64 - 2, None, 0]


def test_parquet_replaces_itself_and_resumes(tmp_path: Path) -> None:
    path = tmp_path / "cat.parquet"
    pq.write_table(pa.table({"A": [1, 2, 3]}), path)
    with (
        open_table(path, scratch=tmp_path) as catalog,
        pytest.raises(ValueError, match="1 rows written"),
        append_columns(catalog, path, [ColumnSpec("B", "i4")], overwrite=True) as appender,
    ):
        appender.write({"B": np.array([7], "i4")})
    with (
        open_table(path, scratch=tmp_path) as catalog,
        append_columns(catalog, path, [ColumnSpec("B", "i4")], overwrite=True, resume=True) as appender,
    ):
        appender.write({"B": np.array([8, 9], "i4")})
    assert pq.read_table(path).to_pydict() == {"A": [1, 2, 3], "B": [7, 8, 9]}
    assert names_in(tmp_path) == ["cat.parquet"]


def test_shards_of_parquet(tmp_path: Path, out: Path) -> None:
    pq.write_table(pa.table({"A": [1, 2, 3]}), tmp_path / "in.parquet")
    shards = [out / "0.fits", out / "1.fits"]
    for i, (shard, rows) in enumerate(zip(shards, [(0, 1), (1, 3)], strict=True)):
        with (
            open_table(tmp_path / "in.parquet", scratch=out) as catalog,
            append_columns(catalog, shard, [ColumnSpec("B", "i4")], rows=rows, shard=(i, 2)) as appender,
        ):
            appender.write({"B": np.arange(*rows, dtype="i4")})
    merge_shards(shards, out / "out.parquet")
    assert pq.read_table(out / "out.parquet").to_pydict() == {"A": [1, 2, 3], "B": [0, 1, 2]}
    merge_shards(shards, out / "out.fits")
    assert len(parts_of(out / "out.fits", 1)[1]) == 3


CELLS = st.one_of(
    st.none(),
    st.integers(-(2**63) + 1, 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


@given(st.lists(CELLS, min_size=1, max_size=12), st.integers(64, 200))
@settings(deadline=None, max_examples=25)
def test_any_csv_column_keeps_its_values(
    tmp_path_factory: pytest.TempPathFactory, cells: list[Any], block: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "in.csv"
    path.write_text(
        "ID,C\n" + "".join(f"{i},{'' if cell is None else cell}\n" for i, cell in enumerate(cells))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(textfile, "CSV_BLOCK", block)
        with open_table(path, scratch=path.parent) as catalog:
            column = catalog.columns["C"]
            spoilt = [cell for cell in cells if isinstance(cell, bool)]
            if catalog.problems:
                with pytest.raises(DataError, match=f"holds '{spoilt[0]}', expected a number"):
                    catalog.read(["C"])
                return
            values = catalog.read(["C"])["C"].tolist()
    there = [cell for cell in cells if cell is not None]
    kinds = {type(cell) for cell in there}
    for cell, value in zip(cells, values, strict=True):
        if column.dtype.kind == "U":
            assert value == ("" if cell is None else str(cell))
        elif cell is None:
            assert value is None or np.isnan(value)
        elif kinds == {int} and min(there) >= -(2**63) and (max(there) < 2**63 or min(there) >= 0):
            assert value == cell
        else:
            assert value == (cell if kinds == {bool} else float(cell))
