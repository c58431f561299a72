"""Ids of users and items: strings from the first byte to the last, and what is said where they differ by a trifle."""

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd

from .cells import is_missing
from .text_files import shortened, warn_once

logger = logging.getLogger(__name__)

_WORDS_FOR_NOTHING = {"nan", "NaN", "NaT", "None", "null", "NULL", "<NA>", "undefined", "#N/A", "#REF!", "#VALUE!"}
_BROKEN = re.compile(r"[\r\n]")
_SHORTENED = re.compile(r"\d([.,]\d+)?E\+\d\d")


def as_ids(values: pd.Series, column: str, path: Path) -> pd.Series:
    """Ids as str; whole numbers are written out, everything else that is no string is refused.

    A notice names ids that differ from others only by what nobody sees or what a spreadsheet adds.

    Raises:
        ValueError: a row without an id, a value of another type, an id with a NUL or a line break inside, a number
            that a spreadsheet has shortened; with the row.
    """
    listed = values.tolist()
    kinds = set(map(type, listed))
    if not kinds <= {str, int}:
        listed = [_plain_value(value) for value in listed]
        _refuse_types(listed, column, path)
    if kinds != {str}:
        listed = [str(value) for value in listed]
    unique = set(listed)
    if any(not value or value.isspace() or "\0" in value for value in unique):
        _refuse_empty(listed, column, path)
    if short := next((value for value in unique if "E+" in value and _SHORTENED.fullmatch(value)), None):
        raise ValueError(
            f"{path}: expected ids in {column!r}, got {short!r} in row {listed.index(short) + 1}, a number that a "
            "spreadsheet has shortened: ids that differ may look alike now. Format the column as text and export it "
            "again."
        )
    if broken := next((value for value in unique if _BROKEN.search(value.strip())), None):
        raise ValueError(
            f"{path}: expected ids without line breaks in {column!r}, got {shortened(broken)} in row "
            f"{listed.index(broken) + 1}. A quotation mark that is not closed has probably swallowed rows there: "
            "let a library write the file, or use .jsonl or .parquet."
        )
    _tell_twins(unique, column, path)
    if words := unique & _WORDS_FOR_NOTHING:
        warn_once(
            logger,
            f"{path}: the id {min(words)!r} stands in {column!r}: programs write it for what is missing, and here all "
            "rows that have it count as one. Remove these rows if nobody is called so.",
        )
    return pd.Series(listed, dtype=object)


def refuse_duplicates(item_ids: pd.Series, path: Path) -> None:
    """Raises ValueError where an item stands twice."""
    again = item_ids[item_ids.duplicated()]
    if len(again):
        raise ValueError(
            f"{path}: duplicate items: expected every item_id once, but {again.nunique():,} stand more than once, "
            f"such as {list(again.unique()[:3])}. Keep one row for each (variants of a product need ids of their own)."
        )


def unknown_items_message(named: pd.Series, row_of: Mapping[str, int]) -> str:
    """What is said of interactions with items that the catalogue lacks, and the likely cause.

    Args:
        named: the unknown ids, one an interaction.
        row_of: the ids of the catalogue.
    """
    unknown: Sequence[str] = list(named.unique())
    return (
        f"The interactions name {len(unknown):,} unknown items (in {len(named):,} interactions) that are not among "
        f"the {len(row_of):,} of the catalogue, such as {unknown[:5]}. {likely_cause(unknown, row_of)}"
    )


def likely_cause(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Why ids of one file are not among those of another, in one or two sentences."""
    for trifle, bare in _TRIFLES.items():
        there = {bare(item_id) for item_id in known}
        if any(bare(item_id) in there for item_id in unknown):
            return f"Some differ from known ids only {trifle}. {_CAUSES[trifle]}"
    return (
        "Do both files come from the same export? Add the items to the catalogue or remove the "
        "interactions, with pandas: interactions[interactions['item_id'].isin(items['item_id'])]."
    )


def _plain_value(value: Any) -> Any:
    """Whole numbers and names that a typed column holds in another type than int and str."""
    if isinstance(value, bytes):  # some programs write text without saying that it is text
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, Decimal) and value.is_finite() and value.as_tuple().exponent == 0:
        return int(value)
    return str(value) if isinstance(value, UUID) else value


def _refuse_types(listed: list[Any], column: str, path: Path) -> None:
    for number, value in enumerate(listed, start=1):
        if is_missing(value) or (isinstance(value, (str, int)) and not isinstance(value, bool)):
            continue
        cause = ""
        if isinstance(value, (float, Decimal)):
            cause = (
                " A column with holes was probably read as numbers; write the ids as strings (leading zeros are lost "
                "otherwise)."
            )
        if isinstance(value, dict):
            cause = " pandas' to_json writes one object a line with orient='records' and lines=True."
        kind = "floating point numbers such as " * isinstance(value, float)
        raise ValueError(
            f"{path}: expected strings or whole numbers in {column!r}, got {kind}{shortened(value)} in row {number}."
            + cause
        )
    _refuse_empty(listed, column, path)


def _refuse_empty(listed: list[Any], column: str, path: Path) -> None:
    missing = [
        number
        for number, value in enumerate(listed, start=1)
        if is_missing(value) or (isinstance(value, str) and value.isspace())
    ]
    if missing:
        raise ValueError(
            f"{path}: expected a {column!r} in every row, {len(missing):,} have none, first in row {missing[0]}. "
            "Remove these rows or give them an id."
        )
    for number, value in enumerate(listed, start=1):
        if isinstance(value, str) and "\0" in value:
            raise ValueError(
                f"{path}: expected ids without NUL bytes in {column!r}, got {shortened(value)} in row {number}. Was "
                "the file damaged? Write it again."
            )


def _visible(item_id: str) -> str:
    """Without what nobody sees: blanks around it, zero-width and control characters, accents written apart."""
    if item_id.isascii() and item_id.isprintable():
        return item_id.strip(' "')
    return "".join(
        letter for letter in unicodedata.normalize("NFC", item_id) if letter.isprintable() or letter == " "
    ).strip(' "')


def _without_point(item_id: str) -> str:
    return re.sub(r"(?<=\d)\.0+$", "", item_id)


def _without_zeros(item_id: str) -> str:
    return item_id.lstrip("0")


_TRIFLES: dict[str, Callable[[str], str]] = {
    "by blanks, quotation marks or invisible characters": _visible,
    "by a .0 at the end": _without_point,
    "by leading zeros": _without_zeros,
    "by leading zeros and a .0 at the end": lambda item_id: _without_zeros(_without_point(item_id)),
    "by capital letters": str.casefold,
}
_CAUSES = {
    "by blanks, quotation marks or invisible characters": "They came from a form or another system: remove them.",
    "by a .0 at the end": "A column with holes was read as numbers: write the ids as strings.",
    "by leading zeros": "A spreadsheet or a reader took the ids for numbers.",
    "by leading zeros and a .0 at the end": "A spreadsheet or a reader took the ids for numbers.",
    "by capital letters": "Write them alike in both files.",
}


def _tell_twins(unique: set[str], column: str, path: Path) -> None:
    """Two spellings of one id are two users or items: a wrong count, which nobody sees."""
    odd = [
        item_id
        for item_id in unique
        if not (item_id.isascii() and item_id.isalnum() and not item_id.startswith("0")) and _bare(item_id) != item_id
    ]
    groups: dict[str, set[str]] = defaultdict(set)
    for item_id in odd:
        bare = _bare(item_id)
        groups[bare] |= {item_id, bare} & unique
    twins = [sorted(found) for found in groups.values() if len(found) > 1]
    if twins:
        warn_once(
            logger,
            f"{path}: {len(twins):,} ids in {column!r} are spelled in two ways, such as {min(twins)[:3]}, which "
            "differ only by blanks, invisible characters, a .0 at the end or leading zeros: each spelling counts as "
            "one of its own. If they are the same, write them alike.",
        )


def _bare(item_id: str) -> str:
    return _without_zeros(_without_point(_visible(item_id)))
