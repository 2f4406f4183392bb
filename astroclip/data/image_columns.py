"""Images in a column of a table, one a row: vectors, lists, or a nested column as Multimodal Universe has it.

Shapes: n rows, 3 bands, H rows and W columns of pixels.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from astroclip.data.fitsfile import check_image_unit
from astroclip.data.hdf5file import runs
from astroclip.data.pixel_rows import OwnRows
from astroclip.data.pixels import Images, Modality
from astroclip.data.stamps import centre_stamps
from astroclip.errors import DataError
from astroclip.schema import BANDS, PIXSCALE
from astroclip.tables import Table

PLANE_AXES = 3  # of the flux in one row of a nested column: band, row, column


class OwnImages(OwnRows[Images]):
    """Images in a column, each row its own."""

    modality: Modality = "image"

    def __init__(self, table: Table, column: str) -> None:
        self._table, self._column = table, table.column(column).name
        super().__init__(f"column {self._column}")
        self.where = f"{table.name}: column '{self._column}'"

    def __len__(self) -> int:
        return self._table.nrows

    def _read(self, rows: NDArray[np.int64], size: int) -> Images:
        parts = [self._stamps(values, size) for values in self._blocks(rows)]
        if len(parts) == 1:
            return parts[0]
        flux = np.concatenate([part.flux for part in parts])
        return Images(flux, np.concatenate([part.pixscale for part in parts]))

    def _blocks(self, rows: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield the column's values in each stretch of ascending rows."""
        for first, last in [(int(rows[i]), int(rows[j - 1]) + 1) for i, j in runs(rows)] or [(0, 0)]:
            yield self._table.read([self._column], first, last)[self._column]

    @abstractmethod
    def _stamps(self, values: NDArray[Any], size: int) -> Images:
        """Return the centres of the images in some rows."""


class ImageColumn(OwnImages):
    """Images in a vector column (3, H, W), or lists of them; the table's card PIXSCALE says their scale.

    Raises
    ------
    DataError
        If the column has another shape, or is not in nanomaggies.
    """

    def __init__(self, table: Table, column: str) -> None:
        super().__init__(table, column)
        spec = table.column(column)
        shape = spec.shape
        if spec.dtype == object and table.nrows:
            shape = np.shape(next(self._blocks(np.zeros(1, np.int64)))[0])
        if len(shape) != PLANE_AXES or shape[0] not in (0, len(BANDS)):
            raise DataError(
                f"{self.where} has shape {shape}, expected (3, H, W): bands g, r, z, rows, columns (in FITS: "
                "TDIM '(W,H,3)')"
            )
        check_image_unit(self.where, spec.unit)
        self._pixscale = float(table.header.get("PIXSCALE", PIXSCALE))

    def _stamps(self, values: NDArray[Any], size: int) -> Images:
        if values.dtype == object:
            flux = np.array([self._stamp(image, size) for image in values], np.float32)
            flux = flux.reshape(-1, len(BANDS), size, size)
        else:
            flux = centre_stamps(values, size)
        return Images(flux, np.full(len(flux), self._pixscale))

    def _stamp(self, image: NDArray | None, size: int) -> NDArray[np.float32]:
        if image is None or not np.size(image):
            return np.full((len(BANDS), size, size), np.nan, np.float32)
        if image.ndim != PLANE_AXES or len(image) != len(BANDS):
            raise DataError(f"{self.where} has an image of shape {image.shape}, expected (3, H, W)")
        return centre_stamps(image[None], size)[0]


class NestedImages(OwnImages):
    """Images in a nested column of Multimodal Universe and HATS tables.

    Planes are chosen by the band's name, a trailing G, R, Z, never by their order; one that a row does not
    have is missing. A pixel is missing too where the field ``ivar`` is 0. The field ``scale`` tells the pixel
    scale. The field ``mask`` is not used: its meaning changed between versions of these data.

    Raises
    ------
    DataError
        If the column has no such fields.
    """

    def __init__(self, table: Table, column: str) -> None:
        super().__init__(table, column)
        fields = table.column(column).fields
        if not _are_images(fields):
            raise DataError(
                f"{self.where} has the fields {', '.join(fields) or 'of no structure'}; expected band "
                "and flux, the planes of an image"
            )
        self._fields = {name.lower(): name for name in fields}

    def _stamps(self, values: NDArray[Any], size: int) -> Images:
        flux = np.full((len(values), len(BANDS), size, size), np.nan, np.float32)
        pixscale = np.full(len(values), np.nan)
        for i, row in enumerate(values):
            if isinstance(row, Mapping) and np.size(row.get(self._fields["flux"], ())):
                flux[i], pixscale[i] = self._stamp(row, size)
        return Images(flux, pixscale)

    def _stamp(self, row: Mapping[str, Any], size: int) -> tuple[NDArray[np.float32], float]:
        """Return the centre (3, size, size) of one image, and its pixel scale."""
        names = [str(name).strip().lower()[-1:] for name in row[self._fields["band"]]]
        planes = np.asarray(row[self._fields["flux"]], np.float32)
        there = [band for band in BANDS if band in names]
        if not there or any(names.count(band) > 1 for band in BANDS) or len(names) != len(planes):
            bands = ", ".join(map(str, row[self._fields["band"]]))
            raise DataError(
                f"{self.where} has {len(planes)} planes of the bands {bands}; expected g, r, z, each once"
            )
        image = np.full((len(BANDS), *planes.shape[1:]), np.nan, np.float32)
        to, of = [BANDS.index(band) for band in there], [names.index(band) for band in there]
        image[to] = planes[of]
        ivar = row.get(self._fields.get("ivar", ""))
        if ivar is not None and np.size(ivar):
            image[to] = np.where(np.asarray(ivar)[of] > 0, image[to], np.nan)
        scale = np.asarray(row.get(self._fields.get("scale", ""), np.nan), float)
        return centre_stamps(image[None], size)[0], float(np.mean(scale)) if scale.size else np.nan


def find_nested_images(table: Table) -> list[str]:
    """Return the nested columns of a table that hold images: those with band and the planes of a flux."""
    return [name for name, column in table.columns.items() if _are_images(column.fields)]


def _are_images(fields: Mapping[str, int]) -> bool:
    axes = {name.lower(): n for name, n in fields.items()}
    return axes.get("flux") == PLANE_AXES and axes.get("band") == 1
