"""Parquet and HATS stay Parquet: every column as it is, new ones behind, resumed and in shards as FITS."""

import json
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalog_files import append_all, fitsverify, names_in, simple_columns, write_trap
from hypothesis import given, settings
from hypothesis import strategies as st
from parquet_files import every_type, same_columns, write_parquet

from astroclip.errors import DataError, UsageError
from astroclip.schema import ColumnSpec
from astroclip.tables import append_columns, appender, merge_shards, open_table

NEW = [spec.name for spec in simple_columns(1)[0]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_parquet(tmp_path / "in.parquet")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def check(output: Path, expected: pa.Table, values: dict[str, Any]) -> None:
    """Compare an output with its input and the new values."""
    whole = pq.read_table(output)
    assert whole.column_names == [*expected.column_names, *values]
    same_columns(whole.select(expected.column_names), expected)
    for name, value in values.items():
        ours = np.array(whole[name].to_pylist()).reshape(value.shape)
        np.testing.assert_array_equal(ours, value)
    for key, text in (expected.schema.metadata or {}).items():
        assert whole.schema.metadata[key] == text


@pytest.mark.parametrize("group", [1, 5, 1000])
@pytest.mark.parametrize("block", [1, 5, 1000])
def test_every_column_is_kept_as_it_is(tmp_path: Path, out: Path, group: int, block: int) -> None:
    source = write_parquet(tmp_path / "in.parquet", group=group, compression="zstd")
    values = append_all(source, out / "out.parquet", block, history=["told"], cards={"RUN": (3, "a number")})
    check(out / "out.parquet", every_type(), values)
    file = pq.ParquetFile(out / "out.parquet")
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    said = file.schema_arrow.metadata
    assert said[b"RUN"] == b"3"
    assert said[b"ACMODEL"] == b"mini"
    assert b"SHA-256 of that file" in said[b"HISTORY"]
    assert said[b"HISTORY"].endswith(b"told")
    assert file.schema_arrow.field("COVARIANCE").metadata == {
        b"unit": b"nanomaggy",
        b"astroclip_shape": b"2,3",
    }
    assert file.schema_arrow.field("EMBED_FLAG").metadata == {b"comment": b"bit mask"}
    assert names_in(out) == ["out.parquet"]


def test_more_columns_than_fits_allows(tmp_path: Path, out: Path) -> None:
    table = pa.table({f"C{i}": [i, i + 1] for i in range(1100)})
    values = append_all(write_parquet(tmp_path / "in.parquet", table), out / "out.parquet")
    check(out / "out.parquet", table, values)


def test_names_of_one_spelling_and_twice(tmp_path: Path, out: Path) -> None:
    table = pa.table([pa.array([1]), pa.array([2]), pa.array(["é"])], names=["A", "a", "Ä"])
    values = append_all(write_parquet(tmp_path / "in.parquet", table), out / "out.parquet")
    check(out / "out.parquet", table, values)
    twice = pa.table([pa.array([1]), pa.array(["x"])], names=["A", "A"])
    append_all(write_parquet(tmp_path / "twice.parquet", twice), out / "twice.parquet")
    whole = pq.ParquetFile(out / "twice.parquet").read()
    assert [whole.column(0).to_pylist(), whole.column(1).to_pylist()] == [[1], ["x"]]


@pytest.mark.parametrize("nrows", [0, 1])
def test_few_rows(tmp_path: Path, out: Path, nrows: int) -> None:
    values = append_all(write_parquet(tmp_path / "in.parquet", every_type(nrows)), out / "out.parquet")
    check(out / "out.parquet", every_type(nrows), values)


def test_a_column_is_replaced_where_it_stands(tmp_path: Path, out: Path) -> None:
    table = pa.table({"a": [1, 2], "EMBED_FLAG": pa.array([7, 8], pa.int32()), "z": [1, 2]})
    source, column = write_parquet(tmp_path / "in.parquet", table), ColumnSpec("EMBED_FLAG", "i4")

    def append(spec: ColumnSpec, **options: Any) -> None:
        with (
            open_table(source) as opened,
            append_columns(opened, out / "out.parquet", [spec], **options) as appending,
        ):
            appending.write({"EMBED_FLAG": np.array([3, 4], spec.dtype)})

    with pytest.raises(UsageError, match="has a column 'EMBED_FLAG' already"):
        append(column)
    with pytest.raises(UsageError, match="'EMBED_FLAG' is stored as int32, the new one would be int64"):
        append(ColumnSpec("EMBED_FLAG", "i8"), overwrite_columns=True)
    append(column, overwrite_columns=True)
    assert pq.read_table(out / "out.parquet").to_pydict() == {"a": [1, 2], "EMBED_FLAG": [3, 4], "z": [1, 2]}


def test_it_replaces_its_own_input(source: Path) -> None:
    values = append_all(source, source, overwrite=True)
    check(source, every_type(), values)
    assert names_in(source.parent) == ["in.parquet"]


def test_text_of_any_alphabet_in_new_columns(source: Path, out: Path) -> None:
    with (
        open_table(source) as table,
        append_columns(table, out / "out.parquet", [ColumnSpec("T", "U3")]) as appending,
    ):
        appending.write({"T": np.array(["é", "βγδ"] * 6)})
    assert pq.read_table(out / "out.parquet")["T"].to_pylist() == ["é", "βγδ"] * 6


@pytest.mark.parametrize("form", ["parquet", "csv", "ecsv", "vot"])
def test_a_resumed_run_gives_the_same(tmp_path: Path, out: Path, form: str) -> None:
    table = every_type().select(["TARGETID", "F", "GOOD", "WORD"])
    source = write_parquet(tmp_path / "in.parquet", table)
    drop = {"csv": ["IMAGE_EMBEDDING", "COVARIANCE"], "vot": ["BIG"]}.get(form, [])
    options = {"cards": {"ACDATE": "2024-06-07"}, "drop": drop}
    append_all(source, out / f"whole.{form}", **options)
    output = out / f"out.{form}"
    columns, values = simple_columns(12)
    with (
        open_table(source) as opened,
        pytest.raises(ValueError, match="7 rows written, expected 12"),
        append_columns(opened, output, columns, **options) as appending,
    ):
        appending.write({name: value[:7] for name, value in values.items()})
    assert names_in(out) == [f".out.{form}.part", f".out.{form}.part.json", f"whole.{form}"]
    with (
        open_table(source) as opened,
        append_columns(
            opened, output, columns, resume=True, drop=drop, cards={"ACDATE": "later"}
        ) as appending,
    ):
        assert (appending.done, appending.resumed) == (7, True)
        appending.write({name: value[7:] for name, value in values.items()})
    assert output.read_bytes() == (out / f"whole.{form}").read_bytes()
    assert names_in(out) == [f"out.{form}", f"whole.{form}"]


@pytest.mark.parametrize("change", ["settings", "columns", "drop", "source", "output"])
def test_another_run_does_not_resume(source: Path, out: Path, change: str) -> None:
    columns, values = simple_columns(12)
    with (
        open_table(source) as opened,
        pytest.raises(ValueError, match="7 rows"),
        append_columns(opened, out / "out.parquet", columns, settings={"a": 1}) as appending,
    ):
        appending.write({name: value[:7] for name, value in values.items()})
    before = names_in(out)
    options: dict[str, Any] = {"settings": {"a": 2 if change == "settings" else 1}, "resume": True}
    if change == "columns":
        columns[0] = columns[0]._replace(shape=(9,))
    if change == "drop":
        options["drop"] = ["map"]
    if change == "source":
        write_parquet(source, every_type(seed=4))
    error, said = UsageError, "begun with other settings"
    if change == "source":
        error, said = DataError, "SHA-256 differs"
    if change == "output":
        error, said, options["resume"] = DataError, "changed while it was read", False
    with (  # noqa: PT012
        pytest.raises(error, match=said),
        open_table(source) as opened,
        append_columns(opened, out / "out.parquet", columns, **options) as appending,
    ):
        appending.write(values)
        write_parquet(source, every_type(seed=5))
    assert names_in(out) == before or change == "output"


@pytest.mark.parametrize(("block", "at_least"), [(5, 15), (1000, 3)])
def test_killed_again_and_again(tmp_path: Path, block: int, at_least: int) -> None:
    source = write_parquet(tmp_path / "in.parquet", every_type(400), group=37)
    killed, whole = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    script = Path(__file__).with_name("killed_runs.py")
    command = [sys.executable, script, source, killed, "2", str(block), "21"]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    values = append_all(source, whole)
    assert len(done) > at_least  # so many were killed, and one more came to the end
    assert int(done[-1]) > 0
    check(killed, every_type(400), values)
    same_columns(pq.read_table(killed), pq.read_table(whole))
    assert names_in(tmp_path) == ["in.parquet", "killed.parquet", "whole.parquet"]


def test_killed_while_the_output_is_made(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astroclip.tables.arrow_append.write_batches", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        append_all(source, out / "out.parquet")
    monkeypatch.undo()

    def fill(self: object, batch: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", fill)
    columns, values = simple_columns(12)
    with (
        open_table(source) as opened,
        pytest.raises(DataError, match="the disk or quota is full"),
        append_columns(opened, out / "out.parquet", columns, resume=True) as appending,
    ):
        assert appending.done == 12
    assert names_in(out) == [".out.parquet.part", ".out.parquet.part.json"]
    (out / ".out.parquet.part.whole").write_bytes(b"half of it")
    monkeypatch.undo()
    with (
        open_table(source) as opened,
        append_columns(opened, out / "out.parquet", columns, resume=True) as appending,
    ):
        assert appending.done == 12
    check(out / "out.parquet", every_type(), values)
    assert names_in(out) == ["out.parquet"]


def split(
    source: Path, folder: Path, cuts: list[int], suffix: str = ".parquet", **options: Any
) -> list[Path]:
    """Write a table's shards between cuts."""
    columns, values = simple_columns(cuts[-1])
    shards = []
    for i, (start, stop) in enumerate(pairwise(cuts)):
        shards.append(folder / f"{i}{suffix}")
        with (
            open_table(source) as table,
            append_columns(
                table, shards[-1], columns, rows=(start, stop), shard=(i, len(cuts) - 1), **options
            ) as appending,
        ):
            appending.write({name: value[start:stop] for name, value in values.items()})
    return shards


@settings(max_examples=10, deadline=None)
@given(st.sets(st.integers(0, 12), max_size=3))
def test_shards_join_to_the_whole(tmp_path_factory: pytest.TempPathFactory, cuts: set[int]) -> None:
    folder = tmp_path_factory.mktemp("shards")
    source = write_parquet(folder / "in.parquet")
    shards = split(source, folder, [0, *sorted(cuts), 12])
    values = append_all(source, folder / "whole.parquet")
    merge_shards(shards[::-1], folder / "merged.parquet")
    check(folder / "merged.parquet", every_type(), values)
    said = pq.read_schema(folder / "merged.parquet").metadata
    assert not any(key.startswith((b"ACSHARD", b"ACROW")) for key in said)


def test_shards_that_do_not_belong_together(source: Path, out: Path) -> None:
    shards = split(source, out, [0, 5, 12])
    (out / "other").mkdir()
    others = split(source, out / "other", [0, 5, 12], settings={"a": 1})
    fits = split(write_trap(out / "in.fits"), out, [0, 5, 17], ".fits")
    cases: list[tuple[list[Path], type[Exception], str]] = [
        (shards[:1], DataError, "shards 1 of 2 are missing"),
        ([*shards, shards[0]], DataError, "more than 2 shards"),
        ([shards[0], others[1]], DataError, "its run differs"),
        ([shards[0], fits[1]], DataError, "does not belong"),
        ([shards[0], source], DataError, "in.parquet: is not a shard"),
    ]
    for inputs, error, said in cases:
        with pytest.raises(error, match=said):
            merge_shards(inputs, out / "out.parquet")
    with pytest.raises(UsageError, match=r"Merge them into a \.parquet"):
        merge_shards(shards, out / "out.fits")
    with pytest.raises(UsageError, match="is an input of this run"):
        merge_shards(shards, shards[0], overwrite=True)
    with pytest.raises(UsageError, match=r"a shard is written as \.fits or \.parquet"):
        split(source, out, [0, 5, 12], ".csv")
    with pytest.raises(UsageError, match="is itself a shard"):
        split(shards[0], out / "other", [0, 2, 5], overwrite=True)


def test_the_journal_is_not_written_at_every_block(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "JOURNAL_SECONDS", 1e9)
    columns, values = simple_columns(12)
    with open_table(source) as table, append_columns(table, out / "out.parquet", columns) as appending:
        appending.write(values)
        assert not (out / ".out.parquet.part.json").exists()
        assert (out / ".out.parquet.part").stat().st_size > 0


def test_from_parquet_to_fits_a_column_that_fits_cannot_hold_is_named(source: Path, out: Path) -> None:
    with pytest.raises(DataError, match=r"'WHEN' .*'EXACT' .*'PNG' .*'spectrum' .*--drop WHEN .*--drop map"):
        append_all(source, out / "out.fits")
    assert names_in(out) == []
    drop = ["when", "WHEN_UTC", "DAY", "EXACT", "PNG", "HASH", "WORDS", "spectrum", "image", "arms", "map"]
    append_all(source, out / "out.fits", drop=drop)
    assert fitsverify(out / "out.fits") == "OK"
    with open_table(out / "out.fits") as table:
        assert list(table.columns)[:4] == ["TARGETID", "U64", "I8", "F16"]
        assert table.header["ACMODEL"] == "mini"
        assert table.read(["TARGETID"])["TARGETID"].tolist() == every_type()["TARGETID"].to_pylist()


def test_a_column_to_drop_must_be_there(source: Path, out: Path) -> None:
    with pytest.raises(DataError, match="has no column 'NOWHERE'"):
        append_all(source, out / "out.parquet", drop=["NOWHERE"])
    assert names_in(out) == []


def test_a_hats_catalogue_becomes_one_parquet_file(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "hats"
    table = every_type()
    for pixel, rows in ((4, slice(0, 5)), (7, slice(5, 12))):
        path = folder / "dataset" / "Norder=1" / "Dir=0" / f"Npix={pixel}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, table.slice(rows.start, rows.stop - rows.start), group=3)
    (folder / "hats.properties").write_text("hats_nrows=12\n")
    values = append_all(folder, out / "out.parquet")
    check(out / "out.parquet", table, values)
    with pytest.raises(UsageError, match="is an input of this run"):
        append_all(folder, folder / "dataset" / "Norder=1" / "Dir=0" / "Npix=4.parquet", overwrite=True)
    columns, values = simple_columns(12)
    with (  # noqa: PT012
        pytest.raises(DataError, match="changed while it was read"),
        open_table(folder) as opened,
        append_columns(opened, out / "changed.parquet", columns) as appending,
    ):
        appending.write(values)
        write_parquet(folder / "dataset" / "Norder=1" / "Dir=0" / "Npix=4.parquet", table.slice(1, 5))


def test_the_journal_says_what_is_to_be_the_same(source: Path, out: Path) -> None:
    columns, values = simple_columns(12)
    with (
        open_table(source) as table,
        pytest.raises(ValueError, match="3 rows"),
        append_columns(table, out / "out.parquet", columns, settings={"model": "mini"}) as appending,
    ):
        appending.write({name: value[:3] for name, value in values.items()})
    journal = json.loads((out / ".out.parquet.part.json").read_text())
    assert journal["settings"] == {"model": "mini"}
    assert journal["done"] == 3


@pytest.mark.skipif(find_spec("lsdb") is None, reason="needs lsdb: pip install '.[distributed]'")
def test_nested_pandas_reads_what_lsdb_reads_with_it(source: Path, out: Path) -> None:
    import nested_pandas

    values = append_all(source, out / "out.parquet", drop=["map"])
    frame = nested_pandas.read_parquet(out / "out.parquet")
    assert frame["TARGETID"].tolist() == every_type()["TARGETID"].to_pylist()
    assert np.stack(frame["IMAGE_EMBEDDING"].to_numpy()).tolist() == values["IMAGE_EMBEDDING"].tolist()
    assert frame["spectrum"].iloc[0]["flux"].tolist() == [1, 2]
