"""Search: the rows found, their order and cosines, against plain NumPy; what is refused."""

import json

import fitsio
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from search_files import FIRST_ID, HASH, unit, write_embedded
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.errors import DataError, UsageError
from astroclip.search import Example, ExampleKind, parse_example, search_catalog
from astroclip.search import scan as scanning
from astroclip.search.scan import mean_cosine, normalise
from astroclip.tables import open_table


def row(value: int, like: bool = True) -> Example:
    return Example(ExampleKind.ROW, str(value), like)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "galaxies.fits"


def expected(query, vectors, keep, k):
    """Return the rows and cosines that a search must find, in plain NumPy."""
    cosine = unit(vectors) @ unit(query)
    order = [i for i in np.argsort(-cosine, kind="stable") if keep[i]]
    return np.array(order[:k]), cosine[order[:k]]


def test_finds_what_numpy_finds_with_all_columns_rank_and_cosine(path):
    table = write_embedded(path, bad=(7, 8))
    report = search_catalog(path, [row(3)], k=12)
    keep = np.isfinite(table["IMAGE_EMBEDDING"]).all(1)
    keep[3] = False
    rows, cosine = expected(table["IMAGE_EMBEDDING"][3], table["IMAGE_EMBEDDING"], keep, 12)
    found = fitsio.read(report.output)
    np.testing.assert_array_equal(found["CATALOG_ROW"], rows)
    np.testing.assert_array_equal(found["RANK"], np.arange(1, 13))
    np.testing.assert_allclose(found["SIMILARITY"], cosine, atol=1e-6)
    for name, values in table.items():
        np.testing.assert_array_equal(found[name], values[rows])
    assert (report.searched, report.bad, report.excluded) == (197, 2, 1)
    np.testing.assert_array_equal(report.identity["TARGETID"], table["TARGETID"][rows])


def test_the_output_says_how_it_was_made_and_is_valid(path):
    write_embedded(path)
    report = search_catalog(path, [row(3), row(5, like=False)], where="Z < 0.5")
    with fits.open(report.output, checksum=True) as hdus:
        header = hdus["FOUND"].header
        history = "".join(header["HISTORY"])
    assert header["ACHASH"] == HASH
    assert "like row 3" in history
    assert "unlike row 5" in history
    assert "Z < 0.5" in history
    assert "SHA-256" in history or "DATASUM" in history


def test_several_examples_are_the_mean_of_the_alike_minus_that_of_the_unlike(path):
    table = write_embedded(path)
    vectors = table["IMAGE_EMBEDDING"]
    unit_vectors = unit(vectors)
    query = unit_vectors[[1, 2]].mean(0) - unit_vectors[[4, 9, 11]].mean(0)
    keep = ~np.isin(np.arange(200), [1, 2, 4, 9, 11])
    examples = [row(1), row(2), row(4, False), row(9, False), row(11, False)]
    report = search_catalog(path, examples, k=5)
    rows, cosine = expected(query, vectors, keep, 5)
    np.testing.assert_array_equal(report.rows, rows)
    np.testing.assert_allclose(report.similarity, cosine, atol=1e-6)


@pytest.mark.parametrize("target", ["image", "spectrum", "both"])
@pytest.mark.parametrize("source", ["image", "spectrum"])
def test_searches_in_and_across_modalities(path, source, target):
    table = write_embedded(path)
    report = search_catalog(path, [row(3)], source=source, target=target, keep_examples=True, k=8)
    columns = (
        ["IMAGE_EMBEDDING", "SPECTRUM_EMBEDDING"] if target == "both" else [f"{target.upper()}_EMBEDDING"]
    )
    query = unit(table[f"{source.upper()}_EMBEDDING"][3])
    cosine = np.mean([unit(table[name]) @ query for name in columns], axis=0)
    np.testing.assert_array_equal(report.rows, np.argsort(-cosine, kind="stable")[:8])
    np.testing.assert_allclose(report.similarity, np.sort(cosine)[::-1][:8], atol=1e-6)
    assert report.rows[0] == 3  # a galaxy's own spectrum is the nearest to its image


def test_examples_are_left_out_only_where_they_are_from(path):
    write_embedded(path)
    assert 3 not in search_catalog(path, [row(3)], k=200).rows
    assert search_catalog(path, [row(3)], target="spectrum", overwrite=True).rows[0] == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(1, 30), st.integers(1, 9), st.integers(0, 5))
def test_blocks_do_not_change_what_is_found(tmp_path_factory, rows, k, block, seed):
    folder = tmp_path_factory.mktemp("blocks")
    table = write_embedded(folder / "t.fits", rows, 4, seed=seed, bad=(rows // 2,) if rows > 4 else ())
    query = normalise(np.arange(1.0, 5.0))
    results = []
    for size in (block * 16, 1 << 20):
        with pytest.MonkeyPatch.context() as patch, open_table(folder / "t.fits") as catalog:
            patch.setattr(scanning, "BLOCK_BYTES", size)
            near = scanning.scan(catalog, ["IMAGE_EMBEDDING"], query, k + scanning.SPARE)
            results.append((near, *scanning.rank(catalog, ["IMAGE_EMBEDDING"], query, near, k)))
    keep = np.isfinite(table["IMAGE_EMBEDDING"]).all(1)
    want, cosine = expected(query, table["IMAGE_EMBEDDING"], keep, k)
    for near, found, similarity in results:
        np.testing.assert_array_equal(found, want)
        np.testing.assert_allclose(similarity, cosine, atol=1e-12)
        assert sum(near.counts) == rows


def test_equal_vectors_come_in_the_order_of_the_table_and_short_ones_are_not_stretched(path):
    same = np.ones((200, 16), "f4")
    same[:20] *= 1e-5
    write_embedded(path, IMAGE_EMBEDDING=same)
    report = search_catalog(path, [row(150)], k=200, target="image")
    np.testing.assert_array_equal(report.rows[:149], [*range(20, 150), *range(151, 170)])
    np.testing.assert_allclose(report.similarity[-1], 4e-5 / 1e-3, rtol=1e-5)
    assert mean_cosine([np.zeros((1, 16))], np.ones(16) / 4) == 0


def test_rows_are_named_by_targetid_and_position(path):
    table = write_embedded(path)
    table["RA"][0], table["DEC"][0] = 359.9999, 89.5
    write_embedded(path, RA=table["RA"], DEC=table["DEC"])
    by_id = search_catalog(path, [Example(ExampleKind.TARGETID, str(FIRST_ID + 5))])
    near = f"{table['RA'][5]} {table['DEC'][5] + 0.5 / 3600}"
    by_place = search_catalog(path, [Example(ExampleKind.RADEC, near)], overwrite=True)
    np.testing.assert_array_equal(by_id.rows, by_place.rows)
    over_the_wrap = search_catalog(path, [Example(ExampleKind.RADEC, "0.0001,89.5")], overwrite=True)
    np.testing.assert_array_equal(over_the_wrap.rows, search_catalog(path, [row(0)], overwrite=True).rows)


@pytest.mark.parametrize("kind", ["h", "rad", "text"])
def test_rows_are_found_by_positions_of_every_kind(path, kind):
    table = write_embedded(path)
    sky = SkyCoord(table["RA"], table["DEC"], unit="deg")
    columns = {
        "h": {"RA": sky.ra.hourangle, "DEC": sky.dec.deg},
        "rad": {"RA": sky.ra.rad, "DEC": sky.dec.rad},
        "text": {"RA": sky.ra.to_string("hour", sep=":"), "DEC": sky.dec.to_string("deg", sep=":")},
    }[kind]
    write_embedded(path, **columns)
    with fits.open(path, mode="update") as hdus:
        for i, name in enumerate(hdus[1].columns.names, 1):
            if name in columns and kind != "text":
                hdus[1].header[f"TUNIT{i}"] = kind if (kind, name) != ("h", "DEC") else "deg"
    want = search_catalog(path, [row(5)])
    for style in ({"style": "decimal", "unit": "deg"}, {"style": "hmsdms"}, {"style": "hmsdms", "sep": ":"}):
        where = Example(ExampleKind.RADEC, sky[5].to_string(**style, precision=7))
        assert search_catalog(path, [where], overwrite=True).rows.tolist() == want.rows.tolist()


def test_position_columns_can_be_named(path):
    write_embedded(path, omit=("RA", "DEC"), X=np.arange(200.0), Y=np.zeros(200))
    with pytest.raises(DataError, match=r"no position columns.*--ra NAME"):
        search_catalog(path, [Example(ExampleKind.RADEC, "7 0")])
    words = ["--json", "search", path, "--radec", "0:28:00 0:0:0", "--ra", "x", "--dec", "Y"]
    done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert json.loads(done.stdout)["rows"][0]["row"] == search_catalog(path, [row(7)], overwrite=True).rows[0]


@pytest.mark.parametrize(("ids", "found"), [("text", True), ("float", False), ("small", True)])
def test_a_targetid_is_exact(path, ids, found):
    table = write_embedded(path)
    kinds = {"text": table["TARGETID"].astype("S20"), "float": table["TARGETID"].astype(float)}
    kinds["small"] = np.arange(200.0)
    write_embedded(path, TARGETID=kinds[ids])
    example = Example(ExampleKind.TARGETID, "5" if ids == "small" else str(table["TARGETID"][5]))
    if found:
        rows = search_catalog(path, [example]).rows
        assert rows.tolist() == search_catalog(path, [row(5)], overwrite=True).rows.tolist()
        return
    with pytest.raises(DataError, match="column 'TARGETID' is float64, and row 0"):
        search_catalog(path, [example])


def test_reads_an_example():
    assert parse_example("radec=150.1,2.2", like=False) == Example(ExampleKind.RADEC, "150.1,2.2", False)
    for wrong in ("row", "row=", "rows=3", "=3"):
        with pytest.raises(UsageError, match="targetid="):
            parse_example(wrong)


@pytest.mark.parametrize(
    ("example", "error", "says"),
    [
        (row(200), DataError, "no row 200"),
        (Example(ExampleKind.ROW, "-1"), UsageError, "expected a number"),
        (Example(ExampleKind.TARGETID, "abc"), UsageError, "expected an integer"),
        (Example(ExampleKind.TARGETID, "17"), DataError, "no row with TARGETID 17"),
        (Example(ExampleKind.RADEC, "12h"), UsageError, "degrees"),
        (Example(ExampleKind.RADEC, "10 nan"), UsageError, "no such place"),
        (Example(ExampleKind.RADEC, "10 95"), UsageError, "no such place"),
        (Example(ExampleKind.RADEC, "10 10"), DataError, "nearest is"),
        (row(9), DataError, "no image embedding"),
        (row(3, like=False), UsageError, "nothing to search for"),
        (Example(ExampleKind.IMAGE, "missing.fits"), DataError, "tiny"),
    ],
)
def test_refuses_examples_that_are_not_there(path, example, error, says, tiny_model):
    write_embedded(path, bad=(9,))
    with pytest.raises(error, match=says):
        search_catalog(path, [example], model=tiny_model)
    assert not path.with_name("galaxies-search.fits").exists()


def test_refuses_what_cannot_be_compared(path):
    write_embedded(path, omit=("IMAGE_EMBEDDING", "SPECTRUM_EMBEDDING"))
    with pytest.raises(UsageError, match="astroclip embed"):
        search_catalog(path, [row(1)])
    write_embedded(path, omit=("SPECTRUM_EMBEDDING",))
    with pytest.raises(UsageError, match="SPECTRUM_EMBEDDING"):
        search_catalog(path, [row(1)], target="spectrum")
    write_embedded(path, header={})
    with pytest.raises(UsageError, match="ACHASH"):
        search_catalog(path, [row(1)], target="spectrum")
    assert search_catalog(path, [row(1)]).found == 10  # within images nothing has to be known
    write_embedded(path, SPECTRUM_EMBEDDING=np.ones((200, 5), "f4"))
    with pytest.raises(UsageError, match="one space"):
        search_catalog(path, [row(1)], target="both", overwrite=True)
    with pytest.raises(UsageError, match="exists already"):
        search_catalog(path, [row(1)])
    with pytest.raises(UsageError, match="at least 1"):
        search_catalog(path, [row(1)], k=0)


def test_examples_that_cancel_and_tables_without_a_usable_row_are_refused(path):
    write_embedded(path, 2, IMAGE_EMBEDDING=np.ones((2, 16), "f4"))
    with pytest.raises(DataError, match="cancel out"):
        search_catalog(path, [row(0), row(1, False)])
    with pytest.raises(DataError, match="no row is left"):
        search_catalog(path, [row(0)], where="Z > 5")
    write_embedded(path, 4, bad=(1, 2, 3))
    with pytest.raises(DataError, match="3 have no embedding"):
        search_catalog(path, [row(0)])


def test_fewer_rows_than_asked_for_are_all_found_and_columns_can_be_chosen(path):
    write_embedded(path, 5)
    report = search_catalog(path, [row(0)], k=50, columns=["z", "targetid"])
    found = fitsio.read(report.output)
    assert report.found == len(found) == 4
    assert found.dtype.names == ("RANK", "SIMILARITY", "CATALOG_ROW", "Z", "TARGETID")


def test_text_that_is_not_ascii_becomes_question_marks(path):
    write_embedded(path, 3, SPECTYPE=np.array([b"caf\xe9", b"QSO", b"na\xefve"]))
    found = fitsio.read(search_catalog(path, [row(1)], k=2).output)
    assert sorted(found["SPECTYPE"]) == ["caf?", "na?ve"]


def test_a_result_can_be_searched_and_columns_of_variable_length_are_left_out(tmp_path, path):
    table = write_embedded(path, 6)
    ragged = np.array([np.arange(i + 1) for i in range(6)], object)
    columns = [
        fits.Column("HISTORY_OF", "PJ()", array=ragged),
        fits.Column("TINY", "I", null=-9, array=np.arange(6)),
        fits.Column("IMAGE_EMBEDDING", "16E", array=table["IMAGE_EMBEDDING"]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(path, overwrite=True)
    first = search_catalog(path, [row(0)], tmp_path / "first.fits", k=4)
    assert first.left_out == ["HISTORY_OF"]
    second = search_catalog(first.output, [row(0)], tmp_path / "second.fits", k=3)
    found = fits.getdata(second.output)
    assert list(found.names).count("RANK") == 1
    np.testing.assert_array_equal(found["RANK"], [1, 2, 3])
    assert fits.getheader(second.output, 1)["TNULL4"] == -9
