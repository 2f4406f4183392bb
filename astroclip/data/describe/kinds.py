"""Tell what a file or folder is, by its content, and describe it."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from astroclip.data import multimodal
from astroclip.data.describe.describe_hdf5 import (
    describe_hdf5,
    describe_multimodal_images,
    describe_multimodal_spectra,
)
from astroclip.data.describe.describe_images import describe_image, describe_images, describe_stein
from astroclip.data.describe.describe_pairs import describe_pairs
from astroclip.data.describe.describe_spectra import (
    describe_coadd,
    describe_coadds,
    describe_spec,
    describe_specs,
)
from astroclip.data.describe.describe_tables import describe_catalog, describe_hats
from astroclip.data.describe.file_report import FileReport
from astroclip.data.desi import find_coadds, is_coadd
from astroclip.data.fitsfile import FitsFile
from astroclip.data.hdf5file import Hdf5File
from astroclip.data.pairs import is_pairs
from astroclip.data.sdss import find_specs, is_spec
from astroclip.data.stein import is_stein
from astroclip.errors import DataError
from astroclip.schema import PairsKey
from astroclip.tables import is_hats

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
TABLE_SUFFIXES = (".parquet", ".csv", ".csv.gz")
MODEL_FILES = ("config.yaml", "model.safetensors")
HUGGING_FACE_FILES = ("dataset_dict.json", "state.json")  # of pairs saved by save_to_disk


class Kind(StrEnum):
    """What a file or folder can be."""

    CATALOGUE = "catalogue"
    HATS = "HATS catalogue"
    COADD = "DESI coadd"
    COADDS = "folder of DESI coadds"
    REDROCK = "Redrock redshifts"
    SPEC = "SDSS spectrum"
    SPECS = "folder of SDSS spectra"
    IMAGE = "Legacy Survey image"
    IMAGES = "folder of Legacy Survey images"
    STEIN = "Stein et al. images"
    MULTIMODAL_SPECTRA = "Multimodal Universe spectra"
    MULTIMODAL_IMAGES = "Multimodal Universe images"
    PAIRS = "pairs"
    HDF5 = "HDF5 file"
    MODEL = "model"


_MULTIMODAL = (Kind.MULTIMODAL_SPECTRA, Kind.MULTIMODAL_IMAGES)


def inspect_file(path: str | Path) -> FileReport:
    """Say what a file or folder is, what it holds, and what is wrong with it.

    Tables are read in blocks, only the columns that say where, who and how good their rows are. The pixels of
    a single coadd, image or Multimodal Universe file are looked at, and the spectra of pairs; those of
    folders, and of the files of Stein et al. (280 GB each), are not. A file of a known kind that turns out to
    be damaged is reported with that as its problem.

    Raises
    ------
    DataError
        If there is no such file, or it is nothing that astroclip knows.
    """
    source = Path(path)
    kind = find_kind(source)
    try:
        return _DESCRIBE[kind](source, kind)
    except DataError as error:
        return FileReport(source, kind, None, [], {}, [str(error)])


def find_kind(path: str | Path) -> Kind:
    """Return what a file or folder is, by its first bytes, HDUs and datasets; names matter for CSV alone.

    A folder is what it holds, the first of: model, published pairs, HATS catalogue, Stein et al. files, DESI
    coadds, SDSS spectra, Multimodal Universe files, FITS images.

    Raises
    ------
    DataError
        As in `inspect_file`.
    """
    source = Path(path)
    if source.is_dir():
        return _folder_kind(source)
    if not source.is_file():
        raise DataError(f"{path}: no such file or folder")
    with source.open("rb") as file:
        begin = file.read(8)
    if begin == HDF5_SIGNATURE:
        return _hdf5_kind(source)
    if begin.startswith(b"PAR1") or source.name.lower().endswith(TABLE_SUFFIXES):
        return Kind.CATALOGUE
    if begin.startswith((b"SIMPLE", b"\x1f\x8b")):
        return _fits_kind(source)
    raise DataError(f"{path}: expected FITS, HDF5, Parquet, a .csv file, or a folder of these or a model's")


def _fits_kind(path: Path) -> Kind:
    """Tell by the names of the HDUs; the file may be cut short."""
    if is_coadd(path):
        return Kind.COADD
    if is_spec(path):
        return Kind.SPEC
    with FitsFile(path, whole=False) as file:
        if "REDSHIFTS" in file or "ZBEST" in file:
            return Kind.REDROCK
        tables = [hdu for hdu in range(len(file)) if file.columns(hdu)]
    return Kind.CATALOGUE if tables else Kind.IMAGE


def _hdf5_kind(path: Path) -> Kind:
    """Tell by the names of the datasets."""
    if is_stein(path):
        return Kind.STEIN
    with Hdf5File(path) as h5:
        if all(name in h5 for name in (PairsKey.IMAGE, PairsKey.FLUX, PairsKey.WAVE)):
            return Kind.PAIRS
        if multimodal.SPECTRUM in h5:
            return Kind.MULTIMODAL_SPECTRA
        if multimodal.IMAGE in h5:
            return Kind.MULTIMODAL_IMAGES
    return Kind.PAIRS if is_pairs(path) else Kind.HDF5


def _folder_kind(path: Path) -> Kind:
    """Tell by the names of the files, for HDF5 by the first one's datasets."""
    if all((path / name).is_file() for name in MODEL_FILES):
        return Kind.MODEL
    if any((path / name).is_file() for name in HUGGING_FACE_FILES):
        return Kind.PAIRS
    if is_hats(path):
        return Kind.HATS
    if kind := _survey_kind(path):
        return kind
    raise DataError(f"{path}: no model, and no FITS or Multimodal Universe file below it")


def _survey_kind(path: Path) -> Kind | None:
    """Tell which survey's files are below a folder."""
    if is_stein(path):
        return Kind.STEIN
    if find_coadds(path):
        return Kind.COADDS
    if find_specs(path).files:
        return Kind.SPECS
    for pattern in multimodal.PATTERNS:
        if (first := next(path.rglob(pattern), None)) and (kind := _hdf5_kind(first)) in _MULTIMODAL:
            return kind
    return Kind.IMAGES if next(path.rglob("*.fits*"), None) else None


def _describe_redrock(path: Path, kind: str) -> FileReport:
    """Describe a Redrock file by its table of redshifts."""
    with FitsFile(path, whole=False) as file:
        hdu = "REDSHIFTS" if "REDSHIFTS" in file else "ZBEST"
    return describe_catalog(path, kind, hdu=hdu)


def _describe_model(path: Path, kind: str) -> FileReport:
    """Point to the command that describes models."""
    sizes = {p.name: f"{p.stat().st_size / 1e6:.1f} MB" for p in sorted(path.iterdir()) if p.is_file()}
    return FileReport(path, kind, None, [], {"files": sizes, "see": f"astroclip models info {path}"}, [])


_DESCRIBE: dict[Kind, Callable[[Path, str], FileReport]] = {
    Kind.CATALOGUE: describe_catalog,
    Kind.HATS: describe_hats,
    Kind.COADD: describe_coadd,
    Kind.COADDS: describe_coadds,
    Kind.REDROCK: _describe_redrock,
    Kind.SPEC: describe_spec,
    Kind.SPECS: describe_specs,
    Kind.IMAGE: describe_image,
    Kind.IMAGES: describe_images,
    Kind.STEIN: describe_stein,
    Kind.MULTIMODAL_SPECTRA: describe_multimodal_spectra,
    Kind.MULTIMODAL_IMAGES: describe_multimodal_images,
    Kind.PAIRS: describe_pairs,
    Kind.HDF5: describe_hdf5,
    Kind.MODEL: _describe_model,
}
