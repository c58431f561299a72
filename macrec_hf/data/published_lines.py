"""Lines of published research data as rows with checked ids and times; broken ones are skipped and counted."""

import ast
import logging
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .plain_text import whole_letters
from .text_files import TOLERATED, TOLERATED_SHARE, json_object, open_text, parsed_lines, shortened

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def checked_rows(
    path: Path, parse: Callable[[str], Row], needed: tuple[str, ...], moment: str | None = None
) -> Iterator[Row]:
    """Lines as dicts that have all needed fields. Some broken lines are counted and skipped, many are an error.

    Args:
        needed: fields, of which all but `moment` are ids and become texts.
        moment: the field that becomes a finite number.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no line, more broken ones or more that are no UTF-8 than 100 plus 1 % of the good ones, or a file
            that cannot be read.
    """
    foreign: list[str] = []

    def checked(line: str) -> Row:
        if not line.isascii() and _NO_UTF8.search(line):
            line = _NO_UTF8.sub(_windows_letters, line)
            foreign.append(line)
        row = parse(line)
        for name in needed:
            if name not in row:
                raise ValueError(f"no field {name!r}")
            row[name] = _number(name, row[name]) if name == moment else as_id(name, row[name])
        return row

    expected = f"lines with the fields {', '.join(needed)} (is --format right?)"
    read = 0
    for _, row in _undamaged(path, parsed_lines(path, checked, expected, errors="surrogateescape")):
        read += 1
        if len(foreign) > TOLERATED + TOLERATED_SHARE * read:
            break
        yield row
    if not read:
        raise ValueError(f"{path}: expected {expected}, but the file is empty.")
    _report_foreign(path, foreign, read)


def _undamaged(path: Path, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """The rows; where they are no good, the reason may be damage that a packed file shows at its end alone."""
    try:
        yield from rows
    except ValueError:
        with open_text(path, errors="replace") as file:
            while file.read(2**20):
                pass
        raise


def _report_foreign(path: Path, foreign: list[str], read: int) -> None:
    """Refuses a file of which many lines are no UTF-8; a few are borne."""
    if not foreign:
        return
    found = (
        f"{len(foreign):,} of {read:,} lines are no UTF-8. Read as Windows-1252 the first is {shortened(foreign[0])}"
    )
    if len(foreign) > TOLERATED + TOLERATED_SHARE * read or 2 * len(foreign) > read:
        raise ValueError(
            f"{path}: {found}. If that is right, convert it: iconv -f WINDOWS-1252 -t UTF-8; or from what it is."
        )
    logger.warning(f"{path}: {found}; so they were read.")


def as_id(name: str, value: Any) -> str:
    """An id as a text; whole numbers are written out.

    Raises:
        ValueError: it is missing, or neither a text nor a whole number.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or (isinstance(value, str) and not value.strip()):
        missing = value is None or value == "" or value != value
        raise ValueError(f"no {name!r}" if missing else f"an id in {name!r} that is none: {shortened(value)}")
    return whole_letters(str(value))


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, bool) or "_" in str(value):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) < 2**63:  # NaN is not either
        raise ValueError(f"no time: expected a number in {name!r}, got {shortened(value)}")
    return number


_NO_UTF8 = re.compile("[\udc80-\udcff]+")  # what "surrogateescape" makes of such bytes


def _windows_letters(found: re.Match[str]) -> str:
    raw = found[0].encode("utf-8", "surrogateescape")
    try:  # halves of an emoji as some databases write them, three bytes each
        return whole_letters(raw.decode("utf-8", "surrogatepass"))
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def json_or_literal(line: str) -> Row:
    """The metadata of 2014 are Python literals; strict copies of them are JSON."""
    try:
        return json_object(line)
    except ValueError:
        try:
            row = ast.literal_eval(_Constants().visit(ast.parse(line.strip(), mode="eval")))
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise ValueError("neither JSON nor a Python literal") from None
    if not isinstance(row, dict):
        raise ValueError("no dict")
    return row


class _Constants(ast.NodeTransformer):
    """What stands in literals without being one: `nan`, as `repr` writes what is missing."""

    KNOWN = {"nan": None, "inf": None, "null": None, "true": True, "false": False}

    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: N802
        return ast.Constant(self.KNOWN[node.id]) if node.id in self.KNOWN else node
