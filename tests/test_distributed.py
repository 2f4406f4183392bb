"""The engine over LSDB returns the rows of the in-memory matcher: tables, HATS folders, a cluster."""

import shutil
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_match import all_sky, around, skies

from astroclip.crossmatch import distributed, match
from astroclip.crossmatch.image_side import open_image_side
from astroclip.errors import DataError, UsageError
from astroclip.tables import open_table
from astroclip.tables.identity import Who

needs_lsdb = pytest.mark.skipif(find_spec("lsdb") is None, reason="needs lsdb: pip install '.[distributed]'")


NOBODY = Who({}, np.zeros(0), np.zeros(0))


def assert_same(found, expected):
    for name, column in expected._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), column, err_msg=name)


def compare(left, right, radius=1.0, find="best", **options):
    expected = match.match_objects(left, right, radius, find)
    assert_same(distributed.match_objects(left, right, radius, find, **options), expected)
    return expected


def with_ids(position, rng, n_ids):
    """Give positions ids of few enough values that they repeat, some missing."""
    n = position[0].size
    ids = {"RELEASE": rng.choice([9010, 9011, 0], n, p=[0.6, 0.3, 0.1]), "BRICKID": np.full(n, 7)}
    return Who(ids | {"OBJID": rng.integers(-1, n_ids, n)}, *position)


def blocks_of(who, edges):
    """The same galaxies cut into blocks."""
    return [
        Who({name: values[part] for name, values in who.ids.items()}, who.ra[part], who.dec[part])
        for part in (slice(*edge) for edge in zip([0, *edges], [*edges, None], strict=True))
    ]


def mock_table(rng, n_pairs=300):
    """Columns of two tables that share galaxies: at both poles, at RA 0 and all over the sky."""
    places = [(0.0, 90.0), (50.0, -90.0), (0.0, 0.0), (359.99, 45.0)]
    true = np.hstack([all_sky(rng, n_pairs), *(around(rng, 100, place, 0.01) for place in places)])
    n = true.shape[1]
    tables = []
    for scale in (0.0, 0.4):
        ra, dec = true + rng.normal(0, scale / 3600, (2, n)) * np.array(
            [1 / np.cos(np.radians(true[1])), np.ones(n)]
        )
        order = rng.permutation(np.arange(n)[10:])
        known = rng.random(n) < 0.5
        tables.append(
            {
                "TARGET_RA": (ra % 360)[order],
                "TARGET_DEC": np.clip(dec, -90, 90)[order],
                "Release": np.where(known, 9010, 0)[order],
                "BRICKID": np.full(order.size, 3),
                "OBJID": np.ma.array(np.arange(n), mask=rng.random(n) < 0.05)[order],
                "Z": np.where(rng.random(n) < 0.1, np.nan, rng.random(n))[order],
            }
        )
    return tables


def whole(side):
    """All galaxies of a HATS catalogue."""
    blocks = list(side.blocks())
    ids = {name: np.concatenate([block.ids[name] for block in blocks]) for name in blocks[0].ids}
    return Who(ids, *(np.concatenate([getattr(block, name) for block in blocks]) for name in ("ra", "dec")))


def positions(folder):
    """The positions of a HATS catalogue, as the image side."""
    return open_image_side(folder, epoch=np.nan)


@pytest.fixture(scope="module")
def hats(tmp_path_factory):
    """Two HATS catalogues of many partitions, without margin caches."""
    pd = pytest.importorskip("pandas")
    import lsdb

    folders = []
    for name, table in zip("ab", mock_table(np.random.default_rng(5)), strict=True):
        frame = pd.DataFrame(
            {key: pd.array(column.tolist()) if key == "OBJID" else column for key, column in table.items()}
        )
        folders.append(tmp_path_factory.mktemp("hats") / name)
        catalog = lsdb.from_dataframe(
            frame,
            ra_column="TARGET_RA",
            dec_column="TARGET_DEC",
            catalog_name=name,
            partition_rows=120,
            margin_threshold=None,
            should_generate_moc=False,
        )
        catalog.write_catalog(folders[-1], catalog_name=name, as_collection=False, progress_bar=False)
    return folders


# --- tables ------------------------------------------------------------------------------------------------


@needs_lsdb
@pytest.mark.parametrize("find", ["best", "all"])
@settings(max_examples=25, deadline=None)
@given(skies(), st.integers(0, 2**32), st.booleans())
def test_tables_match_as_in_memory(find, sky, seed, ids):
    rng = np.random.default_rng(seed)
    left, right = (with_ids(side, rng, 30) if ids else Who({}, *side) for side in sky[:2])
    compare(left, right, sky[2], find)
    compare(left, blocks_of(right, np.sort(rng.integers(0, right.ra.size + 1, 3))), sky[2], find)


@needs_lsdb
def test_many_blocks_and_a_crowd_beyond_the_buffers(rng, monkeypatch):
    monkeypatch.setattr(distributed, "TASK_ROWS", 500)
    crowd = around(rng, 3000, (10.0, 20.0), 0.2 / 3600)
    left, right = Who({}, *crowd[:, :1500]), Who({}, *np.hstack([crowd[:, 1500:], all_sky(rng, 2000)]))
    assert compare(left, right).left.size > 100
    compare(left, Who({}, *crowd[:, 2990:]), find="all")


@needs_lsdb
def test_what_makes_no_sense_is_refused():
    one = Who({}, np.zeros(1), np.zeros(1))
    with pytest.raises(UsageError, match="radius"):
        distributed.match_objects(one, one, -1.0)
    with pytest.raises(UsageError, match="'first'"):
        distributed.match_objects(one, one, find="first")
    with pytest.raises(DataError, match="one length"):
        distributed.match_objects(one, Who({}, np.zeros(2), np.zeros(1)))
    with pytest.raises(DataError, match="one length"):
        distributed.match_objects(Who({}, np.zeros(2), np.zeros(1)), one)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lsdb", None)
    with pytest.raises(UsageError, match=r"pip install 'astroclip\[distributed\]'"):
        distributed.match_objects(NOBODY, NOBODY)


# --- HATS catalogues ---------------------------------------------------------------------------------------


@needs_lsdb
@pytest.mark.parametrize("find", ["best", "all"])
def test_hats_folders_match_as_in_memory(hats, find):
    left, side = whole(positions(hats[0])), positions(hats[1])
    assert len(side.files) > 15
    expected = match.match_objects(left, whole(side), 1.0, find)
    assert {"id", "position"} == set(expected.method)
    assert expected.left.size > 500
    assert_same(distributed.match_objects(left, side.hats, 1.0, find), expected)
    assert_same(match.match_objects(left, match.Again(side.blocks), 1.0, find), expected)


@needs_lsdb
def test_rows_written_by_lsdb_are_those_of_the_table(hats):
    """Row numbers lead to any other column; missing integers are masked, missing floats NaN."""
    table = mock_table(np.random.default_rng(5))[1]
    with open_table(hats[1]) as catalog:
        objid, z, ra = catalog.read(["OBJID", "Z", "TARGET_RA"]).values()
    place = np.argsort(table["TARGET_RA"])[np.argsort(np.argsort(ra))]
    np.testing.assert_array_equal(ra, table["TARGET_RA"][place])
    np.testing.assert_array_equal(z, table["Z"][place])
    np.testing.assert_array_equal(objid.filled(-1), table["OBJID"][place].filled(-1))


@needs_lsdb
def test_a_hats_folder_that_became_damaged(hats, tmp_path):
    broken = shutil.copytree(hats[0], tmp_path / "broken")
    side = positions(broken)
    side.files[3].write_bytes(side.files[3].read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        distributed.match_objects(NOBODY, side.hats)


# --- a cluster ---------------------------------------------------------------------------------------------


@needs_lsdb
@pytest.mark.network
def test_a_cluster_returns_the_same(hats, monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(distributed, "TASK_ROWS", 300)
    left, right = (positions(folder) for folder in hats)
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        expected = compare(whole(left), whole(right), cluster=address)
        assert_same(distributed.match_objects(whole(left), right.hats, cluster=address), expected)


@needs_lsdb
@pytest.mark.network
@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://here"])
def test_no_cluster_there(address, monkeypatch):
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(UsageError, match="Dask"),
    ):
        distributed.match_objects(NOBODY, NOBODY, cluster=address)
