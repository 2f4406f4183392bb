"""Bands that were not observed: in every kind of file filled, counted, flagged, and told by predict."""

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from builders import make_image, make_wcs_cards, write_band_hdus, write_brick, write_cube
from builders_hdf5 import write_multimodal_images, write_stein
from builders_pairs import galaxies
from builders_predict import make_galaxies, write_galaxies
from hypothesis import given, settings
from hypothesis import strategies as st
from source_rows import NO, SIZE, read_images, rgb_of, write_table

from astroclip.data.pairs import write_pairs
from astroclip.data.stamps import UNOBSERVED_AREA, find_missing_bands, mark_unobserved
from astroclip.model.inputs import InputOptions, open_inputs
from astroclip.predict.embed import embed_catalog
from astroclip.predict.tasks import predict_catalog
from astroclip.schema import EmbedFlag, PredictFlag
from astroclip.tables import open_table

BAD, MISSING = EmbedFlag.BAD_IMAGE_PIXELS, EmbedFlag.MISSING_BAND
WIDE = 60


def flood(pixels):
    """Mark the pixels of large areas, one pixel after the other."""
    large, todo = np.zeros_like(pixels), pixels.copy()
    while todo.any():
        area = [tuple(np.argwhere(todo)[0])]
        todo[area[0]] = False
        for y, x in area:
            for at in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if min(at) >= 0 and at[0] < len(pixels) and at[1] < pixels.shape[1] and todo[at]:
                    todo[at] = False
                    area.append(at)
        if len(area) >= UNOBSERVED_AREA:
            large[tuple(np.transpose(area))] = True
    return large


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_what_was_observed_equals_a_flood(seed, share):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(2, 3, 20, 23)).astype("f4")
    images[rng.random(images.shape) < share] = 0
    images[1, 0, 3:12, :9] = 0
    before, zero = images.copy(), images == 0
    seen = mark_unobserved(images)
    expected = np.array([[flood(band) for band in image] for image in zero]) | zero.all(axis=1)[:, None]
    np.testing.assert_array_equal(np.isnan(seen), expected)
    np.testing.assert_array_equal(seen[~expected], before[~expected])
    np.testing.assert_array_equal(images, before)
    alone = np.isnan(seen) & ~np.isnan(seen).all(axis=1)[:, None]
    missing = [[flood(band).any() for band in image] for image in alone]
    np.testing.assert_array_equal(find_missing_bands(seen), missing)


def test_zeros_that_are_measurements_stay(rng):
    """Single ones, and those of an image that was stored in coarse steps."""
    image = rng.normal(0.02, 0.01, (1, 3, 152, 152)).astype("f4")
    image[0, 1, 70:75, 70:75] = 0
    assert np.isfinite(mark_unobserved(image)).all()
    coarse = (np.round(rng.normal(0, 2, (8, 3, 152, 152))) * 0.005).astype("f4")  # a fifth is 0
    seen = mark_unobserved(coarse)
    nothing = np.repeat((coarse == 0).all(axis=1)[:, None], 3, axis=1)
    np.testing.assert_array_equal(np.isnan(seen), nothing)
    assert not find_missing_bands(seen).any()
    none = np.zeros((0, 3, 5, 5), "f4")
    assert mark_unobserved(none).shape == none.shape
    assert find_missing_bands(none).shape == (0, 3)


def holes(n=8, size=WIDE):
    """Images whole; without z, half of g, a corner of r, g and z, a gap, few pixels, half of all."""
    images = np.stack([make_image(3, (size, size), seed) for seed in range(n)])
    images[1, 2] = 0
    images[2, 0, :, : size // 2] = 0
    if n == 3:
        return images
    images[3, 1, : size // 2, : size // 2][np.tri(size // 2, dtype=bool)[::-1]] = 0
    images[4, [0, 2]] = 0
    images[5, 0, 30:32, :] = 0
    images[6, 1, 30:33, 30:33] = 0
    images[7, :, :, : size // 2] = 0
    return images


FLAGS = [NO, MISSING | BAD, MISSING | BAD, MISSING, MISSING | BAD, MISSING, NO, EmbedFlag.IMAGE_PADDED]


def as_cubes(folder, images):
    for i, image in enumerate(images):
        write_cube(folder / f"cut_{i}.fits", image=image, shape=image.shape[1:], ra=10.0 + i)
    return folder


def as_invvar(folder, images):
    """With inverse variance: 0 in `images` is any value there."""
    for i, image in enumerate(images):
        invvar = (image != 0).astype("f4")
        pixels = np.where(invvar > 0, image, 7.0).astype("f4")
        write_cube(folder / f"cut_{i}.fits", image=pixels, shape=image.shape[1:], ra=10.0 + i, invvar=invvar)
    return folder


def as_nan(folder, images):
    return as_cubes(folder, np.where(images == 0, np.nan, images).astype("f4"))


def as_blank(folder, images):
    """Scaled integers with BLANK."""
    folder.mkdir()
    for i, image in enumerate(images):
        stored = np.where(image == 0, -32768, np.round(image / 2e-4)).astype("i2")
        cards = make_wcs_cards(image.shape[1:], 10.0 + i, -5.0) | {"BANDS": "grz"}
        hdu = fits.PrimaryHDU(stored, fits.Header(cards))
        hdu.header["BLANK"], hdu.header["BSCALE"], hdu.header["BZERO"] = -32768, 2e-4, 0.0
        hdu.writeto(folder / f"cut_{i}.fits")
    return folder


def as_stein(folder, images):
    n = len(images)
    place = {"ra": 10.0 + np.arange(n), "dec": np.full(n, -5.0)}
    write_stein(folder / "images_npix60_0_8.h5", n, replace={"images": images} | place)
    return folder


def as_multimodal(folder, images, ivar=False):
    n = len(images)
    planes = images[:, [0, 1, 1, 2]]
    more = {"ra": 10.0 + np.arange(n), "dec": np.full(n, -5.0)}
    if ivar:
        more["image_ivar"], planes = (planes != 0).astype("f4"), np.where(planes == 0, 7, planes)
    else:
        more["omit"] = ["image_ivar"]
    write_multimodal_images(folder / "001-of-001.hdf5", list("abcdefgh"), image_array=planes, **more)
    return folder


def as_multimodal_ivar(folder, images):
    return as_multimodal(folder, images, ivar=True)


def as_pairs(folder, images):
    n = len(images)
    core = ("flux", "ivar", "mask")
    block = {k: v for k, v in galaxies(n).items() if k in core} | {
        "ra": 10.0 + np.arange(n),
        "dec": np.full(n, -5.0),
        "targetid": 1 + np.arange(n),
    }
    whole = np.full((n, 3, 152, 152), 0.01, "f4")
    edge = (152 - WIDE) // 2
    whole[:, :, edge:-edge, edge:-edge] = images
    folder.mkdir()
    with write_pairs(folder / "pairs.h5", n) as writer:
        writer.write(block | {"image": whole})
    return folder / "pairs.h5"


def as_bricks(folder, images):
    """One file a band."""
    for i, image in enumerate(images):
        write_brick(folder / str(i), shape=image.shape[1:], ra=10.0 + i, dec=-5.0, image=image)
    return folder


def as_band_hdus(folder, images):
    for i, image in enumerate(images):
        path = folder / f"cut_{i}.fits"
        folder.mkdir(exist_ok=True)
        write_band_hdus(path, shape=image.shape[1:], ra=10.0 + i, dec=-5.0, image=image)
    return folder


FILES = [as_cubes, as_invvar, as_nan, as_blank, as_bricks, as_band_hdus, as_stein, as_multimodal]
KINDS = [*FILES, as_multimodal_ivar, as_pairs]


@pytest.mark.parametrize("write", KINDS)
def test_missing_bands_are_flagged_in_every_kind_of_file(tmp_path, write):
    images = holes()
    table = write_table(tmp_path / "c.fits", RA=10.0 + np.arange(8), DEC=np.full(8, -5.0))
    inputs, flag = read_images(table, write(tmp_path / "images", images))
    assert list(flag) == FLAGS
    assert inputs.isfinite().all()
    core = slice(6, 54)
    filled = np.where(images == 0, np.nan, images)[:, :, core, core].astype("f4")
    for i in (0, 1, 4):  # a missing band counts as sky
        np.testing.assert_allclose(inputs[i], rgb_of(filled[i]), atol=0 if write is not as_blank else 5e-3)


def test_missing_bands_of_a_column_are_flagged_and_counted(tmp_path):
    images = holes()
    for values in (images, np.where(images == 0, np.nan, images).astype("f4"), images.astype("f8")):
        path = write_table(tmp_path / "c.fits", IMAGE=values)
        with open_table(path) as table:
            inputs = open_inputs(table, "image", None, SIZE)
            assert list(inputs.read(0, 8).flag) == FLAGS
            assert inputs.missing_bands.tolist() == [3, 1, 2]
    tolerant = read_images(path, options=InputOptions(max_bad=1.0))
    assert list(tolerant.flag) == [flag & ~BAD for flag in FLAGS]


def test_predict_tells_of_bands_that_were_filled_in(tmp_path, tiny_model):
    path = write_table(tmp_path / "c.fits", IMAGE=holes(3, 152))
    embedded = embed_catalog(path, tmp_path / "e.fits", model=tiny_model)
    assert embedded.flags == {"BAD_IMAGE_PIXELS": 2, "MISSING_BAND": 2}
    assert embedded.missing_bands == {"g": 1, "z": 1}
    known = write_galaxies(tmp_path / "known.fits", make_galaxies(200, 1))
    columns = make_galaxies(5, 2)
    columns["EMBED_FLAG"] = np.array([0, MISSING, BAD, EmbedFlag.BAD_SPECTRUM_PIXELS, MISSING | 16], "i4")
    new = write_galaxies(tmp_path / "new.fits", columns)
    for use, doubtful in (("image", [1, 2, 4]), ("spectrum", [3]), ("both", [1, 2, 3, 4])):
        out = tmp_path / f"{use}.fits"
        report = predict_catalog(new, "label", out, reference=known, label="AGE", use=use, method="knn")
        flag = fitsio.read(out, columns="PREDICT_FLAG")
        assert np.flatnonzero(flag & PredictFlag.BAD_INPUT).tolist() == doubtful
        assert report.flags["BAD_INPUT"] == len(doubtful)
