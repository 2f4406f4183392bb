"""Searches with pixels: files as examples, galleries, the command line."""

import json
import shutil
from html.parser import HTMLParser

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from builders import write_coadd, write_cube
from search_files import unit
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.data.desi import open_coadd
from astroclip.errors import DataError, UsageError
from astroclip.model.embedder import load_model
from astroclip.plots.gallery import Shown, draw_gallery, make_page
from astroclip.predict.embed import embed_catalog
from astroclip.search import Example, ExampleKind, search_catalog

ROWS, SIZE = 12, 24


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, tiny_model):
    """A catalogue with images, spectra and their embeddings; galaxies 3 and 5 lack one."""
    folder = tmp_path_factory.mktemp("sky")
    rng = np.random.default_rng(3)
    columns = {
        "TARGETID": np.arange(ROWS) + 39_627_000_000_000_000,
        "NAME": np.array([f"<b>{i} & 'co'</b>" for i in range(ROWS)]),
        "Z": rng.uniform(0, 1, ROWS),
        "IMAGE": rng.normal(0.1, 0.1, (ROWS, 3, SIZE, SIZE)).astype("f4"),
        "FLUX": rng.normal(2, 1, (ROWS, 7781)).astype("f4"),
    }
    columns["IMAGE"][3] = np.nan
    columns["FLUX"][5] = np.nan
    units = ["", "", "", "nanomaggy", ""]
    fitsio.write(folder / "g.fits", list(columns.values()), names=list(columns), units=units)
    return embed_catalog(folder / "g.fits", model=tiny_model).output


@pytest.fixture
def cutout(embedded, tmp_path):
    """A file with the image of galaxy 7."""
    path = tmp_path / "cutout.fits"
    write_cube(path, image=fitsio.read(embedded)["IMAGE"][7], shape=(SIZE, SIZE))
    return path


def test_a_cutout_finds_its_own_row(embedded, cutout, tiny_model, tmp_path):
    report = search_catalog(
        embedded, [Example(ExampleKind.IMAGE, str(cutout))], tmp_path / "o.fits", model=tiny_model
    )
    assert report.rows[0] == 7
    assert report.similarity[0] == pytest.approx(1, abs=1e-5)
    assert report.target == ("image",)
    assert report.bad == 1


@pytest.mark.parametrize(
    ("modality", "kind"), [("spectrum", ExampleKind.SPECTRUM), ("image", ExampleKind.IMAGE)]
)
def test_a_row_of_a_table_of_pixels_is_an_example(embedded, tiny_model, tmp_path, modality, kind):
    example = Example(kind, f"{embedded}:8")
    report = search_catalog(embedded, [example], tmp_path / "o.fits", model=load_model(tiny_model))
    assert (report.rows[0], report.target) == (8, (modality,))
    with pytest.raises(UsageError, match="12 rows; say which"):
        search_catalog(embedded, [Example(kind, str(embedded))], tmp_path / "p.fits", model=tiny_model)
    with pytest.raises(UsageError, match="no row 12"):
        search_catalog(embedded, [Example(kind, f"{embedded}:12")], tmp_path / "p.fits", model=tiny_model)


def test_a_spectrum_of_a_coadd_searches_images(embedded, tiny_model, tmp_path):
    coadd = tmp_path / "coadd.fits"
    write_coadd(coadd)
    example = Example(ExampleKind.SPECTRUM, f"{coadd}:2")
    report = search_catalog(embedded, [example], tmp_path / "o.fits", model=tiny_model, target="image")
    with open_coadd(coadd) as file:
        spectra = file.read(np.array([2]))
    query = load_model(tiny_model).embed_spectra(spectra.flux, spectra.ivar, spectra.mask).numpy()
    cosine = unit(fitsio.read(embedded)["IMAGE_EMBEDDING"]) @ unit(query)[0]
    np.testing.assert_array_equal(report.rows, np.argsort(-np.nan_to_num(cosine, nan=-9))[:10])
    np.testing.assert_allclose(report.similarity, cosine[report.rows], atol=1e-6)


def test_files_that_cannot_be_an_example_are_refused(embedded, cutout, tiny_model, tmp_path):
    def search(kind, value, **options):
        options = {"model": tiny_model, **options}
        return search_catalog(embedded, [Example(kind, str(value))], tmp_path / "o.fits", **options)

    with pytest.raises(DataError, match="no such file"):
        search(ExampleKind.IMAGE, tmp_path / "none.fits")
    with pytest.raises(DataError, match="not a table"):
        search(ExampleKind.SPECTRUM, cutout)
    with pytest.raises(DataError, match="not one good pixel"):
        search(ExampleKind.IMAGE, f"{embedded}:3")
    fits.setval(shutil.copy(embedded, tmp_path / "other.fits"), "ACHASH", value="0" * 16, ext=1)
    with pytest.raises(DataError, match="is another one"):
        search_catalog(
            tmp_path / "other.fits",
            [Example(ExampleKind.IMAGE, str(cutout))],
            tmp_path / "o.fits",
            model=tiny_model,
        )
    assert not (tmp_path / "o.fits").exists()


class Page(HTMLParser):
    """What is in a page: tags, texts, and what would be fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)


def test_a_page_needs_nothing_but_itself(embedded, tmp_path):
    page_path = tmp_path / "gallery.html"
    example = Example(ExampleKind.ROW, "3")  # without an image
    search_catalog(embedded, [example], tmp_path / "o.fits", source="spectrum", k=2, gallery=page_path)
    page = Page(page_path.read_text())
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "<b>3 & 'co'</b>" in page.texts
    assert page.tags.count("img") == page.tags.count("figure") == 3
    assert all(url.startswith("data:image/png;base64,iVBOR") for url in page.fetched)
    assert not list(tmp_path.glob(".gallery*"))


def test_a_figure_shows_examples_then_those_found(embedded, cutout, tiny_model, tmp_path):
    picture = tmp_path / "gallery.png"
    examples = [Example(ExampleKind.IMAGE, str(cutout)), Example(ExampleKind.ROW, "1", like=False)]
    search_catalog(embedded, examples, tmp_path / "o.fits", k=1, model=tiny_model, gallery=picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="exists already"):
        search_catalog(embedded, examples, tmp_path / "p.fits", model=tiny_model, gallery=picture)
    with pytest.raises(UsageError, match="html"):
        search_catalog(embedded, examples, tmp_path / "p.fits", gallery=tmp_path / "gallery.gif")
    columns = ["IMAGE_EMBEDDING", "Z"]
    table = fitsio.read(embedded, columns=columns)
    fitsio.write(tmp_path / "bare.fits", table)
    with pytest.raises(UsageError, match="no pixels for a gallery"):
        search_catalog(tmp_path / "bare.fits", [Example(ExampleKind.ROW, "1")], gallery=tmp_path / "g.png")
    assert not (tmp_path / "p.fits").exists()


def test_a_galaxy_without_pixels_leaves_its_place_empty():
    rgb, flux = np.full((3, 8, 8), 0.5, "f4"), np.ones(7781, "f4")
    shown = [Shown("like image", rgb, None), Shown("1. cosine 0.9", None, flux, 0.1), Shown("2.", None, None)]
    figure = draw_gallery(shown)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title.split("   ")[0] for title in titles if title] == ["like image", "1. cosine 0.9", "2."]
    assert "no pixels" in make_page(shown[2:], "<title>")
    assert "&lt;title&gt;" in make_page(shown[2:], "<title>")


def test_from_the_command_line(embedded, tmp_path):
    def run(*words):
        return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)

    words = ["search", embedded, "--row", 1, "--like", "row=2", "--unlike", "row=4", "--overwrite"]
    words += ["-o", tmp_path / "o.fits", "-k", 3, "--where", "Z < 2 & ~(TARGETID == 7)"]
    text = run(*words, "--columns", "Z,TARGETID").stdout
    assert "39627000000000" in text
    assert "searched" in text
    found = json.loads(run("--json", *words).stdout)
    assert [one["rank"] for one in found["rows"]] == [1, 2, 3]
    assert {"row", "cosine", "TARGETID", "Z"} <= set(found["rows"][0])
    assert run("--quiet", *words).stdout == ""
    index = tmp_path / "i.usearch"
    assert "IMAGE_EMBEDDING" in run("search", embedded, "--build-index", index, "--to", "image").stdout
    assert json.loads(run("--json", *words, "--index", index).stdout)["rows"] == found["rows"]
    with pytest.raises(UsageError, match="does no search"):
        run("search", embedded, "--build-index", index, "--row", 1)
