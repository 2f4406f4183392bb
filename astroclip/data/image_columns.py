"""Images in a column of a table, one a row.

Shapes: n rows, H rows and W columns of pixels.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from astroclip.data.fitsfile import check_image_unit
from astroclip.data.hdf5file import runs
from astroclip.data.pixels import How, Images, Match, Modality
from astroclip.data.stamps import centre_stamps
from astroclip.errors import DataError
from astroclip.schema import BANDS, CUTOUT_SIZE, PIXSCALE
from astroclip.tables import Table
from astroclip.tables.identity import Who


class ImageColumn:
    """Images in a vector column (3, H, W); the table's card PIXSCALE says their scale.

    Raises
    ------
    DataError
        If the column has another shape, or is not in nanomaggies.
    """

    modality: Modality = "image"
    found_by: tuple[str, ...] = ()

    def __init__(self, table: Table, column: str) -> None:
        spec = table.column(column)
        if len(spec.shape) != 3 or spec.shape[0] != len(BANDS):
            raise DataError(
                f"{table.name}: column '{column}' has shape {spec.shape}, expected (3, H, W): "
                "bands g, r, z, rows, columns (TDIM '(W,H,3)')"
            )
        check_image_unit(f"{table.name}: column '{column}'", spec.unit)
        self.name = f"column {spec.name}"
        self.problems: list[tuple[Path, str]] = []
        self._table, self._column = table, spec.name
        self._pixscale = float(table.header.get("PIXSCALE", PIXSCALE))

    def __len__(self) -> int:
        return self._table.nrows

    def close(self) -> None:
        """Do nothing: the table is its owner's to close."""

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:  # noqa: ARG002 - its own
        """Each row has its own image."""
        n = len(who.ra)
        return Match(np.arange(n), np.full(n, How.ROW, np.int8), np.zeros(n, bool))

    def read(
        self,
        rows: ArrayLike,
        ra: ArrayLike | None = None,  # noqa: ARG002 - the centre of an image is its galaxy
        dec: ArrayLike | None = None,  # noqa: ARG002
        size: int = CUTOUT_SIZE,
    ) -> Images:
        """Read the centres of the images of rows: see `stamps.centre_stamps`."""
        unique, inverse = np.unique(np.asarray(rows, np.int64), return_inverse=True)
        stretches = [(int(unique[first]), int(unique[last - 1]) + 1) for first, last in runs(unique)]
        images = np.concatenate(
            [self._table.read([self._column], *rows)[self._column] for rows in stretches or [(0, 0)]]
        )
        stamps = centre_stamps(images, size)
        stamps = stamps if np.array_equal(inverse, np.arange(len(unique))) else stamps[inverse]
        return Images(stamps, np.full(len(stamps), self._pixscale))
