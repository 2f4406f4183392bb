"""Mock cut-outs: flux, noise, seeing and orientation are those of the truth."""

import fitsio
import numpy as np
import pytest

pytest.importorskip("galsim", reason="needs the extra: pip install 'astroclip[mock]'")
pytest.importorskip("kcorrect", reason="needs the extra: pip install 'astroclip[mock]'")
pytest.importorskip("speclite", reason="needs the extra: pip install 'astroclip[mock]'")

from astroclip.mock import render as images
from astroclip.mock.scene import make_sky
from astroclip.schema import CUTOUT_SIZE, PIXSCALE


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    sky = make_sky(250, 9)
    return sky[(sky["SAMPLE"] != "") & (sky["KIND"] == "galaxy")]


@pytest.fixture
def row(truth) -> np.void:
    """A round, smooth, face-on disk of 1 arcsec without companions."""
    plain = truth[0].copy()
    plain["FEATURED"], plain["MERGER"], plain["ARMS"], plain["BAR_STRENGTH"] = False, 0, 0, 0.0
    plain["DISK_RADIUS"], plain["AXIS_RATIO"], plain["BULGE_FRACTION"], plain["GRADIENT"] = 1.0, 1.0, 0.0, 0.0
    plain["FLUX"][:3], plain["PSFSIZE"], plain["DEPTH"] = (
        [10.0, 30.0, 50.0],
        [1.3, 1.2, 1.1],
        [24.7, 23.9, 23.0],
    )
    return plain


def test_noiseless_images_hold_the_true_flux(truth):
    small = truth[truth["DISK_RADIUS"] < 2.5][:60]
    assert (small["MERGER"] > 0).sum() >= 3
    assert small["FEATURED"].sum() > 10
    for k, row in enumerate(small):
        flux = images.render(row, np.random.default_rng(k)).sum(axis=(1, 2))
        lost = 0.08 * row["BULGE_FRACTION"] + 0.02  # the wings of de Vaucouleurs profiles leave the cut-out
        np.testing.assert_allclose(flux, row["FLUX"][:3], rtol=lost)


@pytest.mark.parametrize("profile", ["disk", "bulge"])
def test_profiles_are_galsims(row, profile):
    import galsim

    row["AXIS_RATIO"], row["BULGE_AXIS_RATIO"], row["ANGLE"] = 0.5, 0.5, 0.6
    row["BULGE_FRACTION"], row["BULGE_RADIUS"] = float(profile == "bulge"), 1.0
    image = images.render(row, np.random.default_rng(0))[1]
    kind = galsim.Exponential if profile == "disk" else galsim.DeVaucouleurs
    # GalSim keeps the area when it shears: unit semi-major axis is sqrt(q) as its circular radius.
    shape = kind(half_light_radius=np.sqrt(0.5)).shear(q=0.5, beta=(np.pi / 2 - 0.6) * galsim.radians)
    psf = galsim.Moffat(beta=images.MOFFAT_BETA, fwhm=1.2)
    expected = galsim.Convolve(shape, psf).withFlux(30.0).drawImage(
        nx=CUTOUT_SIZE, ny=CUTOUT_SIZE, scale=PIXSCALE, method="no_pixel"
    )  # fmt: skip
    # East is to the left in the survey's images, to the right of GalSim's x axis: mirror it.
    np.testing.assert_allclose(image, expected.array[:, ::-1], atol=2e-3 * image.max())


def test_position_angle_goes_from_north_through_east(row):
    row["AXIS_RATIO"], row["DISK_RADIUS"] = 0.3, 3.0
    y, x = np.indices((CUTOUT_SIZE, CUTOUT_SIZE)) - (CUTOUT_SIZE - 1) / 2
    for structured in (False, True):
        row["FEATURED"], row["ROUGHNESS"] = structured, 0.0
        row["ANGLE"] = np.deg2rad(30)
        image = images.render(row, np.random.default_rng(0))[1]
        xx, yy, xy = ((image * m).sum() for m in (x * x, y * y, x * y))
        towards = 0.5 * np.arctan2(2 * -xy, yy - xx)  # from north (y) to east (-x)
        assert np.rad2deg(towards) == pytest.approx(30, abs=3)


def test_noise_has_the_stated_depth(row):
    row["FLUX"][:3] = 0.0
    empty = images.render(row, np.random.default_rng(0))
    psf = _psf(row)
    flux, pixels = [], []
    for k in range(150):
        noise = images.observe(row, empty, np.random.default_rng([4, k]))
        flux.append((noise * psf).sum(axis=(1, 2)) / (psf**2).sum(axis=(1, 2)))
        pixels.append(noise)
    expected = images.point_source_sigma(row["DEPTH"])
    assert 22.5 - 2.5 * np.log10(5 * expected[0]) == pytest.approx(24.7)
    np.testing.assert_allclose(np.std(flux, axis=0), expected, rtol=0.15)
    stack = np.array(pixels)
    np.testing.assert_allclose(
        stack.std(axis=(0, 2, 3)), images.pixel_sigma(row["DEPTH"], row["PSFSIZE"]), rtol=0.01
    )
    neighbours = (stack[..., 1:] * stack[..., :-1]).mean() / (stack**2).mean()
    assert 0.15 < neighbours < 0.25


def _psf(row: np.void) -> np.ndarray:
    """Images of a point source of 1 nanomaggy in the middle."""
    point = row.copy()
    point["DISK_RADIUS"], point["BULGE_FRACTION"], point["FLUX"][:3] = 1e-3, 0.0, 1.0
    return images.render(point, np.random.default_rng(0))


def test_seeing_is_the_stated_one(row):
    psf = _psf(row)
    for band, fwhm in enumerate((1.3, 1.2, 1.1)):
        profile = psf[band, CUTOUT_SIZE // 2]  # a quarter pixel beside the centre, good enough for the width
        above = (profile > profile.max() / 2).sum() * PIXSCALE
        assert above == pytest.approx(fwhm, abs=1.2 * PIXSCALE)
        area = 1 / (psf[band] ** 2).sum()
        assert area == pytest.approx(images._moffat_area(np.array(fwhm / PIXSCALE)), rel=0.02)


def test_pixel_noise_is_that_of_a_real_cutout(survey_data):
    # The real field is 0.3 to 1 mag deeper than the survey's median; its noise correlates the same.
    with fitsio.FITS(survey_data / "legacysurvey" / "cutout_59.1067_-30.4848.fits") as hdus:
        real = np.array([hdus[k].read() for k in (1, 3, 5)])
    spread = 1.4826 * np.median(np.abs(real - np.median(real, axis=(1, 2), keepdims=True)), axis=(1, 2))
    mock = images.pixel_sigma(np.array([24.7, 23.9, 23.0]), np.array([1.3, 1.2, 1.1]))
    assert (mock / spread > 0.7).all()
    assert (mock / spread < 2.2).all()
    step = 1.4826 * np.median(np.abs(np.diff(real, axis=2)), axis=(1, 2))
    correlation = 1 - (step / spread) ** 2 / 2
    kernel = 2 * images.CORRELATION / (1 + 2 * images.CORRELATION**2)
    np.testing.assert_allclose(kernel, correlation, atol=0.06)


def test_neighbours_are_drawn_where_they_are_listed(row):
    field = images.NearbyGalaxies(
        x=np.array([20.3, -40.0]),
        y=np.array([-30.6, 10.25]),
        flux=np.array([[5.0, 5.0, 5.0], [400.0, 300.0, 200.0]]),
        radius=np.array([0.6, 0.0]),
        axis_ratio=np.array([0.7, 1.0]),
        angle=np.array([0.3, 0.0]),
    )
    row["FLUX"][:3] = 1e-9
    image = images.render(row, np.random.default_rng(0), field)
    y, x = np.indices((CUTOUT_SIZE, CUTOUT_SIZE)) - (CUTOUT_SIZE - 1) / 2
    for k in range(2):
        near = np.hypot(x - field.x[k], y - field.y[k]) < 14
        light = np.where(near, image[1], 0)
        assert (light * x).sum() / light.sum() == pytest.approx(field.x[k], abs=0.15)
        assert (light * y).sum() / light.sum() == pytest.approx(field.y[k], abs=0.15)
        assert light.sum() == pytest.approx(field.flux[k, 1], rel=0.06)


def test_companions_off_the_cutout_leave_it_as_it_is(row):
    nobody = images.NearbyGalaxies(
        *(np.zeros((0, 3) if name == "flux" else 0) for name in images.NearbyGalaxies._fields)
    )
    far = CUTOUT_SIZE + 60.0
    there = images.NearbyGalaxies(
        x=np.array([far, 0.0, -far]), y=np.array([0.0, far, far]), flux=np.full((3, 3), 5.0),
        radius=np.zeros(3), axis_ratio=np.ones(3), angle=np.zeros(3),
    )  # fmt: skip
    alone, with_them = (images.render(row, np.random.default_rng(0), field) for field in (nobody, there))
    np.testing.assert_array_equal(alone, with_them)


def test_spirals_show_arms_and_colour_gradients(row):
    row["FEATURED"], row["DISK_RADIUS"], row["ARMS"], row["PITCH"] = True, 6.0, 2, 0.3
    row["ARM_STRENGTH"], row["BULGE_FRACTION"], row["BULGE_RADIUS"], row["GRADIENT"] = 0.9, 0.2, 1.2, 0.15
    image = images.render(row, np.random.default_rng(3))
    turned = image[:, ::-1, ::-1]
    y, x = np.indices((CUTOUT_SIZE, CUTOUT_SIZE)) - (CUTOUT_SIZE - 1) / 2
    ring = (np.hypot(x, y) > 18) & (np.hypot(x, y) < 40)
    assert image[0][ring].std() / image[0][ring].mean() > 0.5, "arms stand out"
    assert np.corrcoef(image[0][ring], turned[0][ring])[0, 1] > 0.3, (
        "two arms look alike when turned by 180 deg"
    )
    inner, outer = np.hypot(x, y) < 4, ring
    colour = [-2.5 * np.log10(image[0][m].sum() / image[2][m].sum()) for m in (inner, outer)]
    assert colour[0] > colour[1] + 0.2, "bulges are redder than disks"
