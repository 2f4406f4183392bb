"""A builder of HATS catalogues: Parquet files by HEALPix pixel, as LSDB writes them."""

from pathlib import Path
from typing import Any

import healpy
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray


def write_hats(
    folder: Path,
    columns: dict[str, Any],
    ra: str = "RA",
    dec: str = "DEC",
    *,
    collection: bool = False,
    parts: bool = False,
    crowd: int = 20,
) -> NDArray[np.int64]:
    """Write a catalogue of pixels of orders 1 and 3, the finer ones where more than `crowd` rows are.

    A masked array has nulls, and rows without a position lie in the first pixel. With `parts` each pixel is a
    folder of two files; as a collection it has a margin, which nobody should read. Returns the rows in the
    order of the files.
    """
    n = len(columns[ra])
    place = np.nan_to_num(np.asarray(columns[ra])), np.nan_to_num(np.asarray(columns[dec]), nan=90.0)
    fine, coarse = (healpy.ang2pix(2**k, *place, nest=True, lonlat=True) for k in (3, 1))
    crowded = np.bincount(coarse, minlength=48)[coarse] > crowd
    finest = np.where(crowded, fine << 2 * 26, coarse << 2 * 28)
    table = pa.table({name: _to_arrow(values) for name, values in columns.items()})
    table = table.append_column("_healpix_29", pa.array(finest))
    if collection:
        folder.mkdir()
        (folder / "collection.properties").write_text("obs_collection=x\nhats_primary_table_url=main\n")
        write_hats(folder / "main_5arcs", columns, ra, dec, crowd=crowd)
        folder = folder / "main"
    pixels, written = [], []
    for key in np.unique(finest):
        rows = np.flatnonzero(finest == key)
        order = 3 if crowded[rows[0]] else 1
        pixel = int(key >> 2 * (29 - order))
        path = folder / f"dataset/Norder={order}/Dir=0/Npix={pixel}{'' if parts else '.parquet'}"
        half = len(rows) // 2 if parts else len(rows)
        files = {path / "a.parquet": rows[:half], path / "b.parquet": rows[half:]} if parts else {path: rows}
        for file, mine in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.take(mine), file)
        pixels.append(f"{order},{pixel}")
        written.append(rows)
    (folder / "partition_info.csv").write_text("\n".join(["Norder,Npix", *pixels, ""]))
    suffix = "/" if parts else ".parquet"
    (folder / "hats.properties").write_text(
        "#HATS catalog\nobs_collection=x\ndataproduct_type=object\nhats_version=v1.0\n"
        f"hats_nrows={n}\nhats_col_ra={ra}\nhats_col_dec={dec}\nhats_npix_suffix={suffix}\n"
        "hats_col_healpix=_healpix_29\nhats_col_healpix_order=29\nhats_order=3\n"
    )
    pq.write_metadata(table.schema, folder / "dataset" / "_common_metadata")
    return np.concatenate(written)


def _to_arrow(values: Any) -> pa.Array:
    """Return a column; masked values are null."""
    plain = np.ma.getdata(values)
    text = plain.astype(str) if plain.dtype.kind == "S" else plain
    return pa.array(text, mask=np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None)
