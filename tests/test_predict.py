"""Predictions from the command line and from Python: what is written, how good it is, what is refused."""

import json

import fitsio
import h5py
import numpy as np
import pytest
from builders_predict import WIDTH, make_galaxies, make_votes, write_galaxies
from catalog_files import fitsverify
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.errors import AstroclipError, CheckpointError, DataError, UsageError
from astroclip.predict.tasks import predict_catalog
from astroclip.schema import GALAXY_ZOO, GALAXY_ZOO_PARENTS, PredictFlag


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """A reference of 900 galaxies and 1500 new ones."""
    folder = tmp_path_factory.mktemp("sky")
    for name, rows, seed in (("known", 900, 1), ("new", 1500, 2)):
        columns = make_galaxies(rows, seed)
        if name == "known":
            columns |= make_votes(columns, seed)
        write_galaxies(folder / f"{name}.fits", columns)
    return folder


def run(*words: object) -> dict:
    done = CliRunner().invoke(app, ["--json", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def r2(truth, predicted) -> float:
    return 1 - np.mean((truth - predicted) ** 2) / np.var(truth)


@pytest.mark.parametrize(
    ("use", "method", "name", "least"),
    [("image", "knn", "Z_PHOT", 0.5), ("spectrum", "mlp", "Z_PRED", 0.9), ("both", "auto", "Z_PRED", 0.9)],
)
def test_redshifts_and_their_intervals(sky, tmp_path, use, method, name, least):
    report = run(
        "predict", "redshift", sky / "new.fits", "--reference", sky / "known.fits", "--from", use,
        "--method", method, "-o", tmp_path / "out.fits",
    )  # fmt: skip
    table = fitsio.read(tmp_path / "out.fits")
    assert fitsverify(tmp_path / "out.fits") == "OK"
    assert report["predicted"] == 1500
    assert report["method"] == ("knn" if method == "knn" else "mlp")
    assert r2(table["Z"], table[f"{name}_MEAN"]) > least
    edges = [table[f"{name}_{end}"] for end in ("L95", "L68", "MEDIAN", "U68", "U95")]
    assert np.all(np.diff(edges, axis=0) > 0)
    for low, high, share in ((1, 3, 0.68), (0, 4, 0.95)):
        covered = np.mean((table["Z"] > edges[low]) & (table["Z"] < edges[high]))
        assert covered == pytest.approx(share, abs=0.045)  # 900 rows calibrate to 2 points
    far = (table["PREDICT_FLAG"] & PredictFlag.OUT_OF_DOMAIN) > 0
    assert far.mean() < 0.03


def test_a_flow_predicts_too(sky, tmp_path):
    columns = make_galaxies(200, 3)
    known = write_galaxies(tmp_path / "few.fits", columns)
    options = {"reference": known, "method": "flow", "use": "spectrum"}
    report = predict_catalog(known, "redshift", tmp_path / "a.fits", save_to=tmp_path / "flow", **options)
    table = fitsio.read(report.output)
    assert r2(table["Z"], table["Z_PRED_MEAN"]) > 0.5
    predict_catalog(known, "redshift", tmp_path / "b.fits", predictor=tmp_path / "flow")
    np.testing.assert_array_equal(fitsio.read(tmp_path / "b.fits")["Z_PRED_STD"], table["Z_PRED_STD"])


def test_properties_are_named_and_have_units(sky, tmp_path):
    report = run(
        "predict", "properties", sky / "new.fits", "--reference", sky / "known.fits",
        "-o", tmp_path / "p.fits",
    )  # fmt: skip
    table, header = fitsio.read(tmp_path / "p.fits", header=True)
    assert report["label"] == "LOG_MSTAR,AGE,AVG_SFR"
    assert r2(table["LOG_MSTAR"], table["LOGMSTAR_PRED"]) > 0.8
    assert r2(np.log10(table["AVG_SFR"]) - table["LOG_MSTAR"], table["LOGSSFR_PRED"]) > 0.8
    units = {header[f"TTYPE{i}"]: header.get(f"TUNIT{i}") for i in range(1, header["TFIELDS"] + 1)}
    assert units["AGE_STD"] == "Gyr"
    assert units["LOGMSTAR_L68"] == "dex(solMass)"
    assert "METALLICITY_PRED" not in table.dtype.names


def test_morphology_has_all_questions(sky, tmp_path):
    run("predict", "morphology", sky / "new.fits", "--reference", sky / "known.fits", "--from", "spectrum",
        "--method", "knn", "-o", tmp_path / "m.fits")  # fmt: skip
    assert "0 errors" in fitsverify(tmp_path / "m.fits")  # it warns of hyphens in names
    table = fitsio.read(tmp_path / "m.fits")
    for question, answers in GALAXY_ZOO.items():
        share = np.stack([table[f"{question}_{answer}_fraction"] for answer in answers], 1)
        np.testing.assert_allclose(share.sum(1), 1, atol=1e-5)
        winner = table[f"{question}_answer"]
        np.testing.assert_array_equal(np.char.strip(winner), np.array(answers)[share.argmax(1)])
        if question in GALAXY_ZOO_PARENTS:
            parent, leading = GALAXY_ZOO_PARENTS[question]
            expected = table[f"{parent}_reached"] & np.isin(np.char.strip(table[f"{parent}_answer"]), leading)
            np.testing.assert_array_equal(table[f"{question}_reached"], expected)
    truth = make_votes(make_galaxies(1500, 2), 5)
    asked = truth["bar_total-votes"] > 20
    best = np.stack([truth[f"bar_{a}_fraction"] for a in GALAXY_ZOO["bar"]], 1)[asked].argmax(1)
    ours = np.stack([table[f"bar_{a}_fraction"] for a in GALAXY_ZOO["bar"]], 1)[asked].argmax(1)
    assert np.mean(best == ours) > 0.7


@pytest.mark.parametrize("method", ["knn", "mlp"])
def test_classes_and_their_probabilities(sky, tmp_path, method):
    predict_catalog(
        sky / "new.fits",
        "label",
        tmp_path / "c.fits",
        reference=sky / "known.fits",
        label="KIND",
        method=method,
    )
    table = fitsio.read(tmp_path / "c.fits")
    right = np.char.strip(table["KIND_PRED"]) == np.char.strip(table["KIND"])
    assert right.mean() > 0.8
    assert right.mean() == pytest.approx(table["KIND_PROB"].mean(), abs=0.06)
    np.testing.assert_allclose(table["KIND_PROBS"].sum(1), 1, atol=1e-5)


def test_ten_labels_are_enough(sky, tmp_path):
    columns = make_galaxies(10, 4)
    known = write_galaxies(tmp_path / "ten.fits", columns)
    for method in ("knn", "mlp"):
        report = predict_catalog(
            sky / "new.fits",
            "label",
            tmp_path / f"{method}.fits",
            reference=known,
            label="AGE",
            method=method,
        )
        table = fitsio.read(report.output)
        assert np.isfinite(table["AGE_PRED"]).all()
        assert report.flags["FEW_LABELS"] == 1500


def test_a_predictor_is_kept_and_used_again(sky, tmp_path):
    for task, method, label in (
        ("redshift", "mlp", None),
        ("morphology", "knn", None),
        ("label", "knn", "KIND"),
    ):
        first = predict_catalog(
            sky / "new.fits", task, tmp_path / f"{task}1.fits", reference=sky / "known.fits",
            method=method, save_to=tmp_path / task, label=label,
        )  # fmt: skip
        again = predict_catalog(sky / "new.fits", task, tmp_path / f"{task}2.fits", predictor=tmp_path / task)
        one, two = (fitsio.read(report.output) for report in (first, again))
        assert one.tobytes() == two.tobytes()
    with pytest.raises(CheckpointError, match="predicts morphology, not redshift"):
        predict_catalog(sky / "new.fits", "redshift", tmp_path / "x.fits", predictor=tmp_path / "morphology")
    with pytest.raises(CheckpointError, match="no readable predictor"):
        predict_catalog(sky / "new.fits", "redshift", tmp_path / "x.fits", predictor=tmp_path / "none")


def test_densities_lie_on_the_grid(sky, tmp_path):
    options = {"reference": sky / "known.fits", "method": "knn", "pdf": tmp_path / "pdf.hdf5"}
    predict_catalog(sky / "new.fits", "redshift", tmp_path / "o.fits", **options)
    table = fitsio.read(tmp_path / "o.fits")
    with h5py.File(tmp_path / "pdf.hdf5") as file:
        grid, density = file["meta/xvals"][0], file["data/yvals"][()]
        assert file["meta/pdf_name"][0] == b"interp"
    assert grid[[0, 1, -1]].tolist() == [0, 0.001, 3]  # from spectra
    middle = (density * grid).sum(1) / density.sum(1)
    assert np.median(np.abs(middle - table["Z_PRED_MEDIAN"])) < 0.01
    np.testing.assert_allclose(density.sum(1) * 0.001, 1, atol=0.01)
    from_image = options | {"use": "image", "pdf": tmp_path / "image.hdf5"}
    predict_catalog(sky / "new.fits", "redshift", tmp_path / "i.fits", **from_image)
    with h5py.File(tmp_path / "image.hdf5") as file:
        assert file["data/yvals"].shape == (1500, 301)
    with pytest.raises(UsageError, match="exists already"):
        predict_catalog(sky / "new.fits", "redshift", tmp_path / "p.fits", **options)
    with pytest.raises(UsageError, match="one number"):
        predict_catalog(
            sky / "new.fits", "properties", tmp_path / "p.fits", **options | {"pdf": tmp_path / "q.hdf5"}
        )
    assert not (tmp_path / "p.fits").exists()


def test_what_is_odd_is_flagged(sky, tmp_path):
    columns = make_galaxies(60, 5)
    columns["IMAGE_EMBEDDING"][0] = np.nan
    columns["SPECTRUM_EMBEDDING"][1] = 30
    columns["SPECTRUM_EMBEDDING"][2] = -columns["IMAGE_EMBEDDING"][2]
    columns["SPECTRUM_EMBEDDING"][3] = np.nan
    odd = write_galaxies(tmp_path / "odd.fits", columns)
    report = predict_catalog(odd, "redshift", reference=sky / "known.fits", method="knn")
    table = fitsio.read(report.output)
    flag = table["PREDICT_FLAG"]
    assert flag[3] & PredictFlag.NO_EMBEDDING
    assert np.isnan(table["Z_PRED_MEAN"][3])
    assert flag[1] & PredictFlag.OUT_OF_DOMAIN
    assert flag[2] & PredictFlag.DISAGREEMENT
    assert np.isnan(table["DISAGREEMENT"][[0, 3]]).all()
    assert np.nanargmax(table["DISAGREEMENT"]) in (1, 2)
    assert (flag[4:] & PredictFlag.DISAGREEMENT).mean() < 0.1
    # a second prediction adds to the flags, and keeps what is there
    more = predict_catalog(report.output, "properties", tmp_path / "two.fits", reference=sky / "known.fits",
                           use="image", method="knn")  # fmt: skip
    both = fitsio.read(more.output)
    assert np.all(both["PREDICT_FLAG"] & flag == flag)
    assert both["PREDICT_FLAG"][0] & PredictFlag.NO_EMBEDDING
    np.testing.assert_array_equal(both["Z_PRED_MEAN"], table["Z_PRED_MEAN"])


def test_columns_that_are_there_are_kept(sky, tmp_path):
    columns = make_galaxies(20, 6)
    columns |= {"Z_PRED_MEAN": np.arange(20.0)}
    odd = write_galaxies(tmp_path / "o.fits", columns)
    table = fitsio.read(predict_catalog(odd, "redshift", reference=sky / "known.fits", method="knn").output)
    np.testing.assert_array_equal(table["Z_PRED_MEAN"], np.arange(20.0))
    assert np.isfinite(table["Z_PRED_MEAN_PRED"]).all()


def change(**columns):
    def changed(known):
        return {name: value for name, value in (known | columns).items() if value is not None}

    return changed


@pytest.mark.parametrize(
    ("known", "options", "kind", "said"),
    [
        (change(Z=None), {}, DataError, "no redshift column"),
        (change(Z=np.full(30, np.nan)), {}, DataError, "no finite value"),
        (change(KIND=np.full(30, "A")), {"task": "label", "label": "KIND"}, DataError, "one class, A"),
        (change(), {"task": "label", "label": "NONE"}, DataError, "no column NONE"),
        (change(), {"task": "label"}, UsageError, "which label"),
        (change(), {"task": "morphology"}, DataError, "no Galaxy Zoo vote column"),
        (
            change(SPECTRUM_EMBEDDING=np.zeros((30, 5), "f4"), IMAGE_EMBEDDING=None),
            {},
            DataError,
            "5 elements",
        ),
        (change(SPECTRUM_EMBEDDING=np.full((30, WIDTH), np.nan, "f4")), {}, DataError, "no row has both"),
        (change(SPECTRUM_EMBEDDING=None, IMAGE_EMBEDDING=None), {}, UsageError, "in common"),
        (change(), {"method": "magic"}, UsageError, "expected one of"),
        (change(), {"use": "radio"}, UsageError, "--from radio"),
        (change(), {"k": 0}, UsageError, "at least 1"),
        (change(), {"task": "label", "label": "KIND", "method": "flow"}, UsageError, "knn or mlp"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(sky, tmp_path, known, options, kind, said):
    reference = write_galaxies(tmp_path / "known.fits", known(make_galaxies(30, 7)))
    options = {"task": "redshift", "reference": reference, **options}
    with pytest.raises(kind, match=said):
        predict_catalog(sky / "new.fits", output=tmp_path / "out.fits", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["known.fits"]


def test_another_model_s_embeddings_are_refused(sky, tmp_path):
    cards = {"ACMODEL": "other", "ACHASH": "fedcba9876543210"}
    reference = write_galaxies(tmp_path / "known.fits", make_galaxies(30, 7), cards)
    with pytest.raises(DataError, match="distances between them mean nothing"):
        predict_catalog(sky / "new.fits", "redshift", tmp_path / "o.fits", reference=reference)
    with pytest.raises(AstroclipError, match="made-up"):  # its own reference set is not to be found
        predict_catalog(sky / "new.fits", "redshift", tmp_path / "o.fits")


def test_no_row_and_no_usable_row(sky, tmp_path):
    columns = make_galaxies(5, 8)
    empty = write_galaxies(tmp_path / "empty.fits", {name: value[:0] for name, value in columns.items()})
    report = predict_catalog(empty, "redshift", reference=sky / "known.fits", method="knn")
    assert (report.rows, report.predicted) == (0, 0)
    columns["SPECTRUM_EMBEDDING"][:] = np.nan
    flagged = write_galaxies(tmp_path / "flagged.fits", columns)
    report = predict_catalog(flagged, "redshift", reference=sky / "known.fits", method="knn")
    assert (report.predicted, report.flags["NO_EMBEDDING"]) == (0, 5)
