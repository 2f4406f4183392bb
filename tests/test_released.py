"""The published checkpoints: their layouts convert in any size, and give the original's numbers."""

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import published_name, released, saved, small_config

from astroclip.config import ModelConfig, read_model_config
from astroclip.errors import CheckpointError, ConfigError
from astroclip.model.checkpoint import convert_checkpoint, load_weights, read_info
from astroclip.model.clip import AstroCLIP
from astroclip.model.released import read_released

KINDS = ("astroclip", "astrodino", "specformer")


@pytest.mark.parametrize("chunks", [4, 2, 1, 0])
@pytest.mark.parametrize("kind", KINDS)
def test_published_layouts_convert(tmp_path, kind, chunks):
    config = small_config(kind)
    state = released(tmp_path / "x.ckpt", config, chunks)
    overrides = ["image.num_heads=3"] if kind == "astrodino" else []
    assert convert_checkpoint(tmp_path / "x.ckpt", tmp_path / "m", overrides) == config
    model = load_weights(tmp_path / "m")
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    card = (tmp_path / "m" / "README.md").read_text()
    assert hashlib.sha256((tmp_path / "x.ckpt").read_bytes()).hexdigest() in card
    assert ("1 tensors of `dino_head`" in card) == (kind == "astrodino")
    assert read_info(tmp_path / "m").source == "x.ckpt"
    assert "astroclip.model" not in (name for name in sys.modules if name == "astroclip.model.astroclip")


def test_other_sizes(tmp_path):
    changes = {
        "image": {"image_size": 30, "patch_size": 10, "embed_dim": 20, "num_heads": 5, "mlp_ratio": 1.5},
        "spectrum": {
            "section_length": 24,
            "section_overlap": 8,
            "max_len": 40,
            "embed_dim": 12,
            "num_heads": 3,
        },
        "head": {"embed_dim": 20, "num_heads": 2, "mlp_ratio": 2},
    }
    config = small_config("astroclip", **changes)
    released(tmp_path / "x.ckpt", config)
    assert convert_checkpoint(tmp_path / "x.ckpt", tmp_path / "m") == config
    load_weights(tmp_path / "m")


def test_overrides_win(tmp_path):
    released(tmp_path / "x.ckpt", small_config("astroclip"))
    overrides = ["name=mine", "spectrum.num_heads=8", "spectrum.section_overlap=0", "logit_scale=3"]
    config = convert_checkpoint(tmp_path / "x.ckpt", tmp_path / "m", overrides)
    assert (config.name, config.logit_scale) == ("mine", 3)
    assert (config.spectrum.num_heads, config.spectrum.section_overlap) == (8, 0)
    with pytest.raises(ConfigError, match="num_heads 7"):
        read_released(tmp_path / "x.ckpt", ["image.num_heads=7"])


def test_what_shapes_do_not_tell_is_asked_for(tmp_path):
    changes = {"section_length": 24, "section_overlap": 8}
    released(tmp_path / "x.ckpt", small_config("astroclip", spectrum=changes), record=False)
    wanted = "image.num_heads=... spectrum.section_overlap=... spectrum.num_heads=... head.num_heads=..."
    with pytest.raises(ConfigError, match=re.escape(wanted)):
        convert_checkpoint(tmp_path / "x.ckpt", tmp_path / "m")
    assert not (tmp_path / "m").exists()
    given = [part.replace("...", "8") for part in wanted.split()] + ["image.num_heads=3"]
    assert convert_checkpoint(tmp_path / "x.ckpt", tmp_path / "m", given).head.num_heads == 8


def test_published_widths_have_the_published_heads(tmp_path):
    sizes = {"embed_dim": 768, "num_heads": 6, "num_layers": 1, "mlp_ratio": 0.25, "max_len": 3, "dropout": 0}
    config = small_config("specformer", spectrum=sizes)
    released(tmp_path / "x.ckpt", config, record=False)
    assert read_released(tmp_path / "x.ckpt").config == config
    image = {"embed_dim": 1024, "num_heads": 16, "depth": 1, "mlp_ratio": 0.25}
    released(tmp_path / "x.ckpt", small_config("astrodino", image=image), chunks=1)
    assert read_released(tmp_path / "x.ckpt").config.image.num_heads == 16


def test_nonsense_in_the_hyper_parameters_is_not_believed(tmp_path):
    state = released(tmp_path / "x.ckpt", small_config("specformer"))
    plain = {name.removeprefix("spectrum_encoder.backbone."): tensor for name, tensor in state.items()}
    for wrong in ("many", None, True, [[]], {"n": 4}, torch.ones(1)):
        saved({"state_dict": plain, "hyper_parameters": {"num_heads": wrong}}, tmp_path / "y.ckpt")
        with pytest.raises(ConfigError, match=r"spectrum\.num_heads=\.\.\."):
            read_released(tmp_path / "y.ckpt")
    for wrong in (-4, 0, 3, 2.5, 1e300, float("nan")):
        saved({"state_dict": plain, "hyper_parameters": {"num_heads": wrong}}, tmp_path / "y.ckpt")
        with pytest.raises(ConfigError, match="num_heads"):
            read_released(tmp_path / "y.ckpt")


def test_the_teacher_is_taken_not_the_student(tmp_path):
    state = released(tmp_path / "x.ckpt", small_config("astrodino"))
    teacher = {name.removeprefix("image_encoder."): tensor for name, tensor in state.items()}
    student = {name: tensor + 1 for name, tensor in teacher.items()}
    saved({"student": student, "teacher": teacher}, tmp_path / "both.ckpt")
    found = read_released(tmp_path / "both.ckpt", ["image.num_heads=3"]).tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("checkpoint", "reason"),
    [
        ({"teacher": {}}, r"no published model: it holds teacher \(0 entries\)"),
        ({"teacher": {"dino_head.weight": torch.ones(1)}}, "no published model"),
        ({"student": {"backbone.cls_token": torch.ones(1)}}, "student"),
        ({"state_dict": {"conv1.weight": torch.ones(1)}}, "first conv1.weight"),
        ({"model": 3}, r"model \(int\); known are"),
        ([1], "it holds list"),
        ({"state_dict": {"data_embed.weight": 3}}, "not tensors: data_embed.weight"),
        ({"state_dict": {"data_embed.weight": torch.ones(4, 4), 5: torch.ones(1)}}, "not tensors: 5"),
        ({"state_dict": {"data_embed.weight": torch.ones(4)}}, r"has shape \(4,\), expected 2 dimensions"),
        ({"state_dict": {"data_embed.weight": torch.ones(0, 4)}}, r"has shape \(0, 4\)"),
        ({"state_dict": {"data_embed.bias": torch.ones(4)}}, r"data_embed\.weight' is missing"),
        (
            {"teacher": {"backbone.blocks.0.1.x": torch.ones(1), "backbone.blocks.1.1.x": torch.ones(1)}},
            "same number",
        ),
        (
            {
                "teacher": {
                    "backbone.patch_embed.proj.weight": torch.ones(8, 3, 4, 4),
                    "backbone.pos_embed": torch.ones(1, 8, 8),
                }
            },
            "7 patches of the image encoder are not a square",
        ),
    ],
)
def test_other_checkpoints_are_refused(tmp_path, checkpoint, reason):
    saved(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=reason):
        convert_checkpoint(tmp_path / "x.ckpt", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_tensors_that_do_not_fit_together(tmp_path):
    state = released(tmp_path / "x.ckpt", small_config("specformer"))
    plain = {name.removeprefix("spectrum_encoder.backbone."): tensor for name, tensor in state.items()}
    del plain["final_layernorm.bias"]
    plain["blocks.1.mlp.decoder.bias"] = torch.ones(3)
    saved({"state_dict": plain}, tmp_path / "y.ckpt")
    with pytest.raises(CheckpointError, match=r"2 do not fit: missing .*final_layernorm\.bias.*shape \(3,\)"):
        convert_checkpoint(tmp_path / "y.ckpt", tmp_path / "m", ["spectrum.num_heads=4"])


def test_shared_and_transposed_weights_are_written_apart(tmp_path):
    config = small_config("specformer")
    state = released(tmp_path / "x.ckpt", config)
    plain = {name.removeprefix("spectrum_encoder.backbone."): tensor for name, tensor in state.items()}
    plain["blocks.1.layernorm1.bias"] = plain["blocks.0.layernorm1.bias"]
    plain["data_embed.weight"] = plain["data_embed.weight"].T.contiguous().T
    saved({"state_dict": plain}, tmp_path / "y.ckpt")
    convert_checkpoint(tmp_path / "y.ckpt", tmp_path / "m", ["spectrum.num_heads=4"])
    loaded = load_weights(tmp_path / "m").spectrum_encoder.backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in plain.items())


# --- against the original --------------------------------------------------------------------------------


def largest_error(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def test_converted_models_give_the_original_numbers(golden, tmp_path):
    images = torch.from_numpy(np.load(golden / "preprocessing.npz")["collated"])
    spectrum_side, image_side, both = (
        np.load(golden / f"{name}.npz") for name in ("specformer", "astrodino", "astroclip")
    )
    spectra = torch.from_numpy(spectrum_side["spectra"])
    for name in ("specformer", "astrodino", "astroclip"):
        overrides = ["image.num_heads=3"] if name == "astrodino" else []
        convert_checkpoint(golden / f"{name}.ckpt", tmp_path / name, overrides)
    with torch.inference_mode():
        clip = load_weights(tmp_path / "astroclip")
        assert largest_error(clip.encode_image(images), both["image_embedding"]) < 1e-5
        assert largest_error(clip.encode_spectrum(spectra), both["spectrum_embedding"]) < 1e-5
        dino = load_weights(tmp_path / "astrodino")
        assert largest_error(dino.encode_image(images), image_side["cls"]) < 1e-5
        former = load_weights(tmp_path / "specformer")
        expected = spectrum_side["embedding"].mean(axis=1)[:3]  # the fourth, a constant, is noise
        assert largest_error(former.encode_spectrum(spectra[:3]), expected) < 5e-5


@pytest.mark.parametrize("kind", KINDS)
def test_our_names_go_back_to_the_published_ones(golden, kind):
    manifest = json.loads((golden / "manifest_full.json").read_text())[f"{kind}.ckpt"]
    published = [(name, tuple(shape)) for name, shape, _ in manifest.get("state_dict") or manifest["teacher"]]
    values = read_model_config("paper").model_dump()
    without = {"astroclip": (), "astrodino": ("spectrum", "head"), "specformer": ("image", "head")}[kind]
    config = ModelConfig(**{k: v for k, v in values.items() if k not in without})
    prefix = {"astroclip": "", "astrodino": "image_encoder.", "specformer": "spectrum_encoder.backbone."}[
        kind
    ]
    ours = [
        (published_name(name, depth=24).removeprefix(prefix), tuple(tensor.shape))
        for name, tensor in AstroCLIP(config).state_dict().items()
    ]
    assert sorted(ours) == sorted((n, s) for n, s in published if not n.startswith("dino_head."))


WRITE = """
import sys, torch
from collections import OrderedDict
sys.path.insert(0, sys.argv[2])
from checkpoints import published_name
from astroclip.config import read_model_config
from astroclip.model.clip import AstroCLIP
names = AstroCLIP(read_model_config("paper")).state_dict().items()
state = OrderedDict((published_name(n, 24), torch.empty(t.shape).uniform_(-1, 1)) for n, t in names)
torch.save({"state_dict": state, "hyper_parameters": {"temperature": 15.5}}, sys.argv[1])
"""
# VmHWM begins anew with the program; ru_maxrss would count the process that started it
CONVERT = """
import re, sys
from pathlib import Path
from astroclip.model.checkpoint import convert_checkpoint
convert_checkpoint(sys.argv[1], sys.argv[2])
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_a_full_size_checkpoint_converts_in_little_memory():
    with tempfile.TemporaryDirectory() as folder:
        path, directory = Path(folder, "astroclip.ckpt"), Path(folder, "model")
        python = [sys.executable, "-c"]
        subprocess.run([*python, WRITE, path, Path(__file__).parent], check=True)
        done = subprocess.run([*python, CONVERT, path, directory], check=True, capture_output=True, text=True)
        peak_kib = int(done.stdout)
        assert read_info(directory).parameters == 370_798_358
        assert (directory / "model.safetensors").stat().st_size > 1_483_000_000
        assert peak_kib < 3 * 2**20, f"{peak_kib / 2**20:.2f} GiB"
