"""Tables of labels: which row belongs to which galaxy, and what is missing, in files of every kind."""

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from builders_hats import write_hats
from builders_hdf5 import write_provabgs

from astroclip.data import label_tables
from astroclip.data.label_tables import open_labels
from astroclip.errors import DataError
from astroclip.tables.identity import Who

ARCSEC = 1 / 3600
FAST = 2_305_843_009_213_693_952  # TARGETIDs that no float64 tells apart


def who(n=None, ra=None, dec=None, **ids):
    """Say who n galaxies are; positions are missing unless given."""
    n = n or len(next(iter(ids.values()), ra))
    nowhere = np.full(n, np.nan)
    ra, dec = (nowhere if values is None else np.asarray(values, float) for values in (ra, dec))
    return Who({name: np.asarray(values) for name, values in ids.items()}, ra, dec)


def write(path, columns, suffix="fits"):
    """Write a table, by default FITS; return its path."""
    path = path.with_suffix(f".{suffix}")
    Table(columns).write(path)
    return path


def set_units(path, **units):
    """Set TUNIT of columns, whether astropy knows the unit or not."""
    with fits.open(path, mode="update") as file:
        for number, name in enumerate(file[1].columns.names, start=1):
            if name in units:
                file[1].header[f"TUNIT{number}"] = units[name]


@pytest.mark.parametrize("suffix", ["fits", "parquet", "csv", "ecsv", "hats"])
def test_rows_are_found_by_targetid(tmp_path, suffix):
    columns = {"TARGETID": FAST + np.arange(4), "RA": np.arange(4.0), "DEC": np.zeros(4)}
    columns["MASS"] = np.array([9.5, 10, 11, 8])
    if suffix == "hats":
        write_hats(tmp_path / "l", columns)
    else:
        write(tmp_path / "l", columns, suffix)
    labels = open_labels(next(tmp_path.iterdir()), 1.0, set()).load()
    found = labels.find(who(TARGETID=[FAST + 3, FAST + 1, FAST + 1, FAST + 9, -1]))
    masses = labels.take(found.row)["MASS"]
    np.testing.assert_array_equal(masses, [8, 10, 10, np.nan, np.nan])
    assert not found.ambiguous.any()
    assert list(labels.columns) == ["MASS"]


@pytest.mark.parametrize("labels_have", [True, False])
@pytest.mark.parametrize("rows_have", [True, False])
def test_survey_and_program_tell_rows_apart_where_both_have_them(tmp_path, labels_have, rows_have):
    """TARGETID 1 is in both programs, 2 in one; without the columns on both sides 1 is ambiguous."""
    columns = {"TARGETID": [1, 1, 2], "MASS": [9.0, 10.0, 11.0]}
    more = {"SURVEY": ["main"] * 3, "PROGRAM": ["dark", "bright", "dark"]}
    labels = open_labels(write(tmp_path / "l", columns | (more if labels_have else {})), 1.0, set()).load()
    ids = {"TARGETID": [1, 1, 2, 2]} | (
        {"SURVEY": ["main"] * 4, "PROGRAM": ["bright", "dark", "dark", "bright"]} if rows_have else {}
    )
    found = labels.find(who(**ids))
    masses = labels.take(found.row)["MASS"]
    if labels_have and rows_have:
        np.testing.assert_array_equal(masses, [10, 9, 11, np.nan])
        assert not found.ambiguous.any()
    else:
        np.testing.assert_array_equal(masses, [np.nan, np.nan, 11, 11])
        assert found.ambiguous.tolist() == [True, True, False, False]


def test_an_ambiguous_key_is_not_resolved_by_order(tmp_path):
    for order in ([0, 1, 2], [1, 0, 2]):
        ids, mass = np.array([7, 7, 8])[order], np.array([1.0, 2.0, 3.0])[order]
        path = write(tmp_path / f"{order[0]}", {"TARGETID": ids, "MASS": mass})
        found = open_labels(path, 1.0, set()).find(who(TARGETID=[7, 8]))
        assert found.row.tolist() == [-1, 2]
        assert found.ambiguous.tolist() == [True, False]


def test_a_galaxy_with_an_identifier_is_not_joined_by_position(tmp_path):
    columns = {"TARGETID": [1, 2], "RA": [10.0, 20.0], "DEC": [0.0, 0.0], "MASS": [9.0, 10.0]}
    labels = open_labels(write(tmp_path / "l", columns), 1.0, set()).load()
    found = labels.find(who(ra=[10, 20, 20, 20], dec=[0] * 4, TARGETID=[1, 3, -1, 1]))
    assert found.row.tolist() == [0, -1, 1, 0]


@pytest.mark.parametrize("unit", ["deg", "hourangle", "rad", "sexagesimal"])
def test_rows_are_found_by_position_in_any_unit(tmp_path, unit):
    ra, dec = np.array([0.0, 359.9999, 150.0, 77.0]), np.array([0.0, 0.0, 89.9999, -45.0])
    columns = {"RA": (ra * u.deg).to_value("deg" if unit == "sexagesimal" else unit), "DEC": dec}
    if unit == "sexagesimal":
        columns["RA"] = Angle(ra, "deg").to_string("hourangle", sep=":", precision=6)
        columns["DEC"] = Angle(dec, "deg").to_string("deg", sep=":", precision=5)
    path = write(tmp_path / "l", columns | {"MASS": np.arange(4.0)})
    if unit != "sexagesimal":
        set_units(path, RA=unit, DEC="deg")
    labels = open_labels(path, 1.0, set()).load()
    found = labels.find(who(ra=[*ra, 10.0, np.nan], dec=[*(dec - 0.3 * ARCSEC), 0, 0]))
    assert found.row.tolist() == [0, 1, 2, 3, -1, -1]


def test_the_nearest_row_is_taken_unless_two_are_of_one_place(tmp_path):
    offsets = np.array([0.3, -0.5, 0.4, 0.41, 3.0])
    columns = {"ra": [10, 10, 20, 20, 30], "dec": offsets * ARCSEC, "mass": np.arange(5.0)}
    labels = open_labels(write(tmp_path / "l", columns, "csv"), 1.0, set()).load()
    found = labels.find(who(ra=[10, 20, 30, 20], dec=[0, 0, 0, 0.9 * ARCSEC]))
    assert found.row.tolist() == [0, -1, -1, -1]
    assert found.ambiguous.tolist() == [False, True, False, True]
    assert not open_labels(tmp_path / "l.csv", 0.4, set()).find(who(ra=[10], dec=[0])).ambiguous.any()


def test_other_keys_join_too(tmp_path):
    ids = {"PLATE": [266, 266], "MJD": [51602, 51602], "FIBERID": [1, 2]}
    labels = open_labels(write(tmp_path / "sdss", ids | {"MASS": [9.0, 10.0]}), 1.0, set()).load()
    assert labels.find(who(PLATE=[266, 267], MJD=[51602] * 2, FIBERID=[2, 2])).row.tolist() == [1, -1]
    bricks = {"RELEASE": [9010, 9010], "BRICKID": [5, 5], "OBJID": [1, 2]}
    labels = open_labels(write(tmp_path / "bricks", bricks | {"MASS": [9.0, 10.0]}), 1.0, set()).load()
    targetid = 9010 << 42 | 5 << 22 | 2
    assert labels.find(who(TARGETID=[targetid, 4])).row.tolist() == [1, -1]


def undefine_logical(path, name, row):
    """Make a logical undefined: a byte 0."""
    with fits.open(path) as file:
        place = file[1].fileinfo()["datLoc"] + row * file[1].header["NAXIS1"]
        place += file[1].data.dtype.fields[name][1]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\0")


@pytest.mark.parametrize("suffix", ["fits", "parquet", "ecsv"])
def test_missing_is_missing_in_every_type(tmp_path, suffix):
    mask = [False, True, False]
    columns = {
        "TARGETID": [1, 2, 3],
        "F": np.array([1.5, np.nan, 2.5], "f4"),
        "N": MaskedColumn([4, 5, 6], mask=mask, dtype="i4"),
        "LOW": MaskedColumn([-1, 5, 6], mask=mask, dtype="i4"),
        "FLAG": MaskedColumn([True, True, False], mask=mask),
        "NOTE": MaskedColumn(["a", "b", "c"], mask=mask),
    }
    path = tmp_path / f"l.{suffix}"
    if suffix == "parquet":
        arrays = {k: pa.array(np.ma.getdata(v), mask=np.ma.getmaskarray(v)) for k, v in columns.items()}
        pq.write_table(pa.table(arrays), path)
    else:
        Table(columns).write(path)
    if suffix == "fits":
        undefine_logical(path, "FLAG", 1)  # which astropy does not write
    labels = open_labels(path, 1.0, set()).load()
    assert labels.columns["F"].dtype == np.float32
    np.testing.assert_array_equal(labels.columns["F"], [1.5, np.nan, 2.5])
    lowest = np.iinfo(np.int64).min
    assert labels.columns["N"].tolist() == [4, -1, 6]
    assert labels.columns["FLAG"].tolist() == [1, -1, 0]
    assert labels.columns["LOW"].tolist() == [-1, lowest, 6]
    assert labels.columns["NOTE"].tolist() == [b"a", b"", b"c"]
    assert labels.nulls == {"N": -1, "LOW": lowest, "FLAG": -1}
    nothing = labels.take(np.array([-1]))
    assert np.isnan(nothing["F"][0])
    assert [nothing[name][0] for name in ("N", "LOW", "FLAG", "NOTE")] == [-1, lowest, -1, b""]


def test_sentinels_are_missing_and_counted(tmp_path):
    columns = {
        "TARGETID": np.arange(5),
        "LOGMSTAR": np.array([10.0, -999, 0, 11, -999], "f4"),
        "ANY": [0.0, -99, 1, 2, -9999],
        "COUNT": [0, 1, 2, -999, -5],
    }
    labels = open_labels(write(tmp_path / "l", columns), 1.0, set()).load()
    np.testing.assert_array_equal(labels.columns["LOGMSTAR"], [10, np.nan, np.nan, 11, np.nan])
    np.testing.assert_array_equal(labels.columns["ANY"], [0, np.nan, 1, 2, np.nan])
    assert labels.columns["COUNT"].tolist() == [0, 1, 2, -1, -5]
    assert any("LOGMSTAR: 2 values of -999" in note for note in labels.notes)
    assert all(note.startswith("l.fits: ") for note in labels.notes)
    assert len(labels.notes) == 3


def test_names_that_are_taken_get_a_number(tmp_path):
    path = write(tmp_path / "l", {"TARGETID": [1], "Z": [0.1], "mass": [9.0]})
    taken = {"Z", "Z_2"}
    assert list(open_labels(path, 1.0, taken).load().columns) == ["Z_3", "mass"]
    assert list(open_labels(path, 1.0, taken).load().columns) == ["Z_4", "mass_2"]
    assert {"Z_4", "MASS_2"} <= taken


def test_vectors_are_labels_and_lists_of_varying_length_are_none(tmp_path):
    hdu = fits.BinTableHDU.from_columns(
        [
            fits.Column("TARGETID", "K", array=[1, 2]),
            fits.Column("COEFF", "3E", array=np.arange(6.0).reshape(2, 3)),
            fits.Column("LIST", "PE()", array=np.array([np.zeros(2, "f4"), np.zeros(3, "f4")], object)),
        ]
    )
    hdu.writeto(tmp_path / "l.fits")
    labels = open_labels(tmp_path / "l.fits", 1.0, set()).load()
    assert list(labels.columns) == ["COEFF"]
    taken = labels.take(np.array([1, -1]))["COEFF"]
    np.testing.assert_array_equal(taken, [[3, 4, 5], [np.nan] * 3])


def write_fastspecfit(path):
    """Write row-aligned HDUs as FastSpecFit does."""
    rows = 4
    keys = {"TARGETID": FAST + np.arange(rows), "SURVEY": ["main"] * rows, "PROGRAM": ["dark"] * rows}
    tables = {
        "METADATA": keys | {"RA": np.arange(4.0), "DEC": np.zeros(rows), "Z": np.full(rows, 0.2)},
        "SPECPHOT": keys | {"LOGMSTAR": 9 + np.arange(rows, dtype="f4"), "SFR": np.ones(rows, "f4")},
        "FASTSPEC": keys | {"OIII_5007_FLUX": np.arange(rows, dtype="f4")},
    }
    hdus = [fits.table_to_hdu(Table(columns)) for columns in tables.values()]
    for name, hdu in zip(tables, hdus, strict=True):
        hdu.name = name
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def test_aligned_tables_of_one_file_are_one(tmp_path):
    path = write_fastspecfit(tmp_path / "fast.fits")
    labels = open_labels(path, 1.0, set()).load()
    assert list(labels.columns) == ["Z", "LOGMSTAR", "SFR", "OIII_5007_FLUX"]
    ids = {"TARGETID": FAST + np.array([2, 0]), "SURVEY": ["main", "main"], "PROGRAM": ["dark", "bright"]}
    found = labels.take(labels.find(who(**ids)).row)
    np.testing.assert_array_equal(found["LOGMSTAR"], [11, np.nan])
    np.testing.assert_array_equal(found["OIII_5007_FLUX"], [2, np.nan])


def test_an_hdu_can_be_named(tmp_path):
    write_fastspecfit(tmp_path / "fast.fits")
    labels = open_labels(f"{tmp_path}/fast.fits#SPECPHOT", 1.0, set()).load()
    assert list(labels.columns) == ["LOGMSTAR", "SFR"]
    assert labels.name == "fast.fits#SPECPHOT"
    assert len(labels.sha256) == 64


def test_provabgs_has_its_cuts_and_its_facts(tmp_path):
    truth = write_provabgs(tmp_path / "p.hdf5")
    labels = open_labels(tmp_path / "p.hdf5", 1.0, set()).load()
    found = labels.find(who(TARGETID=truth["TARGETID"]))
    assert np.flatnonzero(found.row < 0).tolist() == [0, 1, 2]
    assert labels.facts["IMF"] == "Chabrier 2003"


def test_what_cannot_be_joined_is_told(tmp_path):
    blind = write(tmp_path / "blind", {"MASS": [1.0]})
    with pytest.raises(DataError, match=r"by an identifier, as TARGETID, or by position.*MASS"):
        open_labels(blind, 1.0, set())
    inexact = write(tmp_path / "inexact", {"TARGETID": [float(FAST + 1)], "MASS": [1.0]})
    with pytest.raises(DataError, match="TARGETID' is float64"):
        open_labels(inexact, 1.0, set())
    with pytest.raises(DataError, match="nothing"):
        open_labels(tmp_path / "nothing.fits", 1.0, set())
    far = write(tmp_path / "far", {"RA": [1.0], "DEC": [1.0], "MASS": [1.0]})
    set_units(far, RA="furlong", DEC="furlong")
    with pytest.raises(DataError, match="furlong"):
        open_labels(far, 1.0, set())


def test_only_what_is_wanted_is_loaded_and_all_rows_tell_the_scale(tmp_path):
    """Of one metallicity of -0.3 nobody can tell whether it is a logarithm; of the whole table one can."""
    columns = {"TARGETID": np.arange(5), "METALLICITY": [-0.3, 0.1, -0.2, 0.0, -999], "NOTE": list("abcde")}
    for name, values in (("logs", columns["METALLICITY"]), ("fractions", [0.02, 0.1, 0.01, 0.0, -999])):
        path = write(tmp_path / name, columns | {"METALLICITY": values}, "parquet")
        labels = open_labels(path, 1.0, set())
        found = labels.find(who(TARGETID=[3, 0, 3, 7, 4]))
        labels.load(np.unique(found.row[found.row >= 0]))
        assert labels.columns["NOTE"].tolist() == [b"a", b"d", b"e"]
        zero = 0.0 if name == "logs" else np.nan
        taken = labels.take(found.row)
        np.testing.assert_array_equal(taken["METALLICITY"], [zero, values[0], zero, np.nan, np.nan])
        assert taken["NOTE"].tolist() == [b"d", b"a", b"d", b"", b"e"]


def test_many_blocks_are_loaded_as_one(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(label_tables, "BLOCK_ROWS", 7)
    n = 100
    flags = MaskedColumn(rng.integers(0, 5, n), mask=np.arange(n) == 50)
    columns = {"TARGETID": rng.permutation(n), "MASS": rng.normal(10, 1, n), "FLAG": flags}
    labels = open_labels(write(tmp_path / "l", columns), 1.0, set())
    wanted = rng.integers(0, n + 20, 40)
    found = labels.find(who(TARGETID=wanted))
    taken = labels.load(np.unique(found.row[found.row >= 0])).take(found.row)
    place = {int(i): k for k, i in enumerate(columns["TARGETID"])}
    mass = [columns["MASS"][place[i]] if i < n else np.nan for i in wanted.tolist()]
    flag = [flags.filled(-1)[place[i]] if i < n else -1 for i in wanted.tolist()]
    np.testing.assert_array_equal(taken["MASS"], mass)
    np.testing.assert_array_equal(taken["FLAG"], flag)
