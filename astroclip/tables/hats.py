"""HATS catalogues: folders of Parquet files, one for each pixel of the sky, as LSDB writes and reads them.

Format: https://hats.readthedocs.io. ``hats.properties`` beside ``dataset/Norder=K/Dir=D/Npix=N.parquet`` (or
a folder ``Npix=N`` of several), HEALPix order K nested; the ``collection.properties`` of a collection name
its main catalogue. Margin caches lie in folders of their own and are never looked at.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from astroclip.errors import DataError
from astroclip.schema import ColumnSpec
from astroclip.tables.columns import find_name, get_name
from astroclip.tables.tabular import parquet_column, reading

PROPERTIES = ("hats.properties", "properties")  # the second in catalogues of before 2025
COLLECTION = "collection.properties"
MAIN_CATALOGUE, NROWS, RA, DEC = "hats_primary_table_url", "hats_nrows", "hats_col_ra", "hats_col_dec"
_PIXEL = re.compile(r"Norder=(\d+)/(?:.*/)?Npix=(\d+)[./]")


class HatsCatalog:
    """A HATS catalogue opened for reading, a file at a time; only footers are read before.

    Attributes
    ----------
    name
        What the user called it.
    files
        In the order of their pixels along the sky, as LSDB has its partitions, F of them.
    first
        (F + 1,) number of the first row of each file, and of all rows.
    columns
        Type, shape and unit of each column that a FITS table could hold, by its name.
    position
        Names of the right ascension and declination that the catalogue declares as its own; None if not.

    Raises
    ------
    DataError
        If the folder is not a HATS catalogue, has no files or fewer rows than it says, or a file is damaged
        or lacks columns of the first.
    """

    def __init__(self, folder: str | Path) -> None:
        self.name = str(folder)
        root, properties = _find_main(Path(folder), self.name)
        pixels = {path: _PIXEL.search(path.as_posix()) for path in (root / "dataset").rglob("*.parquet")}
        places = {path: _place(int(pixel[1]), int(pixel[2])) for path, pixel in pixels.items() if pixel}
        self.files = sorted(places, key=lambda path: (places[path], path))
        if not self.files:
            raise DataError(f"{self.name}: a HATS catalogue without a file Norder=*/Dir=*/Npix=*.parquet")
        self.first = np.cumsum([0, *self._count_rows()])
        if properties.get(NROWS, str(len(self))) != str(len(self)):
            raise DataError(
                f"{self.name}: {len(self)} rows in {len(self.files)} files, but {properties[NROWS]} by its "
                "properties: files are missing. Fetch it again"
            )
        self.position = properties.get(RA), properties.get(DEC)

    def __len__(self) -> int:
        return int(self.first[-1])

    def _count_rows(self) -> list[int]:
        """Take up the columns of the first file, and return the number of rows of each."""
        rows: list[int] = []
        for path in self.files:
            with reading(str(path)):
                footer = pq.ParquetFile(path)
            if not rows:
                self.columns = _describe(footer.schema_arrow, self.name)
            if missing := set(self.columns) - set(footer.schema_arrow.names):
                raise DataError(f"{path}: no column {', '.join(sorted(missing))}, which {self.files[0]} has")
            rows.append(footer.metadata.num_rows)
        return rows

    def find(self, *candidates: str) -> str | None:
        """Return the name of the first column that exists, in any case; None if none does."""
        return find_name(self.columns, *candidates)

    def column(self, name: str) -> ColumnSpec:
        """Return a column by name, in any case.

        Raises
        ------
        DataError
            If there is none; the message lists names that are close.
        """
        return self.columns[get_name(self.columns, name, self.name)]

    def read(self, file: int, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Read columns of a file, by its number; see `arrow_to_numpy`.

        Raises
        ------
        DataError
            If it is damaged.
        """
        with reading(str(self.files[file])):
            table = pq.ParquetFile(self.files[file]).read(columns=list(names))
        return {name: arrow_to_numpy(table[name]) for name in names}


def is_hats(path: str | Path) -> bool:
    """Tell whether a path is the folder of a HATS catalogue or collection."""
    folder = Path(path)
    old = (folder / PROPERTIES[1]).is_file() and (
        folder / "dataset"
    ).is_dir()  # not a HiPS, which has one too
    return old or any((folder / name).is_file() for name in (PROPERTIES[0], COLLECTION))


def arrow_to_numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column of numbers; a missing integer is masked, a missing float NaN."""
    if column.null_count and pa.types.is_integer(column.type):
        return np.ma.array(column.fill_null(0).to_numpy(), mask=column.is_null().to_numpy())
    return column.to_numpy()


def _find_main(folder: Path, name: str) -> tuple[Path, dict[str, str]]:
    """Return the folder of the main catalogue, and its properties."""
    if (folder / COLLECTION).is_file():
        folder = folder / _read_properties(folder / COLLECTION).get(MAIN_CATALOGUE, ".")
    for file in PROPERTIES:
        if (folder / file).is_file():
            return folder, _read_properties(folder / file)
    raise DataError(f"{name}: not a HATS catalogue; expected {PROPERTIES[0]} in {folder}")


def _read_properties(path: Path) -> dict[str, str]:
    """Return the ``key=value`` lines of a file."""
    lines = (line.partition("=") for line in path.read_text("utf-8", "replace").splitlines())
    return {key.strip(): value.strip() for key, equals, value in lines if equals}


def _place(order: int, pixel: int) -> int:
    """Return where a pixel begins in the nested order of the finest pixels."""
    return pixel << 2 * (29 - order)


def _describe(schema: pa.Schema, name: str) -> dict[str, ColumnSpec]:
    """Return the columns that a FITS table could hold."""
    columns = {}
    for field in schema:
        try:
            columns[field.name] = parquet_column(field, name).spec
        except DataError:  # nested: nothing that is matched by
            continue
    return columns
