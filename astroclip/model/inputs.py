"""Model inputs for the rows of a table, out of images or spectra wherever they are, and what is bad of them.

The walk of a galaxy: who and where a row is (`tables.identity`), which pixels are its own and what they are
(`data.PixelSet`), made ready for the encoder (`prepare_images`, `prepare_spectra`), with bits of `EmbedFlag`.
A row for which there is nothing is kept: its input is zero and its flag says why.

Shapes: n rows, m of them that have pixels, S side of the model's crop in pixels.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from astroclip.data.pixel_sets import open_pixels
from astroclip.data.pixels import BY_POSITION, How, Images, Match, Modality, PixelSet, Spectra
from astroclip.data.stamps import find_missing_bands
from astroclip.data.webservice import ServiceDownError
from astroclip.errors import DataError
from astroclip.model.prepare_images import STRETCHED_SKY, center_crop, prepare_images, resample_pixscale
from astroclip.model.prepare_spectra import prepare_spectra
from astroclip.schema import BANDS, CUTOUT_SIZE, N_WAVE, PIXSCALE, SCALE_TOLERANCE, EmbedFlag
from astroclip.tables import Table
from astroclip.tables.identity import Who, find_who

logger = logging.getLogger(__name__)
NOTHING = {"image": EmbedFlag.NO_IMAGE, "spectrum": EmbedFlag.NO_SPECTRUM}
UNREADABLE = {"image": EmbedFlag.UNREADABLE_IMAGE, "spectrum": EmbedFlag.UNREADABLE_SPECTRUM}
AMBIGUOUS = {"image": EmbedFlag.AMBIGUOUS_IMAGE, "spectrum": EmbedFlag.AMBIGUOUS_SPECTRUM}
_NOBODY = Who({}, np.zeros(0), np.zeros(0))


class InputOptions(NamedTuple):
    """How pixels are found, and how good they have to be.

    Attributes
    ----------
    max_bad
        Fraction of bad pixels above which a row is flagged; of an image, in any band.
    radius_arcsec
        How far a cut-out's centre, or a spectrum's position, may be from the row's.
    resample
        Whether to resample images at another pixel scale to 0.262 arcsec/px, rather than flag them.
    pixscale
        Pixel scale of images that do not tell theirs, arcsec/px.
    ra, dec
        Position columns of the table; by default those of the usual names.
    """

    max_bad: float = 0.1
    radius_arcsec: float = 1.0
    resample: bool = False
    pixscale: float = PIXSCALE
    ra: str | None = None
    dec: str | None = None


class ModelInputs(NamedTuple):
    """Inputs of a model for a block of rows.

    Attributes
    ----------
    inputs
        (n, 3, S, S) in [0, 1] for images, (n, 7781) flux for spectra; 0 where there is nothing.
    flag
        (n,) bits of `EmbedFlag`.
    """

    inputs: Tensor
    flag: NDArray[np.int32]


class PixelInputs:
    """Inputs of a model for the rows of a table, or for all pixels of a set; reads from one thread at a time.

    Parameters
    ----------
    pixels
        What `data.open_pixels` found.
    size
        Side of the model's crop in pixels.
    options
    table
        Opened; its rows find their pixels. Without a table the rows are those of `pixels`.

    Attributes
    ----------
    name
        What provenance calls the source of the pixels.
    missing_bands
        (3,) number of rows read so far in which the band g, r, z is missing, see `EmbedFlag.MISSING_BAND`.

    Raises
    ------
    DataError
        If the table has none of the columns that the pixels are found by, or their index is damaged.
    """

    def __init__(
        self,
        pixels: PixelSet,
        size: int,
        options: InputOptions = InputOptions(),  # noqa: B008 (immutable)
        table: Table | None = None,
    ) -> None:
        self.name = pixels.name
        self.missing_bands = np.zeros(len(BANDS), np.int64)
        self._pixels, self._size, self._options, self._table = pixels, size, options, table
        self._who = None
        if table is not None and pixels.found_by:
            self._who = find_who(table, options.ra, options.dec)
        if table is not None and self._who and not any(self._has(key) for key in pixels.found_by):
            raise DataError(
                f"{table.name}: {pixels.name} are found by {_or(pixels.found_by)}, and the table has "
                f"none of these columns (it has {', '.join(list(table.columns)[:20])})"
            )
        if table is not None and self._who:
            self._who.check(table)
        pixels.match(_NOBODY, 0)  # a damaged index is refused before anything is written
        for _, reason in pixels.problems:
            logger.warning("%s", reason)

    def read(self, start: int, stop: int) -> ModelInputs:
        """Return the inputs of rows `start` to `stop` - 1; each file is opened once."""
        who, match = self._match(start, stop)
        if self._pixels.modality == "image":
            return self._read_images(who, match, start)
        return self._read_spectra(match, start)

    def read_spectra(self, start: int, stop: int) -> list[tuple[NDArray[np.int64], Spectra]]:
        """Return the spectra of rows `start` to `stop` - 1 as they are: places from 0, and their spectra.

        Rows without a spectrum, or with one that cannot be read, are in none of the pairs.
        """
        read: list[tuple[NDArray[np.int64], Spectra]] = []

        def take(rows: NDArray[np.int64]) -> None:
            found = self._pixels.read(match.row[rows])
            if not isinstance(found, Spectra):
                raise TypeError(f"{self._pixels.name}: no spectra")
            read.append((rows, found))

        _, match = self._match(start, stop)
        self._read(match, start, take)
        return read

    def _has(self, key: str) -> bool:
        """Tell whether the table has the columns of a way to find pixels."""
        if self._who is None or key == BY_POSITION:
            return self._who is not None and self._who.has_position
        return all(name in self._who.ids for name in key.split(", "))

    def _match(self, start: int, stop: int) -> tuple[Who, Match]:
        """Say who the rows are, and find the pixels of each."""
        if self._table is None or self._who is None:
            nowhere, n = np.full(stop - start, np.nan), stop - start
            match = Match(np.arange(start, stop), np.full(n, How.ROW, np.int8), np.zeros(n, bool))
            return Who({}, nowhere, nowhere), match
        who = self._who.read(self._table.read(self._who.columns, start, stop), start)
        return who, self._pixels.match(who, self._options.radius_arcsec)

    def _read(self, match: Match, start: int, take: Callable[[NDArray[np.int64]], None]) -> NDArray[np.int32]:
        """Have the pixels of all rows that have some taken, and return what is known of each row by then."""
        modality = self._pixels.modality
        flag = np.where(match.ambiguous, AMBIGUOUS[modality], 0).astype(np.int32)
        found = np.flatnonzero(match.row >= 0)
        found = found[np.argsort(match.row[found], kind="stable")]
        flag[find_unreadable(take, found, start)] |= UNREADABLE[modality]
        return flag

    def _read_images(self, who: Who, match: Match, start: int) -> ModelInputs:
        images = np.full((len(match.row), len(BANDS), self._size, self._size), np.nan, np.float32)
        scaled = np.zeros(len(match.row), np.int32)
        stretched = False

        def take(rows: NDArray[np.int64]) -> None:
            nonlocal stretched
            images[rows], scaled[rows], stretched = self._stamps(match.row[rows], who.ra[rows], who.dec[rows])

        flag = self._read(match, start, take)
        flag |= scaled | pad_with_sky(images, STRETCHED_SKY if stretched else 0.0)
        inputs, missing = image_inputs(images, flag, self._options.max_bad, stretched)
        self.missing_bands += missing.sum(axis=0)
        return inputs

    def _stamps(
        self, numbers: NDArray[np.int64], ra: NDArray, dec: NDArray
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], bool]:
        """Return stamps (m, 3, S, S), resampled if asked for, their flag bits, and `Images.stretched`."""
        found = self._read_stamps(numbers, ra, dec, self._size)
        scale = np.where(np.isfinite(found.pixscale), found.pixscale, self._options.pixscale)
        other = np.abs(scale / PIXSCALE - 1) > SCALE_TOLERANCE
        if not (self._options.resample and other.any()):
            flag = np.where(other, EmbedFlag.WRONG_PIXSCALE, 0).astype(np.int32)
            return found.flux, flag, found.stretched
        stamps, flag = found.flux.copy(), np.zeros(len(numbers), np.int32)
        for one in np.unique(scale[other]):
            rows = np.flatnonzero(scale == one)
            part = found.take(rows)
            if one < PIXSCALE:  # more of the image's pixels are needed
                larger = int(np.ceil(self._size * PIXSCALE / one))
                part = self._read_stamps(numbers[rows], ra[rows], dec[rows], larger)
            stamps[rows], flag[rows] = _to_survey_scale(part, float(one), self._size)
        return stamps, flag, found.stretched

    def _read_stamps(self, numbers: NDArray[np.int64], ra: NDArray, dec: NDArray, size: int) -> Images:
        found = self._pixels.read(numbers, ra, dec, size)
        if not isinstance(found, Images):
            raise TypeError(f"{self._pixels.name}: no images")
        return found

    def _read_spectra(self, match: Match, start: int) -> ModelInputs:
        n = len(match.row)
        inputs, bad, covered = torch.zeros(n, N_WAVE), np.ones(n), np.zeros(n)

        def take(rows: NDArray[np.int64]) -> None:
            found = self._pixels.read(match.row[rows])
            if not isinstance(found, Spectra):
                raise TypeError(f"{self._pixels.name}: no spectra")
            prepared = prepare_spectra(found.flux, found.ivar, found.mask, found.wave)
            inputs[torch.from_numpy(rows)] = prepared.flux
            bad[rows], covered[rows] = prepared.bad_fraction.numpy(), prepared.coverage.numpy()

        flag = self._read(match, start, take)
        flag |= np.where(bad > self._options.max_bad, EmbedFlag.BAD_SPECTRUM_PIXELS, 0)
        flag |= np.where(covered < 1, EmbedFlag.PARTIAL_COVERAGE, 0)
        flag[bad >= 1] &= ~(EmbedFlag.BAD_SPECTRUM_PIXELS | EmbedFlag.PARTIAL_COVERAGE)
        flag |= np.where(bad >= 1, EmbedFlag.NO_SPECTRUM, 0)
        return ModelInputs(inputs, flag)


def open_inputs(
    table: Table,
    modality: Modality,
    wanted: str | None = None,
    size: int = CUTOUT_SIZE,
    options: InputOptions = InputOptions(),  # noqa: B008 (immutable)
) -> PixelInputs | None:
    """Find the pixels of a table's rows, for model inputs; None if it has none and none are named.

    Parameters
    ----------
    table
    modality
        ``image`` or ``spectrum``.
    wanted
        Where they are: see `data.open_pixels`.
    size, options
        See `PixelInputs`.

    Raises
    ------
    UsageError, DataError
        If what is wanted does not exist, or is not such pixels.
    """
    pixels = open_pixels(wanted, table, modality)
    return None if pixels is None else PixelInputs(pixels, size, options, table)


def image_inputs(
    images: NDArray[np.float32], flag: NDArray[np.int32], max_bad: float, stretched: bool = False
) -> tuple[ModelInputs, NDArray[np.bool_]]:
    """Prepare crops (n, 3, S, S) for the encoder, and say what is bad about them.

    Parameters
    ----------
    images
        g, r, z in nanomaggies, NaN where nothing was observed; or stretched colours z, r, g.
    flag
        (n,) bits that are known already; changed in place.
    max_bad
        Fraction of bad pixels of any band above which an image is flagged.
    stretched
        See `prepare_images`.

    Returns
    -------
    inputs, missing
        The model's inputs, and which bands g, r, z of each image are missing, (n, 3).
    """
    prepared = prepare_images(images, images.shape[-1], stretched=stretched)
    bad = prepared.bad_by_band.numpy()
    nothing = (bad >= 1).all(axis=1)
    missing = np.zeros(bad.shape, bool)
    uneven = np.flatnonzero(bad.max(axis=1, initial=0) > bad.min(axis=1, initial=1))
    missing[uneven] = find_missing_bands(images[uneven])
    flag |= np.where((bad > max_bad).any(axis=1), EmbedFlag.BAD_IMAGE_PIXELS, 0)
    flag |= np.where(missing.any(axis=1), EmbedFlag.MISSING_BAND, 0)
    flag |= EmbedFlag.STRETCHED_IMAGE if stretched else 0
    flag[nothing] &= ~(EmbedFlag.BAD_IMAGE_PIXELS | EmbedFlag.IMAGE_PADDED | EmbedFlag.STRETCHED_IMAGE)
    flag[nothing] |= EmbedFlag.NO_IMAGE
    return ModelInputs(prepared.rgb, flag), missing[:, ::-1] if stretched else missing


def _to_survey_scale(
    images: Images, pixscale: float, size: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return images of one pixel scale at the survey's, as stamps of a size, and their flag bits."""
    sky, stamps = STRETCHED_SKY if images.stretched else 0.0, images.flux.copy()
    flag = pad_with_sky(stamps, sky)  # before what lies outside of the image spoils its edge
    resampled = resample_pixscale(torch.from_numpy(stamps), pixscale)
    if images.stretched:  # colours are kept, not flux
        resampled *= (pixscale / PIXSCALE) ** 2
    return center_crop(resampled, size, sky).numpy(), flag


def pad_with_sky(stamps: NDArray[np.float32], sky: float = 0.0) -> NDArray[np.int32]:
    """Set what lies outside of images, rows and columns of NaN at the edges, to sky; return their flag bits.

    Parameters
    ----------
    stamps
        (m, 3, S, S); changed in place.
    sky
        The value of sky.
    """
    seen = np.logical_or.reduce(np.isfinite(stamps), axis=1)
    flag = np.zeros(len(stamps), np.int32)
    whole = seen.all(axis=(1, 2)) | ~seen.any(axis=(1, 2))
    for i in np.flatnonzero(~whole):
        rows, columns = np.flatnonzero(seen[i].any(axis=1)), np.flatnonzero(seen[i].any(axis=0))
        outside = np.ones_like(seen[i])
        outside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = False
        stamps[i][:, outside] = sky
        flag[i] = EmbedFlag.IMAGE_PADDED if outside.any() else 0
    return flag


def find_unreadable(
    read: Callable[[NDArray[np.int64]], None], rows: NDArray[np.int64], start: int
) -> NDArray[np.int64]:
    """Read rows together; where that fails, by halves, so that the rows returned alone cannot be read."""
    if not len(rows):
        return rows
    try:
        read(rows)
    except ServiceDownError:
        raise
    except DataError as error:
        if len(rows) > 1:
            return np.concatenate([find_unreadable(read, half, start) for half in np.array_split(rows, 2)])
        logger.info("row %d: %s", start + rows[0], error)
        return rows
    return rows[:0]


def _or(ways: tuple[str, ...]) -> str:
    """Return ways to find something as ``A``, ``A or by B``, ``A, by B or by C``."""
    return " or by ".join([", by ".join(ways[:-1]), ways[-1]]) if len(ways) > 1 else ways[0]
