"""Interruption runs continue to the same bytes, or say why not; shards join to the bytes of one run."""

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalog_files import fitsverify, names_in, parts_of, simple_columns, write_trap

from astroclip.errors import AstroclipError, DataError, UsageError
from astroclip.schema import ColumnSpec
from astroclip.tables import Appender, append_columns, merge_shards, open_table, provenance

SETTINGS = {"model": "mini", "size": (144, 144)}


class Interruption(Exception):  # noqa: N818 - not an error
    pass


@contextmanager
def opened(source: Path, output: Path, **kwargs: Any) -> Iterator[tuple[Appender, dict[str, Any]]]:
    """Open a catalogue and an appender of the simple columns; gives the values as well."""
    with open_table(source, scratch=output.parent) as catalog:
        columns, values = simple_columns(catalog.nrows)
        kwargs = {"columns": columns, "settings": SETTINGS} | kwargs
        kwargs["cards"] = {"ACDATE": "2024-06-07T12:00:00"} | kwargs.get("cards", {})
        with append_columns(catalog, output, **kwargs) as appender:
            yield appender, values


def write_to(appender: Appender, values: dict[str, Any], stop: int, block: int = 4) -> None:
    start = appender.start
    for at in range(start + appender.done, stop, block):
        appender.write({name: value[at : min(at + block, stop)] for name, value in values.items()})


def run(source: Path, output: Path, **kwargs: Any) -> Appender:
    """Write all rows that are left."""
    with opened(source, output, **kwargs) as (appender, values):
        write_to(appender, values, appender.stop)
    return appender


def interrupt(source: Path, output: Path, **kwargs: Any) -> None:
    """Write the rows up to row 9, then fail."""
    with pytest.raises(Interruption), opened(source, output, **kwargs) as (appender, values):  # noqa: PT012
        write_to(appender, values, 9)
        raise Interruption


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_trap(tmp_path / "in.fits")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "out.fits"


def test_a_resumed_run_gives_the_same_bytes(source: Path, output: Path) -> None:
    whole = output.with_name("whole.fits")
    run(source, whole, cards={"DATE": "yesterday"})
    interrupt(source, output, cards={"DATE": "yesterday"})
    assert names_in(output.parent) == [".out.fits.part", ".out.fits.part.json", "whole.fits"]
    appender = run(source, output, resume=True, cards={"DATE": "today, and the day after"})
    assert appender.resumed
    assert output.read_bytes() == whole.read_bytes()
    assert names_in(output.parent) == ["out.fits", "whole.fits"]


def test_nothing_to_resume_begins(source: Path, output: Path) -> None:
    appender = run(source, output, resume=True)
    assert not appender.resumed
    assert fitsverify(output) == "OK"


def test_without_resume_a_part_is_discarded(source: Path, output: Path) -> None:
    interrupt(source, output)
    assert not run(source, output, settings={"model": "paper"}).resumed


@pytest.mark.parametrize("damage", ["part", "journal"])
def test_a_part_that_is_cut_begins_again(source: Path, output: Path, damage: str) -> None:
    interrupt(source, output)
    part, journal = output.with_name(".out.fits.part"), output.with_name(".out.fits.part.json")
    if damage == "part":
        os.truncate(part, part.stat().st_size - 1)
    else:
        journal.write_text("{")
    assert not run(source, output, resume=True).resumed
    assert fitsverify(output) == "OK"


@pytest.mark.parametrize(("block", "at_least"), [(5, 20), (1000, 3)])
def test_killed_again_and_again(tmp_path: Path, block: int, at_least: int) -> None:
    source = write_trap(tmp_path / "in.fits", nrows=400)
    killed, whole = tmp_path / "killed.fits", tmp_path / "whole.fits"
    script = Path(__file__).with_name("killed_runs.py")
    command = [sys.executable, script, source, killed, "1", str(block), "21"]
    done = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    run(source, whole)
    assert len(done) > at_least  # so many were killed, and one more came to the end
    assert int(done[-1]) > 0
    for ours, expected in zip(parts_of(killed, 3)[1:], parts_of(whole, 3)[1:], strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert fitsverify(killed) == "OK"
    assert names_in(tmp_path) == ["in.fits", "killed.fits", "whole.fits"]


def test_killed_while_replacing_its_input(tmp_path: Path) -> None:
    source = write_trap(tmp_path / "in.fits")
    before = source.read_bytes()
    interrupt(source, source, overwrite=True)
    assert source.read_bytes() == before
    assert run(source, source, overwrite=True, resume=True).resumed
    assert fitsverify(source) == "OK"


@pytest.mark.parametrize("where", [0.1, 0.5, 0.999])
def test_a_changed_catalogue_is_refused(source: Path, output: Path, where: float) -> None:
    interrupt(source, output)
    kept = output.with_name(".out.fits.part").read_bytes()
    data, stat = bytearray(source.read_bytes()), source.stat()
    data[int(where * len(data))] ^= 1
    source.write_bytes(data)
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(DataError, match="SHA-256 differs"):
        run(source, output, resume=True)
    assert output.with_name(".out.fits.part").read_bytes() == kept


def test_a_catalogue_that_changes_during_the_run_is_refused(source: Path, output: Path) -> None:
    with open_table(source) as catalog:
        assert catalog.fingerprint["size"] == source.stat().st_size
        columns, values = simple_columns(catalog.nrows)
        source.touch()
        with (
            pytest.raises(DataError, match="changed while it was read"),
            append_columns(catalog, output, columns) as appender,
        ):
            appender.write(values)
    assert not output.exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"model": "paper", "size": [144, 144]}}, "model was 'mini', now 'paper'$"),
        ({"settings": {"model": "mini"}}, r"size was \[144, 144\], now None"),
        ({"columns": [ColumnSpec("A", "f4")]}, "columns was"),
        ({"shard": (0, 1)}, r"shard was None, now \[0, 1\]"),
    ],
)
def test_other_settings_are_refused(
    source: Path, output: Path, changed: dict[str, Any], message: str
) -> None:
    interrupt(source, output)
    with pytest.raises(UsageError, match=message.removesuffix("$")) as refusal:
        run(source, output, resume=True, **changed)
    if message.endswith("$"):
        assert "size" not in str(refusal.value)
    assert run(source, output, resume=True).resumed


def test_another_version_is_refused(source: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(source, output)
    monkeypatch.setattr(provenance, "VERSION", "99.0")
    with pytest.raises(UsageError, match=r"program was 'astroclip .*', now 'astroclip 99.0'"):
        run(source, output, resume=True)


@pytest.mark.parametrize("change", ["changed", "renamed"])
def test_no_copy_of_a_converted_catalogue_is_left_behind(tmp_path: Path, output: Path, change: str) -> None:
    source = tmp_path / "in.csv"
    source.write_text("A\n" + "\n".join(map(str, range(20))) + "\n")
    interrupt(source, output)
    assert names_in(output.parent) == [".out.fits.part", ".out.fits.part.json"]
    if change == "renamed":
        source = source.rename(tmp_path / "other.csv")
        assert run(source, output, resume=True).resumed
    else:
        source.write_text(source.read_text() + "20\n")
        with pytest.raises(DataError, match="SHA-256 differs"):
            run(source, output, resume=True)
        run(source, output)
    assert names_in(output.parent) == ["out.fits"]


def test_two_runs_on_one_output(source: Path, output: Path) -> None:
    with opened(source, output) as (appender, values):
        with pytest.raises(UsageError, match="another run is writing it"):
            run(source, output)
        write_to(appender, values, appender.stop)
    assert fitsverify(output) == "OK"


def test_a_run_that_finished_between_open_and_lock(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = output.with_name(".out.fits.part")
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: part.rename(output))
    with pytest.raises(UsageError, match="has just finished it"):
        run(source, output)


def test_file_systems_without_locks(source: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    run(source, output)
    assert fitsverify(output) == "OK"


def test_disk_full_in_the_middle(tmp_path: Path) -> None:
    source, output = write_trap(tmp_path / "in.fits", nrows=400), tmp_path / "out.fits"
    whole = tmp_path / "whole.fits"
    run(source, whole)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (source.stat().st_size, hard))
    try:
        with pytest.raises(DataError, match=r"the disk or quota is full.* resume"):
            run(source, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert names_in(tmp_path) == [".out.fits.part", ".out.fits.part.json", "in.fits", "whole.fits"]
    assert run(source, output, resume=True).resumed
    assert output.read_bytes() == whole.read_bytes()


def test_disk_full_at_the_beginning_leaves_nothing(source: Path, output: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(DataError, match="the disk or quota is full"):
            run(source, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert names_in(output.parent) == []


def test_a_disk_too_small_is_seen_before_writing(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, output)
    size = output.stat().st_size
    output.unlink()
    usage = shutil.disk_usage(output.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size - 1))
    with pytest.raises(DataError, match="GB free"):
        run(source, output)
    assert names_in(output.parent) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=size))
    run(source, output)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written(
    source: Path, output: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataError, match=f"cannot write in .*out: {os.strerror(code)}"):
        run(source, output)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing/out.fits", DataError, "there is no folder .*missing"),
        ("in.fits/out.fits", DataError, "there is no folder .*in.fits"),
        ("folder.fits", UsageError, "is a folder"),
        ("out.fits.gz", UsageError, r"as .fits, .*, .xml \(write .fits, then gzip it\)"),
        ("out.hdf5", UsageError, "as .fits, .fit, .parquet, .csv, .tsv, .ecsv, .vot, .xml"),
    ],
)
def test_outputs_that_cannot_be(
    tmp_path: Path, source: Path, name: str, error: type[AstroclipError], message: str
) -> None:
    (tmp_path / "folder.fits").mkdir()
    with pytest.raises(error, match=message):
        run(source, tmp_path / name)
    assert names_in(tmp_path) == ["folder.fits", "in.fits"]


def split(source: Path, folder: Path, cuts: list[int], **kwargs: Any) -> list[Path]:
    """Write the shards between cuts."""
    n = len(cuts) - 1
    shards = [folder / f"shard-{i}-of-{n}.fits" for i in range(n)]
    for i, shard in enumerate(shards):
        run(source, shard, rows=(cuts[i], cuts[i + 1]), shard=(i, n), **kwargs)
    return shards


@pytest.mark.parametrize("cuts", [[0, 17], [0, 1, 9, 17], [0, 0, 5, 17, 17]])
def test_shards_join_to_the_bytes_of_one_run(source: Path, output: Path, cuts: list[int]) -> None:
    whole = output.with_name("whole.fits")
    run(source, whole, history=["a run"])
    shards = split(source, output.parent, cuts, history=["a run"])
    assert {fitsverify(shard) for shard in shards} == {"OK"}
    merge_shards(shards[::-1], output)
    assert output.read_bytes() == whole.read_bytes()
    with pytest.raises(UsageError, match="exists already"):
        merge_shards(shards, output)
    merge_shards(shards, output, overwrite=True)


def test_a_shard_is_a_table_of_its_rows(source: Path, output: Path) -> None:
    shard = split(source, output.parent, [0, 5, 17])[1]
    with open_table(source) as catalog, open_table(shard) as part:
        for name, values in catalog.read(catalog.columns, 5).items():
            for ours, expected in zip(part.read([name])[name], values, strict=True):
                np.testing.assert_array_equal(ours, expected)
        assert [part.header[key] for key in ("ACSHARD", "ACNSHARD", "ACROW0", "ACROWS")] == [1, 2, 5, 17]


def test_a_shard_resumes(source: Path, output: Path) -> None:
    expected = [path.read_bytes() for path in split(source, output.parent, [0, 5, 17])]
    interrupt(source, output, rows=(5, 17), shard=(1, 2))
    assert run(source, output, rows=(5, 17), shard=(1, 2), resume=True).resumed
    assert output.read_bytes() == expected[1]


def test_shards_that_do_not_belong_together(tmp_path: Path, source: Path, output: Path) -> None:
    folder = output.parent
    other_source = write_trap(tmp_path / "other.fits", seed=3)
    for name in ("settings", "catalogue", "gap"):
        (folder / name).mkdir()
    good = split(source, folder, [0, 5, 17])
    other_settings = split(source, folder / "settings", [0, 5, 17], settings={"model": "paper"})
    other_catalogue = split(other_source, folder / "catalogue", [0, 5, 17])
    other_cut = split(source, folder / "gap", [0, 7, 17])
    cases = [
        ([], UsageError, "no shards"),
        (good[:1], DataError, "shards 1 of 2 are missing"),
        ([*good, good[0]], DataError, "more than 2 shards"),
        ([good[0], folder / "nowhere.fits"], DataError, "nowhere.fits: cannot read it"),
        ([good[0], source], DataError, "in.fits: is not a shard"),
        ([good[0], other_settings[1]], DataError, "its run differs"),
        ([good[0], other_catalogue[1]], DataError, "its catalogue differs"),
        ([good[0], other_cut[1]], DataError, "begins at row 7, expected 5"),
    ]
    for inputs, error, message in cases:
        with pytest.raises(error, match=message):
            merge_shards(inputs, output)
    assert not output.exists()
    with pytest.raises(UsageError, match="is itself a shard"):
        run(good[0], output, columns=[ColumnSpec("A", "f4")], shard=(0, 1))
    with pytest.raises(UsageError, match="shard 2 of 2"):
        run(source, output, shard=(2, 2))
    with pytest.raises(ValueError, match="rows 0 to 5"):
        run(source, output, rows=(0, 5))
