"""Catalogues: FITS tables and what converts to them, read in blocks, columns added, all else kept.

`open_table` reads, `append_columns` writes atomically and resumes, `merge_shards` joins what jobs wrote,
`write_table` writes a new table.
"""

from astroclip.tables.append import Appender, append_columns
from astroclip.tables.columns import Column
from astroclip.tables.convert import open_table
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.hats import HatsCatalog, is_hats
from astroclip.tables.shards import merge_shards
from astroclip.tables.write import write_table

__all__ = [
    "Appender",
    "Column",
    "FitsTable",
    "HatsCatalog",
    "append_columns",
    "is_hats",
    "merge_shards",
    "open_table",
    "write_table",
]
