"""Every source of pixels, every flag bit: what the model is given for a row."""

from pathlib import Path

import fitsio
import numpy as np
import pytest
import torch
from builders import truncate, write_band_hdus, write_brick, write_coadd, write_cube, write_spec

from astroclip.catalog import open_catalog
from astroclip.errors import DataError, UsageError
from astroclip.preprocess.image import prepare_images
from astroclip.preprocess.spectrum import prepare_spectra
from astroclip.schema import PIXSCALE, EmbedFlag, desi_wave
from astroclip.sources import ModelInputs, SourceOptions, image_source, spectrum_source
from astroclip.surveys.desi import open_coadd

SIZE = 48
NO, OPTIONS = EmbedFlag(0), SourceOptions()


def write_table(
    path: Path, units: dict[str, str] | None = None, header: dict | None = None, **columns
) -> Path:
    """Write a catalogue of the columns."""
    names = list(columns)
    fitsio.write(
        path,
        [np.asarray(columns[n]) for n in names],
        names=names,
        units=[(units or {}).get(n, "") for n in names],
        header=header,
        extname="CATALOGUE",
        clobber=True,
    )
    return path


def read_images(
    path: Path, wanted: object = None, options: SourceOptions = OPTIONS, size: int = SIZE
) -> ModelInputs:
    with open_catalog(path) as table:
        source = image_source(table, None if wanted is None else str(wanted), size, options)
        return source.read(table.read(source.columns, 0, table.nrows), 0)


def read_spectra(path: Path, wanted: object = None, options: SourceOptions = OPTIONS) -> ModelInputs:
    with open_catalog(path) as table:
        source = spectrum_source(table, None if wanted is None else str(wanted), options)
        return source.read(table.read(source.columns, 0, table.nrows), 0)


def rgb_of(image: np.ndarray, size: int = SIZE) -> torch.Tensor:
    return prepare_images(image[None], size).rgb[0]


# --- images ------------------------------------------------------------------------------------------------


def test_image_column(tmp_path, rng):
    images = rng.normal(0.1, 0.05, (5, 3, 52, 52)).astype("f4")
    images[1] = np.nan
    images[2, :, 20:45, 20:45] = np.nan
    images[3, 0, 5, 5] = np.inf
    path = write_table(tmp_path / "c.fits", {"IMAGE": "nanomaggy"}, IMAGE=images)
    inputs, flag = read_images(path)
    assert list(flag) == [NO, EmbedFlag.NO_IMAGE, EmbedFlag.BAD_IMAGE_PIXELS, NO, NO]
    assert torch.equal(inputs[4], rgb_of(images[4]))
    assert inputs.isfinite().all()
    tolerant = read_images(path, options=SourceOptions(max_bad=0.5))
    assert list(tolerant.flag) == [NO, EmbedFlag.NO_IMAGE, NO, NO, NO]


def test_image_column_of_another_name_and_smaller_than_the_crop(tmp_path, rng):
    images = rng.normal(0.1, 0.05, (2, 3, 40, 44)).astype("f8")
    path = write_table(tmp_path / "c.fits", STAMP=images)
    inputs, flag = read_images(path, "stamp")
    assert list(flag) == [EmbedFlag.IMAGE_PADDED] * 2
    assert torch.equal(inputs[1], rgb_of(images[1].astype("f4")))
    with open_catalog(path) as table:
        assert image_source(table, None, SIZE, OPTIONS) is None


def test_image_column_at_another_scale(tmp_path, rng):
    images = rng.normal(0.1, 0.05, (2, 3, 60, 60)).astype("f4")
    path = write_table(tmp_path / "c.fits", header={"PIXSCALE": 0.5}, IMAGE=images)
    assert list(read_images(path).flag) == [EmbedFlag.WRONG_PIXSCALE] * 2
    resampled = read_images(path, options=SourceOptions(resample=True))
    assert list(resampled.flag) == [NO, NO]
    assert not torch.equal(resampled.inputs[0], rgb_of(images[0]))


@pytest.mark.parametrize(
    ("columns", "units", "said"),
    [
        (
            {"IMAGE": np.zeros((2, 4, 8, 8), "f4")},
            {},
            r"column 'IMAGE' has shape \(4, 8, 8\), expected \(3, H, W\)",
        ),
        ({"IMAGE": np.zeros((2, 3, 8, 8), "f4")}, {"IMAGE": "adu"}, r"column 'IMAGE'.*'adu'.*nanomagg"),
    ],
)
def test_a_column_that_is_not_images(tmp_path, columns, units, said):
    path = write_table(tmp_path / "c.fits", units, **columns)
    with pytest.raises(DataError, match=said):
        read_images(path)


def test_cutouts_by_id_then_by_position(tmp_path):
    folder = tmp_path / "cutouts"
    by_id = write_cube(folder / "galaxy_39627.fits", ra=10.0, dec=-5.0, seed=1)
    write_cube(folder / "same_place.fits", ra=10.0, dec=-5.0, seed=2)
    by_position = write_cube(folder / "elsewhere.fits", ra=20.0, dec=1.0, seed=3)
    path = write_table(
        tmp_path / "c.fits",
        TARGETID=np.array([39627, 5, 6]),
        TARGET_RA=[10.0, 20.0 + 0.5 / 3600, 90.0],
        TARGET_DEC=[-5.0, 1.0, 0.0],
    )
    inputs, flag = read_images(path, folder)
    assert list(flag) == [NO, NO, EmbedFlag.NO_IMAGE]
    middle = slice(52, 100)  # the 48 px about the centre of 152
    assert torch.equal(inputs[0], rgb_of(by_id[:, middle, middle]))
    # 0.5 arcsec to the east is two pixels to the left
    assert torch.equal(inputs[1], rgb_of(by_position[:, middle, 50:98]))


def test_an_image_of_the_right_name_at_the_wrong_place_is_not_used(tmp_path):
    write_cube(tmp_path / "cutouts" / "39627.fits", ra=200.0, dec=1.0)
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([39627]), RA=[10.0], DEC=[-5.0])
    assert list(read_images(path, tmp_path / "cutouts").flag) == [EmbedFlag.NO_IMAGE]


def test_cutouts_by_brick_numbers(tmp_path):
    folder = tmp_path / "cutouts"
    write_cube(folder / "9010-3-77.fits", ra=None, seed=1)
    path = write_table(tmp_path / "c.fits", RELEASE=[9010, 9010], BRICKID=[3, 3], OBJID=[77, 78])
    assert list(read_images(path, folder).flag) == [NO, EmbedFlag.NO_IMAGE]


def test_two_cutouts_of_one_galaxy(tmp_path):
    folder = tmp_path / "cutouts"
    for name, ra in (("a.fits", 10.0), ("b.fits", 10.0 + 0.3 / 3600)):
        write_cube(folder / name, ra=ra, dec=0.0)
    path = write_table(tmp_path / "c.fits", RA=[10.0], DEC=[0.0])
    assert list(read_images(path, folder).flag) == [EmbedFlag.AMBIGUOUS_IMAGE]
    near = read_images(path, folder, SourceOptions(radius_arcsec=0.1))
    assert list(near.flag) == [NO]


def test_a_broken_cutout_spoils_its_row_only(tmp_path):
    folder = tmp_path / "cutouts"
    for name in ("1.fits", "2.fits"):
        write_cube(folder / name)
    truncate(folder / "1.fits", 0.6)
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([1, 2]))
    inputs, flag = read_images(path, folder)
    assert list(flag) == [EmbedFlag.UNREADABLE_IMAGE | EmbedFlag.NO_IMAGE, NO]
    assert inputs[1].max() > 0


def test_stamps_from_a_larger_image(tmp_path):
    image = write_band_hdus(
        tmp_path / "field.fits", shape=(300, 300), ra=59.0, dec=-30.0, invvar=np.ones((3, 300, 300))
    )
    cos = np.cos(np.radians(-30))
    offsets = np.array([0, 60, 140, 400]) * PIXSCALE / 3600  # px to the east, which is to the left
    path = write_table(tmp_path / "c.fits", RA=59.0 + offsets / cos, DEC=np.full(4, -30.0))
    inputs, flag = read_images(path, tmp_path / "field.fits")
    assert list(flag) == [NO, NO, EmbedFlag.IMAGE_PADDED, EmbedFlag.NO_IMAGE]
    np.testing.assert_allclose(inputs[0], rgb_of(image[:, 126:174, 126:174].astype("f4")), atol=1e-6)
    np.testing.assert_allclose(inputs[1], rgb_of(image[:, 126:174, 66:114].astype("f4")), atol=1e-6)
    outside = inputs[2][:, :, :14]
    assert torch.equal(outside, outside[:, :1, :1].expand_as(outside))  # sky


def test_stamps_from_a_brick_and_files_that_are_no_images(tmp_path, caplog):
    write_brick(tmp_path / "bricks", ra=59.0, dec=-30.0)
    write_table(tmp_path / "bricks" / "tractor.fits", RA=[59.0])
    path = write_table(tmp_path / "c.fits", RA=[59.0], DEC=[-30.0])
    assert list(read_images(path, tmp_path / "bricks").flag) == [NO]
    assert "tractor.fits: no image" in caplog.text


def test_a_cutout_at_another_scale(tmp_path):
    write_cube(tmp_path / "cutouts" / "1.fits", pixel_deg=0.131 / 3600)
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([1]))
    assert list(read_images(path, tmp_path / "cutouts").flag) == [EmbedFlag.WRONG_PIXSCALE]
    resampled = read_images(path, tmp_path / "cutouts", SourceOptions(resample=True))
    assert list(resampled.flag) == [NO]


def test_images_without_a_way_to_find_them(tmp_path):
    write_cube(tmp_path / "cutouts" / "1.fits")
    path = write_table(tmp_path / "c.fits", MAG=[20.0])
    with pytest.raises(DataError, match="found by TARGETID, by RELEASE, BRICKID, OBJID or by position"):
        read_images(path, tmp_path / "cutouts")
    with pytest.raises(UsageError, match="neither a file, nor a folder, nor a column"):
        read_images(path, tmp_path / "nowhere")


# --- spectra -----------------------------------------------------------------------------------------------


def test_spectrum_columns_on_the_desi_grid(tmp_path, rng):
    flux = rng.normal(3, 1, (4, 7781)).astype("f4")
    ivar = np.ones_like(flux)
    ivar[1] = 0
    ivar[2, :2000] = 0
    mask = np.zeros(flux.shape, "i4")
    mask[3, 100] = 8
    path = write_table(
        tmp_path / "c.fits", {"FLUX": "10**-17 erg/(s cm2 Angstrom)"}, FLUX=flux, IVAR=ivar, MASK=mask
    )
    inputs, flag = read_spectra(path)
    assert list(flag) == [NO, EmbedFlag.NO_SPECTRUM, EmbedFlag.BAD_SPECTRUM_PIXELS, NO]
    np.testing.assert_array_equal(inputs[0], flux[0])
    assert inputs[3, 100] == pytest.approx((flux[3, 99] + flux[3, 101]) / 2, rel=1e-5)


def test_spectrum_columns_with_their_own_grid(tmp_path, rng):
    wave = np.linspace(4000, 9000, 3000)
    flux = rng.normal(3, 1, (2, 3000)).astype("f4")
    path = write_table(tmp_path / "c.fits", FLUX=flux, WAVE=np.tile(wave, (2, 1)))
    inputs, flag = read_spectra(path)
    assert list(flag) == [EmbedFlag.PARTIAL_COVERAGE] * 2
    np.testing.assert_array_equal(inputs, prepare_spectra(flux, wave=wave).flux)


@pytest.mark.parametrize(
    ("columns", "units", "said"),
    [
        ({"FLUX": np.zeros((2, 50), "f4")}, {}, r"50 pixels and there is no column WAVE"),
        ({"FLUX": np.zeros((2, 7781), "f4")}, {"FLUX": "Jy"}, r"column 'FLUX': flux in 'Jy'"),
        (
            {"FLUX": np.zeros((2, 50), "f4"), "WAVE": np.zeros((2, 50))},
            {"WAVE": "nm"},
            r"wavelengths in 'nm'",
        ),
        (
            {"FLUX": np.zeros((2, 7781), "f4"), "IVAR": np.zeros((2, 50), "f4")},
            {},
            r"'IVAR' has shape \(50,\)",
        ),
    ],
)
def test_columns_that_are_not_spectra(tmp_path, columns, units, said):
    path = write_table(tmp_path / "c.fits", units, **columns)
    with pytest.raises(DataError, match=said):
        read_spectra(path)


def test_a_photometric_flux_is_no_spectrum(tmp_path):
    path = write_table(tmp_path / "c.fits", FLUX=np.array([1.0, 2.0]))
    with open_catalog(path) as table:
        assert spectrum_source(table, None, OPTIONS) is None


def test_a_coadd_is_its_own_source(tmp_path):
    path = tmp_path / "coadd-sv3-dark-26065.fits"
    dead = {
        f"{arm}_IVAR": np.where(np.arange(4) == 2, 0, 1)[:, None] * np.ones(n, "f4")
        for arm, n in (("B", 2751), ("R", 2326), ("Z", 2881))
    }
    write_coadd(path, replace=dead)
    inputs, flag = read_spectra(path)
    assert list(flag) == [NO, NO, EmbedFlag.NO_SPECTRUM, NO]
    with open_coadd(path) as coadd:
        spectra = coadd.read()
    np.testing.assert_array_equal(inputs, prepare_spectra(spectra.flux, spectra.ivar, spectra.mask).flux)


def test_coadds_by_targetid_survey_and_program(tmp_path):
    folder = tmp_path / "healpix"
    for name, ids, seed in (
        ("coadd-sv3-dark-100.fits", [1, 2], 1),
        ("coadd-sv3-bright-100.fits", [2, 3], 2),
        ("coadd-sv3-dark-200.fits", [4], 3),
    ):
        write_coadd(folder / name, targetid=ids, seed=seed)
    truncate(folder / "coadd-sv3-dark-200.fits", 0.8)
    ids = np.array([3, 9, 2, 1, 4])
    alone = read_spectra(write_table(tmp_path / "a.fits", TARGETID=ids), folder)
    broken = EmbedFlag.NO_SPECTRUM | EmbedFlag.UNREADABLE_SPECTRUM
    assert list(alone.flag) == [NO, EmbedFlag.NO_SPECTRUM, EmbedFlag.AMBIGUOUS_SPECTRUM, NO, broken]
    path = write_table(
        tmp_path / "b.fits",
        TARGETID=ids,
        SURVEY=["sv3"] * 5,
        PROGRAM=["bright", "dark", "dark", "dark", "dark"],
    )
    inputs, flag = read_spectra(path, folder)
    assert list(flag) == [NO, EmbedFlag.NO_SPECTRUM, NO, NO, broken]
    with open_coadd(folder / "coadd-sv3-dark-100.fits") as coadd:
        dark = coadd.read(1)
    np.testing.assert_array_equal(inputs[2], prepare_spectra(dark.flux, dark.ivar).flux[0])


def test_sdss_spectra_by_plate_and_by_position(tmp_path):
    folder = tmp_path / "sdss"
    write_spec(folder / "spec-0266-51602-0007.fits", fiber=7, ra=10.0, dec=1.0)
    write_spec(folder / "spec-0266-51602-0008.fits", fiber=8, ra=20.0, dec=1.0)
    truncate(folder / "spec-0266-51602-0008.fits", 0.5)
    partial = EmbedFlag.PARTIAL_COVERAGE
    broken = EmbedFlag.NO_SPECTRUM | EmbedFlag.UNREADABLE_SPECTRUM
    by_id = write_table(tmp_path / "a.fits", PLATE=[266] * 3, MJD=[51602] * 3, FIBERID=[7, 8, 9])
    inputs, flag = read_spectra(by_id, folder)
    assert list(flag) == [partial, broken, EmbedFlag.NO_SPECTRUM]
    by_position = read_spectra(write_table(tmp_path / "b.fits", RA=[10.0, 50.0], DEC=[1.0, 1.0]), folder)
    assert list(by_position.flag) == [partial, EmbedFlag.NO_SPECTRUM]
    assert torch.equal(by_position.inputs[0], inputs[0])


def test_an_sdss_file_is_its_own_catalogue(tmp_path):
    path = tmp_path / "spec-0266-51602-0007.fits"
    coadd = write_spec(path)
    inputs, flag = read_spectra(path)
    assert list(flag) == [EmbedFlag.PARTIAL_COVERAGE]
    expected = prepare_spectra(
        coadd["flux"][None], coadd["ivar"][None], wave=10.0 ** coadd["loglam"].astype("f8")
    )
    np.testing.assert_allclose(inputs, expected.flux, atol=1e-5)


def test_spectra_without_a_way_to_find_them(tmp_path):
    write_coadd(tmp_path / "coadds" / "coadd-sv3-dark-1.fits")
    write_spec(tmp_path / "sdss" / "spec-0266-51602-0007.fits")
    (tmp_path / "empty").mkdir()
    path = write_table(tmp_path / "c.fits", MAG=[20.0])
    for wanted, said in (
        ("coadds", "found by TARGETID"),
        ("sdss", "found by PLATE, MJD, FIBERID or by position"),
        ("empty", r"no DESI coadd-\*.fits and no SDSS spec-\*.fits"),
    ):
        with pytest.raises(DataError, match=said):
            read_spectra(path, tmp_path / wanted)
    with pytest.raises(UsageError, match="neither a file, nor a folder, nor a column"):
        read_spectra(path, "NOTHING")


def test_flags_speak_of_the_whole_grid():
    assert desi_wave()[-1] == pytest.approx(9824.0)
    assert len({bit.value for bit in EmbedFlag}) == len(list(EmbedFlag)) == 11
