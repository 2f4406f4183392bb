"""What real spectra have besides the galaxy and Gaussian noise, and targets that are no galaxies.

Residuals of the sky and of calibration that add to the flux, inverse variances that are wrong, ends and arms
that are missing, lines stronger than the templates', broad lines; quasars, stars and blank fibres. Sizes and
shapes are drawn widely: a model that has seen all of it leans on none. They are fitted to no exposure; the
typical sizes are those seen in real coadds (some tenths of 1e-17 erg/s/cm2/Å below 4300 Å).

Legend: N rows, W wavelengths of the common grid, n pixels of one arm.
"""

from functools import cache

import numpy as np

from astroclip.mock import observe
from astroclip.mock.template_vectors import draw_quasars, make_stars, rest_wave
from astroclip.mock.truth import DTYPE, Array, Draw, Table, row_rng

DISTURBED = 0.7  # of the spectra, where disturbances are asked for
STRANGERS = {"quasar": 0.06, "star": 0.05, "blank": 0.04}  # of the galaxies: rows more
SPECTYPES = {"quasar": "QSO", "star": "STAR"}
LIGHT_KMS = 299792.458
BROAD_LINES = {2799.1: 0.6, 4341.7: 0.2, 4862.7: 0.45, 6564.6: 1.0}  # Å, width against Halpha's
EFFECTIVE_WAVE = np.array([4770.0, 6420.0, 9170.0, 33500.0, 46000.0])  # Å, g r z W1 W2
PER_NANOMAGGY = 1.0885e7 / EFFECTIVE_WAVE**2  # 1e-17 erg/s/cm2/Å


def draw_disturbances(table: Table, rng: np.random.Generator) -> None:
    """Draw what happens to spectra, and how strong lines are, into the truth's columns, in place."""
    n = len(table)
    hit = rng.random((6, n)) < DISTURBED
    table["RESIDUAL"] = np.where(hit[0], 10 ** rng.normal(-0.7, 0.4, n), 0)
    table["IVAR_FACTOR"] = np.where(hit[1], np.exp(0.15 * rng.standard_normal(n)), 1)
    low, high = rng.uniform(3600, 4050, n), rng.uniform(9000, 9830, n)
    ends = hit[2] & (rng.random(n) < 0.6)
    table["WAVE_MIN"], table["WAVE_MAX"] = np.where(ends, low, 3600), np.where(ends, high, 9824)
    lost = rng.choice(["", "B", "R", "Z"], n, p=[0.88, 0.04, 0.04, 0.04])
    table["LOST_ARM"] = np.where(hit[3], lost, "")
    boost = np.where(hit[4], np.exp(np.abs(rng.normal(0, 0.9, n))), 1)
    table["LINES"] *= boost[:, None]
    table["LINE_BOOST"] = boost
    broad = hit[5] & (rng.random(n) < 0.05) & (table["SAMPLE"] != "")
    table["BROAD_WIDTH"] = np.where(broad, 10 ** rng.normal(1.8, 0.3, n), 0)
    table["BROAD_KMS"] = np.where(broad, rng.uniform(2000, 8000, n), 0)


def draw_strangers(n: int, rng: np.random.Generator) -> Table:
    """Return rows of targets that are no galaxies; places, conditions and light follow."""
    counts = {kind: max(1, round(share * n)) for kind, share in STRANGERS.items()}
    table = np.zeros(sum(counts.values()), DTYPE)
    table["KIND"] = np.repeat(list(counts), list(counts.values()))
    m = len(table)
    table["SAMPLE"] = "SCND"
    quasar, star = table["KIND"] == "quasar", table["KIND"] == "star"
    table["Z_TRUE"] = np.where(quasar, rng.uniform(0.1, 4.0, m), np.where(star, rng.normal(0, 3e-4, m), 0))
    table["AXIS_RATIO"] = table["BULGE_AXIS_RATIO"] = 1
    table["DISK_RADIUS"] = table["BULGE_RADIUS"] = 0.02  # arcsec: a point
    table["SIGMA_STARS"] = table["SIGMA_GAS"] = 100
    mag = np.where(table["KIND"] == "blank", rng.uniform(22, 23, m), rng.uniform(17.0, 22.3, m))
    table["FLUX"] = 10 ** (0.4 * (22.5 - mag[:, None])) * np.array([0.6, 1, 1.5, 2, 1.5])
    return table


def light_strangers(table: Table, seed: int) -> None:
    """Give quasars and stars the colours of their spectra: fluxes in g r z W1 W2, in place."""
    for index in np.flatnonzero(np.isin(table["KIND"], list(SPECTYPES))):
        shape = _shape(table[index], int(index), seed, np.minimum(EFFECTIVE_WAVE, 9700.0))
        redder = np.where(
            EFFECTIVE_WAVE > 9800,
            (EFFECTIVE_WAVE / 9700) ** (-1.2 if table["KIND"][index] == "quasar" else -3.6),
            1,
        )
        flux = shape * redder / PER_NANOMAGGY
        table["FLUX"][index] = flux / flux[1] * table["FLUX"][index, 1]


def stranger_light(row: np.void, index: int, seed: int) -> Array:
    """Return the light (W,) that a quasar or star sends, 1e-17 erg/s/cm2/Å; none of a blank fibre."""
    if row["KIND"] == "blank":
        return np.zeros(len(observe.WAVE))
    shape = _shape(row, index, seed, observe.WAVE)
    level = np.interp(EFFECTIVE_WAVE[1], observe.WAVE, shape)
    return shape / level * float(row["FLUX"][1]) * PER_NANOMAGGY[1]


def _shape(row: np.void, index: int, seed: int, wave: Array) -> Array:
    """Return the spectrum of a quasar or star at observed wavelengths, in any unit."""
    rng = row_rng(seed, Draw.STRANGER, index)
    if row["KIND"] == "quasar":
        rest, flux = rest_wave("QSO"), draw_quasars(1, rng)[0]
    else:
        stars = _stars()
        rest, flux = rest_wave("STAR"), stars[rng.integers(len(stars))]
    return np.maximum(np.interp(wave / (1 + float(row["Z_TRUE"])), rest, flux), 0)


@cache
def _stars() -> Array:
    return make_stars()


def broad_lines(row: np.void, light: Array) -> Array:
    """Return the broad lines (W,) of an active nucleus over the light of its galaxy; 0 without one."""
    width, sigma_kms = float(row["BROAD_WIDTH"]), float(row["BROAD_KMS"]) / 2.355
    lines = np.zeros_like(light)
    if not width:
        return lines
    for rest, share in BROAD_LINES.items():
        at = rest * (1 + float(row["Z_TRUE"]))
        sigma = at * sigma_kms / LIGHT_KMS
        level = np.interp(at, observe.WAVE, light, 0, 0)
        profile = np.exp(-0.5 * ((observe.WAVE - at) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        lines += width * share * (1 + float(row["Z_TRUE"])) * level * profile
    return lines


def disturb(
    arms: list[observe.ArmSpectrum], row: np.void, rng: np.random.Generator
) -> list[observe.ArmSpectrum]:
    """Return the spectra of the three arms with residuals, wrong errors and missing parts."""
    size = float(row["RESIDUAL"])
    disturbed = []
    for arm, seen in zip(observe.load_arms(), arms, strict=True):
        flux, ivar = seen.flux.astype(float), seen.ivar.astype(float)
        if size:
            flux += size * _residual(arm, rng) + size * _airglow(arm, ivar, rng)
            flux *= 1 + 0.02 * rng.standard_normal()  # arms are calibrated one by one
        if row["IVAR_FACTOR"] != 1:
            ivar *= float(row["IVAR_FACTOR"]) * np.exp(
                0.1 * rng.standard_normal() * (arm.wave / arm.wave.mean() - 1) * 5
            )
        lost = (arm.wave < row["WAVE_MIN"]) | (arm.wave > row["WAVE_MAX"]) | (row["LOST_ARM"] == arm.name)
        bad = lost | (ivar <= 0)
        mask = np.where(lost & (seen.mask == 0), 1 << 8, seen.mask).astype(np.int32)
        disturbed.append(
            seen._replace(
                flux=np.where(bad, 0, flux).astype(np.float32),
                ivar=np.where(bad, 0, ivar).astype(np.float32),
                mask=mask,
            )
        )
    return disturbed


def _residual(arm: observe.Arm, rng: np.random.Generator) -> Array:
    """Return a residual (n,) of size about 1 below 4300 Å: smooth over hundreds of Å, with bumps of tens."""
    knots = np.arange(arm.wave[0], arm.wave[-1] + 500, rng.uniform(120, 400))
    smooth = np.interp(arm.wave, knots, rng.standard_normal(len(knots)))
    for at in rng.uniform(arm.wave[0], arm.wave[-1], rng.poisson(4)):
        smooth += 0.5 * rng.standard_normal() * np.exp(-0.5 * ((arm.wave - at) / rng.uniform(5, 25)) ** 2)
    blue = np.exp(-np.clip(arm.wave - 3600, 0, None) / 500)
    joints = sum(np.exp(-0.5 * ((arm.wave - joint) / 40) ** 2) for joint in (5780.0, 7570.0))
    return smooth * (blue + 0.05 + 0.3 * joints)


def _airglow(arm: observe.Arm, ivar: Array, rng: np.random.Generator) -> Array:
    """Return what is left of the sky's lines (n,): stretches of 100 Å that are over- or undersubtracted."""
    knots = np.arange(arm.wave[0], arm.wave[-1] + 200, 100.0)
    sign = np.interp(arm.wave, knots, rng.standard_normal(len(knots)))
    noise = np.sqrt(np.divide(1, ivar, out=np.zeros_like(ivar), where=ivar > 0))
    return sign * noise * arm.sky / (arm.continuum + arm.sky)
