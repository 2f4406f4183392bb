"""Where a catalogue's pixels come from: one class a kind of source, each ready for the model block by block.

A source names the catalogue columns it needs (`columns`) and turns a block of them into model inputs
(`read`). A row for which there is nothing is kept: its input is zero and its flag says why. Sources read
files from one thread at a time.
"""

from astroclip.model.inputs import InputOptions, ModelInputs
from astroclip.model.sources.block import Source
from astroclip.model.sources.spectra import spectrum_source
from astroclip.tables import FitsTable
from astroclip.tables.identity import find_who


class BlockInputs:
    """A source that is given blocks of a table, called like `PixelInputs`; ids and positions are checked."""

    def __init__(self, table: FitsTable, source: Source, options: InputOptions) -> None:
        self.name, self._table, self._source = source.name, table, source
        who = find_who(table, options.ra, options.dec)
        self._who = who if set(who.columns) & set(source.columns) else None
        if self._who:
            self._who.check(table)

    def read(self, start: int, stop: int) -> ModelInputs:
        """Return the inputs of rows."""
        columns = [*self._source.columns, *(self._who.columns if self._who else [])]
        block = self._table.read(dict.fromkeys(columns), start, stop)
        if self._who:
            who = self._who.read(block, start)
            block |= {column.name: who.ids[name] for name, column in self._who.ids.items()}
            if self._who.position:
                block |= zip(self._who.position.columns[:2], (who.ra, who.dec), strict=True)
        return self._source.read(block, start)


def spectrum_inputs_of(table: FitsTable, wanted: str | None, options: InputOptions) -> BlockInputs | None:
    """Return the inputs of a table's spectra."""
    source = spectrum_source(table, wanted, options)
    return BlockInputs(table, source, options) if source else None
