"""Pixels are catalogues too: a table of what files of spectra or images hold, one row a galaxy.

It says who and where the galaxies are, in which row of which file their pixels lie, and what the survey says
of them (`data.pixel_facts`); never the pixels, which come with it as a `PixelSet` of the table's own rows.
"""

import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.data.desi import redrock_path
from astroclip.data.own_pixels import OwnPixels
from astroclip.data.pixel_facts import unknown
from astroclip.data.pixel_part import FILE, ROW, PixelPart, are_pixels, open_part
from astroclip.data.pixels import Modality
from astroclip.errors import UsageError
from astroclip.schema import ColumnSpec
from astroclip.tables import FitsTable, Table, open_table, write_table
from astroclip.tables.fingerprint import listing_of
from astroclip.tables.hdus import open_fits

EXTNAME = "GALAXIES"
_WORDS = {  # unit and comment
    FILE: ("", "file that holds the pixels"),
    ROW: ("", "row in that file, from 0"),
    **dict.fromkeys(("RA", "TARGET_RA"), ("deg", "right ascension, ICRS")),
    **dict.fromkeys(("DEC", "TARGET_DEC"), ("deg", "declination, ICRS")),
}


class PixelCatalogue(NamedTuple):
    """A table of galaxies, to be closed, and the pixels that it is made of by modality, row by row."""

    table: Table
    pixels: dict[Modality, OwnPixels]


def open_catalogue(
    paths: Sequence[str | Path], hdu: str | int | None, scratch: str | Path, keep_pixels: bool = False
) -> PixelCatalogue:
    """Open a table, or files of pixels as one.

    Parameters
    ----------
    paths
        One table; or pixels, see `open_pixel_catalogue`.
    hdu, scratch
        As in `open_table`.
    keep_pixels
        Take the table in a file of pixels, as a coadd's FIBERMAP.

    Raises
    ------
    UsageError
        If several tables are named, or the pixels of a folder are to be kept.
    DataError
        If it cannot be read.
    """
    if are_pixels(paths) and not keep_pixels:
        return open_pixel_catalogue(paths, scratch)
    if keep_pixels and Path(paths[0]).is_dir() and are_pixels(paths):
        raise UsageError(f"{paths[0]}: --keep-pixels copies one coadd or SDSS spectrum, not a folder of them")
    if len(paths) > 1:
        raise UsageError(
            f"{', '.join(map(str, paths))}: several files are one catalogue if all are spectra, images or "
            "pairs. Name one table"
        )
    return PixelCatalogue(open_table(paths[0], hdu=hdu, scratch=scratch), {})


def open_pixel_catalogue(paths: Sequence[str | Path], scratch: str | Path) -> PixelCatalogue:
    """Open files or folders of pixels as one catalogue: all rows of the first, then those of the next.

    Parameters
    ----------
    paths
        DESI coadds or spectra, SDSS spectra, Multimodal Universe spectra; cut-outs in FITS, PNG, JPEG or
        HDF5; pairs. Several are of spectra alone, of images alone, or of pairs alone.
    scratch
        Folder for the table while it is open.

    Raises
    ------
    UsageError
        If images and spectra are mixed.
    DataError
        If a file is broken, or holds no galaxies.
    """
    parts = [open_part(path) for path in paths]
    if len({tuple(part.pixels) for part in parts}) > 1:
        raise UsageError(
            f"{', '.join(map(str, paths))}: files of images and of spectra are no one catalogue. Name those "
            "of one kind, and where the other pixels of the same galaxies are with --images or --spectra"
        )
    pixels = {m: OwnPixels([part.pixels[m] for part in parts]) for m in parts[0].pixels}
    return PixelCatalogue(_write_table(parts, Path(scratch)), pixels)


class PixelTable(FitsTable):
    """The table that was made of files of pixels; a run is resumed if these are what they were."""

    files: Sequence[Path] = ()

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Size and last time of change (ns) of all files, and the SHA-256 of their listing."""
        return listing_of(self.files)

    def is_changed(self) -> bool:
        """Tell whether a file has changed since the table was made."""
        return listing_of(self.files) != self.fingerprint


def _write_table(parts: Sequence[PixelPart], scratch: Path) -> PixelTable:
    """Write the rows into a FITS table without a name, which goes when it is closed."""
    name = str(parts[0].path) + (f" and {len(parts) - 1} more" if len(parts) > 1 else "")
    columns = catalogue_columns(parts)
    integers = {column.name: -1 for column in columns if column.dtype == "i8" and column.name != ROW}
    rows = sum(map(len, parts))
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".astroclip-") as folder:
        beside = Path(folder, "rows.fits")
        write_table(beside, columns, rows, _blocks(parts, columns), extname=EXTNAME, nulls=integers)
        table = PixelTable(parts[0].path, name=name, file=open_fits(beside, name))
    files = [file for part in parts for file in part.files]
    table.files = [*files, *(redrock for file in files if (redrock := redrock_path(file)))]
    return table


def catalogue_columns(parts: Sequence[PixelPart]) -> list[ColumnSpec]:
    """Describe the columns of all parts: the identifiers that any row has, and the facts."""
    dtypes: dict[str, np.dtype] = {}
    known = {FILE, ROW, *(name for part in parts for name in part.position)}
    for part in parts:
        for block in part.blocks(facts=False):
            for name, values in block.items():
                dtypes[name] = np.promote_types(dtypes.get(name, values.dtype), values.dtype)
                missing = values == ("" if values.dtype.kind == "U" else -1)
                known |= set() if missing.all() else {name}
    columns = []
    for name in (name for name in dtypes if name in known):
        dtype = dtypes[name]
        text = f"S{max(dtype.itemsize // 4, 1)}"
        columns.append(
            ColumnSpec(name, text if dtype.kind == "U" else dtype.str[1:], (), *_WORDS.get(name, ()))
        )
    facts = {column.name: column for part in parts for column in part.facts.columns}
    return [*columns, *facts.values()]


def _blocks(parts: Sequence[PixelPart], columns: list[ColumnSpec]) -> Iterator[dict[str, NDArray]]:
    """Yield the rows of all parts; what one does not have is missing."""
    for part in parts:
        for block in part.blocks():
            rows = unknown(columns, len(block[ROW]))
            yield rows | {name: values for name, values in block.items() if name in rows}
