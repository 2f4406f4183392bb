"""A few galaxies of a file, drawn at random, ready for `astroclip.plots.plot_pairs`.

Shapes: n galaxies of the sample, S wavelengths.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.imagefile import ImageReader
from astroclip.data.kinds import Kind, find_kind
from astroclip.data.own_pixels import stack_pixels
from astroclip.data.pixel_part import FILE, ROW, PixelPart, is_pixel_kind, open_part
from astroclip.data.pixel_sets import DESI_KINDS, open_pixels
from astroclip.data.pixels import Images, Modality, Spectra
from astroclip.errors import DataError, UsageError
from astroclip.schema import CUTOUT_SIZE, PIXSCALE, REDSHIFT_NAMES, TARGETID
from astroclip.tables import Table, open_table
from astroclip.tables.missing import to_floats, to_texts

WHOLE_IMAGE = 512  # px; a larger image is shown in stamps
MANY = 5000  # galaxies: of more, not all are drawn from
NOTHING = "nothing to draw: no row has data"
TITLES = (
    (TARGETID,),
    ("PLATE", "MJD", "FIBERID"),
    ("CATALOGID",),
    ("OBJECT_ID",),
    ("RELEASE", "BRICKID", "OBJID"),
)
MODALITIES: tuple[Modality, Modality] = ("image", "spectrum")


class GalaxySample(NamedTuple):
    """Some galaxies, with what `plots.plot_pairs` takes; None for what the file does not have.

    Attributes
    ----------
    images
        (n, 3, H, W) nanomaggies, g, r, z; or colours z, r, g in [0, 1] where they are `stretched`.
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
    stretched: bool = False


def read_sample(path: str | Path, rows: int = 6, seed: int = 0) -> GalaxySample:
    """Read up to `rows` galaxies drawn at random: their images, spectra, or both, and redshifts.

    Only rows with data are drawn, of several files from each as many, of coadds targets if there are any. The
    redshifts are those of the file itself or of the Redrock file beside it.

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
    kind, rng = find_kind(path), np.random.default_rng(seed)
    if rows < 1:
        raise UsageError(f"{rows} rows to draw: expected at least 1")
    if kind in (Kind.CATALOGUE, Kind.HATS):
        with open_table(path) as table:
            return _from_table(table, rows, rng)
    if not is_pixel_kind(kind) or kind.instead:
        raise UsageError(f"{path}: a {kind} has no pixels to draw")
    if kind == Kind.IMAGE and (large := _from_large_image(Path(path), rows, rng)):
        return large
    return _from_files(path, rows, rng)


def _from_table(table: Table, n: int, rng: np.random.Generator) -> GalaxySample:
    """Read the columns of pixels of rows of a table."""
    sets = {m: pixels for m in MODALITIES if (pixels := open_pixels(None, table, m))}
    if not sets:
        raise UsageError(
            f"{table.name}: a catalogue without a column of images or spectra has no pixels to draw"
        )
    rows = np.sort(rng.choice(table.nrows, min(n, table.nrows), replace=False))
    if not len(rows):
        raise DataError(NOTHING)
    found = [name for names in ((TARGETID,), REDSHIFT_NAMES) if (name := table.find(*names))]
    parts = [table.read(found, row, row + 1) for row in rows.tolist()]
    values = {name: np.ma.concatenate([part[name] for part in parts]) for name in found}
    target, redshift = table.find(TARGETID), table.find(*REDSHIFT_NAMES)
    titles = to_texts(values[target]) if target else np.char.add("row ", rows.astype(str))
    z = to_floats(values[redshift]) if redshift else None
    return _with_pixels({m: pixels.read(rows) for m, pixels in sets.items()}, z, titles.tolist())


def _from_files(path: str | Path, n: int, rng: np.random.Generator) -> GalaxySample:
    """Read galaxies of files of pixels, those with data."""
    part = open_part(path)
    try:
        drawn = (
            rng.choice(len(part), 8 * n, replace=False) if len(part) > MANY else rng.permutation(len(part))
        )
        known = part.take(drawn)
        order = _spread(part.first.locate(drawn)[0])
        if "OBJTYPE" in known:
            usual = (known["OBJTYPE"] == b"TGT") & (known["COADD_FIBERSTATUS"] == 0)
            order = order[usual[order]] if usual.any() else order
        found: dict[int, list[Images | Spectra]] = {}
        for at in order.tolist():
            if len(found) < n and (read := _read_good(part, int(drawn[at]))):
                found[at] = read
        kept = sorted(found, key=lambda at: int(drawn[at]))
        if not kept:
            raise DataError(NOTHING)
        pixels = {m: stack_pixels([found[at][i] for at in kept]) for i, m in enumerate(part.pixels)}
        redshift = known["Z"][kept] if "Z" in known else None
        return _with_pixels(pixels, redshift, [_title(part, known, at) for at in kept])
    finally:
        part.close()


def _spread(file: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order in which files take turns."""
    by_file = np.argsort(file, kind="stable")
    turn = np.arange(len(file)) - np.searchsorted(file[by_file], file[by_file])
    return by_file[np.argsort(turn, kind="stable")]


def _read_good(part: PixelPart, number: int) -> list[Images | Spectra]:
    """Read the pixels of a galaxy, nothing if they cannot be read or none is good."""
    try:
        read = [pixels.read(np.array([number])) for pixels in part.pixels.values()]
    except DataError:
        return []
    return read if all(pixels.good.any() for pixels in read) else []


def _title(part: PixelPart, known: dict[str, NDArray], at: int) -> str:
    """Say who a galaxy is: by its identifier, a single image by its file."""
    names = next((names for names in TITLES if all(name in known for name in names)), ())
    ident = "-".join(str(known[name][at]) for name in names)
    if not ident or "-1" in ident.split("-") or part.kind in (Kind.IMAGES, Kind.PICTURE, Kind.IMAGE):
        several = part.kind in (Kind.STEIN, *DESI_KINDS)
        ident = Path(str(known[FILE][at])).name + (f"\nrow {known[ROW][at]}" if several else "")
    if "SPECTYPE" in known and known["SPECTYPE"][at]:
        return f"{ident}  ({known['SPECTYPE'][at].decode()}, ZWARN {known['ZWARN'][at]})"
    return ident


def _from_large_image(path: Path, n: int, rng: np.random.Generator) -> GalaxySample | None:
    """Read stamps at random places of an image; None if it is small, and can be shown as it is."""
    with ImageReader(path) as reader:
        (height, width), scale = reader.layout.shape, reader.layout.pixscale
        if max(height, width) <= WHOLE_IMAGE:
            return GalaxySample(reader.section(0, height, 0, width)[0][None], None, None, [path.name], scale)
        y = rng.integers(0, max(height - CUTOUT_SIZE, 1), n)
        x = rng.integers(0, max(width - CUTOUT_SIZE, 1), n)
        side = min(CUTOUT_SIZE, height, width)
        places = list(zip(y.tolist(), x.tolist(), strict=True))
        stamps = [reader.section(a, a + side, b, b + side)[0] for a, b in places]
    return GalaxySample(np.stack(stamps), None, None, [f"x {b}, y {a}" for a, b in places], scale)


def _with_pixels(
    pixels: dict[Modality, Images | Spectra], redshifts: NDArray[np.float64] | None, titles: list[str]
) -> GalaxySample:
    """Put a sample together: images without the empty border around all of them."""
    images, spectra = pixels.get("image"), pixels.get("spectrum")
    flux, scale, stretched = None, None, False
    if isinstance(images, Images):
        stretched = images.stretched
        seen = np.isfinite(images.flux)
        rows, columns = (np.flatnonzero(seen.any(axis=axes)) for axes in ((0, 1, 3), (0, 1, 2)))
        flux = images.flux[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        first = float(images.pixscale[0])
        scale = first if np.allclose(images.pixscale, first, rtol=0.01) else None  # NaN is not
    if isinstance(spectra, Spectra):
        if (spectra.ivar[spectra.good] == 1).all():  # what readers give where the file does not tell
            spectra = spectra._replace(ivar=np.full_like(spectra.ivar, np.nan))
        return GalaxySample(flux, spectra, redshifts, titles, scale, stretched)
    return GalaxySample(flux, None, redshifts, titles, scale, stretched)
