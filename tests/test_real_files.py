"""The whole walk on real survey files: coadds, stamps from a real image, real redshifts."""

import gzip
import json
import subprocess
from io import BytesIO
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from catalog_files import fitsverify, need
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.data.desi import read_redrock, redrock_path
from astroclip.data.legacysurvey import read_cutout
from astroclip.predict.tasks import predict_catalog
from astroclip.schema import PIXSCALE, EmbedFlag, PredictFlag

COADDS = {
    "coadd-4-80613-thru20210324.fits": [0],
    "coadd-special-dark-27247.fits": [0],
    "coadd-sv3-dark-26065.fits.gz": [2, 2, 0, 2, 0],
    "coadd-5-169-thru20210419.fits.gz": [2, 2, 2, 2, 0],
}


def run(*words: object) -> dict:
    """Run a command of the program and return what it says as JSON."""
    done = CliRunner().invoke(app, ["--json", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def raw_hdus(path: Path) -> list[tuple[list[str], bytes]]:
    """Return the cards and the data bytes of every HDU."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    with fits.open(BytesIO(content)) as hdus:
        where = [(list(map(str, hdu.header.cards)), hdu.fileinfo()) for hdu in hdus]
    return [(cards, content[info["datLoc"] : info["datLoc"] + info["datSpan"]]) for cards, info in where]


def assert_only_columns_were_added(source: Path, output: Path, hdu: str, added: list[str]) -> None:
    """Compare every HDU's bytes, every column's bytes and every card."""
    with fits.open(source) as before, fits.open(output) as after:
        number = before.index_of(hdu)
        old, new = before[number].data, after[number].data
        assert new.names == [*old.names, *added]
        assert all(old[name].tobytes() == new[name].tobytes() for name in old.names)
    (cards, _), (new_cards, _) = raw_hdus(source)[number], raw_hdus(output)[number]
    changed = ("NAXIS1", "TFIELDS", "CHECKSUM", "DATASUM")
    assert {card for card in cards if not card.startswith(changed)} <= set(new_cards)
    others = [hdus[:number] + hdus[number + 1 :] for hdus in (raw_hdus(source), raw_hdus(output))]
    assert others[0] == others[1]


def assert_everybody_reads(path: Path, hdu: str) -> None:
    """fitsverify finds nothing; STILTS, astropy and fitsio see the same rows."""
    assert fitsverify(path) == "OK"
    with fits.open(path, checksum=True) as hdus:
        number = hdus.index_of(hdu)
        rows = len(hdus[number].data)
    assert fitsio.FITS(path)[number].get_nrows() == rows
    done = subprocess.run(
        [need("stilts"), "tpipe", f"in={path}#{number}", "omode=count"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"rows: {rows}" in done.stdout


@pytest.mark.parametrize("name", COADDS)
def test_a_coadd_is_embedded_and_predicted(survey_data, tiny_model, tmp_path, name):
    source = survey_data / "desi" / name
    embedded = tmp_path / "embedded.fits"
    report = run("embed", source, "--model", tiny_model, "-o", embedded, "--keep-pixels")
    assert report["rows"] == len(COADDS[name])
    added = ["SPECTRUM_EMBEDDING", "EMBED_FLAG"]
    assert_only_columns_were_added(source, embedded, "FIBERMAP", added)
    assert_everybody_reads(embedded, "FIBERMAP")
    table = fitsio.read(embedded, ext="FIBERMAP")
    assert list(table["EMBED_FLAG"]) == COADDS[name]
    missing = table["EMBED_FLAG"] == EmbedFlag.NO_SPECTRUM
    np.testing.assert_array_equal(np.isnan(table["SPECTRUM_EMBEDDING"]).all(1), missing)

    reference = tmp_path / "reference.fits"
    good = np.repeat(table[~missing], 3)
    redshift = np.linspace(0.1, 0.2, len(good))
    fitsio.write(reference, [good["SPECTRUM_EMBEDDING"], redshift], names=["SPECTRUM_EMBEDDING", "Z"])
    predicted = tmp_path / "predicted.fits"
    report = run("predict", "redshift", embedded, "--reference", reference, "-o", predicted, "-k", 3)
    assert report["predicted"] == (~missing).sum()
    assert_everybody_reads(predicted, "FIBERMAP")
    result = fitsio.read(predicted, ext="FIBERMAP")
    np.testing.assert_array_equal(np.isnan(result["Z_PRED_MEAN"]), missing)
    np.testing.assert_array_equal(result["PREDICT_FLAG"] & 1, missing)
    np.testing.assert_array_equal(result["TARGETID"], table["TARGETID"])

    lean = tmp_path / "lean.fits"
    run("embed", source, "--model", tiny_model, "-o", lean)
    assert_everybody_reads(lean, "GALAXIES")
    alone = fitsio.read(lean)
    for column in ("TARGETID", "TARGET_RA", "SPECTRUM_EMBEDDING", "EMBED_FLAG"):
        np.testing.assert_array_equal(alone[column], table[column])
    beside = redrock_path(source)
    assert beside is None or list(alone["Z"]) == list(read_redrock(beside)["Z"])


def test_real_sdss_and_boss_spectra_are_a_table(survey_data, tiny_model, tmp_path):
    run("embed", survey_data / "boss", survey_data / "sdss", "--model", tiny_model, "-o", tmp_path / "e.fits")
    assert_everybody_reads(tmp_path / "e.fits", "GALAXIES")
    table = fitsio.read(tmp_path / "e.fits")
    assert np.isfinite(table["Z"]).sum() >= 2
    assert np.isfinite(table["SPECTRUM_EMBEDDING"]).all(axis=1).sum() >= 2


def test_a_real_cutout_is_a_table(survey_data, tiny_model, tmp_path):
    path = survey_data / "legacysurvey" / "cutout_59.1067_-30.4848.fits"
    run("embed", path, "--model", tiny_model, "-o", tmp_path / "e.fits")
    table = fitsio.read(tmp_path / "e.fits")
    np.testing.assert_allclose([table["RA"][0], table["DEC"][0]], [59.1067, -30.4848], atol=1e-3)


def test_redrock_gives_the_reference_its_redshift(survey_data):
    redrock = read_redrock(survey_data / "desi" / "redrock-4-80613-thru20210324.fits")
    assert redrock["Z"][0] == pytest.approx(0.368744, abs=1e-6)


@pytest.mark.parametrize(
    ("image", "middle"),
    [("cutout_59.1067_-30.4848.fits", (59.1067, -30.4848)), ("dr5-nsa-cutout-162.fits", None)],
)
def test_stamps_of_a_real_image(survey_data, tiny_model, tmp_path, image, middle):
    path = survey_data / "legacysurvey" / image
    cutout = read_cutout(path)
    ra, dec = middle or (cutout.ra, cutout.dec)
    step = 30 * PIXSCALE / 3600
    positions = np.array([(ra, dec), (ra + step, dec), (ra, dec + step), (ra + 3, dec)])
    catalog = tmp_path / "positions.fits"
    fitsio.write(catalog, [positions[:, 0], positions[:, 1]], names=["RA", "DEC"], units=["deg", "deg"])
    output = tmp_path / "embedded.fits"
    run("embed", catalog, "--images", path, "--model", tiny_model, "-o", output)
    assert_everybody_reads(output, fitsio.read_header(output, 1).get("EXTNAME", "") or 1)
    table = fitsio.read(output)
    assert table["EMBED_FLAG"][0] in {0, EmbedFlag.IMAGE_PADDED}
    assert table["EMBED_FLAG"][3] == EmbedFlag.NO_IMAGE
    embedding = table["IMAGE_EMBEDDING"]
    assert np.isfinite(embedding[:3]).all()
    assert np.isnan(embedding[3]).all()
    assert np.ptp(embedding[:3], axis=0).max() > 1e-4


def test_mini_estimates_from_real_stamps(survey_data, tmp_path):
    """Redshifts and votes of the shipped model; names of votes have hyphens, of which fitsverify warns."""
    path = survey_data / "legacysurvey" / "cutout_59.1067_-30.4848.fits"
    ra, dec = 59.1067 + np.array([0.0, 30, 3]) * PIXSCALE / 3600 * [1, 1, 1e4], np.full(3, -30.4848)
    fitsio.write(tmp_path / "positions.fits", [ra, dec], names=["RA", "DEC"], units=["deg", "deg"])
    run("embed", tmp_path / "positions.fits", "--images", path, "-o", tmp_path / "embedded.fits")
    run("predict", "redshift", tmp_path / "embedded.fits", "--method", "knn", "-o", tmp_path / "z.fits")
    assert_everybody_reads(tmp_path / "z.fits", 1)
    estimates = fitsio.read(tmp_path / "z.fits")
    edges = [estimates[f"Z_PHOT_{name}"] for name in ("L95", "L68", "MEDIAN", "U68", "U95")]
    assert (np.diff(np.array(edges)[:, :2], axis=0) > 0).all()
    assert (estimates["Z_PHOT_MEAN"][:2] < 1.7).all()
    assert list(np.isnan(estimates["Z_PHOT_MEAN"])) == [False, False, True]
    run("predict", "morphology", tmp_path / "embedded.fits", "--method", "knn", "-o", tmp_path / "votes.fits")
    assert fitsverify(tmp_path / "votes.fits").endswith(" 0 errors")
    votes = fitsio.read(tmp_path / "votes.fits")
    answers = ["smooth", "featured-or-disk", "artifact"]
    shares = np.stack([votes[f"smooth-or-featured_{answer}_fraction"] for answer in answers])
    np.testing.assert_allclose(shares[:, :2].sum(0), 1, atol=1e-5)
    assert [str(name).strip() for name in votes["smooth-or-featured_answer"][:2]] == [
        answers[i] for i in shares[:, :2].argmax(0)
    ]


@pytest.fixture(scope="module")
def predictor(survey_data, tmp_path_factory) -> Path:
    """The shipped model's default predictor of redshifts from spectra, fitted once."""
    folder = tmp_path_factory.mktemp("predictor")
    source = survey_data / "desi" / "coadd-4-80613-thru20210324.fits"
    run("predict", "redshift", source, "-o", folder / "z.fits", "--save-predictor", folder / "fitted")
    return folder / "fitted"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("coadd-sv3-dark-26065.fits.gz", {39627866878511337: 0.83648, 39627866878514741: 0.98060}),
        ("coadd-4-80613-thru20210324.fits", {39633345008634465: 0.368744}),
    ],
)
def test_mini_finds_redshifts_of_real_galaxies(survey_data, predictor, tmp_path, name, known):
    """Of DESI's luminous red galaxies, and of one with strong lines; rows without data are flagged."""
    source = survey_data / "desi" / name
    report = run("predict", "redshift", source, "-o", tmp_path / "z.fits", "--predictor", predictor)
    table = fitsio.read(tmp_path / "z.fits", ext="GALAXIES")
    assert (report["rows"], report["predicted"]) == (len(fitsio.read(source, ext="FIBERMAP")), len(known))
    for row in table:
        if row["TARGETID"] not in known:
            assert row["PREDICT_FLAG"] & PredictFlag.NO_EMBEDDING
            continue
        redshift = known[row["TARGETID"]]
        assert abs(row["Z_PRED_MEDIAN"] - redshift) / (1 + redshift) < 0.01
        assert row["Z_PRED_L95"] < redshift < row["Z_PRED_U95"]


def test_mini_finds_redshifts_of_real_sdss_galaxies(survey_data, predictor, tmp_path):
    """Of another spectrograph, whose spectra cover a part of DESI's."""
    columns = {"PLATE": [295, 2580], "MJD": [51585, 54092], "FIBERID": [596, 470]}
    Table(columns).write(tmp_path / "plates.fits")
    folder = survey_data / "sdss"
    run("embed", tmp_path / "plates.fits", "--spectra", folder, "-o", tmp_path / "embedded.fits")
    fitted = ("--predictor", predictor)
    run("predict", "redshift", tmp_path / "embedded.fits", "-o", tmp_path / "z.fits", *fitted)
    found = fitsio.read(tmp_path / "z.fits")["Z_PRED_MEDIAN"]
    known = [float(fitsio.read(path, ext=2)["Z"][0]) for path in sorted(folder.glob("spec-*.fits"))]
    np.testing.assert_allclose(np.log1p(found), np.log1p(known), atol=0.01)


def test_sdss_spectra_of_a_folder(survey_data, tiny_model, tmp_path):
    catalog = tmp_path / "plates.fits"
    columns = {"PLATE": [295, 2580, 1], "MJD": [51585, 54092, 1], "FIBERID": [596, 470, 1]}
    Table(columns).write(catalog)
    run(
        "embed",
        catalog,
        "--spectra",
        survey_data / "sdss",
        "--model",
        tiny_model,
        "-o",
        tmp_path / "out.fits",
    )
    flag = fitsio.read(tmp_path / "out.fits")["EMBED_FLAG"]
    assert list(flag) == [EmbedFlag.PARTIAL_COVERAGE, EmbedFlag.PARTIAL_COVERAGE, EmbedFlag.NO_SPECTRUM]


def test_redshifts_of_real_galaxies_from_their_colours(survey_data, tmp_path, capsys):
    table = Table.read(survey_data / "catalogues" / "sdss-dr14-10k.csv.gz", format="csv")
    table = table[table["class"] == "GALAXY"]["ra", "dec", "redshift", "u", "g", "r", "i", "z"]
    magnitudes = np.stack([table[band] for band in "ugriz"], axis=1)
    table["MAGNITUDES"] = magnitudes.astype("f4")
    half = np.random.default_rng(1).random(len(table)) < 0.5
    table[half].write(tmp_path / "reference.fits")
    table[~half].write(tmp_path / "new.fits")
    reference = tmp_path / "reference.fits"
    options = {"reference": reference, "method": "knn"}
    report = predict_catalog(tmp_path / "new.fits", "redshift", vector="MAGNITUDES", **options)
    assert report.label == "redshift"
    result = fitsio.read(report.output)
    truth, predicted = result["redshift"], result["Z_PRED_MEAN"]
    r2 = 1 - np.var(predicted - truth) / np.var(truth)
    dz = (predicted - truth) / (1 + truth)
    nmad = 1.4826 * np.median(np.abs(dz - np.median(dz)))
    mean_nmad = 1.4826 * np.median(np.abs(truth - truth.mean()) / (1 + truth))
    with capsys.disabled():
        print(f"\n{len(truth)} SDSS galaxies: R^2 {r2:.3f}, sigma_NMAD {nmad:.4f} (mean: {mean_nmad:.4f})")
    assert r2 > 0.2  # a few galaxies beyond z = 0.4 make up half of the variance
    assert nmad < 0.7 * mean_nmad
    by_columns = predict_catalog(
        tmp_path / "new.fits", "redshift", tmp_path / "columns.fits", vector="u,g,r,i,z", **options
    )
    np.testing.assert_allclose(fitsio.read(by_columns.output)["Z_PRED_MEAN"], predicted, atol=2e-3)
