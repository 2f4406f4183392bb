"""Stream a catalogue through a model: the same table out, with embedding columns.

Blocks of rows are read ahead by one thread while each device encodes; memory does not grow with rows.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from astroclip.data.pixel_catalogue import PixelCatalogue, open_catalogue
from astroclip.data.pixel_part import Paths, are_pixels, list_paths
from astroclip.data.pixels import Modality
from astroclip.errors import UsageError
from astroclip.files import check_outputs
from astroclip.model.embedder import Embedder, load_model
from astroclip.model.hub import SHIPPED
from astroclip.model.inputs import NOTHING, InputOptions, ModelInputs, PixelInputs, open_inputs
from astroclip.predict.embed_shards import check_shard, embed_output, shard_rows
from astroclip.schema import BANDS, EMBED_FLAG, IMAGE_EMBEDDING, SPECTRUM_EMBEDDING, ColumnSpec, EmbedFlag
from astroclip.tables import Table, append_columns, check_append
from astroclip.tables.outputs import output_format

COLUMN = {"image": IMAGE_EMBEDDING, "spectrum": SPECTRUM_EMBEDDING}
MIN_BLOCK = 64  # rows read, encoded and written at a time; a killed run loses at most a few blocks
LOG_EVERY_S = 30.0
Progress = Callable[[int, int], None]

_log = logging.getLogger("astroclip.predict.embed")


class EmbedReport(NamedTuple):
    """What `embed_catalog` did.

    `rows` were written in all, `resumed` of them by an earlier, killed run; of this run's rows,
    `embedded` counts those with an embedding by modality, `flags` those with each `EmbedFlag` bit, and
    `missing_bands` those in which a band is missing, by band.
    """

    output: Path
    rows: int
    resumed: int
    embedded: dict[str, int]
    flags: dict[str, int]
    missing_bands: dict[str, int]
    seconds: float


def embed_catalog(
    catalog: Paths,
    output: str | Path | None = None,
    *,
    model: str | Path | Embedder = SHIPPED,
    images: str | None = None,
    spectra: str | None = None,
    hdu: str | int | None = None,
    options: InputOptions = InputOptions(),  # noqa: B008 (immutable)
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | str = "auto",
    shard: tuple[int | None, int | None] | None = None,
    keep_pixels: bool = False,
    drop: Sequence[str] = (),
    overwrite: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> EmbedReport:
    """Write the catalogue again with the embeddings of its galaxies.

    Every row, column, header card and HDU of the input is kept as it is, in order. Added are
    `IMAGE_EMBEDDING` and `SPECTRUM_EMBEDDING` (float32 vectors, for the modalities that have a source)
    and `EMBED_FLAG` (`astroclip.schema.EmbedFlag`). A row for which there is nothing gets NaN and a flag.
    With `overwrite` they replace those that the catalogue has; all of them, as header and flag speak of one
    model and run.

    Parameters
    ----------
    catalog : str or Path, or several
        A table; or pixels: files and folders of spectra, of images or of pairs, of which a table is made,
        with one row a galaxy (`astroclip.data.pixel_catalogue`).
    output : str or Path, optional
        FITS or Parquet file; by default ``<catalog>-embedded.fits`` beside the catalogue.
    model : str, Path or Embedder
        A model's name or directory, or one that is loaded. By default the small one that ships, which learned
        from mock galaxies.
    images, spectra : str, optional
        Where the pixels are: a vector column's name; a file or a folder, pairs among them; a web service
        (`ls-dr9`, `sparcl`). By default the catalogue's own `IMAGE` and `FLUX` columns, or the spectra of a
        coadd or spec file.
    hdu : str or int, optional
        The table's HDU, where the file has several.
    options : InputOptions
        Tolerances of the sources.
    device, precision : str
        As in `load_model`; with ``auto`` all GPUs of the machine work.
    batch_size : int or str
        Galaxies a forward pass; ``auto`` takes what suits the device.
    shard : (i, N), optional
        Write only the i-th (from 0) of N parts of the rows, to ``<output>.shard-<i>-of-<N>``;
        `merge_embedded` puts them together.
    keep_pixels : bool
        Take the table in a coadd or spec file instead, and copy the whole file with its pixels.
    drop : sequence of str
        Columns that the output is not to have, see `append_columns`.
    overwrite, resume : bool
        Replace an output; go on where a killed run stopped, with the same bytes of data in the end.
    dry_run : bool
        Check all that can be checked beforehand, and write nothing.
    progress : callable, optional
        Called with (rows done, rows in all).

    Raises
    ------
    UsageError, DataError, CheckpointError
        Before anything is written, if the catalogue, the sources, the model and the output do not fit.
    """
    begin = time.monotonic()
    part = check_shard(shard)
    paths = list_paths(catalog)
    made = not keep_pixels and are_pixels(paths)
    output = embed_output(paths[0], output, part)
    output_format(output)
    check_outputs([output], [*paths, images, spectra], overwrite, own=None if made or drop else paths[0])
    embedders = _load(model, device, precision, batch_size)
    with ExitStack() as stack:
        found = open_catalogue(paths, hdu, output.parent, keep_pixels)
        table = stack.enter_context(found.table)
        for pixels in found.pixels.values():
            stack.callback(pixels.close)
        sources = _find_sources(found, embedders[0], images, spectra, options)
        _check_kept(table, sources)
        if dry_run:
            new = _new_columns(embedders[0], sources)
            check_append(table, output, new, drop=drop, overwrite_columns=overwrite)
            return EmbedReport(output, 0, 0, dict.fromkeys(sources, 0), {}, {}, time.monotonic() - begin)
        block_size = max(MIN_BLOCK, 2 * embedders[0].batch_size)
        first, last = shard_rows(table.nrows, part, block_size)
        appender = stack.enter_context(
            append_columns(
                table,
                output,
                _new_columns(embedders[0], sources),
                rows=(first, last),
                shard=part,
                drop=drop,
                overwrite=overwrite,
                overwrite_columns=overwrite,
                resume=resume,
                **_provenance(embedders[0], sources, options, block_size),
            )
        )
        resumed, tally, told = appender.done, Counter[str](), begin
        starts = range(first + resumed, last, block_size)
        for values in _stream(sources, embedders, starts, last):
            appender.write(values)
            tally.update(_count(values[EMBED_FLAG], sources))
            if progress:
                progress(appender.done, last - first)
            if time.monotonic() - told >= LOG_EVERY_S:
                told = time.monotonic()
                _log.info("%s: %d of %d rows", output.name, appender.done, last - first)
    embedded = {name: tally.pop(name, 0) for name in sources}
    missing: dict[str, int] = {}
    if "image" in sources:
        lost = zip(BANDS, sources["image"].missing_bands.tolist(), strict=True)
        missing = {band: rows for band, rows in lost if rows}
    seconds = time.monotonic() - begin
    return EmbedReport(output, last - first, resumed, embedded, dict(tally), missing, seconds)


def _load(model: str | Path | Embedder, device: str, precision: str, batch_size: int | str) -> list[Embedder]:
    """Return one embedder a device: the one given, or the model on every GPU there is."""
    if batch_size != "auto" and not (str(batch_size).isdecimal() and int(batch_size) > 0):
        raise UsageError(f"batch size '{batch_size}': expected a number of galaxies of at least 1, or auto")
    if isinstance(model, Embedder):
        embedders = [model]
    else:
        many = device == "auto" and torch.cuda.device_count() > 1
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if many else [device]
        embedders = [load_model(model, name, precision) for name in devices]
    if batch_size != "auto":
        for embedder in embedders:
            embedder.batch_size = int(batch_size)
    return embedders


def _find_sources(
    catalog: PixelCatalogue,
    embedder: Embedder,
    images: str | None,
    spectra: str | None,
    options: InputOptions,
) -> dict[str, PixelInputs]:
    """Return the sources by modality that the model can use; at least one."""
    sources: dict[str, PixelInputs] = {}
    table, own = catalog
    places: tuple[tuple[Modality, str | None], ...] = (("image", images), ("spectrum", spectra))
    for modality, wanted in places:
        if wanted is not None or getattr(embedder.config, modality):
            embedder.check(modality)
            if wanted is None and modality in own:
                sources[modality] = PixelInputs(own[modality], embedder.image_size, options)
            elif found := open_inputs(table, modality, wanted, embedder.image_size, options):
                sources[modality] = found
    if not sources:
        raise UsageError(
            f"{table.name}: nothing to embed with model '{embedder.name}': no vector column IMAGE or FLUX, "
            "and not a coadd or spec file. Say where the pixels are with --images or --spectra"
        )
    return sources


def _check_kept(table: Table, sources: dict[str, PixelInputs]) -> None:
    """Refuse to leave an embedding of an earlier run beside new ones: one header, one flag speak of both."""
    kept = [column for modality, column in COLUMN.items() if modality not in sources and table.find(column)]
    if kept:
        model = table.header.get("ACMODEL", "unknown")
        raise UsageError(
            f"{table.name}: has {kept[0]} already, of model '{model}'. ACMODEL, ACHASH and {EMBED_FLAG} "
            "speak of all embeddings of a table, so one run has to write them all: say where both images and "
            "spectra are, or take the catalogue without embeddings"
        )


def _new_columns(embedder: Embedder, sources: dict[str, PixelInputs]) -> list[ColumnSpec]:
    """Describe the columns to add."""
    columns = [
        ColumnSpec(
            COLUMN[modality],
            "f4",
            (embedder.width(modality),),
            "",
            f"{modality} embedding, model {embedder.name}",
        )
        for modality in sources
    ]
    return [*columns, ColumnSpec(EMBED_FLAG, "i4", (), "", "bit mask, see astroclip EmbedFlag")]


def _provenance(
    embedder: Embedder, sources: dict[str, PixelInputs], options: InputOptions, block_size: int
) -> dict[str, Any]:
    """Return what the output's header, and the journal of a run that may be resumed, say of this run."""
    settings = {
        "model": embedder.digest,
        "precision": embedder.precision,
        "block_size": block_size,
        "batch_size": embedder.batch_size,
        **options._asdict(),
        **{modality: source.name for modality, source in sources.items()},
    }
    cards = {
        "ACMODEL": (embedder.name, "astroclip model"),
        "ACHASH": (embedder.digest, "SHA-256 of its weights, first 16 digits"),
        "ACPREC": (embedder.precision, "precision of the forward pass"),
    }
    bits = ", ".join(f"{bit.value} {bit.name}" for bit in EmbedFlag)
    history = [
        *(f"astroclip: {COLUMN[modality]} from {source.name}" for modality, source in sources.items()),
        f"astroclip: {EMBED_FLAG} bits: {bits}",
    ]
    return {"settings": settings, "cards": cards, "history": history}


def _stream(
    sources: dict[str, PixelInputs], embedders: list[Embedder], starts: range, last: int
) -> Iterator[dict[str, NDArray]]:
    """Yield the new columns block by block, in order; blocks are read ahead, and dealt out to the devices."""

    def load(start: int) -> dict[str, ModelInputs]:
        stop = min(start + starts.step, last)
        return {modality: source.read(start, stop) for modality, source in sources.items()}

    with ThreadPoolExecutor(1, "load") as loader, ThreadPoolExecutor(len(embedders), "encode") as encoders:
        waiting: deque[Callable[[], dict[str, NDArray]]] = deque()
        try:
            for i, start in enumerate(starts):
                loading = loader.submit(load, start)
                work = partial(_embed_loaded, embedders[i % len(embedders)], loading)
                # one device is served from here: memory that another thread frees is not used again
                waiting.append(work if len(embedders) == 1 else encoders.submit(work).result)
                if len(waiting) > len(embedders) + 1:
                    yield waiting.popleft()()
            while waiting:
                yield waiting.popleft()()
        finally:
            for pool in (loader, encoders):
                pool.shutdown(wait=True, cancel_futures=True)


def _embed_loaded(embedder: Embedder, loading: Future[dict[str, ModelInputs]]) -> dict[str, NDArray]:
    """Wait for a block's inputs, and return its new columns."""
    return _embed_block(embedder, loading.result())


def _embed_block(embedder: Embedder, inputs: dict[str, ModelInputs]) -> dict[str, NDArray]:
    """Return the new columns of a block."""
    values: dict[str, NDArray] = {}
    flag = np.zeros(len(next(iter(inputs.values())).flag), np.int32)
    for modality, (tensor, bits) in inputs.items():
        usable = torch.from_numpy((bits & NOTHING[modality]) == 0)
        values[COLUMN[modality]] = embedder.embed(modality, tensor, usable).numpy()
        flag |= bits
    return {**values, EMBED_FLAG: flag}


def _count(flag: NDArray, sources: dict[str, PixelInputs]) -> Counter[str]:
    """Count the rows with an embedding by modality, and the rows with each flag bit."""
    counts = Counter(
        {str(bit.name): int(np.count_nonzero(flag & bit)) for bit in EmbedFlag if (flag & bit).any()}
    )
    counts.update({m: int(np.count_nonzero((flag & NOTHING[m]) == 0)) for m in sources})
    return counts
