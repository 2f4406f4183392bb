"""The data dictionary: names, units, grids and flag bits, each written down once, with its source.

Nothing here reads or writes; nothing elsewhere spells one of these names or numbers again.
"""

import re
from collections.abc import Iterable
from enum import IntEnum, IntFlag, StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

VERSION = "0.1.0"  # of the program, as in pyproject.toml

# --- images: Legacy Survey DR9 cut-outs (https://www.legacysurvey.org/dr9/description/) -----------------
BANDS = ("g", "r", "z")
PIXSCALE = 0.262  # arcsec/px
SCALE_TOLERANCE = 0.01  # relative difference below which a pixel scale is the survey's
IMAGE_UNIT = "nanomaggy"  # AB, mag = 22.5 - 2.5 log10(flux)
# the stretch of the Legacy Survey viewer: Lupton et al. 2004 (PASP 116, 133) with these numbers
STRETCH_SCALE = (6.0, 3.4, 2.2)  # g, r, z: multiplies nanomaggies
STRETCH_M = 0.03  # added to scaled nanomaggies, lifts the sky above black
STRETCH_Q = 20.0  # softening
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
# names of right ascension and declination, the first pair that a table has; `X.ra` beside `X.dec` too, as
# astropy writes a SkyCoord. Sources: data models of DESI, SDSS, Gaia, VizieR, 2MASS, SIMBAD, DES and
# SExtractor, HSC and LSST, Pan-STARRS, MaNGA, Euclid; the last is what TOPCAT makes of RA, DEC in a match
POSITION_NAMES = (
    ("RA", "DEC"), ("TARGET_RA", "TARGET_DEC"), ("ALPHA_J2000", "DELTA_J2000"), ("RAJ2000", "DEJ2000"),
    ("RA_ICRS", "DE_ICRS"), ("_RAJ2000", "_DEJ2000"), ("PLUG_RA", "PLUG_DEC"), ("RA_DEG", "DEC_DEG"),
    ("RADEG", "DECDEG"), ("RADEG", "DEDEG"), ("RA_D", "DEC_D"), ("RA", "DECL"), ("RAJ2000", "DECJ2000"),
    ("RA_J2000", "DEC_J2000"), ("RA_ICRS", "DEC_ICRS"), ("ALPHAWIN_J2000", "DELTAWIN_J2000"),
    ("ALPHAPEAK_J2000", "DELTAPEAK_J2000"), ("ALPHA_SKY", "DELTA_SKY"), ("COORD_RA", "COORD_DEC"),
    ("I_RA", "I_DEC"), ("RA2000", "DEC2000"), ("RAMEAN", "DECMEAN"), ("RASTACK", "DECSTACK"),
    ("OBJRA", "OBJDEC"), ("PLUGRA", "PLUGDEC"), ("RACAT", "DECCAT"), ("FIBER_RA", "FIBER_DEC"),
    ("MEAN_FIBER_RA", "MEAN_FIBER_DEC"), ("RIGHT_ASCENSION", "DECLINATION"),
    ("RIGHTASCENSION", "DECLINATION"), ("_RA", "_DE"), ("RA_1", "DEC_1"),
)  # fmt: skip
# proper motion with cos(dec), as Gaia, the Legacy Survey, VizieR call it; and the epoch of the position
MOTION_NAMES = (("PMRA", "PMDEC"), ("PMRA", "PMDE"))
EPOCH_NAMES = ("REF_EPOCH", "EPOCH", "EPOCH_RA")
# a spectroscopic redshift; Z is DESI's, the last two come with labels that crossmatch joins to some rows
REDSHIFT_NAMES = ("Z_SPEC", "ZSPEC", "SPEC_Z", "Z", "Z_HP", "REDSHIFT")


def redshift_names(columns: Iterable[str]) -> list[str]:
    """Return what may name a redshift in a table of these columns: Z beside G and R is a magnitude."""
    magnitudes = {"G", "R"} <= {name.upper() for name in columns}
    return [name for name in REDSHIFT_NAMES if not (magnitudes and name == "Z")]


IMAGE_EMBEDDING = "IMAGE_EMBEDDING"
SPECTRUM_EMBEDDING = "SPECTRUM_EMBEDDING"
EMBED_FLAG = "EMBED_FLAG"
PREDICT_FLAG = "PREDICT_FLAG"
DISAGREEMENT = "DISAGREEMENT"  # of image and spectrum, added by predict

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


# the answers that lead to a question; the first is asked of everybody (Walmsley+2022, figure 4)
GALAXY_ZOO_PARENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "disk-edge-on": ("smooth-or-featured", ("featured-or-disk",)),
    "has-spiral-arms": ("disk-edge-on", ("no",)),
    "bar": ("disk-edge-on", ("no",)),
    "bulge-size": ("disk-edge-on", ("no",)),
    "how-rounded": ("smooth-or-featured", ("smooth",)),
    "edge-on-bulge": ("disk-edge-on", ("yes",)),
    "spiral-winding": ("has-spiral-arms", ("yes",)),
    "spiral-arm-count": ("has-spiral-arms", ("yes",)),
    "merging": ("smooth-or-featured", ("smooth", "featured-or-disk")),
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


# physical properties that are predicted, and what tables of them call them (PROVABGS, fastspecfit, the mock)
PROPERTIES = {
    ColumnSpec("LOGMSTAR", "f4", (), "dex(solMass)", "stellar mass"): ("LOGMSTAR", "LOG_MSTAR"),
    ColumnSpec("METALLICITY", "f4", (), "", "metallicity, as the labels have it"): (
        "METALLICITY",
        "Z_MW",
        "ZZSUN",
    ),
    ColumnSpec("AGE", "f4", (), "Gyr", "mean stellar age"): ("AGE", "TAGE_MW"),
    ColumnSpec("LOGSSFR", "f4", (), "dex(yr-1)", "specific star-formation rate"): ("LOGSSFR", "LOG_SSFR"),
}
SFR_NAMES = ("SFR", "AVG_SFR")  # solMass/yr
LOGSFR_NAMES = ("LOGSFR", "LOG_SFR")


# --- missing values --------------------------------------------------------------------------------------
# texts that stand for a missing value, as astropy, pandas, Excel, VizieR and TOPCAT write it; "none" is an
# answer of Galaxy Zoo
MISSING_TEXTS = (
    "", "nan", "NaN", "NAN", "--", "-", "---", "N/A", "n/a", "NA", "<NA>", "#N/A", "null", "NULL", "Null",
    "NaT",
)  # fmt: skip
# numbers that stand for one in any label; the last is what NumPy fills a masked float with
SENTINELS = (-99.0, -99.9, -999.0, -999.9, -9999.0, -99999.0, 1e20)
ANY_SCALE = ("METALLICITY", "Z_MW", "ZZSUN", "AGE", "TAGE_MW")  # also given as a logarithm


# quantities that are greater than 0, whatever a catalogue calls them: stellar masses and their logarithms
# (PROVABGS, FastSpecFit, CIGALE, Prospector, MPA-JHU), ages, velocity dispersions
_POSITIVE = re.compile(
    r"LOG_?M($|_|STAR|ASS)|(^|[_.])M_?STAR|(STELLAR|STAR)_?MASS|LGM_|(^|_)T?AGE($|_)|VDISP"
)


def possible_range(name: str) -> tuple[float, float]:
    """Return the open interval (low, high) of what a quantity can be, by the name of its column.

    A stellar mass is no logarithm of 0, an age and a mass fraction of metals are not 0, 10**0 a year is no
    specific rate, a redshift is greater than -1, a magnitude of 99 says "not detected".
    """
    name, infinite = name.upper(), float("inf")
    if name in ("LOGSSFR", "LOG_SSFR"):
        return -infinite, 0.0
    if name in ANY_SCALE or _POSITIVE.search(name):
        return 0.0, infinite
    if name in (*SFR_NAMES, "EBV"):
        return -np.finfo(np.float64).tiny, infinite
    if name in ("Z_TRUE", *REDSHIFT_NAMES):
        return -1.0, infinite
    return -infinite, 90.0 if name.startswith("MAG_") else infinite


# --- the pairs file: HDF5, described in astroclip/data/pairs/pairs_format.py ------------------------------
PAIRS_FORMAT = "astroclip pairs"  # root attribute `format`
PAIRS_VERSION = 1  # root attribute `format_version`
PAIRS_LABELS = "labels"  # group of the labels


class PairsKey(StrEnum):
    """Names of the datasets at the root of a pairs file; all but `WAVE` have one row a galaxy."""

    IMAGE = "image"
    FLUX = "flux"
    IVAR = "ivar"
    MASK = "mask"
    WAVE = "wave"
    TARGETID = "targetid"
    SURVEY = "survey"
    PROGRAM = "program"
    HEALPIX = "healpix"
    RELEASE = "release"
    BRICKID = "brickid"
    OBJID = "objid"
    RA = "ra"
    DEC = "dec"
    REDSHIFT = "redshift"
    SEPARATION = "separation_arcsec"
    SPLIT = "SPLIT"


PAIRS_COLUMNS = (
    ColumnSpec(
        PairsKey.IMAGE, "<f4", (3, CUTOUT_SIZE, CUTOUT_SIZE), IMAGE_UNIT, "bands g, r, z; row; column"
    ),
    ColumnSpec(PairsKey.FLUX, "<f4", (N_WAVE,), FLUX_UNIT, "combined over the arms"),
    ColumnSpec(PairsKey.IVAR, "<f4", (N_WAVE,), IVAR_UNIT, "inverse variance of flux; 0 = nothing measured"),
    ColumnSpec(PairsKey.MASK, "<u2", (N_WAVE,), "", "desispec specmask, bits 0 to 15; 0 = good"),
    ColumnSpec(PairsKey.TARGETID, "<i8", (), "", "DESI target"),
    ColumnSpec(PairsKey.SURVEY, "S7", (), "", "DESI survey, as in main"),
    ColumnSpec(PairsKey.PROGRAM, "S6", (), "", "DESI program, as in dark"),
    ColumnSpec(PairsKey.HEALPIX, "<i4", (), "", "pixel of the coadd file, nside 64, nested; -1 = unknown"),
    ColumnSpec(PairsKey.RELEASE, "<i4", (), "", "Legacy Survey release; -1 = unknown"),
    ColumnSpec(PairsKey.BRICKID, "<i4", (), "", "Legacy Survey brick; -1 = unknown"),
    ColumnSpec(PairsKey.OBJID, "<i4", (), "", "Legacy Survey object in its brick; -1 = unknown"),
    ColumnSpec(PairsKey.RA, "<f8", (), "deg", "ICRS"),
    ColumnSpec(PairsKey.DEC, "<f8", (), "deg", "ICRS"),
    ColumnSpec(PairsKey.REDSHIFT, "<f8", (), "", "of the spectrum; NaN = unknown"),
    ColumnSpec(PairsKey.SEPARATION, "<f4", (), "arcsec", "between spectrum and image; NaN = unknown"),
    ColumnSpec(PairsKey.SPLIT, "u1", (), "", "0 train, 1 validation, 2 test, 255 none"),
)
# What a row cannot do without; elsewhere a missing value is NaN, -1 or an empty text
PAIRS_REQUIRED = (
    PairsKey.IMAGE,
    PairsKey.FLUX,
    PairsKey.IVAR,
    PairsKey.MASK,
    PairsKey.TARGETID,
    PairsKey.RA,
    PairsKey.DEC,
)


class Split(IntEnum):
    """Values of `SPLIT`: the part of a pairs file that a row belongs to."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    NONE = 255  # no position, or the file does not say: in none of the parts


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
    UNREADABLE_IMAGE = 128  # the row's image could not be read, or a service refused it (NO_IMAGE too)
    UNREADABLE_SPECTRUM = 256  # its spectrum could not be read, or a service refused it (NO_SPECTRUM too)
    AMBIGUOUS_IMAGE = 512  # several images fit the row; the nearest (or first by name) was taken
    AMBIGUOUS_SPECTRUM = 1024  # several spectra fit the row; the first by file name was taken
    MISSING_BAND = 2048  # a band of the image, or a connected part of it, was not observed and was filled in
    STRETCHED_IMAGE = 4096  # the image is a viewer's PNG or JPEG, already stretched: 8 bits a colour


# what of EMBED_FLAG makes an estimate from such embeddings doubtful
BAD_INPUT_BITS = {
    IMAGE_EMBEDDING: EmbedFlag.BAD_IMAGE_PIXELS | EmbedFlag.MISSING_BAND,
    SPECTRUM_EMBEDDING: EmbedFlag.BAD_SPECTRUM_PIXELS,
}


class TemplateFlag(IntFlag):
    """Bits of the `Z_TEMPLATE_FLAG` column: what a reader should know about a redshift from templates."""

    NO_SIGNAL = 1  # no good pixel, or no template fits better than a polynomial
    SMALL_GAP = 2  # another redshift or class, farther than 1000 km/s, fits nearly as well
    EDGE_OF_RANGE = 4  # the best redshift is the first or last that was tried
    PARTIAL_COVERAGE = 8  # more than a tenth of 3600 to 9824 Å was not observed
    SINGLE_LINE = 16  # it hangs on one line alone: without its pixels nothing is left
    DISAGREES = 32  # the network's 95 % interval does not hold it


class PredictFlag(IntFlag):
    """Bits of the `PREDICT_FLAG` column."""

    NO_EMBEDDING = 1  # the row's vector has a missing value: the predictions are NaN
    FEW_LABELS = 2  # the reference has fewer labelled rows than 50, or than neighbours asked for
    OUT_OF_DOMAIN = 4  # farther from its neighbours than 99.5 % of the reference's rows are from theirs
    EXTRAPOLATED = 8  # a 68 % interval reaches beyond the lowest or highest label of the reference
    DISAGREEMENT = 16  # image and spectrum fit together worse than 99.5 % of the reference's pairs do
    BAD_INPUT = 32  # EMBED_FLAG says that bad pixels, or a missing band, were filled in what was embedded


# --- the table of look-alikes, written by search: these columns, then those of the rows found --------------
SEARCH_HDU = "FOUND"
SEARCH_COLUMNS = (
    ColumnSpec("RANK", "i4", comment="1 = most similar"),
    ColumnSpec("SIMILARITY", "f4", comment="cosine to the query; over both columns: their mean"),
    ColumnSpec("CATALOG_ROW", "i8", comment="row of the table searched, from 0"),
)


# --- the match table, written by crossmatch ---------------------------------------------------------------
MATCH_HDU = "MATCHES"
MATCH_COLUMNS = (
    ColumnSpec("SPECTRA_ROW", "i8", comment="row of the table of spectra, from 0"),
    ColumnSpec("REASON", "S16", comment="PAIRED, or why there is no pair"),
    ColumnSpec("SEPARATION", "f8", unit="arcsec", comment="between spectrum and image; NaN = unknown"),
    ColumnSpec("MATCH_METHOD", "S8", comment="id or position; blank = no match"),
    ColumnSpec("IMAGE_RA", "f8", unit="deg", comment="ICRS, of the image or its object"),
    ColumnSpec("IMAGE_DEC", "f8", unit="deg", comment="ICRS"),
    ColumnSpec("IMAGE_RELEASE", "i4", comment="Legacy Survey release; -1 = unknown"),
    ColumnSpec("IMAGE_BRICKID", "i4", comment="Legacy Survey brick; -1 = unknown"),
    ColumnSpec("IMAGE_OBJID", "i4", comment="Legacy Survey object in its brick; -1 = unknown"),
    ColumnSpec("IMAGE_FILE", "S1", comment="file of the image, as seen from IMAGES"),  # as wide as the names
    ColumnSpec("IMAGE_ROW", "i8", comment="row in that file, from 0; -1 = none"),
    ColumnSpec("PAIR", "i8", comment="row of the file of pairs, from 0; -1 = none"),
    ColumnSpec("SPLIT", "u1", comment="0 train, 1 validation, 2 test, 255 none"),
)


class Reason(IntEnum):
    """What became of a row of the table of spectra: paired, or the first thing in its way, in this order."""

    PAIRED = 0
    NOT_A_TARGET = 1  # quality cut: OBJTYPE is not TGT
    BAD_FIBER = 2  # quality cut: COADD_FIBERSTATUS is not 0
    BAD_REDSHIFT = 3  # quality cut: ZWARN is not 0
    NOT_PRIMARY = 4  # quality cut: the target has a better spectrum in another row
    NOT_A_GALAXY = 5  # quality cut: SPECTYPE is not GALAXY
    ID_TOO_FAR = 6  # an image has its id, but elsewhere on the sky
    AMBIGUOUS_ID = 7  # its id is there several times, and its position has no image of its own
    NO_POSITION = 8  # no position, and no image has its id
    NO_IMAGE = 9  # no image within the radius, or a nearer spectrum has it
    NO_COADD = 10  # there is no coadd file of its SURVEY, PROGRAM and HEALPIX
    UNREADABLE_COADD = 11  # that file is damaged
    NOT_IN_COADD = 12  # that file does not have the target
    NO_GOOD_PIXEL = 13  # nothing was measured: ivar is 0 all along
    UNREADABLE_IMAGE = 14  # the file is damaged
    WRONG_PIXSCALE = 15  # the cut-out is not at 0.262 arcsec/px
    NO_IMAGE_PIXEL = 16  # nothing was observed: not one finite pixel
