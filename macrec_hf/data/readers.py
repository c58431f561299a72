"""Items and interactions as people keep them → two tidy tables, and the leave-one-out histories made from them.

Items come as `.jsonl`, `.csv`, `.tsv` or `.parquet`; interactions as the same, or as MQL4GRec's and LC-Rec's
`X.inter.json`. Text formats may be gzipped (`.jsonl.gz`). Identifiers are strings from the first byte to the last:
`"0108775"` never becomes a number. `docs/data_formats.md` shows every layout.
"""

import gzip
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .columns import missing_column

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
USER_COLUMN, ITEM_COLUMN, TIME_COLUMN = "user_id", "item_id", "timestamp"
TITLE_COLUMN, IMAGE_COLUMN = "title", "image"
_COLUMNS = {"user": USER_COLUMN, "item": ITEM_COLUMN, "time": TIME_COLUMN}
MIN_INTERACTIONS = 3
"""One item to train on, one to validate, one to test (paper, section "Experimental Settings": leave-one-out)."""


def read_items(
    path: str | PathLike[str],
    item_column: str | Sequence[str] = ITEM_COLUMN,
    title_column: str = TITLE_COLUMN,
    image_column: str = IMAGE_COLUMN,
) -> pd.DataFrame:
    """Reads a catalogue.

    Args:
        path: a `.jsonl`, `.csv`, `.tsv` or `.parquet` file with a column of ids, and any of `title`, `text`, `image`.
        item_column: the name of the column of ids, or several, of which the first counts that the file has; it comes
            back as `item_id`.
        title_column, image_column: the names of the columns of titles and of photos; they come back as `title` and
            `image` too.

    Returns:
        One row an item, in file order: `item_id`, `title` and `text` are strings (empty where the file has none),
        `image` is a path resolved against the file's folder, a URL as it stands, or `None`. Further columns are kept.
        `attrs["columns"]` lists the columns of the file itself.

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown format, no item, a named column that is missing, an item without an id, or an id that
            stands twice.
    """
    path = Path(path)
    items = _read_table(path)
    if not len(items):
        raise ValueError(f"{path}: empty catalogue: expected at least one item, got none. Was the export cut off?")
    names, columns = [item_column] if isinstance(item_column, str) else item_column, items.columns.tolist()
    item_column = next((name for name in names if name in items), "")
    if not item_column:
        raise ValueError(missing_column(path, columns, list(dict.fromkeys(names)), "item"))
    for kind, column in ((TITLE_COLUMN, title_column), (IMAGE_COLUMN, image_column)):
        if column != kind and column not in columns:
            raise ValueError(missing_column(path, columns, [column], kind))
        if column != kind:
            items[kind] = items[column]
    items[ITEM_COLUMN] = _as_ids(items[item_column], item_column, path)
    if item_column != ITEM_COLUMN:
        items = items.drop(columns=item_column)
    _refuse_duplicates(items["item_id"], path)
    for column in ("title", "text"):
        given = items[column] if column in items else pd.Series([None] * len(items), dtype=object)
        items[column] = pd.Series(["" if _is_missing(value) else str(value) for value in given], dtype=object)
    photos = list(items["image"]) if "image" in items else [None] * len(items)
    items["image"] = pd.Series([_resolve_image(value, path.parent) for value in photos], dtype=object)
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

    Raises:
        FileNotFoundError: no such file.
        ValueError: unknown format, a column that is missing, no interaction, an empty id, a timestamp that is missing
            or cannot be read.
    """
    path = Path(path)
    columns = {"user": user_column, "item": item_column, "time": time_column}
    if path.name.endswith((".json", ".json.gz")):
        if columns != _COLUMNS:
            raise ValueError(
                f"{path}: expected a table with the columns {list(columns.values())}, got an X.inter.json, which has "
                "no columns. Leave --user-column, --item-column and --time-column out."
            )
        table = _read_inter_json(path)
    else:
        table = _read_table(path)
    if not len(table):
        raise ValueError(f"{path}: expected at least one interaction, got none. Was the export cut off?")
    for kind, column in columns.items():
        if column not in table:
            why = " Without it the order is unknown: if the file is in time order, number the rows." * (kind == "time")
            raise ValueError(missing_column(path, table.columns.tolist(), [column], kind) + why)
    return pd.DataFrame(
        {
            "user_id": _as_ids(table[user_column], user_column, path),
            "item_id": _as_ids(table[item_column], item_column, path),
            "timestamp": _as_timestamps(table[time_column], path),
        }
    )


_FIRST_DAY, _LAST_DAY = 3_652, 47_482  # 1980 to 2100: numbers outside are no dates


@dataclass
class Histories:
    """What every user took, in time order.

    Attributes:
        user_ids: one id a user, in the order in which the users first appear.
        items: for each user an int32 array of table rows, oldest first.
        short_ids, short_items: the same of the users with too few interactions to be evaluated; they train and are
            counted.
        days, short_days: days since 1970 of the same purchases, int32; None where the timestamps are no dates.
    """

    user_ids: list[str]
    items: list[np.ndarray]
    short_ids: list[str] = field(default_factory=list)
    short_items: list[np.ndarray] = field(default_factory=list)
    days: list[np.ndarray] | None = None
    short_days: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.user_ids)


def user_histories(
    interactions: pd.DataFrame, row_of: Mapping[str, int], min_interactions: int = MIN_INTERACTIONS
) -> Histories:
    """Groups interactions by user and sorts each user's by time; equal times keep the order of the file.

    Args:
        interactions: as [`read_interactions`] returns them.
        row_of: item id → row of the table of semantic IDs, `table.row_of` (or of any other catalogue).
        min_interactions: users with fewer stand apart, as short ones. Default 3: train, validation, test.

    Returns:
        `user_ids`, in the order in which they first appear; `items`, for each of them an int32 array of rows, oldest
        first; `short_ids` and `short_items`, the same of the users with fewer.

    Raises:
        ValueError: an interaction names an item that `row_of` lacks, or no user has enough interactions.
    """
    rows = interactions["item_id"].map(row_of).to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(rows).any():
        raise ValueError(_unknown_items_message(interactions["item_id"][np.isnan(rows)], row_of))
    users, user_ids = pd.factorize(interactions["user_id"])
    times = pd.factorize(interactions["timestamp"], sort=True)[0]  # ranks: one dtype for numbers and for dates
    order = np.argsort(users, kind="stable")
    late = (np.diff(users[order]) == 0) & (np.diff(times[order]) < 0)
    if late.any():
        logger.warning(
            f"The interactions of {len(np.unique(users[order][1:][late])):,} users were not in time order; sorted "
            "them (equal timestamps keep the order of the file)."
        )
        order = np.lexsort((times, users))  # stable, so equal times keep the order of the file
    counts = np.bincount(users, minlength=len(user_ids))
    pieces = np.split(rows[order].astype(np.int32), np.cumsum(counts)[:-1])
    kept, short = (np.flatnonzero(long) for long in (counts >= min_interactions, counts < min_interactions))
    if len(short):
        logger.warning(
            f"{len(short):,} of {len(user_ids):,} users have fewer than {min_interactions} interactions: they train "
            "and are counted, but nothing of theirs validates or tests."
        )
    if not len(kept):
        raise ValueError(
            f"Expected at least one user with {min_interactions} interactions (one each to train, validate and test), "
            f"got none among {len(user_ids):,} users, the longest history has {counts.max()}. Is user_id the right "
            "column?"
        )
    (ids, items), (short_ids, short_items) = (
        ([str(user_ids[int(user)]) for user in part], [pieces[user] for user in part]) for part in (kept, short)
    )
    histories = Histories(ids, items, short_ids, short_items)
    days = days_of(interactions["timestamp"])
    if days is not None:
        of_users = np.split(days[order], np.cumsum(counts)[:-1])
        histories.days, histories.short_days = ([of_users[user] for user in part] for part in (kept, short))
    return histories


def days_of(timestamps: pd.Series) -> np.ndarray | None:
    """Days since 1970, int32: of dates, or of numbers that can only be seconds, milli-, micro- or nanoseconds.

    Returns:
        None for numbers that give no more than an order, such as 0, 1, 2, …: some lie outside the years 1980 to 2100.
    """
    if pd.api.types.is_datetime64_any_dtype(timestamps):
        naive = timestamps.dt.tz_convert(None) if timestamps.dt.tz is not None else timestamps
        return (naive.to_numpy().astype("datetime64[D]").astype(np.int64)).astype(np.int32)
    values = timestamps.to_numpy(dtype=np.float64)
    for unit in (1, 10**3, 10**6, 10**9):
        days = values / (unit * 86_400)
        if len(days) and days.min() >= _FIRST_DAY and days.max() < _LAST_DAY:
            return days.astype(np.int32)
    return None


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Expected a table in one of {', '.join(TABLE_SUFFIXES)}.")
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _read_jsonl(path)
    if name.endswith((".csv", ".tsv")):
        # Everything is read as text, so ids keep their zeros and an item called "NA" stays an item.
        separator = "\t" if name.endswith(".tsv") else ","
        try:
            return pd.read_csv(
                path, sep=separator, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8-sig"
            )
        except pd.errors.EmptyDataError:
            return pd.DataFrame()
    if path.name.endswith(".parquet"):
        return pd.read_parquet(path)
    raise ValueError(f"{path}: unknown format. Expected a name that ends with one of {', '.join(TABLE_SUFFIXES)}.")


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows = []
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: expected one JSON object a line, got {line[:60]!r}."
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}.")
            rows.append(row)
    columns = dict.fromkeys(key for row in rows for key in row)
    # object columns: pandas must not turn the numbers of a column with holes into floats
    return pd.DataFrame({column: pd.Series([row.get(column) for row in rows], dtype=object) for column in columns})


def _read_inter_json(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Expected an X.inter.json.")
    with open_text(path) as file:
        try:
            users = json.load(file)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}: expected one JSON object as in X.inter.json, but it is no JSON: {error}."
            ) from error
    if not isinstance(users, dict) or not all(isinstance(items, list) for items in users.values()):
        raise ValueError(
            f'{path}: expected {{"user": [item, item, ...], ...}} as in X.inter.json, got something else. '
            "A file with one JSON object a line must be called .jsonl."
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


def open_text(path: str | Path) -> Any:
    """Opens a text file, gzipped or not, as UTF-8 (with or without a byte-order mark)."""
    opener = gzip.open if str(path).endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig")


def file_digest(path: str | PathLike[str]) -> str:
    """SHA-256 (hex) of a file's contents, whatever its size and time stamps say.

    Raises:
        FileNotFoundError: no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file.")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value) or value is pd.NA or value == ""


def _as_ids(values: pd.Series, column: str, path: Path) -> pd.Series:
    """Ids as str; whole numbers are written out, everything else that is no string is refused."""
    if pd.api.types.is_float_dtype(values.dtype):
        raise ValueError(
            f"{path}: expected strings in {column!r}, got floating point numbers such as {values.iloc[0]}. A column "
            "with holes was probably read as numbers; write the ids as strings (leading zeros are lost otherwise)."
        )
    listed = values.tolist()
    missing = [number for number, value in enumerate(listed) if _is_missing(value)]
    if missing:
        raise ValueError(
            f"{path}: expected a {column!r} in every row, {len(missing):,} have none, first in row {missing[0] + 1}. "
            "Remove these rows or give them an id."
        )
    wrong = [value for value in listed if isinstance(value, bool) or not isinstance(value, (str, int))]
    if wrong:
        raise ValueError(f"{path}: expected strings or whole numbers in {column!r}, got {wrong[0]!r}.")
    return pd.Series([str(value) for value in listed], dtype=object)


def _as_timestamps(values: pd.Series, path: Path) -> pd.Series:
    """Numbers stay numbers; anything else is read as an ISO 8601 date, without a zone as UTC."""
    values = values.reset_index(drop=True)
    missing = np.array([_is_missing(value) for value in values]) | values.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"{path}: missing timestamps: expected one in every row, {missing.sum():,} of {len(values):,} have none, "
            f"first in row {np.flatnonzero(missing)[0] + 1}. The order decides which item tests: fill them or remove "
            "the rows."
        )
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return values
    numbers = pd.to_numeric(values, errors="coerce")
    if np.isfinite(numbers.to_numpy(dtype=np.float64, na_value=np.nan)).all():
        return numbers
    no_number = ~np.isfinite(numbers.to_numpy(dtype=np.float64, na_value=np.nan))
    dates = pd.to_datetime(values.astype(str), format="ISO8601", errors="coerce", utc=True)
    no_date = dates.isna().to_numpy()
    if no_date.any():
        wrong = no_date & no_number  # or else of the kind that is rarer
        if not wrong.any():
            wrong = no_number if no_number.sum() < no_date.sum() else no_date
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"{path}: expected timestamps that are all numbers or all ISO 8601 dates such as 2020-06-26, got "
            f"{values.iloc[row]!r} in row {row + 1}."
        )
    return dates.dt.tz_localize(None)


def _resolve_image(value: Any, folder: Path) -> str | None:
    if _is_missing(value):
        return None
    if not isinstance(value, (str, Path)):
        raise ValueError(f"Expected a path or a URL in 'image', got {value!r} ({type(value).__name__}).")
    return str(value) if str(value).startswith(("http://", "https://")) else str(folder / value)


def _refuse_duplicates(item_ids: pd.Series, path: Path) -> None:
    again = item_ids[item_ids.duplicated()]
    if len(again):
        raise ValueError(
            f"{path}: duplicate items: expected every item_id once, but {again.nunique():,} stand more than once, "
            f"such as {list(again.unique()[:3])}. Keep one row for each (variants of a product need ids of their own)."
        )


def _unknown_items_message(named: pd.Series, row_of: Mapping[str, int]) -> str:
    unknown: Sequence[str] = list(named.unique())
    known_bare = {item_id.lstrip("0") for item_id in row_of}
    zeros = any(item_id.lstrip("0") in known_bare for item_id in unknown)
    cause = (
        "Some differ from known ids only by leading zeros: a spreadsheet or a reader took the ids for numbers."
        if zeros
        else "Do both files come from the same export? Add the items to the catalogue or remove the interactions."
    )
    return (
        f"The interactions name {len(unknown):,} unknown items (in {len(named):,} interactions) that are not among "
        f"the {len(row_of):,} of the catalogue, such as {unknown[:5]}. {cause}"
    )
