"""Where a catalogue's pixels come from: one class a kind of source, each ready for the model block by block.

A source names the catalogue columns it needs (`columns`) and turns a block of them into model inputs
(`read`). A row for which there is nothing is kept: its input is zero and its flag says why. Sources read
files from one thread at a time.
"""

from astroclip.model.sources.block import ModelInputs, Source, SourceOptions
from astroclip.model.sources.images import image_source
from astroclip.model.sources.spectra import spectrum_source

__all__ = ["ModelInputs", "Source", "SourceOptions", "image_source", "spectrum_source"]
