"""Multimodal Universe files: DESI spectra and DR10 images by row, by identity and by position."""

import h5py
import numpy as np
import pytest
from builders import truncate
from builders_hdf5 import write_hdf5, write_multimodal_images, write_multimodal_spectra

from astroclip.data.grid import NODATA
from astroclip.data.multimodal_images import open_multimodal_images
from astroclip.data.multimodal_spectra import open_multimodal_spectra
from astroclip.data.pixels import How
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, desi_wave
from astroclip.tables.identity import Who

ONE, TWO = "desi/edr_sv3/healpix=7/001-of-001.hdf5", "desi/edr_sv3/healpix=9/001-of-001.hdf5"


@pytest.fixture
def spectra_folder(tmp_path):
    parts = [
        write_multimodal_spectra(tmp_path / ONE, np.array([39627866878511337, 5, 6]), seed=1),
        write_multimodal_spectra(tmp_path / TWO, np.array([7, 8]), seed=2),
    ]
    return tmp_path, {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def test_spectra_by_row(spectra_folder):
    path, truth = spectra_folder
    source = open_multimodal_spectra(path)
    assert len(source) == 5
    assert source.first.tolist() == [0, 3, 5]
    assert source.who.ids["OBJECT_ID"].tolist() == ["39627866878511337", "5", "6", "7", "8"]
    wanted = [4, 0, 3, 0]
    spectra = source.read(wanted)
    good = ~truth["spectrum_mask"][wanted]
    np.testing.assert_array_equal(spectra.wave, desi_wave())
    np.testing.assert_array_equal(spectra.flux, np.where(good, truth["spectrum_flux"][wanted], 0))
    np.testing.assert_array_equal(spectra.ivar, np.where(good, truth["spectrum_ivar"][wanted], 0))
    np.testing.assert_array_equal(spectra.mask == 0, good)
    assert source.read([]).flux.shape == (0, N_WAVE)
    with pytest.raises(IndexError):
        source.read([5])


def test_zwarn_is_inverted_where_it_is_a_truth_value(spectra_folder, tmp_path):
    path, truth = spectra_folder
    redshift, good = open_multimodal_spectra(path).read_redshifts([4, 1, 1])
    np.testing.assert_array_equal(redshift, truth["Z"][[4, 1, 1]])
    np.testing.assert_array_equal(good, truth["ZWARN"][[4, 1, 1]])
    bits = tmp_path / "bits.hdf5"
    write_multimodal_spectra(bits, ZWARN=np.array([0, 4, 0]), Z=np.array([0.1, 0.2, np.nan]))
    assert open_multimodal_spectra(bits).read_redshifts([0, 1, 2])[1].tolist() == [True, False, False]
    write_multimodal_spectra(bits, omit=["Z", "ZWARN"])
    redshift, good = open_multimodal_spectra(bits).read_redshifts([0])
    assert np.isnan(redshift[0])
    assert not good[0]


def test_match_spectra(spectra_folder):
    path, truth = spectra_folder
    source = open_multimodal_spectra(path)
    nowhere = np.full(3, np.nan)
    match = source.match(Who({"TARGETID": np.array([8, 39627866878511337, 99])}, nowhere, nowhere))
    assert match.row.tolist() == [4, 0, -1]
    ids = {"OBJECT_ID": np.array(["a", "", "b"]), "TARGETID": np.array([8, -1, 6])}
    match = source.match(Who(ids, *(truth[k][[0, 3, 3]] for k in ("ra", "dec"))))
    assert match.row.tolist() == [4, 3, 2]
    assert match.how.tolist() == [How.ID, How.CENTRE, How.ID]


def test_variants_of_spectra(tmp_path):
    path = tmp_path / "s.hdf5"
    truth = write_multimodal_spectra(path, omit=["spectrum_mask", "spectrum_lambda"])
    np.testing.assert_array_equal(open_multimodal_spectra(path).read([1]).flux, truth["spectrum_flux"][1:2])
    part = slice(100, 7000)
    short = {f"spectrum_{k}": truth[f"spectrum_{k}"][:, part] for k in ("flux", "ivar")}
    write_multimodal_spectra(path, omit=["spectrum_mask"], spectrum_lambda=desi_wave()[part], **short)
    spectra = open_multimodal_spectra(path).read([2, 0])
    np.testing.assert_array_equal(spectra.flux[:, part], truth["spectrum_flux"][[2, 0], part])
    assert (spectra.mask[:, :100] == NODATA).all()
    assert not spectra.ivar[:, 7000:].any()


def test_spectra_on_other_grids(tmp_path):
    """SDSS's are on grids of their own, and padded; datasets that differ in length are refused."""
    path = tmp_path / "s.hdf5"
    truth = write_multimodal_spectra(path, spectrum_lambda=desi_wave() * 1.001, omit=["spectrum_mask"])
    spectra = open_multimodal_spectra(path).read([2, 0])
    np.testing.assert_allclose(spectra.wave, desi_wave() * 1.001)
    np.testing.assert_array_equal(spectra.flux, truth["spectrum_flux"][[2, 0]])
    own = np.tile(3600 * 10 ** (1e-4 * np.arange(N_WAVE)), (3, 1))
    own[0, 4000:], own[1, 4100:] = -1, 0
    write_multimodal_spectra(path, spectrum_lambda=own, omit=["spectrum_mask"])
    spectra = open_multimodal_spectra(path).read([0, 1, 2])
    assert np.isfinite(spectra.wave).sum(axis=1).tolist() == [4000, 4100, N_WAVE]
    assert spectra.good.sum(axis=1).tolist() == [4000, 4100, N_WAVE]
    write_multimodal_spectra(path, spectrum_lambda=desi_wave()[:5000])
    with pytest.raises(DataError, match="Expected the same of all"):
        open_multimodal_spectra(path).read([0])


@pytest.fixture
def images_folder(tmp_path):
    parts = [
        write_multimodal_images(tmp_path / ONE, ["0001m002-15", "0001m002-16"], seed=1),
        write_multimodal_images(tmp_path / TWO, ["3301p007-1", "3301p007-22", "x"], seed=2),
    ]
    return tmp_path, {
        k: np.concatenate([part[k] for part in parts])
        for k in ("image_array", "image_ivar", "ra", "dec", "object_id")
    }


def test_images_take_g_r_z_of_four_bands(images_folder):
    path, truth = images_folder
    source = open_multimodal_images(path)
    wanted = [3, 0, 3, 1]
    stamps = source.read(wanted, size=20).flux
    image, ivar = (truth[k][wanted][:, [0, 1, 3]] for k in ("image_array", "image_ivar"))
    np.testing.assert_array_equal(stamps, np.where(ivar > 0, image, np.nan))
    np.testing.assert_array_equal(source.read([3], [1.0], [2.0], 8).flux[0], stamps[0, :, 6:14, 6:14])
    assert source.read(wanted).pixscale.tolist() == [0.262] * 4
    source.close()


def test_match_images(images_folder):
    path, truth = images_folder
    source = open_multimodal_images(path)
    ids = {"OBJECT_ID": np.array(["3301p007-22", "nobody", ""])}
    match = source.match(Who(ids, truth["ra"][[0, 2, 4]], truth["dec"][[0, 2, 4]]))
    assert match.row.tolist() == [3, 2, 4]
    assert match.how.tolist() == [How.ID, How.CENTRE, How.CENTRE]


def test_variants_of_images(tmp_path):
    path = tmp_path / "i.hdf5"
    truth = write_multimodal_images(path, [1, 2], omit=["image_ivar", "image_band", "image_scale"])
    np.testing.assert_array_equal(
        open_multimodal_images(path).read([0, 1], size=20).flux, truth["image_array"][:, [0, 1, 3]]
    )
    three = truth["image_array"][:, [3, 0, 1]]
    bands = np.full((2, 3), [b"des-z", b"des-g", b"des-r"])
    write_multimodal_images(path, [1, 2], omit=["image_ivar"], image_array=three, image_band=bands)
    np.testing.assert_array_equal(
        open_multimodal_images(path).read([0], size=20).flux, truth["image_array"][:1, [0, 1, 3]]
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"image_scale": np.full((2, 4), 0.168)}, "0.168.* arcsec/px, expected 0.262"),
        ({"image_band": np.full((2, 4), [b"hsc-g", b"hsc-r", b"hsc-i", b"hsc-y"])}, "Expected .* g, r, z"),
        ({"image_array": np.zeros((2, 20, 20))}, "has shape"),
        ({"image_ivar": np.ones((2, 4, 16, 16))}, r"'image_ivar' has shape \(2, 4, 16, 16\)"),
        ({"image_ivar": np.ones((2, 3, 20, 20))}, r"'image_ivar' has shape \(2, 3, 20, 20\)"),
    ],
)
def test_other_images_are_refused(tmp_path, other, message):
    write_multimodal_images(tmp_path / "i.hdf5", [1, 2], **other)
    with pytest.raises(DataError, match=message):
        open_multimodal_images(tmp_path / "i.hdf5").read([0])


@pytest.mark.parametrize("attribute", [{"unit": "Jy"}, {"units": b"Jy"}, {"BUNIT": "Jy"}])
def test_other_units_are_refused(tmp_path, attribute):
    write_multimodal_images(tmp_path / "i.hdf5", [1, 2])
    write_multimodal_spectra(tmp_path / "s.hdf5")
    for name, dataset, open_it, expected in (
        ("i", "image_array", open_multimodal_images, "nanomaggy"),
        ("s", "spectrum_flux", open_multimodal_spectra, "1e-17 erg"),
    ):
        with h5py.File(tmp_path / f"{name}.hdf5", "a") as file:
            file[dataset].attrs.update(attribute)
        with pytest.raises(DataError, match=f"dataset '{dataset}': .* in 'Jy', expected {expected}"):
            open_it(tmp_path / f"{name}.hdf5")
        with h5py.File(tmp_path / f"{name}.hdf5", "a") as file:
            file[dataset].attrs[next(iter(attribute))] = {"i": "nanomaggies", "s": "1e-17 erg/s/cm2/AA"}[name]
        assert len(open_it(tmp_path / f"{name}.hdf5")) > 1


def test_unusable_files(spectra_folder):
    path, _ = spectra_folder
    with pytest.raises(DataError, match="no dataset 'image_array'"):
        open_multimodal_images(path)
    truncate(path / ONE, 0.5)
    write_hdf5(path / "a.hdf5", {"spectrum_flux": np.zeros((2, 3)), "object_id": [1], "ra": [1], "dec": [2]})
    source = open_multimodal_spectra(path)
    assert [p.name for p, _ in source.problems] == ["a.hdf5", "001-of-001.hdf5"]
    assert "cut short" in source.problems[1][1]
    assert source.who.ids["OBJECT_ID"].tolist() == ["7", "8"]
    (path / "empty").mkdir()
    with pytest.raises(DataError, match="no file below it is called"):
        open_multimodal_spectra(path / "empty")
