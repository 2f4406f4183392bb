"""What a batch script starts: ``python -m astroclip.cluster FOLDER``, with the calls on standard input."""

import json
import sys
from pathlib import Path

from astroclip.cluster.job import run_call

run_call(Path(sys.argv[1]), json.load(sys.stdin))
