"""The published table: its parts, the supervised baselines, what is printed and written."""

import json
from pathlib import Path

import fitsio
import h5py
import numpy as np
import pytest
import torch
import yaml
from evaluated_tables import embedded_pairs, write_table
from numpy.testing import assert_allclose, assert_array_equal
from training_pairs import write_training_pairs
from typer.testing import CliRunner

from astroclip.cli import evaluate as cli
from astroclip.cli.main import app
from astroclip.data.pairs import open_pairs
from astroclip.errors import DataError, UsageError
from astroclip.evaluate import evaluate_table
from astroclip.evaluate import retrieval_gallery as gallery
from astroclip.evaluate.paper.baselines import Training, train_baseline
from astroclip.evaluate.paper.networks import ConvAttention
from astroclip.evaluate.paper.published import ALIGNED, ALONE, SUPERVISED, published_scores
from astroclip.evaluate.paper.table import evaluate_paper
from astroclip.evaluate.parts import choose_rows, find_pairs, say_data, write_part
from astroclip.schema import Split
from astroclip.training.galaxies import Galaxies

TRAINING, VALIDATION, TEST = 36, 8, 20
CPU = torch.device("cpu")


def add_labels(path: Path, seed: int = 3) -> Path:
    """Add labels that follow from the redshift, a redshift of another survey, and votes on one question."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "r+") as file:
        z = file["redshift"][:]
        noise = rng.normal(size=(4, len(z)))
        votes = np.where(z > 0.2, 0.8, 0.1)
        labels = {
            "REDSHIFT": np.full(len(z), 0.7),
            "LOG_MSTAR": 9 + 4 * z + 0.1 * noise[0],
            "Z_MW": 0.02 * noise[1],
            "TAGE_MW": 5 - 3 * z,
            "AVG_SFR": np.exp(noise[2]),
            "MAG_G": 17 + 10 * z,
            "MAG_R": 16 + 8 * z,
            "MAG_Z": 16 + 5 * z,
            "disk-edge-on_yes_fraction": votes,
            "disk-edge-on_no_fraction": 1 - votes,
            "disk-edge-on_total-votes": np.full(len(z), 40.0),
        }
        for name, values in labels.items():
            file["labels"].create_dataset(name, data=values.astype("<f4"))
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    return add_labels(write_training_pairs(folder / "pairs.h5", TRAINING, VALIDATION, TEST))


@pytest.fixture(scope="module")
def report(pairs, tiny_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("paper") / "out"
    training = Training(steps=1, batch_size=4)
    return evaluate_paper(pairs.parent, output, model=tiny_model, training=training, resamples=3)


def test_every_source_and_method_is_scored_beside_what_is_published(report):
    found = {(entry.source, entry.method, entry.target): entry for entry in report.entries}
    embedded = [(source, method) for source in ("image", "spectrum") for method in ("knn", "mlp")]
    supervised = [("photometry", "mlp"), ("image", "resnet18"), ("spectrum", "conv+att")]
    properties = {"LOGMSTAR", "METALLICITY", "AGE", "LOGSSFR", "properties"}
    expected = {(*who, t) for who in embedded + supervised for t in {"redshift", *properties}}
    assert set(found) == expected | {(*who, "morphology") for who in embedded}
    assert not report.left_out
    assert {entry.rows for entry in report.entries} == {TEST}
    assert found["image", "knn", "redshift"].published == ALIGNED["image", "knn", "redshift"] == 0.79
    assert found["image", "knn", "LOGMSTAR"].published is None
    mean = np.mean([found["spectrum", "mlp", t].metrics["r2"] for t in properties - {"properties"}])
    assert_allclose(found["spectrum", "mlp", "properties"].metrics["r2"], mean)
    assert {"disk-edge-on_accuracy", "disk-edge-on_f1"} <= set(found["image", "mlp", "morphology"].metrics)


def test_the_table_is_written_and_its_parts_are_not_left_behind(report):
    written = yaml.safe_load(report.table.read_text())
    assert written["data"] == "pairs.h5, of unknown origin"
    assert written["rows"] == {"train": TRAINING, "validation": VALIDATION, "test": TEST}
    assert len(written["scores"]) == len(report.entries)
    assert written["scores"][0]["metrics"]["r2"]["error"] > 0
    assert sorted(path.name for path in report.table.parent.iterdir()) == ["paper.png", "paper.yaml"]


def test_tasks_without_labels_are_left_out_with_a_word(tmp_path, tiny_model):
    path = write_training_pairs(tmp_path / "p.h5", 30, 1, 9)
    words = ["evaluate", "paper", "--data", str(path), "-o", str(tmp_path / "out"), "-m", str(tiny_model)]
    words += ["--no-baselines", "--resamples", "3", "--about", "a test"]
    text = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert "Ours on a test; in brackets Parker et al. 2024" in text
    assert "- [0.77]" in text  # ResNet18 was not trained
    assert "left out: morphology from image by knn: " in text
    assert {
        score["target"] for score in yaml.safe_load((tmp_path / "out" / "paper.yaml").read_text())["scores"]
    } == {"redshift"}


def test_the_command_prints_a_table_or_one_json(report, capsys, monkeypatch):
    cli._print_paper(report)
    text = capsys.readouterr().out
    assert "[0.79]" in text
    assert "disk-edge-on" in text
    assert str(report.table) in text
    monkeypatch.setattr(cli.out, "json", True)
    cli._print_paper(report)
    assert json.loads(capsys.readouterr().out)["rows"]["test"] == TEST


def test_parts_share_no_galaxy_and_redshifts_are_those_of_the_pairs(pairs, tmp_path):
    galaxies = Galaxies(pairs)
    ids: list[set[int]] = []
    for part in (Split.TRAIN, Split.VALIDATION, Split.TEST):
        rows = np.flatnonzero(galaxies.split == part)
        table = fitsio.read(write_part(tmp_path / f"{part}.fits", pairs, rows))
        with open_pairs(pairs) as file:
            assert_array_equal(table["Z"], file.take(["redshift"], rows)["redshift"])
        assert not {"REDSHIFT", "MAG_R"} & set(table.dtype.names)
        ids.append(set(table["TARGETID"].tolist()))
    assert [len(part) for part in ids] == [TRAINING, VALIDATION, TEST]
    assert len(set.union(*ids)) == TRAINING + VALIDATION + TEST


def test_fewer_rows_are_evenly_spread():
    split = np.array([0, 2] * 50 + [1, 255], np.uint8)
    few = choose_rows(split, 10)
    assert [int((few == part).sum()) for part in (0, 1, 2)] == [10, 1, 10]
    assert_array_equal(np.flatnonzero(few == 0), np.arange(0, 100, 10))
    assert_array_equal(few[few != Split.NONE], split[few != Split.NONE])
    assert choose_rows(split, None) is split


def test_magnitudes_teach_a_baseline_whatever_the_test_part_says(pairs):
    galaxies, labels = Galaxies(pairs), np.zeros((0, 1))
    with open_pairs(pairs) as file:
        labels = np.array(file.read(["redshift"])["redshift"])[:, None]
    test = np.flatnonzero(galaxies.split == Split.TEST)
    training = Training(epochs=120, patience=120, batch_size=16, learning_rate=5e-3)
    taught = train_baseline("mlp", galaxies, galaxies.split, labels, training=training, device=CPU)
    predicted = taught.predict(galaxies, test)
    assert np.abs(predicted - labels[test]).mean() < 0.3 * labels[test].std()
    unknown = np.where(np.isin(np.arange(len(labels)), test)[:, None], np.nan, labels)
    again = train_baseline("mlp", galaxies, galaxies.split, unknown, training=training, device=CPU)
    assert_array_equal(again.predict(galaxies, test), predicted)
    other = training._replace(seed=1, epochs=1)
    assert train_baseline("mlp", galaxies, galaxies.split, labels, training=other, device=CPU).losses
    assert len(taught.losses) == 120


def test_training_stops_where_the_validation_part_gains_nothing(pairs, rng):
    galaxies = Galaxies(pairs)
    labels = rng.normal(size=(len(galaxies), 1))  # nothing can be learnt
    training = Training(epochs=500, patience=2, batch_size=8, learning_rate=1e-2)
    losses = train_baseline("mlp", galaxies, galaxies.split, labels, training=training, device=CPU).losses
    assert len(losses) < 100
    assert np.argmin(losses) == len(losses) - 3


def test_a_baseline_needs_labels_in_both_parts(pairs):
    galaxies = Galaxies(pairs)
    labels = np.where(galaxies.split == Split.TRAIN, 1.0, np.nan)[:, None]
    with pytest.raises(DataError, match="none to validate"):
        train_baseline("mlp", galaxies, galaxies.split, labels, device=CPU)


def test_convolutions_with_attention_do_not_see_how_bright_a_spectrum_is(rng):
    torch.manual_seed(0)
    network = ConvAttention(3).eval()
    flux = torch.from_numpy(rng.normal(1, 1, (2, 7781))).float()
    assert network(flux).shape == (2, 3)
    assert_allclose(network(5 * flux).detach(), network(flux).detach(), atol=1e-3)


def test_published_scores_are_those_of_the_kind_of_model():
    assert published_scores(aligned=True) == ALIGNED | SUPERVISED
    assert published_scores(aligned=False)["image", "knn", "redshift"] == ALONE["image", "knn", "redshift"]
    assert all(0 < value < 1 for value in (ALIGNED | ALONE | SUPERVISED).values())


def test_pairs_say_whether_they_are_made_up(tmp_path):
    path = write_training_pairs(tmp_path / "p.h5", 1, 1)
    assert say_data(path) == "p.h5, of unknown origin"
    for inputs, said in (
        ({"zall-pix-mock.fits": "1f"}, "mock galaxies"),
        ({"zall.fits": "1f"}, "from zall.fits"),
    ):
        with h5py.File(path, "r+") as file:
            file.attrs["inputs"] = json.dumps(inputs)
        assert said in say_data(path)


def test_bad_input_gets_one_clear_error(tmp_path, pairs, tiny_model):
    with pytest.raises(DataError, match="no such file"):
        find_pairs(tmp_path / "no")
    with pytest.raises(DataError, match="no set of pairs"):
        find_pairs(tmp_path)
    for name in ("a.h5", "b.h5"):
        write_training_pairs(tmp_path / name, 3, 1, 0)
    with pytest.raises(UsageError, match=r"several sets of pairs: a.h5, b.h5"):
        find_pairs(tmp_path)
    for options, error, message in (
        ({"data": tmp_path / "a.h5"}, DataError, "no galaxy in the part TEST"),
        ({"rows": 0}, UsageError, "too few rows"),
        ({"training": Training(epochs=0)}, UsageError, "too few epochs"),
        ({"resamples": 1}, UsageError, "too few resamples"),
    ):
        with pytest.raises(error, match=message):
            evaluate_paper(**{"data": pairs, "output": tmp_path / "out", "model": tiny_model} | options)
        assert not (tmp_path / "out").exists()


def test_a_gallery_of_retrieval_where_there_are_pixels(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(gallery, "QUERIES", (0.5,))
    monkeypatch.setattr(gallery, "FOUND", 1)
    with open_pairs(write_training_pairs(tmp_path / "pairs.h5", 9, 1)) as file:
        targetid = np.array(file.read(["targetid"])["targetid"])
    table = embedded_pairs(rng, len(targetid)) | {"TARGETID": targetid, "PAIR": np.arange(len(targetid))}
    path = write_table(tmp_path / "t.fits", table)
    options = {"kind": "retrieval", "resamples": 2}
    found = evaluate_table(path, tmp_path / "out", **options)
    galleries = ["retrieval-image-to-spectrum", "retrieval-spectrum-to-image"]
    assert [path.stem for path in found.figures][-2:] == galleries
    assert not found.notes
    (tmp_path / "pairs.h5").rename(tmp_path / "elsewhere")
    without = evaluate_table(path, tmp_path / "none", **options)
    assert not any("-to-" in path.stem for path in without.figures)
    assert "no gallery of retrieval" in without.notes[0]
