"""Look-alikes: galaxies of an embedded table most similar to others, within and across modalities.

`search_catalog` finds them, `index_catalog` makes an index for large tables.
"""

from astroclip.search.examples import Example, ExampleKind, parse_example
from astroclip.search.look_alikes import SearchReport, index_catalog, search_catalog

__all__ = ["Example", "ExampleKind", "SearchReport", "index_catalog", "parse_example", "search_catalog"]
