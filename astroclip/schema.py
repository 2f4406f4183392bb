"""The data dictionary: names, units, grids and flag bits, each written down once, with its source.

Nothing here reads or writes; nothing elsewhere spells one of these names or numbers again.
"""

from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# --- images: Legacy Survey DR9 cut-outs (https://www.legacysurvey.org/dr9/description/) -----------------
BANDS = ("g", "r", "z")
PIXSCALE = 0.262  # arcsec/px
IMAGE_UNIT = "nanomaggy"  # AB, mag = 22.5 - 2.5 log10(flux)
CUTOUT_SIZE = 152  # px, as stored by Stein et al. 2021 and by the released pairs

# --- spectra: DESI coadds (https://desidatamodel.readthedocs.io, desispec coadd) ------------------------
WAVE_MIN = 3600.0  # Å, vacuum
WAVE_STEP = 0.8  # Å
N_WAVE = 7781  # 3600.0 to 9824.0 Å
FLUX_UNIT = "1e-17 erg/(s cm2 Angstrom)"
IVAR_UNIT = "1e+34 (s2 cm4 Angstrom2) / erg2"
WAVE_UNIT = "Angstrom"


def desi_wave() -> NDArray[np.float64]:
    """Return the wavelength grid of a combined DESI spectrum: (7781,), Å, vacuum, 3600.0 to 9824.0."""
    return WAVE_MIN + WAVE_STEP * np.arange(N_WAVE, dtype=np.float64)


# --- column names ----------------------------------------------------------------------------------------
IMAGE = "IMAGE"  # (3, H, W) g, r, z nanomaggies, a vector column of a catalogue
FLUX, IVAR, MASK, WAVE = "FLUX", "IVAR", "MASK", "WAVE"
TARGETID = "TARGETID"
RA_NAMES = ("RA", "TARGET_RA", "ALPHA_J2000", "RAJ2000", "RA_ICRS", "_RAJ2000", "PLUG_RA", "RA_DEG", "RADEG")
DEC_NAMES = (
    "DEC",
    "TARGET_DEC",
    "DELTA_J2000",
    "DEJ2000",
    "DE_ICRS",
    "_DEJ2000",
    "PLUG_DEC",
    "DEC_DEG",
    "DECDEG",
)
# a spectroscopic redshift; bare Z last: in photometric tables it is a magnitude
REDSHIFT_NAMES = ("REDSHIFT", "Z_SPEC", "ZSPEC", "SPEC_Z", "Z_HP", "Z")

IMAGE_EMBEDDING = "IMAGE_EMBEDDING"
SPECTRUM_EMBEDDING = "SPECTRUM_EMBEDDING"
EMBED_FLAG = "EMBED_FLAG"
PREDICT_FLAG = "PREDICT_FLAG"

# --- labels ----------------------------------------------------------------------------------------------
# what volunteers were asked, and the answers: Galaxy Zoo DECaLS campaign 5 (Walmsley+2022, MNRAS 509, 3966)
GALAXY_ZOO: dict[str, tuple[str, ...]] = {
    "smooth-or-featured": ("smooth", "featured-or-disk", "artifact"),
    "disk-edge-on": ("yes", "no"),
    "has-spiral-arms": ("yes", "no"),
    "bar": ("strong", "weak", "no"),
    "bulge-size": ("dominant", "large", "moderate", "small", "none"),
    "how-rounded": ("round", "in-between", "cigar-shaped"),
    "edge-on-bulge": ("boxy", "none", "rounded"),
    "spiral-winding": ("tight", "medium", "loose"),
    "spiral-arm-count": ("1", "2", "3", "4", "more-than-4", "cant-tell"),
    "merging": ("none", "minor-disturbance", "major-disturbance", "merger"),
}


class ColumnSpec(NamedTuple):
    """One column that astroclip adds to a table.

    `dtype` is the NumPy type of one element, `shape` that of one row's vector (``()`` for a scalar).
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    unit: str = ""
    comment: str = ""


class EmbedFlag(IntFlag):
    """Bits of the `EMBED_FLAG` column: what a reader should know about a row's embeddings.

    Bits speak of the modalities that were asked for: embedding spectra alone never sets `NO_IMAGE`.
    """

    NO_IMAGE = 1  # no image found, or not one finite pixel: IMAGE_EMBEDDING is NaN
    NO_SPECTRUM = 2  # no spectrum found, or not one good pixel: SPECTRUM_EMBEDDING is NaN
    BAD_IMAGE_PIXELS = 4  # more than the tolerated fraction of the cropped image was filled in
    BAD_SPECTRUM_PIXELS = 8  # more than the tolerated fraction of the covered spectrum was filled in
    WRONG_PIXSCALE = 16  # the image is not at 0.262 arcsec/px and was used as it is
    IMAGE_PADDED = 32  # the image is smaller than the model's crop, its border was filled
    PARTIAL_COVERAGE = 64  # the spectrum does not cover 3600-9824 Å, the rest was filled
    UNREADABLE_IMAGE = 128  # an image file exists for the row but could not be read (NO_IMAGE is set too)
    UNREADABLE_SPECTRUM = 256  # a spectrum file exists for the row but could not be read (NO_SPECTRUM too)
    AMBIGUOUS_IMAGE = 512  # several images fit the row; the nearest (or first by name) was taken
    AMBIGUOUS_SPECTRUM = 1024  # several spectra fit the row; the first by file name was taken


class PredictFlag(IntFlag):
    """Bits of the `PREDICT_FLAG` column."""

    NO_EMBEDDING = 1  # the row's vector has a missing value: the predictions are NaN
    FEW_NEIGHBOURS = 2  # the reference has fewer rows than neighbours asked for: all of them were used
