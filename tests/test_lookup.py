"""Rows found by every kind of identifier and by position, against loops over all pairs."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord, angular_separation
from builders_who import who
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.data.lookup import RowLookup
from astroclip.data.pixels import How
from astroclip.data.targetid import encode_targetid


def test_targetid_first_then_brick_numbers_then_position():
    ids = encode_targetid(9010, 3, np.arange(5))
    lookup = RowLookup({"TARGETID": ids}, [10.0, 11, 12, 13, 14], np.zeros(5))
    asked = who(
        ra=[14.0, 14, 14, 14.0001, 200, np.nan],
        dec=[0.0] * 6,
        TARGETID=np.array([ids[2], -1, 7, -1, -1, -1]),
        RELEASE=np.array([9010, 9010, 9010, -1, 0, -1]),
        BRICKID=np.array([3, 3, 3, -1, 0, -1]),
        OBJID=np.array([0, 1, 3, -1, 0, -1]),
    )
    match = lookup.match(asked)
    assert match.row.tolist() == [2, 1, 3, 4, -1, -1]
    assert match.how.tolist() == [How.ID] * 3 + [How.CENTRE] + [How.NONE] * 2
    assert not match.ambiguous.any()
    assert lookup.match(asked, 0.1).row[3] == -1


def test_pixels_that_know_brick_numbers_only():
    lookup = RowLookup({"RELEASE": np.full(3, 9011), "BRICKID": np.full(3, 5), "OBJID": np.arange(3)})
    match = lookup.match(who(TARGETID=encode_targetid(9011, 5, np.array([2, 9, 0]))))
    assert match.row.tolist() == [2, -1, 0]


def test_what_tells_rows_of_one_target_apart():
    lookup = RowLookup(
        {
            "TARGETID": np.array([5, 5, 5, 6, -1]),
            "SURVEY": np.array(["main", "sv1", "sv1", "main", "main"]),
            "PROGRAM": np.array(["dark", "dark", "bright", "", "dark"]),
            "HEALPIX": np.array([8, 9, -1, 8, 8]),
        }
    )

    def rows(**ids):
        match = lookup.match(who(**ids))
        return list(zip(match.row.tolist(), match.ambiguous.tolist(), strict=True))

    assert rows(TARGETID=np.array([5, 6, -1])) == [(0, True), (3, False), (-1, False)]
    five = np.full(4, 5)
    surveys = np.array(["sv1", "main", "sv3", ""])
    assert rows(TARGETID=five, SURVEY=surveys) == [(1, True), (0, False), (-1, False), (0, True)]
    programs = np.array(["dark", "bright", "dark", "bright"])
    assert rows(TARGETID=five, SURVEY=surveys, PROGRAM=programs) == [
        (1, False), (-1, False), (-1, False), (2, False)
    ]  # fmt: skip
    assert rows(TARGETID=five[:2], HEALPIX=np.array([9, -1])) == [(1, True), (0, True)]
    assert rows(TARGETID=np.array([6]), PROGRAM=np.array(["dark"])) == [(3, False)]


def test_sdss_keys_of_both_kinds_and_texts():
    lookup = RowLookup(
        {
            "PLATE": np.array([266, 15171, -1]),
            "MJD": np.array([51602, 59000, 60000]),
            "FIBERID": np.array([7, 500, -1]),
            "FIELD": np.array([-1, -1, 102236]),
            "CATALOGID": np.array([-1, -1, 27021598109009995]),
            "OBJECT_ID": np.array(["", "1234", "a-b"]),
        }
    )
    fiber = who(PLATE=[15171, 266, 266], MJD=[59000, 51602, 51603], FIBERID=[500, 7, 7])
    assert lookup.match(fiber).row.tolist() == [1, 0, -1]
    catalog = np.array([27021598109009995, 27021598109009996, -1])
    assert lookup.match(who(CATALOGID=catalog)).row.tolist() == [2, -1, -1]
    fields = who(CATALOGID=catalog[[0, 0, 0]], FIELD=[102236, 1, -1], MJD=[60000, 60000, 60000])
    assert lookup.match(fields).row.tolist() == [2, -1, 2]
    assert lookup.match(who(OBJECT_ID=["a-b", "", "1234"])).row.tolist() == [2, -1, 1]
    assert lookup.match(who(SURVEY=["main"])).row.tolist() == [-1]


@pytest.mark.parametrize("n", [0, 1])
def test_of_nothing(n):
    asked = who(ra=np.zeros(n), dec=np.zeros(n), TARGETID=np.zeros(n, np.int64))
    for lookup in (RowLookup({}), RowLookup({"TARGETID": np.zeros(0, np.int64)}, [], [])):
        assert lookup.match(asked).row.tolist() == [-1] * n


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(-1, 6), max_size=12), st.lists(st.integers(-1, 6)))
def test_any_identifiers_equal_a_loop(seed, have, asked):
    surveys = np.random.default_rng(seed).choice(["", "sv1", "main"], len(have) + len(asked))
    mine, theirs = surveys[: len(have)], surveys[len(have) :]
    lookup = RowLookup({"TARGETID": np.array(have, np.int64), "SURVEY": mine})
    match = lookup.match(who(TARGETID=np.array(asked, np.int64), SURVEY=theirs))
    for i, target in enumerate(asked):
        fits = [
            row
            for row, other in enumerate(have)
            if other == target >= 0 and (mine[row] == theirs[i] or "" in (mine[row], theirs[i]))
        ]
        assert match.row[i] == (fits[0] if fits else -1)
        assert match.ambiguous[i] == (len(fits) > 1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([0.0, 45.0, 90.0, -90.0]), st.sampled_from([0.5, 5.0, 60.0])
)
def test_any_positions_equal_brute_force(seed, dec0, radius):
    rng = np.random.default_rng(seed)
    ra, ra_ref = rng.uniform(-30, 30, 20) / 3600 % 360, rng.uniform(-30, 30, 30) / 3600 % 360
    dec, dec_ref = (np.clip(dec0 + rng.uniform(-30, 30, n) / 3600, -90, 90) for n in (20, 30))
    if abs(dec0) == 90:
        ra, ra_ref = rng.uniform(0, 360, 20), rng.uniform(0, 360, 30)
    ra_ref[0] = dec[0] = np.nan
    match = RowLookup({}, ra_ref, dec_ref).match(who(ra, dec), radius)
    a, b = SkyCoord(ra, np.nan_to_num(dec), unit="deg"), SkyCoord(np.nan_to_num(ra_ref), dec_ref, unit="deg")
    far = np.degrees(angular_separation(a.ra[:, None], a.dec[:, None], b.ra, b.dec)).value * 3600
    far[0], far[:, 0] = np.inf, np.inf
    sure = np.abs(far - radius).min(axis=1) > 1e-6
    for i in np.flatnonzero(sure):
        expected = far[i].argmin() if far[i].min() <= radius else -1
        assert match.row[i] == expected or far[i, match.row[i]] - far[i, expected] < 1e-6
        assert match.ambiguous[i] == ((far[i] <= radius).sum() > 1)
