"""What is said where a table lacks a column: which columns it has, and which of them was probably meant."""

import difflib
import shlex
from collections.abc import Sequence
from os import PathLike

from .text_files import shortened

_SEPARATORS = {";": "semicolons", "|": "bars", "\t": "tabs", ",": "commas"}


_READERS = {"user": "read_interactions", "time": "read_interactions", "title": "read_items", "image": "read_items",
            "item": "read_items or read_interactions"}  # fmt: skip


def missing_column(path: str | PathLike[str], columns: Sequence[str], names: Sequence[str], kind: str) -> str:
    """The message that a table lacks a column.

    Args:
        columns: that the table has.
        names: one of which was expected.
        kind: "user", "item", "time", "title" or "image": the column is named by `--<kind>-column`.
    """
    shown = f"{shortened(list(columns), 500)}"
    told = (
        f"{path}: expected a column {' or '.join(map(repr, names))}, got {shown}. Name the right one with "
        f"--{kind}-column, or {kind}_column of {_READERS[kind]} in Python."
    )
    if len(columns) == 1:
        for mark, word in _SEPARATORS.items():
            if mark in columns[0]:
                return (
                    f"{told} The file seems to have {word} between its columns: expected commas in a .csv and tabs in "
                    "a .tsv. Save it again that way."
                )
    plain = {_plain(column): column for column in columns}
    for name in names:
        if close := difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.8):
            return f"{told} Did you mean --{kind}-column {shlex.quote(plain[close[0]])}?"
    return f"{told} If the first line is none with names of columns, put one there."


def _plain(column: str) -> str:
    return "".join(letter for letter in str(column).casefold() if letter.isalnum())
