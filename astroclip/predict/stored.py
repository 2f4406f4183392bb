"""Predictors on disk: ``predictor.safetensors`` (all arrays) and ``predictor.yaml`` (all else).

The YAML file has the fields of a predictor as its classes have them; where an array belongs it has its name.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from astroclip.config import read_yaml
from astroclip.errors import CheckpointError, ConfigError, UsageError
from astroclip.files import written_beside
from astroclip.predict.agreement import Agreement
from astroclip.predict.flow import Flows, make_flows
from astroclip.predict.heads import Ensemble
from astroclip.predict.knn import Neighbours
from astroclip.predict.label_columns import ReferenceLabels
from astroclip.predict.numbers import LabelScale, NumberPredictor
from astroclip.predict.posterior import Calibration
from astroclip.predict.predictor import Predictor
from astroclip.predict.votes import VotePredictor

ARRAYS, FIELDS = "predictor.safetensors", "predictor.yaml"
FORMAT = "astroclip predictor 4"
PARTS = {
    part.__name__: part
    for part in (
        Predictor, ReferenceLabels, NumberPredictor, VotePredictor, LabelScale, Calibration, Agreement,
        Ensemble,
    )
}  # fmt: skip
PART, ARRAY, TENSOR = "=part", "=array", "=tensor"  # keys that no label has


def save_predictor(predictor: Predictor, directory: str | Path, *, overwrite: bool = False) -> None:
    """Write a predictor to a directory, with the reference's vectors: no other file is needed to use it.

    Raises
    ------
    UsageError
        If there is one already.
    """
    directory = Path(directory)
    if (directory / FIELDS).exists() and not overwrite:
        raise UsageError(f"{directory}: has a predictor already; replace it with --overwrite")
    arrays: dict[str, NDArray] = {}
    fields = {"format": FORMAT, "predictor": _take_apart(predictor, "predictor", arrays)}
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    directory.mkdir(parents=True, exist_ok=True)
    with written_beside(directory / FIELDS) as about, written_beside(directory / ARRAYS) as numbers:
        save_file(arrays, numbers, metadata={"format": FORMAT})
        about.write_text(text, encoding="utf-8")


def load_predictor(directory: str | Path, task: str) -> Predictor:
    """Read a predictor of a task.

    Raises
    ------
    CheckpointError
        If there is none, its files do not fit together, or it predicts something else.
    """
    directory = Path(directory)
    try:
        fields = read_yaml(directory / FIELDS)
        arrays = load_file(directory / ARRAYS)
    except (ConfigError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory}: no readable predictor ({error}). Make one: astroclip predict --save-predictor"
        ) from None
    if fields.get("format") != FORMAT:
        raise CheckpointError(f"{directory}: not a predictor of this version ({FORMAT}). Make it again")
    try:
        predictor = _put_together(fields["predictor"], arrays)
        known = predictor.task
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{directory}: {FIELDS} and {ARRAYS} do not fit together ({error})") from None
    if known != task:
        raise CheckpointError(f"{directory}: predicts {known}, not {task}")
    return predictor


def _take_apart(value: Any, name: str, arrays: dict[str, NDArray]) -> Any:
    """Return what YAML holds of a value; its arrays are put under their dotted names."""
    if isinstance(value, np.ndarray | torch.Tensor):
        arrays[name] = np.ascontiguousarray(value)
        return {TENSOR if isinstance(value, torch.Tensor) else ARRAY: name}
    part = type(value).__name__
    if isinstance(value, Neighbours):
        value = {"k": value.k, "reference": value.reference}
    elif isinstance(value, Flows):
        states = [flow.state_dict() for flow in value.flows]
        value = {"width": value.width, "outputs": value.outputs, "states": states}
    elif part in PARTS:
        value = value._asdict()
    elif isinstance(value, list | tuple):
        return [_take_apart(one, f"{name}.{i}", arrays) for i, one in enumerate(value)]
    elif not isinstance(value, dict):
        return value.item() if isinstance(value, np.generic) else value
    known = {} if part in ("dict", "OrderedDict") else {PART: part}
    return known | {str(key): _take_apart(one, f"{name}.{key}", arrays) for key, one in value.items()}


def _put_together(held: Any, arrays: dict[str, NDArray]) -> Any:
    """Return the value that was taken apart; lists become tuples."""
    if isinstance(held, list):
        return tuple(_put_together(one, arrays) for one in held)
    if not isinstance(held, dict):
        return held
    if ARRAY in held or TENSOR in held:
        array = arrays[held.get(ARRAY) or held[TENSOR]]
        return torch.from_numpy(array) if TENSOR in held else array
    fields = {key: _put_together(one, arrays) for key, one in held.items() if key != PART}
    part = held.get(PART)
    if part == Neighbours.__name__:
        return Neighbours(**fields)
    if part == Flows.__name__:
        flows = make_flows(fields["width"], fields["outputs"])
        for flow, state in zip(flows.flows, fields["states"], strict=True):
            flow.load_state_dict(state)
            flow.requires_grad_(requires_grad=False)
        return flows
    return fields if part is None else PARTS[part](**fields)
