"""Catalogues: FITS and Arrow tables behind one protocol, read in blocks, columns added, all else kept.

`open_table` reads, `append_columns` writes atomically and resumes, `merge_shards` joins what jobs wrote,
`write_table` writes a new table.
"""

from astroclip.tables.anytable import Column, Table
from astroclip.tables.append import append_columns, check_append
from astroclip.tables.appender import Appender
from astroclip.tables.arrowtable import ArrowTable
from astroclip.tables.fitstable import FitsTable
from astroclip.tables.formats import TableFormat, find_format
from astroclip.tables.hats import is_hats
from astroclip.tables.opening import open_table
from astroclip.tables.shards import merge_shards
from astroclip.tables.write import write_table

__all__ = [
    "Appender",
    "ArrowTable",
    "Column",
    "FitsTable",
    "Table",
    "TableFormat",
    "append_columns",
    "check_append",
    "find_format",
    "is_hats",
    "merge_shards",
    "open_table",
    "write_table",
]
