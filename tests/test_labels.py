"""Label tables: PROVABGS masses and Galaxy Zoo DECaLS votes, the real sample and every variant."""

import csv
import gzip

import numpy as np
import pytest
from builders import truncate
from builders_hdf5 import write_hdf5, write_provabgs

from astroclip.data import galaxyzoo
from astroclip.data.provabgs import read_provabgs
from astroclip.errors import DataError
from astroclip.schema import GALAXY_ZOO
from astroclip.tables import open_table


def read_galaxy_zoo(path):
    with open_table(path) as table:
        return galaxyzoo.read_galaxy_zoo(table)


def is_galaxy_zoo(path):
    with open_table(path) as table:
        return galaxyzoo.is_galaxy_zoo(table)


@pytest.mark.parametrize("layout", ["astropy", "columns"])
def test_provabgs_layouts(tmp_path, layout):
    path = tmp_path / "p.hdf5"
    truth = write_provabgs(path, layout=layout)
    labels = read_provabgs(path)
    assert len(labels.good) == 20
    np.testing.assert_array_equal(labels.columns["TARGETID"], truth["TARGETID"])
    np.testing.assert_array_equal(labels.columns["RA"], truth["RA"])
    np.testing.assert_array_equal(labels.columns["LOG_MSTAR"], truth["PROVABGS_LOGMSTAR_BF"].astype("f4"))
    np.testing.assert_array_equal(labels.columns["THETA_BF"], truth["PROVABGS_THETA_BF"].astype("f4"))
    assert np.flatnonzero(~labels.good).tolist() == [0, 1, 2]
    assert [spec.name for spec in labels.specs] == list(labels.columns)
    assert all(labels.columns[s.name].dtype == s.dtype for s in labels.specs)
    assert not {"Z_MW", "TAGE_MW", "AVG_SFR"} & set(labels.columns)
    assert labels.facts["IMF"] == "Chabrier 2003"
    assert labels.facts["HUBBLE"] == pytest.approx(0.6777)


def test_provabgs_with_added_properties(tmp_path):
    path = tmp_path / "p.hdf5"
    truth = write_provabgs(
        path, Z_MW=np.linspace(0.001, 0.04, 20), TAGE_MW=np.linspace(1, 10, 20), AVG_SFR=np.linspace(0, 9, 20)
    )
    labels = read_provabgs(path)
    for name in ("Z_MW", "TAGE_MW", "AVG_SFR"):
        np.testing.assert_array_equal(labels.columns[name], truth[name].astype("f4"))
    assert next(s.unit for s in labels.specs if s.name == "TAGE_MW") == "Gyr"


def test_provabgs_samples_are_not_taken_for_values(tmp_path):
    path = tmp_path / "p.hdf5"
    write_provabgs(path, layout="columns", PROVABGS_Z_MW=np.zeros((20, 100)), log_mstar=np.zeros(20))
    labels = read_provabgs(path)
    assert "Z_MW" not in labels.columns
    assert labels.columns["LOG_MSTAR"][5] > 0  # PROVABGS_LOGMSTAR_BF comes first


def test_provabgs_that_cannot_be_used(tmp_path):
    path = tmp_path / "p.hdf5"
    write_provabgs(path, omit=["PROVABGS_LOGMSTAR_BF", "MAG_R"])
    with pytest.raises(DataError, match=r"no column MAG_R, LOG_MSTAR \(found DEC"):
        read_provabgs(path)
    write_provabgs(path, layout="columns", RA=np.zeros(19))
    with pytest.raises(DataError, match=r"different lengths \[19, 20\]"):
        read_provabgs(path)
    write_hdf5(path, {})
    with pytest.raises(DataError, match="found none"):
        read_provabgs(path)
    write_provabgs(path)
    truncate(path, 0.5)
    with pytest.raises(DataError, match="cut short"):
        read_provabgs(path)
    with pytest.raises(DataError, match="no such file"):
        read_provabgs(tmp_path / "other.hdf5")


def test_real_votes(survey_data):
    path = survey_data / "catalogues" / "gz-decals-votes.csv.gz"
    labels = read_galaxy_zoo(path)
    with gzip.open(path, "rt") as stream:
        rows = list(csv.DictReader(stream))
    assert len(labels.good) == len(rows) == 4000
    assert labels.good.all()
    for name in ("smooth-or-featured_smooth", "smooth-or-featured_total-votes"):
        np.testing.assert_array_equal(labels.columns[name], np.array([r[name] for r in rows], "f4"))
    np.testing.assert_array_equal(labels.columns["RA"], np.array([r["ra"] for r in rows], float))
    fraction = labels.columns["smooth-or-featured_smooth_fraction"]
    votes, total = (labels.columns[f"smooth-or-featured_{k}"] for k in ("smooth", "total-votes"))
    np.testing.assert_allclose(fraction, votes / total, rtol=1e-6)
    assert {name.split("_")[0] for name in labels.columns} == {"RA", "DEC", "smooth-or-featured"}


def make_votes(n, questions=tuple(GALAXY_ZOO), seed=0, fractions=True):
    """Make the rows of a votes table; every seventh was not asked about merging, every fifth of bars."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        row = {"iauname": f"J{i:06d}", "ra": 10 + i, "dec": -5.5, "redshift": "" if i % 3 == 0 else 0.1}
        for question in questions:
            votes = rng.integers(0, 10, len(GALAXY_ZOO[question])) * (question != "bar" or i % 5 != 0)
            for answer, count in zip(GALAXY_ZOO[question], votes, strict=True):
                empty = question == "merging" and i % 7 == 0
                row[f"{question}_{answer}"] = "" if empty else count
                if fractions:
                    share = count / votes.sum() if votes.sum() else ""
                    row[f"{question}_{answer}_fraction"] = "" if empty else share
                    row[f"{question}_{answer}_debiased"] = "" if empty or share == "" else share / 2
            if fractions:
                row[f"{question}_total-votes"] = "" if question == "merging" and i % 7 == 0 else votes.sum()
        rows.append(row)
    return rows


def write_votes(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_all_questions(tmp_path):
    path = tmp_path / "votes.csv"
    rows = make_votes(35)
    write_votes(path, rows)
    labels = read_galaxy_zoo(path)
    assert sum(len(answers) for answers in GALAXY_ZOO.values()) * 3 + 10 + 4 == len(labels.columns)
    for name in rows[0]:
        if name in ("iauname", "ra", "dec", "redshift"):
            continue
        expected = np.array([np.nan if row[name] == "" else row[name] for row in rows], "f4")
        np.testing.assert_array_equal(labels.columns[name], expected)
    assert labels.columns["IAUNAME"].tolist() == [row["iauname"] for row in rows]
    assert np.isnan(labels.columns["REDSHIFT"][::3]).all()
    assert np.isnan(labels.columns["merging_merger"][::7]).all()
    assert [spec.name for spec in labels.specs] == list(labels.columns)
    assert labels.facts["LABELSRC"].startswith("Galaxy Zoo DECaLS")


def test_totals_and_fractions_are_computed(tmp_path):
    whole, bare = tmp_path / "whole.csv", tmp_path / "bare.csv"
    write_votes(whole, make_votes(35))
    write_votes(bare, make_votes(35, fractions=False))
    expected, found = read_galaxy_zoo(whole), read_galaxy_zoo(bare)
    assert not any(name.endswith("_debiased") for name in found.columns)
    for name in found.columns:
        if name != "IAUNAME":
            np.testing.assert_allclose(found.columns[name], expected.columns[name], rtol=1e-6)
    assert np.isnan(found.columns["bar_strong_fraction"][0])


def test_questions_that_are_missing(tmp_path):
    path = tmp_path / "votes.csv"
    rows = make_votes(10, questions=["bar", "merging"])
    for row in rows:
        del row["merging_merger"]
    write_votes(path, rows)
    labels = read_galaxy_zoo(path)
    assert {n.split("_")[0] for n in labels.columns} == {"RA", "DEC", "IAUNAME", "REDSHIFT", "bar"}
    np.testing.assert_array_equal(labels.good, labels.columns["bar_total-votes"] > 0)
    assert np.flatnonzero(~labels.good).tolist() == [0, 5]


def test_votes_are_told_by_their_header(tmp_path):
    path = tmp_path / "votes.csv"
    write_votes(path, make_votes(3, questions=["bar"]))
    assert is_galaxy_zoo(path)
    write_votes(path, [{k: v for k, v in row.items() if k != "bar_no"} for row in make_votes(3, ["bar"])])
    assert not is_galaxy_zoo(path)
    path.write_text('ra,dec,note\n1,2,"two\nlines"\n')
    assert not is_galaxy_zoo(path)


def test_votes_that_cannot_be_read(tmp_path):
    path = tmp_path / "votes.csv"
    write_votes(path, [{"ra": 1, "dec": 2, "class": "GALAXY"}])
    with pytest.raises(DataError, match="none of votes"):
        read_galaxy_zoo(path)
    rows = make_votes(5)
    write_votes(path, [{k: v for k, v in row.items() if k != "dec"} for row in rows])
    with pytest.raises(DataError, match="no columns of a position"):
        read_galaxy_zoo(path)
    write_votes(path, [row | {"bar_strong": "many"} for row in rows])
    with pytest.raises(DataError, match=r"'bar_strong', row 0 .*'many' is no number"):
        read_galaxy_zoo(path)
    write_votes(path, rows)
    truncate(path, 0.9)
    with pytest.raises(DataError, match=r"cannot be read as a table .*Expected 116 columns"):
        read_galaxy_zoo(path)
    write_votes(path, rows * 100)
    zipped = tmp_path / "votes.csv.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    assert len(read_galaxy_zoo(zipped).good) == 500
    truncate(zipped, 0.5)
    with pytest.raises(DataError, match="cut short"):
        read_galaxy_zoo(zipped)
