"""The Legacy Survey's cut-out web service: images in g, r, z around positions, kept in a folder.

Service: https://www.legacysurvey.org/viewer, ``/fits-cutout?ra=&dec=&layer=&pixscale=&bands=&size=``. Layers
are ls-dr9, ls-dr9-north, ls-dr9-south, ls-dr10 and more. The answer is a FITS cube (band, H, W) in
nanomaggies; outside of the footprint it is all 0, and where something is wrong it may be a web page. Not
verified against the real service: how it answers when it is asked too often (HTTP 429 and Retry-After are
honoured).
"""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.legacysurvey import read_cutout
from astroclip.data.webservice import (
    GIVE_UP_AFTER,
    Fetched,
    ServiceError,
    WebService,
    make_folder,
)
from astroclip.errors import DataError, UsageError
from astroclip.files import writing, written_beside
from astroclip.schema import BANDS, CUTOUT_SIZE, PIXSCALE

CUTOUT_URL = "https://www.legacysurvey.org/viewer"
URL_VARIABLE = "ASTROCLIP_CUTOUT_URL"  # environment variable that names another service
OUTSIDE_SUFFIX = ".outside"  # of an empty file that stands for a position outside of the footprint


class Cutouts(NamedTuple):
    """What `fetch_cutouts` did, row by row, (n,) each.

    Attributes
    ----------
    folder
        Where the images are: open it with `legacysurvey.open_images`.
    path
        The image of a row, or None.
    status
        `Fetched`: ABSENT is an image that is all 0, outside of the footprint of the layer (it is not asked
        for again), UNUSABLE a web page, or not a whole image in g, r, z of the size asked for (it is),
        NOT_ASKED a position that is not finite or not on the sky.
    message
        What went wrong, "" where nothing did.
    """

    folder: Path
    path: list[Path | None]
    status: NDArray[np.int8]
    message: list[str]

    def counts(self) -> dict[str, int]:
        """Return how many rows ended in each state, by its name, those with rows only."""
        values, numbers = np.unique(self.status, return_counts=True)
        return {Fetched(value).name: int(n) for value, n in zip(values, numbers, strict=True)}


def fetch_cutouts(
    ra: ArrayLike,
    dec: ArrayLike,
    folder: str | Path,
    *,
    layer: str = "ls-dr9",
    size: int = CUTOUT_SIZE,
    pixscale: float = PIXSCALE,
    bands: str = "grz",
    workers: int = 4,
    service: WebService | None = None,
    progress: Callable[[int], object] | None = None,
) -> Cutouts:
    """Fetch an image around each position that is not in the folder yet.

    Images are ``<folder>/<layer>-<bands>-<size>px-<pixscale>/<ra>/cutout_<ra>_<dec>.fits``, positions in
    degrees to 6 decimals: a folder serves several settings, and rows at one position share an image. Each
    is checked before it takes its name; a run that was killed goes on where it stopped. A row that failed
    is asked for again by the next run.

    Parameters
    ----------
    ra, dec
        (n,) ICRS degrees.
    folder
        Made if it does not exist.
    layer, size, pixscale, bands
        As the service names them: survey layer, pixels a side, arcsec/px, bands (with g, r and z).
    workers
        Requests at a time.
    service
        Where and how to ask, by default `cutout_service`; one for many calls keeps their pace.
    progress
        Called with 1 for each row done.

    Raises
    ------
    UsageError
        If `bands` lacks g, r or z, `layer` is not a plain name, or a number is not positive.
    DataError
        If the folder cannot be written.
    """
    _check_settings(layer, bands, min(size, pixscale, workers))
    service = service or cutout_service()
    ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    place = Path(folder) / f"{layer}-{bands}-{size}px-{pixscale:g}"
    result = Cutouts(place, [None] * len(ra), np.full(len(ra), Fetched.NOT_ASKED, np.int8), [""] * len(ra))
    make_folder(place)
    rows_of: dict[Path, list[int]] = {}
    for row in np.flatnonzero(np.isfinite(ra) & (np.abs(dec) <= 90)).tolist():
        rows_of.setdefault(cutout_path(place, ra[row], dec[row]), []).append(row)
    settings = {"layer": layer, "pixscale": pixscale, "bands": bands, "size": size}

    def ask(path: Path) -> bytes:
        _, at_ra, at_dec = path.stem.split("_")
        return service.ask("/fits-cutout", {"ra": at_ra, "dec": at_dec} | settings)

    for path, status, message in _fetch_all(list(rows_of), ask, size, workers):
        for row in rows_of[path]:
            found = status in (Fetched.FETCHED, Fetched.CACHED)
            result.status[row], result.path[row], result.message[row] = (
                status,
                path if found else None,
                message,
            )
            if progress:
                progress(1)
    return result


def cutout_service() -> WebService:
    """Return the service at the environment variable ASTROCLIP_CUTOUT_URL, or the Legacy Survey's own.

    Raises
    ------
    UsageError
        If that is not an address.
    """
    return WebService(os.environ.get(URL_VARIABLE, CUTOUT_URL))


def cutout_path(folder: Path, ra: float, dec: float) -> Path:
    """Return the name of the cut-out at a position in degrees, one sub-folder a degree of right ascension."""
    ra = round(ra % 360, 6) % 360
    return folder / f"{int(ra):03d}" / f"cutout_{ra:.6f}_{dec + 0.0:.6f}.fits"


def _check_settings(layer: str, bands: str, least: float) -> None:
    """Refuse settings that the service could not mean."""
    if not set(BANDS) <= set(bands):
        raise UsageError(f"bands '{bands}': expected g, r and z among them")
    if not re.fullmatch(r"\w[\w.-]*", layer):
        raise UsageError(f"layer '{layer}': expected a name such as ls-dr9")
    if least <= 0:
        raise UsageError("size, pixscale and workers must be positive")


def _fetch_all(
    paths: list[Path], ask: Callable[[Path], bytes], size: int, workers: int
) -> Iterator[tuple[Path, Fetched, str]]:
    """Yield (path, status, message) of each image as it is done; few requests are under way at a time."""
    todo = iter(paths)
    silent = 0
    pending: dict[Future[bytes], Path] = {}
    with ThreadPoolExecutor(workers, "cutouts") as pool:
        while True:
            while len(pending) < workers and (path := next(todo, None)):
                if (known := _known(path)) is not None:
                    yield path, known, ""
                elif silent >= GIVE_UP_AFTER:
                    yield path, Fetched.GIVEN_UP, f"given up after {silent} rows without an answer"
                else:
                    pending[pool.submit(ask, path)] = path
            if not pending:
                return
            for done in wait(pending, return_when=FIRST_COMPLETED).done:
                path = pending.pop(done)
                error = done.exception()
                if isinstance(error, ServiceError):
                    silent = 0 if error.status else silent + 1
                    yield path, Fetched.FAILED, str(error)
                    continue
                silent = 0
                yield path, *_keep(path, done.result(), size)


def _known(path: Path) -> Fetched | None:
    """Return what an earlier run found out about an image."""
    if path.is_file():
        return Fetched.CACHED
    return Fetched.ABSENT if path.with_suffix(OUTSIDE_SUFFIX).is_file() else None


def _keep(path: Path, answer: bytes, size: int) -> tuple[Fetched, str]:
    """Check an answer, and give it its name if it is an image."""
    if not answer.startswith(b"SIMPLE"):
        start = " ".join(answer[:200].decode("utf-8", "replace").split())
        return Fetched.UNUSABLE, f"{path.name}: the service answered '{start[:80]}', not a FITS image"
    with writing(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as part:
        part.write_bytes(answer)
        status, message = _check(part, size)
        if status == Fetched.ABSENT:
            path.with_suffix(OUTSIDE_SUFFIX).touch()
        if status != Fetched.FETCHED:
            part.unlink()
    return status, message.replace(str(part), path.name)


def _check(path: Path, size: int) -> tuple[Fetched, str]:
    """Say whether a file is an image in g, r, z of the right size that shows anything."""
    try:
        cutout = read_cutout(path)
    except DataError as error:
        return Fetched.UNUSABLE, str(error)
    if cutout.image.shape[1:] != (size, size):
        return Fetched.UNUSABLE, f"{path}: {cutout.image.shape[1:]} pixels, asked for {size} a side"
    if not np.isfinite(cutout.image).any():  # pixels that are 0 in all bands were read as NaN
        return Fetched.ABSENT, f"{path}: not in the footprint of the layer"
    return Fetched.FETCHED, ""
