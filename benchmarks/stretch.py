"""Time from cut-outs to model input against a plain NumPy stretch, image by image, in the same run.

    python benchmarks/stretch.py [number of images]

What was tried, in microseconds an image on 2 otherwise idle cores, where plain NumPy takes 270: as it is,
about 50, and 16 for the memory of a large result, touched for the first time, in NumPy's huge pages (70
without). torch.asinh is not vectorised well: 220 for the arcsinh alone, 20 written out as a logarithm.
Blocks of one or two images: 80; NumPy's faster arcsinh in two Python threads: 75; torch.compile: no faster,
after 30 s of compilation. Reading and writing memory alone takes 25. On busy cores the many short parallel
passes suffer.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from astroclip.model.prepare_images import center_crop, prepare_images, to_rgb


def stretch_plainly(image: np.ndarray) -> np.ndarray:
    """Stretch, then crop, one image, as the formula is usually written down."""
    scaled = image * np.array([6.0, 3.4, 2.2], np.float32)[:, None, None] + np.float32(0.03)
    intensity = np.maximum(0, scaled).mean(axis=0)
    safe = np.where(intensity == 0, np.float32(1e-6), intensity)
    factor = np.arcsinh(20 * intensity) / np.float32(np.sqrt(20)) / safe
    return np.clip(scaled * factor, 0, 1)[::-1, 4:148, 4:148]


def measure(function: Callable[[], object], images: int, repeat: int = 7) -> float:
    """Return the best time of several, in microseconds an image."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times) / images * 1e6


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 256
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.02, (n, 3, 152, 152)).astype(np.float32)
    images[:, :, 60:90, 60:90] += rng.exponential(1, (n, 3, 30, 30))
    expected = np.stack([stretch_plainly(image) for image in images])
    difference = np.abs(prepare_images(images).rgb.numpy() - expected).max()

    plain = measure(lambda: [stretch_plainly(image) for image in images], n, 3)
    crop_and_stretch = measure(lambda: to_rgb(center_crop(torch.from_numpy(images), 144)), n)
    prepare = measure(lambda: prepare_images(images), n)
    print(f"{n} images, {torch.get_num_threads()} threads, largest difference {difference:.1e}")
    print(f"NumPy, image by image    {plain:7.1f} µs an image")
    for name, value in (("crop and stretch", crop_and_stretch), ("prepare_images", prepare)):
        print(f"{name:24} {value:7.1f} µs an image, {plain / value:.1f} times as fast")


if __name__ == "__main__":
    main()
