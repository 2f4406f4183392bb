"""Random views of galaxies for self-distillation: crops, flips, blur and noise of nanomaggies, then colours.

Blur and noise take an image from the seeing and depth that it might have had ("true") to those that it might
have had elsewhere in the survey ("wanted"); both are drawn from what the Legacy Survey's images have. Source:
Parker et al. 2024 (MNRAS 531, 4990), section 3.1, after Stein et al. 2021; the crops are those of DINOv2.

Shapes: B galaxies, V views, N planes (one band of one view), H W pixels, R radius of a kernel in pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from astroclip.errors import DataError
from astroclip.model.prepare_images import to_rgb

# Shifted log-normals, loc + scale exp(shape x) with x normal, by band: g, r, z
Lognormal = dict[str, tuple[float, float, float]]
PSF_SIGMA: Lognormal = {  # pixels of 0.262 arcsec
    "shape": (0.2109966, 0.3008485, 0.3471172),
    "loc": (1.0807153, 1.2394326, 1.1928363),
    "scale": (1.3153171, 0.9164757, 0.8233702),
}
NOISE_SIGMA: Lognormal = {  # nanomaggies per pixel
    "shape": (0.2264926, 0.2431146, 0.1334844),
    "loc": (-0.0006735, -0.0023663, -0.0143416),
    "scale": (0.0037602, 0.0067417, 0.0260779),
}
KERNEL_SIGMAS = 4  # where a blur kernel is cut off

_FLIPS = ((), (-1,), (-2,), (-1, -2))
_BLOCK = 2**20  # pixels of views worked on at once on a CPU, so that they stay in its caches
_TILE = 24  # pixels: a blur multiplies by band matrices of at most this side, not of the whole image's


class View(NamedTuple):
    """A kind of view: square crops of `size` pixels, `number` of a galaxy.

    `blur` and `noise` are the probabilities of doing the one and the other, each drawn for each view. Half
    of the bands stay as they are even then: their wanted seeing, or noise, is the better one.
    """

    size: int
    number: int
    blur: float
    noise: float


def make_views(images: Tensor, views: Sequence[View], generator: Generator | None = None) -> list[Tensor]:
    """Draw random views of galaxies on their device: crop, flip, blur, add noise, stretch.

    Parameters
    ----------
    images
        (B, 3, H, W) g, r, z in nanomaggies, every pixel finite (see
        `astroclip.model.prepare_images.fill_bad_pixels`); not modified.
    views
        The kinds of views.
    generator
        Of the images' device; default: its global one.

    Returns
    -------
    list of Tensor
        For each kind (number * B, 3, size, size) z, r, g in [0, 1]: the first view of every galaxy, then the
        second of every galaxy, and so on.

    Raises
    ------
    DataError
        If the shape is not (B, 3, H, W), or a view is larger than the images.
    """
    largest = max(view.size for view in views)
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[-2:]) < largest:
        raise DataError(
            f"images of shape {tuple(images.shape)}: expected (B, 3, H, W), bands g, r, z, with H and W of "
            f"{largest} px, the size of the largest view, or more"
        )
    result = []
    for view in views:
        galaxies = torch.arange(view.number * len(images), device=images.device) % len(images)
        cpu = images.device.type == "cpu"
        block = max(_BLOCK // (3 * view.size**2), 1) if cpu else len(galaxies)
        result.append(images.new_empty(len(galaxies), 3, view.size, view.size))
        for start in range(0, len(galaxies), block):
            part = slice(start, start + block)
            _draw_view(images, galaxies[part], view, generator, result[-1][part])
    return result


def blur_planes(planes: Tensor, sigma: Tensor) -> Tensor:
    """Convolve square planes (N, H, H), each with a Gaussian of its own `sigma` (N,) > 0 pixels.

    Borders reflect (d c b a | a b c d | d c b a), the kernel ends at 4 sigma and adds up to 1. The planes
    are cut into tiles with a margin, and each axis of them multiplied by the kernel's band matrix.
    """
    kernel = _kernel(sigma)  # (N, 2 R + 1)
    radius, size = kernel.shape[1] // 2, planes.shape[-1]
    tile = max(n for n in range(1, _TILE + 1) if size % n == 0)
    bands = (
        F.pad(kernel, (tile - 1, tile - 1)).unfold(1, tile + 2 * radius, 1).flip(1)
    )  # (N, tile, tile + 2 R)
    border = torch.arange(-radius, size + radius, device=planes.device) % (2 * size)
    border = torch.minimum(border, 2 * size - 1 - border)
    for _ in range(2):  # down the columns, then, transposed, along the rows
        padded = planes.index_select(1, border)
        tiles = [padded[:, top : top + tile + 2 * radius] for top in range(0, size, tile)]
        planes = torch.cat([torch.bmm(bands, rows) for rows in tiles], dim=1).mT
    return planes


def draw_sigma(
    lognormal: Lognormal, n: int, device: torch.device, generator: Generator | None = None
) -> Tensor:
    """Return by how much to degrade each band of `n` views, sqrt(max(0, wanted² - true²)): (n, 3).

    `lognormal` is `PSF_SIGMA` or `NOISE_SIGMA`; wanted and true are drawn from it independently.
    """
    shape, loc, scale = (torch.tensor(lognormal[key], device=device) for key in ("shape", "loc", "scale"))
    normal = torch.randn(2, n, 3, device=device, generator=generator)
    wanted, true = (loc + scale * (shape * normal).exp()).square()
    return (wanted - true).clamp(min=0).sqrt()


def _draw_view(
    images: Tensor, galaxies: Tensor, view: View, generator: Generator | None, result: Tensor
) -> None:
    """Draw one view of each of the `galaxies`, numbers of images, into `result` (n, 3, size, size)."""
    device, n = images.device, len(galaxies)
    crops, order = _crop(images, galaxies, view.size, generator)
    planes = crops.flatten(0, 1)  # (N, size, size), of `crops`' memory

    def draw_degraded(lognormal: Lognormal, probability: float) -> tuple[Tensor, Tensor]:
        """Return which planes to degrade, and by how much."""
        sigma = draw_sigma(lognormal, n, device, generator)
        applied = torch.rand(n, 1, device=device, generator=generator) < probability
        sigma = (sigma * applied).flatten()
        chosen = sigma.nonzero().squeeze(1)
        return chosen, sigma[chosen]

    chosen, sigma = draw_degraded(PSF_SIGMA, view.blur)
    if len(chosen):
        planes[chosen] = blur_planes(planes[chosen], sigma)
    chosen, sigma = draw_degraded(NOISE_SIGMA, view.noise)
    noise = torch.randn(len(chosen), view.size, view.size, device=device, generator=generator)
    planes.index_add_(0, chosen, noise.mul_(sigma[:, None, None]))
    torch.index_select(to_rgb(crops), 0, order, out=result)


def _crop(images: Tensor, galaxies: Tensor, size: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """Cut a crop out of each of the `galaxies` and flip it; return also the order that puts them back."""
    # crops that are flipped alike lie side by side: each flip is one pass over one piece of memory
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # (B, 3, tops, lefts, size, size)
    top, left, flip = (
        torch.randint(choices, galaxies.shape, device=images.device, generator=generator)
        for choices in (windows.shape[2], windows.shape[3], len(_FLIPS))
    )
    sorting = flip.argsort()
    crops = windows[galaxies[sorting], :, top, left]
    pieces = crops.split(flip.bincount(minlength=len(_FLIPS)).tolist())
    for piece, axes in zip(pieces, _FLIPS, strict=True):
        if axes:
            piece.copy_(piece.flip(axes))
    return crops, sorting.argsort()


def _kernel(sigma: Tensor) -> Tensor:
    """Return a normalised Gaussian for each `sigma` (N,), 0 beyond 4 sigma of its own: (N, 2 R + 1)."""
    radius = (KERNEL_SIGMAS * sigma + 0.5).floor()
    widest = int(radius.max())
    pixels = torch.arange(-widest, widest + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (pixels / sigma[:, None]).square())
    kernel = kernel * (pixels.abs() <= radius[:, None])
    return kernel / kernel.sum(dim=1, keepdim=True)
