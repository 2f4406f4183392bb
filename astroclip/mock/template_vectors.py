"""The templates that ship: what galaxies, quasars and stars look like at rest, a few vectors a class.

``python -m astroclip.mock.template_vectors OUT.npz`` makes the file again, in a minute. Galaxies are mixes of
kcorrect's templates, dimmed by dust, with emission lines in groups of drawn strength; quasars follow the
composite of Vanden Berk et al. 2001 (AJ 122, 549), with continua, lines and the forest varied; of each the
principal components are kept. Stars are black bodies with the lines and bands of their temperature: enough to
tell that something is no galaxy, not to classify it.

Legend: n spectra, W wavelengths, m vectors.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.mock.lines import LINES, calzetti
from astroclip.mock.sed import LIGHT_KMS, load_templates

Array = NDArray[np.floating]

STEP = 1e-4  # of log10 wavelength
SPECTRA = 3000  # that principal components are taken of
VECTORS = {"GALAXY": 6, "QSO": 4}
WAVE_RANGE = {"GALAXY": (1330.0, 9900.0), "QSO": (600.0, 9900.0), "STAR": (3560.0, 9920.0)}  # Å at rest
GAS_KMS = 110.0
# emission lines that rise and fall together: strength of each against the first, and the typical strength of
# the first against all others, as equivalent widths
LINE_GROUPS = (
    (1.0, {"OII_3729": 0.58, "OII_3726": 0.42}),
    (0.12, {"NEIII_3869": 1.0}),
    (2.0, {"HALPHA": 1.0, "HBETA": 0.35, "HGAMMA": 0.164, "HDELTA": 0.091, "HEPSILON": 0.056, "H8": 0.037}),
    (0.7, {"OIII_5007": 1.0, "OIII_4959": 0.336}),
    (0.7, {"NII_6584": 1.0, "NII_6548": 0.328, "SII_6716": 0.55, "SII_6731": 0.42, "OI_6300": 0.1}),
    (0.08, {"HEI_5876": 1.0, "ARIII_7136": 0.8, "SIII_9069": 1.0, "SIII_9531": 2.4}),
)
# (Å, equivalent width Å, sigma Å, whether narrow), Vanden Berk et al. 2001, table 2
QUASAR_LINES = (
    (1215.67, 93, 19, False), (1240.1, 9, 11, False), (1305, 1.7, 5.4, False), (1335, 0.7, 3.9, False),
    (1398, 8.1, 14, False), (1549.06, 24, 14, False), (1640.4, 4, 12, False), (1665, 0.4, 5, False),
    (1857, 0.3, 5, False), (1908.7, 21, 24, False), (2799.1, 32, 35, False), (3426.8, 1.2, 4, True),
    (3728.5, 1.6, 3.3, True), (3869.9, 1.4, 5.3, True), (4102.9, 5, 19, False), (4341.7, 13, 20, False),
    (4862.7, 46, 40, False), (4960.3, 3.5, 3.9, True), (5008.2, 13, 6, True), (5877, 5, 23, False),
    (6564.6, 195, 47, False),
)  # fmt: skip
BLUESHIFTED = (1398, 1549.06)  # of high ionisation: 800 km/s against Mg II
IRON = ((1900, 2100, 0.04), (2200, 2800, 0.18), (2950, 3500, 0.1), (4430, 4700, 0.08), (5100, 5400, 0.08))
TEMPERATURES = (
    *(2900, 3100, 3300, 3500, 3800, 4200, 4600, 5000, 5400, 5800, 6200, 6600, 7000, 7600, 8300, 9200),
    *(10500, 12500, 16000, 22000, 30000),
)  # K
BALMER = (6564.6, 4862.7, 4341.7, 4102.9, 3971.2, 3890.2, 3836.5, 3798.9, 3771.7)
# lines of cool stars: Å, sigma Å, depth in G stars, and more of it in K and M stars
COOL_LINES = (
    (3934.8, 9, 0.8, 0, 0), (3969.6, 8, 0.75, 0, 0), (3830, 12, 0.35, 0, 0), (4227.9, 4, 0.1, 0.5, 0),
    (4305, 14, 0.35, 0, -0.21), (4383, 5, 0.2, 0, 0), (5176, 14, 0.28, 0.25, 0), (5270, 6, 0.15, 0, 0),
    (5328, 5, 0.12, 0, 0), (5893, 4, 0.25, 0, 0.5), (6497, 5, 0.1, 0, 0), (7700, 3, 0, 0, 0.3),
    (8190, 3, 0, 0, 0.35), (8500, 3, 0.3, 0, 0), (8544, 4, 0.45, 0, 0), (8664, 4, 0.4, 0, 0),
)  # fmt: skip
# heads of the bands of TiO: Å, how far they reach to the red, depth
TITANIUM = (
    (4761, 60, 0.4), (4954, 70, 0.4), (5167, 90, 0.5), (5448, 70, 0.4), (5847, 80, 0.35), (6158, 100, 0.5),
    (6651, 90, 0.4), (7053, 140, 0.6), (7589, 120, 0.45), (8432, 70, 0.35), (8859, 60, 0.3), (9209, 60, 0.2),
)  # fmt: skip


def rest_wave(spectype: str) -> Array:
    """Return the wavelengths (W,) Å of a class, whole steps of log10."""
    low, high = (np.log10(edge) / STEP for edge in WAVE_RANGE[spectype])
    return 10 ** (STEP * np.arange(np.ceil(low), np.floor(high) + 1))


def draw_galaxies(n: int, rng: np.random.Generator) -> Array:
    """Return n galaxies at rest, (n, W): a quarter of them without lines, widths up to hundreds of Å."""
    wave, templates = rest_wave("GALAXY"), load_templates()
    stars = np.array([np.interp(wave, templates.wave, flux) for flux in templates.flux])
    stars /= [[np.interp(5500, wave, flux)] for flux in stars]
    mix = 10 ** rng.normal(0, 1, (n, len(stars))) * (rng.random((n, len(stars))) > 0.3)
    mix[mix.sum(axis=1) == 0, 3] = 1
    dust = rng.exponential(0.12, n)
    reddening = calzetti(wave) - calzetti(np.array([5500.0]))
    continuum = mix / mix.sum(axis=1, keepdims=True) @ stars * 10 ** (-0.4 * dust[:, None] * reddening)
    width = np.where(rng.random(n) < 0.25, 0, 10 ** rng.normal(1, 0.6, n))  # Å
    spectra, dimming = continuum.copy(), dust * rng.uniform(1, 2.3, n)
    for typical, group in LINE_GROUPS:
        first = LINES[next(iter(group))]
        level = np.array([np.interp(first, wave, flux) for flux in continuum])
        strength = width * typical * 10 ** rng.normal(0, 0.3, n) * level
        for name, share in group.items():
            extra = calzetti(np.array([LINES[name]])) - calzetti(np.array([first]))
            line = strength * share * 10 ** (-0.4 * dimming * extra)
            spectra += line[:, None] * _profile(wave, LINES[name], LINES[name] * GAS_KMS / LIGHT_KMS)
    return spectra


def draw_quasars(n: int, rng: np.random.Generator) -> Array:
    """Return n quasars at rest, (n, W), as seen from redshifts of 1.9 to 4.5."""
    return np.stack([_draw_quasar(rest_wave("QSO"), rng) for _ in range(n)])


def _draw_quasar(wave: Array, rng: np.random.Generator) -> Array:
    blue, red = rng.normal(-1.56, 0.35), rng.normal(0.45, 0.5)
    continuum = (wave / 5000) ** np.where(wave < 5000, blue, red)
    widths, iron, broad, narrow = 2 ** rng.normal(0, 0.5), *10 ** rng.normal(0, (0.3, 0.2, 0.4))
    flux, blueshift = continuum.copy(), rng.normal(-800, 400) / LIGHT_KMS
    for low, high, height in IRON:
        flux += (
            continuum * height * iron * np.exp(-0.5 * ((wave - (low + high) / 2) / ((high - low) / 3.2)) ** 2)
        )
    for at, width, sigma, is_narrow in QUASAR_LINES:
        centre = at * (1 + blueshift * (at in BLUESHIFTED))
        strength = width * 10 ** rng.normal(0, 0.2) * (narrow if is_narrow else broad)
        spread = sigma * 10 ** rng.normal(0, 0.05) * (1 if is_narrow else widths)
        flux += strength * np.interp(centre, wave, continuum) * _profile(wave, centre, spread)
    forest = np.exp(-0.0018 * ((1 + rng.uniform(1.9, 4.5)) * wave / 1215.67) ** 3.92)
    flux *= np.where(wave < 1215.67, forest, 1) * np.where(wave < 912, rng.uniform(0, 0.5), 1)
    return flux


def make_stars() -> Array:
    """Return stars from M to B, and white dwarfs above 8,000 K, (n, W)."""
    wave = rest_wave("STAR")
    dwarfs = [_make_star(wave, kelvin, dense=False) for kelvin in TEMPERATURES]
    return np.stack(
        [*dwarfs, *(_make_star(wave, kelvin, dense=True) for kelvin in TEMPERATURES if kelvin > 8000)]
    )


def _make_star(wave: Array, kelvin: float, *, dense: bool) -> Array:
    """Return a black body with Balmer lines strongest at 9,500 K, metals below 6,800 K, TiO below 3,900 K."""
    body = 1 / wave**5 / np.expm1(np.minimum(1.43878e8 / wave / kelvin, 500))
    flux = body / np.interp(5500, wave, body)
    hydrogen = np.exp(-0.5 * (np.log(kelvin / 9500) / 0.33) ** 2)
    cool, very_cool, coolest = (1 / (1 + np.exp((kelvin - at) / width)) for at, width in
                                ((6800, 500), (5200, 350), (3900, 150)))  # fmt: skip
    absorbed = np.zeros_like(wave)
    for i, at in enumerate(BALMER):
        wide = 5 * (1 + 4 * hydrogen * (4 if dense else 1)) * (1 if i < 5 else 0.8)
        absorbed += min(0.75, 0.62 * hydrogen) * (0.8 if i == 0 else 1) * _bump(wave, at, wide)
        absorbed += 0.15 * min(3 * hydrogen, 1) * _bump(wave, at, 2.2)
    for at, sigma, depth, more, most in COOL_LINES:
        absorbed += cool * (depth + more * very_cool + most * coolest) * _bump(wave, at, sigma)
    for at, reach, depth in TITANIUM:
        absorbed += depth * coolest * (wave >= at - 2) * np.exp(-np.clip((wave - at) / reach, 0, None))
    jump = 0.45 * hydrogen if kelvin > 6000 else 0
    flux *= np.where(wave < 3750, 1 - jump, 1) * np.where(wave < 4000, 1 - 0.35 * cool, 1)
    return flux * np.clip(1 - absorbed, 0.03, None)


def _bump(wave: Array, centre: float, sigma: float) -> Array:
    return np.exp(-0.5 * ((wave - centre) / sigma) ** 2)


def _profile(wave: Array, centre: float, sigma: float) -> Array:
    """Return a line of flux 1."""
    return _bump(wave, centre, sigma) / (sigma * np.sqrt(2 * np.pi))


def find_components(spectra: Array, m: int) -> Array:
    """Return the m principal components (m, W) of spectra (n, W) of equal brightness, without a mean."""
    _, _, components = np.linalg.svd(
        spectra / np.median(np.abs(spectra), axis=1, keepdims=True), full_matrices=False
    )
    return components[:m]


def main(path: str) -> None:
    """Make all templates and write them: vectors (m, W) float32 a class, and the place of the first value."""
    rng = np.random.default_rng(1)
    vectors = {
        "GALAXY": find_components(draw_galaxies(SPECTRA, rng), VECTORS["GALAXY"]),
        "QSO": find_components(draw_quasars(SPECTRA, rng), VECTORS["QSO"]),
        "STAR": make_stars(),
    }
    arrays: dict[str, Any] = {kind: part.astype(np.float32) for kind, part in vectors.items()}
    arrays |= {f"{kind}_first": round(np.log10(rest_wave(kind)[0]) / STEP) for kind in vectors}
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
