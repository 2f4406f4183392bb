"""The paired data set: one HDF5 file of images, spectra, redshifts and labels, row by row the same galaxy.

`write_pairs` writes it in blocks and resumes, `open_pairs` reads it and the published pairs,
`split_by_healpix` says which galaxies train. The format is described in `astroclip.data.pairs.pairs_format`.
"""

from astroclip.data.pairs.dataset import Pairs, PairsBlock
from astroclip.data.pairs.pairs_format import Label
from astroclip.data.pairs.reader import is_pairs, open_pairs
from astroclip.data.pairs.split import SplitSettings, split_by_healpix
from astroclip.data.pairs.writer import PairsWriter, write_pairs

__all__ = [
    "Label",
    "Pairs",
    "PairsBlock",
    "PairsWriter",
    "SplitSettings",
    "is_pairs",
    "open_pairs",
    "split_by_healpix",
    "write_pairs",
]
