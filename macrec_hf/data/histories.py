"""What every user took, in time order: the histories that leave-one-out and the counts are made from."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from .ids import unknown_items_message
from .times import days_of

logger = logging.getLogger(__name__)

MIN_INTERACTIONS = 3
"""One item to train on, one to validate, one to test (paper, section "Experimental Settings": leave-one-out)."""


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


@dataclass(frozen=True)
class Purchases:
    """Everybody's purchases in one row: a user's together, oldest first.

    Attributes:
        user_ids: `(num_users,)`, in the order in which the users first appear.
        items: int32, `(num_purchases,)`, table rows.
        starts: int64, `(num_users + 1,)`: user u's are those from `starts[u]` to `starts[u + 1]`.
        days: int32, `(num_purchases,)`, days since 1970; None where the timestamps are no dates.
    """

    user_ids: pd.Index
    items: np.ndarray
    starts: np.ndarray
    days: np.ndarray | None

    def share(self, part: int, parts: int) -> "Purchases":
        """Those of the users of one of several parts, which have equally many users but for one."""
        first, last = (len(self.user_ids) * place // parts for place in (part, part + 1))
        purchases = slice(self.starts[first], self.starts[last])
        days = None if self.days is None else self.days[purchases]
        starts = self.starts[first : last + 1] - self.starts[first]
        return Purchases(self.user_ids[first:last], self.items[purchases], starts, days)

    def of_each(self, values: np.ndarray) -> list[np.ndarray]:
        """Parts one value a purchase into one array a user."""
        return np.split(values, self.starts[1:-1])


def purchases_by_user(interactions: pd.DataFrame, row_of: Mapping[str, int]) -> Purchases:
    """Groups interactions by user and sorts each user's by time; equal times keep the order of the file.

    Args:
        interactions, row_of: as for [`user_histories`].

    Raises:
        ValueError: no interaction, a column or a cell of it that is missing, or an interaction with an item that
            `row_of` lacks.
    """
    where = f"{file}: " if (file := interactions.attrs.get("file")) else ""
    if absent := {"user_id", "item_id", "timestamp"}.difference(interactions.columns):
        raise ValueError(
            f"{where}Expected the columns user_id, item_id and timestamp, which `read_interactions` gives, found no "
            f"{', '.join(sorted(absent))}."
        )
    if not len(interactions):
        raise ValueError(f"{where}Expected at least one interaction, got none. Was the table cut off, or filtered?")
    for column in ("user_id", "item_id", "timestamp"):  # no time would come first of all
        if (gaps := interactions[column].isna()).any():
            raise ValueError(f"{where}Expected a {column} in every row, found none in row {int(gaps.argmax())}.")
    items = _rows_of(interactions["item_id"], row_of, where)
    users, user_ids = pd.factorize(interactions["user_id"])
    users = users.astype(np.int32)
    order = _in_time_order(users, interactions["timestamp"], where)
    counts = np.bincount(users, minlength=len(user_ids))
    starts = np.concatenate([[0], counts.cumsum()])
    days = days_of(interactions["timestamp"])
    return Purchases(user_ids, items[order], starts, None if days is None else days[order])


def _rows_of(item_ids: pd.Series, row_of: Mapping[str, int], where: str) -> np.ndarray:
    codes, unique = pd.factorize(item_ids)
    rows = np.array([row_of.get(item, -1) for item in unique], dtype=np.int32)
    if (rows < 0).any():
        raise ValueError(where + unknown_items_message(item_ids[rows[codes] < 0], row_of))
    return rows[codes]


def _in_time_order(users: np.ndarray, timestamps: pd.Series, where: str) -> np.ndarray:
    """The order of the rows by user, then by time, then as they stand."""
    times = timestamps.to_numpy()
    if times.dtype.kind not in "if":  # dates, and unsigned numbers, whose differences are never below 0
        times = pd.factorize(timestamps, sort=True)[0]  # ranks
    order = np.argsort(users, kind="stable")
    users_now, times_now = users[order], times[order]
    late = (users_now[1:] == users_now[:-1]) & (times_now[1:] < times_now[:-1])
    if not late.any():
        return order
    logger.warning(
        f"{where}The interactions of {len(np.unique(users_now[1:][late])):,} users were not in time order; "
        "sorted them (equal timestamps keep the order of the file)."
    )
    return np.lexsort((times, users))  # stable, so equal times keep the order of the file


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
        ValueError: as [`purchases_by_user`], or no user has enough interactions.
    """
    where = f"{file}: " if (file := interactions.attrs.get("file")) else ""
    purchases = purchases_by_user(interactions, row_of)
    user_ids, counts, pieces = purchases.user_ids, np.diff(purchases.starts), purchases.of_each(purchases.items)
    kept, short = (np.flatnonzero(long) for long in (counts >= min_interactions, counts < min_interactions))
    if len(short):
        logger.warning(
            f"{where}{len(short):,} of {len(user_ids):,} users have fewer than {min_interactions} interactions: they "
            "train and are counted, but nothing of theirs validates or tests."
        )
    if not len(kept):
        raise ValueError(
            f"{where}Expected at least one user with {min_interactions} interactions (one each to train, validate and "
            f"test), got none among {len(user_ids):,} users, the longest history has {counts.max()}. Is user_id the "
            "right column?"
        )
    (ids, items), (short_ids, short_items) = (
        ([str(user_ids[int(user)]) for user in part], [pieces[user] for user in part]) for part in (kept, short)
    )
    histories = Histories(ids, items, short_ids, short_items)
    if purchases.days is not None:
        of_users = purchases.of_each(purchases.days)
        histories.days, histories.short_days = ([of_users[user] for user in part] for part in (kept, short))
    return histories
