"""Pairs in the forms in which they are published, and files that are not as they should be."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from builders_pairs import galaxies, published, save_to_disk, write, write_published

from astroclip.data import pairs as pairs_room
from astroclip.data.pairs import is_pairs, open_pairs
from astroclip.errors import DataError
from astroclip.schema import PAIRS_COLUMNS, Split


@pytest.fixture(scope="module")
def block() -> dict[str, np.ndarray]:
    return galaxies(21)


@pytest.fixture(scope="module")
def path(block, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("pairs") / "pairs.h5", block)


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
