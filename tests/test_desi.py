"""DESI coadds and redshifts: real files against a plain stack, and every variant of the format."""

import gzip

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from builders import ARM_SLICES, FLUX_UNIT, truncate, write_coadd, write_redrock
from builders_who import who

from astroclip.data import desi
from astroclip.data.coadd_sets import CoaddFiles
from astroclip.data.grid import NODATA
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, desi_wave


def stack_arms(arms):
    """Combine arms (wave, flux, ivar, mask) of one spectrum with loops, the textbook way."""
    weight, total, bits = {}, {}, {}
    for wave, flux, ivar, mask in arms:
        for k in range(len(wave)):
            pixel = round((float(wave[k]) - 3600) / 0.8)
            bits[pixel] = bits.get(pixel, 0) | int(mask[k])
            if mask[k] == 0 and ivar[k] > 0:
                weight[pixel] = weight.get(pixel, 0.0) + float(ivar[k])
                total[pixel] = total.get(pixel, 0.0) + float(ivar[k]) * float(flux[k])
    flux, ivar = np.zeros(N_WAVE), np.zeros(N_WAVE)
    for pixel, w in weight.items():
        flux[pixel], ivar[pixel] = total[pixel] / w, w
    return flux, ivar, bits


def stack(path, row, arms=("B", "R", "Z")):
    """Combine the arms of one row of a file."""
    with fits.open(path) as hdus:
        parts = [[hdus[f"{arm}_{k}"].data for k in ("WAVELENGTH", "FLUX", "IVAR", "MASK")] for arm in arms]
        return stack_arms((wave, *(values[row] for values in rest)) for wave, *rest in parts)


def check_stack(path, row, spectra, at=None, arms=("B", "R", "Z")):
    flux, ivar, bits = stack(path, row, arms)
    at = row if at is None else at
    np.testing.assert_allclose(spectra.flux[at], flux, rtol=2e-7, atol=1e-12)
    np.testing.assert_allclose(spectra.ivar[at], ivar, rtol=2e-7)
    for pixel in range(N_WAVE):
        expected = 0 if ivar[pixel] > 0 else bits.get(pixel, 0) or NODATA
        assert spectra.mask[at][pixel] == expected


@pytest.mark.parametrize("name", ["coadd-4-80613-thru20210324.fits", "coadd-special-dark-27247.fits"])
def test_real_coadd_is_the_inverse_variance_stack(survey_data, name):
    path = survey_data / "desi" / name
    with desi.open_coadd(path) as coadd:
        spectra = coadd.read()
        assert len(coadd) == 1
        assert coadd.targetid[0] == desi.read_redrock(desi.redrock_path(path))["TARGETID"][0]
    check_stack(path, 0, spectra)
    assert spectra.flux.dtype == spectra.ivar.dtype == np.float32
    np.testing.assert_array_equal(spectra.wave, desi_wave())
    assert (spectra.ivar > 0).all()


def test_real_rows_without_data_come_back_with_zero_ivar(survey_data):
    with_data = []
    for name in ("coadd-5-169-thru20210419.fits.gz", "coadd-sv3-dark-26065.fits.gz"):
        path = survey_data / "desi" / name
        with desi.open_coadd(path) as coadd:
            spectra = coadd.read()
            assert len(coadd) == 5
        for row in range(5):
            check_stack(path, row, spectra)
            has_data = (spectra.ivar[row] > 0).any()
            with_data.append(has_data)
            assert has_data or (not spectra.flux[row].any() and spectra.mask[row].all())
    assert sum(with_data) == 3


def test_real_redshifts(survey_data):
    for name, z in (("4-80613-thru20210324", 0.368744), ("special-dark-27247", 0.007270)):
        table = desi.read_redrock(survey_data / "desi" / f"redrock-{name}.fits")
        assert table["Z"][0] == pytest.approx(z, abs=1e-6)
        assert table["SPECTYPE"][0] == "GALAXY"
        assert table["TARGETID"].dtype.isnative


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("lower_case", [False, True])
def test_built_coadd(tmp_path, dtype, lower_case):
    path = tmp_path / "coadd-sv3-dark-1.fits"
    write_coadd(path, dtype=dtype, lower_case=lower_case)
    with desi.open_coadd(path) as coadd:
        spectra = coadd.read()
        assert list(coadd.fibermap["OBJTYPE"]) == ["TGT"] * 4
    for row in range(4):
        check_stack(path, row, spectra)
    assert 0 < (spectra.ivar == 0).mean() < 0.05


ROWS = [slice(1, 3), slice(None, None, -1), [3], [2, 0, 2], np.array([True, False, False, True]), [-1], []]


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_any_selection_of_rows(tmp_path, rows):
    path = tmp_path / "coadd.fits"
    write_coadd(path)
    with desi.open_coadd(path) as coadd:
        whole = coadd.read()
        part = coadd.read(rows if not isinstance(rows, list) else np.array(rows, int))
    for a, b in zip(whole[1:], part[1:], strict=True):
        np.testing.assert_array_equal(b, a[np.array(rows, int) if isinstance(rows, list) else rows])


def test_combined_arm(tmp_path):
    path = tmp_path / "coadd.fits"
    data = write_coadd(path, arms=["BRZ"])
    with desi.open_coadd(path) as coadd:
        spectra = coadd.read()
    good = (data["BRZ_MASK"] == 0) & (data["BRZ_IVAR"] > 0)
    np.testing.assert_array_equal(spectra.flux[good], data["BRZ_FLUX"][good])
    np.testing.assert_array_equal(spectra.ivar[good], data["BRZ_IVAR"][good])
    assert not spectra.ivar[~good].any()


def test_missing_arm_is_not_covered(tmp_path):
    path = tmp_path / "coadd.fits"
    write_coadd(path, arms=["B", "Z"])
    with desi.open_coadd(path) as coadd:
        spectra = coadd.read()
    check_stack(path, 0, spectra, arms=("B", "Z"))
    gap = (desi_wave() > 5800.4) & (desi_wave() < 7519.6)
    assert not spectra.ivar[:, gap].any()
    assert (spectra.mask[:, gap] == NODATA).all()


def test_missing_mask_masks_nothing(tmp_path):
    path = tmp_path / "coadd.fits"
    data = write_coadd(path, omit=["B_MASK"])
    with desi.open_coadd(path) as coadd:
        blue = coadd.read().ivar[:, :2700]
    np.testing.assert_array_equal(blue > 0, data["B_IVAR"][:, :2700] > 0)


def test_not_finite_and_negative_pixels_weigh_nothing(tmp_path):
    path = tmp_path / "coadd.fits"
    data = write_coadd(path)
    flux, ivar = data["B_FLUX"].copy(), data["B_IVAR"].copy()
    flux[0, 5], ivar[0, 6], ivar[0, 7], flux[0, 8] = np.nan, np.inf, -1, -np.inf
    write_coadd(path, replace={"B_FLUX": flux, "B_IVAR": ivar})
    with desi.open_coadd(path) as coadd:
        spectra = coadd.read([0])
    assert not spectra.ivar[0, 5:9].any()
    assert not spectra.flux[0, 5:9].any()
    assert spectra.mask[0, 5:9].all()
    assert np.isfinite(spectra.flux).all()


def test_pixels_beyond_the_grid_are_left_out(tmp_path):
    path = tmp_path / "coadd.fits"
    wave = 3600 + 0.8 * np.arange(-5, 2746)
    data = write_coadd(path, replace={"B_WAVELENGTH": wave})
    with desi.open_coadd(path) as coadd:
        spectra = coadd.read([0])
    good = spectra.ivar[0, :2600] > 0
    np.testing.assert_array_equal(spectra.flux[0, :2600][good], data["B_FLUX"][0, 5:2605][good])


WAVE_B = desi_wave()[:2751]
BROKEN = {
    "no targetid": ({"omit": ["TARGETID"]}, "no column TARGETID"),
    "no arm": ({"arms": []}, "none of the HDUs"),
    "no ivar": ({"omit": ["R_IVAR"]}, "no HDU 'R_IVAR'"),
    "no wavelength": ({"omit": ["R_WAVELENGTH"]}, "no HDU 'R_WAVELENGTH'"),
    "nm": ({"units": {"B_WAVELENGTH": "nm"}}, "wavelengths in 'nm', expected Angstrom"),
    "flux unit": ({"units": {"Z_FLUX": "erg/(s cm2 Angstrom)"}}, "expected 1e-17 erg"),
    "janskys": ({"units": {"Z_FLUX": "Jy"}}, "flux in 'Jy'"),
    "grid off": ({"replace": {"B_WAVELENGTH": WAVE_B + 0.01}}, "not on the grid"),
    "grid step": ({"replace": {"B_WAVELENGTH": np.linspace(3600, 5800, 2751) * 1.001}}, "not on the grid"),
    "grid nan": ({"replace": {"B_WAVELENGTH": np.where(WAVE_B > 5000, np.nan, WAVE_B)}}, "not on the grid"),
    "grid gap": ({"replace": {"B_WAVELENGTH": WAVE_B + 80 * (WAVE_B > 5000)}}, "not on the grid"),
    "no pixels": ({"replace": {"B_WAVELENGTH": None}}, "B_WAVELENGTH holds no pixels"),
    "grid falling": ({"replace": {"B_WAVELENGTH": WAVE_B[::-1].copy()}}, "not on the grid"),
    "rows": ({"replace": {"R_FLUX": np.ones((3, 2326), "f4")}}, r"shape \(3, 2326\), expected \(4, 2326\)"),
    "pixels": ({"replace": {"R_IVAR": np.ones((4, 2325), "f4")}}, "R_IVAR has shape"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_malformed_coadd(tmp_path, case):
    path = tmp_path / "coadd-x.fits"
    kwargs, message = BROKEN[case]
    write_coadd(path, **kwargs)
    with pytest.raises(DataError, match=message) as error:
        desi.open_coadd(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "unit", ["1e-17 erg/s/cm2/AA", "1E-17 erg/cm^2/s/Ang", FLUX_UNIT, "10^-17 erg s-1 cm-2 A-1 "]
)
def test_spellings_of_the_flux_unit(tmp_path, unit):
    write_coadd(tmp_path / "c.fits", units={"B_FLUX": unit.replace("A-1", "Angstrom-1")})
    desi.open_coadd(tmp_path / "c.fits").close()


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("packed", [False, True])
def test_truncated_coadd(tmp_path, fraction, packed):
    path = tmp_path / "coadd-x.fits"
    write_coadd(path)
    if packed:
        packed_path = tmp_path / "coadd-x.fits.gz"
        packed_path.write_bytes(gzip.compress(path.read_bytes()))
        path = packed_path
    desi.open_coadd(path).close()
    truncate(path, fraction)
    with pytest.raises(DataError, match=r"coadd-x\.fits"):
        desi.open_coadd(path)


def test_trailing_bytes_are_harmless(tmp_path):
    path = tmp_path / "coadd.fits"
    write_coadd(path)
    path.write_bytes(path.read_bytes() + bytes(2880))
    desi.open_coadd(path).close()
    packed = tmp_path / "coadd.fits.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    desi.open_coadd(packed).close()


def test_compressed_table_is_refused(tmp_path):
    path = tmp_path / "coadd.fits"
    write_coadd(path)
    with fits.open(path, mode="update") as hdus:
        hdus["FIBERMAP"].header["ZTABLE"] = True
    with pytest.raises(DataError, match="funpack"):
        desi.open_coadd(path)


def test_scaled_columns_are_unscaled(tmp_path):
    path = tmp_path / "coadd.fits"
    write_coadd(path, columns={"TARGET_DEC": np.array([1, 2, 3, -4], "i4")})
    with fits.open(path, mode="update") as hdus:
        k = hdus["FIBERMAP"].columns.names.index("TARGET_DEC") + 1
        hdus["FIBERMAP"].header[f"TSCAL{k}"] = 0.25
    with desi.open_coadd(path) as coadd:
        np.testing.assert_array_equal(coadd.fibermap["TARGET_DEC"], [0.25, 0.5, 0.75, -1])
        np.testing.assert_array_equal(coadd.targetid, [1, 2, 3, 4])


def test_redrock(tmp_path):
    coadd = tmp_path / "coadd-main-bright-7.fits.gz"
    assert desi.redrock_path(coadd) is None
    write_redrock(tmp_path / "zbest-main-bright-7.fits", [5, 6], [0.1, 0.2], hdu="ZBEST")
    assert desi.redrock_path(coadd) == tmp_path / "zbest-main-bright-7.fits"
    write_redrock(tmp_path / "redrock-main-bright-7.fits", [5, 6], [0.1, 0.2])
    assert desi.redrock_path(coadd) == tmp_path / "redrock-main-bright-7.fits"
    for name in ("zbest", "redrock"):
        table = desi.read_redrock(tmp_path / f"{name}-main-bright-7.fits")
        assert list(table["SPECTYPE"]) == ["GALAXY"] * 2
        assert list(table["SUBTYPE"]) == ["", ""]
        np.testing.assert_array_equal(table["Z"], [0.1, 0.2])
    write_redrock(tmp_path / "bad.fits", [5], [0.1], hdu="OTHER")
    with pytest.raises(DataError, match="REDSHIFTS"):
        desi.read_redrock(tmp_path / "bad.fits")
    write_redrock(tmp_path / "bad.fits", [5], [0.1], omit=["ZWARN"])
    with pytest.raises(DataError, match="no column ZWARN"):
        desi.read_redrock(tmp_path / "bad.fits")


def test_find_coadds(tmp_path, survey_data):
    names = ["a/b/coadd-sv1-dark-2.fits", "a/coadd-sv1-dark-1.fits.gz", "coadd-z.fits"]
    for name in [*names, "redrock-z.fits", "coadd-z.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert desi.find_coadds(tmp_path) == [tmp_path / name for name in names]
    assert desi.find_coadds(tmp_path / "coadd-z.fits") == [tmp_path / "coadd-z.fits"]
    assert len(desi.find_coadds(survey_data / "desi")) == 4
    with pytest.raises(DataError, match="no such"):
        desi.find_coadds(tmp_path / "nowhere")


def test_files_of_any_name_are_found_by_their_content(tmp_path, survey_data):
    """Coadds first, else exposures, else whatever has the arms of DESI."""
    write_coadd(tmp_path / "my targets.fits", arms=["Z"])
    write_coadd(tmp_path / "below" / "no-fibermap.fits.gz", omit=["FIBERMAP"])
    (tmp_path / "junk.fits").write_bytes(b"not FITS at all")
    for other in sorted((survey_data / "sdss").glob("*.fits")):
        (tmp_path / other.name).symlink_to(other)
    (tmp_path / "table.fits").symlink_to(survey_data / "desi" / "redrock-special-dark-27247.fits")
    found = [path.name for path in desi.find_coadds(tmp_path)]
    assert sorted(found) == ["my targets.fits", "no-fibermap.fits.gz"]
    write_coadd(tmp_path / "spectra-main-dark-1.fits")
    assert [path.name for path in desi.find_coadds(tmp_path)] == ["spectra-main-dark-1.fits"]
    write_coadd(tmp_path / "coadd-main-dark-1.fits")
    assert [path.name for path in desi.find_coadds(tmp_path)] == ["coadd-main-dark-1.fits"]


def test_rows_without_a_fibermap_have_numbers_only(tmp_path):
    path = tmp_path / "coadd.fits"
    write_coadd(path)
    with desi.open_coadd(path) as coadd:
        whole = coadd.read()
    write_coadd(path, omit=["FIBERMAP"])
    with desi.open_coadd(path) as coadd:
        assert list(coadd.targetid) == [-1] * 4
        np.testing.assert_array_equal(coadd.read([3, 1]).flux, whole.flux[[3, 1]])
        np.testing.assert_array_equal(coadd.read_targets(np.array([1, 2])).flux, whole.flux[[1, 2]])


def test_exposures_of_a_target_are_their_inverse_variance_mean(tmp_path):
    """Against loops; a target of one exposure stays bit for bit, and fibres without a target as they are."""
    path = tmp_path / "spectra-main-dark-1.fits"
    write_coadd(path, targetid=[7, 5, 7, -3, 7, 6, -3], seed=3)
    with desi.open_coadd(path) as coadd:
        rows = coadd.read()
        spectra = coadd.read_targets(np.array([0, 1, 3, 6]))
    for part in ("flux", "ivar", "mask"):
        for at, row in ((1, 1), (2, 3), (3, 6)):
            np.testing.assert_array_equal(getattr(spectra, part)[at], getattr(rows, part)[row])
    exposures = [0, 2, 4]
    for pixel in [*range(0, N_WAVE, 97), *range(2700, 2751)]:
        ivar = rows.ivar[exposures, pixel].astype(float)
        flux = rows.flux[exposures, pixel].astype(float)
        if ivar.sum():
            assert spectra.flux[0, pixel] == pytest.approx((ivar * flux).sum() / ivar.sum(), rel=1e-6)
            assert spectra.mask[0, pixel] == 0
        else:
            assert spectra.flux[0, pixel] == 0
            assert spectra.mask[0, pixel] == np.bitwise_or.reduce(rows.mask[exposures, pixel])
        assert spectra.ivar[0, pixel] == pytest.approx(ivar.sum(), rel=1e-6)
    assert (rows.ivar[exposures] == 0).all(axis=0).sum() == (spectra.ivar[0] == 0).sum()


@pytest.mark.parametrize("arms", [["B", "Z"], ["R"], ["B"]])
def test_a_missing_arm_has_no_wavelengths(tmp_path, arms):
    path = tmp_path / "coadd.fits"
    write_coadd(path, arms=arms)
    with desi.open_coadd(path) as coadd:
        spectra = coadd.read()
    covered = np.isin(np.arange(N_WAVE), np.concatenate([np.arange(N_WAVE)[ARM_SLICES[arm]] for arm in arms]))
    np.testing.assert_array_equal(np.isfinite(spectra.wave), covered)
    np.testing.assert_array_equal(spectra.wave[covered], desi_wave()[covered])
    assert not spectra.good[:, ~covered].any()


def test_targets_of_real_files(survey_data):
    """All are found, each in its file and row."""
    spectra = CoaddFiles("real", desi.find_coadds(survey_data / "desi"))
    assert spectra.problems == []
    (everybody,) = spectra.blocks()
    match = spectra.match(everybody)
    np.testing.assert_array_equal(match.row, np.arange(len(spectra)))
    assert not match.ambiguous.any()
    file, row = spectra.locate(match.row)
    for i, path in enumerate(spectra.files):
        ids = fitsio.read(path, ext="FIBERMAP", columns="TARGETID")
        np.testing.assert_array_equal(ids[row[file == i]], everybody.ids["TARGETID"][file == i])
    names = np.array([path.name for path in spectra.files])[file]
    assert set(everybody.ids["SURVEY"][names == "coadd-sv3-dark-26065.fits.gz"]) == {"sv3"}
    assert set(everybody.ids["HEALPIX"][names == "coadd-sv3-dark-26065.fits.gz"]) == {26065}
    assert set(everybody.ids["PROGRAM"][names == "coadd-4-80613-thru20210324.fits"]) == {""}
    placed = np.isfinite(everybody.ra)
    by_position = spectra.match(who(everybody.ra, everybody.dec))
    np.testing.assert_array_equal(by_position.row >= 0, placed)
    spectra.close()


def test_targets_of_files_tell_surveys_apart(tmp_path):
    write_coadd(tmp_path / "coadd-main-dark-8.fits", targetid=[1, 2])
    write_coadd(tmp_path / "coadd-sv1-bright-8.fits", targetid=[2, 3])
    card = {"SURVEY": "sv1", "PROGRAM": "dark", "HPXPIXEL": 9}
    write_coadd(tmp_path / "coadd-unnamed.fits", targetid=[2], header=card)
    (tmp_path / "coadd-bad-dark-1.fits").write_bytes(b"junk")
    spectra = CoaddFiles("three", desi.find_coadds(tmp_path))
    assert [(p.name, "coadd-bad-dark-1.fits" in why) for p, why in spectra.problems] == [
        ("coadd-bad-dark-1.fits", True)
    ]

    def places(**ids):
        match = spectra.match(who(**ids))
        file, row = spectra.locate(match.row)
        found = match.row >= 0
        return list(zip(np.where(found, file, -1), row, match.ambiguous, strict=True))

    assert places(TARGETID=[2, 1, 99, 3]) == [(0, 1, True), (0, 0, False), (-1, -1, False), (1, 1, False)]
    surveys = {"SURVEY": ["sv1", "main", "sv1", ""], "PROGRAM": ["dark", "dark", "bright", ""]}
    assert places(TARGETID=[2] * 4, **surveys) == [
        (2, 0, False), (0, 1, False), (1, 0, False), (0, 1, True)
    ]  # fmt: skip
    assert [file for file, *_ in places(TARGETID=[2, 2], HEALPIX=[9, -1])] == [2, 0]
    assert places(TARGETID=[3], SURVEY=["main"]) == [(-1, -1, False)]
    assert spectra.read(np.array([3, 0, 3])).flux.shape == (3, N_WAVE)
    with pytest.raises(IndexError, match="of 5"):
        spectra.read([5])


def test_sky_fibres_are_not_found_by_position(tmp_path):
    path = tmp_path / "coadd-main-dark-8.fits"
    write_coadd(path, targetid=[1, 2, 3, 4], columns={"OBJTYPE": ["TGT", "SKY", "BAD", "TGT"]})
    spectra = CoaddFiles("one", [path])
    ra, dec = np.linspace(10, 10.1, 4), np.linspace(-5, -5.1, 4)
    assert spectra.match(who(ra, dec)).row.tolist() == [0, -1, -1, 3]
    assert spectra.match(who(TARGETID=[2])).row.tolist() == [1]


@pytest.mark.parametrize("known", [0, 1, 2, 3])
def test_files_that_are_added_are_as_if_they_had_been_there(tmp_path, known):
    for name, targetid in (("main-dark-8", [1, 4]), ("sv1-bright-8", [4, 3]), ("sv3-dark-9", [2, 4])):
        write_coadd(tmp_path / f"coadd-{name}.fits", targetid=targetid)
    paths = desi.find_coadds(tmp_path)
    grown, whole = CoaddFiles("grown", paths[:known]), CoaddFiles("whole", paths)
    grown.update(paths)
    asked = who(TARGETID=[4, 1, 2, 3, 9], SURVEY=["sv3", "", "", "", ""])
    for one, other in zip(grown.match(asked), whole.match(asked), strict=True):
        np.testing.assert_array_equal(one, other)
    assert grown.files == whole.files
    np.testing.assert_array_equal(grown.read([5, 0]).flux, whole.read([5, 0]).flux)
    assert CoaddFiles("none", []).match(asked).row.tolist() == [-1] * 5


def test_a_file_is_opened_once_and_a_broken_one_too(tmp_path, monkeypatch):
    for i in range(3):
        write_coadd(tmp_path / f"coadd-main-dark-{i}.fits", targetid=[10 * i + k for k in range(4)])
    truncate(tmp_path / "coadd-main-dark-2.fits", 0.5)
    spectra = CoaddFiles("three", desi.find_coadds(tmp_path))
    opened = []

    def note(path):
        opened.append(path.name)
        return desi.open_coadd(path)

    monkeypatch.setattr("astroclip.data.coadd_sets.open_coadd", note)
    spectra.read([0, 5, 3, 4, 1])
    spectra.read([2, 6])
    for _ in range(2):
        with pytest.raises(DataError, match="cut short"):
            spectra.read([8, 0])
    assert opened == [f"coadd-main-dark-{i}.fits" for i in (0, 1, 2)]
