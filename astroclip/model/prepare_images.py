"""Images: from g, r, z cut-outs in nanomaggies to the z, r, g colours in [0, 1] that the encoder sees.

Shapes: N images, H W rows and columns of pixels; bands are the third axis from the end.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from astroclip.errors import DataError
from astroclip.model.prepare_spectra import as_float32
from astroclip.schema import PIXSCALE
from astroclip.schema import STRETCH_M as M
from astroclip.schema import STRETCH_Q as Q
from astroclip.schema import STRETCH_SCALE as SCALE

STRETCHED_SKY = math.asinh(Q * M) / math.sqrt(Q)  # 0 nanomaggies in all bands

_BLOCK = (
    8  # images stretched at once: 2 MB of float32, so that each pass finds the last one's result in cache
)


class PreparedImages(NamedTuple):
    """Model input `rgb` (N, 3, size, size) z, r, g in [0, 1], and what a reader should know about it.

    `bad_fraction` (N,) is the fraction of non-finite pixels in the crop, over all bands; 1 means that
    nothing was there. `bad_by_band` (N, 3) is the same of each band of the input. `padded` tells whether the
    images were smaller than the crop.
    """

    rgb: Tensor
    bad_fraction: Tensor
    bad_by_band: Tensor
    padded: bool


def prepare_images(images: ArrayLike | Tensor, size: int = 144, *, stretched: bool = False) -> PreparedImages:
    """Turn cut-outs into model input: crop about the centre, fill bad pixels, pad, stretch.

    All pixels reach the image encoder through this function.

    Parameters
    ----------
    images
        (N, 3, H, W) g, r, z in nanomaggies at `astroclip.schema.PIXSCALE`; non-finite pixels are missing
        (see `fill_bad_pixels`). The input is not modified.
    size
        Side of the model's crop in pixels (see `center_crop`).
    stretched
        Whether they are z, r, g in [0, 1] already, as a viewer stretches them: these are only cropped, filled
        and padded.

    Raises
    ------
    DataError
        If the shape is not (N, 3, H, W).
    """
    images = as_float32(images)
    if images.ndim != 4:
        raise DataError(f"images of shape {tuple(images.shape)}: expected (N, 3, H, W)")
    height, width = images.shape[-2:]
    crop = center_crop(images, (min(height, size), min(width, size)))
    filled, bad = fill_bad_pixels(crop)
    padded, sky = min(height, width) < size, STRETCHED_SKY if stretched else 0.0
    if stretched and (bad >= 1).any():
        filled = filled.masked_fill((bad >= 1)[..., None, None], sky)
    if padded:
        filled = center_crop(filled, size, sky)
    return PreparedImages(filled if stretched else to_rgb(filled), bad.mean(dim=1), bad, padded)


def to_rgb(images: ArrayLike | Tensor) -> Tensor:
    """Stretch g, r, z nanomaggies to z, r, g (red, green, blue) in [0, 1]: (..., 3, H, W) float32.

    With I the mean over bands of max(0, scale f + m), a channel is clip((scale f + m) asinh(Q I) / (sqrt(Q)
    I), 0, 1). A non-finite pixel spoils its pixel in all channels: see `fill_bad_pixels`. The input is not
    modified. Source: Lupton et al. 2004, with the Legacy Survey viewer's numbers.

    Raises
    ------
    DataError
        If the third axis from the end is not 3 bands.
    """
    images = as_float32(images)
    if images.ndim < 3 or images.shape[-3] != 3:
        raise DataError(f"images of shape {tuple(images.shape)}: expected (..., 3, H, W), bands g, r, z")
    batch = images.flatten(0, -4) if images.ndim > 3 else images[None]
    rgb = _empty_like(batch)
    for start in range(0, len(batch), _BLOCK):
        _stretch(batch[start : start + _BLOCK], rgb[start : start + _BLOCK])
    return rgb.reshape(images.shape)


def center_crop(images: Tensor, size: int | tuple[int, int], sky: float = 0.0) -> Tensor:
    """Cut, or pad with sky (0 nanomaggies), the last two axes to `size` pixels about the centre.

    Of an odd number of pixels to cut off or to add, the extra one is at the end: 152 to 144 keeps rows and
    columns 4 to 147, 153 to 144 too. Where nothing is added, the result is a view of the input.
    """
    height, width = (size, size) if isinstance(size, int) else size
    top, left = (images.shape[-2] - height) // 2, (images.shape[-1] - width) // 2
    images = images[..., max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
    missing_rows, missing_columns = height - images.shape[-2], width - images.shape[-1]
    if not (missing_rows or missing_columns):
        return images
    above, before = missing_rows // 2, missing_columns // 2
    return F.pad(images, (before, missing_columns - before, above, missing_rows - above), value=sky)


def fill_bad_pixels(images: Tensor) -> tuple[Tensor, Tensor]:
    """Replace non-finite pixels by the mean of the good ones around them; return also their fraction.

    Each band on its own: a bad pixel gets the mean of the good pixels in the smallest window about it, of 3,
    5, 9, 17, ... pixels, that has one. A band without a good pixel becomes 0, the sky. Filled pixels do
    not fill others, so the result does not depend on any order. The published system never saw bad pixels.

    Parameters
    ----------
    images
        (N, 3, H, W) float32 nanomaggies, not modified; returned as it is where every pixel is finite.

    Returns
    -------
    filled, bad_fraction
        The images with every pixel finite, and the fraction (N, 3) of each band's pixels that were not.
    """
    bad_fraction = torch.zeros(images.shape[:2], device=images.device)
    # A sum is finite only if every term is: one quick pass finds the few images to look at.
    suspects = (~images.sum(dim=(1, 2, 3)).isfinite()).nonzero().squeeze(1)
    if not len(suspects):
        return images, bad_fraction
    bad = ~images[suspects].isfinite()
    bad_fraction[suspects] = bad.float().mean(dim=(2, 3))
    planes = images[suspects].flatten(0, 1)  # (bands, H, W), as `bad` below
    bad = bad.flatten(0, 1)
    spoilt = bad.any(dim=(1, 2))
    planes[spoilt] = _fill_planes(planes[spoilt], bad[spoilt])
    filled = images.clone()
    filled[suspects] = planes.unflatten(0, (-1, images.shape[1]))
    return filled, bad_fraction


def resample_pixscale(images: ArrayLike | Tensor, pixscale: float, target: float = PIXSCALE) -> Tensor:
    """Resample images to another pixel scale about the same centre, keeping the total flux.

    Every input pixel's flux is shared out among the output pixels by overlapping area (drizzling with whole
    pixels), so nanomaggies per pixel stay nanomaggies per pixel. The output has as many pixels as fit wholly
    inside the input. Pixels that a non-finite one contributes to become NaN.

    Parameters
    ----------
    images
        (..., H, W) nanomaggies per pixel.
    pixscale, target
        Pixel scale of the input and of the result, arcsec/px.

    Raises
    ------
    DataError
        If a pixel scale is not a positive number, or not one output pixel fits.
    """
    images = as_float32(images)
    if not (0 < pixscale < math.inf and 0 < target < math.inf):
        raise DataError(f"pixel scales {pixscale} and {target}: expected positive numbers, arcsec/px")
    rows, columns = (_overlaps(n, pixscale / target).to(images) for n in images.shape[-2:])
    bad = ~images.isfinite()
    if not bad.any():
        return rows @ images @ columns.T
    touched = rows @ bad.to(images) @ columns.T > 0
    return (rows @ images.masked_fill(bad, 0) @ columns.T).masked_fill(touched, torch.nan)


def _overlaps(n: int, ratio: float) -> Tensor:
    """Return the fraction of each of `n` input pixels inside each output pixel: (outputs, n) float64."""
    outputs = math.floor(n * ratio + 1e-6)
    if not outputs:
        raise DataError(
            f"{n} px are too few to resample by a factor {ratio:.3g}: not one pixel would be left"
        )
    centre = torch.arange(n, dtype=torch.float64) + 0.5 - n / 2  # in input pixels about the image's centre
    edges = (torch.arange(outputs + 1, dtype=torch.float64) - outputs / 2)[:, None] / ratio
    covered = (edges - centre).clamp(-0.5, 0.5)
    return covered[1:] - covered[:-1]


def _stretch(images: Tensor, rgb: Tensor) -> None:
    """Write the stretch of a block of images (n, 3, H, W) into `rgb`, in place and in few passes."""
    m = torch.tensor(M, device=images.device)
    for band, scale in enumerate(SCALE):
        torch.add(m, images[:, band], alpha=scale, out=rgb[:, 2 - band])
    # Negative channels end as 0 whatever their factor is, and not quite 0 here saves the I_safe of 0 / 0.
    rgb.clamp_(min=1e-37)
    total = rgb[:, 0] + rgb[:, 1]
    total += rgb[:, 2]  # 3 I
    # asinh(x) = log(x + sqrt(x² + 1)), written out: torch's own costs as much as everything else together.
    asinh = torch.square(total).mul_((Q / 3) ** 2).add_(1).sqrt_().add_(total, alpha=Q / 3).log_()
    rgb.mul_(asinh.mul_(3 / math.sqrt(Q)).div_(total).unsqueeze(1)).clamp_(max=1)


def _empty_like(batch: Tensor) -> Tensor:
    """Return an unfilled contiguous tensor; on the CPU in NumPy's memory, which asks for huge pages."""
    if batch.device.type != "cpu":
        return torch.empty(batch.shape, device=batch.device)
    return torch.from_numpy(np.empty(batch.shape, np.float32))


def _fill_planes(planes: Tensor, bad: Tensor) -> Tensor:
    """Fill the `bad` pixels of planes (n, H, W) as `fill_bad_pixels` says."""
    good = ~bad
    filled = planes.double().masked_fill(bad, 0)
    # Integral images give any window's sum from four corners; float64 keeps their differences exact enough.
    flux, count = _integral(filled), _integral(good.double())
    half = 1
    while bad.any() and half < 2 * max(planes.shape[1:]):
        number = _window_sums(count, half)
        found = bad & (number > 0)
        filled = torch.where(found, _window_sums(flux, half) / number, filled)
        bad = bad & ~found
        half *= 2
    return filled.to(planes.dtype)


def _integral(planes: Tensor) -> Tensor:
    """Return the sums (n, H + 1, W + 1) over all pixels above and left of each corner."""
    return F.pad(planes.cumsum(-1).cumsum(-2), (1, 0, 1, 0))


def _window_sums(integral: Tensor, half: int) -> Tensor:
    """Return the sum over the window of 2 `half` + 1 pixels about each pixel, cut at the borders."""
    for axis in (-1, -2):
        n = integral.shape[axis] - 1
        pixel = torch.arange(n, device=integral.device)
        upper, lower = (pixel + half + 1).clamp(max=n), (pixel - half).clamp(min=0)
        integral = integral.index_select(axis, upper) - integral.index_select(axis, lower)
    return integral
