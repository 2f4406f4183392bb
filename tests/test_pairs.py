"""The paired data set: written in any blocks, killed and resumed, split by sky, read in three forms."""

import hashlib
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
from itertools import pairwise
from pathlib import Path

import h5py
import healpy
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from astroclip import pairs as pairs_room
from astroclip.catalog import part
from astroclip.errors import DataError, UsageError
from astroclip.pairs import Label, SplitSettings, is_pairs, open_pairs, split_by_healpix, write_pairs
from astroclip.pairs.layout import CHUNK_ROWS, find_places, row_specs
from astroclip.schema import PAIRS_COLUMNS, Split, desi_wave

LABELS = [
    Label("log_mstar", "<f4", "dex(Msun)", "PROVABGS, Chabrier, h = 0.7"),
    Label("votes", "<i2", "", "Galaxy Zoo DECaLS", "-1: not asked"),
    Label("barred", "?"),
    Label("iauname", "S20"),
]
MADE = {
    "labels": LABELS,
    "settings": {"cut": "galaxy", "radius_arcsec": 1.0},
    "inputs": {"zall.fits": "sha256:1f"},
}
SPLIT = SplitSettings(seed=7)


def galaxies(n: int, seed: int = 1) -> dict[str, np.ndarray]:
    """Build n pairs with every column and label."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.random((n, 3, 152, 152), np.float32),
        "flux": rng.random((n, 7781), np.float32),
        "ivar": rng.random((n, 7781), np.float32),
        "mask": rng.integers(0, 1 << 16, (n, 7781), np.int32),
        "targetid": 39_627_000_000_000_000 + np.arange(n),
        "survey": np.array(["sv3", "special"] * n)[:n],
        "program": np.array(["dark", "bright"] * n)[:n],
        "healpix": rng.integers(0, 49152, n),
        "release": np.full(n, 9010, np.int16),
        "brickid": rng.integers(0, 600_000, n),
        "objid": np.arange(n),
        "ra": rng.uniform(0, 360, n),
        "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
        "redshift": rng.uniform(0, 0.6, n),
        "separation_arcsec": rng.uniform(0, 1, n).astype(np.float32),
        "log_mstar": rng.normal(10, 1, n).astype(np.float32),
        "votes": rng.integers(-1, 40, n),
        "barred": rng.random(n) < 0.3,
        "iauname": np.array([f"J{i:06d}é" for i in range(n)]),
    }


def cut(block: dict[str, np.ndarray], start: int, stop: int) -> dict[str, np.ndarray]:
    return {name: values[start:stop] for name, values in block.items()}


def write(path: Path, block: dict[str, np.ndarray], stops: tuple[int, ...] = (), **options) -> Path:
    """Write pairs in blocks that end at `stops`."""
    n = len(block["targetid"])
    with write_pairs(
        path, options.pop("nrows", n), **({"created": "2024-06-07", "split": SPLIT} | MADE | options)
    ) as writer:
        for start, stop in pairwise([0, *stops, n]):
            writer.write(cut(block, start, stop))
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(scope="module")
def block() -> dict[str, np.ndarray]:
    return galaxies(21)


@pytest.fixture(scope="module")
def path(block, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("pairs") / "pairs.h5", block)


# --- what is written is what is read ----------------------------------------------------------------------


def test_every_column_and_label_comes_back(path, block):
    with open_pairs(path) as pairs:
        assert (pairs.nrows, len(pairs)) == (21, 21)
        assert pairs.columns == tuple(spec.name for spec in PAIRS_COLUMNS)
        values = pairs.read([*pairs.columns, *pairs.labels])
        for name, given_values in block.items():
            np.testing.assert_array_equal(values[name], given_values, err_msg=name)
        for spec in PAIRS_COLUMNS:
            assert values[spec.name].shape == (21, *spec.shape)
            assert spec.dtype[0] == "S" or values[spec.name].dtype == spec.dtype
        np.testing.assert_array_equal(pairs.split, split_by_healpix(block["ra"], block["dec"], seed=7))
        np.testing.assert_array_equal(pairs.wave, desi_wave())
        assert pairs.labels["log_mstar"] == LABELS[0]
        assert pairs.labels["votes"].comment == "-1: not asked"


def test_file_says_how_it_was_made(path):
    with open_pairs(path) as pairs:
        assert pairs.provenance == {
            "program": "astroclip 0.1.0",
            "created": "2024-06-07",
            "settings": MADE["settings"],
            "inputs": MADE["inputs"],
            "split": {"fractions": [0.8, 0.1, 0.1], "nside": 32, "nest": True, "seed": 7},
        }
    with h5py.File(path) as file:  # as anybody would read it
        assert file.attrs["format"] == "astroclip pairs"
        assert file["image"].attrs["unit"] == "nanomaggy"
        assert file["image"].chunks == (CHUNK_ROWS, 3, 152, 152)
        assert file["wave"][[0, -1]] == pytest.approx([3600, 9824])
        assert all("unit" in file[name].attrs for name in row_specs(LABELS))


def test_many_input_files_are_kept(tmp_path):
    inputs = {
        f"coadd-{i}.fits": f"sha256:{i:064x}" for i in range(3000)
    }  # an old HDF5 attribute ends at 64 kB
    with write_pairs(tmp_path / "a.h5", 0, inputs=inputs):
        pass
    with open_pairs(tmp_path / "a.h5") as pairs:
        assert pairs.provenance["inputs"] == inputs


def test_what_is_not_known_is_marked(tmp_path, block):
    few = {name: block[name][:2] for name in ("image", "flux", "ivar", "mask", "targetid", "ra", "dec")}
    write(tmp_path / "a.h5", few)
    with open_pairs(tmp_path / "a.h5") as pairs:
        values = pairs.read(
            ["redshift", "separation_arcsec", "objid", "survey", "log_mstar", "votes", "iauname"]
        )
    assert [values[name].tolist() for name in ("objid", "survey", "votes", "iauname")] == [
        [-1, -1], ["", ""], [-1, -1], ["", ""],
    ]  # fmt: skip
    assert all(np.isnan(values[name]).all() for name in ("redshift", "separation_arcsec", "log_mstar"))


def test_no_pairs_at_all_is_a_file_too(tmp_path):
    write(tmp_path / "a.h5", galaxies(0))
    with open_pairs(tmp_path / "a.h5") as pairs:
        assert pairs.read(["image", "iauname"])["image"].shape == (0, 3, 152, 152)
        assert list(pairs.blocks(["image"])) == []


@pytest.mark.parametrize("n", [1, CHUNK_ROWS, CHUNK_ROWS + 1])
def test_rows_are_where_hdf5_looks_for_them(tmp_path, n):
    places = find_places(write(tmp_path / "a.h5", galaxies(n)), LABELS)
    with h5py.File(tmp_path / "a.h5") as file:
        for name in ("image", "flux", "ivar", "mask"):
            for i in range(file[name].id.get_num_chunks()):
                info = file[name].id.get_chunk_info(i)
                assert info.byte_offset == places[name].offset + info.chunk_offset[0] * places[name].row_bytes


@given(stops=st.lists(st.integers(0, 21), max_size=6).map(sorted))
@example(stops=list(range(22)))
@settings(max_examples=15, deadline=None)
def test_blocks_of_any_size_make_the_same_bytes(stops, path, block, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blocks")
    other = write(folder / "other.h5", block, tuple(stops))
    assert sha256(other) == sha256(path)
    assert leftovers(folder) == ["other.h5"]
    other.unlink()


@given(
    start=st.integers(-3, 24), stop=st.one_of(st.none(), st.integers(-3, 24)), block_rows=st.integers(1, 30)
)
@settings(max_examples=30, deadline=None)
def test_any_rows_are_read(path, block, start, stop, block_rows):
    with open_pairs(path) as pairs:
        np.testing.assert_array_equal(
            pairs.read(["flux"], start, stop)["flux"], block["flux"][slice(start, stop)]
        )
        for part_ in (None, *Split):
            found = list(pairs.blocks(["flux", "targetid"], block_rows, part_))
            rows = np.concatenate([np.empty(0, int), *(b.rows for b in found)])
            expected = np.arange(21) if part_ is None else np.flatnonzero(pairs.split == part_)
            np.testing.assert_array_equal(rows, expected)
            for b in found:
                np.testing.assert_array_equal(b.values["flux"], block["flux"][b.rows])
                np.testing.assert_array_equal(b.values["targetid"], block["targetid"][b.rows])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"flux": None}, ValueError, "missing: flux; unknown: none"),
        ({"colour": np.zeros(21)}, ValueError, "unknown: colour"),
        ({"SPLIT": np.zeros(21)}, ValueError, "unknown: SPLIT"),
        ({"ivar": np.zeros((21, 100))}, ValueError, r"ivar: shape \(21, 100\), expected \(21, 7781\)"),
        ({"objid": np.zeros(21)}, ValueError, "objid: type float64, cannot be stored as int32"),
        ({"mask": np.full((21, 7781), -1)}, DataError, "mask: values from -1 to -1 do not fit uint16"),
        ({"brickid": np.full(21, 1 << 40)}, DataError, "brickid: values from 1099511627776"),
        ({"iauname": np.full(21, "é" * 11)}, DataError, "iauname: a text of more than 20 bytes"),
        ({"dec": np.full(21, 91.0)}, DataError, "row 0: declination 91.0 is beyond"),
    ],
)  # fmt: skip
def test_blocks_that_do_not_fit_are_refused(tmp_path, block, change, error, says):
    changed = {name: values for name, values in (block | change).items() if values is not None}
    with pytest.raises(error, match=says):
        write(tmp_path / "a.h5", changed)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "label", [Label("ra"), Label(""), Label("a/b"), Label("x", "O"), Label("x", "S0"), Label("x", "?!")]
)
def test_labels_that_cannot_be_stored_are_refused(tmp_path, label):
    with pytest.raises(UsageError, match="label"), write_pairs(tmp_path / "a.h5", 1, labels=[label]):
        pass
    assert leftovers(tmp_path) == []


def test_names_that_are_not_there_are_refused(path):
    with (
        open_pairs(path) as pairs,
        pytest.raises(UsageError, match="no column or label 'colour', only image, "),
    ):
        pairs.read(["colour"])


# --- interrupted and resumed ------------------------------------------------------------------------------

# Writes the file in a child of its own for each line it is given, and tells the child's number and its end.
WRITER = """
import os, sys
sys.path.insert(0, {tests!r})
from test_pairs import MADE, SPLIT, cut, galaxies
from astroclip.pairs import write_pairs, writer
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
    [("none/a.h5", DataError, "there is no folder"), ("a.fits", UsageError, "written as .h5 or .hdf5"),
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


# --- split ------------------------------------------------------------------------------------------------

sky = st.lists(st.tuples(st.floats(0, 360), st.floats(-90, 90)), min_size=1, max_size=30).map(np.array)


@given(positions=sky, seed=st.integers(0, 2**63 - 1), nside=st.sampled_from([1, 16, 32, 64]), data=st.data())
@settings(deadline=None)
def test_split_follows_from_the_pixel_alone(positions, seed, nside, data):
    ra, dec = positions.T
    split = split_by_healpix(ra, dec, nside=nside, seed=seed)
    some = data.draw(st.permutations(range(len(ra))))[: len(ra) // 2]
    np.testing.assert_array_equal(split_by_healpix(ra[some], dec[some], nside=nside, seed=seed), split[some])
    ipix = healpy.ang2pix(nside, ra, dec, nest=True, lonlat=True)
    parts_of = {pixel: set(split[ipix == pixel]) for pixel in ipix}
    assert all(len(parts) == 1 for parts in parts_of.values())
    for pixel, (got,) in parts_of.items():
        assert got == np.searchsorted([0.8, 0.9], splitmix_uniform(int(pixel), seed), side="right")


def splitmix_uniform(number: int, seed: int) -> float:
    """Re-derive the hash with Python's integers."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    return (mix((mix((seed + golden) % 2**64) + (number + 1) * golden) % 2**64) >> 11) / 2**53


def test_hash_is_splitmix64():
    # the generator's published first output from state 1234567 is that of state + golden, mixed
    assert (
        int(pairs_room.split._mix(np.array([1234567 + 0x9E3779B97F4A7C15], np.uint64))[0])
        == 6457827717110365317
    )


def test_split_has_about_the_fractions_and_a_seed():
    lon, lat = healpy.pix2ang(32, np.arange(12 * 32**2), nest=True, lonlat=True)
    split = split_by_healpix(lon, lat, (0.7, 0.1, 0.2))
    assert np.bincount(split) / len(split) == pytest.approx([0.7, 0.1, 0.2], abs=0.015)  # 3.5 sigma
    assert np.mean(split == split_by_healpix(lon, lat, (0.7, 0.1, 0.2), seed=1)) < 0.6
    assert set(split_by_healpix(lon, lat, (0, 0, 1))) == {Split.TEST}
    # pixels are hashed, not cut into stripes: neighbours in number are independent
    assert np.corrcoef(split[:-1] == 0, split[1:] == 0)[0, 1] == pytest.approx(0, abs=0.03)


def test_row_without_a_position_is_in_no_part():
    assert split_by_healpix([np.nan, 10, 10], [0, np.inf, 10])[:2].tolist() == [Split.NONE] * 2


@pytest.mark.parametrize(
    "wrong", [{"fractions": (0.8, 0.1, 0.2)}, {"fractions": (1.2, -0.2, 0)}, {"nside": 12}, {"seed": -1}]
)
def test_split_that_makes_no_sense(tmp_path, wrong):
    with pytest.raises(UsageError, match=f"split {next(iter(wrong))}"):
        split_by_healpix([0], [0], **wrong)
    with pytest.raises(UsageError), write_pairs(tmp_path / "a.h5", 1, split=SplitSettings(**wrong)):
        pass
    assert leftovers(tmp_path) == []


# --- files that are not as they should be -----------------------------------------------------------------


@pytest.fixture
def broken(path, tmp_path) -> Path:
    copy = tmp_path / "pairs.h5"
    copy.write_bytes(path.read_bytes())
    return copy


@pytest.mark.parametrize("name", ["wave", *(str(spec.name) for spec in PAIRS_COLUMNS)])
def test_missing_dataset_is_named(broken, name):
    with h5py.File(broken, "a") as file:
        del file[name]
    with pytest.raises(
        DataError, match=rf"pairs.h5: there is no dataset '{name}' \(format 1, need 1\)\. Rebuild"
    ):
        open_pairs(broken)


@pytest.mark.parametrize(
    ("name", "values"),
    [("flux", np.zeros((21, 100), "f4")), ("redshift", np.zeros(20)), ("ra", np.zeros(21, "i4")),
     ("labels/votes", np.zeros(3)), ("wave", np.arange(7781.0))],
)  # fmt: skip
def test_dataset_of_another_shape_is_named(broken, name, values):
    with h5py.File(broken, "a") as file:
        del file[name]
        file[name] = values
    with pytest.raises(DataError, match=rf"pairs.h5: dataset '{name}' is .*"):
        open_pairs(broken)


@pytest.mark.parametrize(
    ("version", "says"), [(0, "format 0, need 1. Rebuild"), (2, "format 2, .* Update astroclip")]
)
def test_other_format_version(broken, version, says):
    with h5py.File(broken, "a") as file:
        file.attrs["format_version"] = version
    with pytest.raises(DataError, match=says):
        open_pairs(broken)


@pytest.mark.parametrize("kept", [0.5, 0.999, 0.01, 0.0])
def test_file_cut_short(broken, kept):
    os.truncate(broken, int(broken.stat().st_size * kept))
    with pytest.raises(DataError, match="not a whole HDF5 file"):
        open_pairs(broken)
    assert not is_pairs(broken)


def test_files_of_another_kind(tmp_path):
    with h5py.File(tmp_path / "images.h5", "w") as file:
        file["images"] = np.zeros(3)
    for name, says in [
        ("images.h5", "not a file of pairs: .* but images"),
        ("none.h5", "no such file"),
        ("", "dataset"),
    ]:
        with pytest.raises(DataError, match=says):
            open_pairs(tmp_path / name)


# --- the published forms ----------------------------------------------------------------------------------


def published(n: int, seed: int) -> dict[str, np.ndarray]:
    """Build n rows as published: the image as (x, y, band)."""
    rng = np.random.default_rng(seed)
    return {
        "images": rng.random((n, 152, 152, 3), np.float32),
        "spectra": rng.random((n, 7781, 1), np.float32),
        "redshifts": rng.random(n).astype(np.float32),
        "targetids": 39_627_000_000_000_000 + 100 * seed + np.arange(n),
    }


def check_published(pairs: pairs_room.Pairs, rows: list[dict[str, np.ndarray]]) -> None:
    """Compare with the arrays it was built from, in one read and over the seams."""
    stored = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    values = pairs.read(["image", "flux", "redshift", "targetid", "ivar", "mask"])
    for band, y, x in [(0, 3, 140), (1, 77, 5), (2, 151, 0)]:
        np.testing.assert_array_equal(values["image"][:, band, y, x], stored["images"][:, x, y, band])
    np.testing.assert_array_equal(values["flux"], stored["spectra"][:, :, 0])
    np.testing.assert_array_equal(values["redshift"], stored["redshifts"])
    np.testing.assert_array_equal(values["targetid"], stored["targetids"])
    assert (values["image"].dtype, values["flux"].dtype, values["targetid"].dtype) == ("f4", "f4", "i8")
    assert values["ivar"] is None
    assert values["mask"] is None
    assert pairs.columns == ("image", "flux", "redshift", "targetid", "SPLIT")
    for block_rows in (1, 3, 4):
        found = np.concatenate([b.values["image"] for b in pairs.blocks(["image"], block_rows)])
        np.testing.assert_array_equal(found, values["image"])
    assert pairs.read(["image"], 2, 2)["image"].shape == (0, 3, 152, 152)


def write_published(path: Path, rows: list[dict[str, np.ndarray]]) -> Path:
    with h5py.File(path, "w") as file:
        for i, group in enumerate(rows):
            for name, values in group.items():
                file[f"{i}/{name}"] = values
    return path


def test_published_hdf5(tmp_path):
    rows = [
        published(n, i) for i, n in enumerate([5, 0, 2, 1, 0, 0, 0, 0, 0, 6, 1])
    ]  # 10 comes after 9, not 1
    with open_pairs(write_published(tmp_path / "astroclip_desi.1.1.5.h5", rows)) as pairs:
        check_published(pairs, rows)
        # int(0.8 n) of each group train
        assert pairs.split.tolist() == [0, 0, 0, 0, 2, 0, 2, 2, 0, 0, 0, 0, 2, 2, 2]
        train = np.concatenate([b.rows for b in pairs.blocks(["redshift"], 4, Split.TRAIN)])
        np.testing.assert_array_equal(train, np.flatnonzero(pairs.split == 0))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"spectra": None}, "group '1' has no dataset 'spectra'"),
        (
            {"images": np.zeros((2, 3, 152, 152), "f4")},
            r"'1/images': rows have shape \(3, 152, 152\), expected \(152, 152, 3\)",
        ),
        ({"redshifts": np.zeros(3)}, "group '1' differ in length"),
    ],
)
def test_published_hdf5_that_differs(tmp_path, change, says):
    other = {name: values for name, values in (published(2, 1) | change).items() if values is not None}
    with pytest.raises(DataError, match=says):
        open_pairs(write_published(tmp_path / "a.h5", [published(2, 0), other]))


def nested(values: np.ndarray) -> pa.Array:
    """Build an Arrow array of lists of lists, as Hugging Face stores Array2D and Array3D."""
    array = pa.array(values.reshape(-1))
    for size in values.shape[:0:-1]:
        array = pa.ListArray.from_arrays(np.arange(0, len(array) + 1, size, dtype=np.int32), array)
    return array


def save_to_disk(folder: Path, parts: list[dict[str, np.ndarray]], split: str | None = None) -> Path:
    """Write a dataset folder with one Arrow stream a part, in batches of two rows."""
    folder.mkdir(parents=True)
    files = [f"data-{i:05d}-of-{len(parts):05d}.arrow" for i in range(len(parts))]
    for name, rows in zip(files, parts, strict=True):
        features = ["image", "spectrum", "redshift", "targetid"]
        table = pa.table([nested(values) for values in rows.values()], features)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table, max_chunksize=2)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": f} for f in files], "_split": split})
    )
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_hugging_face_splits(tmp_path):
    rows = [published(n, n) for n in (3, 2, 4)]
    save_to_disk(tmp_path / "train", rows[:2])
    save_to_disk(tmp_path / "test", rows[2:])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with open_pairs(tmp_path) as pairs:
        check_published(pairs, rows)
        assert pairs.split.tolist() == [Split.TRAIN] * 5 + [Split.TEST] * 4


@pytest.mark.parametrize(("split", "value"), [("validation", Split.VALIDATION), (None, Split.NONE)])
def test_hugging_face_without_splits(tmp_path, split, value):
    rows = [published(3, 1)]
    with open_pairs(save_to_disk(tmp_path / "data", rows, split)) as pairs:
        check_published(pairs, rows)
        assert pairs.split.tolist() == [value] * 3


@pytest.mark.parametrize("lost", [1, 8, 100, 1_000_000])
def test_arrow_file_cut_short(tmp_path, lost):
    folder = save_to_disk(tmp_path / "data", [published(4, 1)])
    arrow = folder / "data-00000-of-00001.arrow"
    os.truncate(arrow, arrow.stat().st_size - lost)
    with pytest.raises(DataError, match=r"arrow: .*(cut short|not a whole Arrow stream)"):
        open_pairs(folder)


def test_hugging_face_folders_that_differ(tmp_path):
    folder = save_to_disk(tmp_path / "data", [published(2, 1)])
    state = folder / "state.json"
    state.write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    with pytest.raises(DataError, match=r"gone\.arrow: not a whole"):
        open_pairs(folder)
    for text, says in [
        ("{", "not readable as JSON"),
        ("{}", "names no data files"),
        ("[]", "expected a JSON object"),
        ('{"_indices_files": [1]}', "flatten_indices"),
    ]:
        state.write_text(text)
        with pytest.raises(DataError, match=says):
            open_pairs(folder)
    wrong = published(2, 1) | {"spectra": np.zeros((2, 100, 1), "f4")}
    with pytest.raises(
        DataError, match=r"feature 'spectrum': rows have shape \(100, 1\), expected \(7781, 1\)"
    ):
        open_pairs(save_to_disk(tmp_path / "wrong", [wrong]))
