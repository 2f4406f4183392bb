"""SDSS spectra: the real files, every variant of the format, and the index of a folder."""

import gzip

import numpy as np
import pytest
from astropy.io import fits
from builders import truncate, write_coadd, write_spec
from builders_who import who

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


def test_index_of_a_folder(tmp_path):
    write_spec(tmp_path / "0266" / "spec-0266-51602-0007.fits", ra=359.99999, dec=0.0)
    write_spec(tmp_path / "spec-named.fits", plate=5, mjd=6, fiber=7, ra=120, dec=89.9999)
    (tmp_path / "spec-0001-50000-0002.fits").write_bytes(b"junk")
    packed = tmp_path / "spec-0266-51602-0007.fits.gz"
    packed.write_bytes(gzip.compress((tmp_path / "0266" / "spec-0266-51602-0007.fits").read_bytes()))
    specs = sdss.open_specs(tmp_path)
    names = [path.name for path in specs.files]
    assert [path.name for path, _ in specs.problems] == ["spec-0001-50000-0002.fits"]
    assert specs.found_by == ("PLATE, MJD, FIBERID", "position")
    match = specs.match(who(PLATE=[266, 5, 1, 9, -1], MJD=[51602, 6, 50000, 9, -1], FIBERID=[7, 7, 2, 9, -1]))
    assert [names[i] if i >= 0 else "" for i in match.row] == [
        "spec-0266-51602-0007.fits", "spec-named.fits", "spec-0001-50000-0002.fits", "", ""
    ]  # fmt: skip
    assert list(match.ambiguous) == [True, False, False, False, False]
    match = specs.match(who([0.00001, 300, 50, np.nan], [0.0, 89.9999, 50, 0]), 0.8)
    assert names[match.row[0]].startswith("spec-0266")
    assert list(match.row[1:]) == [names.index("spec-named.fits"), -1, -1]
    assert list(match.ambiguous) == [True, False, False, False]
    with pytest.raises(DataError, match="spec-0001-50000-0002"):
        specs.read([names.index("spec-0001-50000-0002.fits")])


def test_sdss_v_names(tmp_path):
    """FIELD of six digits and CATALOGID of up to 17, in the name and in SPALL."""
    long, short = 27021598109009995, 4544940698
    write_spec(tmp_path / f"spec-102236-60000-{long}.fits", omit=["SPECOBJ"])
    write_spec(tmp_path / f"spec-015143-59205-{short}.fits", omit=["SPECOBJ"])
    write_spec(tmp_path / f"spec-allepoch-60010-{long}.fits", omit=["SPECOBJ"])
    write_spec(tmp_path / "spec-named.fits", specobj="SPALL", facts={"FIELD": 7, "CATALOGID": long + 1})
    specs = sdss.open_specs(tmp_path)
    names = [path.name for path in specs.files]
    assert "CATALOGID" in specs.found_by

    def found(**ids):
        match = specs.match(who(**ids))
        return [names[i] if i >= 0 else "" for i in match.row], match.ambiguous.tolist()

    assert found(CATALOGID=[short, long + 1, long + 2]) == (
        ["spec-015143-59205-4544940698.fits", "spec-named.fits", ""],
        [False] * 3,
    )
    assert found(CATALOGID=[long])[1] == [True]
    by_field = found(CATALOGID=[long] * 3, FIELD=[102236, -1, 3], MJD=[60000, 60010, 60000])
    assert by_field == (
        [f"spec-102236-60000-{long}.fits", f"spec-allepoch-60010-{long}.fits", ""],
        [False] * 3,
    )
    assert sdss.read_spec(tmp_path / "spec-named.fits").catalogid == long + 1


def test_spectra_of_unequal_length_are_read_together(tmp_path, survey_data):
    paths = sorted((survey_data / "sdss").glob("spec-*.fits"))
    lengths = [len(sdss.read_spec(path).wave) for path in paths]
    assert len(set(lengths)) > 1
    specs = sdss.open_specs(survey_data / "sdss")
    spectra = specs.read([1, 0, 1])
    assert spectra.wave.shape == spectra.flux.shape == (3, max(lengths))
    for i, row in enumerate((1, 0, 1)):
        one = sdss.read_spec(paths[row])
        for part in ("wave", "flux", "ivar", "mask"):
            np.testing.assert_array_equal(getattr(spectra, part)[i, : lengths[row]], getattr(one, part))
        assert np.isnan(spectra.wave[i, lengths[row] :]).all()
        assert not spectra.good[i, lengths[row] :].any()


def test_files_of_other_names(tmp_path):
    write_spec(tmp_path / "a.fits", plate=5, mjd=6, fiber=7)
    write_coadd(tmp_path / "c.fits")
    assert [path.name for path in sdss.open_specs(tmp_path).files] == ["a.fits"]


def test_index_edge_cases(tmp_path, survey_data):
    nothing = sdss.open_specs(tmp_path)
    assert nothing.match(who([1.0], [2.0], PLATE=[1], MJD=[2], FIBERID=[3])).row.tolist() == [-1]
    with pytest.raises(DataError, match="no such"):
        sdss.open_specs(tmp_path / "nowhere")
    specs = sdss.open_specs(survey_data / "sdss" / "NGC3522_SDSS_DR18.fits")
    assert specs.who.ids["PLATE"].tolist() == [2488]
    junk = tmp_path / "spec-0001-50000-0002.fits"
    junk.write_bytes(b"junk")
    with pytest.raises(DataError, match="spec-0001-50000-0002"):  # a file that is named
        sdss.open_specs(junk)
