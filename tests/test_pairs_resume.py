"""The writer of pairs: killed and resumed, refused, out of disk."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from builders_pairs import LABELS, MADE, SPLIT, cut, galaxies, leftovers, sha256, write

from astroclip import files as part
from astroclip.data import pairs as pairs_room
from astroclip.data.pairs import SplitSettings, is_pairs, write_pairs
from astroclip.errors import DataError, UsageError


@pytest.fixture(scope="module")
def block() -> dict[str, np.ndarray]:
    return galaxies(21)


@pytest.fixture(scope="module")
def path(block, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("pairs") / "pairs.h5", block)


# --- interrupted and resumed ------------------------------------------------------------------------------

# Writes the file in a child of its own for each line it is given, and tells the child's number and its end.
WRITER = """
import os, sys
sys.path.insert(0, {tests!r})
from builders_pairs import MADE, SPLIT, cut, galaxies
from astroclip.data.pairs import write_pairs, writer
writer.JOURNAL_SECONDS = 0
block = galaxies(60)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        with write_pairs({path!r}, 60, created="2024-06-07", split=SPLIT, resume=True, **MADE) as w:
            while w.done < 60:
                w.write(cut(block, w.done, w.done + 3))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_killed_40_times_at_random_the_file_has_the_same_bytes(tmp_path):
    whole = sha256(write(tmp_path / "whole.h5", galaxies(60)))
    target, journal = tmp_path / "killed.h5", tmp_path / ".killed.h5.part.json"
    rng, kills, rows, code = random.Random(3), 0, [], -1
    script = WRITER.format(tests=str(Path(__file__).parent), path=str(target))
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as writer:
        while kills < 40 or code:
            writer.stdin.write("\n")
            writer.stdin.flush()
            child = int(writer.stdout.readline())
            if kills < 40:
                time.sleep(rng.uniform(0, 0.08))
                with suppress(ProcessLookupError):  # finished already
                    os.kill(child, signal.SIGKILL)
            code = int(writer.stdout.readline())
            assert code in (0, -signal.SIGKILL)
            kills += code != 0
            rows.append(json.loads(journal.read_text())["rows"] if journal.exists() else -1)
            if target.exists():  # finished, or killed after the rename: begin the next file
                assert sha256(target) == whole
                target.unlink()
        writer.stdin.close()
    assert leftovers(tmp_path) == ["whole.h5"]
    assert len(set(rows)) > 5  # the kills did hit different places


def interrupt(path: Path, block: dict[str, np.ndarray], **options) -> None:
    """Leave a part of 10 rows."""
    with pytest.raises(ValueError, match="10 rows written, expected 21"):
        write(path, cut(block, 0, 10), nrows=21, **options)


def test_resumed_where_it_stopped_with_the_first_date(tmp_path, path, block):
    target = tmp_path / "a.h5"
    interrupt(target, block, created="2024-06-07")
    assert not target.exists()
    with write_pairs(target, 21, split=SPLIT, resume=True, created="2030-01-01", **MADE) as writer:
        assert (writer.done, writer.resumed) == (10, True)
        writer.write(cut(block, 10, 21))
    assert sha256(target) == sha256(path)


def test_without_resume_the_part_is_dropped(tmp_path, path, block):
    target = tmp_path / "a.h5"
    interrupt(target, galaxies(21, seed=5), settings={"cut": "none"})
    assert sha256(write(target, block)) == sha256(path)
    assert leftovers(tmp_path) == ["a.h5"]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (
            {"settings": {"cut": "none"}},
            UsageError,
            "cut was 'galaxy', now 'none'; radius_arcsec was 1.0, now None",
        ),
        ({"split": SplitSettings(seed=8)}, UsageError, "split was .*'seed': 7.*, now .*'seed': 8"),
        ({"labels": LABELS[:1]}, UsageError, "labels was"),
        ({"inputs": {"zall.fits": "sha256:2a"}}, DataError, "other input files, or they have changed"),
    ],
)
def test_a_part_is_not_mixed_with_something_else(tmp_path, block, change, error, says):
    interrupt(tmp_path / "a.h5", block)
    before = sha256(tmp_path / ".a.h5.part")
    with pytest.raises(error, match=says):
        write(tmp_path / "a.h5", block, resume=True, **change)
    assert sha256(tmp_path / ".a.h5.part") == before
    assert not (tmp_path / "a.h5").exists()


def test_another_number_of_rows_is_not_resumed(tmp_path, block):
    interrupt(tmp_path / "a.h5", block)
    with pytest.raises(UsageError, match="nrows was 21, now 5"):
        write(tmp_path / "a.h5", cut(block, 0, 5), resume=True)


def test_too_few_and_too_many_rows_are_refused(tmp_path, block):
    with (
        pytest.raises(ValueError, match="10 rows written, expected 21"),
        write_pairs(tmp_path / "a.h5", 21) as writer,
    ):
        writer.write({name: block[name][:10] for name in pairs_room.writer.PAIRS_REQUIRED})
    with write_pairs(tmp_path / "b.h5", 21, labels=LABELS) as writer:
        writer.write(cut(block, 0, 15))
        with pytest.raises(ValueError, match="21 rows, but only 6 are left"):
            writer.write(block)
        writer.write(cut(block, 15, 21))
    assert not (tmp_path / "a.h5").exists()


def test_two_runs_do_not_write_one_file(tmp_path, block):
    with write_pairs(tmp_path / "a.h5", 21, **MADE) as writer:
        with pytest.raises(UsageError, match="another run is writing it"):
            write(tmp_path / "a.h5", block)
        writer.write(block)


# --- what cannot be written -------------------------------------------------------------------------------


def test_existing_file_is_kept(tmp_path, block):
    target = tmp_path / "a.h5"
    target.write_text("precious")
    with pytest.raises(UsageError, match="exists already"):
        write(target, block)
    with pytest.raises(ValueError, match="missing"):
        write(target, {"targetid": block["targetid"]}, overwrite=True)
    assert target.read_text() == "precious"
    write(target, block, overwrite=True)
    assert is_pairs(target)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [("none/a.h5", DataError, "there is no folder"), ("a.fits", UsageError, "written as .h5, .hdf5"),
     ("/proc/a.h5", DataError, "/proc")],
)  # fmt: skip
def test_targets_that_cannot_be(tmp_path, block, name, error, says):
    with pytest.raises(error, match=says):
        write(tmp_path / name, block)
    assert leftovers(tmp_path) == []


def limit_file_size(size: int) -> None:
    """Let files grow to `size` bytes: the kernel then refuses as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_disk_that_becomes_full_leaves_a_part_to_resume(tmp_path, path, block):
    target, before = tmp_path / "a.h5", resource.getrlimit(resource.RLIMIT_FSIZE)[0]

    def blocks():
        yield 0, 10
        limit_file_size(4_000_000)
        yield 10, 21

    def fill():
        with write_pairs(target, 21, split=SPLIT, created="2024-06-07", **MADE) as writer:
            for start, stop in blocks():
                writer.write(cut(block, start, stop))

    try:
        with pytest.raises(DataError, match=r"a\.h5: cannot write it: the disk or quota is full"):
            fill()
    finally:
        limit_file_size(before)
    assert leftovers(tmp_path) == [".a.h5.part", ".a.h5.part.json"]
    with write_pairs(target, 21, split=SPLIT, resume=True, **MADE) as writer:
        writer.write(cut(block, writer.done, 21))
    assert sha256(target) == sha256(path)


def test_disk_full_from_the_begin_leaves_nothing(tmp_path, block, monkeypatch):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    try:
        limit_file_size(1_000_000)
        with pytest.raises(DataError, match=r"a\.h5: cannot write it"):
            write(tmp_path / "a.h5", block)
    finally:
        limit_file_size(before)
    assert leftovers(tmp_path) == []
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(part.shutil, "disk_usage", lambda folder: Usage(1 << 40, 1 << 40, 5_000_000))
    with pytest.raises(DataError, match=r"needs 0.00\d+ GB, but .* has 0.005 GB free"):
        write(tmp_path / "a.h5", block)
    assert leftovers(tmp_path) == []
