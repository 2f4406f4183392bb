"""Predictors on disk: ``predictor.safetensors`` (all numbers) and ``predictor.yaml`` (all else)."""

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

NUMBERS, SETTINGS = "predictor.safetensors", "predictor.yaml"
FORMAT = "astroclip predictor 3"
NUMBER_ARRAYS = ("beside", "lowest", "highest", "floor")
TARGET_ARRAYS = ("centre", "scale", "bins")
VOTE_ARRAYS = ("fractions", "temperature")


def save_predictor(predictor: Predictor, directory: str | Path, *, overwrite: bool = False) -> None:
    """Write a predictor to a directory, with the reference's vectors: no other file is needed to use it.

    Raises
    ------
    UsageError
        If there is one already.
    """
    directory, fitted = Path(directory), predictor.fitted
    if (directory / SETTINGS).exists() and not overwrite:
        raise UsageError(f"{directory}: has a predictor already; replace it with --overwrite")
    arrays: dict[str, NDArray] = {"vectors": fitted.neighbours.reference}
    if isinstance(fitted, NumberPredictor):
        arrays |= {name: getattr(fitted, name) for name in NUMBER_ARRAYS}
        arrays |= {f"target.{name}": getattr(fitted.target, name) for name in TARGET_ARRAYS}
        for i, calibration in enumerate(fitted.calibration):
            arrays |= {f"calibration.{i}.{name}": value for name, value in calibration._asdict().items()}
    else:
        arrays |= {name: getattr(fitted, name) for name in VOTE_ARRAYS}
    arrays |= _network_arrays(fitted.network)
    if predictor.agreement:
        arrays |= {"pair_centre": predictor.agreement.centre, "pair_scale": predictor.agreement.scale}
        arrays["pair_usual"] = np.array(predictor.agreement[2:])
    settings = {
        "format": FORMAT,
        "task": predictor.task,
        "method": fitted.method,
        "k": fitted.neighbours.k,
        "far": fitted.far,
        "inputs": list(predictor.inputs),
        "widths": list(predictor.widths),
        "names": list(predictor.labels.names),
        "units": list(predictor.labels.units),
        "columns": list(predictor.labels.columns),
        "questions": {q: list(answers) for q, answers in predictor.labels.questions.items()},
        "reference": predictor.reference,
        "model": predictor.model,
        "digest": predictor.digest,
        "rows": predictor.rows,
        "few": predictor.few,
    }
    directory.mkdir(parents=True, exist_ok=True)
    contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    with written_beside(directory / SETTINGS) as about, written_beside(directory / NUMBERS) as numbers:
        save_file(contiguous, numbers, metadata={"format": FORMAT})
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
        said = read_yaml(directory / SETTINGS)
        arrays = load_file(directory / NUMBERS)
    except (ConfigError, OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory}: no readable predictor ({error}). Make one: astroclip predict --save-predictor"
        ) from None
    if said.get("format") != FORMAT:
        raise CheckpointError(f"{directory}: not a predictor of this version ({FORMAT}). Make it again")
    if said.get("task") != task:
        raise CheckpointError(f"{directory}: predicts {said.get('task')}, not {task}")
    try:
        return _build(said, arrays)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{directory}: {SETTINGS} and {NUMBERS} do not fit together ({error})"
        ) from None


def _build(said: dict[str, Any], arrays: dict[str, NDArray]) -> Predictor:
    """Put a predictor together."""
    questions = {q: tuple(map(str, answers)) for q, answers in said["questions"].items()}
    neighbours = Neighbours(arrays["vectors"], said["k"])
    network = _network(arrays)
    far = float(said["far"])
    fitted: NumberPredictor | VotePredictor
    if questions:
        assert not isinstance(network, Flows)
        fitted = VotePredictor(
            said["method"], questions, neighbours, arrays["fractions"], network, arrays["temperature"], far
        )
    else:
        numbers: dict[str, Any] = {name: arrays[name] for name in NUMBER_ARRAYS}
        known = {name: arrays[f"target.{name}"] for name in TARGET_ARRAYS}
        target = LabelScale(redshift=said["task"] == "redshift", **known)
        calibration = [
            Calibration(arrays[f"calibration.{i}.middle"], arrays[f"calibration.{i}.score"])
            for i in range(len(target.centre))
        ]
        fitted = NumberPredictor(
            method=said["method"], neighbours=neighbours, network=network, far=far, target=target,
            calibration=calibration, **numbers,
        )  # fmt: skip
    width = len(arrays["fractions"][0]) if questions else arrays["beside"].shape[1]
    names, units, columns = (tuple(map(str, said[name])) for name in ("names", "units", "columns"))
    labels = ReferenceLabels(names, units, columns, np.zeros((0, width)), questions)
    agreement = None
    if "pair_usual" in arrays:
        agreement = Agreement(arrays["pair_centre"], arrays["pair_scale"], *map(float, arrays["pair_usual"]))
    return Predictor(
        said["task"], tuple(said["inputs"]), tuple(said["widths"]), labels, fitted, agreement,
        said["reference"], said["model"], said["digest"], int(said["rows"]), bool(said["few"]),
    )  # fmt: skip


def _network_arrays(network: Ensemble | Flows | None) -> dict[str, NDArray]:
    """Return the numbers of a network by name."""
    if isinstance(network, Ensemble):
        pairs = {"weight": network.weights, "bias": network.biases}
        return {f"mlp.{i}.{name}": t.numpy() for name, parts in pairs.items() for i, t in enumerate(parts)}
    if isinstance(network, Flows):
        arrays = {
            f"flow.{i}.{name}": tensor.numpy()
            for i, flow in enumerate(network.flows)
            for name, tensor in flow.state_dict().items()
        }
        return arrays | {"flow.sizes": np.array([network.width, network.outputs])}
    return {}


def _network(arrays: dict[str, NDArray]) -> Ensemble | Flows | None:
    """Build a network of its numbers."""
    if "flow.sizes" in arrays:
        flows = make_flows(*map(int, arrays["flow.sizes"]))
        for i, flow in enumerate(flows.flows):
            start = f"flow.{i}."
            state = {
                n.removeprefix(start): torch.from_numpy(a) for n, a in arrays.items() if n.startswith(start)
            }
            flow.load_state_dict(state)
            flow.requires_grad_(requires_grad=False)
        return flows
    layers = sum(name.startswith("mlp.") for name in arrays) // 2
    if not layers:
        return None
    found = ([torch.from_numpy(arrays[f"mlp.{i}.{n}"]) for i in range(layers)] for n in ("weight", "bias"))
    return Ensemble(*found)
