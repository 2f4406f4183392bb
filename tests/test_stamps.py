"""Stamps of Legacy Survey images, and finding the image of a row."""

import gzip

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from builders import (
    PIXEL_DEG,
    make_image,
    truncate,
    write_cube,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from astroclip.data import legacysurvey as ls
from astroclip.data.pixels import How
from astroclip.errors import DataError
from astroclip.tables.identity import Who

DR9 = "cutout_59.1067_-30.4848.fits"
DR5 = "dr5-nsa-cutout-162.fits"


def cut_stamps(path, ra, dec, size=152):
    """Cut stamps around positions out of one image."""
    return ls.open_images(path).read(np.zeros(len(ra), int), ra, dec, size).flux


def who(ra, dec, **ids):
    """Rows of a table."""
    ids = {name: np.asarray(values) for name, values in ids.items()}
    return Who(ids, np.asarray(ra, float), np.asarray(dec, float))


def cut(image, y0, x0, size):
    """Cut by hand, pixel by pixel."""
    stamp = np.full((3, size, size), np.nan, np.float32)
    for i in range(size):
        for j in range(size):
            if 0 <= y0 + i < image.shape[1] and 0 <= x0 + j < image.shape[2]:
                stamp[:, i, j] = image[:, y0 + i, x0 + j]
    return stamp


def test_real_stamps_of_bright_galaxies(survey_data):
    """The two bright galaxies of the DR9 field: stamps at their peaks are hand-cut slices."""
    path = survey_data / "legacysurvey" / DR9
    cutout = ls.read_cutout(path)
    first = np.unravel_index(cutout.image[1].argmax(), (256, 256))
    rest = cutout.image[1].copy()
    rest[max(first[0] - 30, 0) : first[0] + 30, max(first[1] - 30, 0) : first[1] + 30] = -1
    second = np.unravel_index(rest.argmax(), (256, 256))
    y, x = np.array([first, second]).T
    ra, dec = cutout.wcs.all_pix2world(x, y, 0)
    for source in (path, str(path)):
        images = cut_stamps(source, ra, dec, 64)
        for k in range(2):
            # an even stamp cannot be centred on a pixel: either neighbour of the half-way mark will do
            best = [
                np.array_equal(
                    images[k], cut(cutout.image, y[k] - 32 + dy, x[k] - 32 + dx, 64), equal_nan=True
                )
                for dy in (0, 1)
                for dx in (0, 1)
            ]
            assert any(best)
    images = cut_stamps(path, ra, dec, 65)
    for k in range(2):
        np.testing.assert_array_equal(images[k], cut(cutout.image, y[k] - 32, x[k] - 32, 65))
        assert np.nanargmax(images[k, 1]) == 32 * 65 + 32


@pytest.mark.parametrize("rotation", [0.0, 30.0, 90.0, 200.0])
@pytest.mark.parametrize("pixscale", [0.262, 0.5])
def test_pixel_scale(tmp_path, rotation, pixscale):
    write_cube(tmp_path / "c.fits", rotation_deg=rotation, pixel_deg=pixscale / 3600)
    assert ls.read_cutout(tmp_path / "c.fits").pixscale == pytest.approx(pixscale, rel=1e-6)


def test_pixel_scale_from_cdelt_and_none(tmp_path):
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 0.0, "CRPIX1": 5.0,
         "CRPIX2": 5.0, "CDELT1": -PIXEL_DEG, "CDELT2": PIXEL_DEG, "PC1_1": 0.6, "PC1_2": -0.8, "PC2_1": 0.8,
         "PC2_2": 0.6, "RADECSYS": "FK5", "EQUINOX": 2000.0}
    )  # fmt: skip
    fits.PrimaryHDU(make_image(3, (9, 9)), header).writeto(tmp_path / "c.fits")
    assert ls.read_cutout(tmp_path / "c.fits").pixscale == pytest.approx(0.262, rel=1e-6)
    write_cube(tmp_path / "n.fits", ra=None)
    cutout = ls.read_cutout(tmp_path / "n.fits")
    assert cutout.pixscale is None
    assert np.isnan([cutout.ra, cutout.dec]).all()
    images = ls.open_images(tmp_path / "n.fits")
    np.testing.assert_array_equal(images.read([0], [1.0], [2.0]).flux[0], cutout.image)
    assert np.isnan(images.read([0]).pixscale).all()


def test_stamp_at_the_centre_is_the_cutout(tmp_path):
    for size in (152, 151):
        pixels = write_cube(tmp_path / "c.fits", shape=(size, size))
        images = cut_stamps(tmp_path / "c.fits", [10.0, 10.0], [-5.0, -5.0 + 1e-9], size)
        for image in images:
            np.testing.assert_array_equal(image, pixels)


def test_smaller_stamp_is_the_centre_of_a_larger_one(tmp_path):
    write_cube(tmp_path / "c.fits", shape=(300, 300))
    ra, dec = np.random.default_rng(3).uniform([[9.995], [-5.005]], [[10.005], [-4.995]], (2, 20))
    large = cut_stamps(tmp_path / "c.fits", ra, dec, 152)
    small = cut_stamps(tmp_path / "c.fits", ra, dec, 144)
    np.testing.assert_array_equal(small, large[:, :, 4:148, 4:148])


positions = st.tuples(st.floats(-80, 80), st.floats(-80, 80))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        [(10.0, -5.0), (0.0, 0.0), (359.9999, 60.0), (123.0, 89.999), (0.0, 90.0), (50.0, -90.0)]
    ),
    st.sampled_from([0.0, 37.0]),
    positions,
    st.integers(1, 40),
)
@example((0.0, 0.0), 0.0, (-0.5, 19.5), 7)
def test_stamps_hold_the_nearest_pixel(tmp_path_factory, centre, rotation, offset, size):
    """Wherever the image lies on the sky: a stamp is the hand-cut slice nearest to the position."""
    path = tmp_path_factory.getbasetemp() / f"property-{centre[0]}-{centre[1]}-{rotation}.fits"
    if not path.exists():
        write_cube(path, ra=centre[0], dec=centre[1], shape=(60, 50), rotation_deg=rotation)
    cutout = ls.read_cutout(path)
    x, y = 24.5 + offset[0], 29.5 + offset[1]
    ra, dec = cutout.wcs.all_pix2world([x], [y], 0)
    images = cut_stamps(path, ra, dec, size)
    starts = []
    for position in (x, y):
        start = position - (size - 1) / 2
        starts.append(
            {int(np.floor(start + 0.5 + nudge)) for nudge in (-1e-4, 1e-4)}
        )  # ties may fall either way
    stamps = [cut(cutout.image, y0, x0, size) for y0 in starts[1] for x0 in starts[0]]
    assert any(np.array_equal(images[0], stamp, equal_nan=True) for stamp in stamps)


def test_stamps_off_the_image(tmp_path):
    write_cube(tmp_path / "c.fits")
    ra, dec = [190.0, 10.0, np.nan, 10.0, 10.0], [5.0, -4.0, 0.0, np.nan, -5.0]
    images = cut_stamps(tmp_path / "c.fits", ra, dec, 20)
    assert np.isnan(images[:2]).all()
    for image in images[2:]:  # without a position: the centre
        np.testing.assert_array_equal(image, images[4])
    assert np.isfinite(images[2:]).all()
    assert cut_stamps(tmp_path / "c.fits", [], []).shape == (0, 3, 152, 152)


def test_folder_by_name(tmp_path):
    names = [
        "39627.fits",
        "cutout_17.fits",
        "a/ls_9010-5-6.fits.gz",
        "b/17.fits",
        "plain.fits",
        "cut_12.5.fits",
    ]
    for k, name in enumerate(names):
        write_cube(tmp_path / name.removesuffix(".gz"), ra=10.0 + k, seed=k, shape=(20, 20))
    packed = tmp_path / "a" / "ls_9010-5-6.fits"
    (tmp_path / names[2]).write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    images = ls.open_images(tmp_path)
    ids = dict(zip([p.name for p in images.files], images.ids, strict=True))
    assert ids == {
        "39627.fits": "39627", "cutout_17.fits": "17", "ls_9010-5-6.fits.gz": "9010-5-6", "17.fits": "17",
        "plain.fits": "", "cut_12.5.fits": "",
    }  # fmt: skip
    nowhere = np.full(4, np.nan)
    match = images.match(who(nowhere, nowhere, TARGETID=[17, 39627, 5, 0]))
    assert [images.files[i].name if i >= 0 else "" for i in match.row] == ["17.fits", "39627.fits", "", ""]
    assert list(match.how) == [How.ID, How.ID, How.NONE, How.NONE]
    assert list(match.ambiguous) == [True, False, False, False]
    bricks = {"RELEASE": [9010, -1, 9010, 9010], "BRICKID": [5, 5, -1, 5], "OBJID": [6, 6, 6, 7]}
    match = images.match(who(nowhere, nowhere, TARGETID=[1, 2, -1, 39627], **bricks))
    assert [images.files[i].name if i >= 0 else "" for i in match.row] == [
        "ls_9010-5-6.fits.gz",
        "",
        "",
        "39627.fits",
    ]
    stamp = images.read(match.row[:1], size=20).flux[0]
    np.testing.assert_array_equal(stamp, make_image(3, (20, 20), seed=2))


def test_folder_by_position(tmp_path):
    for k, (ra, dec) in enumerate([(0.0, 0.0), (120.0, 89.99999), (0.00015, 0.0)]):
        write_cube(tmp_path / f"cut{k}.fits", ra=ra, dec=dec, seed=k)
    write_cube(tmp_path / "mosaic.fits", ra=0.01, dec=0.0, shape=(600, 700), seed=9)
    images = ls.open_images(tmp_path)
    ra = [359.99999, 300.0, 0.015, 180.0, np.nan, 0.003]
    dec = [0.0, 89.99999, 0.01, 0.0, 0.0, 0.0]
    match = images.match(who(ra, dec))
    names = [images.files[i].name if i >= 0 else "" for i in match.row]
    assert names == ["cut0.fits", "cut1.fits", "mosaic.fits", "", "", "mosaic.fits"]
    how = [How.CENTRE, How.CENTRE, How.FOOTPRINT, How.NONE, How.NONE, How.FOOTPRINT]
    assert list(match.how) == how
    assert list(match.ambiguous) == [True, False, False, False, False, True]
    stamp = images.read(match.row[2:3], ra[2:3], dec[2:3], 31).flux[0]
    images.close()
    np.testing.assert_array_equal(stamp, cut_stamps(images.files[match.row[2]], ra[2:3], dec[2:3], 31)[0])
    assert np.isfinite(stamp).all()


def test_stamp_at_an_edge_is_padded(tmp_path):
    write_cube(tmp_path / "1.fits", shape=(40, 40))
    images = ls.open_images(tmp_path / "1.fits")
    stamp = images.read([0], [10.0], [-5.0], 60).flux[0]
    np.testing.assert_array_equal(stamp[:, 10:50, 10:50], make_image(3, (40, 40)))
    assert np.isnan(stamp).sum() == 3 * (60**2 - 40**2)


def test_folder_with_bad_files(tmp_path, survey_data):
    write_cube(tmp_path / "1.fits")
    write_cube(tmp_path / "2.fits", seed=1, ra=20.0)
    truncate(tmp_path / "2.fits", 0.5)
    (tmp_path / "3.fits").write_bytes(b"")
    write_cube(tmp_path / "4.fits", bands="gr")
    images = ls.open_images(tmp_path)
    assert [path.name for path, _ in images.problems] == ["3.fits", "4.fits"]
    assert list(images.shape[:, 0]) == [152, 152, 0, 0]
    match = images.match(who([10.0, 20.0, 30.0, 40.0, 20.0], [-5.0] * 5, TARGETID=[1, 2, 3, 4, 5]))
    assert list(match.row) == [0, 1, 2, 3, 1]
    assert images.read([0], [10.0], [-5.0]).good.all()
    for i in (1, 2, 3):
        with pytest.raises(DataError, match=rf"{i + 1}\.fits"):
            images.read([i], [10.0], [-5.0])
    assert images.read([0], [10.0], [-5.0]).good.all()
    with pytest.raises(DataError, match="no such"):
        ls.open_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image file"):
        ls.open_images(tmp_path / "empty")
    real = ls.open_images(survey_data / "legacysurvey")
    assert [path.name for path in real.files if path not in dict(real.problems)] == [DR9, DR5]


def test_integer_ids_keep_all_digits(tmp_path):
    write_cube(tmp_path / "39627866878514741.fits", shape=(10, 10))
    images = ls.open_images(tmp_path)
    match = images.match(who([np.nan] * 2, [np.nan] * 2, TARGETID=[39627866878514741, 39627866878514740]))
    assert list(match.row) == [0, -1]


points = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1e-4, 359.9999, 180.0, 90.0]) | st.floats(0, 360),
        st.sampled_from([90.0, 89.9999, -90.0, -89.9999, 0.0, 1e-4]) | st.floats(-90, 90),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None)
@given(
    points, points, st.lists(st.sampled_from([1 / 3600, 0.01, 0.012, 1.0, np.nan]), min_size=8, max_size=8)
)
def test_circles_agree_with_astropy(positions, centres, radii):
    here, there, radius = np.array(positions).T, np.array(centres).T, np.array(radii[: len(centres)])
    found = [
        *zip(*(k.tolist() for k in ls.find_circles(tuple(here), tuple(there), 3600 * radius)), strict=True)
    ]
    a, b = (SkyCoord(*side, unit="deg") for side in (here, there))
    separation = a[:, None].separation(b[None]).deg
    assert len(set(found)) == len(found)
    assert set(zip(*(k.tolist() for k in np.nonzero(separation < radius - 1e-9)), strict=True)) <= {*found}
    assert {*found} <= set(zip(*(k.tolist() for k in np.nonzero(separation < radius + 1e-9)), strict=True))


def test_no_circles_and_no_positions():
    nothing, one = (np.zeros(0), np.zeros(0)), (np.zeros(1), np.zeros(1))
    for positions, centres in ((nothing, one), (one, nothing), (nothing, nothing)):
        assert [len(k) for k in ls.find_circles(positions, centres, np.ones(len(centres[0])))] == [0, 0]
