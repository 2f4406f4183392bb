"""Open images, whatever holds them: files, a folder, a column of a table, a cut-out service."""

from pathlib import Path

from astroclip.data.cutouts import LAYERS, LayerCutouts
from astroclip.data.hdf5file import holds_hdf5
from astroclip.data.image_columns import ImageColumn
from astroclip.data.legacysurvey import open_images
from astroclip.data.multimodal_images import open_multimodal_images
from astroclip.data.pairs import is_pairs
from astroclip.data.pairs.paired_images import PairedImages
from astroclip.data.pixels import PixelFiles, PixelSet
from astroclip.data.stein import is_stein, open_stein
from astroclip.errors import UsageError
from astroclip.schema import IMAGE
from astroclip.tables import Table


def open_image_files(path: str | Path) -> PixelFiles:
    """Open a file, or a folder, of images in whichever format they are.

    FITS cut-outs and larger images; HDF5 of Stein et al. or of Multimodal Universe; a set of pairs.

    Raises
    ------
    DataError
        If the path does not exist, is damaged, or holds no images.
    """
    if is_pairs(path):
        return PairedImages(path)
    if is_stein(path):
        return open_stein(path)
    return open_multimodal_images(path) if holds_hdf5(path) else open_images(path)


def open_image_set(table: Table, wanted: str | None = None) -> PixelSet | None:
    """Open the images of a table's rows.

    Parameters
    ----------
    table
    wanted
        A file or a folder, see `open_image_files`; a layer of the Legacy Survey's cut-out service, one of
        `LAYERS`; a column of images, by default IMAGE. None is returned if there is no such column.

    Raises
    ------
    UsageError, DataError
        If what is wanted does not exist, or is not images in nanomaggies.
    """
    if wanted is not None and Path(wanted).exists():
        return open_image_files(wanted)
    if wanted in LAYERS:
        return LayerCutouts(wanted)
    column = table.find(wanted or IMAGE)
    if column is None and wanted is not None:
        raise UsageError(
            f"--images {wanted}: neither a file, nor a folder, nor a column of {table.name}, nor one of "
            f"{', '.join(LAYERS)}"
        )
    return ImageColumn(table, column) if column else None
