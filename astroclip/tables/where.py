"""Conditions on the columns of a table, as in ``Z < 0.3 & MAG_R < 19``: read by a parser, never evaluated.

Grammar, loosest first::

    either     = both {"|" both}
    both       = one {"&" one}
    one        = "~" one | "(" either ")" | value [comparison value [comparison value]]
    value      = number | 'text' | "text" | COLUMN | `COLUMN`
    comparison = "<" | "<=" | ">" | ">=" | "==" | "!="
"""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError
from astroclip.schema import MISSING_TEXTS
from astroclip.tables.anytable import Column, Table
from astroclip.tables.missing import is_missing, to_texts

MAX_DEPTH = 50  # parentheses and ~ within each other
MAX_DIGITS = 20  # of an integer: those of uint64
_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))"
    r"|(?P<text>'[^']*'|\"[^\"]*\")"
    r"|(?P<column>[^\W\d][\w-]*|`[^`]+`)"  # Galaxy Zoo's names have hyphens; there is no arithmetic
    r"|(?P<sign><=|>=|==|!=|[<>&|~()])"
    r"|(?P<end>$))"
)
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip

Block = Mapping[str, NDArray[Any]]


class Truth(NamedTuple):
    """What is known of each row: the condition is fulfilled, or it is not; neither where a value misses."""

    yes: NDArray[np.bool_]
    no: NDArray[np.bool_]


class Value(NamedTuple):
    """A number, a text or a column of the table."""

    literal: float | str | None
    column: Column | None

    @property
    def is_text(self) -> bool:
        """Whether it is compared as text."""
        return isinstance(self.literal, str) if self.column is None else self.column.dtype.kind == "U"

    def of(self, block: Block) -> Any:
        """Return its values in a block of rows."""
        if self.column is None:
            return self.literal
        values = block[self.column.name]
        return to_texts(values) if self.is_text else np.ma.getdata(values)

    def missing(self, block: Block) -> Any:
        """Return where it has no value, see `missing.is_missing`."""
        return False if self.column is None else is_missing(block[self.column.name])


Test = Callable[[Block], Truth]


class Where:
    """A condition on the rows of a table.

    A comparison with a missing value (`tables.missing`: NaN, TNULL, an undefined logical, an empty text) is
    neither true nor false, and neither is its negation: the row is not taken. Texts are compared without the
    blanks around them, and ``== ''`` asks which are missing; a logical column stands for itself.

    Attributes
    ----------
    text : str
        As the user wrote it.
    columns : list of str
        The columns that `select` needs.

    Raises
    ------
    UsageError
        If the text is no condition, or compares numbers with texts; the message points at the place.
    DataError
        If the table has no such column.
    """

    def __init__(self, text: str, table: Table) -> None:
        self.text, self._table, self._depth = text, table, 0
        self._at = 0
        self.columns: list[str] = []
        self._next()
        self._test = self._either()
        if self._kind != "end":
            raise self._error("expected & or | or the end")
        if not self.columns:
            raise UsageError(f"--where {text!r}: names no column of {table.name}")

    def select(self, block: Block) -> NDArray[np.bool_]:
        """Return which rows of a block, arrays by column, fulfil the condition."""
        return self._test(block).yes

    def _next(self) -> None:
        """Go to the next token."""
        match = _TOKEN.match(self.text, self._at)
        if match is None:
            self._start = len(self.text) - len(self.text[self._at :].lstrip())
            raise self._error("expected a column, a number, a 'text' or one of < <= > >= == != & | ~ ( )")
        self._kind = str(match.lastgroup)
        self._token, self._start, self._at = match[self._kind], match.start(self._kind), match.end()

    def _take(self, sign: str) -> bool:
        """Go past a sign if it is the next token."""
        if self._kind != "sign" or self._token != sign:
            return False
        self._next()
        return True

    def _error(self, what: str, at: int | None = None) -> UsageError:
        """Return an error that points at a place, by default at the present token."""
        at = self._start if at is None else at
        line = re.sub(r"\s", " ", self.text)
        return UsageError(f"--where, character {at + 1}: {what}\n  {line}\n  {' ' * at}^")

    def _either(self) -> Test:
        tests = [self._both()]
        while self._take("|"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda block: _any([test(block) for test in tests])

    def _both(self) -> Test:
        tests = [self._one()]
        while self._take("&"):
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else lambda block: _all([test(block) for test in tests])

    def _one(self) -> Test:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} conditions within each other")
        if self._take("~"):
            test = _negated(self._one())
        elif self._take("("):
            test = self._either()
            if not self._take(")"):
                raise self._error("expected )")
        else:
            test = self._comparison()
        self._depth -= 1
        return test

    def _comparison(self) -> Test:
        at, left = self._start, self._value()
        if self._token not in _COMPARE:
            if left.column is None or left.column.dtype.kind != "b":
                raise self._error("expected a comparison, one of < <= > >= == !=")
            return _compared(left, "==", Value(1, None))
        tests = []
        while self._token in _COMPARE:
            sign = self._token
            self._next()
            right = self._value()
            if left.is_text != right.is_text:
                raise self._error("compares a number with a text", at)
            tests.append(_compared(left, sign, right))
            at, left = self._start, right
        return tests[0] if len(tests) == 1 else lambda block: _all([test(block) for test in tests])

    def _value(self) -> Value:
        kind, token, at = self._kind, self._token, self._start
        if kind not in ("number", "text", "column"):
            raise self._error("expected a column, a number or a text in quotes")
        self._next()
        if kind == "number":
            exact = token.lstrip("+-").isdecimal() and len(token) < MAX_DIGITS  # a TARGETID is no float
            return Value(int(token) if exact else float(token), None)
        if kind == "text":
            text = token[1:-1].strip()
            return Value("" if text in MISSING_TEXTS else text, None)
        try:
            column = self._table.column(token.strip("`"))
        except DataError as error:
            raise DataError(f"--where, character {at + 1}: {error}") from None
        if column.shape or not column.is_plain or column.dtype.kind not in "biufU":
            raise self._error(
                f"column '{column.name}' does not hold one value a row that is a number, a text or a logical",
                at,
            )
        if column.name not in self.columns:
            self.columns.append(column.name)
        return Value(None, column)


def _compared(left: Value, sign: str, right: Value) -> Test:
    """Return the test of one comparison."""

    def test(block: Block) -> Truth:
        n = len(next(iter(block.values())))
        asked = "" in (left.literal, right.literal)  # for what is missing
        known = ~np.broadcast_to(left.missing(block) | right.missing(block), n) | asked
        with np.errstate(over="ignore"):  # 1e300 is more than any float32, and that is all
            yes = np.broadcast_to(_COMPARE[sign](left.of(block), right.of(block)), n)
        return Truth(yes & known, ~yes & known)

    return test


def _negated(test: Test) -> Test:
    return lambda block: Truth(*test(block)[::-1])


def _all(truths: list[Truth]) -> Truth:
    """Return what is known of all together (Kleene's logic of three values)."""
    return Truth(np.all([t.yes for t in truths], axis=0), np.any([t.no for t in truths], axis=0))


def _any(truths: list[Truth]) -> Truth:
    return Truth(np.any([t.yes for t in truths], axis=0), np.all([t.no for t in truths], axis=0))
