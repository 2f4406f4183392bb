"""Which galaxies DESI would target: real SDSS galaxies put at other redshifts, and DESI's selection cuts.

Legend: N galaxies, G galaxies of the SDSS reference, K redshift bins, T templates, B bands g r z W1 W2.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.mock import lines, sed

Array = NDArray[np.floating]

EVOLUTION = 1.2  # mag brighter per unit redshift at fixed type (Loveday et al. 2012: 0.7 to 1.7)
YOUNG = np.array([0.0, 1.0, 1.0, 0.0, 1.0])  # the templates with young stars; their amplitudes grow as
# (1 + z) to this: galaxies formed more stars then
YOUTH = {"BGS": 0.7, "LRG": 0.0, "ELG": 1.7, "SCND": 1.2}
# of the amplitudes; few SDSS galaxies are as blue as ELGs
JITTER = {"BGS": 0.15, "LRG": 0.15, "ELG": 0.35, "SCND": 0.35}
SCND_MAG = 16.5, 22.5  # r, dereddened
SCND_MASS = 6.5, 11.8  # log10 solar masses
DWARF = 9.2  # log10 solar masses: below, nearly all galaxies in the field form stars (Geha et al. 2012)
SPECIFIC_SFR_FLOOR = -12.5  # log10 yr-1: shocks and old stars ionise gas in quiescent galaxies too


class TargetSample(NamedTuple):
    """One DESI target class: redshift bins, and the number density wanted in them (None: as it comes)."""

    edges: Array
    density: Array | None


def _lrg_density(z: Array) -> Array:
    return np.interp(z, [0.3, 0.4, 0.8, 1.1], [0.6, 1.0, 1.0, 0.12])  # Zhou et al. 2023, figure 8


def _elg_density(z: Array) -> Array:
    return np.interp(z, [0.6, 0.8, 1.1, 1.3, 1.6], [0.25, 1.0, 1.0, 0.7, 0.35])  # Raichoor et al. 2023


def _make_sample(name: str, low: float, high: float, step: float) -> TargetSample:
    """Return bins of width `step` in redshift."""
    edges = np.arange(low, high + step / 2, step)
    middle = (edges[1:] + edges[:-1]) / 2
    density = {"BGS": None, "LRG": _lrg_density(middle), "ELG": _elg_density(middle)}[name]
    return TargetSample(edges, density)


SAMPLES = {
    "BGS": _make_sample("BGS", 0.01, 0.6, 0.005),
    "LRG": _make_sample("LRG", 0.3, 1.1, 0.01),
    "ELG": _make_sample("ELG", 0.6, 1.6, 0.01),
    "SCND": TargetSample(np.expm1(np.linspace(np.log1p(0.003), np.log1p(1.3), 101)), None),
}


def is_target(name: str, flux: Array) -> NDArray[np.bool_]:
    """Apply DESI's cuts to dereddened fluxes (..., 5) in nanomaggies of g, r, z, W1, W2.

    BGS: r < 19.5 (Hahn et al. 2023). LRG: the southern colour cuts of Zhou et al. 2023, with total for
    fibre magnitude. ELG: the ELG_LOP box of Raichoor et al. 2023. SCND: `SCND_MAG`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        g, r, z, w1, _ = np.moveaxis(22.5 - 2.5 * np.log10(flux), -1, 0)
    if name == "BGS":
        return (r < 19.5) & (r > 12.5)
    if name == "SCND":
        return (r > SCND_MAG[0]) & (r < SCND_MAG[1])
    if name == "LRG":
        cut = (z < 21.3) & (z - w1 > 0.8 * (r - z) - 0.6) & ((g - w1 > 2.9) | (r - w1 > 1.8))
        return cut & (((r - w1 > 1.8 * (w1 - 17.14)) & (r - w1 > w1 - 16.33)) | (r - w1 > 3.3))
    blue = (g - r < 0.5 * (r - z) + 0.1) & (g - r < -1.2 * (r - z) + 1.3)
    return (g > 20) & (g < 23.8) & (r - z > 0.15) & blue


class DrawnGalaxies(NamedTuple):
    """Intrinsic properties of drawn galaxies; all arrays have N rows.

    `coeffs` (N, T) template amplitudes with the distance in them (see `sed.synthesise`); `flux` (N, B)
    nanomaggies outside the Milky Way; `lines` (N, L) 1e-17 erg/s/cm2; masses in solar masses, `sfr` in
    solar masses a year, `age` in Gyr (mass-weighted, nominal), `metallicity` mass fraction of metals.
    """

    redshift: Array
    coeffs: Array
    flux: Array
    lines: Array
    log_mass: Array
    log_sfr: Array
    age: Array
    metallicity: Array
    b300: Array
    abundance: Array
    a_halpha: Array


def draw_galaxies(name: str, n: int, rng: np.random.Generator) -> DrawnGalaxies:
    """Draw `n` galaxies that pass the cuts of the sample `name`, in random order.

    Real galaxies are drawn by 1/Vmax, volume and cuts, so that colour, luminosity and redshift keep their
    joint distribution; template amplitudes (`JITTER`) and luminosities (5 %) are jittered to smooth it.
    SCND stands for DESI's secondary targets and the wide cuts of survey validation: any mix of stars at any
    redshift (even in ln(1 + z)) and magnitude, as far as galaxies of that mass exist.
    """
    sample, probability = SAMPLES[name], _probability(name)
    parts: list[DrawnGalaxies] = []
    while sum(len(part.redshift) for part in parts) < n:
        count = int(1.4 * n) + 20
        cell = rng.choice(probability.size, count, p=probability.ravel())
        which, k = np.divmod(cell, probability.shape[1])
        redshift = rng.uniform(sample.edges[k], sample.edges[k + 1])
        jitter = JITTER[name] * rng.standard_normal((count, 5)) + 0.05 * rng.standard_normal((count, 1))
        origin = sed.load_sdss().redshift[which]
        formed = _younger(sed.load_sdss().formed[which] * np.exp(jitter), origin, redshift, name)
        if name == "SCND":
            formed = _dim(formed, redshift, origin, rng)
        made = _describe(formed, redshift, origin, YOUTH[name] / 1.7, rng)
        good = is_target(name, made.flux)
        if name == "SCND":
            quiescent = made.log_sfr - made.log_mass < -11
            good &= (made.log_mass > SCND_MASS[0]) & (made.log_mass < SCND_MASS[1])
            good &= ~quiescent | (made.log_mass > DWARF)
        parts.append(DrawnGalaxies(*(values[good] for values in made)))
    return DrawnGalaxies(*(np.concatenate(values)[:n] for values in zip(*parts, strict=True)))


def _younger(formed: Array, origin: Array, redshift: Array, name: str) -> Array:
    """Return mixes seen at `origin` with the younger stars that such galaxies have at `redshift`."""
    return formed * ((1 + redshift) / (1 + origin))[:, None] ** (YOUTH[name] * YOUNG)


def _dim(formed: Array, redshift: Array, origin: Array, rng: np.random.Generator) -> Array:
    """Return mixes of the same colours with the mass that gives them an r magnitude drawn from `SCND_MAG`."""
    brighter = 10 ** (0.4 * EVOLUTION * (redshift - origin)) / sed.distance_factor(redshift)
    flux = sed.synthesise(sed.load_photometry().flux, formed * brighter[:, None], redshift)[:, 1]
    wanted = 10 ** (0.4 * (22.5 - rng.uniform(*SCND_MAG, len(flux))))
    return formed * (wanted / np.maximum(flux, 1e-30))[:, None]


@cache
def _probability(name: str) -> Array:
    """Return the probability (G, K) of each SDSS galaxy in each redshift bin."""
    from astropy.cosmology import Planck18

    if name == "SCND":
        shape = len(sed.load_sdss().redshift), len(SAMPLES[name].edges) - 1
        return np.full(shape, 1 / np.prod(shape))
    sample, reference, photometry = SAMPLES[name], sed.load_sdss(), sed.load_photometry()
    middle = (sample.edges[1:] + sample.edges[:-1]) / 2
    volume = Planck18.differential_comoving_volume(middle).value
    weight = np.zeros((len(reference.redshift), len(middle)))
    for k, z in enumerate(middle):
        brighter = 10 ** (0.4 * EVOLUTION * (z - reference.redshift)) / sed.distance_factor(np.array([z]))
        at = np.full(len(brighter), z)
        formed = _younger(reference.formed, reference.redshift, at, name) * brighter[:, None]
        flux = sed.synthesise(photometry.shipped, formed, at)
        weight[:, k] = is_target(name, flux)
    weight *= _inverse_vmax(reference)[:, None]
    if name == "LRG":  # quiescent almost without exception; the templates redden star-forming ones too much
        specific = np.log10(_halpha(reference.formed) / _mass(reference.formed)) - 41.27
        weight *= (1 / (1 + 10 ** (3 * (specific + 11.6))))[:, None]
    if sample.density is None:
        weight *= volume
    else:
        total = weight.sum(axis=0)
        weight *= np.divide(sample.density * volume, total, out=np.zeros_like(total), where=total > 0)
    return weight / weight.sum()


def _inverse_vmax(reference: sed.Sdss) -> Array:
    """Return 1 over the volume in which each galaxy is in SDSS's main sample (r < 17.77, z > 0.02)."""
    photometry = sed.load_photometry()
    z = np.arange(0.02, 0.2501, 0.005)
    flux = np.stack(
        [
            sed.synthesise(
                photometry.shipped, reference.formed / sed.distance_factor(np.array([x])), np.full(1, x)
            )
            for x in z
        ]
    )[..., 1]
    seen = (22.5 - 2.5 * np.log10(flux) < 17.77).sum(axis=0)
    limit = z[np.clip(seen, 2, len(z) - 1)]
    return 1 / (limit**3 - 0.019**3)


def _halpha(formed: Array) -> Array:
    """Return the Halpha luminosity that comes with the templates, erg/s."""
    return (formed * sed.load_templates().halpha).sum(axis=1) + 1e30


def _mass(formed: Array) -> Array:
    """Return the stellar mass that remains of the mass formed."""
    return (formed * sed.load_templates().mass).sum(axis=1)


def _describe(
    formed: Array, redshift: Array, origin: Array, youth: float, rng: np.random.Generator
) -> DrawnGalaxies:
    """Put mixes seen at `origin` to `redshift`; star formation rises by `youth` (0 to 1) beyond the mix."""
    templates, photometry = sed.load_templates(), sed.load_photometry()
    distance = sed.distance_factor(redshift)
    brighter = 10 ** (0.4 * EVOLUTION * (redshift - origin))
    coeffs = formed * (brighter / distance)[:, None]
    remaining = formed * templates.mass
    mass = remaining.sum(axis=1)
    log_mass = np.log10(mass)
    # The line strength of the mix is the one that fits the broad bands; star formation is read from it
    # (Kennicutt & Evans 2012, Kroupa IMF), since the templates' own M300 is empty in most mixes.
    specific = np.log10(_halpha(formed) / mass) - 41.27 + 0.15 * rng.standard_normal(len(mass))
    specific += 0.4 * EVOLUTION * youth * (redshift - origin)
    # Garn & Best measured star-forming galaxies; quiescent ones have little dust in front of their gas.
    a_halpha = lines.halpha_extinction(log_mass, rng) / (1 + 10 ** (-2 * (specific + 10.9)))
    log_sfr = specific + log_mass + 0.4 * a_halpha
    floor = log_mass + SPECIFIC_SFR_FLOOR + 0.3 * rng.standard_normal(len(mass))
    log_sfr = np.log10(10**log_sfr + 10**floor)
    halpha = 10 ** (log_sfr + 41.27 - 0.4 * a_halpha) / (sed.PC10_AREA * distance) * 1e17
    abundance = lines.oxygen_abundance(log_mass, log_sfr, rng)
    quiet = log_sfr - log_mass < -11.3
    agn = quiet | (rng.random(len(mass)) < 0.08 * (log_mass > 10.3))
    fluxes = lines.line_fluxes(halpha, a_halpha, abundance, agn, rng)
    age_of_universe = 13.8 / (1 + redshift) ** 1.2  # Gyr; within 5 % of Planck 2018 to z = 1.7
    age = np.minimum((remaining * sed.AGE_GYR).sum(axis=1) / mass, 0.8 * age_of_universe)
    return DrawnGalaxies(
        redshift=redshift,
        coeffs=coeffs,
        flux=sed.synthesise(photometry.flux, coeffs, redshift)
        + lines.line_photometry(photometry, fluxes, redshift),
        lines=fluxes,
        log_mass=log_mass,
        log_sfr=log_sfr,
        age=age,
        metallicity=(remaining * templates.metals).sum(axis=1) / mass,
        b300=(formed * templates.m300).sum(axis=1) / formed.sum(axis=1),
        abundance=abundance,
        a_halpha=a_halpha,
    )
