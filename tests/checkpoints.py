"""Builders of checkpoint files: published layouts in any size, and files no one should have written."""

import re
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from astroclip.config import ModelConfig, make_settings
from astroclip.model.clip import build_model

IMAGE = {"image_size": 24, "patch_size": 6, "embed_dim": 24, "depth": 4, "num_heads": 3, "mlp_ratio": 2}
SPECTRUM = {"max_len": 30, "embed_dim": 16, "num_layers": 2, "num_heads": 4, "mlp_ratio": 3, "dropout": 0.1}
HEAD = {"embed_dim": 32, "num_heads": 8, "dropout": 0.2}


def small_config(kind: str, **changes: dict[str, Any]) -> ModelConfig:
    """The settings of a small model of a published kind."""
    parts = {"astroclip": ("image", "spectrum", "head"), "astrodino": ("image",), "specformer": ("spectrum",)}
    sizes = {"image": IMAGE, "spectrum": SPECTRUM, "head": HEAD}
    values: dict[str, Any] = {part: sizes[part] | changes.get(part, {}) for part in parts[kind]}
    return make_settings(ModelConfig, {"name": kind, **values}, "test")


def published_name(name: str, depth: int, chunks: int = 4) -> str:
    """Our name of a tensor of a CLIP model, as the release has it: blocks of the ViT in chunks."""
    block = re.match(r"image_encoder\.backbone\.blocks\.(\d+)\.", name)
    if not (block and chunks):
        return name
    number = int(block[1])
    return name.replace(f"blocks.{number}.", f"blocks.{number * chunks // depth}.{number}.", 1)


def released(path: Path, config: ModelConfig, chunks: int = 4, record: bool = True) -> dict[str, Tensor]:
    """Write a checkpoint in the published layout of `config.name`; return its tensors by our names.

    `chunks` 0 writes plain block numbers. `record` False leaves the hyper-parameters out.
    """
    state = build_model(config, seed=5).state_dict()
    depth = config.image.depth if config.image else 0
    names = {name: published_name(name, depth, chunks) for name in state}
    prefix = {"astroclip": "", "astrodino": "image_encoder.", "specformer": "spectrum_encoder.backbone."}[
        config.name
    ]
    weights = OrderedDict((names[name].removeprefix(prefix), tensor) for name, tensor in state.items())
    checkpoint: dict[str, Any] = {"epoch": 2, "state_dict": weights, "optimizer_states": []}
    if config.name == "astrodino":
        weights["dino_head.last_layer.weight_g"] = torch.ones(5, 1)
        checkpoint = {"teacher": weights}
    elif record:
        checkpoint["hyper_parameters"] = _hyper_parameters(config)
    with _foreign_modules():
        torch.save(checkpoint, path)
    return state


class ImageHead(nn.Module):
    """Poses as the published class of this name, which does not exist here."""


class SpectrumHead(ImageHead):
    """The same for spectra."""


class SpecFormer(nn.Module):
    """The same; Lightning records its settings."""


FOREIGN = {
    "astroclip.model.astroclip": (ImageHead, SpectrumHead),
    "astroclip.model.specformer": (SpecFormer,),
}


@contextmanager
def _foreign_modules() -> Iterator[None]:
    """Let pickle find the published classes while a checkpoint is written, and never after."""
    real = {name: sys.modules.get(name) for name in FOREIGN}
    for name, classes in FOREIGN.items():
        sys.modules[name] = types.ModuleType(name)
        for cls in classes:
            cls.__module__ = name
            setattr(sys.modules[name], cls.__name__, cls)
    try:
        yield
    finally:
        for name, module in real.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def _hyper_parameters(config: ModelConfig) -> dict[str, Any]:
    """What Lightning records of a model of this kind."""
    recorded: dict[str, Any] = {}
    if config.spectrum:
        recorded = {
            "input_dim": config.spectrum.input_dim,
            "embed_dim": config.spectrum.embed_dim,
            "num_heads": config.spectrum.num_heads,
            "slice_section_length": config.spectrum.section_length,
            "slice_overlap": config.spectrum.section_overlap,
            "dropout": config.spectrum.dropout,
        }
    if config.head is None:
        return {**recorded, "_class_path": "astroclip.model.SpecFormer", "_instantiator": "jsonargparse"}
    heads: dict[str, Any] = {"temperature": config.logit_scale, "logit_scale": 2.7}
    for encoder, cls in (("image_encoder", ImageHead), ("spectrum_encoder", SpectrumHead)):
        head = heads[encoder] = cls()
        head.backbone = SpecFormer() if encoder == "spectrum_encoder" else nn.Module()
        head.cross_attention, head.mlp = nn.Module(), nn.Module()
        head.cross_attention.multihead_attn = nn.MultiheadAttention(
            config.head.embed_dim, config.head.num_heads
        )
        head.mlp.dropout_layer = nn.Dropout(config.head.dropout)
    heads["image_encoder"].backbone.num_heads = config.image.num_heads
    heads["spectrum_encoder"].backbone._hparams = recorded
    return heads


# --- pickles by hand -------------------------------------------------------------------------------------


def text(string: str) -> bytes:
    """The instruction that pushes a string."""
    return b"X" + struct.pack("<I", len(string.encode())) + string.encode()


def number(value: int) -> bytes:
    """The instruction that pushes an integer of any size."""
    return b"\x8a\x20" + value.to_bytes(32, "little", signed=True)


def write_zip(
    path: Path, pickled: bytes, entries: dict[str, bytes] | None = None, compression: int = 0
) -> Path:
    """Write a checkpoint file around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {"data.pkl": pickled, "byteorder": b"little", **(entries or {})}.items():
            archive.writestr(f"archive/{name}", content)
    return path


def saved(checkpoint: object, path: Path, **options: Any) -> Path:
    """Write a checkpoint with torch."""
    torch.save(checkpoint, path, **options)
    return path


def small_checkpoint() -> dict[str, Any]:
    """A checkpoint with one of everything that published ones have: weights, optimizer, pickled modules."""
    torch.manual_seed(1)
    layer = nn.Linear(3, 2)
    layer.num_heads = 7
    kinds = (
        torch.float16,
        torch.device("cpu"),
        torch.Size([2, 3]),
        {1, 2},
        frozenset("a"),
        b"\0\1",
        -(2**70),
    )
    return {
        "epoch": 3,
        "version": "2.6",
        "state_dict": layer.state_dict(),
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0), "m": torch.ones(2)}}, "lr": 1e-4}],
        "hyper_parameters": {"encoder": nn.Sequential(OrderedDict(inner=layer)), "scale": 15.5, "flag": None},
        "kinds": kinds,
    }
