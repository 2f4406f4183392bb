"""Describe any file or folder, by the kind that it is."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from astroclip.data.describe.describe_image import describe_image
from astroclip.data.describe.describe_pixels import describe_pixels, hdf5_columns
from astroclip.data.describe.describe_tables import describe_table
from astroclip.data.describe.file_report import FileReport
from astroclip.data.fitsfile import FitsFile
from astroclip.data.hdf5file import Hdf5File
from astroclip.data.kinds import Kind, find_kind
from astroclip.errors import DataError


def inspect_file(path: str | Path, ra: str | None = None, dec: str | None = None) -> FileReport:
    """Say what a file or folder is, what it holds, and what is wrong with it.

    Tables are read in blocks, only the columns that say where, who and how good their rows are. The pixels of
    a single coadd, image or Multimodal Universe file are looked at, and the spectra of pairs; those of
    folders, and of the files of Stein et al. (280 GB each), are not. A file of a known kind that turns out to
    be damaged is reported with that as its problem.

    Parameters
    ----------
    path
        File or folder.
    ra, dec
        Position columns of a table, if they have no usual names.

    Raises
    ------
    DataError
        If there is no such file, or it is nothing that astroclip knows.
    """
    source = Path(path)
    kind = find_kind(source)
    describe = _DESCRIBE.get(kind, describe_pixels)
    if kind in (Kind.CATALOGUE, Kind.HATS):
        describe = partial(describe_table, ra=ra, dec=dec)
    try:
        return describe(source, kind)
    except DataError as error:
        return FileReport(source, kind, None, [], {}, [str(error)])


def _describe_others(path: Path, kind: str) -> FileReport:
    """Name a file that astroclip takes no galaxies from, and what to use instead."""
    return FileReport(path, kind, None, [], {}, [Kind(kind).instead])


def _describe_redrock(path: Path, kind: str) -> FileReport:
    """Describe a Redrock file by its table of redshifts."""
    with FitsFile(path, whole=False) as file:
        hdu = "REDSHIFTS" if "REDSHIFTS" in file else "ZBEST"
    return describe_table(path, kind, hdu=hdu)


def _describe_hdf5(path: Path, kind: str) -> FileReport:
    """Describe an HDF5 file that astroclip has no reader for: its datasets."""
    with Hdf5File(path) as h5:
        columns = hdf5_columns(h5)
        lengths = {h5.shape(name)[0] for name in h5.names if h5.shape(name)}
    rows = lengths.pop() if len(lengths) == 1 else None
    return FileReport(path, kind, rows, columns, {"datasets": len(columns)}, [])


def _describe_model(path: Path, kind: str) -> FileReport:
    """Point to the command that describes models."""
    sizes = {p.name: f"{p.stat().st_size / 1e6:.1f} MB" for p in sorted(path.iterdir()) if p.is_file()}
    return FileReport(path, kind, None, [], {"files": sizes, "see": f"astroclip models info {path}"}, [])


_DESCRIBE: dict[Kind, Callable[[Path, str], FileReport]] = {
    Kind.REDROCK: _describe_redrock,
    Kind.IMAGE: describe_image,
    Kind.HDF5: _describe_hdf5,
    Kind.FRAME: _describe_others,
    Kind.FRAMES: _describe_others,
    Kind.CATALOGUES: _describe_others,
    Kind.MODEL: _describe_model,
}
