"""The tree of a DESI release: each spectrum in the coadd that SURVEY, PROGRAM and HEALPIX name.

Data model: https://desidatamodel.readthedocs.io,
healpix/SURVEY/PROGRAM/PIXGROUP/PIXNUM/coadd-SURVEY-PROGRAM-PIXNUM.fits, HEALPix nside 64 nested.
Shapes: n rows of a catalogue.
"""

from collections.abc import Callable
from contextlib import closing
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.coadd_sets import OpenCoadds
from astroclip.data.desi import Coadd
from astroclip.data.grid import stack_spectra
from astroclip.data.pixel_rows import PixelRows
from astroclip.data.pixels import How, Match, Spectra
from astroclip.errors import DataError
from astroclip.schema import TARGETID
from astroclip.tables.identity import Who

COADD_KEY = (TARGETID, "SURVEY", "PROGRAM", "HEALPIX")
BY_COADD = ", ".join(COADD_KEY)
TREE = "*/*/*/*/coadd-*.fits*"  # SURVEY/PROGRAM/PIXGROUP/PIXEL


class SpectrumStatus(IntEnum):
    """What became of the spectrum of a catalogue's row."""

    FOUND = 0
    NO_FILE = 1  # the tree has no coadd of the row's SURVEY, PROGRAM and HEALPIX
    UNREADABLE = 2  # the coadd is damaged, or not one
    NOT_IN_FILE = 3  # the coadd has no row of the TARGETID
    NO_GOOD_PIXEL = 4  # nothing was measured


def coadd_path(root: str | Path, survey: str, program: str, healpix: int) -> Path:
    """Return where a release has a coadd: healpix/SURVEY/PROGRAM/<pixel // 100>/<pixel>/coadd-*.fits.

    `root` is the folder that has the folder healpix, or that folder itself. The file is the one ending in
    .fits.gz where only this exists; it need not exist at all.
    """
    top = Path(root) / "healpix"
    top = top if top.is_dir() else Path(root)
    folder = top / survey / program / str(healpix // 100) / str(healpix)
    path = folder / f"coadd-{survey}-{program}-{healpix}.fits"
    zipped = path.with_name(path.name + ".gz")
    return zipped if zipped.is_file() and not path.is_file() else path


class CoaddPlaces(NamedTuple):
    """The coadds of a catalogue's rows: their paths in the order in which rows need them, and each row's."""

    files: list[Path]
    file: NDArray[np.int64]


def find_coadds_of(
    root: str | Path, targetid: ArrayLike, survey: ArrayLike, program: ArrayLike, healpix: ArrayLike
) -> CoaddPlaces:
    """Return which coadd each row of a catalogue is in, whether it exists or not.

    Parameters
    ----------
    root
        See `coadd_path`.
    targetid
        (n,) integers.
    survey, program, healpix
        (n,) or one value; blanks around the names are ignored.
    """
    shape = np.atleast_1d(np.asarray(targetid)).shape
    names = [np.broadcast_to(_strip(np.asarray(values)), shape) for values in (survey, program)]
    pixel = np.broadcast_to(np.asarray(healpix, np.int64), shape)
    key = np.zeros(shape, np.int64)
    for values in (*names, pixel):
        kinds, kind = np.unique(values, return_inverse=True)
        key = key * len(kinds) + kind
    _, first, group = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.argsort(order)  # files in the order of their first rows
    files = [
        coadd_path(root, str(names[0][row]), str(names[1][row]), int(pixel[row])) for row in first[order]
    ]
    return CoaddPlaces(files, rank[group])


def check_coadds(
    root: str | Path,
    targetid: ArrayLike,
    survey: ArrayLike,
    program: ArrayLike,
    healpix: ArrayLike,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.int8], list[tuple[Path, str]]]:
    """Say of each row of a catalogue whether `CoaddTree` finds a spectrum with anything in it.

    Reads the list of targets of each file, and few pixels of each spectrum; `progress` is told (rows done,
    all rows). The other parameters are those of `find_coadds_of`.

    Returns
    -------
    status
        (n,) `SpectrumStatus`.
    problems
        Files that are missing or cannot be read, and why.
    """
    ids = np.atleast_1d(np.asarray(targetid, np.int64))
    empty, done = np.zeros(len(ids), bool), 0

    def check(coadd: Coadd, places: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        nonlocal done
        empty[rows] = ~coadd.is_measured(places)
        done += len(rows)
        if progress:
            progress(done, len(ids))

    with closing(OpenCoadds()) as coadds:
        status, problems = _visit(coadds, find_coadds_of(root, ids, survey, program, healpix), ids, check)
    status[empty] = SpectrumStatus.NO_GOOD_PIXEL
    return status, problems


def _visit(
    coadds: OpenCoadds,
    where: CoaddPlaces,
    ids: NDArray[np.int64],
    use: Callable[[Coadd, NDArray[np.int64], NDArray[np.int64]], None],
) -> tuple[NDArray[np.int8], list[tuple[Path, str]]]:
    """Call ``use(coadd, first rows of targets, rows asked for)`` for each file; return status, problems."""
    status, problems = np.zeros(len(ids), np.int8), []
    by_file = np.argsort(where.file, kind="stable")
    ends = np.searchsorted(where.file[by_file], np.arange(1, len(where.files)))
    for path, rows in zip(where.files, np.split(by_file, ends), strict=False):
        if not path.is_file():
            problems.append((path, f"{path}: no such coadd, of {len(rows)} rows"))
            status[rows] = SpectrumStatus.NO_FILE
            continue
        try:
            coadd = coadds.get(path)
            have, first = np.unique(coadd.targetid, return_index=True)
            place = np.searchsorted(have, ids[rows])
            there = np.append(have, -1)[place] == ids[rows]
            there &= place < len(have)
            use(coadd, first[place[there]], rows[there])
        except DataError as error:
            problems.append((path, str(error)))
            status[rows] = SpectrumStatus.UNREADABLE
            continue
        status[rows[~there]] = SpectrumStatus.NOT_IN_FILE
    return status, problems


class CoaddTree(PixelRows[Spectra]):
    """The spectra of a release, each in the file its SURVEY, PROGRAM and HEALPIX tell, found by TARGETID.

    Nothing is indexed: opening takes no longer for 28 million spectra than for ten. Rows of files get their
    numbers when a row is first found in the file, so that `len` grows. A coadd that cannot be read has a
    number too; reading that says why.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(f"coadds of {root.name}", (BY_COADD,))
        self._root, self._coadds = root, OpenCoadds()
        self._first: dict[Path, int] = {}  # number of each file's first row, in the order of their numbers
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def match(self, who: Who, radius_arcsec: float = 1.0) -> Match:  # noqa: ARG002 - never by position
        """Look for the target of each row in its coadd."""
        n = len(who.ra)
        if not all(name in who.ids for name in COADD_KEY):
            return Match(np.full(n, -1), np.full(n, How.NONE, np.int8), np.zeros(n, bool))
        number = self.find(*(who.ids[name] for name in COADD_KEY))
        return Match(number, np.where(number >= 0, How.ID, How.NONE).astype(np.int8), np.zeros(n, bool))

    def find(
        self, targetid: ArrayLike, survey: ArrayLike, program: ArrayLike, healpix: ArrayLike
    ) -> NDArray[np.int64]:
        """Return the number of each target's spectrum, -1 where its coadd does not exist or lacks it.

        See `find_coadds_of`. What is wrong with files is added to `problems`.
        """
        ids = np.atleast_1d(np.asarray(targetid, np.int64))
        number = np.full(len(ids), -1)

        def note(coadd: Coadd, places: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
            number[rows] = self._number(coadd.path, len(coadd)) + places

        where = find_coadds_of(self._root, ids, survey, program, healpix)
        status, problems = _visit(self._coadds, where, ids, note)
        self.problems += [problem for problem in problems if problem not in self.problems]
        for row in np.flatnonzero(status == SpectrumStatus.UNREADABLE):
            number[row] = self._number(where.files[where.file[row]], 1)
        return number

    def _number(self, path: Path, rows: int) -> int:
        """Return the number of the first row of a file, a new one if it has none yet."""
        if path not in self._first:
            self._first[path] = self._total
            self._total += rows
        return self._first[path]

    def _read(self, rows: NDArray[np.int64], size: int) -> Spectra:  # noqa: ARG002
        files, first = list(self._first), np.array([*self._first.values()], np.int64)
        file = np.searchsorted(first, rows, side="right") - 1
        return stack_spectra(
            self._coadds.get(files[one]).read_targets(rows[file == one] - first[one])
            for one in np.unique(file)
        )

    def close(self) -> None:
        """Close the files that are open."""
        self._coadds.close()


def is_tree(path: Path) -> bool:
    """Tell whether coadds lie where a release has them, by the first one found."""
    for pattern in (f"healpix/{TREE}", TREE):
        for first in path.glob(pattern):
            survey, program, _, pixel = first.parts[-5:-1]
            return pixel.isdecimal() and coadd_path(path, survey, program, int(pixel)) == first
    return False


def _strip(values: NDArray) -> NDArray[np.str_]:
    """Return text without its padding, whether it is bytes or not."""
    return np.char.strip(values.astype(str))
