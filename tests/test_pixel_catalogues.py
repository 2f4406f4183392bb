"""Pixels are catalogues too: tables made of files and folders of spectra, images and pairs."""

import importlib
import json
import os
import shutil

import fitsio
import numpy as np
import pytest
from astropy.io.fits import getheader
from astropy.table import Table
from builders import truncate, write_coadd, write_cube, write_redrock, write_spec
from builders_hdf5 import write_multimodal_images, write_multimodal_spectra, write_stein
from numpy.testing import assert_allclose, assert_array_equal
from pyarrow import parquet
from test_kinds import write_frame
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.data.describe import inspect_file
from astroclip.data.pairs import Label, write_pairs
from astroclip.data.pixel_catalogue import open_pixel_catalogue
from astroclip.data.pixel_part import are_pixels
from astroclip.errors import DataError, UsageError
from astroclip.predict.embed import embed_catalog
from astroclip.predict.embed_shards import merge_embedded
from astroclip.schema import EmbedFlag
from astroclip.search.query_pixels import read_file

IDS = 39627770157896512 + np.arange(4)


def read(paths, folder):
    """Return the whole catalogue of some files, and the pixels of its rows by modality."""
    table, pixels = open_pixel_catalogue(paths, folder)
    with table:
        values = table.read(list(table.columns))
    return values, pixels


def make_coadd(path, ids=IDS, seed=0):
    """Write a coadd with the Redrock file beside it, whose rows are in another order."""
    write_coadd(path, targetid=ids, seed=seed)
    redrock = path.with_name(path.name.replace("coadd", "redrock").replace("spectra", "redrock"))
    write_redrock(redrock, np.unique(ids)[::-1], np.arange(len(np.unique(ids)))[::-1] / 10)
    return path


def test_a_coadd_is_a_table_of_targets_with_redrocks_redshifts(tmp_path):
    path = make_coadd(tmp_path / "coadd-sv3-dark-26065.fits")
    rows, pixels = read([path], tmp_path)
    assert_array_equal(rows["TARGETID"], IDS)
    assert set(rows["SURVEY"]) | set(rows["PROGRAM"]) == {"sv3", "dark"}
    assert_array_equal(rows["HEALPIX"], [26065] * 4)
    assert_allclose(rows["TARGET_RA"], np.linspace(10, 10.1, 4))
    assert_array_equal(rows["FILE"], [path.name] * 4)
    assert_array_equal(rows["ROW"], range(4))
    assert_allclose(rows["Z"], [0, 0.1, 0.2, 0.3])
    assert set(rows["SPECTYPE"]) == {"GALAXY"}
    assert_array_equal(rows["ZWARN"], 0)
    assert {"ZERR", "DELTACHI2"} <= set(rows)
    assert list(pixels) == ["spectrum"]
    assert pixels["spectrum"].read([3, 0]).flux.shape == (2, 7781)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_a_redrock_file_of_other_targets_says_nothing(tmp_path):
    path = tmp_path / "coadd-1.fits"
    write_coadd(path, targetid=IDS)
    write_redrock(tmp_path / "redrock-1.fits", [*IDS[:2], 8, 9], [0.1, 0.2, 0.3, 0.4])
    rows, _ = read([path], tmp_path)
    assert_allclose(rows["Z"], [0.1, 0.2, np.nan, np.nan])
    assert_array_equal(np.ma.filled(rows["ZWARN"], -1), [0, 0, -1, -1])
    assert list(rows["SPECTYPE"]) == ["GALAXY", "GALAXY", "", ""]


def test_a_coadd_without_fibermap_is_a_table_of_rows(tmp_path, tiny_model):
    write_coadd(tmp_path / "coadd-1.fits", omit=["FIBERMAP"])
    rows, pixels = read([tmp_path / "coadd-1.fits"], tmp_path)
    assert set(rows) == {"TARGET_RA", "TARGET_DEC", "FILE", "ROW"}
    assert_array_equal(rows["ROW"], range(4))
    assert len(pixels["spectrum"]) == 4
    report = inspect_file(tmp_path / "coadd-1.fits")
    assert (report.rows, report.facts["rows with data"]) == (4, 4)
    assert "no FIBERMAP" in report.problems[-1]
    assert run("embed", tmp_path / "coadd-1.fits", "--model", tiny_model)["embedded"] == {"spectrum": 4}


def test_repeated_exposures_are_one_row(tmp_path):
    path = make_coadd(tmp_path / "s" / "spectra-main-dark-1.fits", np.repeat(IDS[:3], 2))
    rows, pixels = read([path.parent], tmp_path)
    assert_array_equal(rows["TARGETID"], IDS[:3])
    assert_array_equal(rows["FILE"], ["s/spectra-main-dark-1.fits"] * 3)
    assert_allclose(rows["Z"], [0, 0.1, 0.2])
    assert len(pixels["spectrum"]) == 3


def test_several_files_and_folders_are_one_catalogue(tmp_path):
    for folder, first in (("a", 0), ("b", 100)):
        (tmp_path / folder).mkdir()
        make_coadd(tmp_path / folder / "coadd-1.fits", IDS + first, seed=first)
    rows, pixels = read([tmp_path / "b" / "coadd-1.fits", tmp_path / "a"], tmp_path)
    assert_array_equal(rows["TARGETID"], [*(IDS + 100), *IDS])
    assert_array_equal(rows["FILE"][[0, 7]], ["coadd-1.fits", "a/coadd-1.fits"])
    alone = read([tmp_path / "a"], tmp_path)[1]["spectrum"].read(range(4))
    together = pixels["spectrum"].read([7, 1, 4])
    assert_array_equal(together.flux[[0, 2]], alone.flux[[3, 0]])
    assert not np.array_equal(together.flux[1], alone.flux[1])


def test_sdss_spectra_are_a_table(tmp_path):
    write_spec(tmp_path / "spec-0266-51602-0007.fits", fiber=7)
    write_spec(tmp_path / "spec-0266-51602-0008.fits", fiber=8, ra=11.0, omit=["SPECOBJ"])
    rows, pixels = read([tmp_path], tmp_path)
    assert_array_equal([rows["PLATE"], rows["MJD"], rows["FIBERID"]], [[266] * 2, [51602] * 2, [7, 8]])
    assert_allclose(rows["RA"], [10, np.nan])
    assert_allclose(rows["Z"], [0.1, np.nan])
    assert list(rows["SPECTYPE"]) == ["GALAXY", ""]
    assert len(pixels["spectrum"].read([1, 0]).flux) == 2


def test_cutouts_are_a_table(tmp_path):
    folder = tmp_path / "cut"
    write_cube(folder / "a_39627770157896513.fits", ra=10, dec=-5)
    write_cube(folder / "b.fits", ra=11, dec=5)
    truncate(shutil.copy(folder / "b.fits", folder / "c.fits"), 0.001)
    rows, pixels = read([folder], tmp_path)
    assert_array_equal(rows["FILE"], [f"cut/{name}.fits" for name in ("a_39627770157896513", "b", "c")])
    assert_array_equal(np.ma.filled(rows["TARGETID"], -1), [IDS[1], -1, -1])
    assert_allclose(rows["RA"], [10, 11, np.nan])
    assert list(pixels) == ["image"]
    assert pixels["image"].read([1, 0]).flux.shape == (2, 3, 152, 152)
    with pytest.raises(DataError):
        pixels["image"].read([2])


def test_hdf5_files_of_images_and_spectra_are_tables(tmp_path):
    write_stein(tmp_path / "images_npix152_000000000_001000000.h5", 3)
    write_multimodal_spectra(tmp_path / "s" / "001-of-001.hdf5", [11, 12])
    write_multimodal_images(tmp_path / "i" / "001-of-001.hdf5", np.array(["a", "b"]))
    rows, _ = read([tmp_path / "images_npix152_000000000_001000000.h5"], tmp_path)
    assert {"RELEASE", "BRICKID", "OBJID", "RA", "DEC", "FILE", "ROW"} <= set(rows)
    rows, pixels = read([tmp_path / "s"], tmp_path)
    assert (len(rows["FILE"]), list(pixels)) == (2, ["spectrum"])
    assert "Z" in rows
    rows, pixels = read([tmp_path / "i"], tmp_path)
    assert (list(rows["OBJECT_ID"]), list(pixels)) == (["a", "b"], ["image"])


def make_pairs(path, n=5):
    """Write a pairs file with a label."""
    zero = np.zeros((n, 7781))
    block = {
        "image": np.ones((n, 3, 152, 152), "f4"), "flux": zero.astype("f4") + 1,
        "ivar": zero.astype("f4") + 1, "mask": zero.astype("u2"), "targetid": np.arange(n),
        "ra": np.linspace(10, 11, n),
        "dec": np.zeros(n), "redshift": np.arange(n) / 10, "log_mstar": np.full(n, 10, "f4"),
    }  # fmt: skip
    with write_pairs(path, n, labels=[Label("log_mstar", source="PROVABGS")]) as writer:
        writer.write(block)
    return path


def test_pairs_are_a_table_with_their_labels_and_both_modalities(tmp_path):
    rows, pixels = read([make_pairs(tmp_path / "pairs.h5")], tmp_path)
    assert_array_equal(rows["TARGETID"], range(5))
    assert_allclose(rows["Z"], np.arange(5) / 10)
    assert_allclose(rows["LOG_MSTAR"], 10)
    assert set(rows["SPLIT"]) <= {0, 1, 2, 255}
    assert list(pixels) == ["image", "spectrum"]


def test_images_and_spectra_are_no_one_catalogue(tmp_path):
    write_cube(tmp_path / "a.fits")
    make_coadd(tmp_path / "coadd-1.fits")
    with pytest.raises(UsageError, match="no one catalogue"):
        open_pixel_catalogue([tmp_path / "a.fits", tmp_path / "coadd-1.fits"], tmp_path)


def test_what_is_a_catalogue_already_stays_one(tmp_path):
    Table({"RA": [1.0], "DEC": [2.0]}).write(tmp_path / "t.fits")
    make_coadd(tmp_path / "coadd-1.fits")
    names = ("t.fits", "redrock-1.fits", "coadd-1.fits")
    assert [are_pixels([tmp_path / name]) for name in names] == [False, False, True]
    assert not are_pixels([tmp_path / "coadd-1.fits", tmp_path / "t.fits"])
    assert not are_pixels([tmp_path / "none.fits"])


# --- embed and predict ------------------------------------------------------------------------------------


def run(*words):
    """Run a command of the program and return what it says as JSON."""
    done = CliRunner().invoke(app, ["--json", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_embedding_a_coadd_gives_its_targets_without_the_pixels(tmp_path, tiny_model):
    path = make_coadd(tmp_path / "coadd-sv3-dark-1.fits")
    report = run("embed", path, "--model", tiny_model)
    assert (report["rows"], report["embedded"]) == (4, {"spectrum": 4})
    assert report["output"] == str(tmp_path / "coadd-sv3-dark-1-embedded.fits")
    with fitsio.FITS(report["output"]) as fits:
        assert len(fits) == 2
        header, table = fits[1].read_header(), fits[1].read()
    assert header["EXTNAME"] == "GALAXIES"
    assert "added to coadd-sv3-dark-1.fits" in "".join(getheader(report["output"], 1)["HISTORY"])
    assert_array_equal(table["TARGETID"], IDS)
    Table({"TARGETID": IDS[::-1]}).write(tmp_path / "t.fits")
    other = run("embed", tmp_path / "t.fits", "--spectra", path, "--model", tiny_model)
    assert_array_equal(table["SPECTRUM_EMBEDDING"][::-1], fitsio.read(other["output"])["SPECTRUM_EMBEDDING"])


def test_a_coadd_is_copied_whole_if_that_is_asked_for(tmp_path, tiny_model):
    path = make_coadd(tmp_path / "coadd-1.fits")
    report = run("embed", path, "--model", tiny_model, "--keep-pixels")
    assert_array_equal(fitsio.read(report["output"], ext="R_FLUX"), fitsio.read(path, ext="R_FLUX"))
    table = fitsio.read(report["output"], ext="FIBERMAP")
    assert not are_pixels([report["output"]])
    lean = run("embed", path, "--model", tiny_model, "-o", tmp_path / "lean.fits")
    assert_array_equal(table["SPECTRUM_EMBEDDING"], fitsio.read(lean["output"])["SPECTRUM_EMBEDDING"])


def test_folders_are_never_copied_whole(tmp_path, tiny_model):
    make_coadd(tmp_path / "s" / "coadd-1.fits")
    for paths in ([tmp_path / "s"], [tmp_path / "s", tmp_path / "s"]):
        with pytest.raises(UsageError, match="not a folder"):
            embed_catalog(paths, tmp_path / "e.fits", model=tiny_model, keep_pixels=True)


def test_several_inputs_are_embedded_into_one_table(tmp_path, tiny_model):
    for i in range(2):
        write_cube(tmp_path / f"c{i}" / f"{i}.fits", ra=10 + i, seed=i)
    report = run("embed", tmp_path / "c1", tmp_path / "c0" / "0.fits", "--model", tiny_model)
    assert report["output"] == str(tmp_path / "c1-embedded.fits")
    table = fitsio.read(report["output"])
    assert list(table["FILE"]) == ["c1/1.fits", "0.fits"]
    assert np.isfinite(table["IMAGE_EMBEDDING"]).all()
    with pytest.raises(UsageError, match="Name one table"):
        embed_catalog([report["output"], tmp_path / "c1"], model=tiny_model)


def test_a_broken_file_of_a_folder_is_a_flag_and_a_named_one_an_error(tmp_path, tiny_model):
    write_cube(tmp_path / "c" / "a.fits", ra=10)
    truncate(shutil.copy(tmp_path / "c" / "a.fits", tmp_path / "c" / "b.fits"), 0.5)
    table = fitsio.read(run("embed", tmp_path / "c", "--model", tiny_model)["output"])
    assert list(table["EMBED_FLAG"]) == [0, EmbedFlag.UNREADABLE_IMAGE | EmbedFlag.NO_IMAGE]
    with pytest.raises(DataError, match=r"b\.fits"):
        embed_catalog(tmp_path / "c" / "b.fits", model=tiny_model)


def test_a_killed_run_on_pixels_is_resumed_only_on_the_same_files(tmp_path, tiny_model, monkeypatch):
    path = make_coadd(tmp_path / "coadd-1.fits", IDS[0] + np.arange(150))
    whole = embed_catalog(path, tmp_path / "whole.fits", model=tiny_model, device="cpu")
    embed_module = importlib.import_module("astroclip.predict.embed")
    original, calls = embed_module._embed_loaded, []

    def dies(*args):
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(embed_module, "_embed_loaded", dies)
    with pytest.raises(KeyboardInterrupt):
        embed_catalog(path, tmp_path / "out.fits", model=tiny_model, device="cpu")
    monkeypatch.setattr(embed_module, "_embed_loaded", original)
    copy = shutil.copytree(tmp_path, tmp_path.with_name(tmp_path.name + "-copy"))
    report = embed_catalog(path, tmp_path / "out.fits", model=tiny_model, device="cpu", resume=True)
    assert (report.rows, report.resumed > 0) == (150, True)
    assert_array_equal(fitsio.read(report.output), fitsio.read(whole.output))
    os.utime(copy / "coadd-1.fits", (1, 1))
    with pytest.raises(DataError, match="not the file that the part"):
        embed_catalog(copy / "coadd-1.fits", copy / "out.fits", model=tiny_model, device="cpu", resume=True)


def test_an_output_never_replaces_the_pixels(tmp_path, tiny_model):
    path = make_coadd(tmp_path / "coadd-1.fits")
    with pytest.raises(UsageError, match="is an input"):
        embed_catalog(path, path, model=tiny_model, overwrite=True)


def test_shards_of_pixels_are_put_together(tmp_path, tiny_model):
    path = make_coadd(tmp_path / "coadd-1.fits", IDS[0] + np.arange(150))
    whole = embed_catalog(path, tmp_path / "whole.fits", model=tiny_model, device="cpu")
    for i in range(2):
        embed_catalog(path, tmp_path / "out.fits", model=tiny_model, device="cpu", shard=(i, 2))
    merged = merge_embedded([path], tmp_path / "out.fits", 2)
    assert_array_equal(fitsio.read(merged), fitsio.read(whole.output))


def test_pairs_are_embedded_from_both_sides_and_predicted(tmp_path, tiny_model):
    pairs = make_pairs(tmp_path / "pairs.h5", 40)
    report = run("embed", pairs, "--model", tiny_model)
    assert report["embedded"] == {"image": 40, "spectrum": 40}
    reference = Table.read(report["output"])
    reference.write(tmp_path / "reference.fits")
    spectra = ("redshift", pairs, "--reference", tmp_path / "reference.fits", "--model", tiny_model)
    predicted = run("predict", *spectra, "--method", "knn", "-k", 3)
    assert (predicted["rows"], predicted["predicted"]) == (40, 40)
    assert predicted["output"] == str(tmp_path / "pairs-redshift.fits")
    table = fitsio.read(predicted["output"])
    assert {"FILE", "Z", "LOG_MSTAR", "Z_PRED_MEAN", "IMAGE_EMBEDDING"} <= set(table.dtype.names)


def test_a_search_takes_a_galaxy_of_any_file_of_pixels(tmp_path):
    pairs = make_pairs(tmp_path / "pairs.h5", 3)
    coadd = make_coadd(tmp_path / "coadd-1.fits")
    write_multimodal_spectra(tmp_path / "mmu.hdf5", [11, 12])
    for modality, name in (("image", f"{pairs}:2"), ("spectrum", f"{pairs}:2"), ("spectrum", f"{coadd}:3"),
                           ("spectrum", f"{tmp_path / 'mmu.hdf5'}:1")):  # fmt: skip
        assert not read_file(modality, name, 144).flag[0] & (EmbedFlag.NO_IMAGE | EmbedFlag.NO_SPECTRUM)
    with pytest.raises(UsageError, match="say which"):
        read_file("spectrum", str(pairs), 144)


def test_pixels_as_parquet(tmp_path, tiny_model):
    path = make_coadd(tmp_path / "coadd-1.fits")
    report = run("embed", path, "--model", tiny_model, "-o", tmp_path / "e.parquet")
    assert parquet.read_table(report["output"])["TARGETID"].to_pylist() == IDS.tolist()


def test_the_folder_where_one_is_has_a_name(tmp_path, tiny_model, monkeypatch):
    (tmp_path / "here").mkdir()
    make_coadd(tmp_path / "here" / "coadd-1.fits")
    monkeypatch.chdir(tmp_path / "here")
    report = run("embed", ".", "--model", tiny_model)
    assert report["output"] == str(tmp_path / "here-embedded.fits")
    assert list(fitsio.read(report["output"])["FILE"]) == ["here/coadd-1.fits"] * 4


@pytest.mark.parametrize(("make", "words"), [("tables", "name one of its files"), ("model", "--model")])
def test_folders_that_are_no_catalogue_are_named(tmp_path, tiny_model, make, words):
    folder = tiny_model
    if make == "tables":
        folder = tmp_path / "tables"
        folder.mkdir()
        Table({"RA": [1.0]}).write(folder / "t.fits")
    with pytest.raises(DataError, match=words):
        embed_catalog(folder, tmp_path / "e.fits", model=tiny_model)


def test_a_frame_is_refused_with_what_to_use_instead(tmp_path, tiny_model):
    path = write_frame(tmp_path / "cframe-b0-00081833.fits")
    with pytest.raises(DataError, match=r"coadd-\*\.fits or spectra-\*\.fits"):
        embed_catalog(path, model=tiny_model)
