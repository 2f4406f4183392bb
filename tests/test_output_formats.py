"""Tables of every format are written in every format, and read by other programs; or a column is named."""

import subprocess
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from catalog_files import (
    append_all,
    fitsverify,
    names_in,
    need,
    parts_of,
    read_all,
    write_trap,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from parquet_files import BIG, every_type, write_parquet

from astroclip.errors import DataError, UsageError
from astroclip.schema import ColumnSpec
from astroclip.tables import append_columns, open_table, write_table
from astroclip.tables.outputs import SUFFIXES

FORMS = [suffix.removeprefix(".") for suffix in SUFFIXES]
SCALARS = ["TARGETID", "I8", "F16", "F", "GOOD", "LARGE", "WORD"]
# what a format cannot hold, of every type and of the new columns
CANNOT = {
    "parquet": [],
    "csv": ["PNG", "HASH", "VECTOR", "LISTS", "WORDS", "spectrum", "image", "arms", "map", "IMAGE_EMBEDDING",
            "COVARIANCE"],
    "ecsv": ["PNG", "HASH", "WORDS", "spectrum", "image", "arms", "map"],
    "vot": ["U64", "PNG", "HASH", "WORDS", "spectrum", "image", "arms", "map", "BIG"],
}  # fmt: skip


def check_stilts(path: Path, columns: int, rows: int) -> None:
    """Compare the numbers of columns and rows with those that STILTS finds."""
    form = {".fits": "fits", ".fit": "fits", ".csv": "csv", ".xml": "votable", ".vot": "votable"}
    if path.suffix in form:  # not all versions read ECSV and Parquet
        command = [need("stilts"), "tpipe", f"in={path}", f"ifmt={form[path.suffix]}", "omode=count"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["columns:", str(columns), "rows:", str(rows)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["fits", "parquet", "csv", "ecsv", "vot"])
def test_from_every_format_to_every_format(tmp_path: Path, out: Path, kind: str, form: str) -> None:
    source = write_parquet(tmp_path / "in.parquet", every_type().select(SCALARS))
    if kind != "parquet":
        write_some(source, tmp_path / f"in.{kind}")
        source = tmp_path / f"in.{kind}"
    columns = [
        ColumnSpec("SCORE", "f4", (), "mag", "how bright"),
        ColumnSpec("BEST", "U3"),
        ColumnSpec("OK", "?"),
    ]
    values = {
        "SCORE": np.arange(12, dtype="f4"),
        "BEST": np.array(["a", "b,c", 'd"e'] * 4),
        "OK": np.arange(12) < 5,
    }
    output = out / f"out.{form}"
    with (
        open_table(source, scratch=out) as table,
        append_columns(table, output, columns, cards={"ACMODEL": "mini"}) as appending,
    ):
        appending.write(values)
    assert names_in(out) == [output.name]
    expected = every_type()
    with open_table(output, scratch=out) as table:
        assert list(table.columns) == [*SCALARS, *values]
        read = table.read(table.columns)
        assert read["TARGETID"].tolist() == expected["TARGETID"].to_pylist()
        assert np.ma.getmaskarray(read["I8"]).tolist() == [v is None for v in expected["I8"].to_pylist()]
        assert np.ma.filled(read["I8"], 0).tolist() == [v or 0 for v in expected["I8"].to_pylist()]
        known = [v is not None for v in expected["GOOD"].to_pylist()]
        assert np.ma.getmaskarray(read["GOOD"]).tolist() == np.logical_not(known).tolist()
        assert np.isnan(read["F"]).tolist() == [v is None or np.isnan(v) for v in expected["F"].to_pylist()]
        assert read["WORD"].tolist() == expected["WORD"].to_pylist()
        for name, value in values.items():
            np.testing.assert_array_equal(read[name], value)
        if form not in ("csv", "tsv"):
            assert table.column("SCORE").unit == "mag"
            assert table.column("SCORE").comment == "how bright"
            assert table.header["ACMODEL"] == "mini"
            assert "SHA-256 of that file" in str(table.header["HISTORY"])
    check_stilts(output, 10, 12)


def write_some(source: Path, target: Path) -> None:
    """Write a table in another format, with nothing added."""
    with open_table(source) as table, append_columns(table, target, []) as appending:
        appending.write({})


@pytest.mark.parametrize("form", list(CANNOT))
def test_columns_of_every_type(tmp_path: Path, out: Path, form: str) -> None:
    source, output = write_parquet(tmp_path / "in.parquet"), out / f"out.{form}"
    if CANNOT[form]:
        with pytest.raises(DataError) as caught:
            append_all(source, output)
        assert f"Leave out: {' '.join(f'--drop {name}' for name in CANNOT[form])}; or" in str(caught.value)
        assert names_in(out) == []
    values = append_all(source, output, drop=CANNOT[form])
    kept = [name for name in (*every_type().column_names, *values) if name not in CANNOT[form]]
    with open_table(output, scratch=out) as table:
        assert list(table.columns) == kept
        read, expected = table.read(table.columns), every_type()
        assert read["TARGETID"].tolist() == expected["TARGETID"].to_pylist()
        names = np.ma.filled(read["NAME"], "")
        assert names.tolist() == [name or "" for name in expected["NAME"].to_pylist()]
        np.testing.assert_array_equal(read["F16"], np.arange(12))
        assert read["EMBED_FLAG"].tolist() == values["EMBED_FLAG"].tolist()
        assert "12345678901234567890" in str(read["EXACT"][0]) or read["EXACT"][0] == 12345678901234567890.12
        if "VECTOR" in kept:
            np.testing.assert_array_equal(read["VECTOR"][0], [1, 2, np.nan])
            assert [len(one) for one in read["LISTS"]] == [i % 4 for i in range(12)]
            np.testing.assert_array_equal(read["COVARIANCE"], values["COVARIANCE"])
    check_stilts(output, len(kept), 12)


@pytest.mark.parametrize("form", FORMS)
def test_a_fits_table_of_every_type(tmp_path: Path, out: Path, form: str) -> None:
    source, output = write_trap(tmp_path / "in.fits"), out / f"out.{form}"
    drop = {"fits": [], "fit": []}.get(form, ["CX", "CM"])
    if form in ("csv", "tsv"):
        drop += [
            "FSCALED",
            "BITS",
            "ARMS",
            "FLUXES",
            "VAR",
            "VARQ",
            "NOTHING",
            "IMAGE_EMBEDDING",
            "COVARIANCE",
        ]
    if form in ("vot", "xml"):
        drop += ["U64", "ARMS", "BIG"]
    if drop:
        with pytest.raises(DataError, match=f"--drop {drop[0]}"):
            append_all(source, output)
    values = append_all(source, output, drop=drop)
    assert names_in(out) == [output.name]
    before, after = read_all(source), read_all(output)
    assert [name for name in (*before, *values) if name not in drop] == list(after)
    for name in set(before) - set(drop) - {"NOTHING", "VAR", "VARQ"}:
        blank = "" if before[name].dtype.kind == "U" else 0
        np.testing.assert_array_equal(
            np.ma.filled(after[name], blank), np.ma.filled(before[name], blank), name
        )
        if blank == 0:
            missing = [np.ma.getmaskarray(values[name]) for values in (after, before)]
            np.testing.assert_array_equal(*missing, name)
    for name in {"VAR", "VARQ"} - set(drop):
        for ours, expected in zip(after[name], before[name], strict=True):
            np.testing.assert_array_equal(ours, expected)


@settings(max_examples=20, deadline=None)
@given(
    st.sets(st.sampled_from(["TARGETID", "U16", "BITS", "GOOD", "ARMS", "CM", "VAR", "VARQ", "NOTHING", "Z"]))
)
def test_columns_dropped_from_a_fits_table(tmp_path_factory: pytest.TempPathFactory, drop: set[str]) -> None:
    folder = tmp_path_factory.mktemp("drop")
    source, output = write_trap(folder / "in.fits"), folder / "out.fits"
    values = append_all(source, output, drop=[name.lower() for name in drop])
    with fits.open(source) as before, fits.open(output, checksum=True) as after:
        kept = [column for column in before[3].columns if column.name not in drop]
        assert [c.name for c in after[3].columns] == [*(c.name for c in kept), *values]
        for column in kept:
            other = after[3].columns[column.name]
            assert (column.format, column.unit, column.null, column.dim) == (
                other.format, other.unit, other.null, other.dim,
            )  # fmt: skip
        for key in ("LONGTEXT", "PIXSCALE", "HIERARCH ESO INS FILTER NAME"):
            assert before[3].header[key] == after[3].header[key]
    before_rows, after_rows = read_all(source), read_all(output)
    for name in set(before_rows) - drop:
        for ours, expected in zip(after_rows[name], before_rows[name], strict=True):
            np.testing.assert_array_equal(ours, expected, name)
    assert parts_of(output, 3)[3] == parts_of(source, 3)[3]
    assert fitsverify(output) == fitsverify(source)


def test_dropping_a_new_column(tmp_path: Path) -> None:
    append_all(write_trap(tmp_path / "in.fits"), tmp_path / "out.fits", drop=["BIG", "u16"])
    names = fitsio.FITS(str(tmp_path / "out.fits"))["ZCATALOG"].get_colnames()
    assert [name for name in ("BIG", "U16") if name in names] == []
    assert names[-1] == "COVARIANCE"


def test_new_text_beyond_ascii(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "in.parquet", pa.table({"A": [1, 2]}))
    for form, expected in (("fits", "sph?re"), ("vot", "sphère"), ("csv", "sphère")):
        output = tmp_path / f"out.{form}"
        with (
            open_table(source) as table,
            append_columns(table, output, [ColumnSpec("T", "U6")]) as appending,
        ):
            appending.write({"T": np.array(["sphère", "disk"])})
        with open_table(output) as table:
            assert table.read(["T"])["T"].tolist() == [expected, "disk"]


NEW = (
    ColumnSpec("TARGETID", "i8", comment="DESI target"),
    ColumnSpec("Z", "f8", (), "mag", "total"),
    ColumnSpec("KIND", "S6"),
    ColumnSpec("GOOD", "bool"),
    ColumnSpec("N", "u1"),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nrows", [0, 5])
def test_a_new_table(tmp_path: Path, form: str, nrows: int) -> None:
    rows: dict[str, Any] = {
        "TARGETID": np.array([BIG, -1, 0, 1, 2])[:nrows],
        "Z": np.array([1.5, np.nan, -1, 0, 2])[:nrows],
        "KIND": np.array(["GALAXY", "", "QSO", "STAR", "x"])[:nrows],
        "GOOD": np.array([True, False, True, True, False])[:nrows],
        "N": np.array([255, 1, 2, 3, 4], "u1")[:nrows],
    }
    blocks = [{n: v[a : a + 2] for n, v in rows.items()} for a in range(0, nrows, 2)]
    path = tmp_path / f"t.{form}"
    write_table(
        path, NEW, nrows, blocks, extname="T", nulls={"TARGETID": -1}, cards={"CUT": "none"}, history=["told"]
    )
    assert names_in(tmp_path) == [path.name]
    with open_table(path) as table:
        read = table.read(table.columns)
        assert table.nrows == nrows
        if form not in ("csv", "tsv"):
            assert table.header["CUT"] == "none"
            assert table.column("Z").unit == "mag"
    if nrows:
        assert np.ma.getmaskarray(read["TARGETID"]).tolist() == [False, True, False, False, False]
        assert int(read["TARGETID"][0]) == BIG
        np.testing.assert_array_equal(read["Z"], rows["Z"])
        assert np.ma.filled(read["KIND"], "").tolist() == rows["KIND"].tolist()
        assert read["GOOD"].tolist() == rows["GOOD"].tolist()
        check_stilts(path, 5, 5)
    with pytest.raises(UsageError, match="exists already"):
        write_table(path, NEW, nrows, blocks, extname="T")
    with pytest.raises(ValueError, match="expected"):
        write_table(path, NEW, nrows + 1, blocks, extname="T", overwrite=True)
    assert names_in(tmp_path) == [path.name]


@pytest.mark.parametrize("form", ["csv", "tsv", "ecsv", "vot", "parquet"])
def test_astropy_reads_what_is_written(tmp_path: Path, out: Path, form: str) -> None:
    table = every_type().select(["TARGETID", "F", "NAME"])
    columns, values = [ColumnSpec("SCORE", "f4", (), "nanomaggy")], {"SCORE": np.arange(12, dtype="f4")}
    output = out / f"out.{form}"
    with (
        open_table(write_parquet(tmp_path / "in.parquet", table)) as opened,
        append_columns(opened, output, columns) as appending,
    ):
        appending.write(values)
    known = {
        "csv": "ascii.csv",
        "tsv": "ascii.tab",
        "ecsv": "ascii.ecsv",
        "vot": "votable",
        "parquet": "parquet",
    }
    if form == "parquet":
        assert pq.read_table(output)["SCORE"].to_pylist() == values["SCORE"].tolist()
        return
    read = Table.read(output, format=known[form])
    assert read["TARGETID"].tolist() == table["TARGETID"].to_pylist()
    assert read["SCORE"].tolist() == values["SCORE"].tolist()
    assert read["NAME"][1] == "é β"
