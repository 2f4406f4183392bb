"""Catalogues: FITS tables and what converts to them, read in blocks, columns added, all else kept.

`open_catalog` reads, `append_columns` writes atomically and resumes, `merge_shards` joins what jobs wrote,
`write_table` writes a new table.
"""

from astroclip.catalog.append import Appender, append_columns
from astroclip.catalog.columns import Column
from astroclip.catalog.convert import open_catalog
from astroclip.catalog.hats import HatsCatalog, is_hats
from astroclip.catalog.shards import merge_shards
from astroclip.catalog.table import Catalog
from astroclip.catalog.write import write_table

__all__ = [
    "Appender",
    "Catalog",
    "Column",
    "HatsCatalog",
    "append_columns",
    "is_hats",
    "merge_shards",
    "open_catalog",
    "write_table",
]
