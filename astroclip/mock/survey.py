"""Make a mock survey: draw the sky, let workers write its files, put the folder in place when complete."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError

EXTRA = ("galsim", "kcorrect", "speclite")
MIN_GALAXIES = 50
SPECTRUM_BYTES = 455_000  # of one row in a coadd and a Redrock file
IMAGE_BYTES = 278_000
OTHER_BYTES = 12_000  # catalogues, votes, posteriors

Table = NDArray[np.void]
Task = tuple[str, NDArray[np.int64]]
Report = Callable[[int, int], None]
_job: tuple[Path, Table, int] | None = None  # of this process: folder, truth, seed


def make_mock(
    out: str | Path,
    galaxies: int,
    seed: int = 0,
    *,
    disturbed: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    report: Report | None = None,
) -> dict[str, int]:
    """Write a mock survey into the folder `out`: the files that DESI and the Legacy Survey would publish.

    Parameters
    ----------
    out : path
        Folder to make. It appears only when complete.
    galaxies : int
        DESI targets, at least 50. Sky fibres, stuck positioners, repeated observations and galaxies with an
        image only come on top (8.5 %).
    seed : int
        The files depend on `galaxies` and `seed` only, bit for bit, not on `workers`.
    disturbed : bool
        Draw what real spectra have besides noise, and quasars, stars and blank fibres, see `mock.disturb`.
    workers : int
        Processes. More than one start a fresh Python each: guard the call in a script with
        ``if __name__ == "__main__":``.
    overwrite : bool
        Replace a mock that is already there. A folder that is not a mock is never replaced.
    report : callable, optional
        Called with (done, total): rows written and to write.

    Returns
    -------
    dict
        Rows by kind of file: spectra, catalogue, images, votes, properties, sweep.

    Raises
    ------
    UsageError
        If the extra ``mock`` is not installed, `out` exists, or a number makes no sense.
    DataError
        If the disk is too small or cannot be written, or a worker dies.
    """
    out = Path(out).absolute()
    _check(out, galaxies, seed, workers, overwrite)
    from astroclip.mock import cutout_files, desi_files, label_files, sweep_files
    from astroclip.mock import scene as sky

    table = sky.make_sky(galaxies, seed, disturbed=disturbed)
    folder = _make_folder(out)
    try:
        tasks = _plan(table)
        done, total = 0, sum(len(rows) for _, rows in tasks)
        for rows in _run(tasks, folder, table, seed, workers):
            done += rows
            if report:
                report(done, total)
        desi_files.write_zcatalog(folder / "zcatalog" / "zall-pix-mock.fits", table)
        counts = {
            "spectra": int(table["HAS_SPECTRUM"].sum()),
            "catalogue": int((table["KIND"] != "image_only").sum()),
            "images": len(cutout_files.imaged_rows(table)),
            "sweep": sweep_files.write_sweeps(folder, table, seed),
            "properties": label_files.write_properties(folder / label_files.PROVABGS_NAME, table, seed),
            "votes": label_files.write_votes(folder / label_files.VOTES_NAME, table, seed),
        }
        label_files.write_truth(folder / "truth.fits", table, seed)
        _put_in_place(folder, out)
    except BrokenProcessPool as error:
        raise DataError(f"{out}: a worker died, out of memory perhaps. Use fewer workers") from error
    except OSError as error:
        raise DataError(
            f"{out}: cannot write the mock ({error}). Choose another folder or free the disk"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts


def _check(out: Path, galaxies: int, seed: int, workers: int, overwrite: bool) -> None:
    """Refuse what cannot work, before anything is written."""
    missing = [name for name in EXTRA if find_spec(name) is None]
    if missing:
        raise UsageError(f"the mock survey needs {', '.join(missing)}: pip install 'astroclip[mock]'")
    if galaxies < MIN_GALAXIES or workers < 1 or seed < 0:
        raise UsageError(
            f"galaxies = {galaxies}, workers = {workers}, seed = {seed}: expected at least {MIN_GALAXIES}"
            " galaxies, one worker and a seed of zero or more"
        )
    if out.exists():
        if not overwrite:
            raise UsageError(f"{out} exists. Give another folder, or --overwrite to replace it")
        if not (out / "truth.fits").is_file():
            raise UsageError(f"{out} is not a mock survey (it has no truth.fits) and is not replaced")
    needed = int(1.1 * galaxies * (SPECTRUM_BYTES + IMAGE_BYTES + OTHER_BYTES))
    parent = next(p for p in out.parents if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise DataError(
            f"{out}: the mock needs {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free"
        )


def _make_folder(out: Path) -> Path:
    """Make the hidden folder beside `out` that is renamed at the end."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        folder.chmod(0o755)
    except OSError as error:
        raise DataError(f"{out.parent}: cannot write there ({error})") from error
    return folder


def _put_in_place(folder: Path, out: Path) -> None:
    """Rename the complete folder; what it replaces is removed only afterwards."""
    old = folder.with_name(folder.name + ".old")
    if out.exists():
        out.rename(old)
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _plan(table: Table) -> list[Task]:
    """Return the tasks: one for each image file and each HEALPix file, and the rows they write."""
    from astroclip.mock import cutout_files

    imaged = cutout_files.imaged_rows(table)
    step = cutout_files.ROWS_PER_FILE
    tasks: list[Task] = [("images", imaged[k : k + step]) for k in range(0, len(imaged), step)]
    rows = np.flatnonzero(table["HAS_SPECTRUM"])
    order = rows[
        np.lexsort((table["TARGETID"][rows], *(table[k][rows] for k in ("HEALPIX", "PROGRAM", "SURVEY"))))
    ]
    same = table[order][["SURVEY", "PROGRAM", "HEALPIX"]]
    groups = np.split(order, np.flatnonzero(same[1:] != same[:-1]) + 1)
    return tasks + [("spectra", group) for group in groups]


def _run(tasks: list[Task], folder: Path, table: Table, seed: int, workers: int) -> Iterator[int]:
    """Run all tasks here or in processes; yield the rows of each as it ends."""
    if workers == 1:
        _start(folder, table, seed)
        yield from map(_work, tasks)
        return
    # Spawned, not forked: the caller may have threads.
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, (folder, table, seed)) as pool:
        pending: set[Future[int]] = {pool.submit(_work, task) for task in tasks}
        try:
            while pending:
                ended, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in ended:
                    yield future.result()
        finally:
            for future in pending:
                future.cancel()


def _start(folder: Path, table: Table, seed: int) -> None:
    global _job  # noqa: PLW0603 - the truth is sent once to a process, not with each task
    _job = (folder, table, seed)


def _work(task: Task) -> int:
    from astroclip.mock import cutout_files, desi_files

    if _job is None:
        raise RuntimeError("a worker was not started")
    (folder, table, seed), (kind, rows) = _job, task
    if kind == "images":
        return cutout_files.write_images(folder, int(table["IMAGE_INDEX"][rows[0]]), table, seed)
    desi_files.write_pixel(folder, rows, table, seed)
    return len(rows)
