"""The Legacy Survey viewer's PNG and JPEG cut-outs: colours that are stretched already, of 8 bits each.

https://www.legacysurvey.org/viewer/cutout.jpg?ra=&dec=&layer=ls-dr9&pixscale=0.262: red, green, blue are z,
r, g, stretched as `model.prepare_images.to_rgb` does. To the encoder, 8 bits as PNG are as good as
nanomaggies (cosine 0.9999 of the embeddings), JPEG of quality 90 a little worse (0.99). A picture does not
tell its pixel scale.

A band that was not observed is told from sky in a PNG; a JPEG mixes the colours of neighbours, so that in it
only areas without any band are. Fetch FITS where that matters.

Trap: north is up, so the first row of a picture is the last one of the FITS image (legacypipe saves them with
``origin="lower"``); rows are read from the bottom up.
Shapes: n stamps, H rows and W columns of a picture, 3 colours.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from astroclip.data.filenames import read_names
from astroclip.data.pixel_rows import IndexedFiles
from astroclip.data.pixels import BY_BRICK, BY_FILE, BY_POSITION, BY_TARGETID, Images, Modality
from astroclip.data.stamps import cut_centre, find_areas
from astroclip.errors import DataError
from astroclip.schema import BANDS, STRETCH_M, STRETCH_Q
from astroclip.tables.identity import Who

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
COLOURS = BANDS[::-1]  # of red, green, blue
MODES = ("RGB", "RGBA", "P")  # of Pillow: colours, with transparency, of a palette
_STEP = {"PNG": 1 / 255, "JPEG": 3 / 255}  # how far a colour may be off its value


class PictureFolder(IndexedFiles[Images]):
    """PNG and JPEG pictures in files, one galaxy each at its centre (use `open_pictures`)."""

    modality: Modality = "image"

    def __init__(self, name: str, files: list[Path]) -> None:
        who = read_names(files).who
        parts = [
            Who({key: values[[i]] for key, values in who.ids.items()}, who.ra[[i]], who.dec[[i]])
            for i in range(len(files))
        ]
        super().__init__(name, (BY_TARGETID, BY_BRICK, BY_FILE, BY_POSITION), files, parts)

    def _read(self, rows: NDArray[np.int64], size: int) -> Images:
        stamps = np.empty((len(rows), len(COLOURS), size, size), np.float32)
        for stamp, file in zip(stamps, rows.tolist(), strict=True):
            stamp[...] = cut_centre(read_picture(self.files[file])[None], size)[0]
        return Images(stamps, np.full(len(rows), np.nan), COLOURS, stretched=True)


def open_pictures(path: str | Path) -> PictureFolder:
    """Open a PNG or JPEG file, or all below a folder; their names tell who is in them.

    Raises
    ------
    DataError
        If the path does not exist, a folder holds no picture, or a file that is named is none.
    """
    root = Path(path)
    if root.is_file():
        read_picture(root)
        return PictureFolder(f"images of {root.name}", [root])
    files = find_pictures(root)
    if not files:
        expected = ", ".join(PICTURE_SUFFIXES)
        raise DataError(f"{root}: no picture below it. Expected names ending in {expected}")
    return PictureFolder(f"images of {root.name}", files)


def is_picture(path: Path) -> bool:
    """Tell whether a file begins as a PNG or JPEG does."""
    with path.open("rb") as file:
        return file.read(8).startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))


def find_pictures(folder: Path) -> list[Path]:
    """Return the PNG and JPEG files below a folder, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())


def read_picture(path: str | Path) -> NDArray[np.float32]:
    """Read a picture: (3, H, W) float32 z, r, g in 0 to 1, south first as in a FITS image.

    NaN where it is transparent, and in an area of at least `stamps.UNOBSERVED_AREA` pixels of the colour that
    a flux of exactly 0 has: see `stamps.mark_unobserved`.

    Raises
    ------
    DataError
        If the file is damaged, or is not a picture of three colours.
    """
    try:
        with Image.open(path) as picture:
            kind, mode = str(picture.format), picture.mode
            if kind not in _STEP or mode not in MODES:
                raise DataError(
                    f"{path}: a {kind} picture of mode {mode}, expected PNG or JPEG of three colours (RGB)"
                )
            values = np.asarray(picture.convert("RGBA"))[::-1].transpose(2, 0, 1)  # south first
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path}: cannot read the picture ({reason}). Fetch it again") from error
    colours = (values[:3] / np.float32(255)).astype(np.float32)
    unobserved = find_areas(_without_flux(colours, _STEP[kind])[None])[0]
    return np.where(unobserved | (values[3:] == 0), np.float32(np.nan), colours)


def _without_flux(colours: NDArray[np.float32], step: float) -> NDArray[np.bool_]:
    """Tell which pixels (3, H, W) have the colour that a flux of 0 has, or are black in all colours."""
    # the mean over the colours tells the intensity I, and with that the colour of a flux of 0: see `to_rgb`
    mean = colours.mean(axis=0, dtype=np.float64)
    intensity = np.sinh(np.sqrt(STRETCH_Q) * mean) / STRETCH_Q
    black = mean == 0
    of_nothing = STRETCH_M * mean / np.where(black, 1, intensity)
    return (np.abs(colours - of_nothing) <= step) | black
