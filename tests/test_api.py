"""The public names: what they take and give."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import astroclip
from astroclip.errors import CheckpointError, DataError, UsageError


def test_import_is_lazy():
    code = "import sys, astroclip; print('torch' in sys.modules, *astroclip.__all__)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert said == ["False", "Embedder", "embed_catalog", "load_model", "to_rgb"]
    assert set(astroclip.__all__) <= set(dir(astroclip))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = astroclip.nothing


@pytest.fixture(scope="module")
def model(tiny_model) -> astroclip.Embedder:
    return astroclip.load_model(tiny_model)


def test_images(model, rng):
    images = rng.normal(0.1, 0.1, (40, 3, 152, 152)).astype("f4")
    embeddings = model.embed_images(images)
    assert embeddings.shape == (40, 32)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(model.embed_images(torch.from_numpy(images)), embeddings)
    crops = astroclip.to_rgb(images)[:, :, 4:148, 4:148]
    torch.testing.assert_close(model.encode_image(crops), embeddings)
    assert astroclip.to_rgb(images[0]).shape == (3, 152, 152)
    assert float(crops.min()) >= 0
    assert float(crops.max()) <= 1


def test_spectra(model, rng):
    flux = rng.normal(2, 1, (3, 7781)).astype("f4")
    embeddings = model.embed_spectra(flux)
    assert embeddings.shape == (3, 32)
    torch.testing.assert_close(model.encode_spectrum(torch.from_numpy(flux)), embeddings)
    ivar = np.ones_like(flux)
    ivar[1] = 0
    spoilt = model.embed_spectra(flux, ivar=ivar)
    assert torch.isnan(spoilt[1]).all()
    torch.testing.assert_close(spoilt[[0, 2]], embeddings[[0, 2]])
    mask = np.zeros(flux.shape, "i4")
    mask[0, 50] = 1
    assert not torch.equal(model.embed_spectra(flux, mask=mask)[0], embeddings[0])
    wave = np.linspace(3700, 9700, 5000)
    assert model.embed_spectra(flux[:, :5000], wave=wave).isfinite().all()


def test_one_galaxy_keeps_its_axis_and_none_is_none(model, rng):
    flux = rng.normal(2, 1, (1, 7781)).astype("f4")
    assert model.embed_spectra(flux).shape == (1, 32)
    assert model.embed_images(np.zeros((1, 3, 152, 152))).shape == (1, 32)
    assert model.embed_images(np.zeros((0, 3, 152, 152))).shape == (0, 32)
    assert model.encode_spectrum(torch.zeros(0, 7781)).shape == (0, 32)


def test_batches_do_not_matter(tiny_model, rng):
    flux = rng.normal(2, 1, (5, 7781)).astype("f4")
    model = astroclip.load_model(tiny_model)
    whole = model.embed_spectra(flux)
    model.batch_size = 2
    torch.testing.assert_close(model.embed_spectra(flux), whole)


def test_outputs_can_be_used_in_training(model, rng):
    embeddings = model.embed_spectra(rng.normal(2, 1, (4, 7781)))
    layer = torch.nn.Linear(32, 1)
    layer(embeddings).sum().backward()
    assert layer.weight.grad is not None


def test_a_model_of_one_modality(tmp_path):
    from astroclip.config import ModelConfig, make_settings
    from astroclip.model.checkpoint import save_model
    from astroclip.model.clip import build_model

    config = make_settings(ModelConfig, {"image": {"embed_dim": 24, "depth": 1, "num_heads": 2}}, "here")
    save_model(build_model(config, 0), config, tmp_path / "image")
    model = astroclip.load_model(tmp_path / "image")
    assert model.embed_images(np.zeros((2, 3, 152, 152))).shape == (2, 24)
    with pytest.raises(UsageError, match="embeds images only"):
        model.embed_spectra(np.zeros((2, 7781)))
    with pytest.raises(UsageError, match="embeds images only"):
        model.encode_spectrum(torch.zeros(2, 7781))


def test_bf16(tiny_model, rng):
    flux = rng.normal(2, 1, (8, 7781)).astype("f4")
    full = astroclip.load_model(tiny_model, precision="fp32").embed_spectra(flux)
    half = astroclip.load_model(tiny_model, precision="bf16").embed_spectra(flux)
    assert torch.cosine_similarity(full, half).min() > 0.999


def test_wrong_inputs(model, tmp_path):
    with pytest.raises(DataError, match="expected"):
        model.embed_images(np.zeros((2, 4, 152, 152)))
    with pytest.raises(DataError, match="7781"):
        model.embed_spectra(np.zeros((2, 100)))
    with pytest.raises(CheckpointError, match="nowhere"):
        astroclip.load_model(tmp_path / "nowhere")
