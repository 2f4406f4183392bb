"""Builders of small FITS files in the formats of DESI, SDSS and the Legacy Survey, all seeded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from astroclip.schema import desi_wave

ARM_SLICES = {"B": slice(0, 2751), "R": slice(2700, 5026), "Z": slice(4900, 7781), "BRZ": slice(0, 7781)}
FLUX_UNIT = "10**-17 erg/(s cm2 Angstrom)"
PIXEL_DEG = 0.262 / 3600


def truncate(path: Path, fraction: float) -> Path:
    """Cut a file to a fraction of its bytes, in place."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])
    return path


def make_arm(name: str, n: int, rng: np.random.Generator, dtype: str = "f4") -> dict[str, NDArray]:
    """Make WAVELENGTH, FLUX, IVAR, MASK of one DESI arm: a line on a continuum, some bad pixels."""
    wave = desi_wave()[ARM_SLICES[name]]
    ivar = rng.uniform(0.5, 2, (n, wave.size))
    line = 5 * np.exp(-0.5 * ((wave - 7570) / 5) ** 2)  # in R and Z
    flux = 2 + line + rng.normal(0, ivar**-0.5)
    mask = (rng.random((n, wave.size)) < 0.01) * 4
    ivar[rng.random((n, wave.size)) < 0.01] = 0
    return {
        "WAVELENGTH": wave,
        "FLUX": flux.astype(dtype),
        "IVAR": ivar.astype(dtype),
        "MASK": mask.astype("i4"),
    }


def write_coadd(
    path: Path,
    *,
    targetid: ArrayLike = (1, 2, 3, 4),
    seed: int = 0,
    arms: Sequence[str] = ("B", "R", "Z"),
    dtype: str = "f4",
    omit: Sequence[str] = (),
    replace: dict[str, NDArray] | None = None,
    units: dict[str, str] | None = None,
    columns: dict[str, ArrayLike] | None = None,
    header: dict[str, Any] | None = None,
    lower_case: bool = False,
) -> dict[str, NDArray]:
    """Write a DESI coadd and return its arms' arrays by HDU name, as written.

    `omit` names HDUs (or FIBERMAP columns) to leave out, `replace` gives other arrays for HDUs, `units`
    other BUNITs, `columns` other or more FIBERMAP columns, `header` primary cards.
    """
    rng = np.random.default_rng(seed)
    ids = np.asarray(targetid, np.int64)
    n = len(ids)
    data = {f"{a}_{k}": v for a in arms for k, v in make_arm(a, n, rng, dtype).items()}
    data |= replace or {}
    default: dict[str, ArrayLike] = {
        "TARGETID": ids,
        "COADD_FIBERSTATUS": np.zeros(n, "i4"),
        "TARGET_RA": np.linspace(10, 10.1, n),
        "TARGET_DEC": np.linspace(-5, -5.1, n),
        "OBJTYPE": np.full(n, "TGT"),
    }
    table = {k: v for k, v in (default | (columns or {})).items() if k not in omit}
    spell = str.lower if lower_case else str
    hdus = [fits.PrimaryHDU(header=fits.Header(header or {}))]
    if "FIBERMAP" not in omit:
        hdus.append(_table({spell(k): v for k, v in table.items()}, spell("FIBERMAP")))
    for name, values in data.items():
        if name not in omit:
            hdu = fits.ImageHDU(values, name=name)
            hdu.header["EXTNAME"] = spell(name)
            kind = name.split("_")[1]
            unit = (units or {}).get(name, {"WAVELENGTH": "Angstrom", "FLUX": FLUX_UNIT}.get(kind, ""))
            if unit:
                hdu.header["BUNIT"] = unit
            hdus.append(hdu)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return data


def write_redrock(
    path: Path, targetid: ArrayLike, redshift: ArrayLike, hdu: str = "REDSHIFTS", omit: Sequence[str] = ()
) -> None:
    """Write a Redrock file with padded strings."""
    n = len(np.asarray(targetid))
    columns = {
        "TARGETID": np.asarray(targetid, np.int64),
        "Z": np.asarray(redshift, float),
        "ZERR": np.full(n, 1e-4),
        "ZWARN": np.zeros(n, np.int64),
        "SPECTYPE": np.full(n, "GALAXY"),
        "SUBTYPE": np.full(n, "   "),
        "DELTACHI2": np.full(n, 100.0),
    }
    table = _table({k: v for k, v in columns.items() if k not in omit}, hdu)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path, overwrite=True)


def write_spec(
    path: Path,
    *,
    plate: int = 266,
    mjd: int = 51602,
    fiber: int = 7,
    ra: float = 10.0,
    dec: float = -5.0,
    seed: int = 0,
    unit: str = "1E-17 erg/cm^2/s/Ang",
    columns: dict[str, ArrayLike] | None = None,
    omit: Sequence[str] = (),
    specobj: str = "SPECOBJ",
    facts: dict[str, Any] | None = None,
) -> dict[str, NDArray]:
    """Write an SDSS spec file and return its COADD columns; `omit` names columns or HDUs to leave out.

    `facts` are other or more columns of SPECOBJ.
    """
    rng = np.random.default_rng(seed)
    size = 3800
    coadd: dict[str, Any] = {
        "flux": rng.normal(3, 1, size).astype("f4"),
        "loglam": (3.58 + 1e-4 * np.arange(size)).astype("f4"),
        "ivar": rng.uniform(0.5, 2, size).astype("f4"),
        "and_mask": np.zeros(size, "i4"),
        "or_mask": np.zeros(size, "i4"),
    }
    coadd |= columns or {}
    said: dict[str, Any] = {"PLATE": plate, "MJD": mjd, "FIBERID": fiber, "PLUG_RA": ra, "PLUG_DEC": dec}
    said |= {"Z": 0.1, "Z_ERR": 1e-5, "ZWARNING": 0, "CLASS": "GALAXY"} | (facts or {})
    hdus = [fits.PrimaryHDU(header=fits.Header({"BUNIT": unit} if unit else {}))]
    hdus += [_table({k: v for k, v in coadd.items() if k not in omit}, "COADD")] * ("COADD" not in omit)
    hdus += [_table({k: np.array([v]) for k, v in said.items()}, specobj)] * (specobj not in omit)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return coadd


def make_wcs_cards(
    shape: tuple[int, int], ra: float, dec: float, pixel_deg: float = PIXEL_DEG, rotation_deg: float = 0.0
) -> dict[str, Any]:
    """Make the TAN WCS cards of an image whose centre is at (ra, dec)."""
    cos, sin = np.cos(np.radians(rotation_deg)), np.sin(np.radians(rotation_deg))
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": ra,
        "CRVAL2": dec,
        "CRPIX1": (shape[1] + 1) / 2,
        "CRPIX2": (shape[0] + 1) / 2,
        "CD1_1": -pixel_deg * cos,
        "CD1_2": pixel_deg * sin,
        "CD2_1": pixel_deg * sin,
        "CD2_2": pixel_deg * cos,
    }


def make_image(n_bands: int, shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Make a round galaxy at the centre of noise, (n_bands, H, W) nanomaggies; no two pixels are alike."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    r2 = (x - (shape[1] - 1) / 2) ** 2 + (y - (shape[0] - 1) / 2) ** 2
    galaxy = np.exp(-0.5 * r2 / 6**2) * np.arange(1, n_bands + 1)[:, None, None]
    return (galaxy + rng.normal(0, 0.01, galaxy.shape)).astype("f4")


def write_cube(
    path: Path,
    *,
    ra: float | None = 10.0,
    dec: float = -5.0,
    bands: str = "grz",
    shape: tuple[int, int] = (152, 152),
    seed: int = 0,
    image: NDArray | None = None,
    invvar: NDArray | None = None,
    bands_card: bool = True,
    cards: dict[str, Any] | None = None,
    **wcs: float,
) -> NDArray[np.float32]:
    """Write a cut-out as the web service does: a cube in the primary HDU, `invvar` as a second one.

    Large shapes make a mosaic. Without `ra` there is no WCS. Returns the image as written.
    """
    pixels = make_image(len(bands), shape, seed) if image is None else image
    header = make_wcs_cards(shape, ra, dec, **wcs) if ra is not None else {}
    if bands_card:
        header |= {"BANDS": bands} | {f"BAND{i}": band for i, band in enumerate(bands)}
    hdus = [fits.PrimaryHDU(pixels, header=fits.Header({"IMAGETYP": "image"} | header | (cards or {})))]
    if invvar is not None:
        hdus.append(fits.ImageHDU(invvar, header=fits.Header({"IMAGETYP": "invvar"} | header)))
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return pixels


def write_band_hdus(
    path: Path,
    *,
    ra: float = 10.0,
    dec: float = -5.0,
    bands: str = "grz",
    shape: tuple[int, int] = (64, 64),
    seed: int = 0,
    image: NDArray | None = None,
    invvar: NDArray | None = None,
    by: str = "BAND",
) -> NDArray[np.float32]:
    """Write an image as one HDU a band, each followed by its inverse variance if given.

    `by` is the card that tells the band: BAND (with IMAGETYP), FILTER, or EXTNAME (IMAGE_G, INVVAR_G).
    """
    pixels = make_image(len(bands), shape, seed) if image is None else image
    wcs = make_wcs_cards(shape, ra, dec)
    hdus: list[Any] = [fits.PrimaryHDU()]
    for i, band in enumerate(bands):
        for kind, values in (("image", pixels), ("invvar", invvar)):
            if values is not None:
                name = {by: f"{kind}_{band}".upper() if by == "EXTNAME" else band}
                kinds = {} if by == "EXTNAME" else {"IMAGETYP": kind}
                hdus.append(fits.ImageHDU(values[i], header=fits.Header(wcs | name | kinds)))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return pixels


def write_brick(
    folder: Path,
    *,
    name: str = "legacysurvey-0591m305",
    ra: float = 10.0,
    dec: float = -5.0,
    bands: str = "grz",
    shape: tuple[int, int] = (300, 300),
    seed: int = 0,
    image: NDArray | None = None,
    invvar: NDArray | None = None,
) -> NDArray[np.float32]:
    """Write a brick as the releases do: one fpack-compressed file a band (losslessly, for comparison)."""
    pixels = make_image(len(bands), shape, seed) if image is None else image
    header = fits.Header(make_wcs_cards(shape, ra, dec) | {"BUNIT": "nanomaggy"})
    folder.mkdir(parents=True, exist_ok=True)
    for i, band in enumerate(bands):
        for kind, values in (("image", pixels), ("invvar", invvar)):
            if values is not None:
                hdu = fits.CompImageHDU(values[i], header=header, compression_type="GZIP_1", quantize_level=0)
                file = folder / f"{name}-{kind}-{band}.fits.fz"
                fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(file, overwrite=True)
    return pixels


def _table(columns: dict[str, Any], name: str) -> fits.BinTableHDU:
    """Make a table HDU from arrays."""
    arrays = {k: np.asarray(v) for k, v in columns.items()}
    bytes_too = {k: v.astype("S") if v.dtype.kind == "U" else v for k, v in arrays.items()}
    record = np.rec.fromarrays(list(bytes_too.values()), names=list(bytes_too))
    table = fits.BinTableHDU(record)
    table.header["EXTNAME"] = name
    return table
