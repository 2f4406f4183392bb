"""Galaxies in one embedding space: images and spectra to redshifts, properties, morphologies, look-alikes.

The public names are loaded when first used, so that ``import astroclip`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from astroclip.model.embedder import Embedder, load_model
    from astroclip.model.prepare_images import to_rgb
    from astroclip.predict.embed import embed_catalog

__version__ = "0.1.0"

_WHERE = {
    "Embedder": "astroclip.model.embedder",
    "load_model": "astroclip.model.embedder",
    "embed_catalog": "astroclip.predict.embed",
    "to_rgb": "astroclip.model.prepare_images",
}
__all__ = ["Embedder", "embed_catalog", "load_model", "to_rgb"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'astroclip' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
