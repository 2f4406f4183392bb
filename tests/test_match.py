"""The matcher against brute force, astropy and STILTS; ids, proper motion, false matches."""

import os
import shutil
import subprocess
import sys
from collections import Counter

import fitsio
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord, match_coordinates_sky, search_around_sky
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from astroclip.crossmatch.match import false_match_rate, match_objects
from astroclip.data.targetid import encode_targetid
from astroclip.errors import DataError, UsageError
from astroclip.sky import _compiled, build_index, match_nearest, match_sky, separation_arcsec
from astroclip.tables.identity import Who
from astroclip.tables.motion import propagate

ARCSEC = np.pi / 648000.0


def haversine(left, right):
    """Separation of every left row from every right row, (N, M) arcsec: Sinnott 1984."""
    (ra1, dec1), (ra2, dec2) = (np.radians(left)[:, :, None], np.radians(right)[:, None, :])
    a = np.sin((dec2 - dec1) / 2) ** 2 + np.cos(dec1) * np.cos(dec2) * np.sin((ra2 - ra1) / 2) ** 2
    return 2 * np.arcsin(np.sqrt(np.clip(a, 0, 1))) / ARCSEC


def brute_force(left, right, radius, find):
    """The pairs by the definition: all separations, then mutual nearest with ties to the smaller row."""
    if not left[0].size or not right[0].size:
        return np.empty((0, 2), np.int64)
    exact = haversine(left, right) / radius
    separation = np.where(exact <= 1.0, np.round(exact, 6), np.inf)
    if find == "all":
        return np.argwhere(separation <= 1.0)
    of_left, of_right = separation.argmin(axis=1), separation.argmin(axis=0)
    mutual = [(i, j) for i, j in enumerate(of_left) if of_right[j] == i and separation[i, j] <= 1.0]
    return np.array(mutual, np.int64).reshape(-1, 2)


def around(rng, n, center, scale):
    """Positions scattered by `scale` deg around a point of the sky, uniform in angle at the poles too."""
    angle, distance = rng.uniform(0, 2 * np.pi, n), np.radians(scale * rng.uniform(0, 1, n) ** 0.5)
    lon, lat = np.radians(center)
    north = np.array([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    pole = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    across = np.outer(np.cos(angle), north) + np.outer(np.sin(angle), east)
    x, y, z = (np.cos(distance)[:, None] * pole + np.sin(distance)[:, None] * across).T
    return np.array([np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arctan2(z, np.hypot(x, y)))])


def all_sky(rng, n):
    return np.array([rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))])


@st.composite
def skies(draw):
    """Two sets of positions that crowd at a pole, at RA 0 or elsewhere, with duplicates and missing ones."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    center = (
        draw(st.sampled_from([0.0, 359.9999, 123.4])),
        draw(st.sampled_from([90.0, -90.0, 89.9999, -89.99, 0.0, 33.3, 60.0])),
    )
    radius = 10.0 ** draw(st.floats(-1.0, 4.8))
    scale = min(radius / 3600 * draw(st.sampled_from([0.3, 1.0, 3.0, 30.0])), 90.0)
    sides = [around(rng, draw(st.integers(0, 40)), center, scale) for _ in range(2)]
    if draw(st.booleans()) and sides[0].size:
        sides[1] = np.hstack([sides[1], sides[0][:, :5], sides[0][:, :2]])
        sides[0] = np.hstack([sides[0], sides[0][:, :3]])
    for side in sides:
        side[draw(st.sampled_from([0, 1])), rng.random(side.shape[1]) < draw(st.sampled_from([0, 0.1]))] = (
            np.nan
        )
    return tuple(sides[0]), tuple(sides[1]), radius


def cut(side, rng):
    """The same positions as a stream of blocks, empty ones among them."""
    edges = np.sort(rng.integers(0, side[0].size + 1, 4))
    return zip(np.split(side[0], edges), np.split(side[1], edges), strict=True)


def pairs_of(matches):
    return np.column_stack([matches.left, matches.right])


@pytest.mark.parametrize("find", ["best", "all"])
@settings(max_examples=150, deadline=None)
@given(skies())
def test_equals_brute_force(find, sky):
    left, right, radius = sky
    if left[0].size and right[0].size:  # on the border rounding decides
        assume(not (np.abs(haversine(left, right) / radius - 1.0) < 1e-9).any())
    matches = match_sky(left, right, radius, find)
    expected = brute_force(left, right, radius, find)
    np.testing.assert_array_equal(pairs_of(matches), expected)
    separation = haversine(left, right)[tuple(expected.T)]
    np.testing.assert_allclose(matches.separation_arcsec, separation, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("find", ["best", "all"])
@settings(max_examples=60, deadline=None)
@given(skies(), st.integers(0, 2**32))
def test_neither_blocks_nor_the_side_that_is_streamed_matter(find, sky, seed):
    left, right, radius = sky
    rng = np.random.default_rng(seed)
    whole = match_sky(left, right, radius, find)
    swapped = match_sky(right, left, radius, find)
    order = np.lexsort((swapped.left, swapped.right))
    variants = [
        match_sky(left, cut(right, rng), radius, find),
        match_sky(cut(left, rng), right, radius, find),
        match_sky(cut(left, rng), cut(right, rng), radius, find),
        type(swapped)(
            swapped.right[order],
            swapped.left[order],
            swapped.separation_arcsec[order],
        ),
    ]
    for variant in variants:
        for got, expected in zip(variant, whole, strict=True):
            np.testing.assert_array_equal(got, expected)


@settings(max_examples=150, deadline=None)
@given(skies())
def test_nearest_equals_brute_force(sky):
    left, right, radius = sky
    far = haversine(left, right)
    if far.size:
        assume(not (np.abs(far / radius - 1.0) < 1e-9).any())
    within = np.where(far <= radius, far, np.inf)
    for side in (right, build_index(*right, radius)):
        found = match_nearest(left, side, radius)
        np.testing.assert_array_equal(found.several, (far <= radius).sum(axis=1) > 1)
        np.testing.assert_array_equal(found.row >= 0, np.isfinite(within).any(axis=1))
        np.testing.assert_array_equal(np.isnan(found.separation_arcsec), found.row < 0)
        for i in np.flatnonzero(found.row >= 0):
            assert found.separation_arcsec[i] == pytest.approx(within[i].min(), rel=1e-9, abs=1e-6)
            assert within[i, found.row[i]] == pytest.approx(within[i].min(), rel=1e-9, abs=1e-6)


def test_of_equally_near_rows_the_first_is_the_nearest():
    found = match_nearest(([10.0, 50.0], [0.0, 0.0]), ([10.0, 10.0, 10.0], [1e-4, 0.0, 0.0]), 1.0)
    assert (found.row.tolist(), found.several.tolist()) == ([1, -1], [True, False])
    with pytest.raises(UsageError, match="radius"):
        match_nearest(([10.0], [0.0]), ([10.0], [0.0]), 0.0)


def test_ra_on_any_turn_and_any_storage_of_the_columns(rng):
    left, right = all_sky(rng, 400), all_sky(rng, 3000)
    expected = pairs_of(match_sky(tuple(left), tuple(right), 3000.0))
    assert len(expected) > 50
    turned = right[0] + 360.0 * rng.integers(-2, 3, 3000)
    table = np.zeros(3000, [("RA", ">f8"), ("X", "i2"), ("DEC", ">f8")])
    table["RA"], table["DEC"] = turned, right[1]
    np.testing.assert_array_equal(
        pairs_of(match_sky(tuple(left), (table["RA"], table["DEC"]), 3000.0)), expected
    )
    masked = np.ma.array(right[1], mask=np.arange(3000) == expected[0, 1])
    some = match_sky(tuple(left), (right[0], masked), 3000.0)
    assert expected[0, 1] not in some.right


def test_equals_astropy(rng):
    left = np.hstack([all_sky(rng, 3000), around(rng, 1000, (0, 90), 0.01), around(rng, 1000, (0, 20), 0.01)])
    right = np.hstack(
        [all_sky(rng, 9000), around(rng, 1000, (0, 90), 0.01), around(rng, 1000, (0, 20), 0.01)]
    )
    a, b = (SkyCoord(*side, unit="deg") for side in (left, right))
    to_b, separation, _ = match_coordinates_sky(a, b)
    to_a = match_coordinates_sky(b, a)[0]
    mutual = np.flatnonzero((to_a[to_b] == np.arange(a.size)) & (separation.arcsec <= 2.0))
    best = match_sky(tuple(left), tuple(right), 2.0)
    assert mutual.size > 500
    np.testing.assert_array_equal(best.left, mutual)
    np.testing.assert_array_equal(best.right, to_b[mutual])
    np.testing.assert_allclose(best.separation_arcsec, separation.arcsec[mutual], atol=1e-6, rtol=0)
    i, j, _, _ = search_around_sky(a, b, 2.0 * u.arcsec)
    order = np.lexsort((j, i))
    np.testing.assert_array_equal(
        pairs_of(match_sky(tuple(left), tuple(right), 2.0, "all")), np.column_stack([i, j])[order]
    )


@pytest.fixture
def stilts(tmp_path):
    """A function that matches two sets of positions with STILTS, as rows numbered from zero."""
    if shutil.which("stilts") is None and not os.environ.get("CI"):
        pytest.skip("needs stilts: apt-get install stilts")

    def match(left, right, radius, find):
        for number, (ra, dec) in enumerate([left, right], 1):
            rows = np.rec.fromarrays([ra, dec, np.arange(ra.size)], names="RA,DEC,ROW")
            fitsio.write(tmp_path / f"{number}.fits", rows, clobber=True)
        positions = [f"{axis.lower()}{side}={axis}" for axis in ("RA", "DEC") for side in (1, 2)]
        files = [f"in{side}={tmp_path / f'{side}.fits'}" for side in (1, 2)]
        output = tmp_path / "out.fits"
        subprocess.run(
            ["stilts", "tskymatch2", *files, *positions, f"error={radius}", f"find={find}", f"out={output}"],
            check=True,
            capture_output=True,
        )
        rows = fitsio.read(output, 1)
        rows = rows[np.lexsort((rows["ROW_2"], rows["ROW_1"]))]
        return np.column_stack([rows["ROW_1"], rows["ROW_2"]]), rows["Separation"]

    return match


def test_equals_stilts(stilts, rng):
    crowd = [np.hstack([all_sky(rng, 2000), around(rng, 600, (0, 50), 0.01)]) for _ in range(2)]
    left, right = (tuple(side) for side in crowd)
    expected, separation = stilts(left, right, 2.0, "all")
    every = match_sky(left, right, 2.0, "all")
    np.testing.assert_array_equal(pairs_of(every), expected)
    np.testing.assert_allclose(every.separation_arcsec, separation, atol=1e-6, rtol=0)

    best = {tuple(pair) for pair in pairs_of(match_sky(left, right, 2.0))}
    one, two, symmetric = (
        {tuple(pair) for pair in stilts(left, right, 2.0, find)[0]} for find in ("best1", "best2", "best")
    )
    assert best == one & two
    assert best < symmetric  # STILTS goes on to pair the rows whose nearest is taken


def test_equals_stilts_best_where_nothing_is_contested(stilts, rng):
    right = all_sky(rng, 20_000)
    moved = propagate(*right[:, :5000], *rng.normal(0, 300, (2, 5000)), from_epoch=2000, to_epoch=2001)
    left = tuple(np.hstack([np.array(moved), all_sky(rng, 1000)]))
    expected, separation = stilts(left, tuple(right), 1.0, "best")
    best = match_sky(left, tuple(right), 1.0)
    np.testing.assert_array_equal(pairs_of(best), expected)
    np.testing.assert_allclose(best.separation_arcsec, separation, atol=1e-6, rtol=0)


@pytest.mark.parametrize("center", [(0.0, 0.0), (10.0, 90.0)])
def test_dense_clump(rng, center):
    left, right = (tuple(around(rng, 4000, center, 1.5 / 3600)) for _ in range(2))
    np.testing.assert_array_equal(
        pairs_of(match_sky(left, right, 0.5)), brute_force(left, right, 0.5, "best")
    )
    every = match_sky(left, right, 0.5, "all")  # over a million pairs: more than a buffer holds
    assert every.left.size == len(brute_force(left, right, 0.5, "all")) > 1_000_000


def test_one_row_with_more_pairs_than_a_buffer_holds():
    many = np.full(300_000, 10.0), np.full(300_000, -90.0)
    every = match_sky(many, (np.array([200.0]), np.array([-90.0])), 0.1, "all")
    np.testing.assert_array_equal(every.left, np.arange(300_000))
    assert pairs_of(match_sky((np.array([200.0]), np.array([-90.0])), many, 0.1)).tolist() == [[0, 0]]


def test_separation_keeps_its_digits_at_all_scales(rng):
    start = all_sky(rng, 300).astype(np.longdouble)
    angle = np.longdouble(10.0) ** rng.uniform(-6, 5.8, 300)  # arcsec, to 175 deg
    end = start[1] + np.where(start[1] > 0, -1, 1) * angle / 3600
    beyond = np.abs(end) > 90
    ra2 = np.where(beyond, start[0] + 180, start[0])
    dec2 = np.where(beyond, np.sign(end) * 180 - end, end)
    np.testing.assert_allclose(
        separation_arcsec(start[0], start[1], ra2, dec2), angle.astype(float), rtol=1e-13, atol=1e-9
    )
    assert separation_arcsec([0.0, 90.0, np.nan], [0.0, 0.0, 0.0], 0.0, 90.0)[:2].tolist() == [324000.0] * 2
    assert separation_arcsec([0.0, 1.0], [0.0, 2.0], [180.0, 1.0], [0.0, 2.0]).tolist() == [648000.0, 0.0]


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (UsageError, (([1.0], [2.0]), ([1.0], [2.0]), 0.0)),
        (UsageError, (([1.0], [2.0]), ([1.0], [2.0]), np.nan)),
        (UsageError, (([1.0], [2.0]), ([1.0], [2.0]), 1.0, "nearest")),
        (DataError, (([1.0], [2.0]), ([1.0, 2.0], [2.0]), 1.0)),
        (DataError, (([1.0], [2.0]), [([1.0, 2.0],)], 1.0)),
        (DataError, (([[1.0]], [[2.0]]), ([1.0], [2.0]), 1.0)),
    ],
)
def test_refuses_what_makes_no_sense(error, arguments):
    with pytest.raises(error, match="expected"):
        match_sky(*arguments)


def test_nothing_is_compiled_on_import_and_no_cache_folder_is_needed():
    check = "from astroclip import sky; raise SystemExit(len(sky.sift.signatures))"
    subprocess.run([sys.executable, "-c", check], check=True)
    space = {}
    exec("def double(x): return 2 * x", space)  # without a source file there is no place for a cache either
    assert _compiled(space["double"])(21) == 42


# --- ids ---------------------------------------------------------------------------------------------------


def id_columns(rows, dtypes=(">i2", "i4", "i8")):
    names = ("RELEASE", "BRICKID", "OBJID")
    return {n: np.array([row[i] for row in rows], dtypes[i]) for i, n in enumerate(names)}


def nowhere(ids):
    """Rows that are known by their ids alone."""
    return Who(ids, *np.full((2, len(ids["OBJID"])), np.nan))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 3), st.integers(0, 3)), max_size=25),
    st.lists(st.tuples(st.integers(-1, 2), st.integers(-1, 3), st.integers(0, 3)), max_size=25),
)
def test_ids_equal_the_definition(left, right):
    same = [
        (i, j) for i, a in enumerate(left) for j, b in enumerate(right) if a == b and a[0] > 0 and a[1] >= 0
    ]
    times_left, times_right = Counter(left), Counter(right)
    unique = [(i, j) for i, j in same if times_left[left[i]] == times_right[left[i]] == 1]
    a, b = nowhere(id_columns(left)), nowhere(id_columns(right, ("i8", "i2", "i8")))
    blocks = [nowhere({k: v[part] for k, v in b.ids.items()}) for part in (slice(0, 7), slice(7, None))]
    for stream in (b, blocks):
        best, every = match_objects(a, stream), match_objects(a, stream, find="all")
        assert list(zip(best.left, best.right, strict=True)) == unique
        assert list(zip(every.left, every.right, strict=True)) == same
        assert set(best.repeated_left) == {i for i, _ in set(same) - set(unique)}


def test_targetid_tells_the_source():
    bricks = id_columns([(9010, 1, 1), (9010, 1, 2), (9010, 1, 3)])
    targetid = encode_targetid(*bricks.values())
    secondary = {"TARGETID": np.array([targetid[2], -1, 1 << 60, targetid[0]])}
    found = match_objects(nowhere(bricks), Who(secondary, *np.full((2, 4), np.nan)))
    assert list(zip(found.left, found.right, strict=True)) == [(0, 3), (2, 0)]


def test_objects_by_id_then_by_position():
    """Rows: 0 by id; 1 id without a position; 2 same id, far away; 3 repeated id; 4 no id; 5 nobody there."""
    left = Who(
        id_columns([(9010, 7, 0), (9010, 7, 1), (9010, 7, 2), (9010, 7, 3), (0, 0, 0), (9010, 7, 5)]),
        np.array([10.0, np.nan, 30.0, 40.0, 50.0, 60.0]),
        np.zeros(6),
    )
    near = 0.5 / 3600
    right = Who(
        id_columns(
            [(0, 0, 0), *[(9010, 7, 3)] * 2, (9010, 8, 1), *[(9010, 7, i) for i in (2, 1, 0)], (9010, 9, 9)]
        ),
        np.array([50.0, 40.0, 40.0 + near, 30.0 + near, 31.0, 20.0, 10.0 + 2 * near, 10.0]),
        np.zeros(8),
    )
    blocks = [
        Who({name: values[part] for name, values in right.ids.items()}, right.ra[part], right.dec[part])
        for part in (slice(0, 3), slice(3, 3), slice(3, 8))
    ]
    for stream in (right, blocks):
        found = match_objects(left, stream)
        assert found.left.tolist() == [0, 1, 2, 3, 4]
        assert found.right.tolist() == [6, 5, 3, 1, 0]
        assert found.method.tolist() == ["id", "id", "position", "position", "position"]
        np.testing.assert_allclose(found.separation_arcsec, [1.0, np.nan, 0.5, 0.0, 0.0], atol=1e-6)
        assert (found.far_left.tolist(), found.repeated_left.tolist()) == ([2], [3])
    every = match_objects(left, right, find="all")
    assert list(zip(every.left, every.right, strict=True)) == [(0, 6), (1, 5), (2, 3), (3, 1), (3, 2), (4, 0)]
    without = match_objects(left._replace(ids={}), right)
    assert without.right.tolist() == [7, 3, 1, 0]
    assert set(without.method) == {"position"}
    with pytest.raises(UsageError, match="iterator"):
        match_objects(left, iter(blocks))


# --- proper motion and chance ------------------------------------------------------------------------------


def test_proper_motion_is_astropys_great_circle(rng):
    ra, dec = np.hstack([all_sky(rng, 50), around(rng, 50, (0, 90), 0.001), [[0.0, 359.9999], [90.0, -90.0]]])
    pmra, pmdec = rng.normal(0, 3000, (2, ra.size))
    moved = propagate(ra, dec, pmra, pmdec, from_epoch=2000.0, to_epoch=2016.0)
    angle = np.hypot(pmra, pmdec) * 16 / 1000
    start = SkyCoord(ra, dec, unit="deg")
    end = start.directional_offset_by(np.arctan2(pmra, pmdec) * u.rad, angle * u.arcsec)
    np.testing.assert_allclose(separation_arcsec(*moved, end.ra.deg, end.dec.deg), 0.0, atol=2e-5)
    assert np.all((moved[0] >= 0) & (moved[0] < 360))


def test_unknown_motion_stays_and_epochs_may_differ_by_row():
    ra, dec = np.array([400.0, 10.0, 10.0, 10.0]), np.array([10.0, 60.0, 0.0, 0.0])
    pmra = np.ma.array([np.nan, 1000.0, 0.0, 5.0], mask=[False, False, False, True])
    moved = propagate(
        ra, dec, pmra, [np.nan, np.nan, 2000.0, 0.0], from_epoch=[0, 2015, 2000, 0], to_epoch=2016
    )
    assert (moved[0][0], moved[1][0], moved[0][3], moved[1][3]) == (400.0, 10.0, 10.0, 0.0)
    np.testing.assert_allclose((moved[0][1] - 10.0) * 3600, 1.0 / np.cos(np.radians(60.0)), rtol=1e-6)
    np.testing.assert_allclose(moved[1][2] * 3600, 32.0, rtol=1e-6)


def test_false_match_rate_of_a_random_field(rng):
    scale, n, radius = 1.0, 100_000, 3.0
    right = tuple(around(rng, n, (0.0, 80.0), scale))
    left = tuple(side[:1500] for side in around(rng, 3000, (0.0, 80.0), 0.9 * scale))
    left = tuple(np.append(side, other[:500]) for side, other in zip(left, right, strict=True))
    expected = n * radius**2 / (scale * 3600.0) ** 2
    for stream in (right, [right]):
        chance = false_match_rate(left, stream, radius, find="all")
        assert chance.left_rows == 2000
        assert chance.error < 0.15 * expected
        assert abs(chance.rate - expected) < 4 * chance.error
    nothing = false_match_rate(left, (np.empty(0), np.empty(0)), radius)
    assert (nothing.rate, nothing.error) == (0.0, 1 / 8 / 2000)
    assert np.isnan(false_match_rate((np.empty(0), np.empty(0)), right, radius).rate)
    with pytest.raises(UsageError, match="radii"):
        false_match_rate(left, right, radius, shift_arcsec=5.0)
    with pytest.raises(UsageError, match="iterator"):
        false_match_rate(left, iter([right]), radius)
