"""Tables are scored: what is found in them, which rows count, what is written."""

import json
from pathlib import Path

import fitsio
import numpy as np
import pytest
import yaml
from evaluated_tables import (
    embedded_pairs,
    predicted_properties,
    predicted_redshifts,
    predicted_votes,
    write_table,
)
from numpy.testing import assert_allclose
from sklearn.metrics import accuracy_score, f1_score, r2_score
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.errors import DataError, UsageError
from astroclip.evaluate import Report, evaluate_table, figures, project, report
from astroclip.evaluate import rows as read
from astroclip.evaluate.rows import Reservoir
from astroclip.evaluate.score import Score
from astroclip.schema import GALAXY_ZOO


@pytest.fixture(autouse=True)
def no_umap(monkeypatch):
    monkeypatch.setattr(figures, "has_umap", lambda: False)


def score(path: Path, output: Path, **options) -> Report:
    return evaluate_table(path, output, **{"resamples": 5, "figures": False, **options})


def parts(found: Report, split: str, target: int = 0) -> list[Score]:
    return [one for one in found.evaluations[target].scores if one.split == split]


def test_redshifts_are_scored_as_by_hand(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(read, "BLOCK", 100)
    table = predicted_redshifts(rng, 900)
    found = score(write_table(tmp_path / "t.fits", table), tmp_path / "out")
    (one,) = found.evaluations
    assert (one.kind, one.name, one.truth) == ("redshift", "Z_PHOT", "Z")
    z, mean = table["Z"].astype(float), table["Z_PHOT_MEAN"].astype(float)
    dz = (mean - z) / (1 + z)
    metrics = one.scores[0].metrics
    assert_allclose(metrics["r2"], r2_score(z, mean), rtol=1e-5)
    assert_allclose(metrics["bias"], np.median(dz), atol=1e-6)
    assert_allclose(metrics["sigma_nmad"], 1.4826 * np.median(np.abs(dz - np.median(dz))), rtol=1e-4)
    inside = (z >= table["Z_PHOT_L68"]) & (z <= table["Z_PHOT_U68"])
    assert_allclose(metrics["coverage_68"], inside.mean(), atol=2 / 900)
    assert metrics["pit_ks"] < 0.06
    written = yaml.safe_load(found.metrics.read_text())
    assert written["evaluations"][0]["metrics"]["r2"]["value"] == metrics["r2"]
    assert written["table"]["rows"] == 900
    assert written["settings"]["split by"]["magnitude"] == "MAG_R"


def test_intervals_that_are_too_narrow_are_seen(tmp_path, rng):
    narrow = write_table(tmp_path / "n.fits", predicted_redshifts(rng, 900, width=0.5))
    metrics = score(narrow, tmp_path / "out").evaluations[0].scores[0].metrics
    assert_allclose(metrics["coverage_68"], 0.382, atol=0.05)  # what half a standard deviation holds
    assert metrics["pit_ks"] > 0.1


@pytest.mark.parametrize("held", ["_STD", "_SAMPLES", ""])
def test_distributions_may_be_a_width_samples_or_nothing(tmp_path, rng, held):
    table = predicted_redshifts(rng, 700)
    table["Z_PHOT_SAMPLES"] = (
        table["Z_PHOT_MEAN"][:, None] + table["Z_PHOT_STD"][:, None] * rng.normal(size=(700, 200))
    ).astype("f4")
    kept = {
        k: v for k, v in table.items() if not k.startswith("Z_PHOT") or k in {"Z_PHOT_MEAN", f"Z_PHOT{held}"}
    }
    metrics = score(write_table(tmp_path / "t.fits", kept), tmp_path / "out").evaluations[0].scores[0].metrics
    assert ("coverage_68" in metrics) == bool(held)
    if held:
        assert_allclose(metrics["coverage_68"], 0.68, atol=0.06)


def test_splits_divide_the_rows(tmp_path, rng):
    table = predicted_redshifts(rng, 900)
    found = score(write_table(tmp_path / "t.fits", table), tmp_path / "out")
    for split in ("magnitude", "redshift", "snr"):
        bins = parts(found, split)
        assert len(bins) == 6
        assert sum(one.rows for one in bins) == 900
        assert all(one.low < one.middle < one.high for one in bins)
    halves = {one.part: one.rows for one in parts(found, "half")}
    assert halves == {"north": (table["DEC"] > 32.375).sum(), "south": (table["DEC"] <= 32.375).sum()}
    flags = {one.part: one.rows for one in parts(found, "flags")}
    assert flags["flagged"] == (table["PREDICT_FLAG"] > 0).sum()
    first, dz = parts(found, "magnitude")[0], (table["Z_PHOT_MEAN"] - table["Z"]) / (1 + table["Z"])
    chosen = (table["MAG_R"] >= first.low) & (table["MAG_R"] < first.high)
    assert_allclose(first.metrics["bias"], np.median(dz[chosen]), atol=1e-6)


def test_release_and_photsys_tell_the_half_before_declination(tmp_path, rng):
    table = predicted_redshifts(rng, 400)
    table["RELEASE"] = rng.choice(np.array([9010, 9011, 9012, -1], "i4"), 400)
    found = score(write_table(tmp_path / "t.fits", table), tmp_path / "out")
    north = (table["RELEASE"] == 9011) | ((table["RELEASE"] < 0) & (table["DEC"] > 32.375))
    assert parts(found, "half")[0].rows == north.sum()
    table["PHOTSYS"] = rng.choice(np.array(["N", "S"]), 400)
    found = score(write_table(tmp_path / "p.fits", table), tmp_path / "out", overwrite=True)
    assert parts(found, "half")[0].rows == (table["PHOTSYS"] == "N").sum()


def test_missing_and_flagged_rows_are_counted(tmp_path, rng):
    table = predicted_redshifts(rng, 500)
    table["Z"][:40] = np.nan
    table["Z"][40:50] = -99
    table["Z_PHOT_MEAN"][45:100] = np.nan
    table["Z_PHOT_L68"][100:110] = np.nan
    path = write_table(tmp_path / "t.fits", table)
    flagged = int((table["PREDICT_FLAG"][110:] > 0).sum())
    counts = score(path, tmp_path / "out").evaluations[0].counts
    assert counts == {
        "rows": 500, "no_truth": 50, "no_prediction": 60, "flagged": flagged, "left_out": 0, "scored": 390
    }  # fmt: skip
    clean = score(path, tmp_path / "out", unflagged=True, overwrite=True)
    assert clean.evaluations[0].counts["left_out"] == flagged
    assert clean.evaluations[0].counts["scored"] == 390 - flagged
    assert not parts(clean, "flags")


def test_properties_and_any_prefix(tmp_path, rng):
    table = predicted_properties(rng, 600)
    path = write_table(tmp_path / "t.fits", table, units=["dex(Msun)"] * len(table))
    (one,) = score(path, tmp_path / "out").evaluations
    assert (one.kind, one.name, one.unit) == ("property", "LOGMSTAR", "dex(Msun)")
    assert "outliers" not in one.scores[0].metrics
    assert_allclose(
        one.scores[0].metrics["r2"], r2_score(table["LOGMSTAR"], table["LOGMSTAR_PRED"]), rtol=1e-4
    )
    table["GUESS"] = table["LOGMSTAR"] + np.float32(0.5)
    path = write_table(tmp_path / "g.fits", table)
    (one,) = score(path, tmp_path / "g", truth="logmstar", predicted="GUESS").evaluations
    assert_allclose(one.scores[0].metrics["bias"], 0.5, atol=1e-5)
    (one,) = score(path, tmp_path / "k", truth="LOGMSTAR", predicted="GUESS", kind="redshift").evaluations
    assert one.kind == "redshift"


def _rename(table: dict[str, np.ndarray], old: str, new: str) -> dict[str, np.ndarray]:
    return {k.removesuffix(old) + new if k.endswith(old) else k: v for k, v in table.items()}


@pytest.mark.parametrize(
    ("case", "against"),
    [
        ("new columns", "debiased"),
        ("beside volunteers' fractions", "debiased"),
        ("beside volunteers' fractions alone", "fraction"),
        ("predicted twice beside them", "fraction"),
        ("predicted twice", "debiased"),
        ("volunteers' columns alone", None),
        ("one prediction beside another", None),
    ],
)
def test_votes_of_volunteers_are_told_from_predicted_ones(tmp_path, rng, case, against):
    table = predicted_votes(rng, 300, right=1.0)  # predictions are right, what is called other is not
    other = {k: np.roll(v, 1) for k, v in table.items() if k.endswith("_fraction")}
    volunteers = {k: v for k, v in table.items() if k.endswith(("_debiased", "_total-votes"))}
    predicted = _rename(
        {k: v for k, v in table.items() if k not in volunteers}, "_fraction", "_fraction_PRED"
    )
    fractions = _rename(volunteers, "_debiased", "_fraction")
    twice = {k.replace("_answer", "_answer_PRED"): v for k, v in predicted.items()} | predicted
    tables = {
        "new columns": table,
        "beside volunteers' fractions": volunteers | other | predicted,
        "beside volunteers' fractions alone": fractions | predicted,
        "predicted twice beside them": fractions | twice,
        "predicted twice": volunteers | other | twice,
        "volunteers' columns alone": volunteers | other,
        "one prediction beside another": other | twice,
    }
    path = write_table(tmp_path / "t.fits", tables[case])
    if against is None:
        with pytest.raises(DataError, match="_answer, as predict writes them"):
            score(path, tmp_path / "out", kind="morphology")
        return
    (one,) = score(path, tmp_path / "out", kind="morphology").evaluations
    assert one.truth == f"<question>_<answer>_{against}"
    assert one.scores[0].metrics["accuracy"] == 1


def test_properties_are_found_by_the_names_of_survey_tables(tmp_path, rng):
    table = predicted_properties(rng, 300)
    table["LOG_MSTAR"] = table.pop("LOGMSTAR")
    table["AVG_SFR"] = 10 ** (table["LOG_MSTAR"] - 10.2)
    table["AVG_SFR"][:7] = 0  # no rate
    table["LOGSSFR_PRED"] = rng.normal(-10.2, 0.1, 300).astype("f4")
    mass, rate = score(write_table(tmp_path / "t.fits", table), tmp_path / "out").evaluations
    assert (mass.name, mass.truth) == ("LOGMSTAR", "LOG_MSTAR")
    assert (rate.name, rate.truth, rate.counts["no_truth"]) == ("LOGSSFR", "log AVG_SFR - LOG_MSTAR", 7)
    assert_allclose(rate.rows["truth"], -10.2, atol=1e-4)


def test_morphology_by_the_published_protocol(tmp_path, rng):
    table = predicted_votes(rng, 800)
    table["bar_strong_debiased"][:300] = np.nan
    (one,) = score(write_table(tmp_path / "t.fits", table), tmp_path / "out").evaluations
    metrics, accuracies = one.scores[0].metrics, []
    for question, answers in GALAXY_ZOO.items():
        truth, guess = (
            np.stack([table[f"{question}_{answer}_{side}"] for answer in answers], 1)
            for side in ("debiased", "fraction")
        )
        asked = (table[f"{question}_total-votes"] > 34) & np.isfinite(truth).all(1)
        truth, guess = truth[asked].argmax(1), guess[asked].argmax(1)
        accuracies.append(accuracy_score(truth, guess))
        assert_allclose(metrics[f"{question}_accuracy"], accuracies[-1])
        assert_allclose(metrics[f"{question}_f1"], f1_score(truth, guess, average="weighted"))
    assert_allclose(metrics["accuracy"], np.mean(accuracies))


def test_retrieval_both_ways(tmp_path, rng, monkeypatch):
    table = embedded_pairs(rng, 400)
    table["IMAGE_EMBEDDING"][:20, 0] = np.nan
    found = score(write_table(tmp_path / "t.fits", table), tmp_path / "out")
    (one,) = found.evaluations
    image, spectrum = (
        v / np.linalg.norm(v, axis=1, keepdims=True)
        for v in (table[f"{side}_EMBEDDING"][20:] for side in ("IMAGE", "SPECTRUM"))
    )
    for name, cosine in {
        "image_to_spectrum": image @ spectrum.T,
        "spectrum_to_image": spectrum @ image.T,
    }.items():
        rank = (cosine > np.diag(cosine)[:, None]).sum(1)
        for k in (1, 10):
            assert_allclose(one.scores[0].metrics[f"{name}_recall{k}"], (rank < k).mean(), atol=1 / 380)
    assert one.counts["no_truth"] == 20
    monkeypatch.setattr(read, "PAIR_ROWS", 100)
    sampled = score(tmp_path / "t.fits", tmp_path / "s", kind="retrieval").evaluations[0]
    assert 50 <= sampled.counts["scored"] <= 100


def test_a_sample_is_even_and_small():
    sample, seen = Reservoir(100), 0
    for size in (7, 500, 1, 0, 333, 4000):
        sample.add({"row": np.arange(seen, seen + size)})
        seen += size
    rows = sample.rows()["row"]
    assert 50 <= len(rows) <= 100
    assert len(set(np.diff(rows))) == 1
    assert rows[0] == 0


def test_all_figures_of_a_table_are_drawn(tmp_path, rng):
    n = 500
    table = predicted_redshifts(rng, n) | predicted_votes(rng, n)
    table |= {k: v for k, v in embedded_pairs(rng, n).items() if k != "Z"}
    found = score(write_table(tmp_path / "t.fits", table), tmp_path / "out", figures=True)
    assert [path.stem for path in found.figures] == [
        "z_phot", "z_phot-calibration", "z_phot-splits", "morphology-confusion", "morphology-splits",
        "retrieval-recall", "retrieval-splits", "image-map", "spectrum-map",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in found.figures)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        ["metrics.yaml", *(path.name for path in found.figures)]
    )


def test_a_map_without_umap_shows_principal_components(rng):
    vectors = rng.normal(size=(60, 5)) * [9, 3, 1, 1, 1]
    places, names = project.project_vectors(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    values = np.linalg.eigvalsh(np.cov(unit.T))[::-1]
    assert_allclose(places.var(0, ddof=1), values[:2])
    assert names[0] == f"principal component 1 ({100 * values[0] / values.sum():.0f} % of the variance)"


def test_the_command_prints_tables_or_one_json(tmp_path, rng):
    path = write_table(tmp_path / "t.fits", predicted_redshifts(rng, 300))
    words = ["evaluate", str(path), "--no-figures", "--resamples", "5", "-o", str(tmp_path / "out")]
    text = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert "Z_PHOT against Z: 300 rows" in text
    assert "sigma_nmad" in text
    assert "north" in text
    said = CliRunner().invoke(app, ["--json", *words, "--overwrite"], catch_exceptions=False).stdout
    assert json.loads(said)["evaluations"][0]["counts"]["scored"] == 300


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"truth": "ZZ"}, DataError, "no column 'ZZ'"),
        ({"magnitude": "MAGG_R"}, DataError, "MAG_R"),
        ({"kind": "colour"}, UsageError, "expected one of redshift"),
        ({"kind": "retrieval"}, DataError, "Embed images and spectra"),
        ({"kind": "retrieval", "truth": "Z"}, UsageError, "needs no truth"),
        ({"kind": "morphology"}, DataError, "Predict first"),
        ({"truth": "Z", "predicted": "Q"}, DataError, "as Q|Q\\*"),
        ({"truth": "NAME", "predicted": "Z_PHOT"}, DataError, "one number a row"),
        ({"truth": "EMPTY", "predicted": "Z_PHOT"}, DataError, "300 no truth|300 no_truth"),
        ({"unflagged": True, "truth": "Z"}, None, ""),
        ({"resamples": 1}, UsageError, "at least 2"),
    ],
)
def test_bad_input_gets_one_clear_error(tmp_path, rng, options, error, message):
    table = predicted_redshifts(rng, 300) | {"NAME": np.array(["a"] * 300), "EMPTY": np.full(300, np.nan)}
    path = write_table(tmp_path / "t.fits", table)
    if error is None:
        score(path, tmp_path / "out", **options)
        return
    with pytest.raises(error, match=message):
        score(path, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_tables_with_nothing_to_score(tmp_path, rng):
    with pytest.raises(DataError, match="nothing to evaluate"):
        score(write_table(tmp_path / "t.fits", {"Z": rng.random(5)}), tmp_path / "out")
    flagged = predicted_redshifts(rng, 50) | {"PREDICT_FLAG": np.ones(50, "i4")}
    with pytest.raises(DataError, match="no row has both"):
        score(write_table(tmp_path / "f.fits", flagged), tmp_path / "out", unflagged=True)
    with fitsio.FITS(tmp_path / "e.fits", "rw") as hdus:
        hdus.create_table_hdu(dtype=[("Z", "f4"), ("Z_PHOT_MEAN", "f4")])
    with pytest.raises(DataError, match="no row has both"):
        score(tmp_path / "e.fits", tmp_path / "out")


def test_results_are_not_overwritten_unasked(tmp_path, rng):
    path = write_table(tmp_path / "t.fits", predicted_redshifts(rng, 50))
    score(path, tmp_path / "out")
    with pytest.raises(UsageError, match="exists already"):
        score(path, tmp_path / "out")
    (tmp_path / "notes").touch()
    with pytest.raises(UsageError, match="expected a folder"):
        score(path, tmp_path / "notes")
    with pytest.raises(UsageError, match="is an input of this run"):
        score(path, path)
    with pytest.raises(DataError, match="no folder"):
        score(path, tmp_path / "no" / "out")
    assert report.METRICS_FILE == "metrics.yaml"
