"""A copy of the model that ships, from which predictors learn in a moment."""

import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.numpy import save_file

from astroclip.model.hub import find_model
from astroclip.predict.reference import REFERENCE

KEPT = ("_EMBEDDING", "Z", "LOG_MSTAR", "Z_MW", "TAGE_MW", "AVG_SFR", "_debiased", "_total-votes")


def copy_mini(folder: Path) -> Path:
    """Copy `mini` with 150 rows of its reference."""
    shutil.copytree(find_model("mini"), folder)
    with safe_open(folder / REFERENCE, "numpy") as file:
        read = {name: file.get_tensor(name) for name in file.keys() if name.endswith(KEPT)}  # noqa: SIM118
        said = file.metadata()
    few = {name: values[:: len(values) // 150].copy() for name, values in read.items()}
    save_file(few, folder / REFERENCE, metadata=said)
    return folder
