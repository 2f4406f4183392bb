"""Each verb keeps Parquet as Parquet, writes the format its output is named for, and leaves out columns."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders_predict import make_galaxies, write_galaxies
from catalog_files import names_in
from matched_survey import make_survey
from parquet_files import every_type, same_columns, write_parquet
from typer.testing import CliRunner

from astroclip.cli.main import app
from astroclip.crossmatch.build import build_pairs
from astroclip.errors import DataError
from astroclip.predict.embed import embed_catalog
from astroclip.predict.embed_shards import merge_embedded
from astroclip.predict.tasks import predict_catalog
from astroclip.search.examples import parse_example
from astroclip.search.look_alikes import search_catalog
from astroclip.tables import open_table

KINDS = every_type(8).drop_columns(["image", "spectrum", "arms", "VECTOR", "LISTS"])


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet table of columns of all types, and of images."""
    rng = np.random.default_rng(1)
    images = pa.FixedSizeListArray.from_arrays(
        pa.array(rng.normal(0.1, 0.1, 8 * 3 * 24 * 24).astype("f4")), 1728
    )
    field = pa.field("IMAGE", images.type, metadata={"astroclip_shape": "3,24,24"})
    path = tmp_path_factory.mktemp("galaxies") / "galaxies.parquet"
    return write_parquet(path, KINDS.append_column(field, images))


@pytest.fixture(scope="module")
def embedded(galaxies: Path, tiny_model: Path) -> Path:
    return embed_catalog(galaxies, model=tiny_model).output


def test_embed(galaxies: Path, embedded: Path) -> None:
    assert embedded.name == "galaxies-embedded.parquet"
    whole, source = pq.read_table(embedded), pq.read_table(galaxies)
    same_columns(whole.select(source.column_names), source)
    assert whole.column_names[-2:] == ["IMAGE_EMBEDDING", "EMBED_FLAG"]
    assert np.isfinite(np.array(whole["IMAGE_EMBEDDING"].to_pylist())).all()
    assert whole.schema.metadata[b"ACMODEL"] == b"tiny"
    with open_table(embedded) as table:
        assert table.header["ACMODEL"] == "tiny"


def test_embed_in_shards(galaxies: Path, embedded: Path, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    for i in range(2):
        embed_catalog(galaxies, output, model=tiny_model, shard=(i, 2))
    merge_embedded(galaxies, output, 2)
    same_columns(pq.read_table(output), pq.read_table(embedded))


def test_embed_to_fits(galaxies: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--drop WHEN"):
        embed_catalog(galaxies, tmp_path / "out.fits", model=tiny_model)
    with pytest.raises(DataError, match="--drop WHEN"):
        embed_catalog(galaxies, tmp_path / "out.fits", model=tiny_model, dry_run=True)
    assert names_in(tmp_path) == []
    drop = ["WHEN", "WHEN_UTC", "DAY", "EXACT", "PNG", "HASH", "WORDS", "map", "IMAGE"]
    embed_catalog(galaxies, tmp_path / "out.fits", model=tiny_model, drop=drop)
    with open_table(tmp_path / "out.fits") as table:
        assert set(drop).isdisjoint(table.columns)
        assert table.header["ACMODEL"] == "tiny"


@pytest.mark.parametrize("form", ["parquet", "fits"])
def test_predict(form: str, tmp_path: Path) -> None:
    reference = write_galaxies(tmp_path / "reference.fits", make_galaxies(60, 1))
    vectors = {name: make_galaxies(12, 2)[name] for name in ("IMAGE_EMBEDDING", "SPECTRUM_EMBEDDING")}
    source = write_galaxies(tmp_path / "in.fits", vectors)
    known = {"reference": reference, "method": "knn"}
    expected = predict_catalog(source, "redshift", tmp_path / "fits.fits", **known).output
    table = every_type(12).drop_columns(["TARGETID"])
    for name, values in vectors.items():
        flat = pa.array(values.reshape(-1))
        table = table.append_column(name, pa.FixedSizeListArray.from_arrays(flat, values.shape[1]))
    parquet = write_parquet(tmp_path / "in.parquet", table.replace_schema_metadata({"ACMODEL": "made-up"}))
    drop = (
        []
        if form == "parquet"
        else [n for n in every_type().column_names if n not in ("F", "NAME", "TARGETID")]
    )
    output = tmp_path / f"out.{form}"
    predict_catalog(parquet, "redshift", output, drop=drop, **known)
    with open_table(expected) as one, open_table(output) as other:
        new = [name for name in one.columns if name not in vectors]
        assert set(new) <= set(other.columns)
        for name in new:
            np.testing.assert_array_equal(one.read([name])[name], other.read([name])[name])
    default = predict_catalog(parquet, "redshift", **known).output
    assert default.name == "in-redshift.parquet"
    same_columns(pq.read_table(default).select(table.column_names), table.replace_schema_metadata(None))


def test_predict_embeds_parquet_first(
    galaxies: Path, embedded: Path, tiny_model: Path, tmp_path: Path
) -> None:
    reference = embed_catalog(galaxies, tmp_path / "ref.parquet", model=tiny_model).output
    output = tmp_path / "out.parquet"
    predict_catalog(
        galaxies, "label", output, reference=reference, label="F16", method="knn", k=2,
        embedding={"model": tiny_model},
    )  # fmt: skip
    whole, source = pq.read_table(output), pq.read_table(galaxies)
    same_columns(whole.select(source.column_names), source)
    assert names_in(tmp_path) == ["out.parquet", "ref.parquet"]


@pytest.mark.parametrize("form", ["fits", "parquet", "csv", "ecsv", "vot"])
def test_search(embedded: Path, tmp_path: Path, form: str) -> None:
    columns = ["TARGETID", "NAME", "GOOD", "I8"]
    output = tmp_path / f"found.{form}"
    search_catalog(embedded, [parse_example("row=2")], output, k=3, columns=columns)
    with open_table(output) as table:
        assert list(table.columns)[-4:] == columns
        read = table.read(table.columns)
        rows = read["CATALOG_ROW"].tolist()
    for name in ("TARGETID", "I8"):
        expected = [KINDS[name].to_pylist()[row] for row in rows]
        missing = np.ma.getmaskarray(read[name])
        assert missing.tolist() == [value is None for value in expected]
        assert np.ma.filled(read[name], 0).tolist() == [value or 0 for value in expected]


def test_the_default_output_of_a_search(embedded: Path) -> None:
    report = search_catalog(embedded, [parse_example("row=2")], k=3, columns=["TARGETID"])
    assert report.output.name == "galaxies-embedded-search.parquet"


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_crossmatch(tmp_path: Path, form: str) -> None:
    (tmp_path / "survey").mkdir()
    survey = make_survey(tmp_path / "survey")
    build_pairs(survey.catalogue, survey.images, tmp_path / "out.fits")
    build_pairs(survey.catalogue, survey.images, tmp_path / f"out.{form}", drop=["pmra"], overwrite=True)
    with open_table(tmp_path / "out.fits") as one, open_table(tmp_path / f"out.{form}") as other:
        assert list(other.columns) == [name for name in one.columns if name != "PMRA"]
        for name in ("TARGETID", "REASON", "PAIR"):
            assert one.read([name])[name].tolist() == other.read([name])[name].tolist()
    before = names_in(tmp_path)
    with pytest.raises(DataError, match="no column NOWHERE to drop"):
        build_pairs(survey.catalogue, survey.images, tmp_path / "new.fits", drop=["nowhere"])
    assert names_in(tmp_path) == before


def test_drop_on_the_command_line(galaxies: Path, tiny_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ecsv"
    call = ["embed", str(galaxies), "-m", str(tiny_model), "-o", str(output)]
    refused = CliRunner().invoke(app, call)
    assert refused.exit_code != 0
    drops = [option for name in ("PNG", "HASH", "WORDS", "map", "IMAGE") for option in ("--drop", name)]
    done = CliRunner().invoke(app, [*call, *drops])
    assert done.exit_code == 0, done.output
    with open_table(output) as table:
        assert "PNG" not in table.columns
        assert table.column("IMAGE_EMBEDDING").shape == (32,)
