"""Where a catalogue's pixels come from: one class a kind of source, each ready for the model block by block.

A source names the catalogue columns it needs (`columns`) and turns a block of them into model inputs
(`read`). A row for which there is nothing is kept: its input is zero and its flag says why. Sources read
files from one thread at a time.
"""

from astroclip.model.inputs import InputOptions, ModelInputs
from astroclip.model.sources.block import Source
from astroclip.model.sources.spectra import spectrum_source
from astroclip.tables import FitsTable


class BlockInputs:
    """A source that is given blocks of a table, called like `PixelInputs`."""

    def __init__(self, table: FitsTable, source: Source) -> None:
        self.name, self._table, self._source = source.name, table, source

    def read(self, start: int, stop: int) -> ModelInputs:
        """Return the inputs of rows."""
        return self._source.read(self._table.read(self._source.columns, start, stop), start)


def spectrum_inputs_of(table: FitsTable, wanted: str | None, options: InputOptions) -> BlockInputs | None:
    """Return the inputs of a table's spectra."""
    source = spectrum_source(table, wanted, options)
    return BlockInputs(table, source) if source else None
