"""The index: it finds what the exact search finds, knows what it is of, and refuses everything else."""

import os

import numpy as np
import pytest
import yaml
from search_files import write_embedded

from astroclip.errors import ConfigError, DataError, UsageError
from astroclip.search import Example, ExampleKind, index_catalog, search_catalog
from astroclip.tables import open_table

ROW = [Example(ExampleKind.ROW, "3")]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    catalog, index = folder / "galaxies.fits", folder / "galaxies.usearch"
    write_embedded(catalog, 1500, bad=(4, 700))
    index_catalog(catalog, index, target="image")
    return catalog, index


def search(catalog, output, **options):
    return search_catalog(catalog, options.pop("examples", ROW), output, overwrite=True, **options)


@pytest.mark.parametrize(
    "options", [{}, {"where": "Z < 0.5"}, {"where": "Z < 0.003"}, {"source": "spectrum"}]
)
def test_finds_what_the_exact_search_finds(indexed, tmp_path, options):
    catalog, index = indexed
    exact = search(catalog, tmp_path / "exact.fits", target="image", **options)
    quick = search(catalog, tmp_path / "quick.fits", target="image", index=index, **options)
    np.testing.assert_array_equal(quick.rows, exact.rows)
    np.testing.assert_array_equal(quick.similarity, exact.similarity)
    assert quick.bad == exact.bad == 2 or "where" in options


def test_it_says_what_it_is_of(indexed):
    catalog, index = indexed
    facts = yaml.safe_load(index.with_name("galaxies.usearch.yaml").read_text())
    assert facts["column"] == "IMAGE_EMBEDDING"
    assert (facts["rows"], facts["bad"]) == (1500, 2)
    with open_table(catalog) as table:
        assert facts["model_hash"] == table.header["ACHASH"]
        assert facts["checksum"] == table.fingerprint


def test_a_touched_table_is_accepted_and_a_changed_one_refused(tmp_path):
    catalog, index = tmp_path / "galaxies.fits", tmp_path / "i.usearch"
    write_embedded(catalog, 60)
    index_catalog(catalog, index)
    os.utime(catalog, ns=(1, 1))
    search(catalog, tmp_path / "out.fits", index=index)
    write_embedded(catalog, 60, seed=1)
    with pytest.raises(DataError, match=r"as it was.*--build-index"):
        search(catalog, tmp_path / "out.fits", index=index)
    write_embedded(catalog, 60, header={"ACMODEL": "other", "ACHASH": "ffff"})
    with pytest.raises(DataError, match=r"model tiny .*embedded by other \(ffff\)"):
        search(catalog, tmp_path / "out.fits", index=index)


def test_another_column_or_a_damaged_index_is_refused(indexed, tmp_path):
    catalog, index = indexed
    with pytest.raises(DataError, match="of column IMAGE_EMBEDDING, not of SPECTRUM_EMBEDDING"):
        search(catalog, tmp_path / "out.fits", index=index, source="spectrum")
    with pytest.raises(UsageError, match="of one column"):
        search(catalog, tmp_path / "out.fits", index=index, target="both")
    copy, beside = tmp_path / "copy", tmp_path / "copy.yaml"
    with pytest.raises(DataError, match="no such file"):
        search(catalog, tmp_path / "out.fits", index=copy)
    beside.write_text(index.with_name("galaxies.usearch.yaml").read_text())
    for damaged in (index.read_bytes()[:-100], bytes(index.stat().st_size)):
        copy.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            search(catalog, tmp_path / "out.fits", index=copy)
    beside.write_text("format: something else")
    with pytest.raises(ConfigError, match=r"copy\.yaml"):
        search(catalog, tmp_path / "out.fits", index=copy)


def test_an_index_that_cannot_be_made_is_refused(indexed, tmp_path):
    catalog, index = indexed
    with pytest.raises(UsageError, match="exists already"):
        index_catalog(catalog, index)
    with pytest.raises(DataError, match="no folder"):
        index_catalog(catalog, tmp_path / "none" / "i")
    with pytest.raises(UsageError, match="one column"):
        index_catalog(catalog, tmp_path / "i", target="both")
    write_embedded(tmp_path / "bad.fits", 3, bad=(0, 1, 2))
    with pytest.raises(DataError, match="nothing to index"):
        index_catalog(tmp_path / "bad.fits", tmp_path / "i")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.fits"]
