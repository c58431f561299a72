"""Tables in every format that is read: `.jsonl`, `.csv`, `.tsv`, `.parquet` and `X.inter.json`."""

import hashlib
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .delimited_files import delimited_columns, read_delimited
from .parquet_files import parquet_columns, read_parquet
from .text_files import json_kind, json_lines, read_json, shortened

TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
_FIRST_ROWS = 1000  # of a .jsonl file that may name its columns; ours
_REMEDIES = {
    ".json": "A file with one JSON object a line must be called .jsonl; write a list of objects that way.",
    ".ndjson": "Rename it to .jsonl.",
    ".xlsx": "Save the sheet as CSV UTF-8.",
    ".xls": "Save the sheet as CSV UTF-8.",
    ".ods": "Save the sheet as CSV, in UTF-8.",
    ".zip": "Unpack it.",
    ".bz2": "Unpack it, or pack it with gzip.",
    ".xz": "Unpack it, or pack it with gzip.",
    ".zst": "Unpack it, or pack it with gzip.",
    ".parquet": "Unpack it: Parquet is packed already.",
    ".txt": "Rename it to .csv or .tsv if it is one.",
}


def read_table(path: Path, numbers: str = "") -> pd.DataFrame:
    """The rows of a table in file order; columns hold text (CSV, TSV) or the values that the file has.

    Args:
        numbers: a column of a CSV or TSV that may hold int64, see [`~data.delimited_files.read_delimited`].

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown format, or whatever is wrong with the file.
    """
    name = path.name.lower().removesuffix(".gz")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. Expected a table in one of {', '.join(TABLE_SUFFIXES)}.")
    if path.name.lower().endswith(".parquet") or (path.is_dir() and any(path.glob("*.parquet"))):
        return read_parquet(path)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder: expected a table in one of {', '.join(TABLE_SUFFIXES)}, or a folder of Parquet "
            "parts whose names end with .parquet. Join other parts into one file."
        )
    if name.endswith(".jsonl"):
        return _read_jsonl(path)
    if name.endswith((".csv", ".tsv")):
        # Everything is read as text, so ids keep their zeros and an item called "NA" stays an item.
        columns = read_delimited(path, numbers)
        return pd.DataFrame({name: _series(columns.pop(name)) for name in list(columns)}, copy=False)
    remedy = next((remedy for end, remedy in _REMEDIES.items() if name.endswith(end)), "")
    raise ValueError(
        f"{path}: unknown format. Expected a name that ends with one of {', '.join(TABLE_SUFFIXES)}. {remedy}".rstrip()
    )


def table_columns(path: Path) -> list[str] | None:
    """Names of a table's columns, from its beginning.

    Returns:
        None where that does not tell: a `.jsonl` of more rows, a pipe, or a file at which [`read_table`] says what is
        wrong, which for one that is not there, or of an unknown format, is raised here already.
    """
    name = path.name.lower().removesuffix(".gz")
    if not path.exists() or not (path.is_dir() or name.endswith(TABLE_SUFFIXES)):
        read_table(path)
    if not (path.is_file() or path.is_dir()):
        return None
    try:
        if path.is_dir() or name.endswith(".parquet"):
            return parquet_columns(path)
        if name.endswith(".jsonl"):
            rows = [row for _, row in islice(json_lines(path), _FIRST_ROWS)]
            return None if len(rows) == _FIRST_ROWS else list(dict.fromkeys(key for row in rows for key in row))
        return delimited_columns(path)
    except (OSError, ValueError):
        return None


def read_inter_json(path: Path) -> pd.DataFrame:
    """`X.inter.json` of MQL4GRec and LC-Rec: `user_id`, `item_id` and as `timestamp` the place in the list.

    Raises:
        FileNotFoundError: no such file.
        ValueError: whatever is wrong with the file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file. Expected an X.inter.json.")
    users = read_json(path)
    if not isinstance(users, dict) or not all(isinstance(items, list) for items in users.values()):
        found = json_kind(users)
        if isinstance(users, dict):
            user, items = next(pair for pair in users.items() if not isinstance(pair[1], list))
            found = f"{json_kind(items)} for {shortened(user)}"
        raise ValueError(
            f'{path}: expected {{"user": [item, item, ...], ...}} as in X.inter.json, got {found}. '
            "A file with one JSON object a line must be called .jsonl."
        )
    for user, items in users.items():
        if wrong := [item for item in items if isinstance(item, bool) or not isinstance(item, (str, int))]:
            raise ValueError(
                f"{path}: expected strings or whole numbers in the list of user {shortened(user)}, got "
                f"{shortened(wrong[0])}."
            )
    lengths = np.array([len(items) for items in users.values()], dtype=np.int64)
    ends = np.cumsum(lengths)
    return pd.DataFrame(
        {
            "user_id": pd.Series(np.repeat(np.array(list(users), dtype=object), lengths), dtype=object),
            "item_id": pd.Series([item for items in users.values() for item in items], dtype=object),
            "timestamp": np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths),
        }
    )


def file_digest(path: str | PathLike[str]) -> str:
    """SHA-256 (hex) of a file's contents, whatever its size and time stamps say; of a folder, of all files in it.

    Raises:
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if path.is_dir():
        parts = sorted(part for part in path.iterdir() if part.is_file())
        listed = [f"{part.name} {file_digest(part)}" for part in parts]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _series(values: list[str | None] | np.ndarray) -> pd.Series:
    return pd.Series(values, dtype=object) if isinstance(values, list) else pd.Series(values, copy=False)


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows: list[dict[str, Any]] = [row for _, row in json_lines(path)]
    columns = dict.fromkeys(key for row in rows for key in row)
    # object columns: pandas must not turn the numbers of a column with holes into floats
    return pd.DataFrame({column: pd.Series([row.get(column) for row in rows], dtype=object) for column in columns})
