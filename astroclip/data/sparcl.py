"""SPARCL, NOIRLab's spectra service: DESI spectra by TARGETID, kept in a folder of coadd files.

Service: https://astrosparcl.datalab.noirlab.edu; its fields: ``/sparc/sfc/`` there. Two requests, as its own
client `sparclclient` 1.3.1 makes them, but with answers as JSON (the client takes pickles): POST ``/find/``
gives the records of targets, POST ``/spectras/`` their spectra.

What this was written from: the client's source and the published tables of fields. Not verified against
the real service: the names `ivar`, `mask`, `subtype` and `deltachi2` of DESI's data sets in a request for
JSON, and that vectors come as plain lists. Another name is a refusal that says so (HTTP 400).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from astroclip.data.coadd_sets import CoaddFiles
from astroclip.data.desi import COMBINED_ARM, find_coadds
from astroclip.data.fitsfile import create_fits
from astroclip.data.grid import ArmPixels, combine_arms, place_on_grid, stack_spectra
from astroclip.data.pixels import Match
from astroclip.data.webservice import GIVE_UP_AFTER, Fetched, ServiceError, WebService, make_folder
from astroclip.errors import DataError, UsageError
from astroclip.files import written_beside
from astroclip.schema import FLUX_UNIT, IVAR_UNIT, TARGETID, WAVE_UNIT
from astroclip.tables.identity import Who

SPARCL_URL = "https://astrosparcl.datalab.noirlab.edu/api"
URL_VARIABLE = "ASTROCLIP_SPARCL_URL"  # environment variable that names another service
LARGEST_BATCH = 500  # spectra; the service times out on more
MOST_RECORDS = 24_000  # the service's own limit of one answer
SEVERAL = "several"  # in the name of a coadd: spectra that were a choice, see `SparclSpectra.ambiguous`
PIXEL_FIELDS = ("wavelength", "flux", "ivar", "mask")
# field of a record -> column of the Redrock table, and its value where the record has none
REDROCK_FIELDS = {
    "specid": (TARGETID, "i8", -1),
    "redshift": ("Z", "f8", np.nan),
    "redshift_err": ("ZERR", "f8", np.nan),
    "redshift_warning": ("ZWARN", "i8", -1),
    "spectype": ("SPECTYPE", "S6", ""),
    "subtype": ("SUBTYPE", "S20", ""),
    "deltachi2": ("DELTACHI2", "f8", np.nan),
}
FIBERMAP_FIELDS = {
    "specid": (TARGETID, "i8", -1),
    "ra": ("TARGET_RA", "f8", np.nan),
    "dec": ("TARGET_DEC", "f8", np.nan),
}
Record = dict[str, Any]
States = dict[int, tuple[Fetched, bool, str]]  # of a target: what became of it, ambiguous, message


class SparclSpectra(NamedTuple):
    """What `fetch_spectra` did, row by row, (n,) each.

    Attributes
    ----------
    folder
        Where the spectra are: a folder of coadds, redshifts beside them.
    status
        `webservice.Fetched`: ABSENT is a target that the data release does not have (it is asked again),
        UNUSABLE a record without pixels on the DESI grid, NOT_ASKED a TARGETID that is not positive.
    ambiguous
        Whether a target has several spectra of which none, or more than one, is its primary one.
    message
        What went wrong, "" where nothing did.
    coadds
        All the spectra in the folder.
    """

    folder: Path
    status: NDArray[np.int8]
    ambiguous: NDArray[np.bool_]
    message: list[str]
    coadds: CoaddFiles


def fetch_spectra(
    targetid: ArrayLike,
    folder: str | Path,
    *,
    release: str = "DESI-DR1",
    batch: int = 100,
    service: WebService | None = None,
    known: CoaddFiles | None = None,
    progress: Callable[[int], object] | None = None,
) -> SparclSpectra:
    """Fetch the spectra of targets that are not in the folder yet.

    Of several spectra of a target the primary one is taken, else the first by identifier. Each batch becomes
    ``<folder>/<release>/coadd-sparcl_<digest>.fits`` with the combined arm BRZ and ``redrock-...`` beside it,
    as DESI writes them: read them as any other coadds. Those that are ambiguous are in files of their own,
    ``coadd-sparcl_several_<digest>.fits``. A batch that the service cannot answer is halved and asked again.
    A run that was killed goes on where it stopped.

    Parameters
    ----------
    targetid
        (n,) integers.
    folder
        Made if it does not exist.
    release
        SPARCL's name of the data set: DESI-EDR, DESI-DR1.
    batch
        Spectra of one request, at most 500.
    service
        Where and how to ask, by default `sparcl_service`; one for many calls keeps their pace.
    known
        The `coadds` that an earlier call for this folder returned: what is new is added to them.
    progress
        Called with the number of targets done.

    Raises
    ------
    UsageError
        If `batch` is not 1 to 500, or `release` is not one of DESI.
    DataError
        If the folder cannot be written.
    """
    if not 1 <= batch <= LARGEST_BATCH:
        raise UsageError(f"batch of {batch} spectra: expected 1 to {LARGEST_BATCH}")
    if not release.startswith("DESI-") or not release.replace("-", "").isalnum():
        raise UsageError(f"release '{release}': expected DESI-EDR, DESI-DR1 or another of DESI")
    asked = np.atleast_1d(np.asarray(targetid, np.int64))
    service = service or sparcl_service()
    place = Path(folder) / release
    make_folder(place)
    coadds = CoaddFiles(f"spectra of SPARCL {release}", []) if known is None else known
    coadds.update(find_coadds(place))
    match = find_cached(coadds, asked)
    states: States = {
        one: (Fetched.CACHED, several, "")
        for one, row, several in zip(asked.tolist(), match.row, match.ambiguous, strict=True)
        if row >= 0
    }
    todo = np.unique(asked[(asked > 0) & (match.row < 0)])
    batches = [todo[i : i + batch].tolist() for i in range(0, len(todo), batch)]
    for done in _fetch_all(service, release, batches, place):
        states |= done
        if progress:
            progress(len(done))
    rows = [states.get(one, (Fetched.NOT_ASKED, False, "")) for one in asked.tolist()]
    status, ambiguous, message = zip(*rows, strict=True) if rows else ((), (), ())
    coadds.update(find_coadds(place))
    return SparclSpectra(place, np.array(status, np.int8), np.array(ambiguous, bool), list(message), coadds)


def sparcl_service() -> WebService:
    """Return the service at the environment variable ASTROCLIP_SPARCL_URL, or NOIRLab's.

    Raises
    ------
    UsageError
        If that is not an address.
    """
    return WebService(os.environ.get(URL_VARIABLE, SPARCL_URL), retries=1, timeout=120)


def find_cached(coadds: CoaddFiles, targetid: NDArray[np.int64]) -> Match:
    """Find targets in a folder of `fetch_spectra`; ambiguous are those of which SPARCL has several spectra.

    A target that two runs fetched at once is in the folder twice, and the same: that is not ambiguous.
    """
    nowhere = np.full(len(targetid), np.nan)
    match = coadds.match(Who({TARGETID: targetid}, nowhere, nowhere))
    several = np.array([*(path.name.startswith(f"coadd-sparcl_{SEVERAL}") for path in coadds.files), False])
    file = coadds.locate(match.row)[0]  # -1, nothing found, is the last
    return match._replace(ambiguous=several[np.where(match.row >= 0, file, -1)])


def _fetch_all(service: WebService, release: str, batches: list[list[int]], place: Path) -> Iterator[States]:
    """Yield what became of the targets of each batch, halving those that the service cannot answer."""
    silent = 0
    stack = batches[::-1]
    while stack:
        ids = stack.pop()
        if silent >= GIVE_UP_AFTER:
            yield dict.fromkeys(ids, (Fetched.GIVEN_UP, False, f"given up after {silent} failures in a row"))
            continue
        try:
            yield _fetch_batch(service, release, ids, place)
            silent = 0
        except ServiceError as error:
            silent += 1
            refused = error.status is not None and error.status < 500
            if len(ids) > 1 and not refused:
                stack += [ids[len(ids) // 2 :], ids[: len(ids) // 2]]
            else:
                yield dict.fromkeys(ids, (Fetched.FAILED, False, str(error)))


def _fetch_batch(service: WebService, release: str, ids: list[int], place: Path) -> States:
    """Fetch the spectra of some targets and keep them in a file; return what became of each."""
    states: States = dict.fromkeys(ids, (Fetched.ABSENT, False, f"{release} has no spectrum of the target"))
    chosen: dict[str, int] = {}
    for target, records in _find(service, release, ids).items():
        first, several = _choose(records)
        chosen[first] = target
        states[target] = (Fetched.UNUSABLE, several, "the service did not send its spectrum")
    kept: list[tuple[Record, ArmPixels]] = []
    for record in _retrieve(service, release, list(chosen)) if chosen else []:
        if record.get("sparcl_id") not in chosen:
            continue
        target = chosen[record["sparcl_id"]]
        try:
            kept.append((record | {"specid": target}, _read_pixels(record)))
            states[target] = (Fetched.FETCHED, states[target][1], "")
        except DataError as error:
            states[target] = (Fetched.UNUSABLE, states[target][1], str(error))
    for several in (False, True):
        if part := [one for one in kept if states[one[0]["specid"]][1] is several]:
            _write_batch(place, release, part, f"sparcl_{SEVERAL}" if several else "sparcl")
    return states


def _find(service: WebService, release: str, ids: list[int]) -> dict[int, list[Record]]:
    """Return the records of each target that the data release has."""
    body = {
        "outfields": ["sparcl_id", "specid", "specprimary", "data_release"],
        "search": [["specid", *ids], ["data_release", release]],
    }
    found: dict[int, list[Record]] = {}
    for record in _ask(service, "/find/", {"limit": min(MOST_RECORDS, 40 * len(ids))}, body):
        if "sparcl_id" in record and int(record.get("specid", -1)) in ids:
            found.setdefault(int(record["specid"]), []).append(record)
    return found


def _choose(records: Sequence[Record]) -> tuple[str, bool]:
    """Return the identifier of the primary spectrum, else of the first, and whether it was a choice."""
    primary = sorted(str(r["sparcl_id"]) for r in records if r.get("specprimary") in (True, 1))
    names = primary or sorted(str(r["sparcl_id"]) for r in records)
    return names[0], len(names) > 1


def _retrieve(service: WebService, release: str, sparcl_ids: list[str]) -> list[Record]:
    """Return the records with spectra of identifiers, in any order."""
    fields = ["sparcl_id", *PIXEL_FIELDS, *(FIBERMAP_FIELDS | REDROCK_FIELDS)]
    query: dict[str, object] = {"include": ",".join(fields), "format": "json", "dataset_list": release}
    return _ask(service, "/spectras/", query, sparcl_ids)


def _ask(service: WebService, path: str, query: dict[str, object], body: object) -> list[Record]:
    """Ask for records: the answer is a list of them, its first element a header."""
    answer = service.ask(path, query, json.dumps(body).encode())
    try:
        records = json.loads(answer)
    except ValueError as error:
        raise ServiceError(f"{service.url}{path}: the answer is not JSON ({error})") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ServiceError(f"{service.url}{path}: the answer is not a list of records")
    return records[1:]


def _read_pixels(record: Record) -> ArmPixels:
    """Return the pixels of a record on the combined grid, (1, W) each."""
    where = f"SPARCL record {record.get('sparcl_id')}"
    if missing := [name for name in PIXEL_FIELDS[:3] if record.get(name) is None]:
        raise DataError(f"{where}: no {', '.join(missing)}")
    wave, flux, ivar = (np.array(record[name], float) for name in PIXEL_FIELDS[:3])
    mask = np.zeros(flux.shape, np.int32)
    if record.get("mask") is not None:
        mask = np.array(record["mask"]).astype(np.int32)
    if wave.ndim != 1 or {flux.shape, ivar.shape, mask.shape} != {wave.shape}:
        raise DataError(f"{where}: wavelength, flux, ivar and mask differ in length")
    kept, place = place_on_grid(wave, where)
    return ArmPixels(place, flux[None, kept], ivar[None, kept], mask[None, kept])


def _write_batch(place: Path, release: str, kept: list[tuple[Record, ArmPixels]], prefix: str) -> None:
    """Write redshifts, and then their spectra as a coadd beside them, which says that all is there."""
    records = [record for record, _ in kept]
    spectra = stack_spectra(combine_arms(1, [arm]) for _, arm in kept)
    ids = ",".join(str(record["specid"]) for record in records)
    name = f"{prefix}_{hashlib.sha256(ids.encode()).hexdigest()[:16]}.fits"
    cards = [
        {"name": "DATAREL", "value": release, "comment": "SPARCL data set"},
        {"name": "ORIGIN", "value": "SPARCL", "comment": "fetched from this service"},
    ]
    _write_fits(place / f"redrock-{name}", cards, {"REDSHIFTS": _table(records, REDROCK_FIELDS)})
    hdus = {"FIBERMAP": _table(records, FIBERMAP_FIELDS)}
    kinds: dict[str, NDArray] = {
        "WAVELENGTH": spectra.wave,
        "FLUX": spectra.flux,
        "IVAR": spectra.ivar,
        "MASK": spectra.mask,
    }
    hdus |= {f"{COMBINED_ARM}_{kind}": pixels for kind, pixels in kinds.items()}
    _write_fits(place / f"coadd-{name}", cards, hdus)


def _table(records: list[Record], fields: dict[str, tuple[str, str, Any]]) -> NDArray:
    """Return fields of records as a table; what a record does not have is the field's missing value."""
    table = np.zeros(len(records), [(name, dtype) for name, dtype, _ in fields.values()])
    for field, (name, _, missing) in fields.items():
        values = (record.get(field) for record in records)
        table[name] = [missing if value is None else value for value in values]
    return table


def _write_fits(path: Path, cards: list[dict[str, str]], hdus: dict[str, NDArray]) -> None:
    """Write tables and images beside the target, with units and checksums, and rename."""
    units = {"WAVELENGTH": WAVE_UNIT, "FLUX": FLUX_UNIT, "IVAR": IVAR_UNIT}
    with written_beside(path) as beside, create_fits(beside) as fits:
        fits.write(None, header=cards)
        for name, values in hdus.items():
            unit = units.get(name.removeprefix(f"{COMBINED_ARM}_"))
            fits.write(values, extname=name, header={"BUNIT": unit} if unit else None)
            fits[-1].write_checksum()
