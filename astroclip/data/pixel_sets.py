"""Open images or spectra, whatever holds them: a file, a folder, a column of a table, a service.

`data.kinds` says what a path is. To add a format: its kind there, its opener here, its reader beside them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from astroclip.data.coadd_sets import CoaddRows, open_coadd_files
from astroclip.data.coadd_tree import COADD_KEY, CoaddTree, is_tree
from astroclip.data.cutout_layers import LAYERS, LayerCutouts
from astroclip.data.image_columns import ImageColumn, NestedImages, find_nested_images
from astroclip.data.kinds import Kind, find_kind
from astroclip.data.legacysurvey import ImageFolder, open_images
from astroclip.data.multimodal_images import open_multimodal_images
from astroclip.data.multimodal_spectra import open_multimodal_spectra
from astroclip.data.nested_spectra import NestedSpectra, find_nested_spectra
from astroclip.data.pairs.paired_pixels import PairedImages, PairedSpectra
from astroclip.data.pixels import Modality, PixelFiles, PixelSet
from astroclip.data.sdss import SpecRow, open_specs
from astroclip.data.sparcl_set import SPARCL, SPARCL_RELEASE, SparclService
from astroclip.data.spectrum_columns import SpectrumColumns
from astroclip.data.stein import open_stein
from astroclip.errors import DataError, UsageError
from astroclip.schema import FLUX, IMAGE
from astroclip.tables import Column, Table

DESI_KINDS = (Kind.COADD, Kind.SPECTRA, Kind.COADDS)
EXPECTED = {
    "image": "images: FITS, PNG or JPEG, HDF5 of Stein et al. or of Multimodal Universe, or pairs",
    "spectrum": "spectra: DESI coadd-*.fits or spectra-*.fits, SDSS spec-*.fits, Multimodal Universe's HDF5, "
    "or pairs",
}
Opener = Callable[[Path], PixelFiles]
OPENERS: Mapping[Modality, Mapping[Kind, Opener]] = {
    "image": {
        Kind.IMAGE: open_images,
        Kind.PICTURE: open_images,
        Kind.IMAGES: open_images,
        Kind.STEIN: open_stein,
        Kind.MULTIMODAL_IMAGES: open_multimodal_images,
        Kind.PAIRS: PairedImages,
    },
    "spectrum": {
        **dict.fromkeys(DESI_KINDS, open_coadd_files),
        Kind.SPEC: open_specs,
        Kind.SPECS: open_specs,
        Kind.MULTIMODAL_SPECTRA: open_multimodal_spectra,
        Kind.PAIRS: PairedSpectra,
    },
}


def open_pixels(
    what: str | Path | None, table: Table | None = None, modality: Modality | None = None
) -> PixelSet | None:
    """Open images or spectra.

    Parameters
    ----------
    what
        A file or a folder, see `open_pixel_files`, or the tree of a DESI release, which is never indexed, if
        the table has TARGETID, SURVEY, PROGRAM and HEALPIX; a service: a layer of the Legacy Survey's
        cut-outs, one of `LAYERS`, or ``sparcl``, ``sparcl:<data set>``; a column of the table. None: what the
        table itself holds: in the column IMAGE; in the column FLUX or nested columns; the spectra of a coadd
        whose FIBERMAP it is, or of an SDSS file.
    table
        Opened, whose rows the pixels are for; needed for all but files.
    modality
        Needed where `what` does not tell.

    Returns
    -------
    PixelSet or None
        None only if nothing is named and the table holds none.

    Raises
    ------
    UsageError, DataError
        If what is wanted does not exist, cannot be read, or is not such pixels.
    """
    if what is not None and Path(what).exists():
        return _open_files(Path(what), table, modality)
    name = None if what is None else str(what)
    if name in LAYERS and modality != "spectrum":
        return LayerCutouts(name)
    service, _, release = (name or "").partition(":")
    if service == SPARCL and modality != "image":
        return SparclService(release or SPARCL_RELEASE)
    if table is None or modality is None:
        raise DataError(f"{what}: no such file or folder")
    return _open_images_of(table, name) if modality == "image" else _open_spectra_of(table, name)


def open_pixel_files(path: str | Path, modality: Modality | None = None) -> PixelFiles:
    """Open a file, or a folder, of images or spectra in whichever format they are.

    Images: FITS cut-outs and larger images; PNG and JPEG; HDF5 of Stein et al. or of Multimodal Universe.
    Spectra: DESI's coadd-*.fits, else spectra-*.fits, whatever they are called; SDSS's spec-*.fits; HDF5 of
    Multimodal Universe. Both: a set of pairs.

    Raises
    ------
    UsageError
        If it holds both, and none is asked for.
    DataError
        If the path does not exist, is damaged, or holds no such pixels; it says what to use instead.
    """
    source, kind = Path(path), find_kind(path, modality)
    fitting: dict[Modality, Opener] = {m: openers[kind] for m, openers in OPENERS.items() if kind in openers}
    if modality is None and len(fitting) > 1:
        raise UsageError(f"{path}: {kind} have images and spectra; say which")
    opener = fitting.get(modality) if modality else next(iter(fitting.values()), None)
    if opener is None:
        instead = f": {kind.instead}" if kind.instead else f", expected {EXPECTED[modality or 'image']}"
        raise DataError(f"{path}: a {kind}{instead}")
    return opener(source)


def _open_files(path: Path, table: Table | None, modality: Modality | None) -> PixelSet:
    """Open files for the rows of a table."""
    keyed = table is not None and all(table.find(name) for name in COADD_KEY)
    if modality == "spectrum" and keyed and path.is_dir() and is_tree(path):
        return CoaddTree(path)
    pixels = open_pixel_files(path, modality)
    if pixels.files and len(pixels.problems) == len(pixels.files) and isinstance(pixels, ImageFolder):
        raise DataError(pixels.problems[0][1])
    if isinstance(pixels, CoaddRows) and table is not None and len(pixels) != table.nrows:
        raise DataError(
            f"{path}: no FIBERMAP, so that its {len(pixels)} spectra are those of as many rows; {table.name} "
            f"has {table.nrows}. Embed the file itself"
        )
    return pixels


def _open_images_of(table: Table, name: str | None) -> PixelSet | None:
    """Open a column of images."""
    column, nested = table.find(name or IMAGE), find_nested_images(table)
    if column is None and name is not None:
        raise UsageError(
            f"--images {name}: neither a file, nor a folder, nor a column of {table.name}, nor one of "
            f"{', '.join(LAYERS)}"
        )
    if name is None:
        own = [column] if column and _holds_arrays(table.column(column)) else []
        there = list(dict.fromkeys(own + nested))
        if len(there) > 1:
            raise DataError(
                f"{table.name}: the columns '{there[0]}' and '{there[1]}' could both be the images. Say "
                f"which: --images {there[0]}"
            )
        column = there[0] if there else None
    if column is None:
        return None
    return NestedImages(table, column) if table.column(column).fields else ImageColumn(table, column)


def _holds_arrays(column: Column) -> bool:
    """Say whether rows of a column may be images: not numbers, texts or lists of numbers."""
    return bool(column.shape or column.fields) or (column.dtype == object and not column.lists)


def _open_spectra_of(table: Table, name: str | None) -> PixelSet | None:
    """Open columns of spectra, or the spectra of a file that is the table."""
    if name is not None:
        column = table.find(name)
        if column is None:
            raise UsageError(
                f"--spectra {name}: neither a file, nor a folder, nor a column of {table.name}, nor {SPARCL}"
            )
        return (
            NestedSpectra(table, [column]) if table.column(column).fields else SpectrumColumns(table, column)
        )
    kind = find_kind(table.source)
    if kind in DESI_KINDS and table.header.get("EXTNAME") == "FIBERMAP":
        return CoaddRows(table.source)
    if kind is Kind.SPEC:
        return SpecRow(table.source)
    if kind.instead:
        raise DataError(f"{table.name}: a {kind}: {kind.instead}")
    flux, columns = table.find(FLUX), find_nested_spectra(table)
    if flux and not (table.column(flux).shape or table.column(flux).lists):
        flux = None
    if flux and columns:
        raise DataError(
            f"{table.name}: the columns '{flux}' and '{columns[0]}' could both be the spectra. Say which: "
            f"--spectra {flux}"
        )
    if flux:
        return SpectrumColumns(table, flux)
    return NestedSpectra(table, columns) if columns else None
