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
