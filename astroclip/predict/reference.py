"""Reference sets: galaxies with embeddings and known labels, of any table or of a model's own.

A model's own reference is ``reference.safetensors`` in its directory: one array a column (embeddings in
float16), and in its metadata the model's name and hash, and the columns' units as JSON.
"""

import fnmatch
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from astroclip.errors import DataError, UsageError
from astroclip.files import written_beside
from astroclip.model.checkpoint import is_model_directory, model_hash
from astroclip.model.hub import REFERENCE, find_model
from astroclip.schema import IMAGE_EMBEDDING, SENTINELS, SPECTRUM_EMBEDDING
from astroclip.tables import Table, open_table
from astroclip.tables.missing import is_missing, to_floats
from astroclip.tables.where import Where

FORMAT = "astroclip reference 1"
BLOCK = 4096  # rows read at a time
MISSING = int(SENTINELS[-2])  # of an integer or a logical in a model's own reference
EMBEDDINGS = (IMAGE_EMBEDDING, SPECTRUM_EMBEDDING)

Read = Callable[[Sequence[str]], dict[str, NDArray]]


class Reference(NamedTuple):
    """Where a reference set is, and what it has; its columns are read when asked for.

    Attributes
    ----------
    name : str
        As the user calls it.
    nrows : int
    model, digest : str
        Name and hash of the model that embedded it; "" where it does not say.
    shapes : dict of str to tuple of int
        The shape of one row of each column.
    units : dict of str to str
    read : callable
        ``read(names)`` returns whole columns as `Table.read` does, masked where values are missing.
    """

    name: str
    nrows: int
    model: str
    digest: str
    shapes: dict[str, tuple[int, ...]]
    units: dict[str, str]
    read: Read

    def find(self, *names: str) -> str | None:
        """Return the first of some columns that is there, as it is written there; case does not matter."""
        present = {name.upper(): name for name in self.shapes}
        return next((present[name.upper()] for name in names if name.upper() in present), None)

    def column(self, name: str) -> str:
        """Return a column's name as it is written there, or raise `DataError`."""
        found = self.find(name)
        if found is None:
            listed = ", ".join(list(self.shapes)[:30])
            raise DataError(f"{self.name}: no column {name}. It has {listed}")
        return found


def read_reference(source: str | Path) -> Reference:
    """Open a reference set.

    Parameters
    ----------
    source : str or Path
        A table (FITS, Parquet, CSV), a ``.safetensors`` reference, a model directory, or the name of a model
        that was pulled.

    Raises
    ------
    DataError
        If it is not a readable reference, or the model has none of its own.
    CheckpointError
        If there is neither a file nor a model of this name.
    """
    path = Path(source)
    if path.is_file() and path.suffix != ".safetensors":
        return _of_table(path)
    if path.is_file():
        return _of_file(path, str(path))
    if path.suffix and not is_model_directory(path):
        raise DataError(f"{path}: no such file")
    own = find_model(source) / REFERENCE
    if not own.is_file():
        raise DataError(
            f"model '{source}' has no reference set of its own ({own} is missing). Name a table with "
            "embeddings and labels with --reference, or make it: astroclip models reference --help"
        )
    return _of_file(own, f"{source} ({REFERENCE})")


def write_reference(
    catalog: str | Path,
    model: str | Path,
    columns: Sequence[str] | None = None,
    where: str | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Make a table with embeddings and labels the own reference set of a model.

    Rows without an embedding are left out.

    Parameters
    ----------
    catalog
        A table that was embedded with this model.
    model
        The model's directory.
    columns
        Labels to keep, ``*_debiased`` for all of such names; by default all columns of one number a row.
    where
        Only rows that fulfil this, as in ``SPLIT == 1``; see `catalog.where`.

    Returns
    -------
    Path
        The file: embeddings in float16, labels in float32 (integers and redshifts keep their precision).

    Raises
    ------
    UsageError
        If the model has a reference set already.
    DataError
        If the table has no embedding, no row to keep, or was embedded with another model.
    """
    directory = find_model(model)
    path = directory / REFERENCE
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: exists already; replace it with --overwrite")
    table = _of_table(Path(catalog))
    found = [name for name in (table.find(n) for n in EMBEDDINGS) if name]
    if not found:
        raise DataError(f"{table.name}: no column {' or '.join(EMBEDDINGS)}. Embed it first: astroclip embed")
    if table.digest and table.digest != model_hash(directory):
        raise DataError(f"{table.name}: embedded with model {table.model} ({table.digest}), not with {model}")
    labels = list(table.shapes)
    if columns:
        labels = [name for one in columns for name in fnmatch.filter(labels, one) or [table.column(one)]]
    vectors = table.read(found)
    kept = np.any([np.isfinite(values).all(1) for values in vectors.values()], axis=0)
    if where:
        kept &= _fulfilling(Path(catalog), where)
    if not kept.any():
        raise DataError(
            f"{table.name}: no row with an embedding" + (f" fulfils --where '{where}'" if where else "")
        )
    arrays: dict[str, NDArray] = {
        name.upper(): values[kept].astype(np.float16) for name, values in vectors.items()
    }
    for name, values in table.read([n for n in labels if n not in found and table.shapes[n] == ()]).items():
        if np.ma.isMaskedArray(values) and values.dtype.kind in "iub":  # a sentinel: there are no masks here
            arrays[name] = np.where(is_missing(values), MISSING, values.astype(np.int64))[kept]
        elif values.dtype.kind in "iufb":
            wide = values.dtype.kind == "f" and not name.upper().startswith(("Z", "RA", "DEC"))
            arrays[name] = (values.astype(np.float32) if wide else values)[kept]
    said = {"format": FORMAT, "model": table.model, "digest": model_hash(directory)}
    with written_beside(path) as beside:
        save_file(arrays, beside, metadata=said | {"units": json.dumps(table.units)})
    return path


def _fulfilling(path: Path, where: str) -> NDArray[np.bool_]:
    """Return which rows of a table fulfil a condition."""
    with open_table(path) as table:
        condition = Where(where, table)
        starts = range(0, table.nrows, BLOCK)
        blocks = (table.read(condition.columns, at, min(at + BLOCK, table.nrows)) for at in starts)
        return np.concatenate([np.zeros(0, bool), *map(condition.select, blocks)])


def _of_table(path: Path) -> Reference:
    """Describe a table."""
    with open_table(path) as table:
        model, digest = (str(table.header.get(card) or "") for card in ("ACMODEL", "ACHASH"))
        shapes = {name: tuple(column.shape) for name, column in table.columns.items()}
        units = {name: column.unit for name, column in table.columns.items() if column.unit}
        nrows = table.nrows

    def read(names: Sequence[str]) -> dict[str, NDArray]:
        with open_table(path) as table:
            return {name: _whole_column(table, name) for name in names}

    return Reference(str(path), nrows, model, digest, shapes, units, read)


def _whole_column(table: Table, name: str) -> NDArray:
    """Return a column, read block by block; vectors in float32."""
    column = table.column(name)
    blocks = (block[name] for _, block in table.blocks([name], BLOCK))
    if not column.shape:
        parts = list(blocks) or [np.zeros(0, column.dtype)]
        masked = any(np.ma.isMaskedArray(part) for part in parts)
        whole: NDArray = np.ma.concatenate(parts) if masked else np.concatenate(parts)
        return whole
    whole = np.empty((table.nrows, *column.shape), np.float32)
    for i, block in enumerate(blocks):
        whole[i * BLOCK : i * BLOCK + len(block)] = to_floats(block, f"{table.name}: column '{name}'")
    return whole


def _of_file(path: Path, name: str) -> Reference:
    """Describe a model's own reference."""
    try:
        with safe_open(path, "numpy") as file:
            said = file.metadata() or {}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a readable reference set ({error})") from None
    if said.get("format") != FORMAT or len({shape[0] for shape in shapes.values()}) != 1:
        raise DataError(f"{path}: not a reference set of this version ({FORMAT}). Make it again")

    def read(names: Sequence[str]) -> dict[str, NDArray]:
        with safe_open(path, "numpy") as file:
            return {key: file.get_tensor(key) for key in names}

    rows = next(iter(shapes.values()))[0]
    one = {key: shape[1:] for key, shape in shapes.items()}
    return Reference(name, rows, said["model"], said["digest"], one, json.loads(said["units"]), read)
