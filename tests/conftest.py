"""Fixtures shared by all tests: where the reference numbers and the real survey files are."""

import os
from pathlib import Path

import numpy as np
import pytest

SHARED = Path(os.environ.get("ASTROCLIP_SHARED", Path(__file__).parents[2] / "shared"))


def _folder(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"needs {path}: the folder of reference numbers and real survey files is not here")
    return path


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of numbers made with the original code."""
    return _folder("golden")


@pytest.fixture(scope="session")
def survey_data() -> Path:
    """The folder of small real survey files."""
    return _folder("data")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240607)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of both modalities, small enough to run in milliseconds; random weights."""
    from astroclip.config import ModelConfig, make_settings
    from astroclip.model.checkpoint import save_model
    from astroclip.model.clip import build_model

    sizes = {
        "name": "tiny",
        "image": {"embed_dim": 24, "depth": 2, "num_heads": 2},
        "spectrum": {"embed_dim": 16, "num_layers": 1, "num_heads": 2},
        "head": {"embed_dim": 32, "num_heads": 2},
    }
    config = make_settings(ModelConfig, sizes, "conftest")
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_model(build_model(config, seed=1), config, directory)
    return directory
