"""Compare mock spectra with real DESI coadds of the same redshift, brightness and depth.

    python examples/mock_against_real.py DIR OUT.png

DIR holds the real coadds below. For each of them the 40 mock galaxies that, put to its redshift, have nearly
its g - r and r - z are given its fibre magnitude and observed for its effective time: 12.15 s per TSNR2_LRG,
or the exposure time where that claims more than twice it (one coadd holds fewer exposures than its SCORES).
Prints pixel noise, arm-to-arm colour and line widths of the real galaxy beside the mock's 5-95 % range.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import fitsio
import matplotlib as mpl
import numpy as np

from astroclip.mock import sky, spectra
from astroclip.mock.fibre import POINT_IN_FIBRE
from astroclip.mock.lines import LINES
from astroclip.mock.sed import distance_factor, load_photometry, synthesise
from astroclip.mock.truth import SKY_VARIANCE_R, transmission

mpl.use("Agg")
import matplotlib.pyplot as plt

REAL = (  # file, row, redshift (fitted independently of this program)
    ("coadd-4-80613-thru20210324.fits", 0, 0.368744),
    ("coadd-sv3-dark-26065.fits.gz", 2, 0.83648),
    ("coadd-sv3-dark-26065.fits.gz", 4, 0.98060),
)
LOOKALIKES = 40
FIT_LINES = ("OII", "HBETA", "OIII_5007", "HALPHA")
Numbers = dict[str, float]


class Spectrum(NamedTuple):
    """Flux and ivar of each arm, B, R, Z."""

    flux: list[np.ndarray]
    ivar: list[np.ndarray]


def read_real(path: Path, row: int) -> tuple[Spectrum, np.void, float]:
    """Return one real spectrum, its FIBERMAP row, and the effective time in s."""
    with fitsio.FITS(path) as hdus:
        flux = [hdus[f"{arm}_FLUX"].read()[row].astype(float) for arm in "BRZ"]
        ivar = [hdus[f"{arm}_IVAR"].read()[row].astype(float) for arm in "BRZ"]
        fibermap = hdus["FIBERMAP"].read()[row]
        seconds, exptime = (
            12.15 * float(hdus["SCORES"].read()[row]["TSNR2_LRG"]),
            float(fibermap["COADD_EXPTIME"]),
        )
        return Spectrum(flux, ivar), fibermap, seconds if seconds < 2 * exptime else exptime


def make_lookalikes(
    truth: np.ndarray, fibermap: np.void, redshift: float, seconds: float
) -> list[tuple[Spectrum, np.void]]:
    """Observe the mock galaxies most like the real one, moved to its redshift and fibre z magnitude."""
    there = synthesise(load_photometry().shipped, truth["COEFFS"], np.full(len(truth), redshift))
    clear = transmission(np.array([fibermap["EBV"]]))[0, :3]
    wanted = np.array([fibermap[f"FLUX_{band}"] for band in "GRZ"]) / clear
    colour, target = (2.5 * np.diff(np.log10(flux)) for flux in (there[:, :3], wanted))
    unlike = np.abs(colour - target).max(axis=1)
    made = []
    for index in np.argsort(unlike)[:LOOKALIKES]:
        row = truth[index].copy()
        share = fibermap["FIBERFLUX_Z"] / fibermap["FLUX_Z"]
        scale = wanted[2] / there[index, 2]
        row["COEFFS"], row["LINES"] = row["COEFFS"] * scale, row["LINES"] * scale
        heavier = scale * np.divide(*distance_factor(np.array([redshift, row["Z_TRUE"]])))
        row["SIGMA_STARS"], row["SIGMA_GAS"] = heavier**0.3 * np.array([row["SIGMA_STARS"], row["SIGMA_GAS"]])
        row["Z_TRUE"], row["FIBRE_SHARE"], row["EBV"] = redshift, share, fibermap["EBV"]
        light = spectra.in_fibre(row, spectra.incoming(row))
        rng = np.random.default_rng([7, index])
        exptime, variance = float(fibermap["COADD_EXPTIME"]), SKY_VARIANCE_R * 1000 / seconds
        arms = spectra.observe(light, variance, exptime, rng, exposures=int(fibermap["COADD_NUMEXP"]))
        made.append(
            (Spectrum([a.flux.astype(float) for a in arms], [a.ivar.astype(float) for a in arms]), row)
        )
    return made


def measure(spectrum: Spectrum, redshift: float) -> Numbers:
    """Return noise (median sigma by arm), colours between arms, and widths of lines above 8 sigma, km/s."""
    found: Numbers = {}
    good = [iv > 0 for iv in spectrum.ivar]
    level = [float(np.median(f[g])) for f, g in zip(spectrum.flux, good, strict=True)]
    for arm, ivar, g in zip("BRZ", spectrum.ivar, good, strict=True):
        found[f"sigma {arm}"] = float(np.median(ivar[g] ** -0.5))
        found[f"sigma 10 % {arm}"] = float(np.percentile(ivar[g] ** -0.5, 10))
        found[f"sigma 95 % {arm}"] = float(np.percentile(ivar[g] ** -0.5, 95))
    found["R / Z flux"] = level[1] / level[2]
    for name in FIT_LINES:
        width = fit_width(spectrum, 3728.5 if name == "OII" else LINES[name], redshift)
        if np.isfinite(width):
            found[f"width {name}"] = width
    return found


def fit_width(spectrum: Spectrum, rest: float, redshift: float) -> float:
    """Return the line's width (second moment of the best Gaussian, km/s) or NaN below 8 sigma."""
    best = (8.0, np.nan)
    for arm, flux, ivar in zip(spectra.load_arms(), spectrum.flux, spectrum.ivar, strict=True):
        velocity = (arm.wave / (rest * (1 + redshift)) - 1) * 299792.458
        near = np.abs(velocity) < 1500
        if near.sum() < 30 or not (ivar[near] > 0).all():
            continue
        v, f, w = velocity[near], flux[near], ivar[near]
        for sigma in np.arange(40, 400, 5.0):
            for shift in np.arange(-90, 91, 30.0):
                profile = np.exp(-0.5 * ((v - shift) / sigma) ** 2)
                design = np.stack([np.ones_like(v), v / 1500, profile])
                covariance = np.linalg.inv((design * w) @ design.T)
                amplitude = (covariance @ ((design * w) @ f))[2]
                best = max(best, (amplitude / np.sqrt(covariance[2, 2]), sigma))
    return best[1]


def draw(axes: np.ndarray, name: str, real: Spectrum, mock: Spectrum, redshift: float) -> None:
    """Draw one pair: spectra smoothed over 5 px above, pixel noise below."""
    for spectrum, colour, label, shift in ((real, "k", "real", 0.0), (mock, "C3", "mock", 1.0)):
        for k, arm in enumerate(spectra.load_arms()):
            flux = np.convolve(spectrum.flux[k], np.ones(5) / 5, "same")
            offset = shift * 6 * np.median(real.flux[1])
            label_once = label if k == 0 else None
            axes[0].plot(arm.wave, flux + offset, colour, lw=0.5, label=label_once)
            good = spectrum.ivar[k] > 0
            axes[1].plot(arm.wave[good], spectrum.ivar[k][good] ** -0.5, colour, lw=0.5, alpha=0.7)
    top = 6 * np.median(real.flux[1]) + np.percentile(np.concatenate(mock.flux), 99.7)
    axes[0].set(
        title=f"{name}, z = {redshift:.4f}", ylim=(-0.3 * top, 1.4 * top), ylabel="flux (mock shifted up)"
    )
    axes[0].legend(loc="upper left")
    axes[1].set(yscale="log", ylabel="pixel sigma", xlabel="wavelength [Å]")


def main() -> None:
    """Print the comparison and draw it."""
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    truth = sky.make_sky(3000, 11)
    truth = truth[(truth["SAMPLE"] != "") & (truth["KIND"] != "repeat")]
    figure, axes = plt.subplots(2 * len(REAL), 1, figsize=(14, 6 * len(REAL)), constrained_layout=True)
    for k, (name, row, redshift) in enumerate(REAL):
        real, fibermap, seconds = read_real(folder / name, row)
        mocks = make_lookalikes(truth, fibermap, redshift, seconds)
        measured = [measure(mock, redshift) for mock, _ in mocks]
        print(f"{name} row {row}: z = {redshift}, {seconds:.0f} s effective, {POINT_IN_FIBRE} in fibre")
        for quantity, value in measure(real, redshift).items():
            found = [m[quantity] for m in measured if quantity in m]
            low, middle, high = np.percentile(found, [5, 50, 95]) if found else [np.nan] * 3
            print(f"  {quantity:16s} real {value:8.3f}   mock {middle:8.3f}  ({low:.3f} to {high:.3f})")
        draw(axes[2 * k : 2 * k + 2], name, real, mocks[0][0], redshift)
    figure.savefig(target, dpi=90)


if __name__ == "__main__":
    main()
