"""Spectra of SPARCL as a set: asked for as rows need them, kept as coadds in ``<cache>/spectra``.

A run that is resumed, or repeated, asks for the rest only. A target that the service refuses, or answers with
something unusable, is unreadable. A service that gives no answer at all, many times in a row, ends the run:
what the network was like is not to be written into a catalogue, and `--resume` goes on when it is better.
"""

import numpy as np
from numpy.typing import NDArray

from astroclip.data.pixel_rows import PixelRows
from astroclip.data.pixels import BY_TARGETID, Match, Spectra
from astroclip.data.sparcl import fetch_spectra, find_cached, sparcl_service
from astroclip.data.webservice import Fetched, check_answered
from astroclip.errors import DataError
from astroclip.files import cache_folder
from astroclip.schema import TARGETID
from astroclip.tables.identity import Who

SPARCL, SPARCL_RELEASE = "sparcl", "DESI-DR1"
_REFUSED = 1 << 60  # numbers from here on are those of targets that the service refused


class SparclService(PixelRows[Spectra]):
    """DESI spectra of a SPARCL data set, found by TARGETID.

    Of several spectra of a target SPARCL's primary one is taken; without one the target is ambiguous.

    Raises
    ------
    UsageError
        If there can be no such data set of DESI.
    DataError
        If the cache folder cannot be written.
    """

    def __init__(self, release: str = SPARCL_RELEASE) -> None:
        super().__init__(f"spectra of SPARCL {release}", (BY_TARGETID,))
        self._release, self._folder, self._service = release, cache_folder("spectra"), sparcl_service()
        # asking for nothing refuses a wrong release or folder before anything is written
        self._coadds = fetch_spectra([], self._folder, release=release, service=self._service).coadds
        self._refused: dict[int, str] = {}  # what the service said, by number

    def __len__(self) -> int:
        return max(self._refused, default=len(self._coadds) - 1) + 1

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:  # noqa: ARG002 - never by position
        """Fetch the rows' spectra that the cache lacks, and find all.

        Raises
        ------
        DataError
            If the service does not answer, or the cache cannot be written.
        """
        ids = who.ids.get(TARGETID, np.full(len(who.ra), -1, np.int64))
        match = find_cached(self._coadds, ids)
        missing = np.flatnonzero(match.row < 0)
        if not len(missing):
            return match
        found = fetch_spectra(
            ids[missing], self._folder, release=self._release, service=self._service, known=self._coadds
        )
        check_answered(self.name, found.status, found.message)
        match = find_cached(self._coadds, ids)
        for row, status, message in zip(missing, found.status, found.message, strict=True):
            if status in (Fetched.FAILED, Fetched.UNUSABLE):
                match.row[row] = _REFUSED + len(self._refused)
                self._refused[int(match.row[row])] = message
        return match

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        if rows.size and rows[-1] >= _REFUSED:
            raise DataError(self._refused[int(rows[-1])])
        return self._coadds.read(rows)

    def close(self) -> None:
        """Close the files that are open."""
        self._coadds.close()
