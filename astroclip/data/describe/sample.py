"""A few galaxies of a file, drawn at random, ready for `astroclip.plots.plot_pairs`.

Shapes: n galaxies of the sample, S wavelengths.
"""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.describe.row_tally import MIN_PIXELS
from astroclip.data.desi import find_coadds, open_coadd, read_redrock, redrock_path
from astroclip.data.grid import NODATA, stack_spectra
from astroclip.data.imagefile import ImageReader
from astroclip.data.kinds import Kind, find_kind
from astroclip.data.legacysurvey import ImageFolder, open_images
from astroclip.data.multimodal_images import open_multimodal_images
from astroclip.data.multimodal_spectra import open_multimodal_spectra
from astroclip.data.pairs import open_pairs
from astroclip.data.pixels import Spectra
from astroclip.data.sdss import open_specs, read_spec
from astroclip.data.stein import open_stein
from astroclip.errors import DataError, UsageError
from astroclip.schema import (
    CUTOUT_SIZE,
    FLUX,
    IMAGE,
    IVAR,
    N_WAVE,
    PIXSCALE,
    REDSHIFT_NAMES,
    TARGETID,
    WAVE,
    PairsKey,
    desi_wave,
)
from astroclip.tables import Table, open_table

WHOLE_IMAGE = 512  # px; a larger image is shown in stamps


class Sample(NamedTuple):
    """Some galaxies, with what `plots.plot_pairs` takes; None for what the file does not have.

    Attributes
    ----------
    images
        (n, 3, H, W) nanomaggies, g, r, z.
    spectra
        n spectra; NaN in `ivar` where the file does not tell.
    redshifts
        (n,), NaN where unknown.
    titles
        Who they are.
    pixscale
        arcsec/px of the images; None if unknown.
    """

    images: NDArray[np.float32] | None
    spectra: Spectra | None
    redshifts: NDArray[np.float64] | None
    titles: list[str]
    pixscale: float | None = PIXSCALE


def read_sample(path: str | Path, rows: int = 6, seed: int = 0) -> Sample:
    """Read up to `rows` galaxies drawn at random: their images, spectra, or both, and redshifts.

    Of coadds only rows with data are drawn, of targets if there are any. The redshifts are those of the file
    itself or of the Redrock file beside it.

    Parameters
    ----------
    path
        Any file or folder with pixels, see `find_kind`.
    rows
        At least 1.
    seed
        The same seed draws the same galaxies.

    Raises
    ------
    UsageError
        If the file has no pixels, or `rows` is not positive.
    DataError
        If the file cannot be read.
    """
    kind = find_kind(path)
    if kind not in _READ:
        raise UsageError(f"{path}: a {kind} has no pixels to draw")
    if rows < 1:
        raise UsageError(f"{rows} rows to draw: expected at least 1")
    return _READ[kind](Path(path), rows, np.random.default_rng(seed))


def _draw(rng: np.random.Generator, candidates: int | NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return up to n of the candidates, ascending."""
    number = candidates if isinstance(candidates, int) else len(candidates)
    if not number:
        raise DataError("nothing to draw: no row has data")
    return np.sort(rng.choice(candidates, min(n, number), replace=False))


def _from_catalog(path: Path, n: int, rng: np.random.Generator) -> Sample:
    """Read the vector columns IMAGE, and FLUX with IVAR and WAVE, of rows of a catalogue."""
    with open_table(path) as table:
        found = {key: name for key in (IMAGE, FLUX, IVAR, WAVE, TARGETID) if (name := table.find(key))}
        image = IMAGE in found and len(table.column(found[IMAGE]).shape) == 3
        spectrum = FLUX in found and prod(table.column(found[FLUX]).shape) >= MIN_PIXELS
        if not (image or spectrum):
            raise UsageError(f"{path}: a catalogue without a column {IMAGE} or {FLUX} has no pixels to draw")
        if redshift := table.find(*REDSHIFT_NAMES):
            found["Z"] = redshift
        rows = _draw(rng, table.nrows, n)
        parts = [table.read(found.values(), row, row + 1) for row in rows.tolist()]
        values = {key: np.concatenate([part[name] for part in parts]) for key, name in found.items()}
        return Sample(
            values[IMAGE].astype(np.float32) if image else None,
            _column_spectra(table, values) if spectrum else None,
            values["Z"].astype(float) if redshift else None,
            [str(i) for i in values.get(TARGETID, np.char.add("row ", rows.astype(str)))],
            float(table.header.get("PIXSCALE", PIXSCALE)),
        )


def _column_spectra(table: Table, values: dict[str, NDArray]) -> Spectra:
    """Return the spectra of vector columns; all must be on the wavelengths of the first."""
    flux = values[FLUX].astype(np.float32)
    if WAVE not in values and flux.shape[1] != N_WAVE:
        raise DataError(f"{table.name}: {FLUX} has {flux.shape[1]} pixels and there is no column {WAVE}")
    wave = values[WAVE][0].astype(float) if WAVE in values else desi_wave()
    ivar = values[IVAR].astype(np.float32) if IVAR in values else np.full_like(flux, np.nan)
    return Spectra(wave, flux, ivar, np.zeros(flux.shape, np.int32))


def _from_coadds(path: Path, n: int, rng: np.random.Generator) -> Sample:
    """Read rows with data of up to n of the coadds, as evenly as possible."""
    files = find_coadds(path)
    chosen = [files[i] for i in _draw(rng, len(files), n)]
    share = np.diff(np.linspace(0, n, len(chosen) + 1).astype(int))
    parts = [_from_coadd(file, int(k), rng) for file, k in zip(chosen, share, strict=True)]
    spectra = stack_spectra(part.spectra for part in parts if part.spectra is not None)
    redshifts = np.concatenate([part.redshifts for part in parts if part.redshifts is not None])
    return Sample(None, spectra, redshifts, [title for part in parts for title in part.titles])


def _from_coadd(path: Path, n: int, rng: np.random.Generator) -> Sample:
    """Read rows of a coadd that hold data, with the redshifts of the Redrock file beside it."""
    with open_coadd(path) as coadd:
        table = coadd.fibermap
        usual = table.get("OBJTYPE", np.full(len(coadd), "TGT")) == "TGT"
        usual = usual & (table.get("COADD_FIBERSTATUS", np.zeros(len(coadd))) == 0)
        order = rng.permutation(np.flatnonzero(usual) if usual.any() else len(coadd))
        rows = np.sort(order[coadd.is_measured(order)][:n])
        spectra, ids = coadd.read(rows)._replace(wave=desi_wave()), coadd.targetid[rows]
        redshifts = np.full(len(rows), np.nan)
        titles = [str(i) for i in ids]
        beside = redrock_path(path)
        found = read_redrock(beside) if beside else None
        if found is not None and np.array_equal(found["TARGETID"], coadd.targetid):
            redshifts = found["Z"][rows].astype(float)
            said = [f"{found['SPECTYPE'][row]}, ZWARN {found['ZWARN'][row]}" for row in rows]
            titles = [f"{i}  ({what})" for i, what in zip(ids, said, strict=True)]
    return Sample(None, spectra, redshifts, titles)


def _from_specs(path: Path, n: int, rng: np.random.Generator) -> Sample:
    """Read SDSS spectra, put on one list of wavelengths by their place in it."""
    files = open_specs(path).files
    specs = [read_spec(files[i]) for i in _draw(rng, len(files), n)]
    step = np.concatenate([np.rint(1e4 * np.log10(spec.wave)).astype(int) for spec in specs])
    first, last = int(step.min()), int(step.max())
    flux, ivar = np.zeros((2, len(specs), last - first + 1), np.float32)
    for i, spec in enumerate(specs):
        place = np.rint(1e4 * np.log10(spec.wave)).astype(int) - first
        flux[i, place], ivar[i, place] = spec.flux, spec.ivar
    wave = 10 ** (np.arange(first, last + 1) / 1e4)
    spectra = Spectra(wave, flux, ivar, np.where(ivar > 0, 0, NODATA).astype(np.int32))
    titles = [f"{spec.plate}-{spec.mjd}-{spec.fiber}  {spec.spectype}".strip() for spec in specs]
    return Sample(None, spectra, np.array([spec.redshift for spec in specs]), titles)


def _from_image(path: Path, n: int, rng: np.random.Generator) -> Sample:
    """Read an image; of a large one, stamps at random places."""
    with ImageReader(path) as reader:
        (height, width), scale = reader.layout.shape, reader.layout.pixscale
        if max(height, width) <= WHOLE_IMAGE:
            return Sample(reader.section(0, height, 0, width)[0][None], None, None, [path.name], scale)
        y = rng.integers(0, max(height - CUTOUT_SIZE, 1), n)
        x = rng.integers(0, max(width - CUTOUT_SIZE, 1), n)
        side = min(CUTOUT_SIZE, height, width)
        places = list(zip(y.tolist(), x.tolist(), strict=True))
        stamps = [reader.section(a, a + side, b, b + side)[0] for a, b in places]
    return Sample(np.stack(stamps), None, None, [f"x {b}, y {a}" for a, b in places], scale)


def _from_images(path: Path, n: int, rng: np.random.Generator) -> Sample:
    """Read the centres of images of a folder."""
    folder = open_images(path)
    if not isinstance(folder, ImageFolder):
        raise UsageError(f"{path}: PNG and JPEG are pictures already")
    usable = np.flatnonzero(folder.shape[:, 0] > 0)
    chosen = _draw(rng, usable, n).tolist()
    size = min(CUTOUT_SIZE, int(folder.shape[chosen].min()))
    stamps = folder.read(chosen, size=size).flux
    folder.close()
    scales = folder.pixscale[chosen]
    same = float(scales[0]) if np.allclose(scales, scales[0], rtol=0.01) else None  # NaN is not
    return Sample(stamps, None, None, [folder.files[i].name for i in chosen], same)


def _from_stein(path: Path, n: int, rng: np.random.Generator) -> Sample:
    images = open_stein(path)
    chosen = _draw(rng, len(images), n)
    stamps = images.read(chosen, size=images.shape[0]).flux
    images.close()
    places = zip(*(part.tolist() for part in images.locate(chosen)), strict=True)
    return Sample(stamps, None, None, [f"{images.files[f].stem}\nrow {row}" for f, row in places])


def _from_multimodal_spectra(path: Path, n: int, rng: np.random.Generator) -> Sample:
    found = open_multimodal_spectra(path)
    rows = _draw(rng, len(found), n)
    titles = [str(found.who.ids["OBJECT_ID"][row]) for row in rows]
    return Sample(None, found.read(rows), found.read_redshifts(rows)[0], titles)


def _from_multimodal_images(path: Path, n: int, rng: np.random.Generator) -> Sample:
    found = open_multimodal_images(path)
    rows = _draw(rng, len(found), n)
    return Sample(found.read(rows).flux, None, None, [str(found.who.ids["OBJECT_ID"][row]) for row in rows])


def _from_pairs(path: Path, n: int, rng: np.random.Generator) -> Sample:
    """Read pairs; the published ones have no ivar."""
    keys = (PairsKey.IMAGE, PairsKey.FLUX, PairsKey.IVAR, PairsKey.MASK, PairsKey.TARGETID, PairsKey.REDSHIFT)
    with open_pairs(path) as pairs:
        parts = [pairs.read(keys, row, row + 1) for row in _draw(rng, len(pairs), n).tolist()]
        image, flux, ivar, mask, targetid, redshift = (_stack([part[key] for part in parts]) for key in keys)
        if image is None or flux is None or targetid is None:
            raise DataError(f"{path}: no images, spectra or targets to draw")
        ivar = np.full_like(flux, np.nan) if ivar is None else ivar
        mask = np.zeros(flux.shape, np.int32) if mask is None else mask.astype(np.int32)
        spectra = Spectra(pairs.wave, flux, ivar, mask)
    return Sample(image, spectra, redshift, [str(i) for i in targetid])


def _stack(parts: list[NDArray | None]) -> NDArray | None:
    """Put rows one below the other; None where the file does not have the column."""
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if found else None


_READ: dict[Kind, Callable[[Path, int, np.random.Generator], Sample]] = {
    Kind.CATALOGUE: _from_catalog,
    Kind.COADD: _from_coadd,
    Kind.SPECTRA: _from_coadd,
    Kind.COADDS: _from_coadds,
    Kind.SPEC: _from_specs,
    Kind.SPECS: _from_specs,
    Kind.IMAGE: _from_image,
    Kind.IMAGES: _from_images,
    Kind.STEIN: _from_stein,
    Kind.MULTIMODAL_SPECTRA: _from_multimodal_spectra,
    Kind.MULTIMODAL_IMAGES: _from_multimodal_images,
    Kind.PAIRS: _from_pairs,
}
