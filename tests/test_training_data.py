"""Batches for training: every row once an epoch, the same for any number of ranks, and from any batch on."""

import json
import multiprocessing
import tracemalloc
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from builders import write_cube
from builders_hdf5 import write_multimodal_images, write_stein
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.testing import assert_close

from astroclip.data.pairs import split_by_healpix, write_pairs
from astroclip.errors import ConfigError, DataError, UsageError
from astroclip.schema import Split
from astroclip.training.batches import SplitRows, TrainingBatches, ValidationBatches, make_loader
from astroclip.training.galaxies import Galaxies

SPLITS = np.array([0, 0, 0, 0, 1, 2, 255], np.uint8)
quick = hypothesis_settings(max_examples=60, deadline=None)


def random_split(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice(SPLITS, n)


@st.composite
def streams(draw):
    """A part, and the settings of its batches for one rank."""
    split = random_split(draw(st.integers(4, 300)), draw(st.integers(0, 99)))
    split[:4] = Split.TRAIN
    n = np.count_nonzero(split == Split.TRAIN)
    world = draw(st.integers(1, min(4, n)))
    size = draw(st.integers(1, n // world))
    return split, size, world, {"run_rows": draw(st.integers(1, 70)), "seed": draw(st.integers(0, 2**31))}


def stream(split, size, run_rows=1, seed=0, rank=0, world=1, start=0) -> TrainingBatches:
    return TrainingBatches(SplitRows(split, Split.TRAIN), size, run_rows, seed, rank, world, start)


# --- which rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 4095, 4096, 20_000])
def test_a_part_numbers_its_rows(n):
    split = random_split(n, seed=n)
    for part in Split:
        rows = np.flatnonzero(split == part)
        numbers = np.random.default_rng(1).permutation(len(rows))
        assert len(SplitRows(split, part)) == len(rows)
        np.testing.assert_array_equal(SplitRows(split, part)[numbers], rows[numbers])


@quick
@given(streams())
def test_an_epoch_has_each_row_once_but_for_a_remainder(case):
    split, size, world, options = case
    ranks = [stream(split, size, rank=rank, world=world, **options) for rank in range(world)]
    training = np.flatnonzero(split == Split.TRAIN)
    for epoch in range(3):
        batches = range(epoch * ranks[0].epoch_batches, (epoch + 1) * ranks[0].epoch_batches)
        rows = np.concatenate([rank.rows(batch) for rank in ranks for batch in batches])
        assert len(set(rows.tolist())) == len(rows) > len(training) - world * size
        assert np.isin(rows, training).all()


@quick
@given(streams())
def test_many_ranks_read_what_one_reads(case):
    split, size, world, options = case
    whole = stream(split, size * world, **options)
    for batch in range(2 * whole.epoch_batches + 1):
        parts = [stream(split, size, rank=rank, world=world, **options).rows(batch) for rank in range(world)]
        np.testing.assert_array_equal(np.concatenate(parts), whole.rows(batch))


@quick
@given(streams(), st.integers(0, 40))
def test_a_restart_goes_on_where_it_stopped(case, start):
    split, size, world, options = case
    through = islice(stream(split, size, rank=world - 1, world=world, **options), start, start + 4)
    resumed = islice(stream(split, size, rank=world - 1, world=world, start=start, **options), 4)
    for old, new in zip(through, resumed, strict=True):
        np.testing.assert_array_equal(old, new)


@quick
@given(st.integers(0, 200), st.integers(2, 20), st.integers(1, 4), st.integers(0, 99), st.integers(1, 5))
def test_validation_has_each_row_once_in_order(n, size, world, seed, limit):
    split = random_split(n, seed)
    part, rows = SplitRows(split, Split.VALIDATION), np.flatnonzero(split == Split.VALIDATION)
    if len(rows) < world:
        with pytest.raises(DataError, match="to validate with"):
            ValidationBatches(part, size, 0, world)
        return
    ranks = [ValidationBatches(part, size, rank, world) for rank in range(world)]
    steps = [np.concatenate(step) for step in zip(*ranks, strict=True)]  # as many batches on each rank
    np.testing.assert_array_equal(np.concatenate(steps), rows)
    assert len(steps) == len(ranks[0])
    assert all(0 < len(batch) <= size for rank in ranks for batch in rank)
    for step, whole in zip(steps, ValidationBatches(part, size * world, 0, 1), strict=True):
        np.testing.assert_array_equal(step, whole)
    few = list(ValidationBatches(part, size, 0, world, limit))
    assert len(few) == len(ValidationBatches(part, size, 0, world, limit)) == min(limit, len(steps))
    assert np.isin(np.concatenate(few), np.concatenate(list(ranks[0]))).all()


def test_epochs_seeds_and_runs_differ():
    split = np.zeros(1000, np.uint8)
    batches = stream(split, 500, run_rows=10, seed=1)
    first, other = batches.rows(0), batches.rows(batches.epoch_batches)
    assert (first != other).mean() > 0.9
    assert (first != stream(split, 500, run_rows=10, seed=2).rows(0)).mean() > 0.9
    follows = np.diff(first) == 1
    assert follows.reshape(-1)[:9].all()  # the first run is read together
    assert follows.mean() == pytest.approx(0.9, abs=0.01)
    assert len({int(stream(split, 500, 10, seed).rows(0)[0]) % 10 for seed in range(50)}) == 10  # offsets


def test_rows_left_out_of_one_epoch_come_in_another():
    batches = stream(np.zeros(103, np.uint8), 25, run_rows=8)
    epochs = [{*np.concatenate([batches.rows(4 * e + i) for i in range(4)]).tolist()} for e in range(6)]
    assert {len(rows) for rows in epochs} == {100}
    assert set.union(*epochs) == set(range(103))


def test_ten_million_rows_take_two_bytes_each():
    """1 byte a row for its part, 1 for the permutation of runs of 8."""
    n = 10_000_000
    tracemalloc.start()
    split = random_split(n, seed=0)
    tracemalloc.reset_peak()
    stream(split, 256, run_rows=8).rows(5)
    peak = tracemalloc.get_traced_memory()[1] / n
    tracemalloc.stop()
    assert peak < 3


# --- galaxies in every form of file -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def galaxies() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    n = 60
    return {
        "image": rng.random((n, 3, 152, 152), np.float32),
        "flux": rng.random((n, 7781), np.float32),
        "ivar": rng.random((n, 7781), np.float32),
        "mask": rng.integers(0, 1 << 16, (n, 7781), np.int32),
        "targetid": 39_627_000_000_000_000 + np.arange(n),
        "ra": rng.uniform(0, 360, n),
        "dec": rng.uniform(-60, 60, n),
        "redshift": rng.uniform(0, 0.6, n),
    }


@pytest.fixture(scope="module")
def pairs(galaxies, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "pairs.h5"
    with write_pairs(path, len(galaxies["ra"])) as writer:
        writer.write(galaxies)
    return path


def write_released(path: Path, galaxies: dict[str, np.ndarray], groups: int = 3) -> None:
    """Write the published HDF5 form, images as (x, y, band)."""
    with h5py.File(path, "w") as file:
        for i, rows in enumerate(np.array_split(np.arange(len(galaxies["ra"])), groups)):
            file[f"{i}/images"] = galaxies["image"][rows].transpose(0, 3, 2, 1)
            file[f"{i}/spectra"] = galaxies["flux"][rows, :, None]
            file[f"{i}/redshifts"], file[f"{i}/targetids"] = (
                galaxies["redshift"][rows],
                galaxies["targetid"][rows],
            )


def write_hugging_face(folder: Path, galaxies: dict[str, np.ndarray], part: str) -> None:
    """Write the published Hugging Face form, one part."""
    folder.mkdir(parents=True)
    columns = {
        "image": galaxies["image"].transpose(0, 3, 2, 1).tolist(),
        "spectrum": galaxies["flux"][:, :, None].tolist(),
        "redshift": galaxies["redshift"].tolist(),
        "targetid": galaxies["targetid"].tolist(),
    }
    table = pa.table(columns)
    with pa.OSFile(str(folder / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    state = {"_data_files": [{"filename": "data.arrow"}], "_split": part}
    (folder / "state.json").write_text(json.dumps(state))


def test_a_batch_is_what_the_pairs_hold(galaxies, pairs):
    rows = np.array([7, 3, 4, 59, 4])
    batch = Galaxies(pairs).read(["image", "flux", "ivar", "mask", "redshift"], rows)
    assert list(batch) == ["image", "flux", "ivar", "mask", "redshift", "rows"]
    for name in ("image", "flux", "ivar", "redshift"):
        np.testing.assert_array_equal(batch[name], galaxies[name][rows])
    np.testing.assert_array_equal(batch["mask"], galaxies["mask"][rows])
    assert batch["mask"].dtype == torch.int32
    np.testing.assert_array_equal(batch["rows"], rows)


def test_the_published_pairs_validate_on_training_rows(galaxies, tmp_path):
    path = tmp_path / "astroclip_desi.h5"
    write_released(path, galaxies)
    source = Galaxies(path)
    batch = source.read(["image", "flux", "ivar", "mask"], np.array([21, 0]))
    assert list(batch) == ["image", "flux", "rows"]  # it has neither ivar nor mask
    np.testing.assert_array_equal(batch["image"], galaxies["image"][[21, 0]])
    test = np.tile(np.repeat([False, True], [16, 4]), 3)  # the last fifth of each group
    np.testing.assert_array_equal(source.split == Split.TEST, test)
    assert 3 <= np.count_nonzero(source.split == Split.VALIDATION) <= 8


def test_a_validation_part_of_its_own_is_kept(galaxies, tmp_path):
    few = {name: values[:2] for name, values in galaxies.items()}
    for part in ("train", "validation"):
        write_hugging_face(tmp_path / "hf" / part, few, part)
    (tmp_path / "hf" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    source = Galaxies(tmp_path / "hf")
    assert source.split.tolist() == [0, 0, 1, 1]
    batch = source.read(["image", "flux"], np.array([3, 0]))
    np.testing.assert_array_equal(batch["flux"], few["flux"][[1, 0]])


def test_stein_files_are_split_by_sky_and_more_of_them_change_nothing(tmp_path):
    write_stein(tmp_path / "south" / "images_npix152_000000000_000000030.h5", 30, seed=1, size=152)
    alone = Galaxies(tmp_path)
    stored = write_stein(tmp_path / "south" / "images_npix152_000000030_000000040.h5", 10, seed=2, size=152)
    both = Galaxies(tmp_path)
    np.testing.assert_array_equal(both.split[:30], alone.split)
    np.testing.assert_array_equal(both.split[30:], split_by_healpix(stored["ra"], stored["dec"]))
    batch = both.read(["image"], np.array([31, 2, 30]))
    np.testing.assert_array_equal(batch["image"][[2, 0]], stored["images"][[0, 1]])
    assert batch["rows"].tolist() == [31, 2, 30]


def test_images_of_multimodal_universe_and_of_a_folder(tmp_path):
    stored = write_multimodal_images(tmp_path / "mmu" / "001-of-001.hdf5", [5, 6, 7], size=160, seed=4)
    source = Galaxies(tmp_path / "mmu")
    np.testing.assert_array_equal(source.split, split_by_healpix(stored["ra"], stored["dec"]))
    image = source.read(["image"], np.array([2]))["image"][0].numpy()
    seen = np.isfinite(image)
    expected = stored["image_array"][2, [0, 1, 3], 4:156, 4:156]
    np.testing.assert_array_equal(image[seen], expected[seen])

    folder = tmp_path / "cutouts"
    folder.mkdir()
    pixels = [write_cube(folder / f"{i}.fits", ra=40 * i, dec=5, seed=i) for i in range(3)]
    write_cube(folder / "8.fits", ra=80, dec=5, pixel_deg=0.5 / 3600)
    (folder / "9.fits").write_text("no image")
    source = Galaxies(folder)
    expected = split_by_healpix([0, 40, 80], [5, 5, 5])
    np.testing.assert_array_equal(source.split, [*expected, Split.NONE, Split.NONE])
    batch = source.read(["image"], np.array([2, 0]))
    np.testing.assert_array_equal(batch["image"], np.stack([pixels[2], pixels[0]]))


# --- loaders ----------------------------------------------------------------------------------------------


def test_reading_processes_change_neither_batches_nor_their_order(pairs):
    source = Galaxies(pairs)
    source.read(["image"], np.arange(2))  # leaves a handle open, which no other process may use

    def batches(workers: int, split: Split) -> list[dict[str, torch.Tensor]]:
        loader = make_loader(
            source, ["image", "ivar"], split, 4, run_rows=3, seed=5, start_batch=2, workers=workers
        )
        return list(islice(loader, 14))

    for split in (Split.TRAIN, Split.VALIDATION):
        alone = batches(0, split)
        assert len(alone) == 14 or split == Split.VALIDATION
        assert (source.split[torch.cat([b["rows"] for b in alone])] == split).all()
        for workers in (1, 2):
            assert_close(batches(workers, split), alone, rtol=0, atol=0, equal_nan=True)


def test_galaxies_can_be_sent_to_a_process_that_is_not_a_fork(pairs):
    source = Galaxies(pairs)
    here = source.read(["redshift"], np.array([5, 1]))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(source.read, (["redshift"], np.array([5, 1])))
    assert_close(here, there)


def test_the_wrong_part_size_or_column_is_one_sentence(pairs, tmp_path):
    source = Galaxies(pairs)
    for split in (Split.TEST, Split.NONE):
        with pytest.raises(UsageError, match="TRAIN and VALIDATION only"):
            make_loader(source, ["image"], split, 4)
    with pytest.raises(ConfigError, match=r"2 x 60 galaxies, but only \d+ .* data.batch_size"):
        make_loader(source, ["image"], Split.TRAIN, 60, world=2)
    write_stein(tmp_path / "images_npix152_0.h5", 30, size=152)
    with pytest.raises(DataError, match="has no 'flux', only image"):
        Galaxies(tmp_path).read(["image", "flux"], np.arange(1))
    with pytest.raises(DataError, match="no such file"):
        Galaxies(tmp_path / "nothing")
