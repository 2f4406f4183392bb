"""Model directories: ``model.safetensors`` (weights), ``config.yaml`` (sizes), ``README.md`` (model card).

Weights are kept in the precision they came in and computed with in float32, so that conversion changes no
number. The safetensors header carries the version of this layout as `FORMAT`.
"""

import hashlib
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from astroclip.config import ModelConfig, read_model_config
from astroclip.errors import CheckpointError, DataError, UsageError
from astroclip.files import written_beside
from astroclip.model.card import make_card, read_source
from astroclip.model.clip import AstroCLIP, build_model
from astroclip.model.released import read_released

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.yaml", "README.md"
MAX_LISTED = 20


class ModelInfo(NamedTuple):
    """What a list of models says of one: `width` is that of its embeddings, `path` None if it is not here."""

    name: str
    modality: str
    width: int
    parameters: int
    source: str
    path: Path | None


def save_model(
    model: AstroCLIP,
    config: ModelConfig,
    directory: str | Path,
    card: str | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Write a model directory; each file is written beside its place and renamed, the weights last.

    The same weights give the same bytes, and so the same `model_hash`.

    Raises
    ------
    UsageError
        If the directory holds a model already, unless `overwrite`.
    DataError
        If it cannot be written.
    """
    directory = Path(directory)
    _check_free(directory, overwrite)
    card = card or make_card(config, count_parts(model.state_dict()), "", "")
    values = yaml.safe_dump(config.model_dump(exclude_none=True), sort_keys=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # left in the opposite order: the weights get their name last
        with (
            written_beside(directory / WEIGHTS) as weights_file,
            written_beside(directory / CARD) as card_file,
            written_beside(directory / CONFIG) as config_file,
        ):
            config_file.write_text(values, encoding="utf-8")
            card_file.write_text(card, encoding="utf-8")
            # One entry only: the order of several in the header would be random.
            save_file(_separate(model.state_dict()), weights_file, {"astroclip_format": str(FORMAT)})
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{directory}: the model cannot be written ({error}); check space and rights"
        ) from None


def load_weights(directory: str | Path, device: str | torch.device = "cpu") -> AstroCLIP:
    """Load a directory's model, in float32 and evaluation mode; on the CPU its weights stay memory-mapped.

    Raises
    ------
    CheckpointError
        If files are missing, damaged or of a newer format, or if tensors are missing, unexpected or
        misshapen (all of them in one message).
    ConfigError
        If ``config.yaml`` has a wrong key or value.
    """
    directory = Path(directory)
    with _open_weights(directory, device) as weights:
        tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118 (not a mapping)
    return _fill(read_model_config(directory / CONFIG), tensors, f"{directory}: {WEIGHTS} against {CONFIG}")


def read_info(directory: str | Path) -> ModelInfo:
    """Describe the model of a directory without loading its weights; raises as `load_weights` does."""
    directory = Path(directory)
    with _open_weights(directory, "cpu") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    config = read_model_config(directory / CONFIG)
    encoders = {"image": config.image, "spectrum": config.spectrum}
    widths = [encoder.embed_dim for encoder in (config.head, *encoders.values()) if encoder is not None]
    return ModelInfo(
        name=config.name,
        modality=", ".join(name for name, encoder in encoders.items() if encoder is not None),
        width=widths[0],
        parameters=sum(torch.Size(shape).numel() for shape in shapes),
        source=read_source(directory / CARD),
        path=directory,
    )


def model_hash(directory: str | Path) -> str:
    """Return the first 16 hex digits of the weights' SHA-256; read once per process and file."""
    path = Path(directory) / WEIGHTS
    try:
        status = path.stat()
        return _sha256(path, status.st_size, status.st_mtime_ns)[:16]
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def convert_checkpoint(
    path: str | Path,
    directory: str | Path,
    overrides: list[str] | None = None,
    *,
    source: str | None = None,
    overwrite: bool = False,
) -> ModelConfig:
    """Turn one of the published checkpoints, a pickle, into a model directory, without executing it.

    Settings and layouts: see `astroclip.model.released.read_released`. No weight changes its value or its
    precision. The projection heads of AstroDINO's training are left out; the model card says so.

    Parameters
    ----------
    path
        ``astroclip.ckpt``, ``astrodino.ckpt`` or ``specformer.ckpt``, or another with their layout.
    directory
        The model directory to make.
    overrides
        ``key=value`` settings, for example ``image.num_heads=16``.
    source
        Where the checkpoint is from, for the card; default: its file name.
    overwrite
        Replace a model that is in the directory.

    Raises
    ------
    CheckpointError
        If the checkpoint is unsafe, damaged, of no known layout, or its tensors do not fit together.
    ConfigError
        If a setting is neither recorded, nor published for these sizes, nor given.
    UsageError, DataError
        As `save_model`.
    """
    path, directory = Path(path), Path(directory)
    _check_free(directory, overwrite)
    config, tensors, dropped = read_released(path, overrides)
    model = _fill(config, tensors, f"{path}: its tensors against the sizes found", keep_dtype=True)
    status = path.stat()
    origin = f"{path.name}, SHA-256 `{_sha256(path, status.st_size, status.st_mtime_ns)}`"
    groups = Counter(name.split(".")[0] for name in dropped)
    left_out = "; ".join(f"{count} tensors of `{group}`" for group, count in groups.items())
    notes = f"Converted from {origin}." + (
        f" Left out (only needed for its training): {left_out}." * bool(dropped)
    )
    save_model(
        model,
        config,
        directory,
        make_card(config, count_parts(tensors), source or path.name, notes),
        overwrite=overwrite,
    )
    return config


def init_model(
    preset: str | Path,
    directory: str | Path,
    overrides: list[str] | None = None,
    *,
    seed: int = 0,
    overwrite: bool = False,
) -> ModelConfig:
    """Make the directory of an untrained model, from a preset (``mini``, ``paper``) or a YAML file.

    Raises
    ------
    ConfigError
        If the settings are wrong.
    UsageError, DataError
        As `save_model`.
    """
    _check_free(Path(directory), overwrite)
    config = read_model_config(preset, overrides)
    model = build_model(config, seed)
    notes = f"**Untrained**: random weights of seed {seed}. Its embeddings mean nothing before training."
    card = make_card(config, count_parts(model.state_dict()), f"untrained, seed {seed}", notes)
    save_model(model, config, directory, card, overwrite=overwrite)
    return config


def is_model_directory(directory: Path) -> bool:
    """Say whether both files that make a model directory are there."""
    return (directory / WEIGHTS).is_file() and (directory / CONFIG).is_file()


def _fill(config: ModelConfig, tensors: dict[str, Tensor], where: str, keep_dtype: bool = False) -> AstroCLIP:
    """Build the model around `tensors` without copying them, or list all that do not fit."""
    model = AstroCLIP(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [f"missing '{name}' {expected[name]}" for name in expected if name not in found]
    wrong += [f"unexpected '{name}' {found[name]}" for name in found if name not in expected]
    wrong += [
        f"'{name}' has shape {found[name]}, expected {expected[name]}"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    wrong += [f"'{n}' is {t.dtype}, expected floats" for n, t in tensors.items() if not t.is_floating_point()]
    if wrong:
        more = f"; and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
        raise CheckpointError(f"{where}: {len(wrong)} do not fit: {'; '.join(wrong[:MAX_LISTED])}{more}")
    model.load_state_dict(tensors, assign=True)
    return (model if keep_dtype else model.float()).eval()


def _open_weights(directory: Path, device: str | torch.device) -> safe_open:
    """Open the weights of a model directory after checking that it is one that this version can read."""
    for name in (WEIGHTS, CONFIG):
        if not (directory / name).is_file():
            raise CheckpointError(
                f"{directory}: no model directory, {name} is missing. Make one: astroclip models --help"
            )
    try:
        weights = safe_open(directory / WEIGHTS, framework="pt", device=str(device))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{directory / WEIGHTS}: damaged or truncated ({error}); fetch it again"
        ) from None
    version = (weights.metadata() or {}).get("astroclip_format", str(FORMAT))
    if version != str(FORMAT):
        raise CheckpointError(
            f"{directory}: written by a newer astroclip (format {version:.20}, this one reads {FORMAT}). "
            "Update it: pip install --upgrade astroclip"
        )
    return weights


def _separate(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors that share no memory, as safetensors wants them."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        separate[name] = own.clone() if place in seen else own
        seen.add(place)
    return separate


def count_parts(state: dict[str, Tensor]) -> Counter[str]:
    """Count the parameters of each part: ``image_encoder.backbone``, ``image_encoder.mlp`` ..."""
    parts: Counter[str] = Counter()
    for name, tensor in state.items():
        parts[".".join(name.split(".")[:2])] += tensor.numel()
    return parts


def _check_free(directory: Path, overwrite: bool) -> None:
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory}: is a file, a model needs a directory")
    if (directory / WEIGHTS).exists() and not overwrite:
        raise UsageError(f"{directory}: holds a model already; give another directory or --overwrite")


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 (they are the cache's key)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
