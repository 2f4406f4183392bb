"""Legacy Survey images: real cut-outs, every layout, what is missing and what is refused."""

import gzip

import numpy as np
import pytest
from astropy.io import fits
from builders import (
    make_image,
    truncate,
    write_band_hdus,
    write_brick,
    write_cube,
)

from astroclip.data import legacysurvey as ls
from astroclip.errors import DataError

DR9 = "cutout_59.1067_-30.4848.fits"
DR5 = "dr5-nsa-cutout-162.fits"


def test_real_dr9_cutout(survey_data):
    path = survey_data / "legacysurvey" / DR9
    cutout = ls.read_cutout(path)
    with fits.open(path) as hdus:
        np.testing.assert_array_equal(cutout.image, [hdus[k].data for k in (1, 3, 5)])
        np.testing.assert_array_equal(cutout.invvar, [hdus[k].data for k in (2, 4, 6)])
    assert cutout.image.dtype == np.float32
    assert cutout.pixscale == pytest.approx(0.262, rel=1e-9)
    assert (cutout.ra, cutout.dec) == pytest.approx((59.1067, -30.4848), abs=1e-4)


def test_real_dr5_cutout(survey_data):
    path = survey_data / "legacysurvey" / DR5
    cutout = ls.read_cutout(path)
    np.testing.assert_array_equal(cutout.image, fits.getdata(path))
    assert cutout.invvar is None
    assert (cutout.ra, cutout.dec) == pytest.approx((0.00436690011903631, 0.541320833484327), abs=1e-12)


@pytest.mark.parametrize("bands", ["grz", "griz", "zrg", "ugrizY"])
def test_cubes_of_any_bands(tmp_path, bands):
    pixels = write_cube(tmp_path / "c.fits", bands=bands)
    cutout = ls.read_cutout(tmp_path / "c.fits")
    np.testing.assert_array_equal(cutout.image, pixels[[bands.index(b) for b in "grz"]])
    write_cube(tmp_path / "c.fits", bands=bands, cards={"BANDS": ",".join(bands)})
    np.testing.assert_array_equal(ls.read_cutout(tmp_path / "c.fits").image, cutout.image)


def test_cube_without_a_bands_card_is_grz(tmp_path):
    pixels = write_cube(tmp_path / "c.fits", bands_card=False)
    np.testing.assert_array_equal(ls.read_cutout(tmp_path / "c.fits").image, pixels)
    write_cube(tmp_path / "c.fits", bands="griz", bands_card=False)
    with pytest.raises(DataError, match="4 planes"):
        ls.read_cutout(tmp_path / "c.fits")
    write_cube(
        tmp_path / "c.fits",
        bands="griz",
        bands_card=False,
        cards={f"BAND{i}": b for i, b in enumerate("griz")},
    )
    assert ls.read_cutout(tmp_path / "c.fits").image.shape == (3, 152, 152)


def test_invvar_of_the_web_service(tmp_path):
    invvar = np.random.default_rng(1).uniform(1, 2, (4, 40, 50)).astype("f4")
    invvar[0, 3, 4] = 0
    invvar[3, 5, 6] = np.nan
    pixels = write_cube(tmp_path / "c.fits", bands="griz", shape=(40, 50), invvar=invvar)
    cutout = ls.read_cutout(tmp_path / "c.fits")
    missing = np.zeros((3, 40, 50), bool)
    missing[0, 3, 4] = missing[2, 5, 6] = True
    np.testing.assert_array_equal(np.isnan(cutout.image), missing)
    np.testing.assert_array_equal(cutout.image[~missing], pixels[[0, 1, 3]][~missing])
    np.testing.assert_array_equal(cutout.invvar[~missing], invvar[[0, 1, 3]][~missing])
    assert not cutout.invvar[missing].any()


@pytest.mark.parametrize("by", ["BAND", "FILTER", "EXTNAME"])
@pytest.mark.parametrize("with_invvar", [False, True])
def test_one_hdu_a_band(tmp_path, by, with_invvar):
    invvar = np.random.default_rng(1).uniform(1, 2, (4, 64, 64)).astype("f4") if with_invvar else None
    pixels = write_band_hdus(tmp_path / "c.fits", bands="zirg", invvar=invvar, by=by)
    cutout = ls.read_cutout(tmp_path / "c.fits")
    np.testing.assert_array_equal(cutout.image, pixels[[3, 2, 0]])
    if with_invvar:
        np.testing.assert_array_equal(cutout.invvar, invvar[[3, 2, 0]])
    else:
        assert cutout.invvar is None


@pytest.mark.parametrize("with_invvar", [False, True])
def test_brick_of_one_file_a_band(tmp_path, with_invvar):
    invvar = np.ones((3, 300, 300), "f4") if with_invvar else None
    if invvar is not None:
        invvar[1, 10, 20] = 0
    pixels = write_brick(tmp_path, invvar=invvar)
    (tmp_path / "legacysurvey-0591m305-maskbits.fits.fz").write_bytes(b"junk")
    path = tmp_path / "legacysurvey-0591m305-image-g.fits.fz"
    cutout = ls.read_cutout(path)
    missing = np.zeros(pixels.shape, bool)
    missing[1, 10, 20] = with_invvar
    np.testing.assert_array_equal(cutout.image, np.where(missing, np.nan, pixels))
    assert (cutout.invvar is not None) == with_invvar
    images = ls.open_images(tmp_path)
    assert path in images.files
    assert len(images) == 2
    stamp = images.read([images.files.index(path)], [10.0], [-5.0], 50).flux[0]
    np.testing.assert_array_equal(stamp, cutout.image[:, 125:175, 125:175])
    (tmp_path / "legacysurvey-0591m305-image-z.fits.fz").unlink()
    with pytest.raises(DataError, match=r"no image in the band z \(found g, r\)"):
        ls.read_cutout(path)


def test_compressed_files(tmp_path):
    pixels = write_cube(tmp_path / "c.fits")
    (tmp_path / "c.fits.gz").write_bytes(gzip.compress((tmp_path / "c.fits").read_bytes()))
    with fits.open(tmp_path / "c.fits") as hdus:
        packed = fits.CompImageHDU(hdus[0].data, hdus[0].header, compression_type="GZIP_1", quantize_level=0)
        fits.HDUList([fits.PrimaryHDU(), packed]).writeto(tmp_path / "c.fits.fz")
    for name in ("c.fits", "c.fits.gz", "c.fits.fz"):
        cutout = ls.read_cutout(tmp_path / name)
        np.testing.assert_array_equal(cutout.image, pixels)
        assert cutout.ra == pytest.approx(10)


def test_scaled_integers_and_doubles(tmp_path):
    pixels = make_image(3, (30, 30))
    write_cube(tmp_path / "c.fits", image=pixels.astype("f8"))
    np.testing.assert_array_equal(ls.read_cutout(tmp_path / "c.fits").image, pixels)
    hdu = fits.PrimaryHDU(pixels.copy())
    hdu.scale("int16", bscale=1e-3, bzero=0.5)
    hdu.writeto(tmp_path / "s.fits")
    np.testing.assert_allclose(ls.read_cutout(tmp_path / "s.fits").image, pixels, atol=1e-3)


def test_sky_that_was_not_observed(tmp_path):
    """Without inverse variance the service's zeros mark missing pixels; a zero in one band does not."""
    pixels = make_image(3, (30, 30))
    pixels[:, :5] = 0
    pixels[1, 20, 20] = 0
    write_cube(tmp_path / "c.fits", image=pixels)
    image = ls.read_cutout(tmp_path / "c.fits").image
    assert np.isnan(image[:, :5]).all()
    np.testing.assert_array_equal(image[:, 5:], pixels[:, 5:])


def test_other_planes_are_ignored(tmp_path):
    pixels = write_cube(tmp_path / "c.fits", shape=(30, 30))
    with fits.open(tmp_path / "c.fits", mode="append") as hdus:
        hdus.append(fits.ImageHDU(np.ones((30, 30), "i4"), fits.Header({"IMAGETYP": "maskbits"})))
        hdus.append(fits.ImageHDU(np.ones((9, 9), "f4"), name="PSF_G"))
    np.testing.assert_array_equal(ls.read_cutout(tmp_path / "c.fits").image, pixels)


@pytest.mark.parametrize("unit", ["", "nanomaggy", "nanomaggies", "NMGY"])
def test_accepted_units(tmp_path, unit):
    write_cube(tmp_path / "c.fits", cards={"BUNIT": unit})
    assert np.isfinite(ls.read_cutout(tmp_path / "c.fits").image).all()


@pytest.mark.parametrize("unit", ["counts", "adu", "erg/s/cm2/Hz", "nanomaggy/arcsec2", "Jy"])
def test_refused_units(tmp_path, unit):
    write_cube(tmp_path / "c.fits", cards={"BUNIT": unit})
    with pytest.raises(DataError, match="expected nanomaggy") as error:
        ls.read_cutout(tmp_path / "c.fits")
    assert "c.fits" in str(error.value)


@pytest.mark.parametrize(("bands", "found"), [("gri", "g, r, i"), ("gr", "g, r"), ("i", "i")])
def test_missing_band_is_named(tmp_path, bands, found):
    for write in (write_cube, write_band_hdus):
        write(tmp_path / "c.fits", bands=bands)
        with pytest.raises(DataError, match=rf"no image in the band .*\(found {found}\)"):
            ls.read_cutout(tmp_path / "c.fits")


def test_malformed_images(tmp_path, survey_data):
    path = tmp_path / "c.fits"
    fits.PrimaryHDU().writeto(path)
    with pytest.raises(DataError, match="found none"):
        ls.read_cutout(path)
    with pytest.raises(DataError, match="found none"):
        ls.read_cutout(survey_data / "legacysurvey" / "sweep-310m005-320p000.fits")
    write_cube(path, cards={"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"})
    with pytest.raises(DataError, match="expected right ascension"):
        ls.read_cutout(path)
    write_cube(path, cards={"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"})
    assert ls.read_cutout(path).wcs is None
    for cards in ({"CD1_1": 0.0, "CD1_2": 0.0}, {"CTYPE1": "RA---TAN", "CTYPE2": "NONSENSE"}):
        write_cube(path, cards=cards)
        with pytest.raises(DataError, match="unusable WCS"):
            ls.read_cutout(path)
    write_band_hdus(path)
    with fits.open(path, mode="update") as hdus:
        hdus[3].data = np.zeros((10, 10), "f4")
    with pytest.raises(DataError, match="different shapes"):
        ls.read_cutout(path)
    with pytest.raises(DataError, match="no such file"):
        ls.read_cutout(tmp_path / "none.fits")


@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.5, 0.9])
def test_truncated_images(tmp_path, fraction):
    for write in (write_cube, write_band_hdus):
        write(tmp_path / "c.fits")
        truncate(tmp_path / "c.fits", fraction)
        with pytest.raises(DataError, match=r"c\.fits"):
            ls.read_cutout(tmp_path / "c.fits")
