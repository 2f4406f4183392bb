"""Square stamps out of images, and which of their pixels hold a measurement: one rule for all of them.

Shapes: n images, 3 bands, H rows and W columns.
"""

import numpy as np
from numpy.typing import NDArray

# px: so many connected pixels of exactly 0 are no measurement. Single ones occur in images that were stored
# as integers, up to one in five at steps of half the noise, and then 64 of them never touch by chance.
UNOBSERVED_AREA = 64


def centre_stamps(images: NDArray, size: int) -> NDArray[np.float32]:
    """Return the centre of images (n, 3, H, W): (n, 3, size, size), NaN outside and where not observed.

    The centre of an even image is the corner between its four middle pixels. Where the parities of `size` and
    the image differ, the stamp is half a pixel off, to the lower left.
    """
    return mark_unobserved(cut_centre(images, size))


def cut_centre(images: NDArray, size: int) -> NDArray[np.float32]:
    """Return the centre of images (n, 3, H, W) as it is: (n, 3, size, size), NaN outside."""
    height, width = images.shape[2:]
    y, x = (height - size) // 2, (width - size) // 2
    a, b, c, d = max(y, 0), min(y + size, height), max(x, 0), min(x + size, width)
    part = images[:, :, a:b, c:d].astype(np.float32, copy=False)
    if part.shape[2:] == (size, size):
        return part
    stamps = np.full((*images.shape[:2], size, size), np.nan, np.float32)
    stamps[:, :, a - y : b - y, c - x : d - x] = part
    return stamps


def mark_unobserved(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return images (n, 3, H, W) with NaN for sky that was not observed, which surveys store as exactly 0.

    That is a pixel that is 0 in all bands, or lies in an area of one band, of at least `UNOBSERVED_AREA`
    pixels that touch, in which all are 0: an edge, a gap between detectors, or a band that was never taken.
    The input is not modified.
    """
    zero = images == 0
    if not zero.any():
        return images
    unobserved = find_areas(zero)
    unobserved |= zero.all(axis=1, keepdims=True)
    return np.where(unobserved, np.float32(np.nan), images)


def find_areas(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return those of the pixels (n, 3, H, W) that lie in an area of at least `UNOBSERVED_AREA` of a band."""
    found = np.zeros_like(pixels)
    for i, band in np.argwhere(pixels.sum(axis=(2, 3)) >= UNOBSERVED_AREA):
        found[i, band] = _large_areas(pixels[i, band])
    return found


def find_missing_bands(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which bands of images (n, 3, H, W) are missing in an area that another band shows: (n, 3).

    Such an area has at least `UNOBSERVED_AREA` pixels that are not finite and touch; single bad pixels, and
    sky that no band shows, are no missing band.
    """
    lost = ~np.isfinite(images)
    lost &= ~lost.all(axis=1, keepdims=True)
    return np.logical_or.reduce(find_areas(lost), axis=(2, 3))


def _large_areas(pixels: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep those of the pixels (H, W) that lie in an area of at least `UNOBSERVED_AREA`, side by side."""
    if pixels.all():
        return pixels
    from scipy import ndimage  # rarely needed, and slow to import

    areas, _ = ndimage.label(pixels)
    large = np.bincount(areas.ravel()) >= UNOBSERVED_AREA
    large[0] = False
    return large[areas]
