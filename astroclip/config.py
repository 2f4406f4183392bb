"""Frozen typed settings, read strictly from YAML and changed with ``key=value``.

A wrong key, type or value is one `ConfigError` that names the file, the key and what was expected.
"""

import copy
from importlib import resources
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from astroclip.errors import ConfigError


class Settings(BaseModel):
    """Base of all settings: immutable, and a key that is not known is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageEncoderConfig(Settings):
    """Sizes of the image encoder, a DINOv2 vision transformer (default: ViT-L/12 of the publication)."""

    image_size: int = Field(144, gt=0)  # px, side of the centre crop
    patch_size: int = Field(12, gt=0)  # px
    embed_dim: int = Field(1024, gt=0)
    depth: int = Field(24, gt=0)
    num_heads: int = Field(16, gt=0)
    mlp_ratio: float = Field(4, gt=0)
    layer_scale: float = Field(1e-5, gt=0)  # initial value
    drop_path: float = Field(0.0, ge=0, lt=1)  # in training, uniform over depth

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _divides(self.patch_size, self.image_size, "image_size", "patch_size")
        _divides(self.num_heads, self.embed_dim, "embed_dim", "num_heads")
        return self


class SpectrumEncoderConfig(Settings):
    """Sizes of the spectrum encoder, SpecFormer, and the slicing of its input (default: publication)."""

    section_length: int = Field(20, gt=0)  # spectral pixels in a patch
    section_overlap: int = Field(10, ge=0)  # spectral pixels shared by neighbouring patches
    max_len: int = Field(800, gt=0)  # rows of the position embedding
    embed_dim: int = Field(768, gt=0)
    num_layers: int = Field(6, gt=0)
    num_heads: int = Field(6, gt=0)
    mlp_ratio: float = Field(4, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)

    @property
    def input_dim(self) -> int:
        """Columns of a patch row: two for mean and standard deviation, then the section."""
        return self.section_length + 2

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _divides(self.num_heads, self.embed_dim, "embed_dim", "num_heads")
        if self.section_overlap >= self.section_length:
            raise ValueError(
                f"section_overlap {self.section_overlap} is not smaller than section_length "
                f"{self.section_length}"
            )
        return self


class HeadConfig(Settings):
    """Sizes of the two cross-attention heads that lead into the shared space (default: publication)."""

    embed_dim: int = Field(1024, gt=0)
    num_heads: int = Field(4, gt=0)
    mlp_ratio: float = Field(4, gt=0)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        _divides(self.num_heads, self.embed_dim, "embed_dim", "num_heads")
        return self


class ModelConfig(Settings):
    """What a model is made of.

    With `head` it is a CLIP model over the encoders it has; without, it is one encoder that stands alone
    and gives its own embedding (normalised CLS token, or mean over spectrum tokens).
    """

    name: str = "custom"
    image: ImageEncoderConfig | None = None
    spectrum: SpectrumEncoderConfig | None = None
    head: HeadConfig | None = None
    logit_scale: float = 15.5

    @model_validator(mode="after")
    def _has_encoders(self) -> Self:
        encoders = [e for e in (self.image, self.spectrum) if e is not None]
        if not encoders:
            raise ValueError("a model needs an 'image' or a 'spectrum' section")
        if self.head is None and len(encoders) == 2:
            raise ValueError("a model of images and spectra needs a 'head' section")
        return self


def _divides(divisor: int, number: int, what: str, by: str) -> None:
    if number % divisor:
        raise ValueError(f"{what} {number} is not a multiple of {by} {divisor}")


S = TypeVar("S", bound=Settings)


def make_settings(cls: type[S], values: dict[str, Any], where: str) -> S:
    """Validate `values` as settings of type `cls`; `where` names their origin in the error.

    Raises
    ------
    ConfigError
        Listing every wrong key, type and value.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(
            f"'{'.'.join(map(str, e['loc'])) or 'settings'}': {e['msg'].removeprefix('Value error, ')}"
            f" (got {e['input']!r})".replace(f" (got {values!r})", "")
            for e in error.errors()
        )
        raise ConfigError(f"{where}: {wrong}. Known keys: {', '.join(sorted(cls.model_fields))}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping, safely.

    Raises
    ------
    ConfigError
        If the file cannot be read, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values


def apply_overrides(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return `values` with ``key.sub=value`` strings applied, each value read as YAML.

    Raises
    ------
    ConfigError
        If an override is not ``key=value`` or passes through something that is not a section.
    """
    result = copy.deepcopy(values)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not (equals and key):
            raise ConfigError(f"'{override}': expected key=value, for example image.num_heads=16")
        *sections, last = key.split(".")
        node = result
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"'{override}': '{section}' is a value, not a section")
        try:
            node[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"'{override}': the value is not readable YAML") from None
    return result


def find_preset(source: str | Path, package: str, what: str) -> Path:
    """Return a YAML file: that of a preset's name in one of our packages, or `source` itself.

    Raises
    ------
    ConfigError
        If there is no such preset; `what` says of what.
    """
    path = Path(source)
    if path.suffix or path.is_file():
        return path
    presets = resources.files(package)
    preset = presets / f"{source}.yaml"
    if not preset.is_file():
        names = sorted(p.name.removesuffix(".yaml") for p in presets.iterdir() if p.name.endswith(".yaml"))
        raise ConfigError(f"no {what} '{source}'; known: {', '.join(names)}, or give a .yaml file")
    return Path(str(preset))


def read_model_config(source: str | Path, overrides: list[str] | None = None) -> ModelConfig:
    """Read a model configuration: a preset's name (``paper``, ``mini``) or a YAML file."""
    path = find_preset(source, "astroclip.configs.models", "model preset")
    return make_settings(ModelConfig, apply_overrides(read_yaml(path), overrides or []), str(source))
