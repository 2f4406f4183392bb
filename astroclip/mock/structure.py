"""What makes a disk a picture: spiral arms, bars, star-forming knots, dust lanes and tidal tails.

Painted on pixels around the galaxy's centre, in units of the disk's light; images.py blurs it with the
seeing. Lengths are in disk scale lengths h, angles in rad.

Legend: C bands g r z, P side of the painted map in px, K points.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

BLUE = np.array([1.35, 1.0, 0.75])  # strength of arms and knots in g r z: young stars
RED = np.array([0.75, 1.0, 1.15])  # of bars: old stars
DUST = np.array([0.60, 0.45, 0.25])  # depth of a dust lane
TAIL_SHARE = (0.0, 0.06, 0.14, 0.10)  # of a galaxy's light in its tidal tail, by MERGER


class Canvas(NamedTuple):
    """A map of `side` px with the galaxy in its middle; the disk's scale length in px, its position angle."""

    side: int
    scale_px: float
    angle: float


class DiskPlane(NamedTuple):
    """Pixel coordinates (P, P) in the plane of the disk: `u` along the major axis, `v` across, in h."""

    u: Array
    v: Array


class Spiral(NamedTuple):
    """Logarithmic arms: how many (0: none), pitch angle, and where they begin: radius in h, angle."""

    arms: int
    pitch: float
    inner: float
    start: float


def disk_plane(canvas: Canvas, axis_ratio: float) -> DiskPlane:
    """Return disk coordinates of the pixels of `canvas`; x grows to the west, y to the north."""
    x = (np.arange(canvas.side) - (canvas.side - 1) / 2) / canvas.scale_px
    sin, cos = np.sin(canvas.angle), np.cos(canvas.angle)
    u = -x[None, :] * sin + x[:, None] * cos
    v = (x[None, :] * cos + x[:, None] * sin) / axis_ratio
    return DiskPlane(u, v)


def paint_disk(row: np.void, side: int, scale_px: float, rng: np.random.Generator) -> Array:
    """Return a structured disk (C, P, P), each band's sum 1. `scale_px` is the scale length in px."""
    axis_ratio, bar_strength = float(row["AXIS_RATIO"]), float(row["BAR_STRENGTH"])
    canvas = Canvas(side, scale_px, float(row["ANGLE"]))
    plane = disk_plane(canvas, axis_ratio)
    r = np.hypot(plane.u, plane.v)
    smooth = np.exp(-r)
    disk = np.repeat(smooth[None] / smooth.sum(), 3, axis=0)
    if axis_ratio < 0.3:
        lane = np.exp(-0.5 * ((plane.v + 0.5) * axis_ratio / 0.09) ** 2) * np.exp(-((r / 3.5) ** 2))
        disk *= 1 - DUST[:, None, None] * lane
    length, start = rng.uniform(0.7, 1.4), rng.uniform(0, 2 * np.pi)
    spiral = Spiral(int(row["ARMS"]), float(row["PITCH"]), 0.7 * length if bar_strength > 0 else 0.4, start)
    if spiral.arms:
        disk *= 1 + BLUE[:, None, None] * float(row["ARM_STRENGTH"]) * _arms(spiral, plane, rng)
    elif row["ROUGHNESS"] > 0.2:
        disk *= 1 + 0.35 * float(row["ROUGHNESS"]) * BLUE[:, None, None] * _mottled(plane, rng)
    disk = np.maximum(disk, 0.0)
    disk /= disk.sum(axis=(1, 2), keepdims=True)
    if bar_strength > 0:  # the arms begin at its ends
        share = 0.22 * bar_strength * RED[:, None, None]
        disk = (1 - share) * disk + share * _bar(plane, start, length)
    share = np.clip(0.10 * float(row["ROUGHNESS"]) * BLUE, 0, 0.3)
    u, v, light = _knots(6 + rng.poisson(40 * float(row["ROUGHNESS"])), spiral, rng)
    knots = paint_points(canvas, u, v * axis_ratio, light)
    return np.asarray(disk * (1 - share)[:, None, None] + knots * share[:, None, None])


def _arms(spiral: Spiral, plane: DiskPlane, rng: np.random.Generator) -> Array:
    """Return the modulation of the disk by spiral arms: ridges above, gaps below zero."""
    r, theta = np.hypot(plane.u, plane.v), np.arctan2(plane.v, plane.u)
    wiggle = 0.25 * np.sin(2.3 * r + rng.uniform(0, 6)) + 0.15 * np.sin(5.1 * r + rng.uniform(0, 6))
    winding = np.log(np.maximum(r, 0.05) / spiral.inner) / np.tan(spiral.pitch)
    phase = spiral.arms * (theta - spiral.start - winding) + wiggle * np.sqrt(spiral.arms)
    ridge = np.exp(2.6 * (np.cos(phase) - 1))
    uneven = 1 + 0.35 * np.cos(theta - rng.uniform(0, 2 * np.pi))
    onset = r**3 / (r**3 + spiral.inner**3) * np.exp(-((r / 4.5) ** 4))
    return np.asarray(onset * (3.4 * ridge * uneven - 0.85))


def _mottled(plane: DiskPlane, rng: np.random.Generator) -> Array:
    """Return irregular patches of a few scale lengths: late-type disks without arms."""
    patches = np.zeros_like(plane.u)
    for _ in range(5):
        ku, kv = rng.normal(0, 2.0, 2)
        patches += np.cos(ku * plane.u + kv * plane.v + rng.uniform(0, 6))
    return patches / 2


def _bar(plane: DiskPlane, angle: float, length: float) -> Array:
    u = plane.u * np.cos(angle) + plane.v * np.sin(angle)
    v = -plane.u * np.sin(angle) + plane.v * np.cos(angle)
    bar = np.exp(-(((u / length) ** 4 + (v / (0.28 * length)) ** 4) ** 0.5))
    return np.asarray(bar / bar.sum())


def _knots(k: int, spiral: Spiral, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return `k` star-forming knots in the disk's plane, along the arms where there are arms: u, v, light."""
    r = np.clip(rng.gamma(2.6, 0.75, k), 0.3, 4.5)
    theta = rng.uniform(0, 2 * np.pi, k)
    if spiral.arms:
        arm = rng.integers(spiral.arms, size=k) * 2 * np.pi / spiral.arms
        along = spiral.start + np.log(r / spiral.inner) / np.tan(spiral.pitch)
        theta = along + arm + 0.15 * rng.standard_normal(k)
    return r * np.cos(theta), r * np.sin(theta), np.minimum(rng.pareto(1.6, k) + 0.2, 5)


def paint_points(canvas: Canvas, u: Array, v: Array, light: Array) -> Array:
    """Return points at projected offsets `u` along and `v` across the major axis (in h), sum 1: (P, P)."""
    side, scale_px, angle = canvas
    middle = (side - 1) / 2
    x = middle + scale_px * (-u * np.sin(angle) + v * np.cos(angle))
    y = middle + scale_px * (u * np.cos(angle) + v * np.sin(angle))
    inside = (x > 1) & (x < side - 2) & (y > 1) & (y < side - 2)
    x, y, light = x[inside], y[inside], light[inside]
    column, line = x.astype(int), y.astype(int)
    fx, fy = x - column, y - line
    painted = np.zeros((side, side))
    for dx, dy, weight in (
        (0, 0, (1 - fx) * (1 - fy)),
        (1, 0, fx * (1 - fy)),
        (0, 1, (1 - fx) * fy),
        (1, 1, fx * fy),
    ):
        np.add.at(painted, (line + dy, column + dx), light * weight)
    return painted / max(painted.sum(), 1e-12)


def paint_tail(side: int, scale_px: float, merger: int, rng: np.random.Generator) -> Array:
    """Return a tidal tail (two of them in a merger) as points (P, P), sum 1."""
    tails = 1 if merger == 1 else 2
    r = np.linspace(1.5, rng.uniform(4.0, 6.0), 160)
    turn, start = rng.uniform(0.35, 0.8) * rng.choice([-1, 1]), rng.uniform(0, 2 * np.pi)
    fade = np.exp(-(r - 1.5) / 1.8)
    theta = np.concatenate([start + turn * (r - 1.5) + tail * np.pi for tail in range(tails)])
    r, fade = np.tile(r, tails), np.tile(fade, tails)
    spread = 0.25 * rng.standard_normal((2, len(r)))
    u, v = r * np.cos(theta) + spread[0], r * np.sin(theta) + spread[1]
    return paint_points(Canvas(side, scale_px, 0.0), u, v, fade)
