"""The paired data set: what is written is what is read, whatever the blocks; split by sky."""

from pathlib import Path

import h5py
import healpy
import numpy as np
import pytest
from builders_pairs import LABELS, MADE, galaxies, leftovers, sha256, write
from hypothesis import example, given, settings
from hypothesis import strategies as st

from astroclip.data import pairs as pairs_room
from astroclip.data.pairs import Label, SplitSettings, open_pairs, split_by_healpix, write_pairs
from astroclip.data.pairs.pairs_format import CHUNK_ROWS, find_places, row_specs
from astroclip.errors import DataError, UsageError
from astroclip.schema import PAIRS_COLUMNS, Split, desi_wave


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
