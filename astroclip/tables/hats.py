"""HATS catalogues: folders of Parquet files, one for each pixel of the sky, as LSDB writes and reads them.

Format: https://hats.readthedocs.io. ``hats.properties`` beside ``dataset/Norder=K/Dir=D/Npix=N.parquet`` (or
a folder ``Npix=N`` of several), HEALPix order K nested; the ``collection.properties`` of a collection name
its main catalogue. Margin caches lie in folders of their own and are never looked at.
"""

import re
from pathlib import Path

from astroclip.errors import DataError
from astroclip.tables.arrowtable import ArrowTable

PROPERTIES = ("hats.properties", "properties")  # the second in catalogues of before 2025
COLLECTION = "collection.properties"
MAIN_CATALOGUE, NROWS, RA, DEC = "hats_primary_table_url", "hats_nrows", "hats_col_ra", "hats_col_dec"
_PIXEL = re.compile(r"Norder=(\d+)/(?:.*/)?Npix=(\d+)[./]")


def open_hats(folder: Path, name: str) -> ArrowTable:
    """Open a HATS catalogue or collection: its files in the order of their pixels along the sky, as in LSDB.

    Raises
    ------
    DataError
        If the folder is not a HATS catalogue, has no files or fewer rows than it says, or a file is damaged
        or lacks columns of the first.
    """
    root, properties = _find_main(folder, name)
    pixels = {path: _PIXEL.search(path.as_posix()) for path in (root / "dataset").rglob("*.parquet")}
    places = {path: _place(int(pixel[1]), int(pixel[2])) for path, pixel in pixels.items() if pixel}
    files = sorted((path for path in places if path.is_file()), key=lambda path: (places[path], path))
    if not files:
        raise DataError(f"{name}: a HATS catalogue without a file Norder=*/Dir=*/Npix=*.parquet")
    table = ArrowTable(files, name, folder, position=(properties.get(RA), properties.get(DEC)))
    if properties.get(NROWS, str(table.nrows)) != str(table.nrows):
        raise DataError(
            f"{name}: {table.nrows} rows in {len(files)} files, but {properties[NROWS]} by its "
            "properties: files are missing. Fetch it again"
        )
    return table


def is_hats(path: str | Path) -> bool:
    """Tell whether a path is the folder of a HATS catalogue or collection."""
    folder = Path(path)
    old = (folder / PROPERTIES[1]).is_file() and (
        folder / "dataset"
    ).is_dir()  # not a HiPS, which has one too
    return old or any((folder / name).is_file() for name in (PROPERTIES[0], COLLECTION))


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
