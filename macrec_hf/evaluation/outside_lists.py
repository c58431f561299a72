"""Lists that any other library has made, in a file, to stand in the same table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from ..data.text_files import json_id, json_object, shortened, text_lines
from ..model.files import replacing
from ..model.inference import pad_rows
from ..model.ranked_lists import RankedLists
from .ranking_metrics import KS

LONG_ENOUGH = 50  # places: with fewer too little may be left once the own history is taken out


def read_lists(
    path: str | PathLike[str], users: Sequence[str], others: Sequence[str], row_of: Mapping[str, int]
) -> RankedLists:
    """Reads one list a user.

    Args:
        path: one `{"user_id": …, "items": [best first]}` a line, as text or gzipped.
        users: ids of those to evaluate; each has a line.
        others: ids of users who may have one too, and are passed over.
        row_of: item id → row of the table.

    Returns:
        Lists in the order of `users`, as wide as the longest; scores fall by place, so that there are no ties.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line of another form, a user without a line, with two, or whom nobody knows, an item that the
            table lacks or that stands twice in a list.
    """
    known, found = {*users, *others}, dict[str, np.ndarray]()
    for number, line in _lines(path):
        if line is None or line.strip():
            where = f"{path}, line {number}"
            user, items = _read_line(line, where)
            if user not in known:
                raise ValueError(
                    f"{where}: unknown user {user!r}: expected users of the interactions, with the purchases that "
                    "the split needs. Is it the file of another data set?"
                )
            if user in found:
                raise ValueError(f"{where}: expected one line a user, got a second one of {user!r}.")
            found[user] = _rows(items, row_of, where)
    missing = [user for user in users if user not in found]
    if missing:
        raise ValueError(
            f"{path}: expected a list for each of the {len(users):,} users that are evaluated, {len(missing):,} have "
            f"none, such as {missing[:3]}. A user whom the library cannot serve gets an empty list."
        )
    rows, _ = pad_rows([found[user] for user in users])
    falling = -np.arange(rows.shape[1], dtype=np.float32)
    return RankedLists(rows, np.where(rows >= 0, falling, -np.inf))


def write_lists(
    path: str | PathLike[str], user_ids: Sequence[str], lists: np.ndarray, item_ids: Sequence[str]
) -> None:
    """Writes one list a user, in the form that [`evaluate`] takes as `lists` and the command as `--lists`.

    Args:
        path: of the file, one `{"user_id": …, "items": [best first]}` a line. What stood there goes.
        user_ids: one a list.
        lists: int `(num_users, width)`, rows of the catalogue, best first, negative where a list is shorter. With 50
            places or more the hidden column can be filled too.
        item_ids: of the catalogue's rows.

    Raises:
        ValueError: another number of lists than of users, or a row that the catalogue lacks.
    """
    if len(user_ids) != len(lists):
        raise ValueError(f"lists: expected one for each of {len(user_ids):,} users, got {len(lists):,}.")
    if np.max(lists, initial=-1) >= len(item_ids):
        raise ValueError(f"lists: expected rows of {len(item_ids):,} items, got {np.max(lists)}.")
    with replacing(Path(path)) as beside, beside.open("w", encoding="utf-8") as file:
        for user, rows in zip(user_ids, np.asarray(lists), strict=True):
            line = {"user_id": user, "items": [item_ids[row] for row in rows if row >= 0]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def is_long_enough(
    lists: RankedLists, without_history: RankedLists, histories: Sequence[np.ndarray], num_items: int
) -> bool:
    """Whether lists can lose their users' own histories.

    That is, whether each has at least 50 places, or as many as there are items, and without the history ten, or as
    many as there are other items.
    """
    places, left = ((ranked.items >= 0).sum(axis=1) for ranked in (lists, without_history))
    others = num_items - np.array([len(np.unique(history)) for history in histories], dtype=np.int64)
    return bool((places >= min(LONG_ENOUGH, num_items)).all() and (left >= np.minimum(max(KS), others)).all())


def _lines(path: str | PathLike[str]) -> Iterator[tuple[int, str | None]]:
    try:
        yield from text_lines(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{path}: no such file. Expected lists, one {{"user_id": …, "items": [best first]}} a line.'
        ) from error


def _read_line(line: str | None, where: str) -> tuple[str, list[str]]:
    """Of one line; None for one without end."""
    try:
        row = json_object(line or "")
        if missing := [name for name in ("user_id", "items") if row.get(name) is None]:
            raise ValueError(f"no {missing[0]}")
        if not isinstance(row["items"], list):
            raise ValueError("no list of items")
        return json_id("user_id", row["user_id"]), [json_id("item", item) for item in row["items"]]
    except ValueError as error:
        got = "a line that does not end" if line is None else f"{shortened(line.strip())}: {error}"
        raise ValueError(
            f'{where}: expected {{"user_id": …, "items": [item id, …]}}, best first, got {got}.'
        ) from error


def _rows(items: list[str], row_of: Mapping[str, int], where: str) -> np.ndarray:
    if unknown := [item for item in items if item not in row_of]:
        raise ValueError(
            f"{where}: unknown item {shortened(unknown[0])}: it is not among the {len(row_of):,} items of the model's "
            "table. Ids are texts, leading zeros count."
        )
    if len(set(items)) < len(items):
        twice = next(item for place, item in enumerate(items) if item in items[:place])
        raise ValueError(f"{where}: expected each item once, got {twice!r} twice.")
    return np.array([row_of[item] for item in items], dtype=np.int64)
