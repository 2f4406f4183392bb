"""Where predictions come from: a model's own reference set, pixels embedded first, real catalogues."""

import json
import shutil
import subprocess

import fitsio
import numpy as np
import pytest
from astropy.table import Table
from builders_predict import make_galaxies, write_galaxies
from catalog_files import fitsverify, need
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.errors import DataError, UsageError
from astroclip.model.checkpoint import model_hash
from astroclip.predict.label_columns import read_labels
from astroclip.predict.predictor import _read_vectors
from astroclip.predict.reference import read_reference, write_reference
from astroclip.predict.tasks import predict_catalog
from astroclip.sky import match_sky

BANDS = ("u", "g", "r", "i", "z")
SMOOTH = "smooth-or-featured_smooth_fraction"


def run(*words: object) -> dict:
    done = CliRunner().invoke(app, ["--json", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def model(tiny_model, tmp_path):
    """A model directory of its own, to which a reference may be added."""
    return shutil.copytree(tiny_model, tmp_path / "tiny")


def test_a_model_s_own_reference_is_the_default(model, tmp_path):
    cards = {"ACMODEL": str(model), "ACHASH": model_hash(model)}
    columns = make_galaxies(200, 1)
    known = write_galaxies(tmp_path / "known.fits", columns, cards)
    new = write_galaxies(tmp_path / "new.fits", make_galaxies(50, 2), cards)
    with pytest.raises(DataError, match="no reference set of its own"):
        predict_catalog(new, "redshift")
    made = run("models", "reference", known, "--model", model, "--columns", "Z,A*E")
    assert made["reference"].endswith("reference.safetensors")
    reference = read_reference(model)
    assert (reference.nrows, reference.digest) == (200, model_hash(model))
    read = reference.read(["Z", "AGE", "IMAGE_EMBEDDING"])
    np.testing.assert_array_equal(read["Z"], columns["Z"])
    np.testing.assert_allclose(read["IMAGE_EMBEDDING"], columns["IMAGE_EMBEDDING"], atol=1e-3)
    assert read["IMAGE_EMBEDDING"].dtype == np.float16
    first = predict_catalog(new, "redshift", tmp_path / "a.fits", method="knn")
    second = predict_catalog(new, "redshift", tmp_path / "b.fits", reference=known, method="knn")
    one, two = (fitsio.read(r.output)["Z_PRED_MEAN"] for r in (first, second))
    np.testing.assert_allclose(one, two, atol=0.01)
    with pytest.raises(UsageError, match="exists already"):
        write_reference(known, model)
    some = np.flatnonzero((columns["Z"] < 0.3) & np.isfinite(columns["IMAGE_EMBEDDING"]).all(1))
    run("models", "reference", known, "--model", model, "--where", "Z < 0.3", "--overwrite")
    np.testing.assert_array_equal(read_reference(model).read(["Z"])["Z"], columns["Z"][some])
    with pytest.raises(DataError, match="no row with an embedding fulfils --where 'Z > 9'"):
        write_reference(known, model, where="Z > 9", overwrite=True)
    with pytest.raises(DataError, match="Embed it first"):
        write_reference(write_galaxies(tmp_path / "bare.fits", {"Z": np.zeros(3)}), model, overwrite=True)
    other = write_galaxies(tmp_path / "other.fits", columns)
    with pytest.raises(DataError, match="not with"):
        write_reference(other, model, overwrite=True)


def test_the_redshift_is_the_tables_own(tmp_path):
    z = np.linspace(0, 1, 30)
    columns = {
        "REDSHIFT": np.where(z < 0.2, z, np.nan),
        "Z": z,
        "SPECTRUM_EMBEDDING": z[:, None].astype("f4"),
    }
    reference = read_reference(write_galaxies(tmp_path / "pairs.fits", columns))
    np.testing.assert_array_equal(read_labels(reference, "redshift").values[:, 0], z)  # not that of the votes
    magnitudes = read_reference(write_galaxies(tmp_path / "magnitudes.fits", columns | {"Z": 18 + z}))
    with pytest.raises(DataError, match=r"column Z is no redshift, its median is 18\.5"):
        read_labels(magnitudes, "redshift")
    assert np.isnan(read_labels(magnitudes, "redshift", "REDSHIFT").values).any()


def test_a_broken_reference_is_refused(tmp_path):
    (tmp_path / "r.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable reference"):
        read_reference(tmp_path / "r.safetensors")
    with pytest.raises(DataError, match="no such file"):
        read_reference(tmp_path / "none.fits")


def test_rows_without_label_or_vector_do_not_count(tmp_path):
    columns = make_galaxies(40, 3)
    columns["SPECTRUM_EMBEDDING"][5] = np.nan
    reference = read_reference(write_galaxies(tmp_path / "r.fits", columns))
    known = np.ones(40, bool)
    known[7] = False
    vectors, usable, complete, agreement = _read_vectors(reference, ("SPECTRUM_EMBEDDING",), known)
    assert complete == 39
    assert list(np.flatnonzero(~usable)) == [5, 7]
    np.testing.assert_array_equal(vectors, columns["SPECTRUM_EMBEDDING"][usable])
    assert agreement is not None


def test_pixels_are_embedded_first(tiny_model, tmp_path, rng):
    rows = 30
    table = Table({"ID": np.arange(rows), "Z": rng.uniform(0, 1, rows)})
    table["IMAGE"] = rng.normal(size=(rows, 3, 152, 152)).astype("f4") * 0.01
    table.write(tmp_path / "pixels.fits")
    run("embed", tmp_path / "pixels.fits", "--model", tiny_model, "-o", tmp_path / "known.fits")
    report = run(
        "predict", "redshift", tmp_path / "pixels.fits", "--model", tiny_model,
        "--reference", tmp_path / "known.fits", "--method", "knn", "-o", tmp_path / "out.fits",
    )  # fmt: skip
    assert report["vector"] == "IMAGE_EMBEDDING"
    with pytest.raises(DataError, match=r"with mini .*distances between them mean nothing"):  # the default
        predict_catalog(tmp_path / "pixels.fits", "redshift", reference=tmp_path / "known.fits")
    result = fitsio.read(tmp_path / "out.fits")
    np.testing.assert_allclose(result["Z_PHOT_MEAN"], table["Z"], rtol=1e-3)  # every row is in the reference
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"pixels.fits", "known.fits", "out.fits"}


def test_real_redshifts_and_votes_from_real_photometry(survey_data, tmp_path, capsys):
    """456 galaxies of SDSS with Galaxy Zoo votes: both labels are predicted better than by their mean."""
    sdss = Table.read(survey_data / "catalogues" / "sdss-dr14-10k.csv.gz", format="csv")
    votes = Table.read(survey_data / "catalogues" / "gz-decals-votes.csv.gz", format="csv")
    found = match_sky((sdss["ra"], sdss["dec"]), (votes["ra"], votes["dec"]), 2.0)
    table, seen = sdss[found.left], votes[found.right]
    assert len(table) == 456
    magnitudes = np.stack([table[band] for band in BANDS], 1)
    vectors = np.concatenate([magnitudes[:, 2:3], np.diff(magnitudes, axis=1)], 1)
    labelled = Table({"REDSHIFT": table["redshift"], SMOOTH: seen[SMOOTH], "COLOURS": vectors.astype("f4")})
    half = np.random.default_rng(1).random(len(labelled)) < 0.5
    labelled[half].write(tmp_path / "known.fits")
    labelled[~half].write(tmp_path / "new.fits")
    for label, prefix in (("REDSHIFT", "REDSHIFT"), (SMOOTH, SMOOTH)):
        for method in ("knn", "mlp"):
            output = tmp_path / f"{prefix}-{method}.fits"
            run("predict", "label", tmp_path / "new.fits", "--reference", tmp_path / "known.fits",
                "--vector", "COLOURS", "--label", label, "--method", method, "-o", output)  # fmt: skip
            result = fitsio.read(output)
            truth, ours = result[label], result[f"{prefix}_PRED"]
            r2 = 1 - np.mean((truth - ours) ** 2) / np.var(truth)
            inside = (truth > result[f"{prefix}_L68"]) & (truth < result[f"{prefix}_U68"])
            with capsys.disabled():
                print(
                    f"\n{label}, {method}, {half.sum()} labels: R^2 {r2:.3f}, 68 % hold {inside.mean():.3f}"
                )
            assert r2 > (0.4 if label == "REDSHIFT" else 0.05)
            assert inside.mean() == pytest.approx(0.68, abs=0.09)
    assert "0 errors" in fitsverify(output) or fitsverify(output) == "OK"
    done = subprocess.run(
        [need("stilts"), "tpipe", f"in={output}", "cmd=keepcols *_PRED", "omode=count"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"rows: {len(labelled) - half.sum()}" in done.stdout
