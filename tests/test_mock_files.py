"""The mock's files: formats, links between them, determinism, and the errors of the command."""

import csv
import filecmp
import shutil
from collections import namedtuple
from pathlib import Path

import fitsio
import h5py
import numpy as np
import pytest

from astroclip.errors import DataError, UsageError
from astroclip.mock import survey

pytest.importorskip("galsim", reason="needs the extra: pip install 'astroclip[mock]'")
pytest.importorskip("kcorrect", reason="needs the extra: pip install 'astroclip[mock]'")
pytest.importorskip("speclite", reason="needs the extra: pip install 'astroclip[mock]'")

GALAXIES, SEED = 120, 2


@pytest.fixture(scope="module")
def mock(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("mock") / "sky"
    seen: list[tuple[int, int]] = []
    counts = survey.make_mock(out, GALAXIES, SEED, report=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == counts["spectra"] + counts["images"]
    assert [p.name for p in out.parent.iterdir()] == ["sky"], "nothing is left beside it"
    return out


@pytest.fixture(scope="module")
def truth(mock) -> np.ndarray:
    return fitsio.read(mock / "truth.fits", "TRUTH")


@pytest.fixture(scope="module")
def zcatalog(mock) -> np.ndarray:
    return fitsio.read(mock / "zcatalog" / "zall-pix-mock.fits", "ZCATALOG")


def coadds(mock: Path) -> list[Path]:
    return sorted(mock.glob("healpix/*/*/*/*/coadd-*.fits"))


def schema(hdu) -> dict[str, tuple[str, str]]:
    header = hdu.read_header()
    numbers = range(1, header["TFIELDS"] + 1)
    return {header[f"TTYPE{k}"]: (header[f"TFORM{k}"], header.get(f"TUNIT{k}", "")) for k in numbers}


def test_same_files_from_two_workers(mock, tmp_path):
    again = tmp_path / "again"
    survey.make_mock(again, GALAXIES, SEED, workers=2)
    files = sorted(p.relative_to(mock) for p in mock.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    _, different, unreadable = filecmp.cmpfiles(mock, again, files, shallow=False)
    assert not different
    assert not unreadable


def test_another_seed_is_another_sky(truth):
    from astroclip.mock.scene import make_sky

    other = make_sky(50, SEED + 1)
    assert not np.isin(other["RA"], truth["RA"]).any()


def test_coadds_have_the_columns_and_units_of_real_ones(mock, survey_data):
    coadd = coadds(mock)[0]
    for kind in ("coadd", "redrock"):
        own = coadd.with_name(coadd.name.replace("coadd", kind))
        real = survey_data / "desi" / f"{kind}-special-dark-27247.fits"
        with fitsio.FITS(own) as mine, fitsio.FITS(real) as theirs:
            assert [h.get_extname() for h in mine] == [h.get_extname() for h in theirs]
            for hdu in theirs[1:]:
                same = mine[hdu.get_extname()]
                if hdu.get_exttype() == "BINARY_TBL":
                    assert {k: v[0] for k, v in schema(same).items()} == {
                        k: v[0] for k, v in schema(hdu).items()
                    }
                    if "coadd" in own.name:
                        assert schema(same) == schema(hdu)
                else:
                    assert same.get_dims()[1:] == hdu.get_dims()[1:]
                    for card in ("BITPIX", "BUNIT"):
                        assert same.read_header().get(card) == hdu.read_header().get(card)
            cards = ("SPGRP", "HPXNSIDE", "HPXNEST")
            assert [mine[0].read_header()[c] for c in cards] == [theirs[0].read_header()[c] for c in cards]


def test_every_spectrum_lies_where_the_catalogue_says(mock, truth, zcatalog):
    found = {}
    for path in coadds(mock):
        survey_name, program, thousand, pixel = path.parts[-5:-1]
        assert path.name == f"coadd-{survey_name}-{program}-{pixel}.fits"
        assert int(thousand) == int(pixel) // 100
        assert fitsio.read_header(path)["HPXPIXEL"] == int(pixel)
        fibermap = fitsio.read(path, "FIBERMAP")
        redshifts = fitsio.read(str(path).replace("coadd-", "redrock-"), "REDSHIFTS")
        np.testing.assert_array_equal(fibermap["TARGETID"], redshifts["TARGETID"])
        for row in fibermap:
            found[(int(row["TARGETID"]), survey_name, program, int(pixel))] = row
    listed = {(int(r["TARGETID"]), r["SURVEY"], r["PROGRAM"], int(r["HEALPIX"])): r for r in zcatalog}
    assert len(listed) == len(zcatalog)
    lost = truth[(truth["KIND"] == "no_coadd")]
    assert set(listed) - set(found) == {
        (int(r["TARGETID"]), r["SURVEY"], r["PROGRAM"], int(r["HEALPIX"])) for r in lost
    }
    assert set(found) <= set(listed)
    for key, row in found.items():
        for column in ("TARGET_RA", "TARGET_DEC", "RELEASE", "BRICKID", "BRICK_OBJID", "OBJTYPE", "FLUX_R"):
            assert row[column] == listed[key][column]


def test_planted_rows_read_as_planted(mock, truth, zcatalog):
    rows = {int(t): k for k, t in enumerate(zcatalog["TARGETID"]) if zcatalog["ZCAT_PRIMARY"][k]}
    checks = {
        "sky": lambda z: z["OBJTYPE"] == "SKY" and z["ZWARN"] != 0,
        "stuck": lambda z: z["OBJTYPE"] == "" and z["COADD_FIBERSTATUS"] != 0 and z["TARGETID"] < 0,
        "bad_fiber": lambda z: z["OBJTYPE"] == "TGT" and z["COADD_FIBERSTATUS"] != 0,
        "wrong_spectype": lambda z: z["SPECTYPE"] != "GALAXY" and z["ZWARN"] == 0,
        "zwarn": lambda z: z["ZWARN"] != 0 and z["COADD_FIBERSTATUS"] == 0,
        "galaxy": lambda z: z["ZWARN"] == 0 and z["SPECTYPE"] == "GALAXY" and z["COADD_FIBERSTATUS"] == 0,
    }
    for kind, check in checks.items():
        planted = truth[truth["KIND"] == kind]
        assert len(planted)
        assert all(check(zcatalog[rows[int(t)]]) for t in planted["TARGETID"]), kind
    repeat = truth["TARGETID"][truth["KIND"] == "repeat"]
    twice = zcatalog[np.isin(zcatalog["TARGETID"], repeat)]
    assert len(twice) == 2 * len(repeat)
    assert twice["ZCAT_PRIMARY"].sum() == len(repeat)
    assert (twice["ZCAT_NSPEC"] == 2).all()
    assert not np.isin(truth["TARGETID"][truth["KIND"] == "image_only"], zcatalog["TARGETID"]).any()
    for path in coadds(mock):
        fibermap, ivar = fitsio.read(path, "FIBERMAP"), fitsio.read(path, "R_IVAR")
        empty = (ivar == 0).all(axis=1)
        np.testing.assert_array_equal(empty, fibermap["COADD_FIBERSTATUS"] != 0)


def test_cutouts_have_the_published_layout(mock, truth):
    files = sorted((mock / "south").glob("images_npix152_*_*.h5"))
    wanted = {
        "ra",
        "dec",
        "release",
        "brickid",
        "objid",
        "inds",
        "flux",
        "fiberflux",
        "ebv",
        "maskbits",
        "nobs",
    }
    wanted |= {"psfdepth", "psfsize", "source_type", "transmission", "z_spec", "z_training"}
    wanted |= {f"z_phot_{k}" for k in ("l68", "l95", "mean", "median", "std", "u68", "u95")}
    z_flux, inds, total = [], [], 0
    by_name = {(r["RELEASE"], r["BRICKID"], r["OBJID"]): r for r in truth[truth["HAS_IMAGE"]]}
    for path in files:
        first, last = map(int, path.stem.split("_")[2:])
        with h5py.File(path) as file:
            assert wanted <= set(file)
            assert file["images"].shape == (last - first, 3, 152, 152)
            assert file["images"].dtype == np.float32
            assert first == total
            assert all(len(file[name]) == last - first for name in file)
            total = last
            z_flux += file["flux"][:, 2].tolist()
            inds += file["inds"][:].tolist()
            for k in range(last - first):
                row = by_name[(file["release"][k], file["brickid"][k], file["objid"][k])]
                assert (file["ra"][k], file["dec"][k]) == (row["RA"], row["DEC"])
                assert row["IMAGE_INDEX"] == first + k
            assert np.isfinite(file["images"][:]).all()
    own = truth[truth["HAS_IMAGE"] & (truth["KIND"] != "repeat")]
    assert total == len(own)
    assert (np.diff(z_flux) <= 0).all(), "sorted by falling z flux"
    assert set(np.diff(inds)) == {1, 2}, "inds are not row numbers"


def test_sweeps_hold_targets_and_neighbours(mock, truth):
    parts = []
    for path in sorted((mock / "sweep" / "9.0").glob("sweep-*.fits")):
        part = fitsio.read(path)
        ra, dec = int(path.stem[6:9]), int(path.stem[10:13]) * (-1 if path.stem[9] == "m" else 1)
        assert (part["RA"] >= ra).all()
        assert (part["RA"] < ra + 10).all()
        assert (part["DEC"] >= dec).all()
        assert (part["DEC"] < dec + 5).all()
        parts.append(part)
    sweep = np.concatenate(parts)
    keys = sweep[["RELEASE", "BRICKID", "OBJID"]]
    assert len(np.unique(keys)) == len(sweep)
    at = {tuple(k): row for k, row in zip(keys.tolist(), sweep, strict=True)}
    own = truth[(truth["SAMPLE"] != "") & (truth["KIND"] != "repeat")]
    for row in own:
        found = at[(row["RELEASE"], row["BRICKID"], row["OBJID"])]
        assert found["RA"] == row["RA"]
        assert found["FLUX_Z"] == np.float32(row["FLUX_OBS"][2])
    assert len(sweep) > 3 * len(own)
    assert (sweep["PMRA"] != 0).any()
    assert (sweep["REF_EPOCH"][sweep["PMRA"] != 0] == 2015.5).all()
    pull = (own["FLUX_OBS"] - own["FLUX"]) * np.sqrt(own["FLUX_IVAR"])
    assert pull.std() == pytest.approx(1, abs=0.1)


def test_labels_follow_the_truth(mock, truth):
    with h5py.File(mock / "BGS_ANY_full.provabgs.sv3.v0.hdf5") as file:
        table = file["__astropy_table__"][:]
    at = {int(t): r for t, r in zip(truth["TARGETID"], truth, strict=True)}
    good = table[table["PROVABGS_LOGMSTAR_BF"] > 0]
    mass = np.array([at[int(t)]["LOGMSTAR"] for t in good["TARGETID"]])
    assert np.std(good["PROVABGS_LOGMSTAR_BF"] - mass) == pytest.approx(0.08, abs=0.03)
    assert table["PROVABGS_THETA_BF"].shape[1:] == (13,)
    assert table["PROVABGS_MCMC"].shape[2:] == (13,)
    assert (table["MAG_R"] < 20.5).all()
    with (mock / "gz_decals_volunteers_5.csv").open(newline="") as file:
        votes = list(csv.DictReader(file))
    bright = truth[
        truth["HAS_IMAGE"] & (truth["KIND"] != "repeat") & (truth["FLUX"][:, 1] > 10 ** (0.4 * 3.5))
    ]
    assert len(votes) == len(bright)
    for line in votes:
        offset = np.hypot(
            (float(line["ra"]) - bright["RA"] + 180) % 360 - 180, float(line["dec"]) - bright["DEC"]
        )
        assert offset.min() * 3600 < 0.5
        assert line["iauname"].startswith("J")
        assert len(line["iauname"]) == 19


def test_truth_is_commented(mock):
    header = fitsio.read_header(mock / "truth.fits", "TRUTH")
    assert header["SEED"] == SEED
    for k in range(1, header["TFIELDS"] + 1):
        assert header[f"TCOMM{k}"].strip()
    assert header["TUNIT11"].strip() == "deg"
    assert header["TTYPE11"] == "RA"


def test_missing_extra_is_one_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr(survey, "find_spec", lambda name: None if name == "kcorrect" else object())
    with pytest.raises(UsageError, match=r"needs kcorrect: pip install 'astroclip\[mock\]'"):
        survey.make_mock(tmp_path / "out", 100)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"galaxies": 10}, "at least 50"), ({"workers": 0}, "one worker"), ({"seed": -1}, "zero or more")],
)
def test_senseless_numbers_are_refused(tmp_path, settings, message):
    with pytest.raises(UsageError, match=message):
        survey.make_mock(tmp_path / "out", **{"galaxies": 100, **settings})
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="exists"):
        survey.make_mock(out, 100)
    with pytest.raises(UsageError, match="not a mock survey"):
        survey.make_mock(out, 100, overwrite=True)
    assert (out / "thesis.tex").read_text() == "years of work"


def test_overwrite_replaces_a_mock(mock, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "truth.fits").write_text("an old mock")
    survey.make_mock(out, 50, SEED, overwrite=True)
    assert len(fitsio.read(out / "truth.fits", "TRUTH")) > 50
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_small_disk_is_told_before_anything_is_written(monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(DataError, match=r"needs 15\.\d GB and the disk has 0\.0 GB"):
        survey.make_mock(tmp_path / "out", 18500)
    assert not list(tmp_path.iterdir())


def test_a_failing_write_leaves_nothing(monkeypatch, tmp_path):
    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    from astroclip.mock import cutout_files

    monkeypatch.setattr(cutout_files, "write_images", full)
    with pytest.raises(DataError, match="No space left"):
        survey.make_mock(tmp_path / "out", 50)
    assert not list(tmp_path.iterdir())
