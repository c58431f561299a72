"""Items and interactions as people keep them → two tidy tables.

Items come as `.jsonl`, `.csv`, `.tsv` or `.parquet`; interactions as the same, or as MQL4GRec's and LC-Rec's
`X.inter.json`. Text formats may be gzipped (`.jsonl.gz`). Identifiers are strings from the first byte to the last:
`"0108775"` never becomes a number. `docs/data_formats.md` shows every layout.
"""

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from .cells import photo_source, plain_text
from .columns import missing_column
from .ids import as_ids, refuse_duplicates
from .parquet_files import SHORT_FLOATS
from .table_files import read_inter_json, read_table
from .text_files import warn_once
from .times import as_timestamps

logger = logging.getLogger(__name__)

USER_COLUMN, ITEM_COLUMN, TIME_COLUMN = "user_id", "item_id", "timestamp"
TITLE_COLUMN, IMAGE_COLUMN = "title", "image"
_OF_ALL, _TIMES_THE_MEAN, _TIMES_THE_NEXT = 0.1, 20, 3  # purchases of one user that are more than one customer's; ours
_COLUMNS = {"user": USER_COLUMN, "item": ITEM_COLUMN, "time": TIME_COLUMN}


def read_items(
    path: str | PathLike[str],
    item_column: str | Sequence[str] = ITEM_COLUMN,
    title_column: str = TITLE_COLUMN,
    image_column: str = IMAGE_COLUMN,
) -> pd.DataFrame:
    """Reads a catalogue.

    Args:
        path: a `.jsonl`, `.csv`, `.tsv` or `.parquet` file, or a folder of Parquet parts, with a column of ids, and
            any of `title`, `text`, `image`.
        item_column: the name of the column of ids, or several, of which the first counts that the file has; it comes
            back as `item_id`.
        title_column, image_column: the names of the columns of titles and of photos; they come back as `title` and
            `image` too.

    Returns:
        One row an item, in file order: `item_id`, `title` and `text` are strings (empty where the file has none),
        `image` is a path resolved against the file's folder, a URL as it stands, the bytes of a picture that stands in
        the table, or `None`. Further columns are kept.
        `attrs["columns"]` lists the columns of the file itself.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown format, a file or a row that `docs/data_formats.md` says is refused, no item, a column
            named that is missing, an item without an id, or an id that stands twice.
    """
    path = Path(path)
    items = read_table(path)
    if not len(items):
        raise ValueError(f"{path}: empty catalogue: expected at least one item, got none. Was the export cut off?")
    columns = items.columns.tolist()
    item_column = check_item_columns(path, columns, item_column, title_column, image_column)
    for kind, column in ((TITLE_COLUMN, title_column), (IMAGE_COLUMN, image_column)):
        if column != kind:
            items[kind] = items[column]
    items[ITEM_COLUMN] = as_ids(items[item_column], item_column, path)
    if item_column != ITEM_COLUMN:
        items = items.drop(columns=item_column)
    refuse_duplicates(items["item_id"], path)
    for column in ("title", "text"):
        given = items[column] if column in items else [None] * len(items)
        items[column] = pd.Series([plain_text(value) for value in given], dtype=object)
    photos = list(items["image"]) if "image" in items else [None] * len(items)
    items["image"] = _photo_sources(photos, path)
    first = ["item_id", "title", "text", "image"]
    items = items[first + [column for column in items.columns if column not in first]]
    items.attrs["columns"] = columns
    return items


def read_interactions(
    path: str | PathLike[str],
    user_column: str = USER_COLUMN,
    item_column: str = ITEM_COLUMN,
    time_column: str = TIME_COLUMN,
) -> pd.DataFrame:
    """Reads who took what, and when.

    Args:
        path: a `.jsonl`, `.csv`, `.tsv` or `.parquet` file with columns of users, items and times (numbers, or ISO
            8601 dates), or an `X.inter.json` that maps a user to item numbers in time order; there the place in the
            list is the timestamp.
        user_column, item_column, time_column: the names of the columns; an `X.inter.json` has none.

    Returns:
        The columns `user_id` (str), `item_id` (str) and `timestamp` (a number or a datetime), rows in file order.
        `attrs["file"]` is the path, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown format, a file or a row that `docs/data_formats.md` says is refused, a column that is
            missing, no interaction, an empty id, a timestamp that is missing, cannot be read, or is of another unit
            than the others.
    """
    path = Path(path)
    named = {"user": user_column, "item": item_column, "time": time_column}
    if path.name.lower().endswith((".json", ".json.gz")):
        if named != _COLUMNS:
            raise ValueError(
                f"{path}: expected a table with the columns {list(named.values())}, got an X.inter.json, which has "
                "no columns. Leave --user-column, --item-column and --time-column out."
            )
        table = read_inter_json(path)
    else:
        table = read_table(path, numbers=time_column)
    if not len(table):
        raise ValueError(f"{path}: expected at least one interaction, got none. Was the export cut off?")
    check_interaction_columns(path, table.columns.tolist(), **named)
    users, items = (as_ids(table[column], column, path) for column in (user_column, item_column))
    short = time_column in table.attrs.get(SHORT_FLOATS, ())
    times = table[time_column]
    del table  # of many purchases it is large, and reading times needs room
    read = {"user_id": users, "item_id": items, "timestamp": as_timestamps(times, path)}
    interactions = pd.DataFrame(read, copy=False)
    interactions.attrs["file"] = str(path)
    if again := int(interactions.duplicated().sum()):
        warn_once(
            logger,
            f"{path}: {again:,} of {len(interactions):,} rows are the same as an earlier one, in user, item and time: "
            "they are kept, each as a purchase of its own. If an export has written them twice, take them out.",
        )
    counts = interactions["user_id"].value_counts()
    # Purchases of many people one after the other say nothing, and would outweigh all customers.
    most, second = counts.iloc[0], max(counts.iloc[1:2], default=0)
    if most > _TIMES_THE_MEAN * counts.mean() and (most > _OF_ALL * counts.sum() or most > _TIMES_THE_NEXT * second):
        warn_once(
            logger,
            f"{path}: The user {counts.index[0]!r} has {most:,} of the {len(interactions):,} interactions. Is it an "
            "account of many people, as of guests or a till? Leave its rows out: they are learned and counted as one "
            "customer's.",
        )
    if short:
        warn_once(
            logger,
            f"{path}: {time_column!r} holds floating point numbers of 32 bits or fewer, which keep seven digits: "
            "moments less than some two minutes apart may count as one. Write it as whole numbers of 64 bits.",
        )
    return interactions


def check_item_columns(
    path: Path, columns: Sequence[str], item_column: str | Sequence[str], title_column: str, image_column: str
) -> str:
    """The column of ids, of a table with these columns; ValueError where one that is named is missing."""
    names = [item_column] if isinstance(item_column, str) else item_column
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise ValueError(missing_column(path, columns, list(dict.fromkeys(names)), "item"))
    for kind, column in ((TITLE_COLUMN, title_column), (IMAGE_COLUMN, image_column)):
        if column != kind and column not in columns:
            raise ValueError(missing_column(path, columns, [column], kind))
    return found


def check_interaction_columns(path: Path, columns: Sequence[str], **named: str) -> None:
    """ValueError where one of the columns of users, items and times is missing: `{"user": name, …}`."""
    for kind, column in named.items():
        if column not in columns:
            why = " Without it the order is unknown: if the file is in time order, number the rows." * (kind == "time")
            raise ValueError(missing_column(path, columns, [column], kind) + why)


def _photo_sources(cells: list[Any], path: Path) -> pd.Series:
    sources = [photo_source(cell, path.parent, f"row {row} of {path}") for row, cell in enumerate(cells, start=1)]
    several = sum(isinstance(cell, (list, tuple)) and len(cell) > 1 for cell in cells)
    if several:
        warn_once(logger, f"{path}: {several:,} items name several photos: the first one of each counts.")
    return pd.Series(sources, dtype=object)
