"""Crossmatch end to end: every planted galaxy under its reason, in the right row, with the right pixels."""

from itertools import pairwise
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from matched_survey import (
    NAMES,
    PAIRED,
    PLANTED,
    POSITION_ONLY,
    SIZE,
    Survey,
    counts_of,
    make_survey,
    reasons_by_name,
    write_catalogue,
)

from astroclip.crossmatch.build import CrossmatchReport, build_pairs
from astroclip.crossmatch.plan import CrossmatchSettings
from astroclip.data.desi import open_coadd
from astroclip.data.pairs import SplitSettings, open_pairs
from astroclip.schema import Reason


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Survey:
    return make_survey(tmp_path_factory.mktemp("survey"))


@pytest.fixture(scope="module")
def built(survey, tmp_path_factory) -> tuple[Path, CrossmatchReport]:
    """The survey, matched with all defaults."""
    out = tmp_path_factory.mktemp("built") / "out"
    return out, build_pairs(survey.catalogue, survey.images, out, rejects=out.with_name("rejects.fits"))


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
