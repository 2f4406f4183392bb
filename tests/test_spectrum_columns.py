"""Spectra in a table's columns: every name and unit of wavelengths, noise and masks, rows of any length."""

import numpy as np
import pytest
from astropy.io import fits

from astroclip.data.pixel_sets import open_pixels
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, desi_wave
from astroclip.tables import open_table

S = 400
WAVE = np.linspace(4000, 9000, S)


@pytest.fixture(autouse=True, scope="module")
def flux():
    return np.random.default_rng(5).normal(3, 1, (3, S)).astype("f4")


def write(path, columns, units=None):
    """Write a FITS table; a list is a column of vectors of unequal length."""
    made = []
    for name, given in columns.items():
        unit = (units or {}).get(name)
        if isinstance(given, list):
            rows = np.empty(len(given), object)
            rows[:] = [np.asarray(v) for v in given]
            form = {"f": "PD()", "i": "PJ()"}[rows[0].dtype.kind]
            made.append(fits.Column(name, form, unit, array=rows))
            continue
        values = np.asarray(given)
        code = {"f4": "E", "f8": "D", "i4": "J", "i8": "K", "b1": "L", "i2": "I"}[values.dtype.str[1:]]
        form = f"{values.shape[1] if values.ndim > 1 else ''}{code}"
        made.append(fits.Column(name, form, unit, array=values))
    fits.BinTableHDU.from_columns(made).writeto(path, overwrite=True)
    return path


def read(path, wanted=None, rows=(0, 1, 2)):
    with open_table(path) as table:
        spectra = open_pixels(wanted, table, "spectrum")
        return spectra.read(np.array(rows))


LINEAR = ["WAVE", "wavelength", "LAMBDA", "Lam", "Wavelengths", "WAVE_VAC", "spectral_axis", "flux_wave"]
LINEAR += ["vacuum_wavelength", "lambda_obs", "wave_angstrom", "OBS_WAVE_AA"]
LOG = ["loglam", "LOG_WAVE", "LogLambda", "log10_wavelength", "LOGWAVE"]
UNITS = {"Angstrom": 1, "": 1, "AA": 1, "nm": 10, "um": 1e4, "micron": 1e4, "Micrometer": 1e4, "m": 1e10}


@pytest.mark.parametrize("name", LINEAR)
def test_names_of_wavelengths(tmp_path, flux, name):
    path = write(tmp_path / "t.fits", {"FLUX": flux, name: np.tile(WAVE, (3, 1))}, {name: "Angstrom"})
    spectra = read(path)
    np.testing.assert_allclose(spectra.wave, WAVE)
    np.testing.assert_array_equal(spectra.flux, flux)
    assert (spectra.ivar == 1).all()


@pytest.mark.parametrize("name", LOG)
@pytest.mark.parametrize("unit", ["", "log10(Angstrom)", "dex(Angstrom)", "Angstrom"])
def test_names_of_log_wavelengths(tmp_path, flux, name, unit):
    path = write(tmp_path / "t.fits", {"FLUX": flux, name: np.tile(np.log10(WAVE), (3, 1))}, {name: unit})
    np.testing.assert_allclose(read(path).wave, WAVE)


@pytest.mark.parametrize("unit", UNITS)
def test_units_of_wavelengths(tmp_path, flux, unit):
    own = np.stack([WAVE, WAVE * 1.01, WAVE * 1.02])
    path = write(tmp_path / "t.fits", {"flux": flux, "wavelength": own / UNITS[unit]}, {"wavelength": unit})
    np.testing.assert_allclose(read(path).wave, own)
    logs = np.log10(own / UNITS[unit])
    path = write(tmp_path / "t.fits", {"flux": flux, "wave": logs}, {"wave": f"log10({unit})"})
    np.testing.assert_allclose(read(path).wave, own)


def test_units_in_names(tmp_path, flux):
    for name, factor in (("wavelength_nm", 10), ("lambda_um", 1e4), ("WAVE_MICRON", 1e4)):
        path = write(tmp_path / "t.fits", {"FLUX": flux, name: np.tile(WAVE / factor, (3, 1))})
        np.testing.assert_allclose(read(path).wave, WAVE)


NOISE = {
    "IVAR": lambda sigma: sigma**-2,
    "flux_ivar": lambda sigma: sigma**-2,
    "inverse_variance": lambda sigma: sigma**-2,
    "INVVAR": lambda sigma: sigma**-2,
    "err": lambda sigma: sigma,
    "FLUX_ERR": lambda sigma: sigma,
    "error": lambda sigma: sigma,
    "SIGMA": lambda sigma: sigma,
    "uncertainty": lambda sigma: sigma,
    "noise": lambda sigma: sigma,
    "e_flux": lambda sigma: sigma,
    "VARIANCE": lambda sigma: sigma**2,
    "flux_var": lambda sigma: sigma**2,
}


@pytest.mark.parametrize("name", NOISE)
def test_names_of_noise(tmp_path, flux, name):
    sigma = np.linspace(0.5, 2, 3 * S).reshape(3, S)
    noise = NOISE[name](sigma).copy()
    noise[0, 3:6] = 0, -1, np.nan
    path = write(tmp_path / "t.fits", {"FLUX": flux, "WAVE": np.tile(WAVE, (3, 1)), name: noise})
    spectra = read(path)
    expected = sigma**-2
    expected[0, 3:6] = 0
    np.testing.assert_allclose(spectra.ivar, expected, rtol=1e-6)
    np.testing.assert_array_equal(spectra.mask == 0, expected > 0)
    np.testing.assert_array_equal(spectra.flux, np.where(expected > 0, flux, 0))


@pytest.mark.parametrize("values", [np.int32(4), np.int16(-1), np.int64(1 << 40), np.True_])
@pytest.mark.parametrize("name", ["MASK", "mask_flux", "bad"])
def test_masks_of_any_type(tmp_path, flux, values, name):
    mask = np.zeros((3, S), values.dtype)
    mask[1, 7:9] = values
    path = write(tmp_path / "t.fits", {"FLUX": flux, "WAVE": np.tile(WAVE, (3, 1)), name: mask})
    np.testing.assert_array_equal(read(path).good, mask == 0)


def test_sdss_masks_warn_mostly(tmp_path, flux):
    mask = np.zeros((3, S), "i4")
    mask[0, :2] = 1 << 16, 1 << 23  # NEARBADPIXEL, BRIGHTSKY
    path = write(
        tmp_path / "t.fits", {"FLUX": flux, "LOGLAM": np.tile(np.log10(WAVE), (3, 1)), "AND_MASK": mask}
    )
    assert np.flatnonzero(~read(path).good).tolist() == [1]


def test_columns_that_are_named_like_the_flux_come_first(tmp_path, flux):
    columns = {
        "FLUX": flux,
        "WAVE": np.tile(WAVE, (3, 1)),
        "IVAR": np.full((3, S), 2.0),
        "spectrum_flux": flux + 1,
        "spectrum_lambda": np.tile(WAVE + 5, (3, 1)),
        "spectrum_ivar": np.full((3, S), 3.0),
    }
    path = write(tmp_path / "t.fits", columns)
    assert (read(path).ivar == 2).all()
    other = read(path, "spectrum_flux")
    np.testing.assert_allclose(other.wave, WAVE + 5)
    assert (other.ivar == 3).all()
    np.testing.assert_array_equal(other.flux, flux + 1)


def test_scalars_are_no_part_of_a_spectrum(tmp_path, flux):
    columns = {"FLUX": flux, "WAVE": np.tile(WAVE, (3, 1)), "SIGMA": [1.0] * 3, "MASK": [1] * 3}
    columns |= {name: np.array(columns[name]) for name in ("SIGMA", "MASK")}
    assert read(write(tmp_path / "t.fits", columns)).good.all()


def test_rows_of_unequal_length(tmp_path, flux):
    lengths = [S, 350, 0]
    rows = {"FLUX": list(flux), "WAVELENGTH": list(np.tile(WAVE, (3, 1))), "IVAR": list(np.ones((3, S)))}
    rows = {name: [row[:n] for row, n in zip(values, lengths, strict=True)] for name, values in rows.items()}
    spectra = read(write(tmp_path / "t.fits", rows), rows=[2, 1, 0, 1])
    assert spectra.flux.shape == spectra.wave.shape == (4, S)
    for i, n in enumerate([0, 350, S, 350]):
        np.testing.assert_allclose(spectra.wave[i, :n], WAVE[:n])
        assert np.isnan(spectra.wave[i, n:]).all()
        assert spectra.good[i].sum() == n
    np.testing.assert_array_equal(spectra.flux[1, :350], flux[1, :350])


def test_rows_of_unequal_length_on_the_desi_grid(tmp_path):
    flux = np.random.default_rng(1).normal(size=(3, N_WAVE))
    path = write(tmp_path / "t.fits", {"FLUX": list(flux), "IVAR": list(np.ones((3, N_WAVE)))})
    spectra = read(path)
    np.testing.assert_array_equal(spectra.wave, desi_wave())
    np.testing.assert_array_equal(spectra.flux, flux.astype("f4"))
    path = write(tmp_path / "t.fits", {"FLUX": [flux[0], flux[1, :100], flux[2, :0]]})
    assert read(path, rows=[0, 2]).good.sum(axis=1).tolist() == [N_WAVE, 0]
    with pytest.raises(DataError, match="row 1: 100 pixels and no wavelengths"):
        read(path)
    assert read(path, rows=[2]).good.sum() == 0


def test_padding_that_is_no_wavelength(tmp_path, flux):
    """Zeros, -1 or NaN behind the end of a shorter spectrum."""
    wave = np.tile(WAVE, (3, 1))
    wave[0, 300:], wave[1, 310:], wave[2, 320:] = 0, -1, np.nan
    spectra = read(write(tmp_path / "t.fits", {"FLUX": flux, "WAVE": wave}))
    assert np.isfinite(spectra.wave).sum(axis=1).tolist() == [300, 310, 320]
    assert spectra.good.sum(axis=1).tolist() == [300, 310, 320]


DESI = np.ones((2, N_WAVE), "f4")
RISING = np.tile(desi_wave(), (2, 1))
REFUSED = {
    "another name": ({"FLUX": DESI, "x": RISING}, {}, "column 'x' could hold the wavelengths of 'FLUX'"),
    "another length": (
        {"FLUX": DESI, "REST_WAVELENGTHS": RISING[:, :50]},
        {},
        "column 'REST_WAVELENGTHS' could",
    ),
    "air": ({"FLUX": DESI, "wave_air": RISING}, {}, "'wave_air' has wavelengths in air, expected vacuum"),
    "AIR": ({"FLUX": DESI, "LAMBDA_AIR": RISING}, {}, "wavelengths in air"),
    "unit": ({"FLUX": DESI, "WAVE": RISING}, {"WAVE": "eV"}, "wavelengths in 'eV', expected Angstrom, nm"),
    "frequency": ({"FLUX": DESI, "WAVE": RISING}, {"WAVE": "log10(Hz)"}, r"in 'log10\(Hz\)'"),
    "short": ({"FLUX": DESI[:, :50]}, {}, "50 pixels and there is no column WAVE"),
    "janskys": ({"FLUX": DESI}, {"FLUX": "Jy"}, "column 'FLUX': flux in 'Jy'"),
    "ivar": ({"FLUX": DESI, "IVAR": DESI[:, :50]}, {}, r"'IVAR' has shape \(50,\)"),
    "wave": ({"FLUX": DESI, "LAM": RISING[:, :50]}, {}, r"'LAM' has shape \(50,\), but 'FLUX' \(7781,\)"),
    "falling": ({"FLUX": DESI, "x": RISING[:, ::-1]}, {}, "column 'x' could hold the wavelengths of 'FLUX'"),
    "descends": ({"FLUX": DESI, "WAVE": RISING[:, ::-1]}, {}, "'WAVE': wavelengths do not ascend"),
    "nm unsaid": ({"FLUX": DESI, "WAVE": RISING / 10}, {}, "'WAVE': wavelengths run from 360.* is it in nm"),
    "log unsaid": ({"FLUX": DESI, "WAVE": np.log10(RISING)}, {}, r"is it in log10"),
    "linear log": ({"FLUX": DESI, "LOGLAM": RISING / 1e4}, {}, "'LOGLAM': wavelengths run from 2"),
    "two grids": (
        {"FLUX": DESI, "WAVE": RISING, "LAMBDA": RISING / 1.1},
        {},
        "'WAVE' and 'LAMBDA' hold other",
    ),
    "lists": ({"FLUX": [np.ones(N_WAVE)] * 2, "g": list(RISING)}, {}, "column 'g' could hold"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_columns_that_are_not_spectra(tmp_path, case):
    columns, units, said = REFUSED[case]
    path = write(tmp_path / "t.fits", columns, units)
    with pytest.raises(DataError, match=said) as error:
        read(path, rows=[0])
    assert "t.fits" in str(error.value)


def test_other_vectors_do_not_matter(tmp_path):
    """A model, a resolution, a histogram: neither named like wavelengths nor rising."""
    rng = np.random.default_rng(2)
    columns = {
        "FLUX": DESI,
        "MODEL": rng.normal(size=DESI.shape),
        "LSF": DESI,
        "COUNTS": np.ones((2, 5), "i4"),
    }
    assert read(write(tmp_path / "t.fits", columns), rows=[0, 1]).good.all()
    columns |= {"WAVE": RISING, "pixel": np.tile(np.arange(N_WAVE), (2, 1)), "rest_wave": RISING}
    np.testing.assert_array_equal(read(write(tmp_path / "t.fits", columns), rows=[0]).wave, desi_wave())


def test_the_same_grid_twice_and_a_bad_row_first(tmp_path, flux):
    """SDSS tables have loglam and wavelength; one row without sense does not refuse the whole table."""
    columns = {"FLUX": flux, "loglam": np.tile(np.log10(WAVE), (3, 1)), "wavelength": np.tile(WAVE, (3, 1))}
    np.testing.assert_allclose(read(write(tmp_path / "t.fits", columns)).wave, WAVE)
    wave = np.tile(WAVE, (3, 1))
    wave[0] = wave[0, ::-1]
    path = write(tmp_path / "t.fits", {"FLUX": flux, "WAVE": wave})
    assert read(path, rows=[1, 2]).good.all()


def test_rows_whose_parts_differ_in_length(tmp_path, flux):
    rows = {"FLUX": list(flux), "WAVE": [WAVE, WAVE[:-1], WAVE], "IVAR": [np.ones(S)] * 3}
    path = write(tmp_path / "t.fits", rows)
    assert read(path, rows=[0, 2]).good.all()
    with pytest.raises(DataError, match="row 1: 400 of 'FLUX', 399 of 'WAVE'"):
        read(path)
