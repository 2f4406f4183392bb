"""Time from cut-outs to the 2 + 8 views of DINOv2, and from the disk, per core, against plain SciPy.

    python benchmarks/views.py [number of images] [cuda]

Times are CPU time of one thread, the best of several, so that a busy machine changes them little; on a GPU
elapsed time. The peer makes view after view with NumPy and scipy.ndimage, as scikit-image would.

The limit to compare with: the published training saw 250,000 x 72 x 20 images in 46 h on nodes of 4 A100s,
435 images/s a node.

Measured on 2 cores that were busy with other trainings: 2.0 to 2.6 times as fast as SciPy (5 ms an image),
430 to 490 images/s a core with the reading, which takes 1 to 3 % of it. What limits it is arithmetic: a
galaxy has 211,000 pixels of views, all of them stretched (0.3 ms), cropped and flipped (0.2 ms); a quarter of
them gets noise (0.2 ms: torch draws a normal number in 3 ns) and a quarter is blurred (0.2 ms).
The pieces on their own add up to 1 ms; together, on busy cores, their many passes through memory cost as much
again. In training on GPUs the views are made there, and a core has only to read.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy import ndimage

from astroclip.model.views import NOISE_SIGMA, PSF_SIGMA, View, make_views

VIEWS = (View(144, 1, 0.0, 0.0), View(144, 1, 0.9, 0.9), View(60, 8, 0.5, 0.5))
PUBLISHED = 250_000 * 72 * 20 / (46 * 3600) / 5  # images/s of a node
RUN_ROWS = 250  # rows read together


def draw_sigma_plainly(lognormal: dict, rng: np.random.Generator) -> list[float]:
    """Draw one excess sigma for each band."""
    sigmas = []
    for shape, loc, scale in zip(lognormal["shape"], lognormal["loc"], lognormal["scale"], strict=True):
        true, wanted = loc + scale * np.exp(shape * rng.standard_normal(2))
        sigmas.append(np.sqrt(max(0, wanted**2 - true**2)))
    return sigmas


def make_view_plainly(image: np.ndarray, view: View, rng: np.random.Generator) -> np.ndarray:
    """Make one view of one image, as it is usually written down."""
    size = view.size
    top, left = rng.integers(0, image.shape[-1] - size + 1, 2)
    crop = image[:, top : top + size, left : left + size]
    for axis in (1, 2):
        if rng.random() < 0.5:
            crop = np.flip(crop, axis)
    if rng.random() < view.blur:
        sigmas = draw_sigma_plainly(PSF_SIGMA, rng)
        pairs = zip(crop, sigmas, strict=True)
        crop = np.stack([ndimage.gaussian_filter(band, sigma, mode="reflect") for band, sigma in pairs])
    if rng.random() < view.noise:
        sigmas = draw_sigma_plainly(NOISE_SIGMA, rng)
        noise = [rng.normal(0, sigma, (size, size)).astype(np.float32) for sigma in sigmas]
        crop = crop + np.stack(noise)
    scaled = crop * np.array([6.0, 3.4, 2.2], np.float32)[:, None, None] + np.float32(0.03)
    intensity = np.maximum(0, scaled).mean(axis=0)
    safe = np.where(intensity == 0, np.float32(1e-6), intensity)
    factor = np.arcsinh(20 * intensity) / np.float32(np.sqrt(20)) / safe
    return np.clip(scaled * factor, 0, 1)[::-1]


def make_views_plainly(images: np.ndarray, views: tuple[View, ...]) -> list[list[np.ndarray]]:
    """Make all views of all images, one by one."""
    rng = np.random.default_rng(0)
    return [
        [make_view_plainly(image, view, rng) for view in views for _ in range(view.number)]
        for image in images
    ]


def measure(function: Callable[[], object], images: int, repeat: int, clock: Callable[[], float]) -> float:
    """Return the best time of several, in microseconds an image."""
    function()
    times = []
    for _ in range(repeat):
        start = clock()
        function()
        times.append(clock() - start)
    return min(times) / images * 1e6


def measure_reading(images: np.ndarray, repeat: int) -> float:
    """Return the time to read runs of rows of an HDF5 file that is in the page cache, µs an image."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.h5"
        with h5py.File(path, "w") as file:
            file["images"] = images
        with h5py.File(path) as file:
            stored = file["images"]

            def read() -> list[np.ndarray]:
                return [stored[at : at + RUN_ROWS] for at in range(0, len(images), RUN_ROWS)]

            return measure(read, len(images), repeat, time.process_time)


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.02, (n, 3, 152, 152)).astype(np.float32)
    images[:, :, 60:90, 60:90] += rng.exponential(1, (n, 3, 30, 30))
    on_device = torch.from_numpy(images).to(device)

    def clock() -> float:
        if device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    plain = measure(lambda: make_views_plainly(images, VIEWS), n, 5, time.process_time)
    print(f"{n} images, 1 thread; a published node of 4 A100s consumes {PUBLISHED:.0f} images/s")
    print(f"{'SciPy, view by view':26} {plain:7.0f} µs an image")
    kinds = {"first global view": VIEWS[:1], "second": VIEWS[1:2], "8 local": VIEWS[2:], "2 + 8": VIEWS}
    for name, views in kinds.items():
        ours = measure(lambda views=views: make_views(on_device, views), n, 15, clock)
        print(f"make_views, {name:14} {ours:7.0f} µs an image")
    reading = measure_reading(images, 15)
    print(f"{'HDF5, runs of rows':26} {reading:7.0f} µs an image")
    print(f"views: {plain / ours:.1f} times as fast as SciPy")
    rate = 1e6 / (ours + reading)
    print(f"reading and views: {rate:.0f} images/s a core, {rate / PUBLISHED:.1f} times a published node")


if __name__ == "__main__":
    main()
