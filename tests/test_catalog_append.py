"""Adding columns keeps every byte of the rest, and what is written is what other programs read."""

import hashlib
import subprocess
import textwrap
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from catalog_files import CHANGED, append_all, fitsverify, need, parts_of, simple_columns, write_trap
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.schema import VERSION, ColumnSpec
from astroclip.tables import append_columns, open_table
from astroclip.tables.hdus import Checksum


def check_values(path: Path, values: dict[str, NDArray[Any]], hdu: int | str = "ZCATALOG") -> None:
    """Compare the new columns as astropy, fitsio and we read them."""
    astropy_rows, fitsio_rows = fits.getdata(path, hdu), fitsio.read(path, columns=list(values), ext=hdu)
    with open_table(path, hdu) as catalog:
        ours = catalog.read(values)
    for name, value in values.items():
        np.testing.assert_array_equal(ours[name], value)
        other = fitsio_rows[name]
        np.testing.assert_array_equal(np.char.strip(other) if other.dtype.kind == "U" else other, value)
        if value.dtype != np.uint64:  # astropy loses their low bits
            np.testing.assert_array_equal(astropy_rows[name], value)


@pytest.mark.parametrize("checksums", [True, False])
def test_all_else_is_kept_bit_for_bit(tmp_path: Path, checksums: bool) -> None:
    source = write_trap(tmp_path / "in.fits", checksums=checksums)
    output = tmp_path / "out.fits"
    values = append_all(
        source, output, history=["made by a test " * 9], cards={"ACMODEL": ("x" * 90, "model")}
    )
    before, after = parts_of(source, 3), parts_of(output, 3)
    np.testing.assert_array_equal(after[1][:, : before[1].shape[1]], before[1])
    assert after[2] == before[2]
    assert after[3] == before[3]
    kept = [card for card in before[0] if card[:8].strip() not in CHANGED]
    assert [card for card in after[0] if card[:8].strip() not in CHANGED][: len(kept)] == kept
    numbers = fits.getheader(output, 3)
    assert numbers.comments["NAXIS1"] == "bytes in a row"
    assert numbers["ACMODEL"] == "x" * 90
    assert numbers["HISTORY"][-2:] == textwrap.wrap("made by a test " * 9, 72)
    assert numbers.comments["TTYPE20"] == "embedding of the image"
    check_values(output, values)
    assert {path.name for path in tmp_path.iterdir()} == {"in.fits", "out.fits"}
    if checksums:
        assert fitsverify(source) == "OK"
        assert fitsverify(output) == "OK"


def test_provenance(tmp_path: Path) -> None:
    source = write_trap(tmp_path / "in.fits")
    append_all(source, tmp_path / "out.fits", settings={"model": "mini"}, history=["by hand"])
    header = fits.getheader(tmp_path / "out.fits", "ZCATALOG")
    assert header["ACVERS"] == VERSION
    assert datetime.now(UTC) - datetime.fromisoformat(header["ACDATE"]) < timedelta(minutes=5)
    history = " ".join(header["HISTORY"])
    assert f"astroclip {VERSION}: IMAGE_EMBEDDING, EMBED_FLAG" in history
    assert "added to in.fits" in history
    assert hashlib.sha256(source.read_bytes()).hexdigest() in history
    assert history.endswith('settings: {"model": "mini"} by hand')


def test_stilts_reads_the_result(tmp_path: Path) -> None:
    stilts = need("stilts")
    output = tmp_path / "out.fits"
    values = append_all(write_trap(tmp_path / "in.fits"), output)
    pipe = [
        "tpipe",
        f"in={output}#3",
        "cmd=keepcols 'TARGETID EMBED_FLAG IMAGE_EMBEDDING'",
        f"out={tmp_path}/p.fits",
    ]
    cat = ["tcat", f"in={output}#3", f"in={output}#3", "icmd=keepcols EMBED_FLAG", f"out={tmp_path}/c.fits"]
    for task in (pipe, cat):
        done = subprocess.run([stilts, *task], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(
        fitsio.read(tmp_path / "p.fits", ext=1)["IMAGE_EMBEDDING"], values["IMAGE_EMBEDDING"]
    )
    assert fitsio.read(tmp_path / "c.fits", ext=1)["EMBED_FLAG"].tolist() == values["EMBED_FLAG"].tolist() * 2


def test_no_rows(tmp_path: Path) -> None:
    output = tmp_path / "out.fits"
    append_all(write_trap(tmp_path / "in.fits", nrows=0), output)
    assert fitsio.FITS(str(output))["ZCATALOG"].get_nrows() == 0
    assert fits.getheader(output, "ZCATALOG")["TFIELDS"] == 25
    assert fitsverify(output) == "OK"


def test_real_survey_files(survey_data: Path, tmp_path: Path) -> None:
    for name in ("desi/coadd-4-80613-thru20210324.fits", "legacysurvey/sweep-310m005-320p000.fits"):
        source, output = survey_data / name, tmp_path / "out.fits"
        values = append_all(source, output, overwrite=True)
        before, after = parts_of(source, 1), parts_of(output, 1)
        np.testing.assert_array_equal(after[1][:, : before[1].shape[1]], before[1])
        assert after[3] == before[3]
        check_values(output, values, 1)
        assert fitsverify(output) == fitsverify(source)


def test_replacing_the_input_and_its_columns(tmp_path: Path) -> None:
    path = write_trap(tmp_path / "cat.fits")
    with pytest.raises(UsageError, match="exists already"):
        append_all(path, path)
    append_all(path, path, overwrite=True)
    size = path.stat().st_size
    with pytest.raises(UsageError, match="has a column 'IMAGE_EMBEDDING' already"):
        append_all(path, path, overwrite=True)
    with open_table(path) as catalog:
        columns, values = simple_columns(catalog.nrows)
        values["EMBED_FLAG"] = values["EMBED_FLAG"] + 1
        with append_columns(catalog, path, columns, overwrite=True, overwrite_columns=True) as appender:
            appender.write(values)
    assert path.stat().st_size == size
    check_values(path, values)
    assert fitsverify(path) == "OK"
    for spec in (
        ColumnSpec("image_embedding", "f4", (9,)),
        ColumnSpec("VAR", "f4"),
        ColumnSpec("SCALED", "i2"),
    ):
        with (
            open_table(path) as catalog,
            pytest.raises(UsageError, match="cannot be replaced"),
            append_columns(catalog, path, [spec], overwrite=True, overwrite_columns=True),
        ):
            pass


def test_a_symbolic_link_as_output_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real.fits"
    link = tmp_path / "link.fits"
    link.symlink_to(target)
    append_all(write_trap(tmp_path / "in.fits"), link)
    assert link.is_symlink()
    assert target.is_file()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"A": np.zeros(2, "f4")}, "columns"),
        ({"A": np.zeros((2, 2), "f4"), "T": np.array(["a", "b"])}, "expected float32"),
        ({"A": np.zeros(2, "c8"), "T": np.array(["a", "b"])}, "expected float32"),
        ({"A": np.zeros(2, "f4"), "T": np.array(["a", "bcd"])}, "more than 2 characters"),
        ({"A": np.zeros(18, "f4"), "T": np.array(["a"] * 18)}, "only 17 are left"),
    ],
)
def test_blocks_that_were_not_announced(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    source = write_trap(tmp_path / "in.fits")
    columns = [ColumnSpec("A", "f4"), ColumnSpec("T", "U2")]
    with (
        open_table(source) as catalog,
        pytest.raises(ValueError, match=message),
        append_columns(catalog, tmp_path / "out.fits", columns) as appender,
    ):
        appender.write(values)
    assert [path.name for path in tmp_path.iterdir()] == ["in.fits"]


def test_leaving_too_early_finishes_nothing(tmp_path: Path) -> None:
    source = write_trap(tmp_path / "in.fits")
    with (
        open_table(source) as catalog,
        pytest.raises(ValueError, match="3 rows written, expected 17"),
        append_columns(catalog, tmp_path / "out.fits", [ColumnSpec("A", "f4")]) as appender,
    ):
        appender.write({"A": np.zeros(3, "f4")})
    assert not (tmp_path / "out.fits").exists()
    assert (tmp_path / ".out.fits.part").exists()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([ColumnSpec("A", "f4"), ColumnSpec("a", "f4")], "there twice"),
        ([ColumnSpec("A", "f2")], "no type float16"),
        ([ColumnSpec("TargetID", "i8")], "has a column 'TARGETID' already"),
    ],
)
def test_columns_that_cannot_be_added(tmp_path: Path, columns: list[ColumnSpec], message: str) -> None:
    source = write_trap(tmp_path / "in.fits")
    with (
        open_table(source) as catalog,
        pytest.raises(UsageError, match=message),
        append_columns(catalog, tmp_path / "out.fits", columns),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["in.fits"]


def test_more_columns_than_fits_allows(tmp_path: Path) -> None:
    Table(np.zeros(1, [(f"C{i}", "u1") for i in range(999)])).write(tmp_path / "in.fits")
    with (
        open_table(tmp_path / "in.fits") as catalog,
        pytest.raises(DataError, match="1000 columns, FITS allows 999"),
        append_columns(catalog, tmp_path / "out.fits", [ColumnSpec("A", "f4")]),
    ):
        pass


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
@settings(deadline=None)
def test_checksum_of_any_cuts_is_that_of_the_whole(data: bytes, cuts: list[int]) -> None:
    words = np.frombuffer(data + bytes(-len(data) % 4), ">u4").tolist()
    expected = sum(words)
    while expected >> 32:
        expected = (expected & 0xFFFFFFFF) + (expected >> 32)
    checksum = Checksum()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        checksum.update(np.frombuffer(data[start:stop], np.uint8))
    assert checksum.total == expected


DTYPES = ["bool", "u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", "c8", "c16", "U3"]
SHAPES = st.sampled_from([(), (1,), (3,), (2, 3)])
SCHEMAS = st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=6)


def random_values(spec: ColumnSpec, nrows: int, seed: int) -> NDArray[Any]:
    rng, dtype = np.random.default_rng(seed), np.dtype(spec.dtype)
    shape = (nrows, *spec.shape)
    if dtype.kind == "U":
        return rng.choice(["", "a", "xyz"], shape).astype(dtype)
    if dtype.kind in "iu":
        return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return (rng.normal(size=shape) > 0) if dtype.kind == "b" else rng.normal(size=shape).astype(dtype)


@given(SCHEMAS, SCHEMAS, st.integers(0, 12), st.integers(1, 13), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_any_schema_in_any_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    old: list[tuple[str, tuple[int, ...]]],
    new: list[tuple[str, tuple[int, ...]]],
    nrows: int,
    block: int,
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    fits.HDUList(
        [fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("ID", "J", array=range(nrows))])]
    ).writeto(folder / "0.fits")
    everything: dict[str, NDArray[Any]] = {"ID": np.arange(nrows, dtype="i4")}
    for step, schema in enumerate((old, new)):
        specs = [ColumnSpec(f"C{step}_{i}", dtype, shape) for i, (dtype, shape) in enumerate(schema)]
        values = {spec.name: random_values(spec, nrows, seed + i) for i, spec in enumerate(specs)}
        everything |= values
        with (
            open_table(folder / f"{step}.fits") as catalog,
            append_columns(catalog, folder / f"{step + 1}.fits", specs) as appender,
        ):
            for at in range(0, nrows, block):
                appender.write({name: value[at : at + block] for name, value in values.items()})
    with open_table(folder / "2.fits") as catalog:
        assert catalog.read(["ID"])["ID"].tolist() == list(range(nrows))
        for name, value in catalog.read(everything).items():
            np.testing.assert_array_equal(value, everything[name])
    with fitsio.FITS(str(folder / "2.fits")) as file:
        for name, value in everything.items():
            if nrows and value.dtype.kind not in "U" and value.dtype != np.uint64:
                np.testing.assert_array_equal(file[1][name][:].reshape(value.shape), value)
