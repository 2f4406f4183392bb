"""DESI's redshift catalogue: the cuts with every reason, and spectra from the tree of coadds."""

import shutil

import numpy as np
import pytest
from builders import truncate, write_coadd
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.data import desi
from astroclip.data.coadd_tree import CoaddTree, SpectrumStatus, check_coadds, coadd_path
from astroclip.data.zcatalog import Reject, find_cut
from astroclip.errors import DataError, UsageError

PLANTED = {
    "KEPT": {},
    "NOT_A_TARGET": {"OBJTYPE": "SKY"},
    "BAD_FIBER": {"COADD_FIBERSTATUS": 512},
    "BAD_REDSHIFT": {"ZWARN": 4},
    "NOT_PRIMARY": {"ZCAT_PRIMARY": False, "SV_PRIMARY": False, "MAIN_PRIMARY": False},
    "NOT_A_GALAXY": {"SPECTYPE": "QSO"},
}
GOOD = {
    "OBJTYPE": "TGT",
    "COADD_FIBERSTATUS": 0,
    "ZWARN": 0,
    "ZCAT_PRIMARY": True,
    "SV_PRIMARY": True,
    "MAIN_PRIMARY": True,
    "SPECTYPE": "GALAXY",
}


def make_block(rows, omit=()):
    return {name: np.array([row[name] for row in rows]) for name in GOOD if name not in omit}


@pytest.mark.parametrize("spell", [str, str.lower])
@pytest.mark.parametrize("encode", [False, True])
def test_every_reason_is_told(spell, encode):
    block = make_block([GOOD | change for change in PLANTED.values()])
    if encode:  # as FITS pads them
        block |= {k: np.char.add(v, "   ").astype("S") for k, v in block.items() if v.dtype.kind == "U"}
    block = {spell(k): v for k, v in block.items()}
    cut = find_cut("galaxy", block)
    reason = cut.reject(block)
    assert [Reject(r).name for r in reason] == list(PLANTED)
    assert set(cut.columns) == {spell(k) for k in GOOD} - {spell("SV_PRIMARY"), spell("MAIN_PRIMARY")}
    original = find_cut("original", block)
    expected = ["KEPT", "KEPT", "BAD_FIBER", "KEPT", "NOT_PRIMARY", "KEPT"]
    assert [Reject(r).name for r in original.reject(block)] == expected
    assert original.columns == (spell("COADD_FIBERSTATUS"), spell("SV_PRIMARY"))
    assert not find_cut("none", block).reject(block).any()
    assert find_cut("none", []).columns == ()


@pytest.mark.parametrize(
    ("omit", "primary"),
    [
        ((), ("ZCAT_PRIMARY",)),
        (("ZCAT_PRIMARY",), ("MAIN_PRIMARY", "SV_PRIMARY")),
        (("ZCAT_PRIMARY", "MAIN_PRIMARY"), ("SV_PRIMARY",)),
        (("ZCAT_PRIMARY", "SV_PRIMARY"), ("MAIN_PRIMARY",)),
    ],
)
def test_primary_columns(omit, primary):
    rows = [
        GOOD | {"SV_PRIMARY": a, "MAIN_PRIMARY": b, "ZCAT_PRIMARY": a and b} for a in (0, 1) for b in (0, 1)
    ]
    block = make_block(rows, omit)
    cut = find_cut("galaxy", block)
    assert cut.primary == primary
    expected = [any(row[name] for name in primary) for row in rows]
    np.testing.assert_array_equal(cut.reject(block) == Reject.KEPT, expected)


def test_truth_values_of_any_kind():
    for true, false in ((True, False), (1, 0), (b"T", b"F"), (1.0, np.nan)):
        block = make_block([GOOD | {"ZCAT_PRIMARY": true}, GOOD | {"ZCAT_PRIMARY": false}])
        reason = find_cut("galaxy", block).reject(block)
        assert reason.tolist() == [Reject.KEPT, Reject.NOT_PRIMARY]
    block = make_block([GOOD | {"ZWARN": np.nan}, GOOD])
    assert find_cut("galaxy", block).reject(block).tolist() == [Reject.BAD_REDSHIFT, Reject.KEPT]


@given(st.lists(st.sampled_from(list(PLANTED)), max_size=5))
def test_the_first_reason_is_told(faults):
    row = dict(GOOD)
    for fault in faults:
        row |= PLANTED[fault]
    block = make_block([row])
    expected = min((Reject[fault] for fault in faults if fault != "KEPT"), default=Reject.KEPT)
    assert find_cut("galaxy", block).reject(block).tolist() == [expected]


def test_cuts_that_cannot_be_made():
    with pytest.raises(UsageError, match="no cut 'best'; known: galaxy, original, none"):
        find_cut("best", GOOD)
    with pytest.raises(
        DataError, match=r"'galaxy' needs the column OBJTYPE, ZWARN\. Choose another cut: original"
    ):
        find_cut("galaxy", [name for name in GOOD if name not in ("OBJTYPE", "ZWARN")])
    with pytest.raises(DataError, match="'original' needs one of the columns SV_PRIMARY"):
        find_cut("original", ["COADD_FIBERSTATUS", "ZCAT_PRIMARY"])
    with pytest.raises(DataError, match="ZCAT_PRIMARY, MAIN_PRIMARY, SV_PRIMARY"):
        find_cut("galaxy", [name for name in GOOD if "PRIMARY" not in name])
    empty = {name: np.zeros(0, np.array(value).dtype) for name, value in GOOD.items()}
    assert find_cut("galaxy", empty).reject(empty).shape == (0,)


def test_paths_of_the_tree(tmp_path):
    name = "sv3/dark/260/26065/coadd-sv3-dark-26065.fits"
    assert coadd_path(tmp_path, "sv3", "dark", 26065) == tmp_path / name
    (tmp_path / "healpix").mkdir()
    assert coadd_path(tmp_path, "sv3", "dark", 26065) == tmp_path / "healpix" / name
    assert coadd_path(tmp_path / "healpix", "sv3", "dark", 26065) == tmp_path / "healpix" / name
    zipped = tmp_path / "healpix" / (name + ".gz")
    zipped.parent.mkdir(parents=True)
    zipped.touch()
    assert coadd_path(tmp_path, "sv3", "dark", 26065) == zipped
    assert coadd_path(tmp_path, "main", "bright", 7).parts[-3:] == ("0", "7", "coadd-main-bright-7.fits")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Three coadds and one that is cut in half; targets 1 to 3 repeat between programs."""
    root = tmp_path_factory.mktemp("release")
    keys = [("sv3", "dark", 26065), ("sv3", "bright", 26065), ("main", "dark", 101), ("main", "dark", 7)]
    for seed, key in enumerate(keys):
        write_coadd(coadd_path(root / "healpix", *key), targetid=(3, 1, 2, 10 + seed), seed=seed)
    truncate(coadd_path(root, *keys[3]), 0.5)
    return root


def test_spectra_of_catalogue_rows(tree):
    rows = [
        (3, "sv3", "dark", 26065, SpectrumStatus.FOUND, 0),
        (3, "sv3   ", "bright", 26065, SpectrumStatus.FOUND, 0),
        (12, "main", "dark", 101, SpectrumStatus.FOUND, 3),
        (2, "sv3", "dark", 26065, SpectrumStatus.FOUND, 2),
        (2, "sv3", "dark", 26065, SpectrumStatus.FOUND, 2),
        (1, "main", "bright", 101, SpectrumStatus.NO_FILE, None),
        (99, "sv3", "dark", 26065, SpectrumStatus.NOT_IN_FILE, None),
        (1, "main", "dark", 7, SpectrumStatus.UNREADABLE, None),
        (1, "", "", -1, SpectrumStatus.NO_FILE, None),
        (-1, "main", "dark", 101, SpectrumStatus.NOT_IN_FILE, None),
    ]
    targetid, survey, program, healpix, status, place = zip(*rows, strict=True)
    program = np.array(program, "S8")
    found, problems = check_coadds(tree, targetid, survey, program, healpix)
    assert found.tolist() == list(status)
    spectra = CoaddTree(tree)
    number = spectra.find(targetid, survey, program, healpix)
    absent = np.isin(status, (SpectrumStatus.NO_FILE, SpectrumStatus.NOT_IN_FILE))
    np.testing.assert_array_equal(number < 0, absent)
    there = np.flatnonzero(found == SpectrumStatus.FOUND)
    read = spectra.read(number[there])
    for i, row in enumerate(there):
        key = survey[row].strip(), program[row].decode(), healpix[row]
        with desi.open_coadd(coadd_path(tree, *key)) as coadd:
            truth = coadd.read([place[row]])
        for have, expected in zip(read[1:], truth[1:], strict=True):
            np.testing.assert_array_equal(have[i], expected[0])
    with pytest.raises(DataError, match=r"coadd-main-dark-7.*cut short"):
        spectra.read(number[found == SpectrumStatus.UNREADABLE])
    for listed in (problems, spectra.problems):
        assert sorted(p.name for p, _ in listed) == [
            "coadd----1.fits",
            "coadd-main-bright-101.fits",
            "coadd-main-dark-7.fits",
        ]
        assert "cut short" in dict(listed)[coadd_path(tree, "main", "dark", 7)]
    again = spectra.find(targetid, survey, program, healpix)  # numbers stay
    np.testing.assert_array_equal(again, number)
    spectra.close()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([1, 2, 3, 10, 50]), max_size=6))
def test_any_targets_of_one_file(tree, targets):
    spectra = CoaddTree(tree)
    number = spectra.find(targets, "sv3", "dark", 26065)
    with desi.open_coadd(coadd_path(tree, "sv3", "dark", 26065)) as coadd:
        whole = coadd.read()
        places = {int(target): row for row, target in enumerate(coadd.targetid)}
    there = [target for target in targets if target in places]
    assert (number >= 0).tolist() == [target in places for target in targets]
    flux = spectra.read(number[number >= 0]).flux
    np.testing.assert_array_equal(flux, whole.flux[[places[target] for target in there]])


def test_real_coadd_in_its_place(survey_data, tmp_path):
    """The real file of EDR: the empty rows are found, and are empty."""
    path = coadd_path(tmp_path, "sv3", "dark", 26065).with_suffix(".fits.gz")
    path.parent.mkdir(parents=True)
    shutil.copy(survey_data / "desi" / "coadd-sv3-dark-26065.fits.gz", path)
    with desi.open_coadd(path) as coadd:
        ids = coadd.targetid.copy()
    status, problems = check_coadds(tmp_path, ids[::-1], "sv3", "dark", 26065)
    found, empty = SpectrumStatus.FOUND, SpectrumStatus.NO_GOOD_PIXEL
    assert status.tolist() == [found, empty, found, empty, empty]
    assert not problems
    spectra = CoaddTree(tmp_path)
    read = spectra.read(spectra.find(ids[::-1], "sv3", "dark", 26065))
    assert read.good.any(axis=1).tolist() == [True, False, True, False, False]


def test_what_is_missing_in_any_type_fails_the_cut():
    """Row i lacks what rule i asks for, row 5 nothing; under the mask stands what would pass."""
    good = {"OBJTYPE": "TGT", "COADD_FIBERSTATUS": 0, "ZWARN": 0, "ZCAT_PRIMARY": True, "SPECTYPE": "GALAXY"}
    mask = np.eye(6, dtype=bool)
    block = {name: np.ma.array([value] * 6, mask=mask[i]) for i, (name, value) in enumerate(good.items())}
    assert find_cut("galaxy", block).reject(block).tolist() == [1, 2, 3, 4, 5, 0]
    block = {
        name: np.ma.filled(values, "" if values.dtype.kind == "U" else 0) for name, values in block.items()
    }
    block["ZWARN"] = np.array([0, 0, np.nan, 0, 0, 0])
    block["COADD_FIBERSTATUS"] = np.array([0, np.nan, 0, 0, 0, 0])
    assert find_cut("galaxy", block).reject(block).tolist() == [1, 2, 3, 4, 5, 0]
