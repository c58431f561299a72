"""CSV and TSV files → columns of text. Every row has as many fields as the header, or the file is refused by its line.

A quotation mark that opens a field and is not meant to (`"Best" thing`, 24 inches) can swallow the rows up to the
next one. `csv` finds most of these in its strict mode; `_Rows` finds those that happen to close. Such a file is read
without any quoting if it is clear that its writer used none.
"""

import csv
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from .text_files import LINE_LIMIT, open_text, shortened, text_lines

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
Columns = dict[str, list[str | None] | np.ndarray]
_ROWS_AT_A_TIME, _ROWS_TO_COMPARE = 1000, 200
_MANY = 100_000  # different texts of a column that are looked up without asking whether they come again; ours
_VARIED = 4  # kinds of first fields among those from which on their length alone tells them from text
_NOTHING = " \t\r\n\x1a"  # the last ends files of DOS
_NO_VALUES = frozenset(["", "\\N"])  # MySQL, PostgreSQL and Hive write the second for what is missing
_REMEDY = (
    'Inside a quoted field a quotation mark is written twice ("24"" screen"), not after a backslash. Let a library '
    "write the file, or use .jsonl or .parquet"
)


def read_delimited(path: Path, numbers: str = "") -> Columns:
    """Reads a `.csv` or `.tsv` file.

    The header shows what stands between fields: a comma, a semicolon, a tab or a bar, whatever the file's name says;
    a first line `sep=;` says it too. Fields may be quoted as RFC 4180 has it. Blank lines and rows of empty fields are
    passed over.

    Args:
        numbers: a column that comes as int64 if every field is a whole number, written so that `str` gives its text
            again: eight bytes a row, where a text that stands once takes some seventy.

    Returns:
        `{column: one text a row}`, None where a field is empty or `\\N`; no column at all for an empty file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as `open_text`; a column named twice, a row with more or fewer fields than the header, a quotation
            mark that does not close or that swallows rows; with the line.
    """
    shape = _Shape.of(path)
    if shape is None:
        return {}
    try:
        return _columns(_Rows(path, shape), numbers)
    except _QuotationError as error:
        columns = _unquoted(path, shape, numbers)
        if columns is None:
            raise ValueError(str(error)) from error
        return columns


def delimited_columns(path: Path) -> list[str]:
    """The header of a `.csv` or `.tsv` file; none where it is empty. Raises as [`read_delimited`]."""
    shape = _Shape.of(path)
    return [] if shape is None else next(iter(_Rows(path, shape)), [])


class _QuotationError(ValueError):
    """Quotation marks that do not pair."""


@dataclass(frozen=True)
class _Shape:
    """What the first lines show.

    Attributes:
        start: lines before the header.
        separator: one letter.
        spaced: whether a blank follows each separator of the header.
        tabs: whether the file's name says that fields are separated by tabs.
    """

    start: int
    separator: str
    spaced: bool
    tabs: bool

    @classmethod
    def of(cls, path: Path) -> "_Shape | None":
        tabs = ".tsv" in path.suffixes
        named = ""
        for number, line in text_lines(path, newline=""):
            if line is None:
                raise ValueError(f"{path}, line {number}: expected a header, got more than {LINE_LIMIT:,} characters.")
            if number == 1 and (told := re.fullmatch(r'"?sep=(.)"?\s*', line)):
                named = told[1]
            elif line.strip():
                bare = re.sub(r'"[^"]*"', "", line)
                counts = Counter(letter for letter in bare if letter in SEPARATORS)
                usual = "\t" if tabs else ","
                mark = named or max([usual, *SEPARATORS], key=lambda mark: counts[mark])
                spaced = mark in bare and bare.count(mark) == len(re.findall(re.escape(mark) + " ", bare))
                return cls(number - 1, mark, spaced, tabs)
        return None


class _Rows:
    """The rows of a file, from the header on.

    Attributes:
        path, shape: of the file.
        quoted: whether quotation marks mean anything.
        lines: those of the row that was read last.
        first: the number of the first of them.
    """

    def __init__(self, path: Path, shape: _Shape, quoted: bool = True):
        self.path, self.shape, self.quoted = path, shape, quoted
        self.lines: list[str] = []
        self.first = 0
        self.starts: list[str] = []  # first fields of the header and some rows

    def __iter__(self) -> Iterator[list[str]]:
        """Rows with at least one field that is not empty.

        Raises:
            _QuotationError: quotation marks do not pair.
            ValueError: another number of fields than in the header, or a row of several lines that may be rows.
        """
        reader = csv.reader(
            self._lines(), delimiter=self.shape.separator, strict=True, skipinitialspace=self.shape.spaced,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
        )  # fmt: skip
        limit, width = csv.field_size_limit(LINE_LIMIT), 0
        try:
            for row in reader:
                width = width or len(row)
                if len(self.lines) > 1 or len(row) != width:
                    if not "".join(row).strip(_NOTHING):
                        self.lines.clear()
                        continue
                    self._check(row, width)
                self.lines.clear()
                if row[0] or any(row):
                    if len(self.starts) < _ROWS_TO_COMPARE:
                        self.starts.append(row[0])
                    yield row
        except csv.Error as error:
            raise _QuotationError(self._unclosed()) from error
        finally:
            csv.field_size_limit(limit)

    def _lines(self) -> Iterator[str]:
        with open_text(self.path, newline="") as file:
            for number, line in enumerate(iter(partial(file.readline, LINE_LIMIT), ""), start=1):
                if len(line) >= LINE_LIMIT:
                    raise ValueError(f"{self.path}, line {number}: expected less than {LINE_LIMIT:,} characters.")
                if number > self.shape.start:
                    if not self.lines:
                        self.first = number
                    self.lines.append(line)
                    yield line

    def _check(self, row: list[str], width: int) -> None:
        """A row of several lines, or of another number of fields than the header."""
        if len(row) != width:
            message = (
                f"{self._where()}: expected {width} fields as in the header, got {len(row)}: "
                f"{shortened(''.join(self.lines).rstrip())}. {self._why(row, width)}"
            )
            raise (_QuotationError if self.quoted and '"' in "".join(self.lines) else ValueError)(message)
        if width > 1 and self._may_be_rows(row, width):
            raise ValueError(
                f"{self._where()}: expected one row, but a quotation mark opens a field that ends "
                f"{len(self.lines) - 1} lines below, and every line between looks like a row of its own. {_REMEDY}."
            )

    def _may_be_rows(self, row: list[str], width: int) -> bool:
        """Whether every line has the fields of a row, not a sentence's commas, and begins as rows of this file do."""
        mark, lines = self.shape.separator, [line for line in self.lines if line.strip()]
        if any(line.count(mark) != width - 1 or (mark + " " in line and not self.shape.spaced) for line in lines):
            return False
        starts = [*self.starts[1:], row[0].partition("\n")[0]]
        kinds, lengths = set(map(_kind, starts)), list(map(len, starts))
        for start in (line.partition(mark)[0].strip('"') for line in lines[1:]):
            varied = len(kinds) >= _VARIED and min(lengths) <= len(start) <= max(lengths)
            if _kind(start) not in kinds and not varied:
                return False
        return True

    def _where(self) -> str:
        return f"{self.path}, line {self.first}"

    def _why(self, row: list[str], width: int) -> str:
        kind = SEPARATORS.get(self.shape.separator, repr(self.shape.separator))
        if len(self.lines) > 1:
            return f"A quotation mark opens a field that ends {len(self.lines) - 1} lines below. {_REMEDY}."
        if width == 1:
            return (
                f"Line {self.shape.start + 1} was taken for the header: remove lines above the names of the columns."
            )
        if len(row) < width:
            return (
                "Was the line cut off, or broken in two inside a field? Such a field stands in quotation marks. A "
                "line that is no row has to go."
            )
        if not any(row[width:]):
            return f"Remove {kind} at the end of the line, or give the header one too."
        return (
            f"A field with {kind} in it stands in quotation marks. Where every row has one field more, the header "
            "lacks a name (row names of R or pandas: write the file without them)."
        )

    def _unclosed(self) -> str:
        last = self.first + len(self.lines) - 1
        until = f" (it was read on to line {last})" if last > self.first else ""
        return (
            f"{self._where()}: expected quotation marks that pair, got {shortened(self.lines[0].rstrip())}{until}. "
            f"{_REMEDY}."
        )


def _kind(text: str) -> str:
    """Letters and digits in turn, with what stands between them: `i17` and `b3` are alike."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", text))


def _columns(rows: _Rows, numbers: str) -> Columns:
    each = iter(rows)
    names = _names(next(each), rows.path)
    columns = [_Column(name == numbers) for name in names]
    while part := list(islice(each, _ROWS_AT_A_TIME)):
        for column, values in zip(columns, zip(*part, strict=True), strict=True):
            column.extend(values)
    return {name: column.values() for name, column in zip(names, columns, strict=True)}


class _Column:
    """The fields of a column: numbers for as long as all of them are, or texts.

    Args:
        of_numbers: whether it may be one of numbers.
    """

    def __init__(self, of_numbers: bool):
        self.numbers = array("q") if of_numbers else None
        self.texts: list[str | None] = []
        self.known: dict[str | None, str | None] = dict.fromkeys(_NO_VALUES)

    def extend(self, values: Sequence[str]) -> None:
        if self.numbers is not None:
            if (whole := _whole_numbers(values)) is not None:
                self.numbers.extend(whole)
                return
            self.texts, self.numbers = list(map(str, self.numbers)), None
        self.texts.extend(map(self.known.setdefault, values, values))  # a text that stands often is in memory once
        if len(self.known) > _MANY and 2 * len(self.known) > len(self.texts):  # hardly any does
            self.known = dict.fromkeys(_NO_VALUES)

    def values(self) -> list[str | None] | np.ndarray:
        return self.texts if self.numbers is None else np.asarray(self.numbers)


def _whole_numbers(texts: Sequence[str]) -> list[int] | None:
    """The numbers, where each is of 64 bits and its text is what `str` makes of it."""
    try:
        numbers = list(map(int, texts))
    except ValueError:
        return None
    small = -(2**63) <= min(numbers, default=0) and max(numbers, default=0) < 2**63
    return numbers if small and list(map(str, numbers)) == list(texts) else None


def _names(header: list[str], path: Path) -> list[str]:
    """Names without blanks around them; as in pandas, `Unnamed: 0` for a column without one."""
    names = [name.strip("\ufeff \t\r\n") or f"Unnamed: {place}" for place, name in enumerate(header)]
    for name, times in Counter(names).items():
        if times > 1:
            places = " and ".join(str(place) for place, other in enumerate(names, start=1) if other == name)
            raise ValueError(
                f"{path}: expected each column once, got {shortened(name)} as columns {places}. Rename or remove all "
                "but one."
            )
    return names


def _unquoted(path: Path, shape: _Shape, numbers: str) -> Columns | None:
    """The columns of a file whose quotation marks are nothing but letters; None where they may be more than that."""
    rows = _Rows(path, shape, quoted=False)
    try:
        if not _is_plain(rows):
            return None
        return _columns(_Rows(path, shape, quoted=False), numbers)
    except ValueError:
        return None


def _is_plain(rows: _Rows) -> bool:
    """Whether no field looks as if a writer had quoted it: between quotation marks, or with one after a backslash.

    Tabs hardly stand in texts, so a `.tsv` whose rows all have their number of fields is plain unless its header is
    quoted.
    """
    opened = header_seen = False
    for row in rows:
        for field in row:
            if '"' not in field:
                continue
            begins, ends = field.startswith('"'), field.endswith('"') and len(field) > 1
            if (begins and ends and not (rows.shape.tabs and header_seen)) or '\\"' in field:
                return False
            if ends and opened and not begins and not rows.shape.tabs:
                return False  # a field of several lines, perhaps
            opened = opened or begins
        header_seen = True
    return True
