"""Parquet and HATS are read where they lie: every type of Arrow, any rows, whatever the row groups."""

import datetime
import decimal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import QTable
from builders_hats import write_hats

from astroclip.errors import DataError
from astroclip.tables import ArrowTable, arrowtable, open_table

WHEN = datetime.datetime(2024, 1, 2)
SPECTRUM = {"flux": [1.0, 2.0, 3.0], "lambda": [5.0, 6.0, 7.0], "mask": [True, False, True]}

# type, values of three rows, as they are read (an array a row, None where it is masked)
TYPES: dict[str, tuple[pa.Array, list[Any]]] = {
    "INT": (pa.array([2**53 + 1, None, -1]), [2**53 + 1, None, -1]),
    "UINT64": (pa.array([2**64 - 1, 0, 1], pa.uint64()), [2**64 - 1, 0, 1]),
    "BOOL": (pa.array([True, None, False]), [True, None, False]),
    "TEXT": (pa.array(["André", None, ""]), ["André", None, ""]),
    "LONG": (pa.array(["a", None, "b"], pa.large_string()), ["a", None, "b"]),
    "VIEW": (pa.array(["a", None, "b"], pa.string_view()), ["a", None, "b"]),
    "DICT": (pa.array(["x", "yy", None]).dictionary_encode(), ["x", "yy", None]),
    "WHEN": (pa.array([WHEN, None, WHEN]), [np.datetime64(WHEN), np.datetime64("NaT"), np.datetime64(WHEN)]),
    "DAY": (pa.array([WHEN.date()] * 3), [np.datetime64("2024-01-02")] * 3),
    "DEC": (pa.array([decimal.Decimal("1.5")] * 3), [1.5] * 3),
    "BYTES": (pa.array([b"a", None, b""]), [b"a", None, b""]),
    "F16": (pa.array(np.array([1, 2, 3], "f2")), [1, 2, 3]),
    "EVEN": (pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int32())), [[1, 2], [3, 4], [5, 6]]),
    "FIXED": (
        pa.array([[1, 2], None, [5, None]], pa.list_(pa.int32(), 2)),
        [[1, 2], [None, None], [5, None]],
    ),
    "LISTS": (pa.array([[1.0], [], [2.0, 3.0]]), [[1.0], [], [2.0, 3.0]]),
    "TEXTS": (pa.array([["a"], ["b", "c"], []]), [["a"], ["b", "c"], []]),
    "PLANES": (pa.array([[[1, 2], [3, 4]]] * 3), [[[1, 2], [3, 4]]] * 3),
    "EMPTY": (pa.nulls(3), [np.nan] * 3),
}


@pytest.fixture
def every(tmp_path: Path) -> Path:
    path = tmp_path / "every.parquet"
    pq.write_table(pa.table({name: values for name, (values, _) in TYPES.items()}), path, row_group_size=2)
    return path


@pytest.mark.parametrize("name", TYPES)
def test_every_type_is_read(every: Path, name: str) -> None:
    _, expected = TYPES[name]
    with open_table(every) as table:
        column, values = table.columns[name], table.read([name])[name]
    rows = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
    if name in ("WHEN", "DAY", "EMPTY"):
        np.testing.assert_array_equal(values, np.array(expected, values.dtype))
    else:
        assert [None if value is np.ma.masked else value for value in rows] == expected
    assert values.shape == (3, *column.shape)
    assert column.shape == {"EVEN": (2,), "FIXED": (2,)}.get(name, ())
    assert column.lists == (name == "LISTS")
    assert np.ma.isMaskedArray(values) == (name in ("INT", "BOOL", "TEXT", "LONG", "VIEW", "DICT", "FIXED"))
    assert values.dtype.kind == column.dtype.kind


def test_a_column_is_masked_only_where_something_is_missing(every: Path) -> None:
    with open_table(every) as table:
        values = table.read(["INT", "BOOL", "TEXT"], 2, 3)
        assert not any(np.ma.isMaskedArray(value) for value in values.values())
        assert table.columns["UINT64"].null is None  # the footers say that none is missing
        masked = table.read(["INT"])["INT"]
        assert np.ma.getdata(masked)[1] == table.columns["INT"].null == -(2**63)


PAIRS = pa.list_(pa.struct({"a": pa.int32()}), 2)
NESTED = {
    "struct of lists": pa.array([SPECTRUM, None, SPECTRUM]),
    "list of structs": pa.array([[{"flux": 1.0, "lambda": 5.0}, {"flux": 2.0, "lambda": 6.0}], None, []]),
    "pairs of structs": pa.array([[{"a": 1}, {"a": 2}], None, [{"a": 3}, {"a": 4}]], PAIRS),
    "image": pa.array(
        [{"band": ["DES-G", "DES-R"], "flux": [[[1.0, 2.0]], [[3.0, 4.0]]], "scale": [0.262, 0.262]}] * 3
    ),
}


def test_nested_columns_are_dicts_of_arrays(tmp_path: Path) -> None:
    pq.write_table(pa.table(NESTED), tmp_path / "in.parquet")
    with open_table(tmp_path / "in.parquet") as table:
        read = table.read(NESTED, 0, 3)
        fields = {name: dict(column.fields) for name, column in table.columns.items()}
        plain = [column.is_plain for column in table.columns.values()]
        later = table.read(["list of structs"], 1, 3)["list of structs"]
    assert plain == [False] * 4
    assert [row["a"].tolist() for row in read["pairs of structs"]] == [[1, 2], [], [3, 4]]
    assert fields["struct of lists"] == {"flux": 1, "lambda": 1, "mask": 1}
    assert fields["list of structs"] == {"flux": 1, "lambda": 1}
    assert fields["image"] == {"band": 1, "flux": 3, "scale": 1}
    first, lost, third = read["struct of lists"]
    assert lost == {}
    assert {name: values.tolist() for name, values in third.items()} == SPECTRUM
    assert first["mask"].dtype == bool
    assert read["list of structs"][0]["lambda"].tolist() == [5.0, 6.0]
    assert (
        [len(row["flux"]) for row in read["list of structs"]]
        == [2, 0, 0]
        == [2, *(len(r["flux"]) for r in later)]
    )
    image = read["image"][2]
    assert image["flux"].shape == (2, 1, 2)
    assert image["band"].tolist() == ["DES-G", "DES-R"]


def test_images_of_different_sizes_keep_their_shapes(tmp_path: Path) -> None:
    images = [np.arange(2 * n * n, dtype="f4").reshape(2, n, n) for n in (3, 4, 3)]
    pq.write_table(pa.table({"I": pa.array([{"flux": i.tolist()} for i in images])}), tmp_path / "in.parquet")
    with open_table(tmp_path / "in.parquet") as table:
        for row, image in zip(table.read(["I"])["I"], images, strict=True):
            np.testing.assert_array_equal(row["flux"], image)


@pytest.mark.parametrize("group", [1, 7, 1000])
@pytest.mark.parametrize("files", [1, 3])
def test_any_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int, files: int, rng
) -> None:
    monkeypatch.setattr(arrowtable, "BATCH_ROWS", 5)
    n = 40
    whole = pa.table({"A": np.arange(n), "V": pa.array([[i, i] for i in range(n)], pa.list_(pa.int64(), 2))})
    edges = np.linspace(0, n, files + 1).astype(int)
    paths = [tmp_path / f"{i}.parquet" for i in range(files)]
    for path, a, b in zip(paths, edges[:-1], edges[1:], strict=True):
        pq.write_table(whole.slice(a, b - a), path, row_group_size=group)
    with ArrowTable(paths, "in", tmp_path) as table:
        assert table.first.tolist() == edges.tolist()
        for _ in range(60):
            start, stop = sorted(rng.integers(0, n + 1, 2).tolist())
            names = ["A"] if rng.random() < 0.5 else ["V", "A"]
            read = table.read(names, start, stop)
            np.testing.assert_array_equal(read["A"], np.arange(start, stop))
            if "V" in read:
                np.testing.assert_array_equal(read["V"], np.arange(start, stop)[:, None].repeat(2, 1))
        assert [start for start, _ in table.blocks(["A"], 9)] == [0, 9, 18, 27, 36]
        again = pa.Table.from_batches(table.batches(3, 33))
        assert again.to_pydict() == whole.slice(3, 30).to_pydict()
        with pytest.raises(ValueError, match="rows 3 to 41 of a table with 40"):
            table.read(["A"], 3, 41)


def test_raw_batches_keep_every_column(every: Path) -> None:
    with open_table(every) as table:
        batches = pa.Table.from_batches(table.batches(), table.schema)
    assert batches.combine_chunks().equals(pq.read_table(every).combine_chunks())


def test_threads_share_a_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"A": np.arange(3000)}), tmp_path / "in.parquet", row_group_size=100)
    right: list[bool] = []
    with open_table(tmp_path / "in.parquet") as table:

        def walk(offset: int) -> None:
            for start in range(offset, 2900, 97):
                values = table.read(["A"], start, start + 90)["A"]
                right.append(bool(np.array_equal(values, np.arange(start, start + 90))))

        threads = [threading.Thread(target=walk, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(right) == 120
    assert all(right)


def test_lists_too_large_to_be_measured_are_told_by_the_footers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrowtable, "MEASURED_BYTES", 0)
    even, uneven = [[1.0, 2.0]] * 9, [[1.0]] * 4 + [[1.0, 2.0]] * 5
    pq.write_table(pa.table({"EVEN": even, "UNEVEN": uneven}), tmp_path / "in.parquet", row_group_size=4)
    with open_table(tmp_path / "in.parquet") as table:
        assert table.columns["EVEN"].shape == (2,)
        assert table.columns["UNEVEN"].lists
        assert [len(row) for row in table.read(["UNEVEN"], 2, 6)["UNEVEN"]] == [1, 1, 2, 2]


def test_columns_in_number_and_in_name(tmp_path: Path) -> None:
    names = [f"C{i}" for i in range(1200)] + ["coord.ra", "coord", "with space", "naïve"]
    pq.write_table(pa.table({name: [i] for i, name in enumerate(names)}), tmp_path / "in.parquet")
    with open_table(tmp_path / "in.parquet") as table:
        assert len(table.columns) == 1204
        assert [int(v[0]) for v in table.read(["C1199", "coord.ra", "COORD", "naïve"]).values()] == [
            1199, 1200, 1201, 1203,
        ]  # fmt: skip
        with pytest.raises(DataError, match=r"no column 'X'; columns: C0, .*C19, … \(1204 in all\)"):
            table.column("X")
        with pytest.raises(DataError, match=r"none of the columns RA, TARGET_RA; .*columns: C0"):
            table.need("RA", "TARGET_RA")


def test_names_that_are_there_twice(tmp_path: Path) -> None:
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["A", "A"]), tmp_path / "in.parquet")
    with open_table(tmp_path / "in.parquet") as table:
        assert table.read(["A"])["A"].tolist() == [1]
        assert next(table.batches()).num_columns == 2


def test_units_that_astropy_wrote(tmp_path: Path) -> None:
    catalogue = QTable({"x": [1.0, 2.0] * units.hourangle, "c": SkyCoord([1, 2], [3, 4], unit="deg")})
    catalogue["x"].info.description = "somewhere"
    catalogue.write(tmp_path / "in.parquet")
    with open_table(tmp_path / "in.parquet") as table:
        assert {name: (c.unit, c.comment) for name, c in table.columns.items()} == {
            "x": ("hourangle", "somewhere"),
            "c.ra": ("deg", ""),
            "c.dec": ("deg", ""),
        }


def test_a_text_is_as_long_as_the_longest(every: Path) -> None:
    with open_table(every) as table:
        assert table.spec("TEXT").dtype == "U5"
        assert table.spec("dict").dtype == "U2"
        assert table.spec("EVEN")[:3] == ("EVEN", "<i4", (2,))


def test_hats_rows_lie_along_the_sky(tmp_path: Path, rng) -> None:
    n = 80
    columns = {"RA": rng.uniform(0, 360, n), "DEC": rng.uniform(-90, 90, n), "TARGETID": np.arange(n)}
    nested = np.empty(n, object)
    nested[:] = [{"flux": [float(i)] * (i % 4)} for i in range(n)]
    for name, layout in {"bare": {}, "collection": {"collection": True}, "parts": {"parts": True}}.items():
        order = write_hats(tmp_path / name, columns | {"S": nested}, **layout)
        with open_table(tmp_path / name) as table:
            read = table.read(["TARGETID", "S"])
            assert read["TARGETID"].tolist() == order.tolist()
            assert [len(row["flux"]) for row in read["S"]] == (order % 4).tolist()
            assert table.position == ("RA", "DEC")
            assert table.fingerprint["size"] == sum(file.stat().st_size for file in table.files)
            with pytest.raises(DataError, match=rf"{name} has no column .Z.; .*columns: RA, DEC"):
                table.column("Z")
