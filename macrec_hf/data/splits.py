"""Which purchases train, validate and test."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .histories import Histories


@dataclass
class SplitUsers:
    """The users of a split, and what may be counted for it.

    Attributes:
        user_ids: of the users to evaluate.
        histories: for each of them table rows, int32, oldest first: what is known when the target is predicted.
        targets: int32, `(num_users,)`, the table rows that they took next.
        counted: the purchases that may be counted, a sequence a user, of everybody: exactly those that training learns
            from, so that baselines and model know the same.
        other_ids: of users who are counted, but have too few purchases to be evaluated.
        days: int64, `(num_users,)`, the day since 1970 of each history's last purchase, as of which a list is made;
            None where the timestamps are no dates.
        counted_days: the days of `counted`, or None.
    """

    user_ids: list[str]
    histories: list[np.ndarray]
    targets: np.ndarray
    counted: list[np.ndarray]
    other_ids: list[str]
    days: np.ndarray | None = None
    counted_days: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.user_ids)

    @property
    def num_short(self) -> int:
        return len(self.other_ids)

    def some(self, count: int | None) -> "SplitUsers":
        """At most `count` of the users, evenly spaced; None: all. What may be counted stays everybody's.

        Raises:
            ValueError: a count below 1.
        """
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise ValueError(f"limit_users: expected at least 1 user, or None for all, got {count}.")
        chosen = np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64))
        return SplitUsers(
            [self.user_ids[user] for user in chosen],
            [self.histories[user] for user in chosen],
            self.targets[chosen],
            self.counted,
            self.other_ids,
            None if self.days is None else self.days[chosen],
            self.counted_days,
        )


def split_users(histories: Histories, split: str) -> SplitUsers:
    """The users whom "test" or "validation" evaluates, see [`leave_one_out`].

    Raises:
        ValueError: another split, or users with fewer than three interactions.
    """
    counted, _ = leave_one_out(histories, "train")
    known, targets = leave_one_out(histories, split)
    if targets is None:
        raise ValueError(f"Expected split 'validation' or 'test', got {split!r}: only these have one target a user.")
    users = SplitUsers(list(histories.user_ids), known, targets, counted, list(histories.short_ids))
    if histories.days is not None:
        left_out = 1 if split == "test" else 2
        users.days = np.array([days[-left_out - 1] for days in histories.days], dtype=np.int64)
        users.counted_days = [*(days[:-2] for days in histories.days), *(histories.short_days or [])]
    return users


def validation_halves(user_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Parts the validation users in two by a hash of their ids (CRC-32), the same on every machine and in every file.

    One half stops the training and chooses between models; the other is for what is fitted afterwards, on purchases
    that have chosen nothing.

    Args:
        user_ids: of the validation users.

    Returns:
        Places of the users in `user_ids` of either half, int64, rising. Where one would be empty, as with very few
        users, both are all of them.

    Raises:
        ValueError: no users.
    """
    if not len(user_ids):
        raise ValueError("user_ids: expected at least one validation user, got none.")
    odd = np.array([zlib.crc32(user.encode()) % 2 for user in user_ids], dtype=bool)
    if odd.all() or not odd.any():
        return np.arange(len(odd)), np.arange(len(odd))
    return np.flatnonzero(~odd), np.flatnonzero(odd)


def before_test(histories: Histories) -> list[np.ndarray]:
    """What is known when the last purchases test: all but these, and those of the short users whole."""
    return [*leave_one_out(histories, "test")[0], *histories.short_items]


def leave_one_out(histories: Histories, split: str) -> tuple[list[np.ndarray], np.ndarray | None]:
    """The histories and targets of a split: the last item tests, the one before validates, the rest trains.

    Args:
        histories: of users with at least three interactions each, the others apart, as [`user_histories`] gives them.
        split: "train", "validation" or "test".

    Returns:
        For "test" all items but the last (so the validation item is part of the history) and the last, int32
        (num_users,); for "validation" all but the last two and the last but one; for "train" the training sequences,
        all but the last two, then those of the short users, whole, and `None`: there every prefix has a target of its
        own.

    Raises:
        ValueError: another split, or a user with fewer than three interactions.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"Expected split 'train', 'validation' or 'test', got {split!r}.")
    short = [user for user, items in zip(histories.user_ids, histories.items, strict=True) if len(items) < 3]
    if short:
        raise ValueError(
            f"Expected at least 3 interactions a user, but {len(short):,} users have fewer, such as {short[:3]}. "
            "Build the histories with min_interactions=3."
        )
    if split == "train":
        return [*(items[:-2] for items in histories.items), *histories.short_items], None
    left_out = 1 if split == "test" else 2
    targets = np.array([items[-left_out] for items in histories.items], dtype=np.int32)
    return [items[:-left_out] for items in histories.items], targets
