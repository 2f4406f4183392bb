"""Layers of the Legacy Survey as sets of images: cut-outs around any position, fetched as they are read."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from astroclip.data.cutouts import cutout_service, fetch_cutouts
from astroclip.data.legacysurvey import read_cutout
from astroclip.data.pixels import BY_POSITION, How, Images, Match, Modality
from astroclip.data.stamps import centre_stamps
from astroclip.data.webservice import Fetched, check_answered
from astroclip.errors import DataError
from astroclip.files import cache_folder
from astroclip.schema import BANDS, CUTOUT_SIZE, PIXSCALE
from astroclip.tables.identity import Who

LAYERS = ("ls-dr9", "ls-dr9-north", "ls-dr9-south", "ls-dr10")


class LayerCutouts:
    """Cut-outs around any position in a layer of the Legacy Survey, fetched as they are read: a `PixelSet`.

    They are in ``<cache>/cutouts`` (`files.cache_folder`), at 152 pixels a side unless larger stamps are
    asked for, so that all models share them. Their numbers mean nothing: a cut-out is found by its position,
    which `read` needs. What the service refused is not asked for again.

    Raises
    ------
    UsageError, DataError
        If the layer or the service's address is none, or the cache folder cannot be written.
    """

    modality: Modality = "image"
    found_by: tuple[str, ...] = (BY_POSITION,)

    def __init__(self, layer: str) -> None:
        self.name = f"cut-outs of {layer}"
        self.problems: list[tuple[Path, str]] = []
        self._layer, self._folder, self._service = layer, cache_folder("cutouts"), cutout_service()
        self._refused: dict[tuple[float, float], str] = {}
        fetch_cutouts([], [], self._folder, layer=layer, service=self._service)  # asks for nothing

    def __len__(self) -> int:
        """Return 0: there are as many as positions are asked for."""
        return 0

    def close(self) -> None:
        """Do nothing: no connection stays open."""

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:  # noqa: ARG002 - centred on the row
        """Each position on the sky has a cut-out; outside of the layer's footprint it shows nothing."""
        n = len(who.ra)
        there = np.isfinite(who.ra) & (np.abs(who.dec) <= 90)
        how = np.where(there, How.CENTRE, How.NONE).astype(np.int8)
        return Match(np.where(there, np.arange(n), -1), how, np.zeros(n, bool))

    def read(
        self,
        rows: ArrayLike,
        ra: ArrayLike | None = None,
        dec: ArrayLike | None = None,
        size: int = CUTOUT_SIZE,
    ) -> Images:
        """Fetch the cut-outs around positions that the cache lacks, and read the centres of all.

        NaN outside of the layer's footprint.

        Raises
        ------
        ServiceDownError
            If the service does not answer.
        DataError
            If it refused one, or what it sent is not an image.
        """
        n = np.size(rows)
        ra, dec = (np.broadcast_to(np.asarray(x, float), n).copy() for x in (ra, dec))
        at = list(zip(ra.tolist(), dec.tolist(), strict=True))
        if known := next((self._refused[one] for one in at if one in self._refused), None):
            raise DataError(known)
        found = fetch_cutouts(
            ra, dec, self._folder, layer=self._layer, size=max(size, CUTOUT_SIZE), service=self._service
        )
        check_answered(self._layer, found.status, found.message)
        wrong = np.flatnonzero(np.isin(found.status, (Fetched.FAILED, Fetched.UNUSABLE)))
        self._refused |= {at[i]: found.message[i] for i in wrong.tolist()}
        if len(wrong):
            raise DataError(found.message[wrong[0]])
        stamps = np.full((n, len(BANDS), size, size), np.nan, np.float32)
        for stamp, path in zip(stamps, found.path, strict=True):
            if path:
                stamp[...] = centre_stamps(read_cutout(path).image[None], size)[0]
        return Images(stamps, np.full(n, PIXSCALE))
