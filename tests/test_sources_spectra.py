"""Every source of spectra, every flag bit: what the model is given for a row."""

import numpy as np
import pytest
import torch
from astropy.io import fits
from builders import truncate, write_coadd, write_spec
from builders_hdf5 import write_hdf5, write_multimodal_spectra
from source_rows import NO, OPTIONS, read_spectra, write_table

from astroclip.data.coadd_tree import coadd_path
from astroclip.data.desi import open_coadd
from astroclip.errors import DataError, UsageError
from astroclip.model.inputs import InputOptions, open_inputs
from astroclip.model.prepare_spectra import prepare_spectra
from astroclip.schema import EmbedFlag, desi_wave
from astroclip.tables import open_table


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
    with open_table(path) as table:
        assert open_inputs(table, "spectrum", None, options=OPTIONS) is None


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
        ("empty", "no model, and no FITS"),
    ):
        with pytest.raises(DataError, match=said):
            read_spectra(path, tmp_path / wanted)
    with pytest.raises(UsageError, match="neither a file, nor a folder, nor a column"):
        read_spectra(path, "NOTHING")


def test_flags_speak_of_the_whole_grid():
    assert desi_wave()[-1] == pytest.approx(9824.0)
    assert len({bit.value for bit in EmbedFlag}) == len(list(EmbedFlag)) == 13


# --- the tree of a release, Multimodal Universe ------------------------------------------------------------

NOTHING = EmbedFlag.NO_SPECTRUM
BROKEN = EmbedFlag.NO_SPECTRUM | EmbedFlag.UNREADABLE_SPECTRUM


@pytest.fixture
def tree(tmp_path):
    """A release of three coadds, one of them cut in half; target 2 is in two programs."""
    root = tmp_path / "release"
    for seed, (key, ids) in enumerate(
        {("sv3", "dark", 101): [1, 2, 3], ("sv3", "bright", 101): [2], ("main", "dark", 7): [4]}.items()
    ):
        write_coadd(
            coadd_path(root / "healpix", *key),
            targetid=ids,
            seed=seed,
            replace=None if seed else {"B_IVAR": half_dead(2751), "R_IVAR": half_dead(2326)} | dead_z(),
        )
    truncate(coadd_path(root, "main", "dark", 7), 0.5)
    return root


def half_dead(pixels):
    """Make inverse variances of three spectra: good, a fifth of the pixels bad, all of them bad."""
    ivar = np.ones((3, pixels), "f4")
    ivar[1, ::5] = ivar[2] = 0
    return ivar


def dead_z():
    return {"Z_IVAR": half_dead(2881)}


def test_every_flag_of_a_tree(tmp_path, tree, monkeypatch):
    rows = [
        (2, "sv3", "dark", 101, EmbedFlag.BAD_SPECTRUM_PIXELS),
        (2, "sv3", "bright", 101, NO),
        (1, "sv3", "dark", 101, NO),
        (3, "sv3", "dark", 101, NOTHING),  # a dead fibre
        (9, "sv3", "dark", 101, NOTHING),  # not in the file
        (1, "sv3", "other", 101, NOTHING),  # there is no such file
        (4, "main", "dark", 7, BROKEN),
    ]
    targetid, survey, program, healpix, expected = zip(*rows, strict=True)
    keys = {"SURVEY": np.array(survey, "S8"), "PROGRAM": np.array(program, "S8"), "HEALPIX": healpix}
    path = write_table(tmp_path / "zcatalog.fits", TARGETID=np.array(targetid), **keys)
    indexed = read_spectra(write_table(tmp_path / "a.fits", TARGETID=np.array(targetid)), tree)
    assert indexed.flag[1] & EmbedFlag.AMBIGUOUS_SPECTRUM
    with monkeypatch.context() as patch:
        patch.delattr("astroclip.data.coadd_sets.CoaddFiles")  # the tree needs none
        for folder in (tree, tree / "healpix"):
            inputs, flag = read_spectra(path, folder)
            assert list(flag) == list(expected)
    with open_coadd(coadd_path(tree, "sv3", "bright", 101)) as coadd:
        bright = coadd.read()
    np.testing.assert_array_equal(inputs[1], prepare_spectra(bright.flux, bright.ivar).flux[0])
    assert read_spectra(path, tree, InputOptions(max_bad=0.5)).flag[0] == NO


def test_coadds_elsewhere_are_indexed(tmp_path):
    """Four folders deep and with the columns of a tree, but not named as in one."""
    folder = tmp_path / "tiles"
    write_coadd(folder / "cumulative" / "80613" / "20210324" / "1" / "coadd-5-80613-thru20210324.fits")
    keys = {"SURVEY": ["sv3"], "PROGRAM": ["dark"], "HEALPIX": [101]}
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([2]), **keys)
    assert list(read_spectra(path, folder).flag) == [NO]


def test_every_flag_of_multimodal_spectra(tmp_path):
    folder = tmp_path / "desi"
    mask = np.zeros((4, 7781), bool)
    mask[1, ::5] = mask[2] = True
    truth = write_multimodal_spectra(
        folder / "healpix=1" / "001-of-001.hdf5",
        [11, 12, 13, 14],
        spectrum_mask=mask,
        ra=[10.0, 20.0, 30.0, 30.0],
        dec=np.zeros(4),
    )
    write_multimodal_spectra(
        folder / "healpix=2" / "001-of-001.hdf5", [15], spectrum_lambda=desi_wave() * 1.001
    )
    ids = np.array([11, 12, 13, 15, 16, -1])
    path = write_table(tmp_path / "a.fits", TARGETID=ids)
    inputs, flag = read_spectra(path, folder)
    partial = EmbedFlag.PARTIAL_COVERAGE  # on a grid of its own that begins at 3603.6 Å
    assert list(flag) == [NO, EmbedFlag.BAD_SPECTRUM_PIXELS, NOTHING, partial, NOTHING, NOTHING]
    np.testing.assert_array_equal(inputs[0], truth["spectrum_flux"][0])
    assert list(read_spectra(path, folder, InputOptions(max_bad=0.5)).flag[:2]) == [NO, NO]
    by_position = write_table(tmp_path / "b.fits", RA=[10.0, 30.0, 99.0], DEC=[0.0, 0.0, 0.0])
    inputs, flag = read_spectra(by_position, folder)
    assert list(flag) == [NO, NOTHING | EmbedFlag.AMBIGUOUS_SPECTRUM, NOTHING]
    np.testing.assert_array_equal(inputs[0], truth["spectrum_flux"][0])
    one_file = read_spectra(path, folder / "healpix=1" / "001-of-001.hdf5")
    assert list(one_file.flag[[0, 3]]) == [NO, NOTHING]


def test_multimodal_files_that_cannot_be_used(tmp_path, caplog):
    folder = tmp_path / "desi"
    write_multimodal_spectra(folder / "a.hdf5", [11])
    write_hdf5(folder / "b.hdf5", {"labels": [1]})
    path = write_table(tmp_path / "c.fits", TARGETID=np.array([11]))
    assert list(read_spectra(path, folder).flag) == [NO]
    assert "b.hdf5: no dataset 'spectrum_flux'" in caplog.text
    with pytest.raises(DataError, match=r"b\.hdf5: a HDF5 file, expected spectra"):
        read_spectra(path, folder / "b.hdf5")
    nameless = write_table(tmp_path / "d.fits", MAG=[20.0])
    with pytest.raises(DataError, match="found by TARGETID, by OBJECT_ID or by position"):
        read_spectra(nameless, folder)


def test_multimodal_spectra_that_cover_a_part(tmp_path):
    part = slice(100, 7000)
    path = tmp_path / "s.hdf5"
    truth = write_multimodal_spectra(path, [11])
    short = {f"spectrum_{k}": truth[f"spectrum_{k}"][:, part] for k in ("flux", "ivar", "mask")}
    write_multimodal_spectra(path, [11], spectrum_lambda=desi_wave()[part], **short)
    table = write_table(tmp_path / "c.fits", TARGETID=np.array([11]))
    assert list(read_spectra(table, path).flag) == [EmbedFlag.PARTIAL_COVERAGE]


# --- exposures, missing arms, files without a FIBERMAP, frames, broken files -------------------------------


def exposures(path, **options):
    """Write three targets of two exposures each, and return their inverse variance means."""
    write_coadd(path, targetid=[1, 1, 2, 2, 3, 3], **options)
    with open_coadd(path) as coadd:
        combined = coadd.read_targets(np.array([0, 2, 4]))
    return prepare_spectra(combined.flux, combined.ivar).flux


@pytest.mark.parametrize(
    "name", ["spectra-main-dark-100.fits", "my spectra.fits", "run[1]/all+of(them).fits"]
)
@pytest.mark.parametrize("single", [True, False])
def test_repeated_exposures_are_combined(tmp_path, name, single):
    expected = exposures(tmp_path / "s" / name)
    table = write_table(tmp_path / "c.fits", TARGETID=np.array([3, 1, 9, 2]))
    inputs, flag = read_spectra(table, tmp_path / "s" / name if single else tmp_path / "s")
    assert list(flag) == [NO, NO, NOTHING, NO]
    np.testing.assert_array_equal(inputs[[1, 3, 0]], expected)


def test_targets_of_several_files_of_exposures_are_ambiguous(tmp_path):
    expected = exposures(tmp_path / "s" / "spectra-main-dark-1.fits", seed=1)
    exposures(tmp_path / "s" / "spectra-main-dark-2.fits", seed=2)
    table = write_table(tmp_path / "c.fits", TARGETID=np.array([2]))
    inputs, flag = read_spectra(table, tmp_path / "s")
    assert list(flag) == [EmbedFlag.AMBIGUOUS_SPECTRUM]
    np.testing.assert_array_equal(inputs[0], expected[1])


def test_exposures_themselves_are_rows(tmp_path):
    path = tmp_path / "spectra-main-dark-100.fits"
    write_coadd(path, targetid=[1, 1, 2])
    inputs, flag = read_spectra(path)
    assert list(flag) == [NO] * 3
    with open_coadd(path) as coadd:
        spectra = coadd.read()
    np.testing.assert_array_equal(inputs, prepare_spectra(spectra.flux, spectra.ivar).flux)


def test_coadds_are_found_by_position_too(tmp_path):
    folder = tmp_path / "coadds"
    write_coadd(folder / "coadd-sv3-dark-100.fits")  # at RA 10 to 10.1, Dec -5 to -5.1
    table = write_table(
        tmp_path / "c.fits", TARGET_RA=[10.1, 10.0 + 0.9 / 3600, 50.0], TARGET_DEC=[-5.1, -5.0, 0.0]
    )
    assert list(read_spectra(table, folder).flag) == [NO, NO, NOTHING]
    near = InputOptions(radius_arcsec=0.5)
    assert list(read_spectra(table, folder, near).flag) == [NO, NOTHING, NOTHING]


@pytest.mark.parametrize("how", ["itself", "file", "folder", "tree"])
def test_a_coadd_without_an_arm_covers_a_part(tmp_path, how):
    path = coadd_path(tmp_path / "r" / "healpix", "sv3", "dark", 101)
    write_coadd(path, arms=["B", "Z"])
    write_coadd(coadd_path(tmp_path / "r" / "healpix", "sv3", "dark", 102), targetid=[5])
    keys = {"TARGETID": np.array([5, 2]), "HEALPIX": [102, 101]}
    if how == "tree":
        keys |= {"SURVEY": ["sv3"] * 2, "PROGRAM": ["dark"] * 2}
    table = write_table(tmp_path / "c.fits", **keys)
    partial = EmbedFlag.PARTIAL_COVERAGE
    if how == "itself":
        assert list(read_spectra(path).flag) == [partial] * 4
    elif how == "file":
        assert list(read_spectra(table, path).flag) == [NOTHING, partial]
    else:
        inputs, flag = read_spectra(table, tmp_path / "r")
        assert list(flag) == [NO, partial]
        assert inputs.isfinite().all()
        gap = (desi_wave() > 5800.4) & (desi_wave() < 7519.6)
        assert len(inputs[1, torch.from_numpy(gap)].unique()) == 1  # filled with the mean


def test_a_coadd_without_a_fibermap_is_found_by_row(tmp_path):
    path = tmp_path / "coadd.fits"
    write_coadd(path, omit=["FIBERMAP"])
    with open_coadd(path) as coadd:
        spectra = coadd.read()
    table = write_table(tmp_path / "c.fits", TARGETID=np.arange(4))
    inputs, flag = read_spectra(table, path)
    assert list(flag) == [NO] * 4
    np.testing.assert_array_equal(inputs, prepare_spectra(spectra.flux, spectra.ivar).flux)
    other = write_table(tmp_path / "d.fits", TARGETID=np.arange(3))
    with pytest.raises(DataError, match=r"no FIBERMAP.* its 4 spectra.* has 3"):
        read_spectra(other, path)
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "coadd-x.fits")
    with pytest.raises(DataError, match=r"coadd-x\.fits: no FIBERMAP"):
        read_spectra(table, tmp_path / "folder")


@pytest.mark.parametrize("single", [True, False])
def test_a_frame_is_named_with_what_to_use_instead(tmp_path, single):
    path = tmp_path / "c" / "cframe-b0-00081833.fits"
    path.parent.mkdir()
    hdus = [fits.PrimaryHDU(np.ones((2, 2751), "f4")), fits.ImageHDU(np.ones((2, 2751), "f4"), name="IVAR")]
    hdus += [fits.ImageHDU(desi_wave()[:2751], name="WAVELENGTH")]
    hdus += [fits.BinTableHDU.from_columns([fits.Column("TARGETID", "K", array=[1, 2])], name="FIBERMAP")]
    fits.HDUList(hdus).writeto(path)
    table = write_table(tmp_path / "t.fits", TARGETID=np.array([1]))
    with pytest.raises(DataError, match=r"DESI frame.*Use the coadd-\*\.fits or spectra-\*\.fits"):
        read_spectra(table, path if single else path.parent)


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["coadd", "spec", "hdf5"])
def test_a_named_file_that_is_broken_is_an_error(tmp_path, kind, fraction):
    path = {
        "coadd": tmp_path / "coadd-sv3-dark-1.fits",
        "spec": tmp_path / "spec-0266-51602-0007.fits",
        "hdf5": tmp_path / "desi.hdf5",
    }[kind]
    {"coadd": write_coadd, "spec": write_spec, "hdf5": write_multimodal_spectra}[kind](path)
    keys = {"PLATE": [266], "MJD": [51602], "FIBERID": [7], "RA": [1.0], "DEC": [1.0]}
    table = write_table(tmp_path / "t.fits", TARGETID=np.array([1]), **keys)
    read_spectra(table, path)
    truncate(path, fraction)
    with pytest.raises(DataError, match=path.name):
        read_spectra(table, path)


def test_sdss_v_spectra(tmp_path):
    """In a table of SDSS-V: CATALOGID of 17 digits."""
    long = 27021598109009995
    write_spec(tmp_path / "s" / f"spec-102236-60000-{long}.fits", omit=["SPECOBJ"])
    ids = np.array([long + 1, long])
    table = write_table(tmp_path / "t.fits", CATALOGID=ids, FIELD=[102236] * 2, MJD=[60000] * 2)
    assert list(read_spectra(table, tmp_path / "s").flag) == [NOTHING, EmbedFlag.PARTIAL_COVERAGE]


def test_spectra_of_unequal_length_in_columns(tmp_path, rng):
    """Each is what it is alone; the model's input does not depend on its neighbours' lengths."""
    waves = [10 ** np.arange(3.58, 3.96, 1e-4), desi_wave(), np.arange(4000, 9000, 1.7)]
    flux = [rng.normal(3, 1, len(wave)) for wave in waves]
    columns = [
        fits.Column(name, "PD()", array=np.array([*rows, None], object)[:3])
        for name, rows in (("FLUX", flux), ("WAVELENGTH", waves))
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "t.fits")
    inputs, flag = read_spectra(tmp_path / "t.fits")
    partial = EmbedFlag.PARTIAL_COVERAGE
    assert list(flag) == [partial, NO, partial]
    for i, wave in enumerate(waves):
        alone = prepare_spectra(flux[i][None], wave=wave).flux[0]
        np.testing.assert_allclose(inputs[i], alone, atol=1e-6)
