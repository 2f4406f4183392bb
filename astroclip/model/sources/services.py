"""What web services have: cut-outs of the Legacy Survey, spectra of SPARCL.

They are asked block by block as rows are read, and what they answer is kept in the cache folder: a run that
is resumed, or repeated, asks for the rest only. A row that a service refuses, or answers with something
unusable, is unreadable. A service that gives no answer at all, many times in a row, ends the run: what the
network was like is not to be written into a catalogue, and `--resume` goes on when it is better.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.cutouts import cutout_service, fetch_cutouts
from astroclip.data.legacysurvey import How, ImageMatch, read_cutout
from astroclip.data.sparcl import fetch_spectra, sparcl_service, were_several
from astroclip.data.stein import centre_stamps
from astroclip.data.webservice import Fetched
from astroclip.errors import DataError
from astroclip.files import cache_folder
from astroclip.model.sources.block import Block, ModelInputs, SourceOptions, spectrum_inputs
from astroclip.model.sources.coadds import read_matched
from astroclip.schema import CUTOUT_SIZE, PIXSCALE, TARGETID, EmbedFlag
from astroclip.tables import FitsTable

LAYERS = ("ls-dr9", "ls-dr9-north", "ls-dr9-south", "ls-dr10")
SPARCL, SPARCL_RELEASE = "sparcl", "DESI-DR1"


class LayerCutouts:
    """Cut-outs around any position in a layer of the Legacy Survey, called like an `ImageFolder`.

    They are in ``<cache>/cutouts`` (`files.cache_folder`), at 152 pixels a side unless the model's crop is
    larger, so that all models share them.

    Attributes
    ----------
    pixscale
        (n,) 0.262 arcsec/px.
    """

    def __init__(self, layer: str, size: int) -> None:
        self._layer, self._side = layer, max(size, CUTOUT_SIZE)
        self._folder, self._service = cache_folder("cutouts"), cutout_service()

    def match(
        self,
        ids: ArrayLike | None,
        ra: ArrayLike,
        dec: ArrayLike,
        radius_arcsec: float = 1.0,
    ) -> ImageMatch:
        """Fetch the cut-outs of rows; their numbers, for `read`, are those of the rows.

        A position outside of the layer's footprint, or that is not one, has none.

        Raises
        ------
        DataError
            If the service does not answer, or the cache cannot be written.
        """
        self._found = fetch_cutouts(
            ra, dec, self._folder, layer=self._layer, size=self._side, service=self._service
        )
        status = self._found.status
        _check_answered(self._layer, status, self._found.message)
        self.pixscale = np.full(len(status), PIXSCALE)
        there = ~np.isin(status, (Fetched.ABSENT, Fetched.NOT_ASKED))
        how = np.where(there, How.CENTRE, How.NONE).astype(np.int8)
        return ImageMatch(np.where(there, np.arange(len(status)), -1), how, np.zeros(len(status), bool))

    def read(self, i: int, ra: float, dec: float, size: int) -> NDArray[np.float32]:
        """Read the centre (3, size, size) of the cut-out of row `i` of the last match.

        Raises
        ------
        DataError
            If the service refused it, or what it sent is not an image.
        """
        path = self._found.path[i]
        if path is None:
            raise DataError(self._found.message[i])
        return centre_stamps(read_cutout(path).image[None], size)[0]


class SparclCoadds:
    """DESI spectra of a SPARCL data set by TARGETID, kept as coadds in ``<cache>/spectra``.

    Of several spectra of a target SPARCL's primary one is taken; without one the target is ambiguous.
    """

    def __init__(self, table: FitsTable, release: str, options: SourceOptions) -> None:
        target = table.find(TARGETID)
        if not target:
            raise DataError(
                f"{table.name}: spectra of SPARCL are found by TARGETID, and the table has no such column"
            )
        self.name, self.columns, self._options = f"SPARCL {release}", [target], options
        self._release, self._folder, self._service = release, cache_folder("spectra"), sparcl_service()
        # asking for nothing refuses a wrong release or folder before anything is written
        self._index = fetch_spectra([], self._folder, release=release, service=self._service).coadds

    def read(self, block: Block, start: int) -> ModelInputs:
        """Fetch the rows' spectra that the cache lacks, and read all."""
        ids = block[self.columns[0]]
        refused = np.zeros(len(ids), bool)
        missing = np.flatnonzero(self._index.lookup(ids).file < 0)
        if len(missing):
            found = fetch_spectra(
                ids[missing], self._folder, release=self._release, service=self._service, known=self._index
            )
            _check_answered(self.name, found.status, found.message)
            refused[missing] = np.isin(found.status, (Fetched.FAILED, Fetched.UNUSABLE))
            self._index = found.coadds
        match = self._index.lookup(ids)
        # a target that two runs fetched at once is in the cache twice, and the same
        match = match._replace(ambiguous=were_several(self._index, match))
        flux, ivar, flag = read_matched(self._index, match, start)
        flag |= np.where(refused, EmbedFlag.UNREADABLE_SPECTRUM, 0)
        return spectrum_inputs(flux, ivar, None, None, flag, self._options)


def _check_answered(name: str, status: NDArray[np.int8], message: list[str]) -> None:
    """Refuse to go on where the service was given up."""
    if (status == Fetched.GIVEN_UP).any():
        failed = np.flatnonzero(status == Fetched.FAILED)
        reason = message[failed[-1] if len(failed) else int(np.argmax(status == Fetched.GIVEN_UP))]
        raise DataError(f"{name}: the service does not answer ({reason}). Go on later with --resume")
