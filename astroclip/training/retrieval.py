"""Retrieval across modalities: how often a galaxy's partner is among its nearest in the other modality.

Shapes: n galaxies, D width of the embedding.
"""

import torch
from torch import Tensor

from astroclip.model.clip import clip_logits

TOP_PERCENT = (1, 5, 10)
MAX_ROWS = 20_000  # galaxies that look for one another: n² similarities
_BLOCK = 1024  # galaxies that look at a time


def find_ranks(queries: Tensor, candidates: Tensor) -> Tensor:
    """Return how many candidates are more similar to each query than its own partner: (n,) float32.

    Row i of `queries` (n, D) and of `candidates` (n, D) are the same galaxy; similarity is the cosine. Of
    candidates just as similar as the partner half count, so that embeddings that are all alike do not look
    perfect; so do those that cannot be compared because a vector is not finite.
    """
    ranks = []
    for start in range(0, len(queries), _BLOCK):
        cosine = clip_logits(queries[start : start + _BLOCK], candidates, 1.0)
        own = cosine.diagonal(start)[:, None]
        above, not_below = (cosine > own).sum(dim=1), (~(cosine < own)).sum(dim=1) - 1
        ranks.append((above + not_below) / 2)
    return torch.cat(ranks)


def measure_retrieval(image: Tensor, spectrum: Tensor) -> dict[str, float]:
    """Return how well images and spectra find each other.

    Parameters
    ----------
    image, spectrum
        (n, D) embeddings, row i of both the same galaxy. Of more than `MAX_ROWS`, so many are used, evenly
        spread.

    Returns
    -------
    dict
        ``<direction>_recall1``, the fraction of galaxies whose partner is the nearest, and
        ``<direction>_top<p>pct``, among the nearest p %, for image_to_spectrum and spectrum_to_image; and
        ``chance_recall1``, ``chance_top<p>pct``, what embeddings without any knowledge would reach.
    """
    n = min(len(image), MAX_ROWS)
    rows = torch.arange(n, device=image.device) * len(image) // n
    image, spectrum = image[rows], spectrum[rows]
    places = {"recall1": 1} | {f"top{percent}pct": max(1, n * percent // 100) for percent in TOP_PERCENT}
    metrics = {f"chance_{name}": k / n for name, k in places.items()}
    directions = {"image_to_spectrum": (image, spectrum), "spectrum_to_image": (spectrum, image)}
    for direction, (queries, candidates) in directions.items():
        ranks = find_ranks(queries, candidates)
        for name, k in places.items():
            metrics[f"{direction}_{name}"] = (ranks <= k - 1).float().mean().item()
    return metrics
