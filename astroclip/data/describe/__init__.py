"""What a file is, what it holds and what is wrong with it; a sample of it to draw.

`inspect_file` tells, `read_sample` reads what `astroclip.plots` draws.
"""

from astroclip.data.describe.describe_file import inspect_file
from astroclip.data.describe.file_report import ColumnInfo, FileReport
from astroclip.data.describe.sample import GalaxySample, read_sample

__all__ = ["ColumnInfo", "FileReport", "GalaxySample", "inspect_file", "read_sample"]
