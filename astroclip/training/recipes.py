"""Read a recipe: a preset or YAML file and ``key=value`` in, settings out.

The published recipes are ``configs/{spectrum,image,clip}.yaml``; small ones, for a CPU,
``configs/mini-*.yaml``.
"""

from collections.abc import Sequence
from pathlib import Path

from astroclip.config import apply_overrides, find_preset, make_settings, read_model_config, read_yaml
from astroclip.errors import ConfigError
from astroclip.model.checkpoint import CONFIG
from astroclip.model.hub import find_model
from astroclip.training.settings import KINDS, ClipTraining, Training


def read_training(kind: str, config: str | Path | None = None, overrides: Sequence[str] = ()) -> Training:
    """Read the settings of a training.

    Parameters
    ----------
    kind
        ``spectrum``, ``image`` or ``clip``.
    config
        Name of a preset, as ``mini-spectrum``, or a YAML file; default: the published recipe of the kind.
    overrides
        ``key=value`` settings, for example ``optim.lr=1e-4``.

    Raises
    ------
    ConfigError
        If there is no such preset or file, or listing every wrong key, type and value.
    """
    if kind not in KINDS:
        raise ConfigError(f"no training '{kind}'; known: {', '.join(KINDS)}")
    source = config or kind
    values = apply_overrides(read_yaml(find_preset(source, "astroclip.configs", "preset")), list(overrides))
    return make_settings(KINDS[kind], values, str(source))


def find_encoders(settings: ClipTraining) -> ClipTraining:
    """Look up the models that an alignment starts from: their directories, and their sizes in `model`.

    Dropout and drop path, which weights do not depend on, stay those of `settings.model`.

    Raises
    ------
    CheckpointError
        If there is no such model; it says what there is and how to get one.
    ConfigError
        If a model has no encoder of that kind.
    """
    found: dict[str, str] = {}
    sizes = {}
    for name in ("image", "spectrum"):
        if (source := getattr(settings, name)) is None:
            continue
        directory = find_model(source)
        encoder = getattr(read_model_config(directory / CONFIG), name)
        if encoder is None:
            raise ConfigError(f"{name}={source}: that model has no {name} encoder")
        own = getattr(settings.model, name)
        kept = {key: getattr(own, key) for key in ("dropout", "drop_path") if hasattr(own, key)}
        sizes[name] = encoder.model_copy(update=kept)
        found[name] = str(directory)
    return settings.model_copy(update={**found, "model": settings.model.model_copy(update=sizes)})
