"""`embed_catalog`: the same table with embedding columns, streamed, resumed, sharded."""

import multiprocessing
import random
import time
from itertools import product
from multiprocessing.connection import Connection
from pathlib import Path

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from builders import write_coadd

import astroclip
from astroclip.errors import DataError, UsageError
from astroclip.model.checkpoint import init_model
from astroclip.model.embedder import load_model
from astroclip.predict.embed import embed_catalog
from astroclip.predict.embed_shards import merge_embedded
from astroclip.schema import EmbedFlag
from astroclip.tables import appender


def write_catalog(path: Path, rows: int, seed: int = 0, size: int = 24) -> np.ndarray:
    """Write a catalogue with images and spectra, some of them missing; return it."""
    rng = np.random.default_rng(seed)
    table = np.zeros(
        rows, [("TARGETID", "i8"), ("Z", "f8"), ("IMAGE", "f4", (3, size, size)), ("FLUX", "f4", 7781)]
    )
    table["TARGETID"] = np.arange(rows) + 39_627_000_000_000_000
    table["Z"] = rng.uniform(0, 1, rows)
    table["IMAGE"] = rng.normal(0.1, 0.1, table["IMAGE"].shape)
    table["FLUX"] = rng.normal(2, 1, table["FLUX"].shape)
    table["IMAGE"][3 % rows] = np.nan
    table["FLUX"][5 % rows] = np.nan
    fitsio.write(path, table, extname="GALAXIES", units=["", "", "nanomaggy", ""], clobber=True)
    return table


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("catalog") / "galaxies.fits"
    write_catalog(path, 150)
    return path


@pytest.fixture(scope="module")
def whole(catalog, tiny_model, tmp_path_factory) -> Path:
    """The catalogue embedded in one go."""
    output = tmp_path_factory.mktemp("whole") / "whole.fits"
    embed_catalog(catalog, output, model=tiny_model)
    return output


def data_of(path: Path) -> bytes:
    """Return the bytes of the table's rows."""
    with fits.open(path) as hdus:
        return fitsio.read(path, ext=1).tobytes() + str(hdus[1].columns.formats).encode()


def test_columns_are_what_the_model_gives(catalog, whole, tiny_model):
    table, result = fitsio.read(catalog), fitsio.read(whole)
    for name in table.dtype.names:
        np.testing.assert_array_equal(result[name], table[name])
    model = load_model(tiny_model)
    good = [0, 1, 149]
    np.testing.assert_allclose(
        result["IMAGE_EMBEDDING"][good], model.embed_images(table["IMAGE"][good]), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        result["SPECTRUM_EMBEDDING"][good], model.embed_spectra(table["FLUX"][good]), rtol=1e-5, atol=1e-6
    )
    padded = EmbedFlag.IMAGE_PADDED
    assert result["EMBED_FLAG"][3] == EmbedFlag.NO_IMAGE
    assert result["EMBED_FLAG"][5] == EmbedFlag.NO_SPECTRUM | padded
    assert set(np.delete(result["EMBED_FLAG"], [3, 5])) == {padded}
    assert np.isnan(result["IMAGE_EMBEDDING"][3]).all()
    assert np.isfinite(result["SPECTRUM_EMBEDDING"][3]).all()
    assert np.isnan(result["SPECTRUM_EMBEDDING"][5]).all()


def test_provenance(catalog, whole, tiny_model):
    header = fitsio.read_header(whole, 1)
    model = load_model(tiny_model)
    assert header["ACMODEL"].strip() == "tiny"
    assert header["ACHASH"].strip() == model.digest
    assert header["ACVERS"].strip() == astroclip.__version__
    history = " ".join(str(line) for line in fits.getheader(whole, 1)["HISTORY"])
    assert "IMAGE_EMBEDDING from column IMAGE" in history
    assert "galaxies.fits" in history
    assert "1 NO_IMAGE, 2 NO_SPECTRUM" in history


def test_report_counts_rows_and_flags(catalog, tiny_model, tmp_path):
    seen = []
    report = embed_catalog(
        catalog,
        tmp_path / "out.fits",
        model=tiny_model,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (report.rows, report.resumed) == (150, 0)
    assert report.embedded == {"image": 149, "spectrum": 149}
    assert report.flags == {"NO_IMAGE": 1, "NO_SPECTRUM": 1, "IMAGE_PADDED": 149}
    assert seen[-1] == (150, 150)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_model_that_is_loaded_already_and_the_default_output(tmp_path, tiny_model):
    write_catalog(tmp_path / "few.fits", 6)
    report = embed_catalog(tmp_path / "few.fits", model=load_model(tiny_model))
    assert report.output == tmp_path / "few-embedded.fits"
    assert fitsio.read_header(report.output, 1)["NAXIS2"] == 6


def test_an_empty_catalogue(tmp_path, tiny_model):
    write_catalog(tmp_path / "one.fits", 1)
    with fits.open(tmp_path / "one.fits") as hdus:
        hdus[1].data = hdus[1].data[:0]
        hdus.writeto(tmp_path / "none.fits")
    report = embed_catalog(tmp_path / "none.fits", model=tiny_model)
    assert report.rows == 0
    assert fitsio.FITS(report.output)[1].get_nrows() == 0


def test_a_coadd_keeps_its_spectra_if_asked_to(tmp_path, tiny_model):
    path = tmp_path / "coadd-sv3-dark-1.fits"
    arms = write_coadd(path)
    report = embed_catalog(path, model=tiny_model, keep_pixels=True)
    assert report.embedded == {"spectrum": 4}
    np.testing.assert_array_equal(fitsio.read(report.output, ext="R_FLUX"), arms["R_FLUX"])
    assert "SPECTRUM_EMBEDDING" in fitsio.read(report.output, ext="FIBERMAP").dtype.names


def test_parquet_in_and_out(tmp_path, tiny_model, rng):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    flux = rng.normal(2, 1, (5, 7781)).astype("f4")
    column = pa.FixedSizeListArray.from_arrays(pa.array(flux.ravel()), 7781)
    pq.write_table(pa.table({"TARGETID": pa.array(range(5)), "FLUX": column}), tmp_path / "c.parquet")
    embed_catalog(tmp_path / "c.parquet", tmp_path / "out.parquet", model=tiny_model)
    result = pq.read_table(tmp_path / "out.parquet")
    assert result.column("TARGETID").to_pylist() == list(range(5))
    embedding = np.array(result.column("SPECTRUM_EMBEDDING").to_pylist(), "f4")
    np.testing.assert_allclose(embedding, load_model(tiny_model).embed_spectra(flux), rtol=1e-5, atol=1e-6)
    assert not [p for p in tmp_path.iterdir() if p.name not in ("c.parquet", "out.parquet")]


def test_shards_merge_to_the_whole(catalog, whole, tiny_model, tmp_path):
    output = tmp_path / "out.fits"
    for i in (1, 0):
        embed_catalog(catalog, output, model=tiny_model, shard=(i, 2))
    assert not output.exists()
    assert merge_embedded(catalog, output, 2) == output
    assert data_of(output) == data_of(whole)


def test_more_shards_than_blocks(catalog, whole, tiny_model, tmp_path):
    output = tmp_path / "out.fits"
    rows = [embed_catalog(catalog, output, model=tiny_model, shard=(i, 5)).rows for i in range(5)]
    assert sum(rows) == 150
    assert set(rows) <= {0, 22, 64}
    merge_embedded(catalog, output, 5)
    assert data_of(output) == data_of(whole)


def test_two_devices_give_the_same_rows_in_the_same_order(catalog, whole, tiny_model, tmp_path, monkeypatch):
    pair = [load_model(tiny_model), load_model(tiny_model)]
    monkeypatch.setattr("astroclip.predict.embed._load", lambda *_: pair)
    embed_catalog(catalog, tmp_path / "out.fits", model=tiny_model)
    assert data_of(tmp_path / "out.fits") == data_of(whole)


def test_bf16_is_close_to_fp32(catalog, whole, tiny_model, tmp_path):
    embed_catalog(catalog, tmp_path / "out.fits", model=tiny_model, precision="bf16")
    for name in ("IMAGE_EMBEDDING", "SPECTRUM_EMBEDDING"):
        full, half = (np.delete(fitsio.read(p)[name], [3, 5], axis=0) for p in (whole, tmp_path / "out.fits"))
        cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
        assert cosine.min() > 0.999


def test_a_failing_source_leaves_a_part_and_resume_finishes(
    catalog, whole, tiny_model, tmp_path, monkeypatch
):
    output = tmp_path / "out.fits"

    def stop(done: int, total: int) -> None:
        if done >= 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_catalog(catalog, output, model=tiny_model, progress=stop)
    assert not output.exists()
    report = embed_catalog(catalog, output, model=tiny_model, resume=True)
    assert 64 <= report.resumed < 150
    assert data_of(output) == data_of(whole)
    assert list(tmp_path.iterdir()) == [output]


def test_resume_refuses_other_settings_and_a_changed_catalogue(tiny_model, tmp_path):
    path, output = tmp_path / "c.fits", tmp_path / "out.fits"
    write_catalog(path, 130)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_catalog(path, output, model=tiny_model, progress=stop)
    with pytest.raises(UsageError, match="precision was 'fp32', now 'bf16'"):
        embed_catalog(path, output, model=tiny_model, resume=True, precision="bf16")
    with fitsio.FITS(path, "rw") as file:
        file[1].write_column("Z", np.full(1, 9.0), firstrow=129)
    with pytest.raises(DataError, match="SHA-256 differs"):
        embed_catalog(path, output, model=tiny_model, resume=True)


def embed_and_tell(path: Path, output: Path, model: Path, channel: Connection) -> None:
    """Embed in a process of its own, which tells how far it is, and notes every block."""
    appender.JOURNAL_SECONDS = 0.0
    embed_catalog(path, output, model=model, resume=True, progress=lambda done, _: channel.send(done))


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tiny_model, tmp_path):
    path, output = tmp_path / "c.fits", tmp_path / "out.fits"
    table = np.zeros(8000, [("IMAGE", "f4", (3, 24, 24))])
    table["IMAGE"] = np.random.default_rng(3).normal(0.1, 0.1, table["IMAGE"].shape)
    fitsio.write(path, table)
    embed_catalog(path, tmp_path / "whole.fits", model=tiny_model)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["astroclip.predict.embed"])
    moments = random.Random(7)
    kills = 0
    while kills < 20 and not output.exists():
        ours, theirs = processes.Pipe()
        child = processes.Process(target=embed_and_tell, args=(path, output, tiny_model, theirs))
        child.start()
        for _ in range(moments.randrange(1, 4)):
            if ours.poll(60):
                ours.recv()
        time.sleep(moments.uniform(0, 0.03))
        kills += child.is_alive()
        child.kill()
        child.join()
    assert kills == 20
    report = embed_catalog(path, output, model=tiny_model, resume=True)
    assert report.resumed > 0
    assert data_of(output) == data_of(tmp_path / "whole.fits")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"shard": (2, 2)}, r"shard 2 of 2: expected --shards N with --shard from 0 to N - 1"),
        ({"shard": (None, 2)}, "shard None of 2"),
        ({"batch_size": 0}, "batch size '0'"),
        ({"batch_size": "many"}, "batch size 'many'"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"device": "abacus"}, "device 'abacus' cannot be used here"),
        ({"precision": "fp8"}, "precision 'fp8' is not one of auto, fp32, bf16"),
        ({"images": "NOTHING"}, "neither a file, nor a folder, nor a column"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_written(catalog, tiny_model, tmp_path, arguments, said):
    with pytest.raises(UsageError, match=said):
        embed_catalog(catalog, tmp_path / "out.fits", **({"model": tiny_model} | arguments))
    assert not list(tmp_path.iterdir())


def test_nothing_to_embed(tmp_path, tiny_model):
    fitsio.write(tmp_path / "c.fits", np.zeros(3, [("Z", "f8")]))
    with pytest.raises(UsageError, match="nothing to embed with model 'tiny'"):
        embed_catalog(tmp_path / "c.fits", model=tiny_model)


def test_an_output_is_replaced_only_if_asked(catalog, tiny_model, tmp_path):
    output = tmp_path / "out.fits"
    output.write_text("mine")
    with pytest.raises(UsageError, match=r"out\.fits"):
        embed_catalog(catalog, output, model=tiny_model)
    assert output.read_text() == "mine"
    embed_catalog(catalog, output, model=tiny_model, overwrite=True)
    embed_catalog(output, output, model=tiny_model, overwrite=True)  # its own embeddings again, in place
    assert fitsio.FITS(output)[1].get_colnames().count("EMBED_FLAG") == 1


def test_embeddings_of_two_runs_are_never_mixed(catalog, whole, tiny_model, tmp_path):
    """Header and flag could not tell which model an embedding that is kept came from."""
    spectra = tmp_path / "spectra"
    init_model("mini", spectra, ["image=null", "head=null", "spectrum.embed_dim=16", "spectrum.num_layers=1"])
    before = whole.read_bytes()
    for overwrite, output in product((False, True), (whole, tmp_path / "out.fits")):
        said = r"has IMAGE_EMBEDDING already, of model 'tiny'.* write them all"
        if output == whole and not overwrite:
            said = "exists already"
        with pytest.raises(UsageError, match=said):
            embed_catalog(whole, output, model=spectra, overwrite=overwrite)
    with pytest.raises(UsageError, match="IMAGE_EMBEDDING already"):
        embed_catalog(whole, tmp_path / "out.fits", model=spectra, shard=(0, 2), overwrite=True)
    assert whole.read_bytes() == before
    assert list(tmp_path.iterdir()) == [spectra]
    first = embed_catalog(catalog, tmp_path / "first.fits", model=spectra).output
    embed_catalog(first, tmp_path / "again.fits", model=spectra, overwrite=True)
    assert data_of(first) == data_of(tmp_path / "again.fits")


def test_merge_needs_all_shards(catalog, tiny_model, tmp_path):
    output = tmp_path / "out.fits"
    embed_catalog(catalog, output, model=tiny_model, shard=(0, 2))
    with pytest.raises(DataError, match="shard-1-of-2"):
        merge_embedded(catalog, output, 2)
    with pytest.raises(UsageError, match="--shards"):
        merge_embedded(catalog, output, None)
