"""Every source of images, every flag bit: what the model is given for a row."""

import shutil

import h5py
import numpy as np
import pytest
import torch
from builders import truncate, write_band_hdus, write_brick, write_cube
from builders_hdf5 import write_hdf5, write_multimodal_images, write_stein
from source_rows import NO, OPTIONS, SIZE, read_images, rgb_of, write_table

from astroclip.data.targetid import encode_targetid
from astroclip.errors import DataError, UsageError
from astroclip.model.inputs import InputOptions, open_inputs
from astroclip.schema import PIXSCALE, EmbedFlag
from astroclip.tables import open_table


def test_image_column(tmp_path, rng):
    images = rng.normal(0.1, 0.05, (5, 3, 52, 52)).astype("f4")
    images[1] = np.nan
    images[2, :, 20:45, 20:45] = np.nan
    images[3, 0, 5, 5] = np.inf
    path = write_table(tmp_path / "c.fits", {"IMAGE": "nanomaggy"}, IMAGE=images)
    inputs, flag = read_images(path)
    assert list(flag) == [NO, EmbedFlag.NO_IMAGE, EmbedFlag.BAD_IMAGE_PIXELS, NO, NO]
    assert torch.equal(inputs[4], rgb_of(images[4]))
    assert inputs.isfinite().all()
    tolerant = read_images(path, options=InputOptions(max_bad=0.5))
    assert list(tolerant.flag) == [NO, EmbedFlag.NO_IMAGE, NO, NO, NO]


def test_image_column_of_another_name_and_smaller_than_the_crop(tmp_path, rng):
    images = rng.normal(0.1, 0.05, (2, 3, 40, 44)).astype("f8")
    path = write_table(tmp_path / "c.fits", STAMP=images)
    inputs, flag = read_images(path, "stamp")
    assert list(flag) == [EmbedFlag.IMAGE_PADDED] * 2
    assert torch.equal(inputs[1], rgb_of(images[1].astype("f4")))
    with open_table(path) as table:
        assert open_inputs(table, "image", None, SIZE, OPTIONS) is None


def test_image_column_at_another_scale(tmp_path, rng):
    images = rng.normal(0.1, 0.05, (2, 3, 60, 60)).astype("f4")
    path = write_table(tmp_path / "c.fits", header={"PIXSCALE": 0.5}, IMAGE=images)
    assert list(read_images(path).flag) == [EmbedFlag.WRONG_PIXSCALE] * 2
    resampled = read_images(path, options=InputOptions(resample=True))
    assert list(resampled.flag) == [NO, NO]
    assert not torch.equal(resampled.inputs[0], rgb_of(images[0]))


@pytest.mark.parametrize(
    ("columns", "units", "said"),
    [
        (
            {"IMAGE": np.zeros((2, 4, 8, 8), "f4")},
            {},
            r"column 'IMAGE' has shape \(4, 8, 8\), expected \(3, H, W\)",
        ),
        ({"IMAGE": np.zeros((2, 3, 8, 8), "f4")}, {"IMAGE": "adu"}, r"column 'IMAGE'.*'adu'.*nanomagg"),
    ],
)
def test_a_column_that_is_not_images(tmp_path, columns, units, said):
    path = write_table(tmp_path / "c.fits", units, **columns)
    with pytest.raises(DataError, match=said):
        read_images(path)


def test_cutouts_by_id_then_by_position(tmp_path):
    folder = tmp_path / "cutouts"
    by_id = write_cube(folder / "galaxy_39627.fits", ra=10.0, dec=-5.0, seed=1)
    write_cube(folder / "same_place.fits", ra=10.0, dec=-5.0, seed=2)
    by_position = write_cube(folder / "elsewhere.fits", ra=20.0, dec=1.0, seed=3)
    path = write_table(
        tmp_path / "c.fits",
        TARGETID=np.array([39627, 5, 6]),
        TARGET_RA=[10.0, 20.0 + 0.5 / 3600, 90.0],
        TARGET_DEC=[-5.0, 1.0, 0.0],
    )
    inputs, flag = read_images(path, folder)
    assert list(flag) == [NO, NO, EmbedFlag.NO_IMAGE]
    middle = slice(52, 100)  # the 48 px about the centre of 152
    assert torch.equal(inputs[0], rgb_of(by_id[:, middle, middle]))
    # 0.5 arcsec to the east is two pixels to the left
    assert torch.equal(inputs[1], rgb_of(by_position[:, middle, 50:98]))


def test_an_image_of_the_right_name_at_the_wrong_place_is_not_used(tmp_path):
    write_cube(tmp_path / "cutouts" / "39627.fits", ra=200.0, dec=1.0)
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([39627]), RA=[10.0], DEC=[-5.0])
    assert list(read_images(path, tmp_path / "cutouts").flag) == [EmbedFlag.NO_IMAGE]


def test_cutouts_by_brick_numbers(tmp_path):
    folder = tmp_path / "cutouts"
    write_cube(folder / "9010-3-77.fits", ra=None, seed=1)
    path = write_table(tmp_path / "c.fits", RELEASE=[9010, 9010], BRICKID=[3, 3], OBJID=[77, 78])
    assert list(read_images(path, folder).flag) == [NO, EmbedFlag.NO_IMAGE]


def test_two_cutouts_of_one_galaxy(tmp_path):
    folder = tmp_path / "cutouts"
    for name, ra in (("a.fits", 10.0), ("b.fits", 10.0 + 0.3 / 3600)):
        write_cube(folder / name, ra=ra, dec=0.0)
    path = write_table(tmp_path / "c.fits", RA=[10.0], DEC=[0.0])
    assert list(read_images(path, folder).flag) == [EmbedFlag.AMBIGUOUS_IMAGE]
    near = read_images(path, folder, InputOptions(radius_arcsec=0.1))
    assert list(near.flag) == [NO]


def test_a_broken_cutout_spoils_its_row_only(tmp_path):
    folder = tmp_path / "cutouts"
    for name in ("1.fits", "2.fits"):
        write_cube(folder / name)
    truncate(folder / "1.fits", 0.6)
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([1, 2]))
    inputs, flag = read_images(path, folder)
    assert list(flag) == [EmbedFlag.UNREADABLE_IMAGE | EmbedFlag.NO_IMAGE, NO]
    assert inputs[1].max() > 0


def test_a_named_image_that_is_broken_is_an_error(tmp_path):
    """Whatever its format, alone or in a folder of nothing else: never "outside of the footprint"."""
    table = write_table(tmp_path / "c.fits", TARGETID=np.array([1, 2]), RA=[10.0, 59.0], DEC=[-5.0, -30.0])
    folder = tmp_path / "broken"
    write_cube(folder / "1.fits")
    write_band_hdus(folder / "field.fits", shape=(300, 300), ra=59.0, dec=-30.0)
    write_stein(folder / "images_npix60_0_5.h5", 5, size=60)
    write_multimodal_images(folder / "001-of-001.hdf5", list("ab"))
    for file in sorted(folder.iterdir()):
        for fraction in (0.7, 0.05):
            truncate(file, fraction)
            with pytest.raises(DataError, match=rf"{file.name}: .*(cut short|damaged|cannot read)"):
                read_images(table, file)
        file.write_bytes(file.read_bytes()[:999])
        (tmp_path / file.stem).mkdir()
        shutil.move(file, tmp_path / file.stem / file.name)
        with pytest.raises(DataError, match=rf"{file.name}: .*(cut short|damaged|cannot read)"):
            read_images(table, tmp_path / file.stem)
    write_cube(tmp_path / "gr.fits", bands="gr")
    with pytest.raises(DataError, match=r"gr\.fits: no image in the band z"):
        read_images(table, tmp_path / "gr.fits")


def test_stamps_from_a_larger_image(tmp_path):
    image = write_band_hdus(
        tmp_path / "field.fits", shape=(300, 300), ra=59.0, dec=-30.0, invvar=np.ones((3, 300, 300))
    )
    cos = np.cos(np.radians(-30))
    offsets = np.array([0, 60, 140, 400]) * PIXSCALE / 3600  # px to the east, which is to the left
    path = write_table(tmp_path / "c.fits", RA=59.0 + offsets / cos, DEC=np.full(4, -30.0))
    inputs, flag = read_images(path, tmp_path / "field.fits")
    assert list(flag) == [NO, NO, EmbedFlag.IMAGE_PADDED, EmbedFlag.NO_IMAGE]
    np.testing.assert_allclose(inputs[0], rgb_of(image[:, 126:174, 126:174].astype("f4")), atol=1e-6)
    np.testing.assert_allclose(inputs[1], rgb_of(image[:, 126:174, 66:114].astype("f4")), atol=1e-6)
    outside = inputs[2][:, :, :14]
    assert torch.equal(outside, outside[:, :1, :1].expand_as(outside))  # sky


def test_stamps_from_a_brick_and_files_that_are_no_images(tmp_path, caplog):
    write_brick(tmp_path / "bricks", ra=59.0, dec=-30.0)
    write_table(tmp_path / "bricks" / "tractor.fits", RA=[59.0])
    path = write_table(tmp_path / "c.fits", RA=[59.0], DEC=[-30.0])
    assert list(read_images(path, tmp_path / "bricks").flag) == [NO]
    assert "tractor.fits: no image" in caplog.text


def test_a_cutout_at_another_scale(tmp_path):
    write_cube(tmp_path / "cutouts" / "1.fits", pixel_deg=0.131 / 3600)
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([1]))
    assert list(read_images(path, tmp_path / "cutouts").flag) == [EmbedFlag.WRONG_PIXSCALE]
    resampled = read_images(path, tmp_path / "cutouts", InputOptions(resample=True))
    assert list(resampled.flag) == [NO]


def test_images_of_several_scales_and_sizes_are_read_together(tmp_path):
    image = write_cube(tmp_path / "cutouts" / "1.fits", shape=(40, 40))
    write_cube(tmp_path / "cutouts" / "2.fits", pixel_deg=0.131 / 3600)
    write_cube(tmp_path / "cutouts" / "3.fits", pixel_deg=0.5 / 3600, seed=3)
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([3, 1, 2]))
    inputs, flag = read_images(path, tmp_path / "cutouts", InputOptions(resample=True))
    assert list(flag) == [NO, EmbedFlag.IMAGE_PADDED, NO]
    assert torch.equal(inputs[1], rgb_of(image))
    for row, one in enumerate((3, 1, 2)):
        alone = write_table(tmp_path / "d.fits", TARGETID=np.array([one]))
        found = read_images(alone, tmp_path / "cutouts", InputOptions(resample=True))
        assert torch.equal(found.inputs[0], inputs[row])


def test_images_without_a_way_to_find_them(tmp_path):
    write_cube(tmp_path / "cutouts" / "1.fits")
    path = write_table(tmp_path / "c.fits", MAG=[20.0])
    with pytest.raises(DataError, match=r"found by TARGETID, .*OBJID, by FILE or by position"):
        read_images(path, tmp_path / "cutouts")
    with pytest.raises(UsageError, match="neither a file, nor a folder, nor a column"):
        read_images(path, tmp_path / "nowhere")


# --- HDF5 files of many galaxies ---------------------------------------------------------------------------

BROKEN = EmbedFlag.NO_IMAGE | EmbedFlag.UNREADABLE_IMAGE


def spoil_row(path, dataset, row):
    """Change a byte of one row's chunk, which must have a checksum."""
    with h5py.File(path) as h5:
        chunk = h5[dataset].id.get_chunk_info(row)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset + 1] ^= 0x55
    path.write_bytes(bytes(data))


def with_checksums(path, dataset):
    """Rewrite a dataset with a checksum for each row."""
    with h5py.File(path, "a") as h5:
        values = h5[dataset][:]
        del h5[dataset]
        h5.create_dataset(dataset, data=values, chunks=(1, *values.shape[1:]), fletcher32=True)


@pytest.fixture
def stein(tmp_path):
    """Nine galaxies in two Stein files of 60 px; returns the folder and their datasets."""
    folder = tmp_path / "stein"
    sky = {"replace": {"objid": np.arange(1, 6)}}, {"replace": {"objid": np.arange(6, 10)}}
    parts = [
        write_stein(folder / name, n, seed=n, size=60, **more)
        for name, n, more in (
            ("north/images_npix60_000000000_000000005.h5", 5, sky[0]),
            ("south/images_npix60_000000000_000000004.h5", 4, sky[1]),
        )
    ]
    return folder, {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def test_stein_files_by_id_then_by_position(tmp_path, stein):
    folder, truth = stein
    bricks = {name.upper(): truth[name] for name in ("release", "brickid", "objid")}
    rows = np.array([8, 0, 4, 5, 3])
    by_brick = write_table(tmp_path / "a.fits", **{name: values[rows] for name, values in bricks.items()})
    inputs, flag = read_images(by_brick, folder)
    assert list(flag) == [NO] * 5
    for one, row in zip(inputs, rows, strict=True):
        assert torch.equal(one, rgb_of(truth["images"][row, :, 6:54, 6:54]))
    target = encode_targetid(*bricks.values())[rows]
    by_target = read_images(write_table(tmp_path / "b.fits", TARGETID=target), folder)
    by_position = read_images(
        write_table(tmp_path / "c.fits", RA=truth["ra"][rows], DEC=truth["dec"][rows]), folder
    )
    assert torch.equal(by_target.inputs, inputs)
    assert torch.equal(by_position.inputs, inputs)
    one_file = read_images(by_brick, folder / "south" / "images_npix60_000000000_000000004.h5")
    assert list(one_file.flag) == [NO, *[EmbedFlag.NO_IMAGE] * 2, NO, EmbedFlag.NO_IMAGE]


def test_every_flag_of_stein_files(tmp_path):
    rng = np.random.default_rng(3)
    images = rng.normal(0.1, 0.1, (6, 3, 60, 60)).astype("f4")
    images[1] = 0  # nothing was observed
    images[2, :, 20:40, 20:40] = 0
    ra = np.array([10.0, 20.0, 30.0, 40.0, 50.0, 50.0 + 0.3 / 3600])
    path = tmp_path / "images_npix60_0_6.h5"
    write_stein(path, 6, size=60, replace={"images": images, "ra": ra, "dec": np.zeros(6)})
    with_checksums(path, "images")
    spoil_row(path, "images", 3)
    table = write_table(tmp_path / "c.fits", RA=[*ra[:5], 99.0], DEC=np.zeros(6))
    inputs, flag = read_images(table, path)
    expected = [NO, EmbedFlag.NO_IMAGE, EmbedFlag.BAD_IMAGE_PIXELS, BROKEN, EmbedFlag.AMBIGUOUS_IMAGE]
    assert list(flag) == [*expected, EmbedFlag.NO_IMAGE]
    assert torch.equal(inputs[0], rgb_of(images[0, :, 6:54, 6:54]))
    assert torch.equal(inputs[4], rgb_of(images[4, :, 6:54, 6:54]))
    padded = read_images(table, path, size=64)
    assert padded.flag[0] == EmbedFlag.IMAGE_PADDED
    assert torch.equal(padded.inputs[0], rgb_of(images[0], 64))


def test_stein_files_that_cannot_be_used(tmp_path, stein, caplog):
    folder, truth = stein
    table = write_table(tmp_path / "c.fits", RA=truth["ra"], DEC=truth["dec"])
    truncate(folder / "north" / "images_npix60_000000000_000000005.h5", 0.5)
    assert list(read_images(table, folder).flag) == [EmbedFlag.NO_IMAGE] * 5 + [NO] * 4
    assert "cut short" in caplog.text
    whole = tmp_path / "images_npix60_1.h5"
    write_stein(whole, 40, size=60)
    with_checksums(whole, "ra")
    spoil_row(whole, "ra", 0)
    with open_table(table) as opened, pytest.raises(DataError, match="cannot read dataset 'ra'"):
        open_inputs(opened, "image", str(whole), SIZE, OPTIONS)  # before a row is read


def test_every_flag_of_multimodal_images(tmp_path):
    rng = np.random.default_rng(4)
    ivar = np.ones((5, 4, 60, 60), "f4")
    ivar[1] = 0
    ivar[2, :, 20:40, 20:40] = 0
    ra = np.array([10.0, 20.0, 30.0, 40.0, 40.0 + 0.3 / 3600])
    folder = tmp_path / "legacysurvey"
    truth = write_multimodal_images(
        folder / "dr10" / "healpix=7" / "001-of-001.hdf5",
        list("abcde"),
        image_array=rng.normal(0.1, 0.1, (5, 4, 60, 60)).astype("f4"),
        image_ivar=ivar,
        ra=ra,
        dec=np.zeros(5),
    )
    other = folder / "dr10" / "healpix=8" / "001-of-001.hdf5"
    write_multimodal_images(other, ["f"], ra=[60.0], dec=[0.0], image_scale=np.full((1, 4), 0.168))
    table = write_table(tmp_path / "c.fits", RA=[*ra[:4], 60.0, 99.0], DEC=np.zeros(6))
    inputs, flag = read_images(table, folder)
    expected = [NO, EmbedFlag.NO_IMAGE, EmbedFlag.BAD_IMAGE_PIXELS, EmbedFlag.AMBIGUOUS_IMAGE, BROKEN]
    assert list(flag) == [*expected, EmbedFlag.NO_IMAGE]
    grz = truth["image_array"][:, [0, 1, 3], 6:54, 6:54]
    assert torch.equal(inputs[0], rgb_of(grz[0]))
    assert torch.equal(inputs[3], rgb_of(grz[3]))
    assert list(read_images(table, folder, size=64).flag[[0, 5]]) == [
        EmbedFlag.IMAGE_PADDED,
        EmbedFlag.NO_IMAGE,
    ]


def test_a_folder_of_cutouts_with_another_hdf5_in_it(tmp_path):
    folder = tmp_path / "cutouts"
    write_cube(folder / "1.fits")
    write_hdf5(folder / "labels.hdf5", {"TARGETID": [1]})
    table = write_table(tmp_path / "c.fits", TARGETID=np.array([1]))
    assert list(read_images(table, folder).flag) == [NO]
    shutil.move(folder / "1.fits", tmp_path)
    with pytest.raises(DataError, match="no FITS, Multimodal Universe, PNG or JPEG file below it"):
        read_images(table, folder)
