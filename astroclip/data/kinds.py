"""Tell what a file or folder is, by its content: the one place that decides it, for every command.

`data.open_pixels` opens images and spectra by what `find_kind` says, `tables.open_table` catalogues.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from astroclip.data import multimodal, stein
from astroclip.data.fitsfile import FitsFile
from astroclip.data.hdf5file import Hdf5File
from astroclip.data.pairs import is_pairs
from astroclip.data.pixels import Modality
from astroclip.errors import DataError
from astroclip.schema import PairsKey
from astroclip.tables import TableFormat, find_format, is_hats

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
PICTURE_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
MODEL_FILES = ("config.yaml", "model.safetensors")
HUGGING_FACE_FILES = ("dataset_dict.json", "state.json")  # of pairs saved by save_to_disk
PROBED = 5  # files of a folder that are opened where their names do not tell what they are


class Kind(StrEnum):
    """What a file or folder can be."""

    CATALOGUE = "catalogue"
    HATS = "HATS catalogue"
    COADD = "DESI coadd"
    SPECTRA = "DESI spectra of single exposures"
    COADDS = "folder of DESI coadds"
    FRAME = "DESI frame"
    FRAMES = "folder of DESI frames"
    REDROCK = "Redrock redshifts"
    SPEC = "SDSS spectrum"
    SPECS = "folder of SDSS spectra"
    IMAGE = "Legacy Survey image"
    PICTURE = "PNG or JPEG image"
    IMAGES = "folder of Legacy Survey images"
    CATALOGUES = "folder of catalogues"
    STEIN = "Stein et al. images"
    MULTIMODAL_SPECTRA = "Multimodal Universe spectra"
    MULTIMODAL_IMAGES = "Multimodal Universe images"
    PAIRS = "pairs"
    HDF5 = "HDF5 file"
    MODEL = "model"

    @property
    def instead(self) -> str:
        """What to use instead of a file that astroclip does not take galaxies from, "" for the others."""
        return _INSTEAD.get(self, "")


_FRAME = (
    "it holds one camera and one exposure, not whole spectra of galaxies. Use the coadd-*.fits or "
    "spectra-*.fits of the same targets"
)
_INSTEAD = {
    Kind.FRAME: _FRAME,
    Kind.FRAMES: _FRAME,
    Kind.CATALOGUES: "name one of its files",
    Kind.MODEL: "it holds weights, not galaxies. Name it with --model",
}
# folders by rank, and what modality is in them
_RANK: dict[Kind, Modality | None] = {
    Kind.COADDS: "spectrum",
    Kind.STEIN: "image",
    Kind.SPECS: "spectrum",
    Kind.MULTIMODAL_SPECTRA: "spectrum",
    Kind.MULTIMODAL_IMAGES: "image",
    Kind.FRAMES: "spectrum",
    Kind.IMAGES: "image",
    Kind.CATALOGUES: None,
}
_FOLDER_OF = {
    Kind.COADD: Kind.COADDS,
    Kind.SPECTRA: Kind.COADDS,
    Kind.SPEC: Kind.SPECS,
    Kind.FRAME: Kind.FRAMES,
    Kind.IMAGE: Kind.IMAGES,
    Kind.CATALOGUE: Kind.CATALOGUES,
    Kind.REDROCK: Kind.CATALOGUES,
}
_NAMES = {
    Kind.COADDS: re.compile(r"(coadd|spectra)-.*\.fits(\.gz)?"),
    Kind.STEIN: re.compile(r"images_npix.*\.h5"),
    Kind.SPECS: re.compile(r"spec-.*\.fits(\.gz)?"),
    Kind.FRAMES: re.compile(r"[cs]?frame-.*\.fits(\.gz)?"),
    Kind.IMAGES: re.compile(r".*\.(png|jpe?g)", re.IGNORECASE),
    Kind.CATALOGUES: re.compile(r".*\.(parquet|csv|tsv|ecsv)(\.gz)?", re.IGNORECASE),
}
_HDF5_NAME = re.compile(r".*\.(hdf5|h5)")
_FITS_NAME = re.compile(r".*\.fits?(\.[gf]z)?")


def find_kind(path: str | Path, modality: Modality | None = None) -> Kind:
    """Return what a file or folder is, by its first bytes, HDUs and datasets; names matter for text alone.

    A folder is what it holds, the first of: model, published pairs, HATS catalogue, DESI coadds, Stein et
    al. files, SDSS spectra, Multimodal Universe files, DESI frames, images, catalogues.

    Parameters
    ----------
    path
        Files may be cut short.
    modality
        Of a folder with several kinds of files, prefer those with images, or spectra.

    Raises
    ------
    DataError
        If there is no such file, or it is nothing that astroclip knows.
    """
    source = Path(path)
    if source.is_dir():
        return _folder_kind(source, modality)
    if not source.is_file():
        raise DataError(f"{path}: no such file or folder")
    with source.open("rb") as file:
        begin = file.read(8)
    if begin == HDF5_SIGNATURE:
        return _hdf5_kind(source)
    if begin.startswith(PICTURE_SIGNATURES):
        return Kind.PICTURE
    form = find_format(source)
    if form is TableFormat.FITS:
        return _fits_kind(source)
    if form is not None:
        return Kind.CATALOGUE
    raise DataError(
        f"{path}: expected FITS, HDF5, Parquet, CSV, ECSV, VOTable, PNG or JPEG, or a folder of these or a "
        "model's"
    )


def _fits_kind(path: Path) -> Kind:
    """Tell by the names of the HDUs and columns; the file may be cut short."""
    with FitsFile(path, whole=False) as file:
        if any(f"{arm}_FLUX" in file for arm in ("B", "R", "Z", "BRZ")):
            single = "FIBERMAP" in file and "EXPID" in file.columns("FIBERMAP")
            return Kind.SPECTRA if single or path.name.startswith("spectra") else Kind.COADD
        if "COADD" in file and {"FLUX", "LOGLAM"} <= set(file.columns("COADD")):
            return Kind.SPEC
        if all(name in file for name in ("IVAR", "WAVELENGTH", "FIBERMAP")):
            return Kind.FRAME
        if any(name in file and file.columns(name) for name in ("REDSHIFTS", "ZBEST")):
            return Kind.REDROCK
        return Kind.CATALOGUE if any(file.columns(hdu) for hdu in range(len(file))) else Kind.IMAGE


def _hdf5_kind(path: Path) -> Kind:
    """Tell by the names of the datasets."""
    with Hdf5File(path) as h5:
        if all(name in h5 for name in (PairsKey.IMAGE, PairsKey.FLUX, PairsKey.WAVE)):
            return Kind.PAIRS
        if all(name in h5 for name in (stein.IMAGES, *stein.POSITION)):
            return Kind.STEIN
        if multimodal.SPECTRUM in h5:
            return Kind.MULTIMODAL_SPECTRA
        if multimodal.IMAGE in h5:
            return Kind.MULTIMODAL_IMAGES
    return Kind.PAIRS if is_pairs(path) else Kind.HDF5


def _folder_kind(path: Path, modality: Modality | None) -> Kind:
    """Tell by the names of the files, of other HDF5 and FITS files by what is in the first ones."""
    if all((path / name).is_file() for name in MODEL_FILES):
        return Kind.MODEL
    if any((path / name).is_file() for name in HUGGING_FACE_FILES):
        return Kind.PAIRS
    if is_hats(path):
        return Kind.HATS
    found = _kinds_below(path, Kind.STEIN if modality == "image" else Kind.COADDS)
    ranked = [kind for kind in _RANK if kind in found]
    if not ranked:
        for file in sorted(file for file in path.rglob("*") if _HDF5_NAME.fullmatch(file.name))[:PROBED]:
            find_kind(file)  # says what is wrong with it
        raise DataError(f"{path}: no model, and no FITS, Multimodal Universe, PNG or JPEG file below it")
    return next((kind for kind in ranked if modality and _RANK[kind] == modality), ranked[0])


def _kinds_below(folder: Path, enough: Kind) -> set[Kind]:
    """Return what files there are below a folder; looks no further once there is one of kind `enough`."""
    found: set[Kind] = set()
    opened: Counter[str] = Counter()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            kind = next((kind for kind, pattern in _NAMES.items() if pattern.fullmatch(name)), None)
            for pattern in (_HDF5_NAME, _FITS_NAME):
                if kind is None and pattern.fullmatch(name) and opened[pattern.pattern] < PROBED:
                    opened[pattern.pattern] += 1
                    kind = _kind_within(Path(place, name))
            found |= {kind} if kind else set()
            if kind == enough:
                return found
    return found


def _kind_within(path: Path) -> Kind | None:
    """Return the kind of a folder that holds a file of any name: of images, if the file cannot be read."""
    try:
        kind = find_kind(path)
    except DataError:
        return Kind.IMAGES if _FITS_NAME.fullmatch(path.name) else None
    return kind if kind in _RANK else _FOLDER_OF.get(kind)


def find_fits(folder: Path, prefixes: Sequence[str], kinds: Sequence[Kind]) -> list[Path]:
    """Return the FITS files below a folder whose names begin with the first prefix that any has, sorted.

    Without such names: those whose content is of one of the kinds, whatever they are called.
    """

    def below(prefix: str) -> list[Path]:
        return sorted(p for end in (".fits", ".fits.gz") for p in folder.rglob(f"{prefix}*{end}"))

    for prefix in prefixes:
        if found := below(prefix):
            return found
    return [path for path in below("") if is_kind(path, *kinds)]


def is_kind(path: str | Path, *kinds: Kind) -> bool:
    """Tell whether a file or folder is there, can be read, and is of one of the kinds."""
    try:
        return find_kind(path) in kinds
    except DataError:
        return False
