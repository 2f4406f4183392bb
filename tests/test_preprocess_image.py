"""From nanomaggies to the encoder's colours: against the original's numbers and against plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.errors import DataError
from astroclip.model.prepare_images import (
    center_crop,
    fill_bad_pixels,
    prepare_images,
    resample_pixscale,
    to_rgb,
)


def make_sky(rng: np.random.Generator, n: int = 3, size: int = 152) -> np.ndarray:
    """Galaxies of very different brightness on noise, so that all parts of the stretch are reached."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    flux = 10.0 ** rng.uniform(-2, 3, (n, 3, 1, 1))
    return (flux * np.exp(-np.hypot(x, y) / 6) + rng.normal(0, 0.02, (n, 3, size, size))).astype(np.float32)


def stretch_slowly(image: np.ndarray) -> np.ndarray:
    """Section 1 of the model's description, one image (3, H, W) in float64."""
    scaled = image.astype(np.float64) * np.array([6.0, 3.4, 2.2])[:, None, None] + 0.03
    intensity = np.maximum(0, scaled).mean(axis=0)
    safe = np.where(intensity == 0, 1e-6, intensity)
    return np.clip(scaled * np.arcsinh(20 * intensity) / np.sqrt(20) / safe, 0, 1)[::-1]


def test_golden_stretch_and_crop(golden):
    arrays = np.load(golden / "preprocessing.npz")
    rgb = to_rgb(arrays["raw_grz"])
    np.testing.assert_allclose(rgb[2].permute(1, 2, 0), arrays["rgb_2"], atol=1e-6)
    prepared = prepare_images(arrays["raw_grz"])
    # the original was given the images in another axis order: its result is transposed
    np.testing.assert_allclose(prepared.rgb.mT, arrays["collated"], atol=1e-6)
    assert not prepared.padded
    assert not prepared.bad_fraction.any()


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40])
def test_stretch_against_numpy(rng, n):
    images = make_sky(rng, n, size=31)
    images[0, :, 3, 4] = 0
    images[0, :, 5, 6] = -100  # no intensity at all
    images[0, :, 7, 8] = [1e6, -1e3, 2e5]
    images[0, :, 9, 10] = 1e-9 - 0.03 / np.array([6.0, 3.4, 2.2])  # I between 0 and I_safe
    rgb = to_rgb(images)
    np.testing.assert_allclose(rgb, [stretch_slowly(image) for image in images], atol=2e-6)
    assert rgb.dtype == torch.float32
    assert rgb[0, :, 5, 6].tolist() == [0, 0, 0]


def test_stretch_shapes_and_types(rng):
    images = make_sky(rng, 4, size=20)
    expected = to_rgb(images)
    torch.testing.assert_close(to_rgb(images[2]), expected[2])
    torch.testing.assert_close(to_rgb(images.reshape(2, 2, 3, 20, 20)), expected.view(2, 2, 3, 20, 20))
    torch.testing.assert_close(to_rgb(images.astype(">f4")), expected)
    torch.testing.assert_close(to_rgb(torch.from_numpy(images).double()), expected)
    torch.testing.assert_close(to_rgb(images[:, :, ::-1]), expected.flip(-2))
    assert to_rgb(images[:0]).shape == (0, 3, 20, 20)
    frozen = images.copy()
    frozen.flags.writeable = False
    torch.testing.assert_close(to_rgb(frozen), expected)


def test_stretch_needs_three_bands():
    with pytest.raises(DataError, match=r"\(20, 20, 3\).*bands g, r, z"):
        to_rgb(np.zeros((20, 20, 3), np.float32))
    with pytest.raises(DataError, match=r"expected \(N, 3, H, W\)"):
        prepare_images(np.zeros((3, 20, 20), np.float32))


def test_crop_keeps_rows_4_to_147():
    image = torch.arange(152.0)[:, None].expand(1, 3, 152, 152)
    assert center_crop(image, 144)[0, 0, [0, -1], 0].tolist() == [4, 147]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_crop_and_pad_keep_the_centre(height, width, size):
    image = torch.ones(2, 3, height, width)
    result = center_crop(image, size)
    assert result.shape == (2, 3, size, size)
    assert result.sum() == 6 * min(height, size) * min(width, size)
    if (height - size) % 2 == 0:
        torch.testing.assert_close(result, result.flip(-2))
    if (width - size) % 2 == 0:
        torch.testing.assert_close(result, result.flip(-1))


def fill_slowly(plane: np.ndarray) -> np.ndarray:
    """The documented rule for one band, pixel by pixel."""
    good = np.isfinite(plane)
    filled = np.where(good, plane, 0).astype(np.float64)
    for y, x in np.argwhere(~good):
        half = 1
        while good.any():
            window = (slice(max(y - half, 0), y + half + 1), slice(max(x - half, 0), x + half + 1))
            if good[window].any():
                filled[y, x] = plane[window][good[window]].mean(dtype=np.float64)
                break
            half *= 2
    return filled


def test_fill_against_numpy(rng):
    images = make_sky(rng, 4, size=24)
    images[0, 1, 5:9, 0:11] = np.nan
    images[1][rng.random((3, 24, 24)) < 0.6] = np.inf
    images[2, 0] = np.nan  # a whole band
    images[2, 1, :, :] = np.nan
    images[2, 1, 23, 0] = 7.0  # one good pixel
    before = images.copy()
    filled, fraction = fill_bad_pixels(torch.from_numpy(images))
    expected = [[fill_slowly(band) for band in image] for image in images]
    np.testing.assert_allclose(filled, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(fraction, (~np.isfinite(images)).mean(axis=(2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(images, before)
    assert (filled[2, 0] == 0).all()
    assert (filled[2, 1] == 7).all()


def test_fill_is_exact_on_a_slope_and_free_when_all_is_good(rng):
    slope = torch.arange(20.0)[:, None] + 2 * torch.arange(20.0)
    images = slope.expand(1, 3, 20, 20).clone()
    images[0, 2, 7, 11] = torch.nan
    filled, _ = fill_bad_pixels(images)
    torch.testing.assert_close(filled, slope.expand(1, 3, 20, 20))
    again, fraction = fill_bad_pixels(filled)
    assert again is filled
    assert fraction.tolist() == [[0, 0, 0]]


def test_fill_survives_an_overflowing_sum():
    images = torch.full((2, 3, 9, 9), 3e38)
    filled, fraction = fill_bad_pixels(images)
    torch.testing.assert_close(filled, images)
    assert not fraction.any()


def test_prepare_pads_with_sky_and_measures_the_crop_only(rng):
    images = make_sky(rng, 3, size=152)
    images[0, :, :4] = np.nan  # outside the crop
    images[1] = np.nan
    prepared = prepare_images(images)
    assert prepared.rgb.shape == (3, 3, 144, 144)
    assert prepared.bad_fraction.tolist() == [0, 1, 0]
    assert not prepared.padded
    sky = to_rgb(torch.zeros(3, 1, 1))
    torch.testing.assert_close(prepared.rgb[1], sky.expand(3, 144, 144))

    small = make_sky(rng, 1, size=100)
    small[0, 0, 0, 0] = np.nan
    prepared = prepare_images(small, size=144)
    assert prepared.padded
    assert prepared.bad_fraction.item() == pytest.approx(1 / 30000)
    torch.testing.assert_close(prepared.rgb[0, :, :22], sky.expand(3, 22, 144))
    torch.testing.assert_close(prepared.rgb[0, :, 23:122, 22:122], to_rgb(small)[0, :, 1:])


def make_gaussian(size: int, pixscale: float, sigma_arcsec: float = 2.0) -> np.ndarray:
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * pixscale
    density = np.exp(-(x**2 + y**2) / (2 * sigma_arcsec**2)) / (2 * np.pi * sigma_arcsec**2)
    return 50 * density * pixscale**2  # 50 nanomaggies in all


@pytest.mark.parametrize("pixscale", [0.1, 0.262, 0.396, 0.524, 1.0])
def test_resampling_keeps_flux_and_centre(pixscale):
    size = round(40 / pixscale)
    image = make_gaussian(size, pixscale)
    resampled = resample_pixscale(image[None, None], pixscale)[0, 0].numpy()
    n = len(resampled)
    assert 0 <= size * pixscale / 0.262 - n < 1
    assert resampled.sum() == pytest.approx(50, rel=1e-4)
    y, x = np.mgrid[:n, :n]
    centroid = (resampled * y).sum() / 50, (resampled * x).sum() / 50
    assert centroid == pytest.approx(((n - 1) / 2, (n - 1) / 2), abs=1e-2)
    if pixscale < 0.4:  # finer than the source: the profile itself is kept
        np.testing.assert_allclose(resampled, make_gaussian(n, 0.262), atol=0.02 * resampled.max())


def test_resampling_by_two_is_a_block_sum(rng):
    image = rng.normal(size=(2, 3, 8, 6)).astype(np.float32)
    blocks = image.reshape(2, 3, 4, 2, 3, 2).sum(axis=(3, 5))
    np.testing.assert_allclose(resample_pixscale(image, 0.131), blocks, atol=1e-6)
    np.testing.assert_allclose(resample_pixscale(image, 0.262), image, atol=1e-6)


def test_resampling_marks_only_what_a_bad_pixel_touches(rng):
    image = rng.normal(size=(3, 8, 8)).astype(np.float32)
    image[1, 2, 5] = np.nan
    resampled = resample_pixscale(image, 0.131)
    assert torch.argwhere(resampled.isnan()).tolist() == [[1, 1, 2]]


@pytest.mark.parametrize(
    ("pixscale", "match"), [(0.0, "positive"), (float("nan"), "positive"), (1e-3, "too few")]
)
def test_resampling_refuses_impossible_scales(pixscale, match):
    with pytest.raises(DataError, match=match):
        resample_pixscale(np.zeros((1, 3, 20, 20)), pixscale)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_result_on_gpu(rng):
    images = make_sky(rng, 20)
    images[1, 0, 50:60, 70:90] = np.nan
    cpu, gpu = prepare_images(images), prepare_images(torch.from_numpy(images).cuda())
    torch.testing.assert_close(gpu.rgb.cpu(), cpu.rgb, atol=2e-6, rtol=0)
    torch.testing.assert_close(gpu.bad_fraction.cpu(), cpu.bad_fraction)
