"""Redshifts from templates: the fit against plain least squares, known redshifts, classes and flags."""

import fitsio
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.data.desi import open_coadd, read_redrock, redrock_path
from astroclip.data.pixels import Spectra
from astroclip.data.sdss import read_spec
from astroclip.errors import AstroclipError, DataError, UsageError
from astroclip.predict import template
from astroclip.schema import TemplateFlag, desi_wave
from astroclip.tables import open_table


def make_spectra(wave, flux, ivar) -> Spectra:
    flux, ivar = np.atleast_2d(flux).astype("f4"), np.atleast_2d(ivar).astype("f4")
    return Spectra(wave, flux, ivar, (ivar <= 0).astype("i4"))


def observed(one: template.TemplateSet, mix, z: float) -> np.ndarray:
    """Return a mix of templates at a redshift, on DESI's grid, of mean 1."""
    high = len(one.redshift) - 1 + round(np.log10(1 + one.redshift[0]) / template.STEP)
    rest = 10 ** ((template.FIRST - high + np.arange(one.vectors.shape[1])) * template.STEP)
    flux = np.interp(desi_wave(), rest * (1 + z), np.asarray(mix) @ one.vectors.numpy())
    return flux / np.abs(flux).mean()


@pytest.fixture(scope="module")
def galaxies() -> template.TemplateSet:
    return template.load_templates()[0]


@pytest.mark.parametrize("z", [0.0, 0.31, 0.9, 1.6])
def test_a_mix_of_templates_is_found_again(galaxies, rng, z):
    flux = observed(galaxies, [1, 0.3, 0.2, 0.1, 0.05, 0.02], z)
    noisy = flux + rng.normal(0, 0.2, flux.shape)
    fit = template.fit_templates(make_spectra(desi_wave(), noisy, np.full(flux.shape, 25.0)))
    assert fit.spectype[0] == "GALAXY"
    assert abs(fit.redshift[0] - z) < 5 * fit.error[0] < 0.005
    assert fit.deltachi2[0] > template.SMALL_GAP
    assert fit.flag[0] & ~TemplateFlag.EDGE_OF_RANGE == 0


def test_the_gain_is_that_of_least_squares(galaxies, rng):
    """Every entry of the normal equations comes from a transform; here they are summed one by one."""
    flux = observed(galaxies, rng.normal(size=6), 0.4) + rng.normal(0, 0.3, 7781)
    ivar = np.where(rng.random(7781) < 0.1, 0, rng.uniform(5, 15, 7781))
    weight, weighted = template.rebin_spectra(make_spectra(desi_wave(), flux, ivar))
    gains = template._gain_mixed(weight, weighted, galaxies)[0].numpy()
    x = np.linspace(-1, 1, template.N_PIXELS)
    low = np.stack([x**0, x, 1.5 * x**2 - 0.5])
    w, b = weight[0].double().numpy(), weighted[0].double().numpy()

    def gain(design):
        return (design @ b) @ np.linalg.lstsq((design * w) @ design.T, design @ b, rcond=None)[0]

    for k in (30, 900, 2200):
        at = int(galaxies.shifts[k])
        shifted = galaxies.vectors[:, at : at + template.N_PIXELS].double().numpy()
        expected = gain(np.vstack([low, shifted])) - gain(low)
        assert gains[k] == pytest.approx(expected, rel=0.02, abs=2)


def test_batches_and_their_order_change_nothing(galaxies, rng):
    flux = np.stack([observed(galaxies, [1, 0.2, 0.1, 0, 0, 0], z) for z in rng.uniform(0.1, 1.2, 11)])
    spectra = make_spectra(desi_wave(), flux + rng.normal(0, 0.3, flux.shape), np.full(flux.shape, 10.0))
    together = template.fit_templates(spectra)
    alone = [template.fit_templates(spectra.take(np.array([i]))) for i in range(11)]
    np.testing.assert_allclose(together.redshift, [one.redshift[0] for one in alone], atol=1e-6)
    assert (together.spectype == "GALAXY").all()


def test_noise_is_nothing_and_no_pixel_is_nan(rng):
    flux, ivar = rng.normal(0, 1, (6, 7781)), np.ones((6, 7781))
    ivar[5] = 0
    fit = template.fit_templates(make_spectra(desi_wave(), flux, ivar))
    assert (fit.flag & (TemplateFlag.NO_SIGNAL | TemplateFlag.SMALL_GAP) > 0).all()
    assert np.isnan(fit.redshift[5])
    assert fit.flag[5] == TemplateFlag.NO_SIGNAL


def test_a_single_line_is_flagged(rng):
    line = np.exp(-0.5 * ((desi_wave() - 5044) / 3) ** 2)
    fit = template.fit_templates(make_spectra(desi_wave(), 20 * line + rng.normal(0, 1, 7781), np.ones(7781)))
    assert fit.flag[0] & TemplateFlag.SINGLE_LINE


def test_no_spectra_at_all():
    fit = template.fit_templates(make_spectra(desi_wave(), np.zeros((0, 7781)), np.zeros((0, 7781))))
    assert [len(column) for column in fit] == [0] * 5


def test_eliminating_is_solving(rng):
    design = rng.normal(size=(5, 40))
    matrix, right = design @ design.T, rng.normal(size=5)
    low = {(i, j): torch.tensor([[matrix[i, j]]]) for i in range(5) for j in range(i + 1)}
    values = [torch.tensor([[value]]) for value in right]
    expected = right @ np.linalg.solve(matrix, right) - right[:2] @ np.linalg.solve(matrix[:2, :2], right[:2])
    assert template._eliminate(low, values, 2).item() == pytest.approx(expected)


class TestRealSpectra:
    """Of DESI, SDSS and BOSS; what they are is known from the surveys' pipelines, or was fitted by hand."""

    @pytest.mark.parametrize(
        ("name", "row", "z"),
        [
            ("coadd-4-80613-thru20210324.fits", 0, 0.368744),
            ("coadd-sv3-dark-26065.fits.gz", 2, 0.83648),
            ("coadd-sv3-dark-26065.fits.gz", 4, 0.98060),
        ],
    )
    def test_desi_galaxies(self, survey_data, name, row, z):
        with open_coadd(survey_data / "desi" / name) as coadd:
            fit = template.fit_templates(coadd.read([row]))
        assert fit.spectype[0] == "GALAXY"
        assert abs(fit.redshift[0] - z) / (1 + z) < 0.001
        assert not fit.flag[0] & (TemplateFlag.NO_SIGNAL | TemplateFlag.SMALL_GAP)

    def test_one_line_alone_is_not_believed(self, survey_data):
        """Redrock takes it for [OIII] at 0.0073, but Halpha is not there: Lyman alpha at 3.15 is likelier."""
        path = survey_data / "desi" / "coadd-special-dark-27247.fits"
        with open_coadd(path) as coadd:
            fit = template.fit_templates(coadd.read([0]))
        assert read_redrock(redrock_path(path))["Z"][0] == pytest.approx(0.00727, abs=1e-4)
        assert fit.flag[0] & TemplateFlag.SINGLE_LINE

    def test_sdss_and_boss(self, survey_data):
        right = {"GALAXY": 0, "QSO": 0, "STAR": 0}
        seen = dict.fromkeys(right, 0)
        for path in sorted([*(survey_data / "sdss").glob("*.fits"), *(survey_data / "boss").glob("*.fits")]):
            one = read_spec(path)
            if one.zwarn:
                continue
            fit = template.fit_templates(make_spectra(one.wave, one.flux, one.ivar))
            near = abs(fit.redshift[0] - one.redshift) / (1 + one.redshift)
            seen[one.spectype] += 1
            right[one.spectype] += fit.spectype[0] == one.spectype and near < (
                0.01 if one.spectype == "QSO" else 0.001
            )
            wrong = fit.spectype[0] != one.spectype or near > 0.01
            assert not wrong or fit.flag[0] & (TemplateFlag.SMALL_GAP | TemplateFlag.NO_SIGNAL)
        assert seen == {"GALAXY": 5, "QSO": 10, "STAR": 1}
        assert right["GALAXY"] == 5
        assert right["QSO"] >= 8
        assert right["STAR"] == 1

    def test_templates_of_a_folder(self, survey_data):
        own = template.load_templates(survey_data / "templates")
        assert {one.spectype for one in own} == {"GALAXY", "QSO", "STAR"}
        with open_coadd(survey_data / "desi" / "coadd-4-80613-thru20210324.fits") as coadd:
            fit = template.fit_templates(coadd.read([0]), own)
        assert fit.redshift[0] == pytest.approx(0.368744, abs=0.001)


def test_a_folder_without_templates_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no templates, expected files such as rrtemplate-galaxy\.fits"):
        template.load_templates(tmp_path)


class TestColumns:
    """`astroclip predict redshift --method template`, from tables and from spectra alone."""

    def run(self, *words):
        result = CliRunner().invoke(
            app, ["predict", "redshift", *map(str, words), "--method", "template"], catch_exceptions=False
        )
        assert result.exit_code == 0
        return result.stdout

    @pytest.fixture
    def catalog(self, galaxies, tmp_path, rng):
        flux = np.stack([observed(galaxies, [1, 0.2, 0.1, 0, 0, 0], z) for z in (0.2, 0.5, 0.8)])
        flux += rng.normal(0, 0.2, flux.shape)
        ivar = np.full(flux.shape, 25.0, "f4")
        ivar[1] = 0
        path = tmp_path / "galaxies.fits"
        fitsio.write(path, [np.arange(3), flux.astype("f4"), ivar], names=["ID", "FLUX", "IVAR"])
        return path

    @pytest.mark.parametrize("suffix", [".fits", ".parquet"])
    def test_a_table_of_spectra(self, catalog, tmp_path, suffix):
        output = tmp_path / f"z{suffix}"
        self.run(catalog, "-o", output)
        with open_table(output) as table:
            found = table.read(["ID", "Z_TEMPLATE", "Z_TEMPLATE_ERR", "Z_TEMPLATE_CLASS", "Z_TEMPLATE_FLAG"])
        np.testing.assert_array_equal(found["ID"], range(3))
        np.testing.assert_allclose(found["Z_TEMPLATE"], [0.2, np.nan, 0.8], atol=0.001)
        assert list(np.ma.filled(found["Z_TEMPLATE_CLASS"], "")) == ["GALAXY", "NONE", "GALAXY"]
        assert found["Z_TEMPLATE_FLAG"][1] & TemplateFlag.NO_SIGNAL

    def test_it_replaces_its_own_columns_only_when_told(self, catalog, tmp_path):
        self.run(catalog, "-o", tmp_path / "z.fits")
        with pytest.raises(UsageError, match="has a column 'Z_TEMPLATE' already"):
            self.run(tmp_path / "z.fits", "-o", tmp_path / "again.fits")
        before = fitsio.read(tmp_path / "z.fits")
        self.run(tmp_path / "z.fits", "-o", tmp_path / "z.fits", "--overwrite")
        after = fitsio.read(tmp_path / "z.fits")
        for name in before.dtype.names:
            np.testing.assert_array_equal(after[name], before[name])

    def test_real_spectra_are_a_catalogue(self, survey_data, tmp_path):
        said = self.run(survey_data / "desi" / "coadd-sv3-dark-26065.fits.gz", "-o", tmp_path / "z.fits")
        table = fitsio.read(tmp_path / "z.fits")
        assert len(table) == 5
        assert "GALAXY 2, NONE 3" in said
        assert np.isnan(table["Z_TEMPLATE"]).sum() == 3

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--reference", "x.fits", "-k", 3], "has no use for --reference, --neighbours"),
            (["--from", "image"], "leave out --images and --from image"),
            (["--templates", "nowhere"], "nowhere: no templates"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, catalog, tmp_path, words, said):
        with pytest.raises(AstroclipError, match=said):
            self.run(catalog, "-o", tmp_path / "z.fits", *words)
        assert not (tmp_path / "z.fits").exists()

    def test_a_table_without_spectra(self, tmp_path):
        fitsio.write(tmp_path / "ids.fits", [np.arange(3)], names=["ID"])
        with pytest.raises(UsageError, match="no spectra to fit templates to"):
            self.run(tmp_path / "ids.fits")
