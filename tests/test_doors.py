"""Who and where a row is, asked by every verb: the same answer from every kind of column, or a refusal."""

import json
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from builders import write_coadd, write_cube, write_spec
from survey_servers import Answer, fits_cutout, serve
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.errors import DataError
from astroclip.schema import EmbedFlag

FIRST_ID = 39_627_770_157_896_512
N = 4
SKY = SkyCoord(10 + np.arange(N) / 100, -5 + np.arange(N) / 50, unit="deg")
MOVED = SkyCoord(np.full(N, 200.0), np.full(N, 45.0), unit="deg")
KINDS = ("deg", "hours", "radians", "arcsec", "sexagesimal", "words", "mixin", "numbers in text", "named")


def write_places(path: Path, kind: str, sky: SkyCoord = SKY) -> list[str]:
    """Write a table whose positions are of a kind; return the options that it needs."""
    ra, dec = sky.ra.deg, sky.dec.deg
    table = QTable({"ID": np.arange(len(sky))})
    if kind == "mixin":
        table["coord"] = sky
    elif kind in ("sexagesimal", "words"):
        sep = ":" if kind == "sexagesimal" else "hms"
        table["RA"] = sky.ra.to_string("hour", sep=sep, precision=4)
        table["DEC"] = sky.dec.to_string("deg", sep=sep.replace("h", "d"), precision=3, alwayssign=True)
    elif kind == "numbers in text":
        table["RA"], table["DEC"] = ra.astype(str), dec.astype(str)
    elif kind == "named":
        table["RA"], table["DEC"] = MOVED.ra.deg, MOVED.dec.deg
        table["where_x"], table["where_y"] = ra, dec
    else:
        unit = {"deg": "deg", "hours": "deg", "radians": "rad", "arcsec": "arcsec"}[kind]
        table["RA"], table["DEC"] = sky.ra.to(unit), sky.dec.to(unit)
        if kind == "hours":
            table["RA"] = sky.ra.hourangle
    table.write(path, overwrite=True)
    if kind == "hours":
        with fits.open(path, mode="update") as hdus:
            hdus[1].header["TUNIT2"] = "h"
    return ["--ra", "WHERE_X", "--dec", "where_y"] if kind == "named" else []


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


def embed(catalog: Path, model: Path, *words: object) -> np.ndarray:
    """Embed a table and return what was written."""
    output = catalog.with_name("out.fits")
    done = run("embed", catalog, "-m", model, "-o", output, "--overwrite", *words)
    assert done.exit_code == 0, done.output
    return fitsio.read(output)


@pytest.fixture(scope="module")
def surveys(tmp_path_factory) -> Path:
    """A folder of cut-outs, one of spec files and one of coadds, of galaxies that are not alike."""
    folder = tmp_path_factory.mktemp("surveys")
    for i, place in enumerate(SKY):
        write_cube(folder / "cut" / f"galaxy{i}x.fits", ra=place.ra.deg, dec=place.dec.deg, seed=i)
        spec = folder / "spec" / f"spec-0266-51602-{i + 1:04d}.fits"
        write_spec(spec, fiber=i + 1, ra=place.ra.deg, dec=place.dec.deg, seed=i)
    write_coadd(folder / "coadds" / "coadd-main-dark-100.fits", targetid=FIRST_ID + np.arange(8))
    return folder


@pytest.fixture(scope="module")
def wanted(surveys, tiny_model, tmp_path_factory) -> np.ndarray:
    """What is found by positions in degrees."""
    path = tmp_path_factory.mktemp("wanted") / "deg.fits"
    write_places(path, "deg")
    found = embed(path, tiny_model, "--images", surveys / "cut", "--spectra", surveys / "spec")
    assert np.isfinite(found["IMAGE_EMBEDDING"]).all()
    assert np.isfinite(found["SPECTRUM_EMBEDDING"]).all()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_embed_finds_pixels_by_positions_of_every_kind(surveys, tiny_model, wanted, tmp_path, kind):
    options = write_places(tmp_path / "t.fits", kind)
    sources = ["--images", surveys / "cut", "--spectra", surveys / "spec"]
    found = embed(tmp_path / "t.fits", tiny_model, *sources, *options)
    for name in ("IMAGE_EMBEDDING", "SPECTRUM_EMBEDDING", "EMBED_FLAG"):
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_is_asked_for_the_same_sky(tiny_model, tmp_path, monkeypatch, kind):
    options = write_places(tmp_path / "t.fits", kind)
    monkeypatch.setenv("ASTROCLIP_CACHE", str(tmp_path / "cache"))
    with serve(lambda server, path, query, body: Answer(fits_cutout(query))) as server:
        monkeypatch.setenv("ASTROCLIP_CUTOUT_URL", server.url)
        embed(tmp_path / "t.fits", tiny_model, "--images", "ls-dr9", *options)
    asked = SkyCoord(
        *np.array([[float(q["ra"]), float(q["dec"])] for _, q, *_ in server.asked]).T, unit="deg"
    )
    order = np.argsort(asked.ra)
    assert (asked[order].separation(SKY) < 0.01 * units.arcsec).all()


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_says_where_the_rows_are(tmp_path, kind):
    options = write_places(tmp_path / "t.fits", kind)
    done = run("--json", "inspect", tmp_path / "t.fits", *options)
    facts = json.loads(done.stdout)["facts"]
    assert np.ravel(facts["ra_deg"]) == pytest.approx([10, 10.03], abs=1e-5)
    assert np.ravel(facts["dec_deg"]) == pytest.approx([-5, -4.94], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_crossmatch_by_positions_of_every_kind_on_every_side(surveys, tmp_path, kind):
    """The table of spectra, the table of images and the table of labels."""
    options = write_places(tmp_path / "t.fits", kind)
    write_places(tmp_path / "deg.fits", "deg")
    left = run(
        "crossmatch", tmp_path / "t.fits", surveys / "cut", "-o", tmp_path / "a", "--no-pairs", *options
    )
    assert left.exit_code == 0, left.exception
    image_options = [word.replace("--", "--image-") for word in options]
    words = ["crossmatch", tmp_path / "deg.fits", tmp_path / "t.fits", "-o", tmp_path / "b", "--no-pairs"]
    if kind != "named":
        words += ["--labels", tmp_path / "t.fits"]
    right = run(*words, *image_options)
    assert right.exit_code == 0, right.exception
    for name in ("a", "b"):
        found = fitsio.read(tmp_path / f"{name}.fits")
        assert found["SPECTRA_ROW"].tolist() == [0, 1, 2, 3]
        assert (found["SEPARATION"] < 0.01).all()
        np.testing.assert_allclose(found["IMAGE_RA"], SKY.ra.deg, atol=1e-5)
    if kind != "named":
        assert found["ID"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("task", ["embed", "predict"])
def test_a_position_that_cannot_be_read_is_refused_before_anything_is_written(
    surveys, tiny_model, tmp_path, task
):
    Table({"RA": ["00:40:00", "here"], "DEC": ["1:0:0", "2:0:0"]}).write(tmp_path / "t.fits")
    words = ["embed"] if task == "embed" else ["predict", "redshift"]
    done = run(
        *words, tmp_path / "t.fits", "-m", tiny_model, "--images", surveys / "cut", "-o", tmp_path / "o.fits"
    )
    assert isinstance(done.exception, DataError)
    assert "column 'RA', row 1 (from 0): 'here' is no position" in str(done.exception)
    assert [file.name for file in tmp_path.iterdir()] == ["t.fits"]


@pytest.mark.parametrize(("column", "unit"), [("RA", "furlong"), ("DEC", "pix")])
def test_an_unknown_unit_is_refused_by_every_verb(surveys, tiny_model, tmp_path, column, unit):
    write_places(tmp_path / "t.fits", "deg")
    with fits.open(tmp_path / "t.fits", mode="update") as hdus:
        hdus[1].header[f"TUNIT{2 if column == 'RA' else 3}"] = unit
    said = f"column '{column}' is in '{unit}'"
    done = run("embed", tmp_path / "t.fits", "-m", tiny_model, "--images", surveys / "cut")
    assert isinstance(done.exception, DataError)
    assert said in str(done.exception)
    done = run("--json", "inspect", tmp_path / "t.fits")
    assert any(said in problem for problem in json.loads(done.stdout)["problems"])


def test_missing_positions_are_rows_without_an_image(surveys, tiny_model, tmp_path):
    rows = [f"{place.ra.deg},{place.dec.deg}" for place in SKY]
    (tmp_path / "t.csv").write_text("RA,DEC\n" + "\n".join([*rows, ",", "nan,nan", "10.0,95"]) + "\n")
    found = embed(tmp_path / "t.csv", tiny_model, "--images", surveys / "cut")
    assert found["EMBED_FLAG"].tolist() == [0] * N + [EmbedFlag.NO_IMAGE] * 3


def write_ids(path: Path, kind: str) -> None:
    """Write four TARGETIDs in a column of a kind."""
    ids = FIRST_ID + np.array([1, 3, 6, 7])
    if kind == "csv":
        path.write_text("TARGETID\n" + "\n".join(map(str, ids)) + "\n")
        return
    if kind == "scientific":
        path.write_text("TARGETID\n" + "\n".join(f"{i:.16E}" for i in ids.astype(float)) + "\n")
        return
    columns = {"int": ids, "uint": ids.astype("u8"), "text": ids.astype(str), "float": ids.astype(float)}
    columns["fraction"], columns["words"] = np.arange(4) + 0.5, np.array(["1", "2", "NGC1", "4"])
    Table({"TARGETID": columns[kind]}).write(path)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("int", "parquet"), ("uint", "fits"), ("text", "fits"), ("text", "parquet"), ("csv", "csv")],
)
def test_exact_identifiers_of_every_type_find_their_spectra(surveys, tiny_model, tmp_path, kind, suffix):
    write_ids(tmp_path / f"t.{suffix}", kind)
    write_ids(tmp_path / "int.fits", "int")
    spectra = ["--spectra", surveys / "coadds"]
    want = embed(tmp_path / "int.fits", tiny_model, *spectra)["SPECTRUM_EMBEDDING"]
    assert np.isfinite(want).all()
    assert len(np.unique(want, axis=0)) == 4
    np.testing.assert_array_equal(
        embed(tmp_path / f"t.{suffix}", tiny_model, *spectra)["SPECTRUM_EMBEDDING"], want
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("float", "float64, and row 0"), ("scientific", "float64, and row 0"),
        ("fraction", "float64, and row 0"), ("words", "text, and row 2"),
    ],
)  # fmt: skip
def test_inexact_identifiers_are_refused_before_anything_is_written(
    surveys, tiny_model, tmp_path, kind, said
):
    path = tmp_path / ("t.csv" if kind == "scientific" else "t.fits")
    write_ids(path, kind)
    for words in (["embed"], ["predict", "redshift"]):
        done = run(*words, path, "-m", tiny_model, "--spectra", surveys / "coadds", "-o", tmp_path / "o.fits")
        assert isinstance(done.exception, DataError)
        assert f"column 'TARGETID' is {said}" in str(done.exception)
        assert "Rewrite the column as int64" in str(done.exception)
        assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_small_floats_and_missing_identifiers(tiny_model, tmp_path):
    write_coadd(tmp_path / "s" / "coadd-main-dark-1.fits", targetid=[1, 2, 3])
    Table({"TARGETID": [3.0, np.nan, 1.0]}).write(tmp_path / "float.fits")
    Table({"TARGETID": MaskedColumn([3, 7, 1], mask=[False, True, False])}).write(tmp_path / "masked.fits")
    (tmp_path / "gap.csv").write_text("TARGETID,A\n3,1\n,2\n1,3\n")
    for name in ("float.fits", "masked.fits", "gap.csv"):
        found = embed(tmp_path / name, tiny_model, "--spectra", tmp_path / "s")
        assert found["EMBED_FLAG"].tolist() == [0, EmbedFlag.NO_SPECTRUM, 0], name


def test_an_inexact_identifier_that_is_not_needed_is_no_harm(tiny_model, tmp_path):
    """A table with spectra of its own is embedded whatever its identifiers are."""
    Table({"TARGETID": FIRST_ID + np.arange(2.0), "FLUX": np.ones((2, 7781), "f4")}).write(
        tmp_path / "t.fits"
    )
    found = embed(tmp_path / "t.fits", tiny_model)
    assert np.isfinite(found["SPECTRUM_EMBEDDING"]).all()


@pytest.mark.parametrize("kind", ["hours", "named"])
def test_a_gallery_has_the_same_pixels(surveys, tiny_model, tmp_path, kind):
    options = write_places(tmp_path / "t.fits", kind)
    sources = ["--images", surveys / "cut"]
    embed(tmp_path / "t.fits", tiny_model, *sources, *options)
    words = ["search", tmp_path / "out.fits", "--row", "0", "-k", "2", *sources, *options]
    drawn = []
    for names in (options, ["--ra", "RA", "--dec", "DEC"]):
        done = run(*words, *names, "--gallery", tmp_path / "g.html", "--overwrite")
        assert done.exit_code == 0, done.exception
        drawn.append((tmp_path / "g.html").read_text().count("data:image/png"))
    assert drawn[0] == 3
    assert (drawn[1] == 3) == (kind == "hours")


@pytest.mark.parametrize("side", ["spectra", "images", "labels"])
def test_inexact_identifiers_are_refused_on_every_side_of_a_crossmatch(tmp_path, side):
    for name in ("spectra", "images", "labels"):
        table = Table(
            {"TARGETID": FIRST_ID + np.arange(N), "RA": SKY.ra.deg, "DEC": SKY.dec.deg, "L": range(N)}
        )
        if name == side:
            table["TARGETID"] = table["TARGETID"].astype(float)
        table.write(tmp_path / f"{name}.fits")
    spectra, images, labels = (tmp_path / f"{name}.fits" for name in ("spectra", "images", "labels"))
    done = run("crossmatch", spectra, images, "--labels", labels, "-o", tmp_path / "m", "--no-pairs")
    assert isinstance(done.exception, DataError)
    assert f"{side}.fits: column 'TARGETID' is float64, and row 0" in str(done.exception)
    assert len(list(tmp_path.iterdir())) == 3


def test_inspect_names_inexact_identifiers(tmp_path):
    Table({"TARGETID": FIRST_ID + np.arange(3.0), "Z": np.arange(3.0)}).write(tmp_path / "t.fits")
    report = json.loads(run("--json", "inspect", tmp_path / "t.fits").stdout)
    assert any("column 'TARGETID' is float64, and row 0" in problem for problem in report["problems"])


@pytest.mark.parametrize("suffix", ["fits", "csv", "parquet"])
def test_keys_of_several_columns_find_images(tiny_model, tmp_path, suffix):
    """Integers, exact floats and texts of RELEASE, BRICKID, OBJID."""
    for i in range(3):
        write_cube(tmp_path / "cut" / f"9010-3-{i + 70}.fits", ra=None, seed=i)
    keys = {"RELEASE": np.full(4, 9010.0), "BRICKID": ["3", "3", "3", ""], "OBJID": [72, 70, 71, 70]}
    Table(keys).write(tmp_path / f"t.{suffix}")
    Table({"RELEASE": [9010] * 3, "BRICKID": [3] * 3, "BRICK_OBJID": [72, 70, 71]}).write(tmp_path / "i.fits")
    found = embed(tmp_path / f"t.{suffix}", tiny_model, "--images", tmp_path / "cut")
    want = embed(tmp_path / "i.fits", tiny_model, "--images", tmp_path / "cut")
    assert found["EMBED_FLAG"].tolist() == [0, 0, 0, EmbedFlag.NO_IMAGE]
    np.testing.assert_allclose(found["IMAGE_EMBEDDING"][:3], want["IMAGE_EMBEDDING"], atol=1e-5)


@pytest.mark.parametrize("kind", ["int", "float", "text"])
def test_keys_of_several_columns_find_spectra(surveys, tiny_model, tmp_path, kind):
    keys = {"PLATE": [266, 266], "MJD": [51602, 51602], "FIBER": [3, 1]}
    kinds = {"int": int, "float": float, "text": str}
    Table({name: np.array(values).astype(kinds[kind]) for name, values in keys.items()}).write(
        tmp_path / "t.fits"
    )
    found = embed(tmp_path / "t.fits", tiny_model, "--spectra", surveys / "spec")["SPECTRUM_EMBEDDING"]
    write_places(tmp_path / "deg.fits", "deg")
    want = embed(tmp_path / "deg.fits", tiny_model, "--spectra", surveys / "spec")["SPECTRUM_EMBEDDING"]
    np.testing.assert_allclose(found, want[[2, 0]], atol=1e-5)
