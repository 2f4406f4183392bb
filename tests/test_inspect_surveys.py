"""Survey files under inspection: spectra, images, HDF5 and pairs, whole and faulty."""

import json
import shutil

import h5py
import numpy as np
import pytest
from builders import truncate, write_band_hdus, write_coadd, write_cube, write_redrock, write_spec
from builders_hats import write_hats
from builders_hdf5 import (
    write_hdf5,
    write_multimodal_images,
    write_multimodal_spectra,
    write_provabgs,
    write_stein,
)
from numpy.testing import assert_allclose, assert_array_equal
from test_pictures import save

from astroclip.data.describe import inspect_file, read_sample
from astroclip.data.kinds import Kind, find_kind
from astroclip.data.pairs import Label, write_pairs
from astroclip.errors import DataError, UsageError
from astroclip.plots import plot_pairs


def problems_of(path) -> str:
    return "\n".join(inspect_file(path).problems)


# --- HATS catalogues --------------------------------------------------------------------------------------


def test_a_hats_catalogue_tells_files_columns_and_sky(tmp_path, rng):
    columns = {"x": rng.uniform(350, 370, 90) % 360, "y": rng.uniform(-5, 5, 90), "NAME": np.full(90, "a")}
    columns["y"][3] = np.nan
    write_hats(tmp_path / "hats", columns, "x", "y", collection=True)
    report = inspect_file(tmp_path / "hats")
    assert (report.kind, report.rows, report.facts["position"]) == (
        Kind.HATS,
        90,
        "x (deg, not stated), y (deg, not stated)",
    )
    assert [(c.name, c.dtype) for c in report.columns][1:3] == [("y", "float64"), ("NAME", "str")]
    assert report.facts["files"] > 1
    assert report.facts["dec_deg"][0] == pytest.approx(np.nanmin(columns["y"]))
    assert "1 rows" in problems_of(tmp_path / "hats")
    next((tmp_path / "hats").glob("main/dataset/**/*.parquet")).unlink()
    assert "files are missing" in problems_of(tmp_path / "hats")


# --- spectra ----------------------------------------------------------------------------------------------


def test_a_coadd_tells_arms_rows_with_data_and_redshifts(tmp_path):
    path = tmp_path / "coadd-sv3-dark-26065.fits"
    ids = [1, 2, 3, -4]
    arms = write_coadd(path, targetid=ids)
    ivar = {f"{arm}_IVAR": arms[f"{arm}_IVAR"].copy() for arm in "BRZ"}
    for values in ivar.values():
        values[[1, 3]] = 0
    columns = {"OBJTYPE": ["TGT", "SKY", "TGT", ""], "COADD_FIBERSTATUS": np.array([0, 0, 0, 8], "i4")}
    write_coadd(path, targetid=ids, replace=ivar, columns=columns)
    write_redrock(path.with_name("redrock-sv3-dark-26065.fits"), ids, [0.1, 0.2, 0.3, 0.4])
    report = inspect_file(path)
    assert (report.kind, report.rows) == (Kind.COADD, 4)
    assert report.facts["arms"]["R"] == "5760.0-7620.0 Å, 2326 px"
    assert report.facts["rows with data"] == 2
    assert report.facts["OBJTYPE"] == {"TGT": 2, "SKY": 1, "(blank)": 1}
    assert report.facts["COADD_FIBERSTATUS not 0"] == "1 rows"
    assert report.facts["Z"] == [0.1, 0.4]
    (problem,) = report.problems
    assert "rows 1, 3 (from 0); of these 1 have a bad COADD_FIBERSTATUS, 2 are no target" in problem

    sample = read_sample(path, rows=6)
    assert [title.split()[0] for title in sample.titles] == ["1", "3"]
    assert_array_equal(sample.redshifts, [0.1, 0.3])
    assert sample.spectra.flux.shape == (2, 7781)
    assert sample.images is None


def test_a_coadd_beside_anothers_redrock(tmp_path):
    write_coadd(tmp_path / "coadd-1.fits")
    write_redrock(tmp_path / "redrock-1.fits", [9, 8, 7, 6], [0.1] * 4)
    assert "redrock-1.fits has other targets" in problems_of(tmp_path / "coadd-1.fits")
    assert np.isnan(read_sample(tmp_path / "coadd-1.fits").redshifts).all()


def test_a_redrock_file(tmp_path):
    write_redrock(tmp_path / "redrock-1.fits", [1, 2], [0.1, 0.5])
    report = inspect_file(tmp_path / "redrock-1.fits")
    assert (report.kind, report.rows, report.facts["Z"]) == (Kind.REDROCK, 2, [0.1, 0.5])
    with pytest.raises(UsageError, match="no pixels to draw"):
        read_sample(tmp_path / "redrock-1.fits")


def test_a_folder_of_coadds(tmp_path):
    for program in ("dark", "bright"):
        write_coadd(tmp_path / program / f"coadd-sv3-{program}-26065.fits")
    write_coadd(tmp_path / "dark2" / "coadd-sv3-dark-26066.fits", targetid=[1, 99])
    truncate(shutil.copy(tmp_path / "dark2" / "coadd-sv3-dark-26066.fits", tmp_path / "coadd-9.fits"), 0.5)
    report = inspect_file(tmp_path)
    assert (report.kind, report.rows, report.facts["files"]) == (Kind.COADDS, 10, 4)
    assert report.facts["unreadable"] == 1
    said = "\n".join(report.problems)
    assert "coadd-9.fits: cut short" in said
    assert "1 rows repeat the TARGETID, SURVEY, PROGRAM of an earlier row" in said
    assert "4 coadds have no Redrock file" in said


def test_the_sample_of_a_folder_of_coadds_is_spread_over_files(tmp_path):
    for i in range(3):
        write_coadd(tmp_path / f"coadd-{i}.fits", targetid=np.arange(4) + 10 * i)
    sample = read_sample(tmp_path, rows=6, seed=3)
    assert len(sample.titles) == len(sample.spectra.flux) == 6
    assert {int(title) // 10 for title in sample.titles} == {0, 1, 2}
    assert sample.titles == read_sample(tmp_path, rows=6, seed=3).titles


def test_sdss_spectra(tmp_path):
    path = tmp_path / "spec-0266-51602-0007.fits"
    write_spec(path)
    report = inspect_file(path)
    assert (report.kind, report.rows, report.problems) == (Kind.SPEC, 1, [])
    assert report.facts["wave_angstrom"][0] == pytest.approx(10**3.58, rel=1e-4)
    assert (report.facts["PLATE"], report.facts["SPECTYPE"]) == (266, {"GALAXY": 1})
    other = tmp_path / "spec-0266-51602-0008.fits"
    write_spec(other, fiber=8, columns={"ivar": np.zeros(3800, "f4")}, omit=["SPECOBJ"])
    assert problems_of(other) == "1 rows have no position (NaN)\nno good pixel"
    (tmp_path / "copy").mkdir()
    shutil.copy(path, tmp_path / "copy")
    report = inspect_file(tmp_path)
    assert (report.kind, report.rows) == (Kind.SPECS, 3)
    assert "1 rows repeat the PLATE, MJD, FIBERID of an earlier row" in "".join(report.problems)
    sample = read_sample(path)
    assert_allclose(sample.spectra.wave, 10 ** (3.58 + 1e-4 * np.arange(3800)), rtol=1e-6)
    assert sample.redshifts == [0.1]


# --- images -----------------------------------------------------------------------------------------------


def test_an_image_tells_bands_size_scale_footprint_and_bad_pixels(tmp_path):
    invvar = np.ones((3, 160, 200), "f4")
    invvar[1, :80] = 0
    write_cube(tmp_path / "cutout.fits", ra=0.0, dec=10.0, shape=(160, 200), invvar=invvar)
    report = inspect_file(tmp_path / "cutout.fits")
    assert (report.kind, report.problems) == (Kind.IMAGE, [])
    assert report.facts["size"] == "200 x 160 px"
    assert report.facts["pixscale_arcsec"] == 0.262
    assert report.facts["inverse variance"] == "yes"
    assert report.facts["bad pixels"] == {"g": "0.00%", "r": "50.00%", "z": "0.00%"}
    assert report.facts["across RA 0"] == "yes"
    west, east = report.facts["ra_deg"]
    assert (east - west) % 360 == pytest.approx(200 * 0.262 / 3600 / np.cos(np.radians(10)), rel=1e-3)
    assert read_sample(tmp_path / "cutout.fits").images.shape == (1, 3, 160, 200)


def test_what_is_wrong_with_images(tmp_path):
    write_cube(tmp_path / "a.fits", ra=None, image=np.zeros((3, 100, 100), "f4"))
    said = problems_of(tmp_path / "a.fits")
    assert "no celestial WCS" in said
    assert "100 x 100 px, smaller than a cut-out of 152" in said
    assert "band g has no good pixel" in said
    write_cube(tmp_path / "b.fits", pixel_deg=0.4 / 3600)
    assert "1 images are at 0.4 arcsec/px, expected 0.262" in problems_of(tmp_path / "b.fits")
    write_band_hdus(tmp_path / "c.fits", bands="gr")
    report = inspect_file(tmp_path / "c.fits")
    assert (report.kind, report.rows) == (Kind.IMAGE, None)
    assert "no image in the band z" in report.problems[0]


def test_a_folder_of_images(tmp_path):
    write_cube(tmp_path / "a_123.fits", ra=10)
    write_cube(tmp_path / "b_123.fits", ra=11, pixel_deg=0.3 / 3600)
    write_cube(tmp_path / "c_9.fits", ra=None)
    truncate(shutil.copy(tmp_path / "a_123.fits", tmp_path / "d_4.fits"), 0.001)
    report = inspect_file(tmp_path)
    assert (report.kind, report.rows) == (Kind.IMAGES, 3)
    assert report.facts["sizes"] == {"152 x 152 px": 3}
    assert report.facts["named by an identifier"] == "3 files"
    said = "\n".join(report.problems)
    for words in (
        "d_4.fits",
        "1 images have no celestial WCS",
        "1 images are at 0.3",
        "1 rows repeat the TARGETID of an earlier row: rows 1 (from 0), the first with 123",
    ):
        assert words in said
    sample = read_sample(tmp_path)
    assert sample.images.shape == (3, 3, 152, 152)
    assert sample.pixscale is None


def test_pictures_are_described_and_drawn_as_they_are(tmp_path):
    for i in range(3):
        save(tmp_path / "p" / f"{100 + i}.png", np.full((3, 60, 60), 0.1, "f4"))
    (tmp_path / "p" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    report = inspect_file(tmp_path / "p")
    assert (report.kind, report.facts["files"], report.facts["identifier"]) == (Kind.IMAGES, 4, "TARGETID")
    sample = read_sample(tmp_path / "p")
    assert (sample.images.shape, sample.stretched, sample.pixscale) == ((3, 3, 60, 60), True, None)
    plot_pairs(*sample[:4], tmp_path / "p.png", *sample[4:])
    one = inspect_file(tmp_path / "p" / "100.png")
    assert (one.kind, one.rows) == (Kind.PICTURE, 1)


def test_spectra_on_grids_of_their_own_are_drawn(tmp_path):
    for i, start in enumerate((3.58, 3.6)):
        columns = {"loglam": (start + 1e-4 * np.arange(3800)).astype("f4")}
        write_spec(tmp_path / "s" / f"spec-0266-51602-000{i}.fits", fiber=i, columns=columns)
    sample = read_sample(tmp_path / "s")
    assert sample.spectra.flux.shape[0] == 2
    plot_pairs(*sample[:4], tmp_path / "s.png", *sample[4:])


def test_a_large_image_is_sampled_in_stamps(tmp_path):
    write_cube(tmp_path / "mosaic.fits", shape=(600, 200))
    sample = read_sample(tmp_path / "mosaic.fits", rows=4)
    assert sample.images.shape == (4, 3, 152, 152)
    assert np.isfinite(sample.images).all()


def test_stein_files_tell_wrong_lengths_repeats_and_missing_positions(tmp_path):
    one = write_stein(tmp_path / "south" / "images_npix152_000000000_001000000.h5", 6)
    ids = {name: one[name][[0, 0, 1, 2, 3, 4]] + np.arange(6) * 7 * (name == "objid") for name in
           ("release", "brickid", "objid")}  # fmt: skip
    ids = {name: np.concatenate([one[name][:1], values[1:]]) for name, values in ids.items()}
    ra = np.append(one["ra"][:5], np.nan)
    other = tmp_path / "south" / "images_npix152_001000000_002000000.h5"
    write_stein(other, 6, seed=1, replace={"ra": ra, **ids, "flux": np.ones((5, 3))}, omit=["z_spec"])
    truncate(shutil.copy(other, tmp_path / "south" / "images_npix152_002000000_003000000.h5"), 0.5)
    report = inspect_file(tmp_path)
    assert (report.kind, report.rows) == (Kind.STEIN, 12)
    assert (report.facts["files"], report.facts["unreadable"]) == (2, 1)
    assert {"images", "ra", "z_spec"} <= {column.name for column in report.columns}
    said = "\n".join(report.problems)
    assert "dataset 'flux' has shape (5, 3), but there are 6 images" in said
    assert "1 rows have no position" in said
    assert "001000000_002000000.h5 row 0" in said
    assert "002000000_003000000.h5: cannot read" in said
    single = inspect_file(other)
    assert (single.kind, single.rows) == (Kind.STEIN, 6)
    sample = read_sample(tmp_path, rows=5)
    assert sample.images.shape == (5, 3, 16, 16)
    no_ids = tmp_path / "images_npix152_0.h5"
    write_stein(no_ids, 4, omit=["objid"])
    said = problems_of(no_ids)
    assert "no dataset 'objid'" in said
    assert "4 rows have no usable (release, brickid, objid)" in said
    assert "that an earlier row shows" not in said


def test_multimodal_universe_files(tmp_path):
    spectra, images = tmp_path / "desi" / "001-of-001.hdf5", tmp_path / "legacy" / "001-of-001.hdf5"
    ivar = np.ones((4, 7781), "f4")
    ivar[2] = 0
    write_multimodal_spectra(spectra, [11, 12, 13, 11], spectrum_ivar=ivar)
    report = inspect_file(spectra)
    assert (report.kind, report.rows) == (Kind.MULTIMODAL_SPECTRA, 4)
    assert sum(report.facts["Z_GOOD"].values()) == 4
    said = "\n".join(report.problems)
    assert "1 rows repeat the TARGETID of an earlier row: rows 3 (from 0), the first with 11" in said
    assert "1 rows have no data" in said
    zero = np.zeros((2, 4, 160, 160), "f4")
    write_multimodal_images(images, np.array(["a", "b"]), image_array=zero, image_ivar=zero, ebv=np.ones(3))
    assert "2 images have no good pixel" in problems_of(images)
    assert "dataset 'ebv' has shape (3,), but there are 2 rows" in problems_of(images)
    assert find_kind(tmp_path / "desi") == Kind.MULTIMODAL_SPECTRA
    assert inspect_file(tmp_path / "legacy").kind == Kind.MULTIMODAL_IMAGES
    assert read_sample(spectra, 2).spectra.flux.shape == (2, 7781)
    with pytest.raises(DataError, match="nothing to draw"):
        read_sample(images)
    write_multimodal_images(images, np.array(["a", "b"]))
    assert read_sample(images).images.shape == (2, 3, 20, 20)


def make_pairs(path, n=5, **other):
    """Write a pairs file with a label."""
    zero = np.zeros((n, 7781))
    block = {
        "image": np.ones((n, 3, 152, 152), "f4"), "flux": zero.astype("f4"), "ivar": zero.astype("f4") + 1,
        "mask": zero.astype("u2"), "targetid": np.arange(n), "ra": np.linspace(359, 361, n) % 360,
        "dec": np.zeros(n), "redshift": np.arange(n) / 10, "log_mstar": np.full(n, 10, "f4"),
    } | other  # fmt: skip
    label = Label("log_mstar", unit="dex(Msun)", source="PROVABGS, Chabrier")
    with write_pairs(path, n, labels=[label], settings={"cut": "galaxy"}) as writer:
        writer.write(block)
    return path


def test_pairs_tell_parts_labels_and_their_making(tmp_path):
    report = inspect_file(make_pairs(tmp_path / "pairs.h5"))
    assert (report.kind, report.rows, report.problems) == (Kind.PAIRS, 5, [])
    assert sum(report.facts["parts"].values()) == 5
    assert report.facts["ra_deg"] == [359, 1]
    assert report.facts["Z"] == [0, 0.4]
    assert report.facts["settings"] == {"cut": "galaxy"}
    assert report.facts["label sources"] == {"log_mstar": "PROVABGS, Chabrier"}
    assert report.columns[0] == ("image", "float32", (3, 152, 152), "nanomaggy")
    assert report.columns[-1] == ("label log_mstar", "float32", (), "dex(Msun)")
    json.dumps(report._asdict(), default=str)
    sample = read_sample(tmp_path / "pairs.h5", 3)
    assert_allclose(sample.redshifts, np.array(sample.titles, int) / 10)
    assert sample.images.shape == (3, 3, 152, 152)


def test_what_is_wrong_with_pairs(tmp_path):
    ivar = np.ones((5, 7781), "f4")
    ivar[2] = 0
    z, ra = np.array([0.1, np.nan, 0.3, 0.4, 0.5]), np.array([1.0, 2, 3, 4, np.nan])
    path = make_pairs(tmp_path / "p.h5", ivar=ivar, redshift=z, ra=ra, targetid=np.array([1, 2, 3, 2, 5]))
    assert inspect_file(path).problems == [
        "1 rows have no position (NaN)",
        "1 rows repeat the TARGETID, SURVEY, PROGRAM of an earlier row: rows 3 (from 0), the first with 2 "
        "(p.h5 row 3)",
        "1 rows have no redshift (NaN)",
        "1 rows have no data, all their pixels are masked or have inverse variance 0: rows 2 (from 0)",
    ]
    with h5py.File(path, "r+") as h5:
        del h5["ivar"]
    report = inspect_file(path)
    assert (report.kind, report.rows) == (Kind.PAIRS, None)
    assert "no dataset 'ivar'" in report.problems[0]


def test_the_published_pairs(tmp_path):
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "astroclip_desi.h5", "w") as h5:
        for group in map(str, range(10)):
            h5[f"{group}/images"] = rng.normal(size=(2, 152, 152, 3)).astype("f4")
            h5[f"{group}/spectra"] = rng.normal(size=(2, 7781, 1)).astype("f4")
            h5[f"{group}/redshifts"] = [0.1, 0.2]
            h5[f"{group}/targetids"] = np.arange(2) + 2 * int(group)
    report = inspect_file(tmp_path / "astroclip_desi.h5")
    assert (report.kind, report.rows, report.problems) == (Kind.PAIRS, 20, [])
    assert np.isnan(read_sample(tmp_path / "astroclip_desi.h5", 2).spectra.ivar).all()


def test_other_hdf5_files_are_listed(tmp_path):
    write_provabgs(tmp_path / "provabgs.hdf5", layout="columns")
    report = inspect_file(tmp_path / "provabgs.hdf5")
    assert (report.kind, report.rows) == (Kind.HDF5, 20)
    write_hdf5(tmp_path / "x.h5", {"a": np.ones(2), "b": np.ones((3, 4))})
    report = inspect_file(tmp_path / "x.h5")
    assert report.rows is None
    assert report.columns[1] == ("b", "float64", (4,), "")
