"""SDSS spectra: the real files, every variant of the format, and the index of a folder."""

import gzip

import numpy as np
import pytest
from astropy.io import fits
from builders import truncate, write_coadd, write_spec

from astroclip.data import sdss
from astroclip.errors import DataError

REAL = {  # plate, mjd, fiber, redshift; bad pixels
    "NGC3522_SDSS_DR18.fits": ((2488, 54149, 1, 0.00401801), 0),
    "spec-0295-51585-0596.fits": ((295, 51585, 596, 0.13787721), 74),
    "spec-2580-54092-0470.fits": ((2580, 54092, 470, 0.10060184), 48),
}


@pytest.mark.parametrize("name", REAL)
def test_real_spectrum(survey_data, name):
    path = survey_data / "sdss" / name
    spectrum = sdss.read_spec(path)
    (plate, mjd, fiber, redshift), n_bad = REAL[name]
    assert (spectrum.plate, spectrum.mjd, spectrum.fiber) == (plate, mjd, fiber)
    assert spectrum.redshift == pytest.approx(redshift, abs=1e-7)
    assert (spectrum.zwarn, spectrum.spectype) == (0, "GALAXY")
    with fits.open(path) as hdus:
        table = hdus["COADD"].data
        np.testing.assert_allclose(spectrum.wave, 10 ** table["loglam"].astype(float), rtol=1e-12)
        good = spectrum.ivar > 0
        np.testing.assert_array_equal(spectrum.flux[good], table["flux"][good])
        np.testing.assert_array_equal(spectrum.ivar[good], table["ivar"][good])
    assert (~good).sum() == n_bad
    np.testing.assert_array_equal(good, spectrum.mask == 0)
    assert not spectrum.flux[~good].any()
    assert 3700 < spectrum.wave[0] < spectrum.wave[-1] < 9300
    assert spectrum.wave.dtype == np.float64
    assert spectrum.flux.dtype == spectrum.ivar.dtype == np.float32


def test_bad_pixels(tmp_path):
    columns = {"flux": np.ones(3800, "f4"), "ivar": np.ones(3800, "f4"), "and_mask": np.zeros(3800, "i4")}
    columns["flux"][0] = np.nan
    columns["ivar"][1:4] = 0, -1, np.nan
    columns["and_mask"][5:8] = sdss.BRIGHTSKY, sdss.FULLREJECT | 1 << 16, 1 << 16  # NEARBADPIXEL only warns
    write_spec(tmp_path / "s.fits", columns=columns)
    spectrum = sdss.read_spec(tmp_path / "s.fits")
    np.testing.assert_array_equal(np.flatnonzero(spectrum.ivar == 0), [0, 1, 2, 3, 5, 6])
    assert list(spectrum.mask[:8]) == [sdss.NODATA] * 4 + [0, sdss.BRIGHTSKY, sdss.FULLREJECT, 0]
    assert not spectrum.flux[spectrum.ivar == 0].any()
    assert np.isfinite(spectrum.ivar).all()


def test_variants(tmp_path):
    columns = {"flux": np.full(3800, 2.0, "f8"), "loglam": 3.58 + 1e-4 * np.arange(3800)}
    path = tmp_path / "s.fits"
    write_spec(path, columns=columns, omit=["and_mask"], specobj="SPALL", unit="")
    spectrum = sdss.read_spec(path)
    assert spectrum.plate == 266
    assert (spectrum.ivar > 0).all()
    np.testing.assert_allclose(np.diff(np.log10(spectrum.wave)), 1e-4, rtol=1e-6)
    write_spec(path, omit=["SPECOBJ"])
    spectrum = sdss.read_spec(path)
    assert (spectrum.plate, spectrum.zwarn, spectrum.spectype) == (-1, -1, "")
    assert np.isnan([spectrum.ra, spectrum.dec, spectrum.redshift, spectrum.redshift_err]).all()


NANOMETRES = np.log10(np.linspace(3800, 9000, 3800) / 1000)
BROKEN = {
    "no coadd": ({"omit": ["COADD"]}, "no HDU 'COADD'"),
    "no flux": ({"omit": ["flux"]}, "no column FLUX"),
    "no ivar": ({"omit": ["ivar"]}, "no column IVAR"),
    "unit": ({"unit": "erg/s/cm^2/Ang"}, "expected 1e-17 erg"),
    "linear wavelength": ({"columns": {"loglam": np.linspace(3800, 9000, 3800)}}, "LOGLAM"),
    "micron": ({"columns": {"loglam": NANOMETRES}}, "LOGLAM"),
    "falling": ({"columns": {"loglam": np.linspace(3.96, 3.58, 3800)}}, "LOGLAM"),
    "nan": ({"columns": {"loglam": np.full(3800, np.nan)}}, "LOGLAM"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_malformed_spectrum(tmp_path, case):
    kwargs, message = BROKEN[case]
    write_spec(tmp_path / "spec-x.fits", **kwargs)
    with pytest.raises(DataError, match=message) as error:
        sdss.read_spec(tmp_path / "spec-x.fits")
    assert "spec-x.fits" in str(error.value)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_truncated_spectrum(tmp_path, fraction):
    write_spec(tmp_path / "spec-x.fits")
    truncate(tmp_path / "spec-x.fits", fraction)
    with pytest.raises(DataError, match=r"spec-x\.fits"):
        sdss.read_spec(tmp_path / "spec-x.fits")


def test_unit_of_the_column_comes_first(tmp_path):
    path = tmp_path / "s.fits"
    write_spec(path, unit="")
    with fits.open(path, mode="update") as hdus:
        hdus["COADD"].header["TUNIT1"] = "nanomaggies"
    with pytest.raises(DataError, match="flux in 'nanomaggies'"):
        sdss.read_spec(path)


def test_is_spec(tmp_path, survey_data):
    write_spec(tmp_path / "s.fits")
    write_coadd(tmp_path / "c.fits")
    assert sdss.is_spec(tmp_path / "s.fits")
    assert all(sdss.is_spec(path) for path in (survey_data / "sdss").glob("*.fits"))
    assert not sdss.is_spec(tmp_path / "c.fits")
    assert not sdss.is_spec(tmp_path / "none.fits")


def test_spec_path(tmp_path):
    flat, deep = tmp_path / "spec-0266-51602-0007.fits", tmp_path / "0266" / "spec-0266-51602-0008.fits"
    big = tmp_path / "10000" / "spec-10000-57346-0001.fits.gz"
    for path in (flat, deep, big):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert sdss.spec_path(tmp_path, 266, 51602, 7) == flat
    assert sdss.spec_path(tmp_path, 266, 51602, 8) == deep
    assert sdss.spec_path(tmp_path, 10000, 57346, 1) == big
    assert sdss.spec_path(tmp_path, 266, 51602, 9) is None


def test_index_of_a_folder(tmp_path):
    write_spec(tmp_path / "0266" / "spec-0266-51602-0007.fits", ra=359.99999, dec=0.0)
    write_spec(tmp_path / "spec-named.fits", plate=5, mjd=6, fiber=7, ra=120, dec=89.9999)
    (tmp_path / "spec-0001-50000-0002.fits").write_bytes(b"junk")
    packed = tmp_path / "spec-0266-51602-0007.fits.gz"
    packed.write_bytes(gzip.compress((tmp_path / "0266" / "spec-0266-51602-0007.fits").read_bytes()))
    index = sdss.find_specs(tmp_path)
    names = [path.name for path in index.files]
    assert [path.name for path, _ in index.unreadable] == ["spec-0001-50000-0002.fits"]
    file, several = index.lookup([266, 5, 1, 9, -1], [51602, 6, 50000, 9, -1], [7, 7, 2, 9, -1])
    assert [names[i] if i >= 0 else "" for i in file] == [
        "spec-0266-51602-0007.fits", "spec-named.fits", "spec-0001-50000-0002.fits", "", ""
    ]  # fmt: skip
    assert list(several) == [True, False, False, False, False]
    file, several = index.lookup_position(
        [0.00001, 300, 50, np.nan], [0.0, 89.9999, 50, 0], radius_arcsec=0.8
    )
    assert names[file[0]].startswith("spec-0266")
    assert list(file[1:]) == [names.index("spec-named.fits"), -1, -1]
    assert list(several) == [True, False, False, False]


def test_index_edge_cases(tmp_path, survey_data):
    assert sdss.find_specs(tmp_path).lookup([1], [2], [3])[0] == [-1]
    assert sdss.find_specs(tmp_path).lookup_position([1.0], [2.0])[0] == [-1]
    with pytest.raises(DataError, match="no such"):
        sdss.find_specs(tmp_path / "nowhere")
    index = sdss.find_specs(survey_data / "sdss" / "NGC3522_SDSS_DR18.fits")
    assert list(index.plate) == [2488]
