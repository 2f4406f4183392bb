"""Model directories: what is saved is loaded, and what does not fit is listed."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
import yaml
from checkpoints import released, saved, small_config
from safetensors.torch import load_file, save_file

from astroclip.errors import CheckpointError, ConfigError, DataError, UsageError
from astroclip.model.checkpoint import (
    convert_checkpoint,
    init_model,
    load_weights,
    model_hash,
    read_info,
    save_model,
)
from astroclip.model.clip import build_model

KINDS = ("astroclip", "astrodino", "specformer")


@pytest.fixture
def directory(tmp_path):
    """A small model directory."""
    config = small_config("astroclip")
    save_model(build_model(config, seed=3), config, tmp_path / "model")
    return tmp_path / "model"


def weights_of(directory: Path) -> Path:
    return directory / "model.safetensors"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded(tmp_path, kind):
    config = small_config(kind)
    model = build_model(config, seed=3)
    save_model(model, config, tmp_path / "deep" / "model")
    loaded = load_weights(tmp_path / "deep" / "model")
    assert loaded.config == config
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert sorted(p.name for p in (tmp_path / "deep" / "model").iterdir()) == [
        "README.md",
        "config.yaml",
        "model.safetensors",
    ]


def test_info_and_hash(directory, tmp_path):
    info = read_info(directory)
    assert (info.name, info.modality, info.width, info.path) == (
        "astroclip",
        "image, spectrum",
        32,
        directory,
    )
    assert info.parameters == sum(p.numel() for p in load_weights(directory).parameters())
    assert model_hash(directory) == hashlib.sha256(weights_of(directory).read_bytes()).hexdigest()[:16]
    config = small_config("astroclip")
    save_model(build_model(config, seed=3), config, tmp_path / "again", card="no front matter")
    save_model(build_model(config, seed=4), config, tmp_path / "other")
    assert model_hash(tmp_path / "again") == model_hash(directory) != model_hash(tmp_path / "other")
    assert read_info(tmp_path / "again").source == ""
    assert read_info(tmp_path / "again").width == 32
    with pytest.raises(CheckpointError, match="cannot be read"):
        model_hash(tmp_path)


def test_overwriting_is_asked_for(directory):
    config = small_config("specformer")
    model = build_model(config, seed=1)
    before = model_hash(directory)
    with pytest.raises(UsageError, match="--overwrite"):
        save_model(model, config, directory)
    assert model_hash(directory) == before
    save_model(model, config, directory, overwrite=True)
    assert read_info(directory).name == "specformer"


def test_a_model_can_be_saved_over_itself(directory):
    model = load_weights(directory)
    before = model_hash(directory)
    save_model(model, model.config, directory, overwrite=True)
    assert model_hash(directory) == before


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_colleagues_may_read_a_model(tmp_path, umask):
    """All files of a model have the rights that the umask gives."""
    config = small_config("astroclip")
    earlier = os.umask(umask)
    try:
        save_model(build_model(config, seed=3), config, tmp_path / "model")
    finally:
        os.umask(earlier)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()}
    assert modes == dict.fromkeys(("README.md", "config.yaml", "model.safetensors"), 0o666 & ~umask)


def test_unwritable_places(directory, tmp_path):
    config = small_config("specformer")
    model = build_model(config, seed=1)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        save_model(model, config, tmp_path / "file")
    with pytest.raises(DataError, match=r"cannot (be written|write it)"):
        save_model(model, config, tmp_path / "file" / "below")
    blocked = tmp_path / "blocked"
    (blocked / "config.yaml").mkdir(parents=True)
    with pytest.raises(DataError, match=r"cannot (be written|write it)"):
        save_model(model, config, blocked)
    assert [p.name for p in blocked.iterdir()] == ["config.yaml"]


def test_every_tensor_that_does_not_fit_is_listed(directory):
    tensors = load_file(weights_of(directory))
    del tensors["image_encoder.backbone.cls_token"]
    tensors["image_encoder.backbone.register_tokens"] = torch.zeros(1, 4, 24)
    tensors["spectrum_encoder.mlp.decoder.bias"] = torch.zeros(31)
    tensors["image_encoder.mlp.decoder.bias"] = torch.zeros(32, dtype=torch.int64)
    save_file(tensors, weights_of(directory))
    with pytest.raises(CheckpointError) as caught:
        load_weights(directory)
    for part in (
        "4 do not fit",
        "missing 'image_encoder.backbone.cls_token' (1, 1, 24)",
        "unexpected 'image_encoder.backbone.register_tokens' (1, 4, 24)",
        "'spectrum_encoder.mlp.decoder.bias' has shape (31,), expected (32,)",
        "'image_encoder.mlp.decoder.bias' is torch.int64, expected floats",
    ):
        assert part in str(caught.value)
    save_file({"x": torch.zeros(1)}, weights_of(directory))
    with pytest.raises(CheckpointError, match=r"and [0-9]+ more$"):
        load_weights(directory)


def test_unusable_directories(directory):
    weights, config = weights_of(directory), directory / "config.yaml"
    content = weights.read_bytes()
    for damaged in (content[: len(content) // 2], content[:5], b"", bytes(100)):
        weights.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            load_weights(directory)
    save_file({"x": torch.zeros(1)}, weights, {"astroclip_format": "2"})
    for read in (load_weights, read_info):
        with pytest.raises(CheckpointError, match=r"newer astroclip \(format 2, this one reads 1\)"):
            read(directory)
    weights.write_bytes(content)
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**values, "colour": 1}))
    with pytest.raises(ConfigError, match="colour"):
        load_weights(directory)
    for path in (config, weights):
        path.unlink()
        with pytest.raises(CheckpointError, match=f"{path.name} is missing"):
            load_weights(directory)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_on_disk_and_computed_in_float32(tmp_path, dtype):
    config = small_config("specformer")
    state = released(tmp_path / "x.ckpt", config)
    half = {name.removeprefix("spectrum_encoder.backbone."): t.to(dtype) for name, t in state.items()}
    saved({"state_dict": half}, tmp_path / "half.ckpt")
    convert_checkpoint(tmp_path / "half.ckpt", tmp_path / "m", ["spectrum.num_heads=4"])
    assert {tensor.dtype for tensor in load_file(weights_of(tmp_path / "m")).values()} == {dtype}
    for name, tensor in load_weights(tmp_path / "m").state_dict().items():
        assert torch.equal(tensor, state[name].to(dtype).float())


def test_init_makes_an_untrained_model(tmp_path):
    config = init_model("mini", tmp_path / "m", ["image.depth=1", "name=small"], seed=4)
    assert (config.name, config.image.depth) == ("small", 1)
    assert read_info(tmp_path / "m").source == "untrained, seed 4"
    assert "Untrained" in (tmp_path / "m" / "README.md").read_text()
    expected = build_model(config, seed=4).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in load_weights(tmp_path / "m").state_dict().items())
    with pytest.raises(UsageError, match="--overwrite"):
        init_model("mini", tmp_path / "m")
