"""Galaxies in one embedding space: images and spectra to redshifts, properties, morphologies, look-alikes.

The public names are loaded when first used, so that ``import astroclip`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from astroclip.model.embedder import Embedder, load_model
    from astroclip.model.prepare_images import to_rgb
    from astroclip.predict.embed import embed_catalog

_WHERE = {
    "__version__": "astroclip.schema",
    "Embedder": "astroclip.model.embedder",
    "load_model": "astroclip.model.embedder",
    "embed_catalog": "astroclip.predict.embed",
    "to_rgb": "astroclip.model.prepare_images",
}
__all__ = ["Embedder", "embed_catalog", "load_model", "to_rgb"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'astroclip' has no attribute '{name}'")
    return getattr(import_module(_WHERE[name]), "VERSION" if name == "__version__" else name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
