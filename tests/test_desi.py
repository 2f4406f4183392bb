"""DESI coadds and redshifts: real files against a plain stack, and every variant of the format."""

import gzip

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from builders import FLUX_UNIT, truncate, write_coadd, write_redrock
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.data import desi
from astroclip.data.grid import NODATA
from astroclip.errors import DataError
from astroclip.schema import N_WAVE, desi_wave


def stack(path, row, arms=("B", "R", "Z")):
    """Combine the arms of one row with loops, the textbook way."""
    weight, total, bits = {}, {}, {}
    with fits.open(path) as hdus:
        for arm in arms:
            wave, flux, ivar, mask = (hdus[f"{arm}_{k}"].data for k in ("WAVELENGTH", "FLUX", "IVAR", "MASK"))
            for k in range(len(wave)):
                pixel = round((float(wave[k]) - 3600) / 0.8)
                bits[pixel] = bits.get(pixel, 0) | int(mask[row][k])
                if mask[row][k] == 0 and ivar[row][k] > 0:
                    weight[pixel] = weight.get(pixel, 0.0) + float(ivar[row][k])
                    total[pixel] = total.get(pixel, 0.0) + float(ivar[row][k]) * float(flux[row][k])
    flux, ivar = np.zeros(N_WAVE), np.zeros(N_WAVE)
    for pixel, w in weight.items():
        flux[pixel], ivar[pixel] = total[pixel] / w, w
    return flux, ivar, bits


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
    gap = (spectra.wave > 5800.4) & (spectra.wave < 7519.6)
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
    "no fibermap": ({"omit": ["FIBERMAP"]}, "no HDU 'FIBERMAP'"),
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


def test_is_coadd(tmp_path, survey_data):
    write_coadd(tmp_path / "a.fits", arms=["Z"])
    (tmp_path / "b.fits").write_bytes(b"not FITS at all")
    assert desi.is_coadd(tmp_path / "a.fits")
    assert desi.is_coadd(survey_data / "desi" / "coadd-sv3-dark-26065.fits.gz")
    others = [tmp_path / "b.fits", tmp_path / "none.fits", tmp_path]
    others += [survey_data / "desi" / "redrock-special-dark-27247.fits"]
    others += sorted((survey_data / "sdss").glob("*.fits"))
    assert not any(desi.is_coadd(path) for path in others)


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


def test_index_of_real_files(survey_data):
    index = desi.index_coadds(desi.find_coadds(survey_data / "desi"))
    assert index.unreadable == []
    assert (np.diff(index.targetid) > 0).all()
    match = index.lookup(index.targetid)
    np.testing.assert_array_equal(match.file, index.file)
    np.testing.assert_array_equal(match.row, index.row)
    assert not match.ambiguous.any()
    for file, path in enumerate(index.files):
        mine = index.file == file
        np.testing.assert_array_equal(
            fitsio.read(path, ext="FIBERMAP", columns="TARGETID")[index.row[mine]], index.targetid[mine]
        )
    tags = dict(zip([p.name for p in index.files], zip(*index[1:4], strict=True), strict=True))
    assert tags["coadd-sv3-dark-26065.fits.gz"] == ("sv3", "dark", 26065)
    assert tags["coadd-4-80613-thru20210324.fits"] == ("", "", -1)


def test_lookup_tells_surveys_apart(tmp_path):
    write_coadd(tmp_path / "coadd-main-dark-8.fits", targetid=[1, 2])
    write_coadd(tmp_path / "coadd-sv1-bright-8.fits", targetid=[2, 3])
    card = {"SURVEY": "sv1", "PROGRAM": "dark", "HPXPIXEL": 9}
    write_coadd(tmp_path / "coadd-unnamed.fits", targetid=[2], header=card)
    (tmp_path / "coadd-bad-dark-1.fits").write_bytes(b"junk")
    index = desi.index_coadds(desi.find_coadds(tmp_path))
    assert [(p.name, "coadd-bad-dark-1.fits" in why) for p, why in index.unreadable] == [
        ("coadd-bad-dark-1.fits", True)
    ]
    match = index.lookup([2, 1, 99, 3])
    assert list(match.file) == [0, 0, -1, 1]
    assert list(match.row) == [1, 0, -1, 1]
    assert list(match.ambiguous) == [True, False, False, False]
    match = index.lookup(
        [2, 2, 2, 2], survey=["sv1 ", "main", "sv1", ""], program=["dark", "dark", "bright", ""]
    )
    assert list(match.file) == [2, 0, 1, 0]
    assert list(match.ambiguous) == [False, False, False, True]
    assert list(index.lookup([2, 2], healpix=[9, -1]).file) == [2, 0]
    assert list(index.lookup([2], survey=np.array([b"sv1   "]), program="bright", healpix=8).file) == [1]
    assert list(index.lookup([3], survey="main").file) == [-1]


@pytest.mark.parametrize("known", [0, 1, 2, 3])
def test_an_index_that_grows_is_the_index_of_all(tmp_path, known):
    for name, targetid in (("main-dark-8", [1, 4]), ("sv1-bright-8", [4, 3]), ("sv3-dark-9", [2, 4])):
        write_coadd(tmp_path / f"coadd-{name}.fits", targetid=targetid)
    paths = desi.find_coadds(tmp_path)
    grown = desi.index_coadds(paths, desi.index_coadds(paths[:known]))
    for one, whole in zip(grown, desi.index_coadds(paths), strict=True):
        assert list(one) == list(whole)
        assert getattr(one, "dtype", None) == getattr(whole, "dtype", None)


def test_empty_index():
    index = desi.index_coadds([])
    assert list(index.lookup([1, 2]).file) == [-1, -1]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-3, 8), st.sampled_from(["", "main", "sv1"])), max_size=30),
    st.lists(st.tuples(st.integers(-3, 8), st.sampled_from(["", "main", "sv1"])), max_size=12),
)
def test_lookup_agrees_with_a_search(entries, queries):
    """One entry a file: the answer is the first entry that fits, and how many fit."""
    ids = np.array([e[0] for e in entries], np.int64)
    order = np.argsort(ids, kind="stable")
    n = len(entries)
    index = desi.CoaddIndex(
        [], np.array([e[1] for e in entries], str), np.full(n, "", str), np.full(n, -1),
        ids[order], np.arange(n, dtype=np.int32)[order], np.zeros(n, np.int32), [],
    )  # fmt: skip
    match = index.lookup([q[0] for q in queries], survey=np.array([q[1] for q in queries], str))
    for k, (targetid, survey) in enumerate(queries):
        fits_ = [
            i for i, (t, s) in enumerate(entries) if t == targetid and (s == survey or not s or not survey)
        ]
        assert match.file[k] == (fits_[0] if fits_ else -1)
        assert match.ambiguous[k] == (len(fits_) > 1)
