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
        ValueError: a column or a cell of it that is missing, an interaction with an item that `row_of`
            lacks, or no user has enough interactions.
    """
    where = f"{file}: " if (file := interactions.attrs.get("file")) else ""
    if absent := {"user_id", "item_id", "timestamp"}.difference(interactions.columns):
        raise ValueError(
            f"{where}Expected the columns user_id, item_id and timestamp, which `read_interactions` gives, found no "
            f"{', '.join(sorted(absent))}."
        )
    for column in ("user_id", "item_id", "timestamp"):  # no time would come first of all
        if (gaps := interactions[column].isna()).any():
            raise ValueError(f"{where}Expected a {column} in every row, found none in row {int(gaps.argmax())}.")
    rows = interactions["item_id"].map(row_of).to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isnan(rows).any():
        raise ValueError(where + unknown_items_message(interactions["item_id"][np.isnan(rows)], row_of))
    users, user_ids = pd.factorize(interactions["user_id"])
    times = interactions["timestamp"].to_numpy()
    if times.dtype.kind not in "if":  # dates, and unsigned numbers, whose differences are never below 0
        times = pd.factorize(interactions["timestamp"], sort=True)[0]  # ranks
    order = np.argsort(users, kind="stable")
    late = (np.diff(users[order]) == 0) & (np.diff(times[order]) < 0)
    if late.any():
        logger.warning(
            f"{where}The interactions of {len(np.unique(users[order][1:][late])):,} users were not in time order; "
            "sorted them (equal timestamps keep the order of the file)."
        )
        order = np.lexsort((times, users))  # stable, so equal times keep the order of the file
    counts = np.bincount(users, minlength=len(user_ids))
    pieces = np.split(rows[order].astype(np.int32), np.cumsum(counts)[:-1])
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
    days = days_of(interactions["timestamp"])
    if days is not None:
        of_users = np.split(days[order], np.cumsum(counts)[:-1])
        histories.days, histories.short_days = ([of_users[user] for user in part] for part in (kept, short))
    return histories
