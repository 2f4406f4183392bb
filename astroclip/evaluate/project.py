"""A map of embeddings: many dimensions on a plane."""

import warnings
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray


def has_umap() -> bool:
    """Tell whether umap-learn is installed: ``pip install 'astroclip[maps]'``."""
    return find_spec("umap") is not None


def project_vectors(
    vectors: NDArray, seed: int = 0, umap: bool = False
) -> tuple[NDArray[np.float64], tuple[str, str]]:
    """Return places (n, 2) of vectors (n, D) on a plane, and the names of its axes.

    UMAP of cosine distances (McInnes et al. 2018) with `umap`; else, and of fewer than 16 vectors, the two
    principal components of the normalised vectors. The names of the axes say which it was.
    """
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(length, 1e-3)
    if umap and len(unit) >= 16:
        return _umap(unit, seed), ("UMAP 1", "UMAP 2")
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # vectors that are all alike
        found = PCA(2, svd_solver="full").fit(unit.astype(float))
    places, share = found.transform(unit), 100 * np.nan_to_num(found.explained_variance_ratio_)
    first, second = (f"principal component {i + 1} ({share[i]:.0f} % of the variance)" for i in range(2))
    return places, (first, second)


def _umap(unit: NDArray, seed: int) -> NDArray[np.float64]:
    """Return UMAP's places; a seed makes it run on one core, and it warns of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from umap import UMAP

        neighbours = min(15, len(unit) - 1)
        places = UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed).fit_transform(unit)
    return np.asarray(places, np.float64)
