"""Compare mock spectra with real DESI coadds of the same redshift, brightness and depth.

    python examples/mock_against_real.py DIR OUT.png

DIR holds the real coadds below. For each of them its g, r, z fluxes are drawn 40 times within their errors,
and the mock galaxy that, put to its redshift, comes nearest in g - r and r - z is given its fibre magnitude
and observed for its effective time, in as many exposures: 12.15 s per TSNR2_LRG, or the exposure time where
that claims more than twice it (one coadd holds fewer exposures than its SCORES).
Prints and draws pixel noise, arm-to-arm colour and line widths of the real galaxy beside the mock's 5-95 %
range. (The first coadd, of an early reduction, is 6 % bluer in r - z than its own imaging.)
"""

import sys
from pathlib import Path
from typing import NamedTuple

import fitsio
import matplotlib as mpl
import numpy as np

from astroclip.mock import observe as spectra
from astroclip.mock import scene as sky
from astroclip.mock.lines import LINES
from astroclip.mock.sed import distance_factor, load_photometry, synthesise
from astroclip.mock.truth import SKY_VARIANCE_R, transmission

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

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


def make_lookalikes(truth: np.ndarray, fibermap: np.void, redshift: float, seconds: float) -> list[Spectrum]:
    """Observe the mock galaxies most like the real one, moved to its redshift and fibre z magnitude."""
    there = synthesise(load_photometry().shipped, truth["COEFFS"], np.full(len(truth), redshift))
    clear = transmission(np.array([fibermap["EBV"]]))[0, :3]
    wanted = np.array([fibermap[f"FLUX_{band}"] for band in "GRZ"]) / clear
    error = np.array([fibermap[f"FLUX_IVAR_{band}"] for band in "GRZ"]) ** -0.5 / clear
    rng = np.random.default_rng(7)
    colour = 2.5 * np.diff(np.log10(there[:, :3]))
    made = []
    for _ in range(LOOKALIKES):
        seen = np.maximum(wanted + error * rng.standard_normal(3), 0.1 * error)
        index = np.abs(colour - 2.5 * np.diff(np.log10(seen))).max(axis=1).argmin()
        row = truth[index].copy()
        share = fibermap["FIBERFLUX_Z"] / fibermap["FLUX_Z"]
        scale = wanted[2] / there[index, 2]
        row["COEFFS"], row["LINES"] = row["COEFFS"] * scale, row["LINES"] * scale
        heavier = scale * np.divide(*distance_factor(np.array([redshift, row["Z_TRUE"]])))
        row["SIGMA_STARS"], row["SIGMA_GAS"] = heavier**0.3 * np.array([row["SIGMA_STARS"], row["SIGMA_GAS"]])
        row["Z_TRUE"], row["FIBRE_SHARE"], row["EBV"] = redshift, share, fibermap["EBV"]
        light = spectra.in_fibre(row, spectra.incoming(row))
        exptime, variance = float(fibermap["COADD_EXPTIME"]), SKY_VARIANCE_R * 1000 / seconds
        arms = spectra.observe(
            light, variance, exptime, rng.spawn(1)[0], exposures=int(fibermap["COADD_NUMEXP"])
        )
        made.append(Spectrum([a.flux.astype(float) for a in arms], [a.ivar.astype(float) for a in arms]))
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


def draw_spectra(axes: np.ndarray, title: str, real: Spectrum, mocks: list[Spectrum]) -> None:
    """Draw the real spectrum and a mock one, in bins of 8 px, and the pixel noise of all of them."""
    top = 6 * np.median(real.flux[1])
    for k, arm in enumerate(spectra.load_arms()):
        for spectrum, colour, label, offset in ((real, "k", "real", 0.0), (mocks[0], "C3", "mock", top)):
            wave, flux = (
                np.reshape(x[: arm.n // 8 * 8], (-1, 8)).mean(axis=1) for x in (arm.wave, spectrum.flux[k])
            )
            axes[0].plot(wave, flux + offset, colour, lw=0.6, label=label if k == 0 else None)
        sigma = np.array([np.where(m.ivar[k] > 0, m.ivar[k], np.nan) ** -0.5 for m in mocks])
        low, high = np.nanpercentile(sigma, [5, 95], axis=0)
        good = real.ivar[k] > 0
        axes[1].plot(arm.wave[good], real.ivar[k][good] ** -0.5, "k", lw=0.5)
        axes[1].fill_between(arm.wave, low, high, color="C3", alpha=0.4, lw=0)
    axes[0].set(title=title, ylim=(-0.4 * top, 2.2 * top), ylabel="flux (mock shifted up)")
    axes[0].legend(loc="upper left")
    axes[1].set(yscale="log", ylabel="pixel sigma", xlabel="wavelength [Å]")


def draw_ranges(axis: Axes, real: Numbers, ranges: dict[str, np.ndarray]) -> None:
    """Draw the mock's median and 5-95 % range of each quantity, over the real value."""
    names = list(ranges)[::-1]
    low, middle, high = np.array([ranges[name] / real[name] for name in names]).T
    axis.errorbar(middle, range(len(names)), xerr=[middle - low, high - middle], fmt="C3o", ms=3)
    axis.axvline(1, color="k", lw=0.8)
    axis.set(xlabel="mock / real", xlim=(0.4, 1.7), yticks=range(len(names)), yticklabels=names)


def main() -> None:
    """Print the comparison and draw it."""
    folder, target = Path(sys.argv[1]), Path(sys.argv[2])
    truth = sky.make_sky(3000, 11)
    truth = truth[(truth["SAMPLE"] != "") & (truth["KIND"] != "repeat")]
    layout = {"figsize": (13, 5 * len(REAL)), "width_ratios": [4, 1], "layout": "constrained"}
    figure, axes = plt.subplots(2 * len(REAL), 2, **layout)
    inside = []
    for k, (name, row, redshift) in enumerate(REAL):
        real, fibermap, seconds = read_real(folder / name, row)
        mocks = make_lookalikes(truth, fibermap, redshift, seconds)
        found, measured = measure(real, redshift), [measure(mock, redshift) for mock in mocks]
        print(f"{name} row {row}: z = {redshift}, {seconds:.0f} s effective")
        ranges = {}
        for quantity, value in found.items():
            values = [m[quantity] for m in measured if quantity in m]
            if not values:
                print(f"  {quantity:16s} real {value:8.3f}   in no mock")
                continue
            low, middle, high = ranges[quantity] = np.percentile(values, [5, 50, 95])
            inside.append(low <= value <= high)
            mark = "" if inside[-1] else "  outside"
            print(f"  {quantity:16s} real {value:8.3f}   mock {middle:8.3f}  ({low:.3f} to {high:.3f}){mark}")
        draw_spectra(axes[2 * k : 2 * k + 2, 0], f"{name}, z = {redshift:.4f}", real, mocks)
        grid = axes[2 * k, 1].get_gridspec()
        for axis in axes[2 * k : 2 * k + 2, 1]:
            axis.remove()
        draw_ranges(figure.add_subplot(grid[2 * k : 2 * k + 2, 1]), found, ranges)
    print(f"{sum(inside)} of {len(inside)} real values lie within the mock's 5-95 % range; 90 % would")
    figure.savefig(target, dpi=64)


if __name__ == "__main__":
    main()
