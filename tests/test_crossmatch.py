"""Crossmatch end to end: every planted galaxy under its reason, the right pixels, kills, errors."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import fitsio
import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from builders import truncate, write_coadd, write_cube
from builders_hdf5 import write_provabgs, write_stein
from hypothesis import given
from hypothesis import strategies as st
from matched_survey import (
    ARCSEC,
    BRICK,
    NAMES,
    PAIRED,
    PLANTED,
    POSITION_ONLY,
    SIZE,
    Survey,
    make_survey,
    write_catalogue,
)

from astroclip.crossmatch.build import CrossmatchReport, build_pairs
from astroclip.crossmatch.plan import CrossmatchSettings
from astroclip.errors import DataError, UsageError
from astroclip.pairs import SplitSettings, open_pairs
from astroclip.schema import Reason
from astroclip.surveys.desi import open_coadd
from astroclip.surveys.legacysurvey import decode_targetid, encode_targetid
from astroclip.surveys.stein import open_stein


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Survey:
    return make_survey(tmp_path_factory.mktemp("survey"))


@pytest.fixture(scope="module")
def built(survey, tmp_path_factory) -> tuple[Path, CrossmatchReport]:
    """The survey, matched with all defaults."""
    out = tmp_path_factory.mktemp("built") / "out"
    return out, build_pairs(survey.catalogue, survey.images, out, rejects=out.with_name("rejects.fits"))


def reasons_by_name(path: Path, rows: int) -> dict[str, str]:
    """Return the reason of each galaxy from the table of rejects."""
    rejects = fitsio.read(path)
    found = dict.fromkeys(NAMES[:rows], "PAIRED")
    for row, reason in zip(rejects["ROW"], rejects["REASON"].astype(str), strict=True):
        found[NAMES[row]] = reason.strip()
    return found


def counts_of(reasons) -> dict[str, int]:
    return {r.name: reasons.count(r.name) for r in Reason if r.name in reasons}


def test_every_galaxy_is_under_its_reason(survey, built):
    out, report = built
    assert reasons_by_name(out.with_name("rejects.fits"), len(NAMES)) == PLANTED
    assert report.reasons == counts_of(list(PLANTED.values()))
    assert sum(report.reasons.values()) == report.rows == len(NAMES)
    assert set(report.reasons) | {"UNREADABLE_IMAGE", "WRONG_PIXSCALE"} == {r.name for r in Reason}
    rejects = fitsio.read(out.with_name("rejects.fits"))
    np.testing.assert_array_equal(rejects["TARGETID"], survey.columns["TARGETID"][rejects["ROW"]])
    assert report.written
    assert len(report.problems) == 2  # no coadd, damaged coadd


def test_match_table(survey, built):
    out, report = built
    table = fitsio.read(f"{out}.fits")
    row = table["SPECTRA_ROW"]
    assert (np.diff(row) > 0).all()
    for name, values in survey.columns.items():  # carried as they are
        expected = values.astype(str) if values.dtype.kind == "S" else values
        np.testing.assert_array_equal(table[name], expected[row])
    method = dict(zip(row.tolist(), table["MATCH_METHOD"].astype(str), strict=True))
    for i in PAIRED:
        assert method[i] == ("position" if NAMES[i] in POSITION_ONLY else "id")
    assert report.matches == {m: list(method.values()).count(m) for m in ("id", "position")}
    separation = dict(zip(row.tolist(), table["SEPARATION"], strict=True))
    expected = {"by id": 0, "by position": 0.4, "across RA 0": 0.36, "at the pole": 0.36, "moving": 0}
    for name, arcsec in expected.items():
        assert separation[NAMES.index(name)] == pytest.approx(arcsec, abs=2e-3), name
    assert np.isnan(separation[NAMES.index("nowhere, by id")])
    stein = survey.stein  # the image's file and row point at the right cut-out
    half = len(stein["number"]) // 2
    second = np.char.startswith(table["IMAGE_FILE"].astype(str), "images_npix152_000000001")
    np.testing.assert_array_equal(stein["number"][table["IMAGE_ROW"] + half * second], row)
    np.testing.assert_array_equal(table["IMAGE_RA"], stein["ra"][table["IMAGE_ROW"] + half * second])


def test_table_is_a_whole_fits_file_with_its_story(survey, built):
    out, report = built
    with fits.open(f"{out}.fits", checksum=True) as file:  # a wrong checksum warns, and warnings are errors
        file.verify("exception")
        header, columns = file[1].header, file[1].columns
    assert header["EXTNAME"] == "MATCHES"
    assert (header["CUT"], header["NSPECTRA"], header["NPAIRS"]) == ("galaxy", len(NAMES), len(PAIRED))
    assert header["FALSERAT"] == report.false_match_rate == 0
    assert header["FALSEERR"] > 0
    history = "\n".join(header["HISTORY"])
    for reason, count in report.reasons.items():
        assert f"{reason}: {count} rows" in history
    assert "SHA-256 of zall.fits" in history
    assert columns["TARGET_RA"].unit == "deg"
    assert columns["SEPARATION"].unit == "arcsec"
    assert all(header.comments[f"TTYPE{columns.names.index(n) + 1}"] for n in ("PAIR", "SPLIT", "IMAGE_RA"))


def test_pairs_have_the_right_pixels(survey, built):
    out, report = built
    table = fitsio.read(f"{out}.fits")
    with open_pairs(f"{out}.h5") as pairs:
        read = pairs.read(pairs.columns)
        settings = pairs.provenance["settings"]
    assert settings["reasons"] == report.reasons
    assert len(read["targetid"]) == report.pair_rows == len(PAIRED)
    of_pair = np.argsort(table["PAIR"])[-len(PAIRED) :]
    np.testing.assert_array_equal(table["TARGETID"][of_pair], read["targetid"])
    np.testing.assert_array_equal(table["SPLIT"][of_pair], read["SPLIT"])
    np.testing.assert_array_equal(table["Z"][of_pair], read["redshift"])
    np.testing.assert_array_equal(table["SEPARATION"][of_pair].astype("f4"), read["separation_arcsec"])
    for k, row in enumerate(table["SPECTRA_ROW"][of_pair]):
        name = f"coadd-main-{read['program'][k]}-{read['healpix'][k]}.fits"
        with open_coadd(next(survey.folder.rglob(name))) as coadd:
            spectrum = coadd.read(coadd.targetid == read["targetid"][k])
        for key in ("flux", "ivar", "mask"):
            np.testing.assert_array_equal(read[key][k], getattr(spectrum, key)[0])
        image = survey.stein["images"][survey.stein["number"] == row][0]
        edge = (152 - SIZE) // 2
        np.testing.assert_array_equal(read["image"][k][:, edge : edge + SIZE, edge : edge + SIZE], image)
    files = list(zip(read["program"], read["healpix"], strict=True))
    assert len(set(files)) == 1 + sum(a != b for a, b in pairwise(files))  # stay together
    assert np.isnan(read["ra"][read["targetid"] == survey.columns["TARGETID"][NAMES.index("nowhere, by id")]])


def test_id_and_position_agree(survey, built, tmp_path):
    keep = [i for i in PAIRED if NAMES[i] != "nowhere, by id"]
    columns = {
        k: v[keep] for k, v in survey.columns.items() if k not in ("RELEASE", "BRICKID", "BRICK_OBJID")
    }
    columns["TARGETID"] = -1 - np.arange(len(keep))  # no id at all
    write_catalogue(tmp_path / "anonymous.fits", columns)
    build_pairs(tmp_path / "anonymous.fits", survey.images, tmp_path / "p", pairs=False)
    by_position, by_id = fitsio.read(tmp_path / "p.fits"), fitsio.read(f"{built[0]}.fits")
    by_id = by_id[np.isin(by_id["SPECTRA_ROW"], keep)]
    assert set(by_position["MATCH_METHOD"]) == {"position"}
    np.testing.assert_array_equal(by_position["IMAGE_OBJID"], by_id["IMAGE_OBJID"])
    del columns["TARGETID"]
    columns["TARGETID"] = survey.columns["TARGETID"][keep]  # which tells the id
    write_catalogue(tmp_path / "anonymous.fits", columns)
    build_pairs(tmp_path / "anonymous.fits", survey.images, tmp_path / "t", pairs=False)
    np.testing.assert_array_equal(fitsio.read(tmp_path / "t.fits")["MATCH_METHOD"], by_id["MATCH_METHOD"])


def test_left_join_keeps_all_rows(survey, built, tmp_path):
    report = build_pairs(
        survey.catalogue, survey.images, tmp_path / "l", settings=CrossmatchSettings(join="left")
    )
    table, inner = fitsio.read(tmp_path / "l.fits"), fitsio.read(f"{built[0]}.fits")
    np.testing.assert_array_equal(table["SPECTRA_ROW"], np.arange(len(NAMES)))
    assert table["REASON"].tolist() == list(PLANTED.values())
    matched = table["IMAGE_ROW"] >= 0
    for name in inner.dtype.names:
        np.testing.assert_array_equal(table[name][matched], inner[name])
    assert np.isnan(table["IMAGE_RA"][~matched]).all()
    assert set(table["PAIR"][~matched]) == {-1}
    assert report.table_rows == report.rows


def test_find_all_pairs_every_image(survey, tmp_path):
    settings = CrossmatchSettings(find="all", radius_arcsec=30)
    report = build_pairs(survey.catalogue, survey.images, tmp_path / "a", settings=settings)
    table = fitsio.read(tmp_path / "a.fits")
    assert (table["SPECTRA_ROW"] == NAMES.index("id twice")).sum() == 2
    assert report.reasons["PAIRED"] == len(PAIRED) + 1
    assert report.pair_rows == len(PAIRED) + 2
    assert sum(report.reasons.values()) == report.rows


@pytest.mark.parametrize("cut", ["galaxy", "none"])
@pytest.mark.parametrize("find", ["best", "all"])
@pytest.mark.parametrize("pairs", [True, False])
def test_counts_add_up(survey, tmp_path, cut, find, pairs):
    settings = CrossmatchSettings(cut=cut, find=find, join="left")
    report = build_pairs(
        survey.catalogue, survey.images, tmp_path / "o", settings=settings, pairs=pairs, dry_run=True
    )
    assert sum(report.reasons.values()) == report.rows == len(NAMES)
    assert ("NOT_A_GALAXY" in report.reasons) == (cut == "galaxy")
    assert ("NO_COADD" in report.reasons) == pairs
    assert report.pair_rows >= (len(PAIRED) if pairs else 0)


def test_dry_run_writes_nothing(survey, built, tmp_path):
    report = build_pairs(survey.catalogue, survey.images, tmp_path / "no" / "where", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    done = built[1]
    assert not report.written
    same = (
        "rows",
        "reasons",
        "matches",
        "table_rows",
        "pair_rows",
        "gigabytes",
        "coadd_files",
        "image_files",
    )
    assert {k: getattr(report, k) for k in same} == {k: getattr(done, k) for k in same}
    assert (report.coadd_files, report.image_files) == (3, 2)
    size = sum(built[0].with_name(f"out.{s}").stat().st_size for s in ("fits", "h5"))
    assert size == pytest.approx(report.gigabytes * 1e9, rel=0.05)


def test_labels_by_id_and_by_position(survey, tmp_path):
    n = len(NAMES)
    write_provabgs(tmp_path / "props.hdf5", n, TARGETID=survey.columns["TARGETID"][::-1])
    votes = {"ra": [*survey.columns["TARGET_RA"][:2], 200.0], "dec": [*survey.columns["TARGET_DEC"][:2], 0.0]}
    votes["dec"][1] += 0.6 * ARCSEC  # outside of the radius of the votes
    votes |= {f"bar_{answer}": [k, k + 1, k + 2] for k, answer in enumerate(("strong", "weak", "no"))}
    Table(votes).write(tmp_path / "votes.csv")
    other = {"TARGETID": survey.columns["TARGETID"][:1], "SFR": np.array([7.0]), "N": np.array([3], "u2")}
    Table(other | {"NOTE": ["yes"], "Z": [0.5]}).write(tmp_path / "own.fits")
    paths = [tmp_path / name for name in ("props.hdf5", "votes.csv", "own.fits")]
    report = build_pairs(survey.catalogue, survey.images, tmp_path / "o", labels=paths)
    table = fitsio.read(tmp_path / "o.fits")
    header = fitsio.read_header(tmp_path / "o.fits", 1)
    row = table["SPECTRA_ROW"]
    with h5py.File(tmp_path / "props.hdf5") as file:
        mass = file["__astropy_table__"]["PROVABGS_LOGMSTAR_BF"][::-1]
    bad = row >= n - 3  # the builder's first rows fail the usual cuts
    np.testing.assert_allclose(table["LOG_MSTAR"][~bad], mass[row][~bad], rtol=1e-6)
    assert np.isnan(table["LOG_MSTAR"][bad]).all()
    assert {"ZERR", "ZERR_2", "Z_2"} <= set(table.dtype.names)
    np.testing.assert_array_equal(np.isfinite(table["bar_total-votes"]), row == 0)
    np.testing.assert_array_equal(table["N"], np.where(row == 0, 3, -1))
    np.testing.assert_array_equal(table["NOTE"].astype(str), np.where(row == 0, "yes", ""))
    assert (header["IMF"], header["LABELSR2"][:11], header["LABELSR3"]) == (
        "Chabrier 2003", "Galaxy Zoo ", "own.fits",
    )  # fmt: skip
    assert report.labels == {"props.hdf5": int((~bad).sum()), "votes.csv": 1, "own.fits": 1}
    with open_pairs(tmp_path / "o.h5") as pairs:
        assert pairs.labels["LOG_MSTAR"].unit == "dex(solMass)"
        assert "Chabrier 2003" in pairs.labels["LOG_MSTAR"].source
        assert "THETA_BF" not in pairs.labels  # a vector
        read = pairs.read(["targetid", "LOG_MSTAR", "NOTE", "N"])
    of_pair = np.argsort(table["PAIR"])[-len(PAIRED) :]
    np.testing.assert_array_equal(read["LOG_MSTAR"], table["LOG_MSTAR"][of_pair])
    assert read["NOTE"].tolist() == np.char.strip(table["NOTE"][of_pair].astype(str)).tolist()


def test_folder_of_cutouts(survey, tmp_path):
    ids, ra, dec = (survey.columns[k] for k in ("TARGETID", "TARGET_RA", "TARGET_DEC"))
    folder, shape = tmp_path / "cutouts", (16, 16)
    at = [NAMES.index(name) for name in ("by id", "no image", "across RA 0", "at the pole", "other program")]
    written = write_cube(folder / f"{ids[at[0]]}.fits", ra=None, shape=shape)
    write_cube(folder / f"9010-{BRICK}-{at[1] + 1}.fits", ra=None, shape=shape, seed=1)
    write_cube(folder / "anything.fits", ra=0.00001, dec=dec[at[2]], shape=shape, seed=2)
    write_cube(
        folder / f"{ids[at[3]]}.fits", ra=ra[at[3]], dec=dec[at[3]], shape=shape, pixel_deg=0.4 * ARCSEC
    )
    write_cube(folder / f"{ids[at[4]]}.fits", ra=None, shape=(64, 64))
    truncate(folder / f"{ids[at[4]]}.fits", 0.5)
    blank = NAMES.index("blank image")
    write_cube(folder / f"{ids[blank]}.fits", ra=None, shape=shape, image=np.zeros((3, 16, 16), "f4"))
    report = build_pairs(survey.catalogue, folder, tmp_path / "o", rejects=tmp_path / "r.fits")
    found = reasons_by_name(tmp_path / "r.fits", len(NAMES))
    expected = ["PAIRED", "PAIRED", "PAIRED", "WRONG_PIXSCALE", "UNREADABLE_IMAGE"]
    assert [found[NAMES[i]] for i in at] == expected
    assert found["blank image"] == "NO_IMAGE_PIXEL"
    assert sum(report.reasons.values()) == len(NAMES)
    with open_pairs(tmp_path / "o.h5") as pairs:
        image = pairs.read(["image"])["image"][0]
    np.testing.assert_array_equal(image[:, 68:84, 68:84], written)
    assert fitsio.read(tmp_path / "o.fits")["IMAGE_FILE"][0] == f"{ids[at[0]]}.fits"


@pytest.mark.parametrize("suffix", ["fits", "csv", "parquet"])
def test_table_as_images(survey, tmp_path, suffix):
    table = Table({k: survey.stein[k] for k in ("ra", "dec", "release", "brickid", "objid")})
    table["ra"].name = "east"
    table.write(tmp_path / f"sweep.{suffix}")
    settings = CrossmatchSettings(image_ra="east", image_dec="dec")
    report = build_pairs(survey.catalogue, tmp_path / f"sweep.{suffix}", tmp_path / "o", settings=settings)
    assert report.pairs is None
    assert not (tmp_path / "o.h5").exists()
    found = fitsio.read(tmp_path / "o.fits")
    assert "PAIR" not in found.dtype.names
    np.testing.assert_array_equal(survey.stein["number"][found["IMAGE_ROW"]], found["SPECTRA_ROW"])
    assert not list(tmp_path.glob(".*"))  # no scratch left


def test_table_with_images_gives_pairs(survey, tmp_path):
    table = Table({k: survey.stein[k] for k in ("ra", "dec", "release", "brickid", "objid")})
    table["IMAGE"] = survey.stein["images"]
    table.write(tmp_path / "stamps.fits")
    report = build_pairs(survey.catalogue, tmp_path / "stamps.fits", tmp_path / "o")
    assert report.reasons == counts_of(list(PLANTED.values()))
    assert report.pair_rows == len(PAIRED)


def test_plain_tables_on_both_sides(tmp_path, rng):
    ra, dec = rng.uniform(0, 360, 50), rng.uniform(-80, 80, 50)
    Table({"x": ra, "y": dec, "mag": ra}).write(tmp_path / "left.csv")
    Table({"RAJ2000": ra[::-1] % 360, "DEJ2000": dec[::-1] + 0.2 * ARCSEC}).write(tmp_path / "right.fits")
    settings = CrossmatchSettings(ra="x", dec="y")
    report = build_pairs(
        tmp_path / "left.csv", tmp_path / "right.fits", tmp_path / "o.fits", settings=settings
    )
    assert report.reasons == {"PAIRED": 50}
    found = fitsio.read(tmp_path / "o.fits")
    np.testing.assert_array_equal(found["IMAGE_ROW"], np.arange(50)[::-1])
    np.testing.assert_allclose(found["SEPARATION"], 0.2, atol=1e-6)


@pytest.mark.parametrize("join", ["inner", "left"])
@pytest.mark.parametrize(
    "rows", [[], [NAMES.index("no image")], [NAMES.index("quasar")], [NAMES.index("nowhere")]]
)
def test_nothing_to_pair(survey, tmp_path, rows, join):
    write_catalogue(tmp_path / "few.fits", {name: values[rows] for name, values in survey.columns.items()})
    report = build_pairs(
        tmp_path / "few.fits", survey.images, tmp_path / "o", coadds=survey.folder, labels=[survey.catalogue],
        rejects=tmp_path / "r.fits", settings=CrossmatchSettings(join=join),
    )  # fmt: skip
    assert report.reasons == counts_of([PLANTED[NAMES[row]] for row in rows])
    assert fits.getheader(tmp_path / "o.fits", 1)["NAXIS2"] == len(rows) * (join == "left")
    assert fits.getheader(tmp_path / "r.fits", 1)["NAXIS2"] == len(rows)
    with open_pairs(tmp_path / "o.h5") as pairs:
        assert len(pairs) == 0


def test_split_follows_settings(survey, tmp_path):
    settings = CrossmatchSettings(split=SplitSettings((0.0, 0.0, 1.0), seed=3), join="left")
    build_pairs(survey.catalogue, survey.images, tmp_path / "o", settings=settings, pairs=False)
    split = fitsio.read(tmp_path / "o.fits")["SPLIT"]
    nowhere = np.isnan(survey.columns["TARGET_RA"])
    np.testing.assert_array_equal(split, np.where(nowhere, 255, 2))


def run_killed(survey: Survey, out: Path, seed: int, kills: int) -> int:
    """Build in processes that are killed `kills` times; return how many were."""
    script = Path(__file__).with_name("killed_crossmatch.py")
    command = [sys.executable, str(script), survey.catalogue, survey.images, out, str(seed), str(kills)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return len(done.stdout.split())


def contents(path: Path) -> dict[str, object]:
    """Return all values and attributes of an HDF5 file, but for the date."""
    found: dict[str, object] = {}
    with h5py.File(path) as file:
        found["/"] = {k: str(v) for k, v in file.attrs.items() if k != "created"}

        def note(name: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = (item[()].tobytes(), {k: str(v) for k, v in item.attrs.items()})

        file.visititems(note)
    return found


def test_killed_and_resumed_it_is_the_same(survey, built, tmp_path):
    assert run_killed(survey, tmp_path / "out", seed=1, kills=8) >= 5
    assert contents(tmp_path / "out.h5") == contents(Path(f"{built[0]}.h5"))
    a, b = fitsio.read(tmp_path / "out.fits"), fitsio.read(f"{built[0]}.fits")
    assert a.tobytes() == b.tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.fits", "out.h5"]


def test_a_run_is_resumed_with_its_own_settings_only(survey, tmp_path):
    out = tmp_path / "out"
    again = {"resume": True}
    build_pairs(survey.catalogue, survey.images, out)
    first = out.with_suffix(".h5").read_bytes()
    out.with_suffix(".fits").unlink()  # as if killed between the two
    build_pairs(survey.catalogue, survey.images, out, **again)
    assert out.with_suffix(".h5").read_bytes() == first
    assert out.with_suffix(".fits").exists()
    for settings in (CrossmatchSettings(cut="none"), CrossmatchSettings(split=SplitSettings(seed=1))):
        with pytest.raises(UsageError, match="other inputs or settings"):
            build_pairs(survey.catalogue, survey.images, out, settings=settings, **again)
    out.with_suffix(".h5").unlink()
    with pytest.raises(UsageError, match="not of the run to be resumed"):
        build_pairs(survey.catalogue, survey.images, out, **again)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"images": "nothing"}, DataError, "nothing"),
        ({"spectra": "nothing.fits"}, DataError, "nothing.fits"),
        ({"coadds": "nothing"}, DataError, "no such folder of coadds"),
        ({"output": "no/folder/out"}, DataError, "there is no folder"),
        ({"output": "taken"}, UsageError, "exists already"),
        ({"rejects": "o.fits"}, UsageError, "is the match table"),
        ({"rejects": "r.txt"}, UsageError, "r.txt"),
        ({"labels": ["nothing.csv"]}, DataError, "nothing.csv"),
        ({"labels": ["blind.fits"]}, DataError, "TARGETID or position"),
        ({"settings": CrossmatchSettings(cut="best")}, UsageError, "no cut 'best'"),
        ({"settings": CrossmatchSettings(cut="original")}, DataError, "SV_PRIMARY"),
        ({"settings": CrossmatchSettings(radius_arcsec=0)}, UsageError, "radius_arcsec is 0"),
        ({"settings": CrossmatchSettings(find="some")}, UsageError, "find is 'some'"),
        ({"settings": CrossmatchSettings(join="outer")}, UsageError, "join is 'outer'"),
        ({"settings": CrossmatchSettings(split=SplitSettings((1, 1, 1)))}, UsageError, "fractions"),
        ({"settings": CrossmatchSettings(ra="RRA")}, DataError, "no column 'RRA'"),
        ({"spectra": "blind.fits"}, DataError, "no position columns"),
        ({"spectra": "radians.fits"}, DataError, "'rad'"),
        ({"spectra": "plain.fits", "coadds": "."}, UsageError, "no TARGETID, SURVEY"),
        ({"spectra": "alone.fits"}, UsageError, "--coadds"),
        ({"spectra": "short.fits"}, DataError, "cut short"),
        ({"images": "empty"}, DataError, "no image file"),
    ],
)  # fmt: skip
def test_errors_come_before_anything_is_written(survey, tmp_path, monkeypatch, change, error, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Table({"A": [1.0]}).write("blind.fits")
    Table({"RA": [1.0], "DEC": [2.0]}, units={"RA": "rad", "DEC": "deg"}).write("radians.fits")
    Table({"RA": [1.0], "DEC": [2.0]}).write("plain.fits")
    write_catalogue(tmp_path / "alone.fits", survey.columns)
    write_catalogue(tmp_path / "short.fits", survey.columns)
    truncate(tmp_path / "short.fits", 0.5)
    Path("taken.h5").touch()
    before = sorted(tmp_path.rglob("*"))
    given = {"spectra": survey.catalogue, "images": survey.images, "output": "o"} | change
    with pytest.raises(error, match=said):
        build_pairs(**given)
    assert sorted(tmp_path.rglob("*")) == before


def test_full_disk_is_told_first(survey, tmp_path, monkeypatch):
    monkeypatch.setattr("astroclip.catalog.part.shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match="GB free"):
        build_pairs(survey.catalogue, survey.images, tmp_path / "o")
    assert list(tmp_path.iterdir()) == []


def test_coadds_that_vanish_stop_the_run_and_it_goes_on(survey, tmp_path, monkeypatch):
    from astroclip.crossmatch import pixels, write

    monkeypatch.setattr(pixels, "BLOCK_PAIRS", 2)
    tree = survey.folder / "healpix"
    hidden = tree.with_name("hidden")
    write_pixels = write.write_pixels

    def hide(reader, writer, progress):
        def vanish(done, total):
            if done == 2:
                tree.rename(hidden)

        write_pixels(reader, writer, vanish)

    monkeypatch.setattr(write, "write_pixels", hide)
    try:
        with pytest.raises(DataError, match="have gone"):
            build_pairs(survey.catalogue, survey.images, tmp_path / "o")
    finally:
        hidden.rename(tree)
    assert not (tmp_path / "o.h5").exists()
    monkeypatch.setattr(write, "write_pixels", write_pixels)
    report = build_pairs(survey.catalogue, survey.images, tmp_path / "o", resume=True)
    assert report.pair_rows == len(PAIRED)
    assert json.loads(h5py.File(tmp_path / "o.h5").attrs["settings"])["cut"] == "galaxy"


@given(st.integers(1, 2**16 - 1), st.integers(0, 2**20 - 1), st.integers(0, 2**22 - 1))
def test_targetid_tells_the_id(release, brickid, objid):
    assert tuple(map(int, decode_targetid(encode_targetid(release, brickid, objid)))) == (
        release,
        brickid,
        objid,
    )


@given(st.sampled_from([-1, 0, 1 << 41, 1 << 58, 1 << 59, -(1 << 50)]))
def test_other_targetids_have_no_id(targetid):
    assert tuple(map(int, decode_targetid(targetid))) == (-1, -1, -1)


def test_probing_says_what_reading_says(tmp_path, rng):
    ids = np.arange(1, 13)
    write_coadd(tmp_path / "coadd.fits", targetid=ids)
    with fitsio.FITS(tmp_path / "coadd.fits", "rw") as file:
        for arm, few in (("B", 900), ("R", 10), ("Z", 2800)):  # good pixels at an arm's end only
            ivar = file[f"{arm}_IVAR"].read()
            ivar[:4] = 0
            if arm == "Z":
                ivar[1, few:] = 1
            flux = file[f"{arm}_FLUX"].read()
            flux[4:6] = np.nan
            mask = file[f"{arm}_MASK"].read()
            mask[6] = 4
            mask[1] = 0
            for name, values in (("IVAR", ivar), ("FLUX", flux), ("MASK", mask)):
                file[f"{arm}_{name}"].write(values)
    with open_coadd(tmp_path / "coadd.fits") as coadd:
        rows = rng.permutation(np.r_[np.arange(12), 3, 3])
        measured = coadd.is_measured(rows)
        np.testing.assert_array_equal(measured, (coadd.read(rows).ivar > 0).any(axis=1))
        assert 0 < measured.sum() < len(rows)


@pytest.mark.parametrize("chunks", [None, (1, 3, 9, 9), (4, 3, 9, 9)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2"])
def test_stamps_are_read_alike_however_they_are_stored(tmp_path, rng, chunks, dtype):
    images = rng.normal(0, 1, (9, 3, 9, 9)).astype(dtype)
    images[2], images[5, :, 3:6, 3:6], images[7, 0, 4, 4] = 0, 0, 0
    write_stein(tmp_path / "images_npix152_0_9.h5", 9, replace={"images": images})
    with h5py.File(tmp_path / "images_npix152_0_9.h5", "a") as file:
        del file["images"]
        file.create_dataset("images", data=images, chunks=chunks)
    stein = open_stein(tmp_path)
    rows = rng.permutation(np.r_[np.arange(9), 2, 3])
    expected = np.where((images[rows] == 0).all(axis=1, keepdims=True), np.nan, images[rows].astype("f4"))
    np.testing.assert_array_equal(stein.read_images(rows, 9), expected)
    np.testing.assert_array_equal(stein.show_sky(rows), rows != 2)
    stein.close()
