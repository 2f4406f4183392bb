"""CSV and TSV files in their dialects: how a file is written is found first, pyarrow then parses it.

A first pass finds the type of each column, a second writes the rows to a Parquet file without a name.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from astroclip.errors import DataError
from astroclip.tables.arrowtable import ArrowTable, reading
from astroclip.tables.formats import is_gzipped, open_unzipped
from astroclip.tables.unpack import nameless_file

CSV_BLOCK = 16 << 20  # bytes that are parsed at a time
MISSING = pa.array(["", "-", "--", "nan", "na", "n/a", "<na>", "null", "none", "nil", "..."])  # in any case
DELIMITERS = (",", ";", "\t", "|")
_TYPES = {"int64": pa.int64(), "uint64": pa.uint64(), "float64": pa.float64(), "bool": pa.bool_()}
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))


class Dialect(NamedTuple):
    """How a file is written: characters, sign between cells, and the lines up to and with the header."""

    encoding: str
    delimiter: str
    names: list[str]
    lines: int


@dataclass
class TextColumn:
    """What the first pass learns of a column; `kinds` are the types that fit all cells so far."""

    name: str
    kinds: list[str] = field(default_factory=lambda: list(_TYPES))
    filled: int = 0
    numbers: int = 0
    whole: bool = True  # all cells are integers, of however many digits
    odd: str = ""  # the first cell that is no number

    def add(self, values: pa.Array) -> None:
        """Take cells into account, null where they are missing."""
        values = values.drop_null()
        self.filled += len(values)
        self.kinds = [kind for kind in self.kinds if _fits(values, kind)]
        if "float64" in self.kinds:
            self.numbers += len(values)
        else:
            is_number = pc.match_substring_regex(values, _NUMBER)
            self.numbers += pc.sum(is_number).as_py() or 0
            if not self.odd:
                others = values.filter(pc.invert(is_number))
                self.odd = others[0].as_py() if len(others) else ""
        if self.whole and "int64" not in self.kinds:
            self.whole = pc.all(pc.match_substring_regex(values, r"^[+-]?\d+$")).as_py() is not False

    @property
    def type(self) -> pa.DataType:
        """The type of the column: the first that fits all cells, else text.

        Integers of more digits than 64 bits hold stay text, exactly; an empty column is float64.
        """
        if not self.kinds or (self.kinds[0] == "float64" and self.whole and self.filled):
            return pa.string()
        return _TYPES[self.kinds[0]] if self.filled else pa.float64()

    @property
    def is_spoilt(self) -> bool:
        """Whether it is a column of numbers with a few other texts, see `open_csv`."""
        others = self.filled - self.numbers
        return not self.kinds and (others * 10 <= self.filled or (others == 1 and self.filled > 2))


def open_csv(source: Path, name: str, scratch: Path | None) -> ArrowTable:
    """Open a CSV or TSV file.

    UTF-8 (also with Excel's mark), UTF-16 or Windows' Latin characters; commas, semicolons (then numbers may
    have a decimal comma), tabs or bars between cells. Lines that begin with ``#`` are left out; the last of
    them is the header where the line after it is data. A column is int64, uint64, float64 or bool if all its
    filled cells are, else text. Empty cells, ``-``, ``--``, ``nan``, ``N/A``, ``null`` and their like are
    missing in all but text columns. A column of numbers in which a few cells are other text (at most 1 of 10,
    or one cell of at least 3) can be carried along but not read: the error names line, column and cell.

    Raises
    ------
    DataError
        If the file has no header, or a line has more or fewer cells.
    """
    dialect = find_dialect(source, name)
    columns = [TextColumn(column) for column in dialect.names]
    for batch in _batches(source, name, dialect):
        for column, cells in zip(columns, batch.columns, strict=True):
            column.add(_cells(cells, dialect))
    schema = pa.schema([pa.field(column.name, column.type) for column in columns])
    file = nameless_file(scratch, name)
    try:
        with reading(name), pq.ParquetWriter(file, schema) as writer:
            for batch in _batches(source, name, dialect):
                arrays = [
                    cells if kind == pa.string() else _cells(cells, dialect).cast(kind)
                    for cells, kind in zip(batch.columns, schema.types, strict=True)
                ]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
        problems = {
            column.name: _problem(source, dialect, i, column.odd)
            for i, column in enumerate(columns)
            if column.is_spoilt
        }
        return ArrowTable([file], name, source, problems=problems)
    except BaseException:
        file.close()
        raise


def find_dialect(source: Path, name: str) -> Dialect:
    """Find out how a file is written.

    Raises
    ------
    DataError
        If it is empty, or its first line is no header.
    """
    encoding = _find_encoding(source, name)
    comments, lines, skipped = "", [], 0
    with _open_text(source, name, encoding) as stream:
        for line in stream:
            if line.strip() and not line.startswith("#"):
                lines.append(line)
            elif not lines:
                comments, skipped = line if line.strip() else comments, skipped + 1
            if len(lines) == 2:
                break
    if not lines:
        raise DataError(f"{name}: cannot be read as a table (no line of data or header). Is it empty?")
    delimiter = max(DELIMITERS, key=lambda sign: min(line.count(sign) for line in lines))
    first, *second = (next(csv.reader([line], delimiter=delimiter)) for line in lines)
    commented = next(csv.reader([comments.lstrip("# ")], delimiter=delimiter), [])
    texts_only = bool(second) and not any(_are_numbers(first)) and not any(_are_numbers(second[0]))
    if len(commented) == len(first) and (any(_are_numbers(first)) or texts_only):
        return Dialect(encoding, delimiter, _named(commented), skipped)
    if all(_are_numbers(first)):
        raise DataError(
            f"{name}: its first line holds numbers ({lines[0].strip()[:40]}), expected the names of columns. "
            "Add a header line"
        )
    with _open_text(source, name, encoding) as stream:  # a name in quotes may have more than one line
        for _ in range(skipped):
            next(stream)
        rows = csv.reader(stream, delimiter=delimiter)
        return Dialect(encoding, delimiter, _named(next(rows)), skipped + rows.line_num)


def _named(cells: list[str]) -> list[str]:
    """Return the names of columns; one without a name gets its number."""
    return [cell.strip() or f"COL{i + 1}" for i, cell in enumerate(cells)]


def _are_numbers(cells: list[str]) -> list[bool]:
    """Say which cells of a line are numbers."""
    return [bool(re.match(_NUMBER, cell.strip().replace(",", "."))) for cell in cells]


def _find_encoding(source: Path, name: str) -> str:
    """Return the first of UTF-8, Windows' and ISO's Latin characters that all bytes are."""
    with open_unzipped(source, name) as stream:
        begin = stream.read(4)
    for mark, encoding in _MARKS:
        if begin.startswith(mark):
            return encoding
    for encoding in ("utf-8", "cp1252"):
        decoder = codecs.getincrementaldecoder(encoding)()
        try:
            with open_unzipped(source, name) as stream:
                while block := stream.read(CSV_BLOCK):
                    decoder.decode(block)
                decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


@contextmanager
def _open_text(source: Path, name: str, encoding: str) -> Iterator[io.TextIOWrapper]:
    with open_unzipped(source, name) as stream, io.TextIOWrapper(stream, encoding, newline="") as text:
        yield text


def _batches(source: Path, name: str, dialect: Dialect) -> Iterator[pa.RecordBatch]:
    """Yield all cells as text."""
    encoding = "utf8" if dialect.encoding.startswith("utf-8") else dialect.encoding
    packed = is_gzipped(source)
    with reading(name), pa.OSFile(str(source)) as file:
        stream = pa.CompressedInputStream(file, "gzip") if packed else file
        yield from pa.csv.open_csv(
            stream,
            read_options=pa.csv.ReadOptions(
                block_size=CSV_BLOCK, column_names=dialect.names, skip_rows=dialect.lines, encoding=encoding
            ),
            parse_options=pa.csv.ParseOptions(
                delimiter=dialect.delimiter, newlines_in_values=True, invalid_row_handler=_handle_row
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(dialect.names, pa.string()), strings_can_be_null=False
            ),
        )


def _handle_row(row: pa.csv.InvalidRow) -> str:
    """Leave out comments between the rows."""
    return "skip" if row.text.startswith("#") else "error"


def _cells(array: pa.Array, dialect: Dialect) -> pa.Array:
    """Return cells without blanks and plus signs, null where they say so, with points for decimal commas."""
    text = pc.utf8_trim_whitespace(array)
    text = pc.if_else(pc.is_in(pc.utf8_lower(text), MISSING), None, text)
    text = pc.replace_substring_regex(text, r"^\+([\d.])", r"\1")
    if dialect.delimiter == ";":
        text = pc.replace_substring_regex(text, r"^([+-]?\d*),(\d+([eE][+-]?\d+)?)$", r"\1.\2")
    return text


def _fits(values: pa.Array, kind: str) -> bool:
    """Tell whether all texts can be read as a type."""
    try:
        values.cast(_TYPES[kind])
    except pa.ArrowInvalid:
        return False
    return True


def _problem(source: Path, dialect: Dialect, column: int, cell: str) -> str:
    """Say on which line a text stands in a column of numbers."""
    with _open_text(source, str(source), dialect.encoding) as stream:
        for _ in range(dialect.lines):
            next(stream)
        rows, line = csv.reader(stream, delimiter=dialect.delimiter), 1
        for row in rows:
            if len(row) > column and _plain(row[column]) == cell:
                break
            line = rows.line_num + 1
    return (
        f"line {dialect.lines + line}, column '{dialect.names[column]}' holds '{cell}', expected a number as "
        "in the other lines. Correct it, or leave the cell empty"
    )


def _plain(cell: str) -> str:
    return cell.strip().removeprefix("+")
