"""Labels and truths with missing values: predict and evaluate leave the same rows out, and say so."""

import json
import shutil
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from builders_predict import make_galaxies, make_votes, write_galaxies
from evaluated_tables import predicted_properties, predicted_redshifts, predicted_votes
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.errors import DataError
from astroclip.evaluate import evaluate_table
from astroclip.predict.label_columns import read_labels
from astroclip.predict.reference import read_reference, write_reference
from astroclip.predict.tasks import predict_catalog

ROWS = 240
BAD = np.arange(ROWS) % 5 == 0  # rows without the label


@pytest.fixture(scope="module")
def known() -> dict[str, np.ndarray]:
    return make_galaxies(ROWS, 1)


def labels_of(path: Path, task: str = "label", label: str | None = None, kind: str = "auto") -> Any:
    return read_labels(read_reference(path), task, label, kind)


@pytest.mark.parametrize("sentinel", [-999, -99, -9999, -1, 0, 1e20])
@pytest.mark.parametrize("suffix", ["fits", "csv", "parquet"])
def test_masses_that_were_not_fitted_are_not_learnt(known, tmp_path, sentinel, suffix):
    path = tmp_path / f"ref.{suffix}"
    mass = np.where(BAD, sentinel, known["LOG_MSTAR"])
    Table({"TARGETID": known["TARGETID"], "LOGMSTAR": mass}).write(path)
    labels = labels_of(path, "properties")
    assert np.isnan(labels.values[:, 0]).tolist() == BAD.tolist()
    assert labels.notes == (f"LOGMSTAR: 48 values of {sentinel:g} taken as missing",)


@pytest.mark.parametrize("sentinel", [-999.0, 0.0])
def test_predictions_are_those_of_a_reference_without_the_rows(known, tmp_path, sentinel):
    new = write_galaxies(tmp_path / "new.fits", make_galaxies(50, 2))
    found = []
    for name, fill in (("sentinel", sentinel), ("nan", np.nan)):
        columns = known | {"LOG_MSTAR": np.where(BAD, fill, known["LOG_MSTAR"]).astype("f4")}
        for other in ("AGE", "AVG_SFR"):
            del columns[other]
        reference = write_galaxies(tmp_path / f"{name}.fits", columns)
        out = tmp_path / f"{name}-p.fits"
        words = ["predict", "properties", new, "--reference", reference, "--method", "knn", "-o", out]
        done = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
        assert f"{reference}: 240 rows, 192 labelled" in done.stdout
        assert ("48 values of" in done.stdout) == (name == "sentinel")
        found.append(fitsio.read(out)["LOGMSTAR_PRED"])
    np.testing.assert_array_equal(*found)
    assert np.all(found[0] > 8)


def test_notes_are_in_the_json_too(known, tmp_path):
    columns = known | {"Z": np.where(BAD, -99, known["Z"])}
    reference = write_galaxies(tmp_path / "ref.fits", columns)
    words = ["--json", "predict", "redshift", reference, "--reference", reference, "--method", "knn"]
    done = CliRunner().invoke(app, [*map(str, words), "-o", str(tmp_path / "p.fits")], catch_exceptions=False)
    assert json.loads(done.stdout)["notes"] == [
        f"{reference}: 240 rows, 192 labelled", "Z: 48 values of -99 taken as missing",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["ZBEST", "Z"])
@pytest.mark.parametrize("sentinel", [-1, -9, -99, -9999])
def test_a_redshift_by_any_name_is_greater_than_minus_1(known, tmp_path, name, sentinel):
    path = write_galaxies(tmp_path / "r.fits", {name: np.where(BAD, sentinel, known["Z"])})
    assert np.isnan(labels_of(path, "redshift", name).values[:, 0]).tolist() == BAD.tolist()


def test_a_label_of_sentinels_alone_says_so(tmp_path):
    path = write_galaxies(tmp_path / "r.fits", {"LOGMSTAR": np.full(30, -999.0)})
    with pytest.raises(
        DataError, match=r"LOGMSTAR has no finite value \(LOGMSTAR: 30 values of -999 taken as miss"
    ):
        labels_of(path, "properties")


def write_seen(path: Path, known: dict[str, np.ndarray], label: np.ndarray) -> Path:
    """Write a reference whose logical label is undefined where nobody looked."""
    seen = ~BAD
    if path.suffix == ".parquet":
        columns = {"BAR": pa.array(label, mask=BAD), "X": known["Z"], "Y": known["AGE"]}
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".csv":
        text = np.where(seen, np.where(label, "true", "false"), "")
        rows = [f"{bar},{x},{y}" for bar, x, y in zip(text, known["Z"], known["AGE"], strict=True)]
        path.write_text("BAR,X,Y\n" + "\n".join(rows) + "\n")
    else:
        bytes_ = np.where(seen, np.where(label, ord("T"), ord("F")), 0).astype("u1")
        columns = {"BAR": bytes_, "X": known["Z"], "Y": known["AGE"]}
        fitsio.write(path, list(columns.values()), names=list(columns), clobber=True)
        path.write_bytes(path.read_bytes().replace(b"'B       '", b"'L       '", 1))
    return path


@pytest.mark.parametrize("suffix", ["fits", "parquet", "csv"])
def test_an_undefined_logical_is_no_class(known, tmp_path, suffix):
    label = known["LOG_MSTAR"] > np.median(known["LOG_MSTAR"])
    path = write_seen(tmp_path / f"r.{suffix}", known, label)
    labels = labels_of(path, label="BAR")
    assert labels.questions == {"BAR": ("False", "True")}
    np.testing.assert_array_equal(labels.values[~BAD, 1], label[~BAD])
    assert np.isnan(labels.values[BAD]).all()
    report = predict_catalog(
        path, "label", tmp_path / "p.fits", reference=path, label="BAR", vector="X,Y", method="knn"
    )
    assert report.notes == (f"{path}: 240 rows, 192 labelled",)
    assert report.reference_rows == 192


def test_a_model_s_own_reference_knows_what_is_missing(known, tmp_path, tiny_model):
    model = shutil.copytree(tiny_model, tmp_path / "tiny")
    columns = {"SPECTRUM_EMBEDDING": pa.array(list(known["SPECTRUM_EMBEDDING"])), "Z": known["Z"]}
    columns["BAR"] = pa.array(known["Z"] > 0.3, mask=BAD)
    columns["COUNT"] = pa.array(np.arange(ROWS), mask=BAD)
    pq.write_table(pa.table(columns), tmp_path / "r.parquet")
    write_reference(tmp_path / "r.parquet", model)
    for label in ("BAR", "COUNT"):
        labels = labels_of(model, label=label)
        assert np.isnan(labels.values).all(1).tolist() == BAD.tolist()
    assert labels_of(model, label="BAR").questions == {"BAR": ("0", "1")}


def test_rows_without_a_vector_are_not_counted(known, tmp_path):
    vectors = known["SPECTRUM_EMBEDDING"].copy()
    vectors[:10] = np.nan
    path = write_galaxies(
        tmp_path / "r.fits", {"SPECTRUM_EMBEDDING": vectors, "Z": np.where(BAD, np.nan, known["Z"])}
    )
    report = predict_catalog(path, "redshift", tmp_path / "p.fits", reference=path, method="knn")
    assert report.notes == (f"{path}: 230 rows, 184 labelled",)


@pytest.mark.parametrize("missing", ["", "--", "nan", "N/A", "NULL"])
@pytest.mark.parametrize("suffix", ["fits", "parquet"])
def test_classes_that_are_missing_are_no_class(known, tmp_path, missing, suffix):
    Table({"KIND": np.where(BAD, missing, known["KIND"])}).write(tmp_path / f"r.{suffix}")
    labels = labels_of(tmp_path / f"r.{suffix}", label="KIND")
    assert set(labels.questions["KIND"]) == {"QUIET", "ACTIVE", "MIXED"}
    assert np.isnan(labels.values).all(1).tolist() == BAD.tolist()


@pytest.mark.parametrize("marks", ["tnull", "sentinel"])
def test_integers_that_are_missing_are_no_class(tmp_path, marks):
    value = -99 if marks == "sentinel" else 7
    path = tmp_path / "r.fits"
    Table({"BAR": np.where(BAD, value, np.arange(ROWS) % 2)}).write(path)
    if marks == "tnull":
        with fits.open(path, mode="update") as hdus:
            hdus[1].header["TNULL1"] = 7
    labels = labels_of(path, label="BAR")
    assert labels.questions == {"BAR": ("0", "1")}
    assert np.isnan(labels.values).all(1).tolist() == BAD.tolist()
    numbers = labels_of(path, label="BAR", kind="number")
    assert np.isnan(numbers.values[:, 0]).tolist() == BAD.tolist()


def test_a_spike_at_an_edge_of_a_free_label_warns(known, tmp_path, caplog):
    path = write_galaxies(tmp_path / "r.fits", {"GLOW": np.where(BAD, -1, known["LOG_MSTAR"])})
    labels = labels_of(path, label="GLOW")
    assert np.isfinite(labels.values).all()
    assert "GLOW: 48 values are exactly -1, at the edge of all others" in labels.notes[-1]
    assert [record.levelname for record in caplog.records if "GLOW" in record.message] == ["WARNING"]
    quiet = write_galaxies(tmp_path / "q.fits", {"GLOW": known["LOG_MSTAR"]})
    assert labels_of(quiet, label="GLOW").notes == ()


def test_votes_with_sentinels_are_not_learnt(known, tmp_path):
    votes = make_votes(known, 1)
    columns = {name: np.where(BAD, -99, values) for name, values in votes.items()}
    labels = labels_of(write_galaxies(tmp_path / "r.fits", known | columns), "morphology")
    assert np.isnan(labels.values[BAD]).all()
    assert np.nanmin(labels.values) >= 0


def test_vectors_of_integers_that_are_missing_get_no_prediction(known, tmp_path):
    new = tmp_path / "new.fits"
    Table({"A": np.arange(ROWS), "B": np.arange(ROWS) // 2}).write(new)
    with fits.open(new, mode="update") as hdus:
        hdus[1].header["TNULL1"] = 3
    reference = tmp_path / "r.fits"
    Table({"A": np.arange(ROWS), "B": np.arange(ROWS) // 2, "Z": known["Z"]}).write(reference)
    with fits.open(reference, mode="update") as hdus:
        hdus[1].header["TNULL1"] = 5
    report = predict_catalog(
        new, "redshift", tmp_path / "p.fits", reference=reference, vector="A,B", method="knn"
    )
    assert (report.predicted, report.reference_rows) == (ROWS - 1, ROWS - 1)


@pytest.mark.parametrize("sentinel", [-999, -99, 0])
def test_truths_that_were_not_fitted_are_not_scored(tmp_path, sentinel):
    columns = predicted_properties(np.random.default_rng(0), 500)
    bad = np.arange(500) % 10 == 0
    scores, notes = [], []
    for fill in (sentinel, np.nan):
        truth = np.where(bad, fill, columns["LOGMSTAR"]).astype("f4")
        path = write_galaxies(tmp_path / "t.fits", columns | {"LOGMSTAR": truth})
        report = evaluate_table(path, tmp_path / "out", figures=False, overwrite=True)
        scores.append((report.evaluations[0].counts, report.evaluations[0].scores[0].metrics))
        notes.append(report.notes)
    assert scores[0] == scores[1]
    assert scores[0][0]["no_truth"] == 50
    assert notes == [[f"LOGMSTAR: 50 values of {sentinel} taken as missing"], []]


def test_sentinels_of_estimates_votes_and_splits(tmp_path):
    rng = np.random.default_rng(0)
    bad = np.arange(400) % 4 == 0
    columns = predicted_redshifts(rng, 400) | predicted_votes(rng, 400)
    columns["Z_PHOT_MEAN"][bad] = -99
    columns["MAG_R"][bad] = 99
    votes = [name for name in columns if name.endswith("_debiased")]
    columns |= {name: np.where(bad, -99, columns[name]) for name in votes}
    report = evaluate_table(write_galaxies(tmp_path / "t.fits", columns), tmp_path / "out", figures=False)
    found = {one.kind: one for one in report.evaluations}
    assert found["redshift"].counts["no_prediction"] == 100
    assert found["morphology"].counts["no_truth"] >= 100
    assert max(s.high for s in found["redshift"].scores if s.split == "magnitude" and s.high) < 90
    assert "Z_PHOT_MEAN: 100 values of -99 taken as missing" in report.notes


def test_north_and_south_by_a_declination_in_radians(tmp_path):
    rng = np.random.default_rng(0)
    columns = predicted_redshifts(rng, 400)
    want = {}
    for unit in ("deg", "rad"):
        path = tmp_path / f"{unit}.fits"
        scale = np.pi / 180 if unit == "rad" else 1.0
        table = Table(columns | {name: columns[name] * np.float64(scale) for name in ("RA", "DEC")})
        table["RA"].unit = table["DEC"].unit = unit
        table.write(path)
        report = evaluate_table(path, tmp_path / "out", figures=False, overwrite=True, kind="redshift")
        want[unit] = {s.part: s.rows for s in report.evaluations[0].scores if s.split == "half"}
    assert want["deg"] == want["rad"]
    assert min(want["deg"].values()) > 50
