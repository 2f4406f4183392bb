"""What the truth of a mock sky holds: one row for each galaxy, sky fibre and planted problem.

Everything random about the sky as a whole comes from one generator; what is drawn later for a row (pixel
noise, votes) comes from a generator of that row's own: see `row_rng`.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from astroclip.mock import lines

Array = NDArray[np.floating]
Table = NDArray[np.void]  # a structured array

# A / E(B-V) of the Milky Way in g r z W1 W2 (Legacy Surveys DR9)
MW_EXTINCTION = np.array([3.214, 2.165, 1.211, 0.184, 0.113])
SKY_VARIANCE_R = 0.28**2  # of a pixel in the R arm after 1000 s effective: 0.27 to 0.30 in real coadds
MOONLIGHT = 2.2  # how much brighter the sky is in bright time

# What is planted, and the share of galaxies it befalls. 'sky', 'stuck' and 'repeat' are rows more.
PLANTED = {
    "sky": 0.02,  # a fibre on blank sky: OBJTYPE SKY
    "stuck": 0.01,  # a positioner that does not move: negative TARGETID, no OBJTYPE, IVAR = 0
    "repeat": 0.015,  # the same target in the other program too: ZCAT_PRIMARY False, same TARGETID
    "image_only": 0.04,  # an image and no spectrum
    "bad_fiber": 0.01,  # a target with COADD_FIBERSTATUS set and IVAR = 0
    "wrong_spectype": 0.01,  # Redrock took it for a star or quasar
    "zwarn": 0.015,  # ZWARN set, redshift wrong
    "no_coadd": 0.015,  # in the catalogue, in no coadd file
    "no_image": 0.02,  # a spectrum and no image
}
NO_GALAXY = ("quasar", "star", "blank")  # kinds of targets that `disturb` adds

COLUMNS: tuple[tuple[str, object, str, str], ...] = (
    ("TARGETID", "i8", "", "DESI's; the sky's own number for image_only rows too"),
    ("KIND", "U16", "", "galaxy, or what was planted here: " + ", ".join(PLANTED)),
    ("SAMPLE", "U4", "", "target class BGS, LRG, ELG, SCND"),
    ("SURVEY", "U7", "", "of the spectrum"),
    ("PROGRAM", "U6", "", "of the spectrum"),
    ("HEALPIX", "i4", "", "nside 64, NESTED, of RA, DEC"),
    ("RELEASE", "i2", "", "Legacy Survey release"),
    ("BRICKID", "i4", "", "Legacy Survey brick"),
    ("BRICKNAME", "U8", "", "Legacy Survey brick"),
    ("OBJID", "i4", "", "number within the brick"),
    ("RA", "f8", "deg", "ICRS"),
    ("DEC", "f8", "deg", "ICRS"),
    ("HAS_SPECTRUM", "?", "", "a coadd file holds this row"),
    ("HAS_IMAGE", "?", "", "an image file holds this object"),
    ("Z_TRUE", "f8", "", "true redshift"),
    ("Z", "f8", "", "redshift in the catalogue"),
    ("ZERR", "f8", "", "its error in the catalogue"),
    ("ZWARN", "i8", "", "of the catalogue"),
    ("SPECTYPE", "U6", "", "of the catalogue"),
    ("DELTACHI2", "f8", "", "of the catalogue"),
    ("COADD_FIBERSTATUS", "i4", "", "of the catalogue"),
    ("EBV", "f4", "mag", "Galactic reddening"),
    ("COEFFS", ("f8", 5), "", "template amplitudes, solar masses formed (10 pc / d_L)^2"),
    ("FLUX", ("f8", 5), "nanomaggy", "true total flux in g r z W1 W2, dimmed by the Milky Way"),
    ("LINES", ("f8", len(lines.LINES)), "1e-17 erg/(s cm2)", "true line fluxes outside the Milky Way"),
    ("FIBRE_SHARE", ("f8", 3), "", "share of the g r z flux in a 1.5 arcsec fibre, 1 arcsec seeing"),
    ("FIBRE_GAIN", "f8", "", "centring and flux-calibration error of the spectrum (factor)"),
    ("FIBRE_TILT", "f8", "", "its slope: the factor goes as wavelength to this power"),
    ("LOGMSTAR", "f8", "dex(Msun)", "stellar mass (remaining), Chabrier IMF, Planck 2018"),
    ("LOGSFR", "f8", "dex(Msun / yr)", "star-formation rate, Kennicutt & Evans 2012"),
    ("AGE", "f8", "Gyr", "mass-weighted, nominal"),
    ("METALLICITY", "f8", "", "stellar metal mass fraction, mass-weighted"),
    ("B300", "f8", "", "share of stars formed in the last 0.3 Gyr"),
    ("LOGOH", "f8", "", "12 + log(O/H) of the gas"),
    ("A_HALPHA", "f8", "mag", "extinction of Halpha"),
    ("SIGMA_STARS", "f8", "km/s", "velocity dispersion of the stars"),
    ("SIGMA_GAS", "f8", "km/s", "velocity dispersion of the gas"),
    ("DISK_RADIUS", "f8", "arcsec", "half-light semi-major axis"),
    ("BULGE_RADIUS", "f8", "arcsec", "half-light semi-major axis"),
    ("BULGE_FRACTION", "f8", "", "bulge to total, r band"),
    ("AXIS_RATIO", "f8", "", "of the disk, as projected"),
    ("BULGE_AXIS_RATIO", "f8", "", "of the bulge, as projected"),
    ("ANGLE", "f8", "rad", "position angle, north through east"),
    ("FEATURED", "?", "", "the disk dominates"),
    ("ARMS", "i4", "", "spiral arms, 5: more than 4"),
    ("ARM_STRENGTH", "f8", "", "0 to 1"),
    ("PITCH", "f8", "rad", "pitch angle of the arms"),
    ("BAR_STRENGTH", "f8", "", "0 to 1"),
    ("MERGER", "i4", "", "0 none, 1 minor, 2 major disturbance, 3 merger"),
    ("ROUGHNESS", "f8", "", "strength of star-forming knots, 0 to 1"),
    ("GRADIENT", "f8", "mag", "g - r of the bulge minus that of the disk, halved"),
    ("PSFSIZE", ("f8", 3), "arcsec", "seeing FWHM of the image in g r z"),
    ("DEPTH", ("f8", 3), "mag", "5 sigma point-source depth of the image in g r z"),
    ("FLUX_OBS", ("f8", 5), "nanomaggy", "flux in the catalogue"),
    ("FLUX_IVAR", ("f8", 5), "1/nanomaggy^2", "its inverse variance"),
    ("IMAGE_INDEX", "i8", "", "place in the image files, by falling z flux; -1 without image"),
    ("NUMEXP", "i4", "", "exposures of the spectrum"),
    ("EXPTIME", "f8", "s", "of the spectrum"),
    ("RESIDUAL", "f8", "1e-17 erg/(s cm2 Angstrom)", "size of what adds to the spectrum below 4300 Angstrom"),
    ("IVAR_FACTOR", "f8", "", "reported inverse variance over the true one"),
    ("WAVE_MIN", "f8", "Angstrom", "where the spectrum begins"),
    ("WAVE_MAX", "f8", "Angstrom", "where it ends"),
    ("LOST_ARM", "U1", "", "arm without data: B, R, Z; blank = none"),
    ("LINE_BOOST", "f8", "", "emission lines over those of the templates"),
    ("BROAD_WIDTH", "f8", "Angstrom", "equivalent width at rest of the broad Halpha line; 0 = none"),
    ("BROAD_KMS", "f8", "km/s", "its full width at half maximum"),
    ("SKY_VARIANCE", "f8", "", "median variance of the R arm from the sky, (1e-17 erg/s/cm2/Angstrom)2"),
)
DTYPE = np.dtype([(name, kind) for name, kind, _, _ in COLUMNS])


class Draw(IntEnum):
    """What a generator is for: each purpose has its own stream of random numbers."""

    SKY = 0
    SPECTRUM = 1
    IMAGE = 2
    VOTES = 3
    FIELD = 4
    IMAGE_CATALOGUE = 5
    SWEEP = 6
    PROPERTIES = 7
    STRANGER = 8
    DISTURBANCE = 9


def row_rng(seed: int, purpose: Draw, row: int = 0) -> np.random.Generator:
    """Return the generator of one row: what it yields does not depend on other rows or on workers."""
    return np.random.default_rng([seed, purpose, row])


def transmission(ebv: NDArray[np.floating]) -> Array:
    """Return the share of light in g r z W1 W2 that the Milky Way lets through: (N, 5)."""
    return np.asarray(10 ** (-0.4 * MW_EXTINCTION * np.asarray(ebv, float)[:, None]), float)
