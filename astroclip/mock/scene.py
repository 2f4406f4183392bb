"""Draw the sky as it truly is: galaxies and their places, how they are observed, and what goes wrong."""

import numpy as np

from astroclip.mock import disturb, footprint, lines, morphology
from astroclip.mock.fibre import POINT_IN_FIBRE, fibre_share
from astroclip.mock.target_lists import DrawnGalaxies, draw_galaxies
from astroclip.mock.truth import (
    DTYPE,
    MOONLIGHT,
    PLANTED,
    SKY_VARIANCE_R,
    Array,
    Draw,
    Table,
    row_rng,
    transmission,
)

SAMPLE_SHARE = {"BGS": 0.5, "LRG": 0.2, "ELG": 0.15, "SCND": 0.15}
FILE_LOST_SHARE = 0.5  # of the no_coadd rows: at most so many because their whole coadd file is missing


def make_sky(n: int, seed: int, *, disturbed: bool = False) -> Table:
    """Return the truth of a sky with `n` targeted galaxies and the rows planted besides (dtype `DTYPE`).

    Where it is `disturbed`, spectra have what real ones have besides noise, and some targets are no galaxies.
    """
    rng = row_rng(seed, Draw.SKY)
    extra = {kind: _count(kind, n) for kind in ("sky", "stuck", "image_only", "repeat")}
    galaxies = _galaxies(n + extra["image_only"], rng)
    galaxies["KIND"][n:] = "image_only"
    sky = np.zeros(extra["sky"] + extra["stuck"], DTYPE)
    sky["KIND"] = ["sky"] * extra["sky"] + ["stuck"] * extra["stuck"]
    sky["PROGRAM"] = rng.choice(["bright", "dark"], len(sky))
    strange = row_rng(seed, Draw.DISTURBANCE)
    strangers = [disturb.draw_strangers(n, strange)] if disturbed else []
    table = np.concatenate([galaxies, sky, *strangers])
    table["IVAR_FACTOR"] = table["LINE_BOOST"] = 1
    table["WAVE_MIN"], table["WAVE_MAX"] = 3600, 9824
    if disturbed:
        disturb.draw_disturbances(table, strange)
        disturb.light_strangers(table, seed)
    _place(table, rng)
    _plant(table[:n], rng)
    _observe_images(table, rng)
    repeat = table[rng.choice(np.flatnonzero(table["KIND"][:n] == "galaxy"), extra["repeat"], replace=False)]
    repeat["KIND"], repeat["PROGRAM"] = "repeat", np.where(repeat["PROGRAM"] == "bright", "dark", "bright")
    table = np.concatenate([table, repeat])
    _observe_spectra(table, rng)
    _measure_redshifts(table, rng)
    _lose_spectra(table, rng)
    return table


def _count(kind: str, n: int) -> int:
    return max(1, round(PLANTED[kind] * n))


def _galaxies(n: int, rng: np.random.Generator) -> Table:
    """Draw galaxies of all samples in random order, with their shapes; positions are still missing."""
    table = np.zeros(n, DTYPE)
    counts = rng.multinomial(n, list(SAMPLE_SHARE.values()))
    parts = [draw_galaxies(name, c, rng) for name, c in zip(SAMPLE_SHARE, counts, strict=True)]
    drawn = DrawnGalaxies(*(np.concatenate(v) for v in zip(*parts, strict=True)))
    table["SAMPLE"] = np.repeat(list(SAMPLE_SHARE), counts)
    table["KIND"], table["Z_TRUE"] = "galaxy", drawn.redshift
    table["COEFFS"], table["FLUX"], table["LINES"] = drawn.coeffs, drawn.flux, drawn.lines
    table["LOGMSTAR"], table["LOGSFR"], table["AGE"] = drawn.log_mass, drawn.log_sfr, drawn.age
    table["METALLICITY"], table["B300"] = drawn.metallicity, drawn.b300
    table["LOGOH"], table["A_HALPHA"] = drawn.abundance, drawn.a_halpha
    # Faber & Jackson for the stars (as fitted by Zahid et al. 2016), Tully & Fisher projected for the gas.
    x = drawn.log_mass - 10.3
    table["SIGMA_STARS"] = 10 ** (2.07 + np.where(x > 0, 0.29, 0.40) * x + 0.07 * rng.standard_normal(n))
    # Gas in a disk follows rotation and is more turbulent at high redshift (Wisnioski et al. 2015); in
    # quiescent galaxies it moves as the stars do.
    rotation = 10 ** (1.97 + 0.27 * x + 0.15 * rng.standard_normal(n))
    rotation = np.hypot(rotation, 25 * (1 + drawn.redshift))
    quiescent = drawn.log_sfr - drawn.log_mass < -11.0
    random = table["SIGMA_STARS"] * 10 ** (0.08 * rng.standard_normal(n))
    table["SIGMA_GAS"] = np.clip(np.where(quiescent, random, rotation), 25, 320)
    shapes = morphology.draw_shapes(drawn.log_mass, drawn.log_sfr, drawn.redshift, rng)
    for name, values in shapes._asdict().items():
        table[name.upper()] = values
    return table[rng.permutation(n)]


def _place(table: Table, rng: np.random.Generator) -> None:
    """Give every row a position, the names that follow from it, reddening and a survey."""
    table["RA"], table["DEC"] = footprint.draw_positions(len(table), rng)
    table["BRICKID"], table["BRICKNAME"] = footprint.brick(table["RA"], table["DEC"])
    table["HEALPIX"] = footprint.healpix(table["RA"], table["DEC"])
    table["RELEASE"] = footprint.RELEASE
    # Objects count on within a brick; gaps leave room for the neighbours in the images.
    order = np.argsort(table["BRICKID"], kind="stable")
    _, first, size = np.unique(table["BRICKID"][order], return_index=True, return_counts=True)
    within = np.arange(len(table)) - np.repeat(first, size)
    table["OBJID"][order] = 60 * within + rng.integers(1, 11, len(table))
    ids = footprint.targetid(table["RELEASE"], table["BRICKID"], table["OBJID"])
    sky = table["KIND"] == "sky"
    table["TARGETID"] = np.where(sky, ids | 1 << 59, ids)
    stuck = table["KIND"] == "stuck"
    table["TARGETID"][stuck] = -2713000 - np.arange(stuck.sum())
    for name in ("RELEASE", "BRICKID", "OBJID"):
        table[name][stuck] = 0
    table["BRICKNAME"][stuck] = ""
    wave = np.sin(np.deg2rad(table["RA"]) * 17) * np.cos(np.deg2rad(table["DEC"]) * 23)
    table["EBV"] = 0.035 * np.exp(0.4 * wave + 0.05 * rng.standard_normal(len(table)))
    table["FLUX"] *= transmission(table["EBV"])
    # One pixel in five was observed in survey validation.
    table["SURVEY"] = np.where(table["HEALPIX"] % 5 == 0, "sv3", "main")
    target = table["SAMPLE"] != ""
    table["PROGRAM"][target] = np.where(table["SAMPLE"][target] == "BGS", "bright", "dark")


def _plant(table: Table, rng: np.random.Generator) -> None:
    """Mark galaxies for the problems that befall single targets."""
    order = rng.permutation(len(table))
    for kind in ("bad_fiber", "wrong_spectype", "zwarn", "no_coadd", "no_image"):
        chosen, order = order[: _count(kind, len(table))], order[_count(kind, len(table)) :]
        table["KIND"][chosen] = kind


def _observe_images(table: Table, rng: np.random.Generator) -> None:
    """Draw seeing and depth, and what the imaging catalogue makes of each galaxy."""
    n, target = len(table), table["SAMPLE"] != ""
    # Scatter of seeing and depth as in the image augmentation of Parker et al. 2024: 12 % and 0.2 mag.
    table["PSFSIZE"] = np.array([1.3, 1.2, 1.1]) * np.exp(0.12 * rng.standard_normal((n, 3)))
    table["DEPTH"] = np.array([24.7, 23.9, 23.0]) + 0.2 * rng.standard_normal((n, 3))
    table["FIBRE_SHARE"][target] = fibre_share(table[target])
    table["HAS_IMAGE"] = target & (table["KIND"] != "no_image")
    larger = np.sqrt(
        1 + (table["DISK_RADIUS"][:, None] / (0.6 * table["PSFSIZE"])) ** 2
    )  # more pixels, more sky
    point = 10 ** (0.4 * (22.5 - table["DEPTH"])) / 5
    error = np.hypot(
        np.hstack([point * larger, np.full((n, 1), 0.5), np.full((n, 1), 1.0)]), 0.005 * table["FLUX"]
    )
    table["FLUX_IVAR"] = 1 / error**2
    table["FLUX_OBS"] = table["FLUX"] + error * rng.standard_normal((n, 5))
    table["IMAGE_INDEX"] = -1
    imaged = np.flatnonzero(table["HAS_IMAGE"])
    table["IMAGE_INDEX"][imaged[np.argsort(-table["FLUX_OBS"][imaged, 2], kind="stable")]] = np.arange(
        len(imaged)
    )


def _observe_spectra(table: Table, rng: np.random.Generator) -> None:
    """Draw the conditions of the spectra."""
    n, bright = len(table), table["PROGRAM"] == "bright"
    effective = np.where(bright, 190.0, 1000.0) * np.where(
        table["SURVEY"] == "sv3", 1.2, 1.0
    )  # s of dark time
    effective *= np.exp(0.15 * rng.standard_normal(n))
    table["EXPTIME"] = effective * np.where(bright, MOONLIGHT, 1.15) * np.exp(0.12 * rng.standard_normal(n))
    table["NUMEXP"] = np.where(rng.random(n) < 0.6, 1, 1 + rng.poisson(1.0, n))
    table["SKY_VARIANCE"] = SKY_VARIANCE_R * 1000 / effective
    table["FIBRE_GAIN"] = np.exp(0.04 * rng.standard_normal(n))
    table["FIBRE_TILT"] = 0.10 * rng.standard_normal(n)  # the atmosphere spreads colours over the fibre


def _measure_redshifts(table: Table, rng: np.random.Generator) -> None:
    """Fill what a redshift fitter would report, its failures included."""
    n, kind = len(table), table["KIND"]
    target = table["SAMPLE"] != ""
    signal = _signal_to_noise(table)
    deltachi2 = signal**2 * np.exp(0.3 * rng.standard_normal(n))
    failed = (kind == "zwarn") | (target & (deltachi2 < 9)) | ~target | (kind == "bad_fiber")
    table["KIND"][(kind == "galaxy") & failed] = "zwarn"  # too faint: the same to whoever reads it
    table["ZERR"] = 2e-5 * (1 + table["Z_TRUE"]) * np.clip(40 / np.maximum(signal, 0.1), 0.3, 30)
    table["Z"] = table["Z_TRUE"] + table["ZERR"] * rng.standard_normal(n)
    wrong = failed | (kind == "wrong_spectype")
    table["Z"][wrong] = rng.uniform(-0.001, 1.69, wrong.sum())
    table["DELTACHI2"] = np.where(failed, rng.uniform(0.1, 8.9, n), np.maximum(deltachi2, 9.1))
    table["ZWARN"] = np.where(failed, 4, 0)  # SMALL_DELTA_CHI2
    table["SPECTYPE"] = "GALAXY"
    table["SPECTYPE"][kind == "wrong_spectype"] = rng.choice(
        ["STAR", "QSO"], (kind == "wrong_spectype").sum()
    )
    star = table["SPECTYPE"] == "STAR"
    table["Z"][star] = 3e-4 * rng.standard_normal(star.sum())
    for name, spectype in disturb.SPECTYPES.items():
        table["SPECTYPE"][kind == name] = spectype
    strange = np.isin(kind, list(disturb.SPECTYPES))
    table["ZWARN"][strange], table["Z"][strange] = 0, table["Z_TRUE"][strange]
    table["ZWARN"][kind == "blank"] = 4
    table["COADD_FIBERSTATUS"][kind == "bad_fiber"] = 520
    table["COADD_FIBERSTATUS"][kind == "stuck"] = 1
    no_data = (kind == "bad_fiber") | (kind == "stuck")
    table["ZWARN"][no_data], table["DELTACHI2"][no_data] = 512 | 4, 0.0  # NODATA


def _signal_to_noise(table: Table) -> Array:
    """Return the signal-to-noise of redshift features: the stars' breaks and lines, and emission lines."""
    share = table["FIBRE_SHARE"] / POINT_IN_FIBRE
    red = table["FLUX"][:, 1:3] * share[:, 1:3] * np.array([0.264, 0.129])  # nanomaggy to 1e-17 erg/s/cm2/Å
    variance = table["SKY_VARIANCE"]
    stars = 0.08 * np.sqrt(2000 * (red[:, 0] ** 2 + 2 * red[:, 1] ** 2) / np.maximum(variance, 1e-9))
    observed = lines.WAVE * (1 + table["Z_TRUE"][:, None])
    caught = table["LINES"] * share[:, 1:2] * ((observed > 3700) & (observed < 9700))
    width = np.sqrt(6 * 0.8**2 * np.maximum(variance, 1e-9) * 2)
    return np.hypot(stars, np.sqrt((caught**2).sum(axis=1)) / width)


def _lose_spectra(table: Table, rng: np.random.Generator) -> None:
    """Decide which rows no coadd holds: single rows, and whole files where small ones exist."""
    table["HAS_SPECTRUM"] = table["KIND"] != "image_only"
    lost = np.flatnonzero(table["KIND"] == "no_coadd")
    spectra = table["KIND"] != "image_only"
    keys = np.array([f"{r['SURVEY']}/{r['PROGRAM']}/{r['HEALPIX']}" for r in table])
    names, counts = np.unique(keys[spectra & (table["KIND"] != "repeat")], return_counts=True)
    budget = int(FILE_LOST_SHARE * len(lost))
    for name, count in sorted(zip(names, counts, strict=True), key=lambda item: (item[1], item[0])):
        rows = np.flatnonzero(spectra & (keys == name))
        if count > budget or not np.isin(table["KIND"][rows], ("galaxy", "no_coadd")).all():
            continue
        spare = lost[~np.isin(lost, rows)]
        found = rng.choice(spare, min(len(rows), len(spare)), replace=False)
        table["KIND"][found] = np.where(table["ZWARN"][found] == 0, "galaxy", "zwarn")
        table["KIND"][rows] = "no_coadd"
        break
    table["HAS_SPECTRUM"] &= table["KIND"] != "no_coadd"
