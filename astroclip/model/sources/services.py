"""What web services have: cut-outs of the Legacy Survey, spectra of SPARCL.

They are asked block by block as rows are read, and what they answer is kept in the cache folder: a run that
is resumed, or repeated, asks for the rest only. A row that a service refuses, or answers with something
unusable, is unreadable. A service that gives no answer at all, many times in a row, ends the run: what the
network was like is not to be written into a catalogue, and `--resume` goes on when it is better.
"""

import numpy as np

from astroclip.data.sparcl import fetch_spectra, sparcl_service, were_several
from astroclip.data.webservice import Fetched, check_answered
from astroclip.errors import DataError
from astroclip.files import cache_folder
from astroclip.model.inputs import InputOptions, ModelInputs
from astroclip.model.sources.block import Block, spectrum_inputs
from astroclip.model.sources.coadds import read_matched
from astroclip.schema import TARGETID, EmbedFlag
from astroclip.tables import FitsTable

SPARCL, SPARCL_RELEASE = "sparcl", "DESI-DR1"


class SparclCoadds:
    """DESI spectra of a SPARCL data set by TARGETID, kept as coadds in ``<cache>/spectra``.

    Of several spectra of a target SPARCL's primary one is taken; without one the target is ambiguous.
    """

    def __init__(self, table: FitsTable, release: str, options: InputOptions) -> None:
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
            check_answered(self.name, found.status, found.message)
            refused[missing] = np.isin(found.status, (Fetched.FAILED, Fetched.UNUSABLE))
            self._index = found.coadds
        match = self._index.lookup(ids)
        # a target that two runs fetched at once is in the cache twice, and the same
        match = match._replace(ambiguous=were_several(self._index, match))
        flux, ivar, flag = read_matched(self._index, match, start)
        flag |= np.where(refused, EmbedFlag.UNREADABLE_SPECTRUM, 0)
        return spectrum_inputs(flux, ivar, None, None, flag, self._options)
