"""Probability densities as an HDF5 file that the package qp reads, and RAIL through it (``qp.read``).

Layout of qp 1.1's interpolated ensemble: ``meta/pdf_name``, ``meta/pdf_version``, ``meta/xvals`` (1, G) and
``data/yvals`` (rows, G). See https://qp.readthedocs.io.
"""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from astroclip.errors import UsageError
from astroclip.files import check_output, written_beside
from astroclip.predict.numbers import NumberPredictor
from astroclip.predict.posterior import Posterior
from astroclip.predict.predictor import Predictor

POINTS = 301
FINE_POINTS = 3001  # of redshifts with a spectrum, which are known to a few thousandths
MAX_REDSHIFT = 3.0  # the grid 0 to 3 in steps of 0.01 is what photometric redshifts are exchanged on


class PdfFile:
    """Writes densities block by block; the file gets its name when it is complete.

    Densities are normalised on the grid: for redshifts 0 to 3 in steps of 0.01 (from images) or 0.001, else
    the range of the reference's labels and half of it on both sides. A row without a prediction has NaN.

    Raises
    ------
    UsageError
        If the task has no single number, or the file exists.
    """

    def __init__(self, path: str | Path, predictor: Predictor, rows: int, overwrite: bool) -> None:
        self.path = Path(path)
        if not isinstance(predictor.fitted, NumberPredictor) or len(predictor.names) != 1:
            raise UsageError("--pdf: densities are written of one number, a redshift or a numeric label")
        check_output(self.path.resolve(), str(path), overwrite)
        low, high = float(predictor.fitted.lowest[0]), float(predictor.fitted.highest[0])
        margin = (high - low) / 2
        ends = (0.0, MAX_REDSHIFT) if predictor.task == "redshift" else (low - margin, high + margin)
        self.grid = np.linspace(*ends, FINE_POINTS if predictor.names == ("Z_PRED",) else POINTS)
        self._rows, self._done, self._open = rows, 0, ExitStack()

    def write(self, posteriors: list[Posterior], usable: NDArray[np.bool_]) -> None:
        """Write the next rows; `posteriors` are those of the `usable` ones."""
        density = np.full((len(usable), len(self.grid)), np.nan, np.float32)
        density[usable] = posteriors[0].density(self.grid)
        self._data[self._done : self._done + len(usable)] = density
        self._done += len(usable)

    def __enter__(self) -> Self:
        beside = self._open.enter_context(written_beside(self.path))
        self._file = self._open.enter_context(h5py.File(beside, "w"))
        self._file["meta/pdf_name"] = np.array([b"interp"])
        self._file["meta/pdf_version"] = np.array([0])
        self._file["meta/xvals"] = self.grid[None]
        self._data = self._file.create_dataset("data/yvals", (self._rows, len(self.grid)), "f4")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)
