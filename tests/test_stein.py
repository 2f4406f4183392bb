"""Cut-outs of Stein et al.: rows by position in the file, the traps of the real files, matching."""

from itertools import pairwise

import numpy as np
import pytest
from astropy.io import fits
from builders import truncate
from builders_hdf5 import write_hdf5, write_stein
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.data import stein
from astroclip.data.hdf5file import runs
from astroclip.data.pixels import How
from astroclip.data.targetid import encode_targetid
from astroclip.errors import DataError
from astroclip.tables.identity import Who

SOUTH = "south/images_npix152_000000000_001000000.h5"
SOUTH_2 = "south/images_npix152_001000000_002000000.h5"
NORTH = "north/images_npix152_000000000_001000000.h5"


@pytest.fixture
def folder(tmp_path):
    """Three files: 7 rows north, 10 and 5 south; returns the folder and its datasets, north first."""
    parts = [write_stein(tmp_path / name, n, seed=n) for name, n in ((NORTH, 7), (SOUTH, 10), (SOUTH_2, 5))]
    return tmp_path, {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def test_folder_is_numbered_through_all_files(folder):
    path, truth = folder
    images = stein.open_stein(path)
    assert len(images) == 22
    assert images.first.tolist() == [0, 7, 17, 22]
    assert [str(p.relative_to(path)) for p in images.files] == [NORTH, SOUTH, SOUTH_2]
    assert images.shape == (16, 16)
    assert not images.problems
    assert not images.unreadable
    file, row = images.locate([0, 6, 7, 16, 17, 21])
    assert file.tolist() == [0, 0, 1, 1, 2, 2]
    assert row.tolist() == [0, 6, 0, 9, 0, 4]
    for rows in (1, 3, 100):
        blocks = list(images.blocks(rows))
        for name in ("ra", "dec"):
            np.testing.assert_array_equal(np.concatenate([getattr(b, name) for b in blocks]), truth[name])
        for name in stein.IDENTITY:
            np.testing.assert_array_equal(np.concatenate([b.ids[name.upper()] for b in blocks]), truth[name])


def test_images_are_read_by_row_not_by_inds(folder):
    path, truth = folder
    images = stein.open_stein(path)
    assert not np.array_equal(truth["inds"][:7], np.arange(7))
    wanted = np.array([21, 0, 8, 9, 10, 3, 8, 17])
    stamps = images.read(wanted, size=16).flux
    assert stamps.dtype == np.float32
    np.testing.assert_array_equal(stamps, truth["images"][wanted])
    np.testing.assert_array_equal(images.read([9], [10.0], [20.0], 16).flux[0], truth["images"][9])
    np.testing.assert_array_equal(images.read(wanted, size=6).flux, truth["images"][wanted][:, :, 5:11, 5:11])
    assert images.read([], size=16).flux.shape == (0, 3, 16, 16)
    with pytest.raises(IndexError):
        images.read([22])
    with pytest.raises(IndexError):
        images.read([-1])
    images.close()
    images.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 21), max_size=30), st.integers(1, 21))
def test_any_rows_in_any_order(tmp_path_factory, wanted, size):
    path = tmp_path_factory.getbasetemp() / "stein-any"
    if not path.exists():
        for name, n in ((NORTH, 7), (SOUTH, 10), (SOUTH_2, 5)):
            write_stein(path / name, n, seed=n)
    images = stein.open_stein(path)
    truth = np.concatenate([write_or_read(path / name) for name in (NORTH, SOUTH, SOUTH_2)])
    stamps = images.read(wanted, size=size).flux
    offset = (16 - size) // 2
    for stamp, number in zip(stamps, wanted, strict=True):
        for y in range(size):
            for x in (0, size // 2, size - 1):
                inside = 0 <= y + offset < 16 and 0 <= x + offset < 16
                expected = truth[number, :, y + offset, x + offset] if inside else np.full(3, np.nan)
                np.testing.assert_array_equal(stamp[:, y, x], expected)
    images.close()


def write_or_read(path):
    import h5py

    with h5py.File(path) as h5:
        return h5["images"][:]


@given(st.lists(st.integers(0, 50), unique=True))
def test_runs_cover_rows_in_unbroken_stretches(rows):
    rows = np.array(sorted(rows), np.int64)
    parts = [rows[a:b] for a, b in runs(rows)]
    np.testing.assert_array_equal(np.concatenate([*parts, np.zeros(0, int)]), rows)
    assert all(len(p) and np.array_equal(p, np.arange(p[0], p[0] + len(p))) for p in parts)
    assert all(b[0] > a[-1] + 1 for a, b in pairwise(parts))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_floating_point_of_any_width(tmp_path, dtype):
    truth = write_stein(tmp_path / SOUTH, dtype=dtype)
    stamps = stein.open_stein(tmp_path).read([4, 5], size=16).flux
    np.testing.assert_array_equal(stamps, truth["images"][4:6].astype("f4"))


def test_sky_without_data_is_missing(tmp_path):
    images = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype("f4")
    images[0, :, 2, 3] = 0
    images[1, 1, 4, 4] = 0  # one band only: a measurement
    write_stein(tmp_path / "one.h5", 2, replace={"images": images})
    stamps = stein.open_stein(tmp_path / "one.h5").read([0, 1], size=8).flux
    assert np.isnan(stamps[0, :, 2, 3]).all()
    assert np.isnan(stamps).sum() == 3


def who(truth, by=(), ra=None, dec=None):
    """Rows of the files' galaxies, known by identifiers or by position."""
    bricks = {name.upper(): truth[name].astype(int) for name in stein.IDENTITY}
    known = bricks | {"TARGETID": encode_targetid(*bricks.values())}
    nowhere = np.full(len(truth["ra"]), np.nan)
    ids = {name: known[name] for name in by}
    return Who(ids, nowhere if ra is None else np.asarray(ra), nowhere if dec is None else np.asarray(dec))


BRICK = ("RELEASE", "BRICKID", "OBJID")


def test_match_by_id_then_position(folder):
    path, truth = folder
    images = stein.open_stein(path)
    n = 22
    other = who(truth, ("TARGETID", *BRICK))
    other.ids["TARGETID"][:] = -1
    for rows in (who(truth, BRICK), who(truth, ("TARGETID",)), other):
        match = images.match(rows)
        assert match.row.tolist() == list(range(n))
        assert (match.how == How.ID).all()
        assert not match.ambiguous.any()
    match = images.match(who(truth, (), truth["ra"], truth["dec"] + 0.9 / 3600))
    assert match.row.tolist() == list(range(n))
    assert (match.how == How.CENTRE).all()
    match = images.match(who(truth, (), truth["ra"], truth["dec"] + 1.1 / 3600))
    assert (match.row == -1).all()
    some = {"ra": truth["ra"][:4]} | {name: truth[name][:4].copy() for name in stein.IDENTITY}
    some["objid"][:3] = -1, -1, 1 << 21
    match = images.match(who(some, BRICK, truth["ra"][:4], np.r_[truth["dec"][:2], 0, 0]))
    assert match.row.tolist() == [0, 1, -1, 3]
    assert match.how.tolist() == [How.CENTRE, How.CENTRE, How.NONE, How.ID]


def test_doubled_galaxy_is_ambiguous_and_the_first_is_taken(tmp_path):
    truth = write_stein(tmp_path / SOUTH, 6)
    second = {k: v[2:3] for k, v in truth.items()}
    write_stein(tmp_path / SOUTH_2, 1, replace=second)
    images = stein.open_stein(tmp_path)
    for rows in (who(truth, BRICK), who(truth, (), truth["ra"], truth["dec"])):
        match = images.match(rows)
        assert match.row.tolist() == [0, 1, 2, 3, 4, 5]
        assert match.ambiguous.tolist() == [False, False, True, False, False, False]


def test_wrong_lengths_and_missing_datasets_are_reported(tmp_path):
    truth = write_stein(tmp_path / SOUTH, 6, replace={"z_spec": np.zeros(7)})
    write_stein(tmp_path / NORTH, 6, seed=1, omit=["objid"], replace={"dec": np.zeros(5)})
    images = stein.open_stein(tmp_path)
    assert [(p.parent.name, text) for p, text in images.problems] == [
        ("north", f"{tmp_path / NORTH}: dataset 'dec' has shape (5,), but there are 6 images"),
        ("north", f"{tmp_path / NORTH}: no dataset 'objid'"),
        ("south", f"{tmp_path / SOUTH}: dataset 'z_spec' has shape (7,), but there are 6 images"),
    ]
    north, south = images.blocks()
    assert np.isnan(north.dec).all()
    assert (north.ids["OBJID"] == -1).all()
    assert (north.ids["RELEASE"] == 9010).all()
    match = images.match(who(truth, (), truth["ra"], truth["dec"]))
    np.testing.assert_array_equal(match.row, np.arange(6, 12))
    np.testing.assert_array_equal(south.ids["OBJID"], truth["objid"])


def test_names_in_any_case(tmp_path):
    truth = write_stein(tmp_path / SOUTH, 3, upper_case=True)
    images = stein.open_stein(tmp_path)
    assert not images.problems
    np.testing.assert_array_equal(images.match(who(truth, (), truth["ra"], truth["dec"])).row, [0, 1, 2])
    np.testing.assert_array_equal(images.read([1], size=16).flux[0], truth["images"][1])


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ({"images": np.zeros((4, 152, 152, 3), "f4")}, r"expected \(N, 3, H, W\)"),
        ({"images": np.zeros((4, 3, 8, 8), "u1")}, "uint8, expected nanomaggies"),
        ({"images": np.zeros((4, 3), "f4")}, "has shape"),
    ],
)
def test_other_layouts_are_refused(tmp_path, replace, message):
    write_stein(tmp_path / SOUTH, 4, replace=replace)
    with pytest.raises(DataError, match=message):
        stein.open_stein(tmp_path)


def test_unusable_files(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        stein.open_stein(tmp_path / "nothing")
    with pytest.raises(DataError, match="no file below it is called images_npix"):
        stein.open_stein(tmp_path)
    write_hdf5(tmp_path / "other.h5", {"labels": np.zeros(3)})
    with pytest.raises(DataError, match=r"no dataset 'images' \(found labels\)"):
        stein.open_stein(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("not HDF5 at all")
    with pytest.raises(DataError, match="Not HDF5, or cut short"):
        stein.open_stein(tmp_path / "text.h5")


def test_file_cut_in_half_is_listed_and_others_are_read(tmp_path):
    write_stein(tmp_path / NORTH, 8)
    truncate(tmp_path / NORTH, 0.5)
    with pytest.raises(DataError, match="cut short"):
        stein.open_stein(tmp_path)
    truth = write_stein(tmp_path / SOUTH, 8, seed=1)
    write_stein(tmp_path / SOUTH_2, 8, size=20)
    images = stein.open_stein(tmp_path)
    assert [path.name for path, _ in images.unreadable] == [NORTH.split("/")[1], SOUTH_2.split("/")[1]]
    assert "those of" in images.unreadable[1][1]
    np.testing.assert_array_equal(images.read([7], size=16).flux[0], truth["images"][7])


def test_empty_file(tmp_path):
    write_stein(tmp_path / SOUTH, 0)
    images = stein.open_stein(tmp_path)
    assert len(images) == 0
    assert list(images.blocks()) == []
    anybody = Who({"TARGETID": np.array([1])}, np.array([10.0]), np.array([20.0]))
    assert images.match(anybody).row.tolist() == [-1]


def test_targetid_encodes_the_source(survey_data):
    """Of real DESI fibermaps: every target of the Legacy Survey has the TARGETID of its source."""
    with fits.open(survey_data / "desi" / "coadd-sv3-dark-26065.fits.gz") as hdus:
        table = hdus["FIBERMAP"].data
        key = encode_targetid(table["RELEASE"], table["BRICKID"], table["BRICK_OBJID"])
        target = table["OBJTYPE"] == "TGT"
        np.testing.assert_array_equal(key[target], table["TARGETID"][target])
        assert (key[table["RELEASE"] == 0] == -1).all()
    assert encode_targetid([0, -1, 70000, 9010], 1, [1, 1, 1, 1 << 22]).tolist() == [-1] * 4
