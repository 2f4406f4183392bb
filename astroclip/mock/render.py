"""Legacy Survey cut-outs: bulge, disk, arms, bars, knots and companions, seen through each band's seeing.

Smooth components are GalSim profiles in Fourier space, structure is painted on pixels; one inverse FFT a
band makes the image, so that its total flux is that of the truth. Pixels follow the Legacy Survey's axes:
row up is north, column up is west (RA falls with x). Flux in nanomaggies, position angle north through east.

Legend: P padded side, C bands g r z, S stamp side of neighbours.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.mock import structure
from astroclip.mock.fibre import band_bulge_fractions
from astroclip.schema import CUTOUT_SIZE, PIXSCALE

Array = NDArray[np.floating]
Image = NDArray[np.float32]

PADDED = 240  # px: 44 px of margin for what lies outside the cut-out and for the FFT's wrap-around
MOFFAT_BETA = 3.2  # wings of DECam's seeing (Dey et al. 2019: 2.5 to 4)
CORRELATION = 0.10  # of the resampling kernel [c, 1, c] in each axis: real neighbours correlate by 0.2
SKY_BRIGHTNESS = np.array([22.0, 21.0, 18.9])  # mag/arcsec2 in g r z: sets the Poisson noise of objects
STRUCTURE_MIN_RADIUS = 1.2  # arcsec; in smaller disks no structure can be seen
SCALE_PER_RADIUS = 1 / 1.678  # scale length of an exponential disk per half-light radius
FIELD_PER_MAG = (
    0.044  # galaxies per arcmin2 and mag at r = 18; 10^0.4 times more a mag (Metcalfe et al. 2001)
)
STARS_PER_ARCMIN2 = 1.6  # to r = 23.5, high galactic latitude


class NearbyGalaxies(NamedTuple):
    """Objects of the field in one cut-out: offsets from the centre in px (x, y), flux (M, C) in nanomaggies.

    `radius` is the half-light radius in arcsec, 0 for stars; `axis_ratio` and `angle` as in `Shapes`.
    """

    x: Array
    y: Array
    flux: Array
    radius: Array
    axis_ratio: Array
    angle: Array


def draw_neighbours(row: np.void, rng: np.random.Generator) -> NearbyGalaxies:
    """Draw the field around one target: galaxies by their counts to r = 24.8, stars, a merger's companion."""
    area = (CUTOUT_SIZE * PIXSCALE / 60) ** 2
    edges = np.arange(17.0, 24.81, 0.2)
    expected = 0.2 * FIELD_PER_MAG * 10 ** (0.40 * (edges[:-1] + 0.1 - 18)) * area
    counts = rng.poisson(expected)
    mag = np.repeat(edges[:-1], counts) + 0.2 * rng.random(counts.sum())
    colour = np.clip(0.75 + 0.35 * rng.standard_normal(len(mag)) - 0.06 * (mag - 20), -0.1, 1.8)
    red = np.clip(0.10 + 0.60 * colour + 0.13 * rng.standard_normal(len(mag)), -0.1, 1.6)
    radius = 10 ** (0.05 - 0.09 * (mag - 20) + 0.15 * rng.standard_normal(len(mag)))
    n = rng.poisson(STARS_PER_ARCMIN2 * area)
    star_mag = 23.5 - rng.exponential(2.2, n)
    star_mag = np.where(star_mag < 15.0, rng.uniform(19, 23.5, n), star_mag)
    star_colour = np.where(
        rng.random(n) < 0.55, 1.45 + 0.12 * rng.standard_normal(n), rng.uniform(0.3, 1.3, n)
    )
    star_red = np.where(star_colour > 1.3, rng.uniform(0.6, 1.8, n), 0.45 * star_colour)
    mags, colours = np.r_[mag, star_mag], np.r_[colour, star_colour]
    reds = np.r_[red, star_red]
    flux = 10 ** (0.4 * (22.5 - np.stack([mags + colours, mags, mags - reds], axis=1)))
    m = len(mags)
    field = NearbyGalaxies(
        x=rng.uniform(-CUTOUT_SIZE / 2, CUTOUT_SIZE / 2, m),
        y=rng.uniform(-CUTOUT_SIZE / 2, CUTOUT_SIZE / 2, m),
        flux=flux,
        radius=np.r_[radius, np.zeros(n)],
        axis_ratio=np.clip(rng.beta(4, 2, m), 0.2, 1),
        angle=rng.uniform(0, np.pi, m),
    )
    return _with_companion(row, field, rng) if row["MERGER"] == 3 else field


def _with_companion(row: np.void, field: NearbyGalaxies, rng: np.random.Generator) -> NearbyGalaxies:
    """Add a galaxy of 0.15 to 0.9 times the light at one to two and a half radii."""
    separation = (1.0 + 1.5 * rng.random()) * max(float(row["DISK_RADIUS"]), 1.0) / PIXSCALE
    direction = rng.uniform(0, 2 * np.pi)
    companion = NearbyGalaxies(
        x=separation * np.cos(direction) + np.zeros(1),
        y=separation * np.sin(direction) + np.zeros(1),
        flux=np.asarray(row["FLUX"][None, :3]) * rng.uniform(0.15, 0.9),
        radius=np.array([float(row["DISK_RADIUS"]) * rng.uniform(0.35, 0.8)]),
        axis_ratio=rng.uniform(0.4, 1.0, 1),
        angle=rng.uniform(0, np.pi, 1),
    )
    return NearbyGalaxies(*(np.concatenate(pair) for pair in zip(field, companion, strict=True)))


def point_source_sigma(depth: Array) -> Array:
    """Return the flux error of a point source, nanomaggies, for its 5 sigma depth in mag."""
    return np.asarray(10 ** (0.4 * (22.5 - depth)) / 5, float)


def pixel_sigma(depth: Array, psfsize: Array) -> Array:
    """Return the pixel noise, nanomaggies, for a 5 sigma point-source depth (mag) and a seeing (arcsec).

    A PSF's matched filter sees noise that is correlated between neighbouring pixels as larger, by the
    filter's response at low frequency, so that the pixels themselves may be quieter.
    """
    area = _moffat_area(psfsize / PIXSCALE)
    at_zero = (1 + 2 * CORRELATION) ** 4 / (1 + 2 * CORRELATION**2) ** 2
    return point_source_sigma(depth) / np.sqrt(area * (1 + 0.88 * (at_zero - 1)))


def _moffat_area(fwhm_px: Array) -> Array:
    """Return the noise-equivalent area 1 / sum(psf^2) of the Moffat profile in px."""
    alpha2 = (fwhm_px / 2) ** 2 / (2 ** (1 / MOFFAT_BETA) - 1)
    return np.asarray(np.pi * alpha2 * (2 * MOFFAT_BETA - 1) / (MOFFAT_BETA - 1) ** 2, float)


def render(row: np.void, rng: np.random.Generator, neighbours: NearbyGalaxies | None = None) -> Array:
    """Return the noiseless cut-out (C, 152, 152) of one row of the truth, with its neighbours if given.

    The whole galaxy holds the row's flux; what lies outside the cut-out is lost, as in the survey.
    """
    bulges = band_bulge_fractions(np.array([row]))[0]
    flux = np.asarray(row["FLUX"][:3], float)
    radius_px = float(row["DISK_RADIUS"]) * SCALE_PER_RADIUS / PIXSCALE
    kx, ky, phase = _frequencies()
    k = np.hypot(kx, ky)
    bulge, disk = _bulge_transform(row), _disk_transform(row, radius_px, rng)
    tail, share = np.zeros((1, 1), complex), structure.TAIL_SHARE[row["MERGER"]]
    if share and radius_px > 1:
        tail = np.fft.rfft2(structure.paint_tail(PADDED, radius_px, int(row["MERGER"]), rng)) * phase.conj()
        tail = tail * np.exp(-0.5 * (k * 0.35 * radius_px * PIXSCALE) ** 2)
    else:
        share = 0.0
    image = np.empty((3, CUTOUT_SIZE, CUTOUT_SIZE))
    low = (PADDED - CUTOUT_SIZE) // 2
    for band in range(3):
        light = bulges[band] * bulge + (1 - bulges[band]) * disk[band]
        light = ((1 - share) * light + share * tail) * phase * _psf_transform(k, float(row["PSFSIZE"][band]))
        stamp = np.fft.irfft2(light, (PADDED, PADDED))
        image[band] = flux[band] * stamp[low : low + CUTOUT_SIZE, low : low + CUTOUT_SIZE]
    if neighbours is not None:
        _add_neighbours(image, neighbours, np.asarray(row["PSFSIZE"], float))
    return image


def observe(row: np.void, image: Array, rng: np.random.Generator) -> Image:
    """Return `image` (C, 152, 152) with the noise of the row's depth and the objects' own Poisson noise."""
    sigma = pixel_sigma(np.asarray(row["DEPTH"]), np.asarray(row["PSFSIZE"]))
    white = rng.standard_normal((3, CUTOUT_SIZE + 2, CUTOUT_SIZE + 2), dtype=np.float32)
    noise = white[:, 1:-1] + CORRELATION * (white[:, :-2] + white[:, 2:])
    noise = noise[:, :, 1:-1] + CORRELATION * (noise[:, :, :-2] + noise[:, :, 2:])
    noise /= 1 + 2 * CORRELATION**2
    sky = 10 ** (0.4 * (22.5 - SKY_BRIGHTNESS)) * PIXSCALE**2
    brighter = np.sqrt(1 + np.maximum(image, 0) / sky[:, None, None])
    return np.asarray(image + sigma[:, None, None] * brighter * noise, np.float32)


@cache
def _frequencies() -> tuple[Array, Array, NDArray[np.complexfloating]]:
    """Return kx, ky (rad/arcsec) of the half plane and the phase that puts an object into the middle."""
    ky = 2 * np.pi * np.fft.fftfreq(PADDED)[:, None]
    kx = 2 * np.pi * np.fft.rfftfreq(PADDED)[None, :]
    middle = (PADDED - 1) / 2  # of the padded map and of the cut-out alike
    return kx / PIXSCALE, ky / PIXSCALE, np.exp(-1j * (kx + ky) * middle)


def _sheared(axis_ratio: float, angle: float) -> Array:
    """Return |k| of an ellipse with unit semi-major axis: k along and across its axes."""
    kx, ky, _ = _frequencies()
    # East is -x: the major axis points to (-sin, cos) of the position angle.
    along = -kx * np.sin(angle) + ky * np.cos(angle)
    across = kx * np.cos(angle) + ky * np.sin(angle)
    return np.sqrt(along**2 + (axis_ratio * across) ** 2)


@cache
def _profile_tables() -> tuple[Array, Array, Array]:
    """Return ln k and the transforms of n = 4 and Moffat profiles (GalSim), of unit radius and FWHM."""
    import galsim

    log_k = np.linspace(np.log(1e-4), np.log(3e3), 4000)
    bulge, psf = galsim.DeVaucouleurs(half_light_radius=1.0), galsim.Moffat(beta=MOFFAT_BETA, fwhm=1.0)
    tables = [np.array([p.kValue(k, 0.0).real for k in np.exp(log_k)]) for p in (bulge, psf)]
    return log_k, tables[0], tables[1]


def _bulge_transform(row: np.void) -> Array:
    log_k, table, _ = _profile_tables()
    k = _sheared(float(row["BULGE_AXIS_RATIO"]), float(row["ANGLE"])) * float(row["BULGE_RADIUS"])
    return np.interp(np.log(np.maximum(k, 1e-4)), log_k, table)


def _psf_transform(k: Array, fwhm: float) -> Array:
    log_k, _, table = _profile_tables()
    return np.interp(np.log(np.maximum(k * fwhm, 1e-4)), log_k, table)


def _disk_transform(row: np.void, radius_px: float, rng: np.random.Generator) -> NDArray[np.complexfloating]:
    """Return the disk's Fourier transform in each band (C, P, P // 2 + 1), 1 at k = 0."""
    if row["FEATURED"] and _shows_structure(row):
        return np.fft.rfft2(structure.paint_disk(row, PADDED, radius_px, rng)) * _frequencies()[2].conj()
    scale = radius_px * PIXSCALE * (1 + np.array([0.6, 0.0, -0.4]) * float(row["GRADIENT"]))
    k = _sheared(float(row["AXIS_RATIO"]), float(row["ANGLE"]))
    return (1 + (k * scale[:, None, None]) ** 2) ** -1.5 + 0j


def _shows_structure(row: np.void) -> bool:
    """Tell whether the disk is large enough for structure, and its thin side for being painted on pixels."""
    radius, thin = float(row["DISK_RADIUS"]), float(row["DISK_RADIUS"] * row["AXIS_RATIO"])
    return radius > STRUCTURE_MIN_RADIUS and thin > 0.8


def _add_neighbours(image: Array, field: NearbyGalaxies, fwhm: Array) -> None:
    """Add the field's objects to `image` in place, the bright ones on larger stamps."""
    bright = field.flux.max(axis=1) > 10
    for side, chosen in ((32, ~bright), (96, bright)):
        rows = np.flatnonzero(chosen)
        if not len(rows):
            continue
        part = NearbyGalaxies(*(values[rows] for values in field))
        stamps = _stamps(part, fwhm, side)
        corner_x = np.floor(part.x + (CUTOUT_SIZE - 1) / 2).astype(int) - side // 2
        corner_y = np.floor(part.y + (CUTOUT_SIZE - 1) / 2).astype(int) - side // 2
        for stamp, x, y in zip(stamps, corner_x, corner_y, strict=True):
            x0, x1, y0, y1 = max(x, 0), min(x + side, CUTOUT_SIZE), max(y, 0), min(y + side, CUTOUT_SIZE)
            if x0 < x1 and y0 < y1:  # a companion may lie off the cut-out
                image[:, y0:y1, x0:x1] += stamp[:, y0 - y : y1 - y, x0 - x : x1 - x]


def _stamps(field: NearbyGalaxies, fwhm: Array, side: int) -> Array:
    """Return images (M, C, S, S) of exponential disks and stars near the middle of their stamps."""
    ky = 2 * np.pi * np.fft.fftfreq(side)[:, None]
    kx = 2 * np.pi * np.fft.rfftfreq(side)[None, :]
    offset_x, offset_y = (np.mod(v + (CUTOUT_SIZE - 1) / 2, 1.0) + side // 2 for v in (field.x, field.y))
    phase = np.exp(-1j * (kx * offset_x[:, None, None] + ky * offset_y[:, None, None]))
    sin, cos = (f(field.angle)[:, None, None] for f in (np.sin, np.cos))
    along, across = -kx * sin + ky * cos, (kx * cos + ky * sin) * field.axis_ratio[:, None, None]
    scale = (field.radius * SCALE_PER_RADIUS / PIXSCALE)[:, None, None]
    light = (1 + (along**2 + across**2) * scale**2) ** -1.5 * phase
    k = np.hypot(kx, ky) / PIXSCALE
    psf = np.stack([_psf_transform(k, float(size)) for size in fwhm])
    return np.fft.irfft2(light[:, None] * psf * field.flux[:, :, None, None], (side, side))
