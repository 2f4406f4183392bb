"""An approximate index of one column of vectors (HNSW, by usearch), which knows what it was made from.

Two files: ``FILE`` is usearch's own, ``FILE.yaml`` beside it says which table, column and model it is of, and
the checksums of the table and of ``FILE``. Both are only read, nothing in them is executed.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from astroclip.config import Settings, make_settings, read_yaml
from astroclip.errors import DataError
from astroclip.files import check_outputs, written_beside
from astroclip.schema import VERSION
from astroclip.search.scan import BLOCK_BYTES, Counts, Progress, Shortlist, normalise
from astroclip.tables import Table
from astroclip.tables.fingerprint import fingerprint_of

MIN_EFFORT = 128  # candidates that a search of the graph keeps at the least


class FileFingerprint(Settings):
    """A file's size, time of change and SHA-256."""

    size: int
    mtime_ns: int
    sha256: str


class IndexFacts(Settings):
    """What an index is of; the contents of ``FILE.yaml``."""

    format: Literal["astroclip index 1"] = "astroclip index 1"
    program: str = f"astroclip {VERSION}"
    model: str
    model_hash: str
    column: str
    width: int
    catalog: str
    hdu: int | None
    rows: int
    bad: int
    checksum: FileFingerprint
    index: FileFingerprint


class VectorIndex(NamedTuple):
    """An index that was opened: the graph, mapped into memory, and what it is of."""

    graph: Any
    facts: IndexFacts

    def search(self, query: NDArray[np.float64], count: int) -> Shortlist:
        """Return about the `count` rows most similar to a query (D,); all rows count as searched."""
        self.graph.expansion_search = max(MIN_EFFORT, 2 * count)
        found = self.graph.search(query.astype(np.float32), min(count, len(self.graph)))
        rows, distance = np.asarray(found.keys, np.int64), np.asarray(found.distances, np.float32)
        counts = Counts(searched=self.facts.rows - self.facts.bad, bad=self.facts.bad)
        return Shortlist(rows, 1 - distance, counts)


def build_index(
    table: Table,
    column: str,
    path: str | Path,
    *,
    threads: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IndexFacts:
    """Index a column of vectors; rows with a value that is not finite are left out, and counted.

    Vectors are kept in half precision: 2 bytes a number in memory, and on disk.

    Parameters
    ----------
    table, column
        Read once, in blocks.
    path
        Of the index; `path`.yaml is written too. Both appear when they are complete.
    threads
        0: one a core.

    Raises
    ------
    UsageError
        If the file exists without `overwrite`.
    DataError
        If the table has no usable vector, or the index cannot be written.
    """
    from usearch.index import Index

    path = Path(path)
    check_outputs([path, path.with_name(f"{path.name}.yaml")], [table.name], overwrite)
    width = table.column(column).shape[0]
    graph = Index(ndim=width, metric="cos", dtype="f16", enable_key_lookups=False)
    step = max(BLOCK_BYTES // (4 * width), 1)
    for start in range(0, table.nrows, step):
        stop = min(start + step, table.nrows)
        vectors = normalise(table.read([column], start, stop)[column].astype(np.float32, copy=False))
        good = np.isfinite(vectors).all(axis=1)
        graph.add(np.arange(start, stop)[good], vectors[good], threads=threads)
        if progress:
            progress(stop, table.nrows)
    if not len(graph):
        raise DataError(f"{table.name}: no row has a finite {column}; nothing to index")
    return _write(graph, table, column, path)


def open_index(path: str | Path, table: Table, column: str) -> VectorIndex:
    """Open an index of a column of a table, mapped into memory.

    The SHA-256 of a file is computed only where its size or time of change is not that of the indexed one.

    Raises
    ------
    DataError
        If it is the index of another table, column or model, or is damaged; each with what to do.
    """
    from usearch.index import Index

    path = Path(path)
    beside = path.with_name(f"{path.name}.yaml")
    for needed in (path, beside):
        if not needed.is_file():
            raise DataError(
                f"{needed}: no such file. Make the index: astroclip search CATALOG --build-index {path}"
            )
    facts = make_settings(IndexFacts, read_yaml(beside), str(beside))
    again = f"Make it again: astroclip search {table.name} --build-index {path} --overwrite"
    if facts.column != column:
        raise DataError(f"{path}: index of column {facts.column}, not of {column}. {again}")
    model, digest = model_of(table)
    if facts.model_hash != digest:
        raise DataError(
            f"{path}: index of embeddings by model {facts.model} ({facts.model_hash}), but {table.name} was "
            f"embedded by {model} ({digest}). {again}"
        )
    if (facts.hdu, facts.rows) != (table.hdu, table.nrows) or not _is_same_table(table, facts.checksum):
        raise DataError(f"{path}: index of {facts.catalog} as it was, not of {table.name} as it is. {again}")
    if not _is_same(path, facts.index):
        raise DataError(f"{path}: damaged, it is not the file that {beside.name} tells of. {again}")
    graph = Index.restore(path, view=True)
    return VectorIndex(graph, facts)


def model_of(table: Table) -> tuple[str, str]:
    """Return the name and the hash of the model that embedded a table, empty where it does not say."""
    return str(table.header.get("ACMODEL", "")), str(table.header.get("ACHASH", ""))


def _write(graph: Any, table: Table, column: str, path: Path) -> IndexFacts:
    """Write the two files beside their names, and rename them."""
    model, digest = model_of(table)
    with written_beside(path.with_name(f"{path.name}.yaml")) as about, written_beside(path) as index:
        graph.save(index)
        facts = IndexFacts(
            model=model, model_hash=digest, column=column, width=graph.ndim,
            catalog=table.name, hdu=table.hdu, rows=table.nrows, bad=table.nrows - len(graph),
            checksum=FileFingerprint(**table.fingerprint),
            index=FileFingerprint(**fingerprint_of(index, str(path))),
        )  # fmt: skip
        about.write_text(yaml.safe_dump(facts.model_dump(), sort_keys=False), encoding="utf-8")
    return facts


def _is_same_table(table: Table, known: FileFingerprint) -> bool:
    """Tell whether a table's file is the one whose checksum is known."""
    if table.source.is_dir():
        return bool(table.fingerprint["sha256"] == known.sha256)
    return _is_same(table.source, known)


def _is_same(path: Path, known: FileFingerprint) -> bool:
    """Tell whether a file is the one whose checksum is known."""
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (known.size, known.mtime_ns):
        return True
    return stat.st_size == known.size and fingerprint_of(path, str(path))["sha256"] == known.sha256
