"""The published checkpoints, as found on disk: which one it is, its tensors by our names, its sizes.

Three layouts (code release of May 2025): the AstroCLIP Lightning checkpoint, the AstroDINO teacher and the
SpecFormer Lightning checkpoint. Our names are theirs but for two things: the vision transformer's blocks
lose their chunk index (``blocks.3.23.`` is ``blocks.23.``), and a stand-alone encoder's names get the prefix
they have in the CLIP model (``image_encoder.backbone.``, ``spectrum_encoder.backbone.``).
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from astroclip.config import ModelConfig, apply_overrides, make_settings
from astroclip.errors import CheckpointError, ConfigError
from astroclip.model.unpickle import Placeholder, read_checkpoint

IMAGE = "image_encoder.backbone."
SPECTRUM = "spectrum_encoder.backbone."
_CHUNK = re.compile(rf"^{re.escape(IMAGE)}blocks\.\d+\.(\d+)\.")
_LAYOUTS = (
    "known are AstroCLIP (state_dict with image_encoder.* or spectrum_encoder.*), SpecFormer (state_dict "
    "with data_embed.*) and AstroDINO (teacher with backbone.*)"
)


class Released(NamedTuple):
    """What a published checkpoint holds; `dropped` names the tensors that embedding does not need."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    dropped: list[str]


def read_released(path: str | Path, overrides: list[str] | None = None) -> Released:
    """Read a published checkpoint without executing it.

    Sizes come from the shapes of the tensors. What shapes do not tell (numbers of heads, overlap of the
    sections, dropout) comes from `overrides`, else from the recorded hyper-parameters and plain attributes of
    pickled modules, else it is the published value if the sizes are the published ones.

    Parameters
    ----------
    path
        A file of ``torch.save``.
    overrides
        ``key=value`` settings that win over everything, for example ``image.num_heads=16``.

    Raises
    ------
    CheckpointError
        If the file is not readable safely, or not one of the three layouts.
    ConfigError
        If something is neither recorded nor given; it names the overrides that are needed.
    """
    checkpoint = read_checkpoint(path)
    name, state = _recognise(checkpoint, path)
    odd = [
        str(key)[:80]
        for key, value in state.items()
        if not (isinstance(key, str) and isinstance(value, Tensor))
    ]
    if odd:
        raise CheckpointError(f"{path}: not tensors: {', '.join(odd[:10])} ({len(odd)} in all)")
    prefix = {"astrodino": "image_encoder.", "specformer": SPECTRUM, "astroclip": ""}[name]
    renamed = {_CHUNK.sub(rf"{IMAGE}blocks.\1.", prefix + key): tensor for key, tensor in state.items()}
    if len(renamed) != len(state):
        raise CheckpointError(f"{path}: two blocks of the image encoder have the same number")
    wanted = ("image_encoder.", "spectrum_encoder.") if name == "astroclip" else (IMAGE, SPECTRUM)
    tensors = {key: tensor for key, tensor in renamed.items() if key.startswith(wanted)}
    dropped = [key.removeprefix(prefix) for key in renamed if key not in tensors]
    recorded = checkpoint.get("hyper_parameters")
    if not isinstance(recorded, Placeholder):
        recorded = Placeholder("hyper_parameters", "", state=recorded)
    values = _Sizes(path, tensors, recorded).values(name)
    return Released(_settle(values, overrides or [], path), tensors, dropped)


def _recognise(checkpoint: Any, path: str | Path) -> tuple[str, dict[Any, Any]]:
    """Return which published checkpoint this is, and its tensors by their published names."""
    found = checkpoint if isinstance(checkpoint, dict) else {}
    for name, part, marks in (
        ("astrodino", "teacher", ("backbone.",)),
        ("astroclip", "state_dict", ("image_encoder.", "spectrum_encoder.")),
        ("specformer", "state_dict", ("data_embed.",)),
    ):
        state = found.get(part)
        if isinstance(state, dict) and any(isinstance(key, str) and key.startswith(marks) for key in state):
            return name, state
    content = "; ".join(f"{key!s:.40} ({_summary(value)})" for key, value in list(found.items())[:10])
    raise CheckpointError(
        f"{path}: no published model: it holds {content or type(checkpoint).__name__}; {_LAYOUTS}"
    )


def _summary(value: Any) -> str:
    """Describe a part of a checkpoint in a few words."""
    if not isinstance(value, dict):
        return type(value).__name__
    return f"{len(value)} entries" + "".join(f", first {key!s:.60}" for key in list(value)[:1])


class _Sizes:
    """Reads settings off shapes and recorded values; None stands for what neither tells."""

    def __init__(self, path: str | Path, tensors: dict[str, Tensor], recorded: Placeholder) -> None:
        self.path, self.tensors, self.recorded = path, tensors, recorded

    def values(self, name: str) -> dict[str, Any]:
        """Return all settings of the model."""
        values: dict[str, Any] = {"name": name}
        if any(key.startswith(IMAGE) for key in self.tensors):
            values["image"] = self.image()
        if any(key.startswith(SPECTRUM) for key in self.tensors):
            values["spectrum"] = self.spectrum()
        if name == "astroclip":
            # Of Parker+24's two losses "temperature" scales the trained one, "logit_scale" the logged one.
            values["logit_scale"] = self.number("temperature", 15.5)
            values["head"] = self.head("image_encoder" if "image" in values else "spectrum_encoder")
        return values

    def image(self) -> dict[str, Any]:
        """Return the settings of the image encoder."""
        width, _, patch, _ = self.shape(f"{IMAGE}patch_embed.proj.weight", 4)
        positions = self.shape(f"{IMAGE}pos_embed", 3)[1] - 1  # the first is that of the CLS token
        side = math.isqrt(max(positions, 0))
        if side == 0 or side**2 != positions:
            raise CheckpointError(f"{self.path}: {positions} patches of the image encoder are not a square")
        hidden = self.shape(f"{IMAGE}blocks.0.mlp.fc1.weight", 2)[0]
        return {
            "image_size": side * patch,
            "patch_size": patch,
            "embed_dim": width,
            "depth": self.count_blocks(IMAGE),
            "num_heads": self.number("image_encoder.backbone.num_heads", 16 if width == 1024 else None),
            "mlp_ratio": hidden / width,
        }

    def spectrum(self) -> dict[str, Any]:
        """Return the settings of the spectrum encoder."""
        width, columns = self.shape(f"{SPECTRUM}data_embed.weight", 2)
        hidden = self.shape(f"{SPECTRUM}blocks.0.mlp.encoder.weight", 2)[0]
        section = columns - 2  # two columns are for the mean and standard deviation
        return {
            "section_length": section,
            "section_overlap": self.spectrum_number("slice_overlap", 10 if section == 20 else None),
            "max_len": self.shape(f"{SPECTRUM}position_embed.weight", 2)[0],
            "embed_dim": width,
            "num_layers": self.count_blocks(SPECTRUM),
            "num_heads": self.spectrum_number("num_heads", 6 if width == 768 else None),
            "mlp_ratio": hidden / width,
            "dropout": self.spectrum_number("dropout", 0.0),
        }

    def head(self, encoder: str) -> dict[str, Any]:
        """Return the settings of the cross-attention heads."""
        width = self.shape(f"{encoder}.cross_attention.query", 3)[-1]
        hidden = self.shape(f"{encoder}.mlp.encoder.weight", 2)[0]
        return {
            "embed_dim": width,
            "num_heads": self.number(
                f"{encoder}.cross_attention.multihead_attn.num_heads", 4 if width == 1024 else None
            ),
            "mlp_ratio": hidden / width,
            "dropout": self.number(f"{encoder}.mlp.dropout_layer.p", 0.1),
        }

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Return a tensor's shape, which must have this many dimensions, none of them 0."""
        shape = tuple(self.tensors[name].shape) if name in self.tensors else None
        if shape is None or len(shape) != dimensions or 0 in shape:
            found = "is missing" if shape is None else f"has shape {shape}"
            raise CheckpointError(f"{self.path}: tensor '{name}' {found}, expected {dimensions} dimensions")
        return shape

    def count_blocks(self, prefix: str) -> int:
        """Return the number of transformer blocks."""
        pattern = re.compile(rf"{re.escape(prefix)}blocks\.(\d+)\.")
        return len({match[1] for match in map(pattern.match, self.tensors) if match})

    def number(self, path: str, default: float | None = None) -> float | None:
        """Return a recorded number, else the default."""
        value = self.recorded.attribute(path)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else default

    def spectrum_number(self, name: str, default: float | None) -> float | None:
        """Return a number that SpecFormer records: at the top, or in the CLIP model's pickled module."""
        return self.number(name, self.number(f"spectrum_encoder.backbone._hparams.{name}", default))


def _settle(values: dict[str, Any], overrides: list[str], path: str | Path) -> ModelConfig:
    """Apply the overrides and make the settings, or name the overrides that are still needed."""
    values = apply_overrides(values, overrides)
    sections = ((name, section) for name, section in values.items() if isinstance(section, dict))
    missing = [
        f"{name}.{key}" for name, section in sections for key, value in section.items() if value is None
    ]
    if missing:
        raise ConfigError(
            f"{path}: tensor shapes do not tell {' and '.join(missing)}, and the checkpoint does not record "
            f"{'it' if len(missing) == 1 else 'them'}. Add to the command: "
            + " ".join(f"{key}=..." for key in missing)
        )
    return make_settings(ModelConfig, values, str(path))
