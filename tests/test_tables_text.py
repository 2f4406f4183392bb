"""CSV, TSV, ECSV and VOTables: every dialect gives the table that was meant, or one sentence."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from astropy.time import Time
from catalog_files import append_all, names_in, read_all

from astroclip.errors import DataError
from astroclip.tables import TableFormat, find_format, open_table, textfile

ROWS = "10.5,-3.25\n+11,+4e1\n"


def columns_of(path: Path) -> dict[str, list]:
    with open_table(path) as table:
        return {name: values.tolist() for name, values in table.read(table.columns).items()}


DIALECTS = {
    "plain": f"RA,DEC\n{ROWS}",
    "spaces": " RA , DEC \n 10.5 , -3.25 \n 11, 40 \n",
    "semicolons": f"RA;DEC\n{ROWS}".replace(",", ";"),
    "decimal commas": "RA;DEC\n10,5;-3,25\n11;40,0\n",
    "tabs": f"RA\tDEC\n{ROWS}".replace(",", "\t"),
    "bars": f"RA|DEC\n{ROWS}".replace(",", "|"),
    "a commented header": f"#RA,DEC\n{ROWS}",
    "a commented header after a blank": f"# RA,DEC\n{ROWS}",
    "comments before a commented header": f"# made by me, today\n# of two columns\n#RA,DEC\n{ROWS}",
    "comments before the header": f"# made by me, today\n# 2024\nRA,DEC\n{ROWS}",
    "blank lines before the header": f"\n\nRA,DEC\n{ROWS}",
    "comments after the header": f"RA,DEC\n# in degrees\n{ROWS}# the end\n",
    "quotes": f'"RA","DEC"\n{ROWS}'.replace("10.5", '"10.5"'),
}
BYTES = {
    "as it is": lambda text: text.encode(),
    "Windows' lines": lambda text: text.replace("\n", "\r\n").encode(),
    "Excel's mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "gzip": lambda text: gzip.compress(text.encode()),
    "no last line end": lambda text: text.rstrip("\n").encode(),
}


@pytest.mark.parametrize("stored", BYTES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_table(tmp_path: Path, dialect: str, stored: str) -> None:
    path = tmp_path / ("t.tsv" if dialect == "tabs" else "t.csv")
    path.write_bytes(BYTES[stored](DIALECTS[dialect]))
    assert columns_of(path) == {"RA": [10.5, 11.0], "DEC": [-3.25, 40.0]}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16"])
def test_names_and_texts_beyond_ascii(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes("NAME,α\nAndré,1\nŠ,2\n".replace("α", "É").encode(encoding))
    assert columns_of(tmp_path / "t.csv") == {"NAME": ["André", "Š"], "É": [1, 2]}


def test_texts_beyond_ascii_are_escaped_in_fits(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("NAME,N\nAndré,1\nAda,2\n")
    append_all(tmp_path / "t.csv", tmp_path / "out.fits")
    assert read_all(tmp_path / "out.fits")["NAME"].tolist() == ["Andr\\xe9", "Ada"]
    assert "NAME: characters outside ASCII are escaped" in str(
        fits.getheader(tmp_path / "out.fits", 1)["HISTORY"]
    )


@pytest.mark.parametrize(
    "cell", ["", " ", "-", "--", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "None"]
)
def test_a_missing_cell_keeps_its_row(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text(f"RA,N,OK,NAME\n1.5,7,true,a\n{cell},{cell},{cell},{cell}\n")
    values = columns_of(tmp_path / "t.csv")
    assert values["RA"][0] == 1.5
    assert np.isnan(values["RA"][1])
    assert (values["N"], values["OK"], values["NAME"]) == ([7, None], [True, None], ["a", cell])


@pytest.mark.parametrize("lead", ["", "# a comment\n", "\n"])
@pytest.mark.parametrize("rows", [3, 40])
def test_another_text_among_numbers_is_named(tmp_path: Path, lead: str, rows: int) -> None:
    lines = [f"{i}.5,x{i}" for i in range(rows)]
    lines.insert(2, 'abc,"two\nlines"')
    lines.insert(3, "1.0,n")
    (tmp_path / "t.csv").write_text(f"{lead}RA,NAME\n" + "\n".join(lines) + "\n")
    line = lead.count("\n") + 4
    with open_table(tmp_path / "t.csv") as table:
        assert table.nrows == rows + 2
        assert len(table.read(["NAME"])["NAME"]) == rows + 2  # the other columns are of use
        with pytest.raises(DataError, match=rf"t.csv: line {line}, column 'RA' holds 'abc', expected"):
            table.read(["RA"])


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2", "3"], "i"),
        (["007", "2", "3"], "i"),
        ([str(2**64 - 1), "0"], "u"),
        ([str(10**20), "0"], "U"),  # exactly, not through a float
        (["1", "2.5", ""], "f"),
        (["inf", "-Inf", "1"], "f"),
        (["1.", ".5", "1e300"], "f"),
        (["true", "False"], "b"),
        (["NGC 1", "2", "3a"], "U"),
        (["1", "a"], "U"),
        (["2024-01-01", "2024-01-02"], "U"),
        (["10:41:02.5", "10:41:03"], "U"),
        (["", ""], "f"),
    ],
)
def test_the_type_of_a_column(tmp_path: Path, cells: list[str], kind: str) -> None:
    (tmp_path / "t.csv").write_text("A,B\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    with open_table(tmp_path / "t.csv") as table:
        assert table.columns["B"].dtype.kind == kind
        if kind == "U":
            assert table.read(["B"])["B"].tolist() == cells


def test_a_type_that_a_late_row_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textfile, "CSV_BLOCK", 64)
    rows = [*["1"] * 60, "2.5", *["x"] * 60]
    (tmp_path / "t.csv").write_text("A,B\n" + "".join(f"{i},{row}\n" for i, row in enumerate(rows)))
    assert columns_of(tmp_path / "t.csv")["B"] == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line of data or header"),
        ("# only\n# comments\n", "no line of data or header"),
        ("1,2\n3,4\n", r"its first line holds numbers \(1,2\), expected the names of columns"),
        ("A,B\n1,2\n3\n", "Expected 2 columns, got 1"),
        ("A,B\n1,2\n3,4,5\n", "Expected 2 columns, got 3"),
    ],
)
def test_what_is_no_csv_table(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_table(tmp_path / "t.csv", scratch=tmp_path)
    assert names_in(tmp_path) == ["t.csv"]


def mixed_table() -> QTable:
    table = QTable({"id": np.arange(3, dtype="i2")})
    table["coord"] = SkyCoord([1.5, 2, 3], [4, 5, 6], unit="deg")
    table["flux"] = [1.0, 2.0, 3.0] * units.nmgy
    table["flux"].info.description = "of the whole galaxy"
    table["t"] = Time([59000.0, 59001.0, 59002.0], format="mjd")
    table["m"] = MaskedColumn([True, False, True], mask=[False, True, False])
    table["n"] = MaskedColumn([1, 2, 3], mask=[False, True, False])
    table["name"] = ["a", "bé", ""]
    table["v"] = np.arange(6.0).reshape(3, 2)
    table["w"] = np.arange(12).reshape(3, 2, 2)
    return table


@pytest.mark.parametrize("name", ["t.ecsv", "t.csv", "t.txt", "t.ecsv.gz"])
def test_ecsv_keeps_units_and_mixins(tmp_path: Path, name: str) -> None:
    mixed_table().write(tmp_path / "in.ecsv")
    content = (tmp_path / "in.ecsv").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert find_format(tmp_path / name) is TableFormat.ECSV
    with open_table(tmp_path / name) as table:
        read, known = table.read(table.columns), table.columns
    assert known["coord.ra"].unit == "deg"
    assert (known["flux"].unit, known["flux"].comment) == ("nmgy", "of the whole galaxy")
    assert read["coord.ra"].tolist() == [1.5, 2, 3]
    assert read["id"].dtype == np.int16
    assert read["m"].tolist() == [True, None, True]
    assert read["n"].tolist() == [1, None, 3]
    assert read["name"].tolist() in (["a", "bé", ""], ["a", "bé", None])
    assert read["v"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert read["w"].tolist() == np.arange(12).reshape(3, 2, 2).tolist()
    assert {"t.jd1", "t.jd2"} <= set(known)


@pytest.mark.parametrize("binary", ["tabledata", "binary2"])
@pytest.mark.parametrize("name", ["t.vot", "t.xml", "t.votable", "t.vot.gz"])
def test_votable_keeps_types_and_units(tmp_path: Path, name: str, binary: str) -> None:
    table = Table(
        {"RA": [1.5, np.nan] * units.deg, "N": MaskedColumn([7, 8], mask=[False, True]), "NAME": ["a", "bé"]}
    )
    table["V"] = np.arange(4, dtype="f4").reshape(2, 2)
    table["RA"].description = "right ascension"
    table.write(tmp_path / "in.vot", format="votable", tabledata_format=binary)
    content = (tmp_path / "in.vot").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert find_format(tmp_path / name) is TableFormat.VOTABLE
    with open_table(tmp_path / name) as opened:
        read, known = opened.read(opened.columns), opened.columns
    assert (known["RA"].unit, known["RA"].comment) == ("deg", "right ascension")
    np.testing.assert_array_equal(read["RA"], [1.5, np.nan])
    assert read["N"].tolist() == [7, None]
    assert read["NAME"].tolist() == ["a", "bé"]
    assert read["V"].tolist() == [[0, 1], [2, 3]]


def test_a_votable_of_several_tables(tmp_path: Path) -> None:
    from astropy.io.votable import from_table, writeto
    from astropy.io.votable.tree import TableElement

    document = from_table(Table({"A": np.zeros(0)}))
    for name, rows in (("first", 2), ("second", 3)):
        other = from_table(Table({name: np.arange(rows)}))
        one: TableElement = next(other.iter_tables())
        one.name = name
        document.resources[0].tables.append(one)
    writeto(document, str(tmp_path / "t.vot"))
    for part, column in ((None, "first"), ("second", "second"), (2, "second")):
        with open_table(tmp_path / "t.vot", part) as table:
            assert list(table.columns) == [column]
            assert column in table.place
            with pytest.raises(DataError, match=r"table . \(.*has no column 'RA'.*the file also has table 0"):
                table.column("RA")
    with open_table(f"{tmp_path / 't.vot'}#second") as table:
        assert table.nrows == 3
    with pytest.raises(DataError, match="expected third"):
        open_table(tmp_path / "t.vot", "third")


def test_a_votable_fetches_nothing(tmp_path: Path) -> None:
    Table({"A": np.arange(3)}).write(tmp_path / "t.vot", format="votable", tabledata_format="binary")
    text = (tmp_path / "t.vot").read_text()
    (tmp_path / "t.vot").write_text(text.replace("<STREAM ", '<STREAM href="http://localhost:1/x" '))
    with pytest.raises(DataError, match=r"its data lie in another file .*stilts tcopy in=.*t\.vot"):
        open_table(tmp_path / "t.vot")


@pytest.mark.parametrize("name", ["t.ecsv", "t.vot"])
def test_damaged_markup(tmp_path: Path, name: str) -> None:
    kind = "votable" if name == "t.vot" else "ascii.ecsv"
    Table({"A": np.arange(100)}).write(tmp_path / name, format=kind)
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text[: len(text) // 2] if name == "t.vot" else text + "1 2 3\n")
    with pytest.raises(DataError, match=r"cannot be read as a"):
        open_table(tmp_path / name, scratch=tmp_path)
    assert names_in(tmp_path) == [name]


def test_text_tables_are_added_to(tmp_path: Path) -> None:
    mixed_table()["id", "n", "name", "v"].write(tmp_path / "t.ecsv")
    values = append_all(tmp_path / "t.ecsv", tmp_path / "out.fits")
    read = read_all(tmp_path / "out.fits")
    assert read["n"].tolist() == [1, None, 3]
    np.testing.assert_array_equal(read["IMAGE_EMBEDDING"], values["IMAGE_EMBEDDING"])
    assert list(read)[:4] == ["id", "n", "name", "v"]


def test_a_part_of_a_file_that_has_no_parts(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("A\n1\n")
    with pytest.raises(DataError, match="a CSV table has no HDUs, expected FITS to choose 2"):
        open_table(tmp_path / "t.csv", 2)
