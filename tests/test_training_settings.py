"""Settings of trainings: the recipes as published, strictness, and the encoders to start from."""

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from astroclip.config import ImageEncoderConfig, ModelConfig, SpectrumEncoderConfig
from astroclip.errors import CheckpointError, ConfigError
from astroclip.model.clip import AstroCLIP
from astroclip.model.prepare_spectra import count_patches, mask_chunks, to_patches
from astroclip.training.recipes import find_encoders, read_training
from astroclip.training.settings import KINDS, ClipTraining, SpectrumTraining

PRESETS = [path.name.removesuffix(".yaml") for path in resources.files("astroclip.configs").iterdir()
           if path.name.endswith(".yaml")]  # fmt: skip


def read_kind(preset: str):
    return read_training(preset.removeprefix("mini-"), preset)


def count(model: ModelConfig) -> int:
    """Parameters of a model, which takes no memory on the meta device."""
    return sum(weights.numel() for weights in AstroCLIP(model).parameters())


# --- recipes ----------------------------------------------------------------------------------------------


def test_there_is_a_recipe_and_a_small_one_of_each_kind():
    assert {*KINDS, *(f"mini-{kind}" for kind in KINDS)} <= set(PRESETS)
    for preset in PRESETS:
        assert isinstance(read_kind(preset), KINDS[preset.removeprefix("mini-")])


def test_every_key_of_a_recipe_is_explained():
    for preset in PRESETS:
        lines = (resources.files("astroclip.configs") / f"{preset}.yaml").read_text().splitlines()
        values = [line for line in lines if not line.startswith("#") and not line.rstrip().endswith(":")]
        assert [line for line in values if " # " not in line] == [], preset


def test_published_spectrum_recipe():
    settings = read_training("spectrum")
    assert count(settings.model) == 43_177_750
    assert (settings.masking.chunks, settings.masking.width, settings.loss) == (6, 50, "mse")
    optim = settings.optim
    assert (optim.lr, optim.betas, optim.weight_decay, optim.clip_norm) == (1e-5, (0.9, 0.95), 0.1, 1)
    assert (optim.warmup_steps, optim.decay_steps, optim.final_lr) == (2000, 500_000, 0)
    assert (settings.data.batch_size, settings.run.steps) == (64, 30_000)


def test_published_clip_recipe():
    settings = read_training("clip")
    assert count(settings.model) == 370_798_358
    assert (settings.image, settings.spectrum, settings.train_encoders) == ("astrodino", "specformer", False)
    assert (settings.scale, settings.model.logit_scale) == ("fixed", 15.5)
    optim = settings.optim
    assert (optim.lr, optim.weight_decay, optim.warmup_steps, optim.decay_steps) == (1e-4, 0.05, 1000, 10_000)
    assert (settings.data.batch_size, settings.run.steps) == (256, 25_000)


def test_a_batch_comes_from_many_places_of_the_files():
    """Stein et al. sort their files by z flux: a batch of few long runs would hold galaxies alike."""
    for preset in PRESETS:
        data = read_kind(preset).data
        assert data.batch_size >= 4 * data.run_rows > 4, preset


# --- strictness -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "overrides", "said"),
    [
        ("spectrum", ["optim.lr=-1"], r"'optim.lr': .*greater than 0 \(got -1\)"),
        ("spectrum", ["optim.lr=1e-4x"], r"'optim.lr': .*valid number"),
        ("spectrum", ["optim.rate=1", "seed=2"], r"'optim.rate'.*'seed'"),
        ("spectrum", ["optim=fast"], r"'optim'"),
        ("spectrum", ["run.precision=fp8"], r"'run.precision': .*'fp32', 'bf16' or 'fp16'"),
        ("spectrum", ["optim.warmup_steps=600000"], r"warmup_steps 600000 is beyond decay_steps 500000"),
        ("spectrum", ["loss=chi2"], r"'loss': .*'mse' or 'ivar'"),
        ("spectrum", ["masking.chunks=10"], r"10 chunks of 50 patches do not fit into the 778 patches"),
        ("spectrum", ["model.spectrum.section_overlap=0"], r"do not fit into the 390 patches"),
        ("spectrum", ["model.spectrum.max_len=700"], r"max_len 700 is less than the 778 patches"),
        ("spectrum", ["model.head.embed_dim=64"], r"neither 'image' nor 'head'"),
        ("clip", ["model.head=null"], r"needs a 'head' section"),
        ("clip", ["image=null"], r"name a model as image="),
        ("image", ["model.image=null", "model.spectrum.embed_dim=96"], r"expected a section 'image'"),
        ("colour", [], r"no training 'colour'; known: spectrum, image, clip"),
    ],
)
def test_what_is_wrong_is_said(kind, overrides, said):
    with pytest.raises(ConfigError, match=said):
        read_training(kind, None, overrides)


def test_presets_and_files(tmp_path):
    assert read_training("spectrum", "mini-spectrum").model.name == "mini-spectrum"
    with pytest.raises(ConfigError, match=r"no preset 'mega'; known: .*mini-clip, .*or give a .yaml file"):
        read_training("spectrum", "mega")
    with pytest.raises(ConfigError, match=r"none\.yaml: not a readable YAML file"):
        read_training("spectrum", tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="mini-clip"):
        read_training("spectrum", "mini-clip")
    again = tmp_path / "again.yaml"
    again.write_text(read_training("spectrum", "mini-spectrum").model_dump_json())
    assert read_training("spectrum", again) == read_training("spectrum", "mini-spectrum")


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    length=st.integers(10, 400), share=st.floats(0, 0.9), chunks=st.integers(1, 12), width=st.integers(1, 80)
)
def test_settings_know_whether_masks_fit(length, share, chunks, width):
    """They refuse just what masking itself refuses."""
    import torch

    from astroclip.errors import UsageError

    overlap = int(share * length)
    patches = to_patches(torch.zeros(1, 7781), length, overlap)
    assert patches.shape[1] == count_patches(7781, length, overlap) + 1
    try:
        mask_chunks(patches, torch.Generator(), chunks, width)
    except UsageError:
        fits = False
    else:
        fits = True
    sizes = [f"model.spectrum.section_length={length}", f"model.spectrum.section_overlap={overlap}"]
    overrides = [*sizes, f"masking.chunks={chunks}", f"masking.width={width}", "model.spectrum.max_len=8000"]
    try:
        assert isinstance(read_training("spectrum", None, overrides), SpectrumTraining)
        assert fits
    except ConfigError:
        assert not fits


# --- encoders to start from -------------------------------------------------------------------------------


def test_an_alignment_takes_the_sizes_of_its_encoders(tiny_model):
    overrides = [f"image={tiny_model}", "model.image.drop_path=0.2", "model.image.embed_dim=96"]
    settings = read_training("clip", "mini-clip", overrides)
    assert isinstance(settings, ClipTraining)
    found = find_encoders(settings)
    assert found.image == str(tiny_model)
    assert found.spectrum is None
    assert found.model.image == ImageEncoderConfig(embed_dim=24, depth=2, num_heads=2, drop_path=0.2)
    assert found.model.spectrum == settings.model.spectrum
    assert find_encoders(found) == found


def test_encoders_that_are_not_there(tiny_model, tmp_path):
    with pytest.raises(CheckpointError, match="no model 'nowhere'"):
        find_encoders(read_training("clip", "mini-clip", ["image=nowhere"]))
    from astroclip.model.checkpoint import init_model

    spectra = ["image=null", "head=null", "spectrum.embed_dim=16", "spectrum.num_layers=1"]
    config = init_model("mini", tmp_path / "spectra", spectra)
    assert isinstance(config.spectrum, SpectrumEncoderConfig)
    with pytest.raises(ConfigError, match="that model has no image encoder"):
        find_encoders(read_training("clip", "mini-clip", [f"image={tmp_path / 'spectra'}"]))
