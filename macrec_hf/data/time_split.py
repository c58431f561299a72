"""What a date parts: purchases before it are known, those from it on are to be predicted."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np
import pandas as pd

from .histories import Histories, user_histories
from .times import days_of

VALIDATION_SHARE = 0.2
"""Of the purchases before the date, these are kept for validation, the latest ones; ours."""

Cut = str | float | date


@dataclass(frozen=True)
class Moments:
    """When each purchase was made, as numbers that a cut can be compared with.

    Attributes:
        values: one a purchase: days since 1970 (UTC), or the timestamps themselves where they are no dates.
        are_days: which of the two.
    """

    values: np.ndarray
    are_days: bool

    @classmethod
    def of(cls, timestamps: pd.Series) -> "Moments":
        """Those of the column `timestamp` of what [`read_interactions`] returns."""
        days = days_of(timestamps)
        if days is not None:
            return cls(days.astype(np.float64), True)
        return cls(timestamps.to_numpy(dtype=np.float64), False)

    def at(self, cut: Cut, called: str = "cut") -> float:
        """The number of a cut: a day that begins at midnight UTC, or a timestamp where these are no dates.

        Args:
            called: the argument that names it, for the error.

        Raises:
            ValueError: no date where the timestamps are dates, no number where they are numbers.
        """
        try:
            if not self.are_days:
                return float(cut)  # type: ignore[arg-type]  # a date raises TypeError
            return float((date.fromisoformat(str(cut)) - date(1970, 1, 1)).days)
        except (TypeError, ValueError) as error:
            expected = "a date such as 2020-03-01" if self.are_days else "a number, as the timestamps are"
            raise ValueError(
                f"{called}: expected {expected}, got {cut!r}. The purchases are of {self.span}."
            ) from error

    def name(self, moment: float) -> str:
        """The number as people write it: "2020-03-01", or "17"."""
        return str(np.datetime64(int(moment), "D")) if self.are_days else f"{moment:.15g}"

    @property
    def span(self) -> str:
        """From the first to the last purchase."""
        return f"{self.name(self.values.min())} to {self.name(self.values.max())}"


@dataclass
class FutureUsers:
    """Users who buy after a cut: what they had bought before, and all that they buy from then on.

    Attributes:
        user_ids: of the users to evaluate: those with a purchase at the cut or later.
        histories: for each of them the table rows of the purchases before the cut, oldest first; empty for a user who
            had bought nothing.
        targets: int64, `(num_purchases,)`, the table rows of the later purchases. Items that the table lacks have
            numbers from its length on: nobody can hit them.
        owners: int64, `(num_purchases,)`, whose purchase each target is: a place in `user_ids`, rising.
        unseen: bool, one for each item of the table and after these each of `unknown_ids`: not sold before the cut.
        unknown_ids: the items that are sold later and that the table lacks.
        counted: the purchases that may be counted, a sequence a user, of everybody: all before the cut.
        num_short: users who are counted, but buy nothing later.
        other_ids: the ids of these.
        cut: its name, such as "2020-03-01".
        days: int64, `(num_users,)`, the day of the cut, as of which every list is made; None where the timestamps are
            no dates.
        counted_days: the days of `counted`, or None.
    """

    user_ids: list[str]
    histories: list[np.ndarray]
    targets: np.ndarray
    owners: np.ndarray
    unseen: np.ndarray
    unknown_ids: list[str]
    counted: list[np.ndarray]
    num_short: int
    other_ids: list[str]
    cut: str
    days: np.ndarray | None = None
    counted_days: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.user_ids)

    def validation(self) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
        """What ways of counting are chosen by: the purchases before the latest fifth of the counted ones, and these.

        Returns:
            `(learned, histories, targets, owners)`: everybody's purchases before the day with which validation
            begins, as of [`HistoriesUntil`]; the same of the users who had bought by then; their later purchases that
            are counted, table rows; and whose each is, a place in `histories`. Where there are none, or no dates, or
            all are of one day: all that is counted, and no purchase.
        """
        nothing, moments = np.zeros(0, dtype=np.int64), np.concatenate(self.counted_days or [np.zeros(0)])
        if len(np.unique(moments)) < 2:
            return self.counted, [], nothing, nothing
        start = _latest_fifth(moments)
        parts = [int(np.searchsorted(days, start)) for days in self.counted_days or []]
        both = [(rows[:part], rows[part:]) for rows, part in zip(self.counted, parts, strict=True) if part]
        targets = np.concatenate([later for _, later in both]) if both else nothing
        if not len(targets):
            return self.counted, [], nothing, nothing
        learned = [known for known, _ in both]
        return learned, learned, targets.astype(np.int64), np.repeat(np.arange(len(both)), [len(b) for _, b in both])

    def some(self, count: int | None) -> "FutureUsers":
        """At most `count` of the users, evenly spaced, with their purchases; None: all. What is counted stays.

        Raises:
            ValueError: a count below 1.
        """
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise ValueError(f"limit_users: expected at least 1 user, or None for all, got {count}.")
        chosen = np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64))
        kept = np.isin(self.owners, chosen)
        return replace(
            self,
            user_ids=[self.user_ids[user] for user in chosen],
            histories=[self.histories[user] for user in chosen],
            targets=self.targets[kept],
            owners=np.searchsorted(chosen, self.owners[kept]),
            days=None if self.days is None else self.days[chosen],
        )


@dataclass
class HistoriesUntil(Histories):
    """What may be learned before a date: purchases before an earlier day train, those between the two validate.

    Attributes:
        user_ids, items: users who validate, with their purchases before `validates_from`, at least one.
        short_ids, short_items: the others with a purchase before `validates_from`: they only train.
        later: all that each of them buys from `validates_from` on and before the date, oldest first.
        newcomers: the same of those who had bought nothing before `validates_from`.
        counted: everybody's purchases before the date, a sequence a user.
        first_day: `validates_from` as days since 1970; None where the timestamps are no dates.
        until, validates_from: the two days, as people write them.
        has_later: whether there are purchases from `until` on, which nothing here looks at.
    """

    later: list[np.ndarray] = field(default_factory=list)
    newcomers: list[np.ndarray] = field(default_factory=list)
    counted: list[np.ndarray] = field(default_factory=list)
    first_day: int | None = None
    until: str = ""
    validates_from: str = ""
    has_later: bool = True

    @property
    def owners(self) -> np.ndarray:
        """Whose purchase each of `later` is: int64, `(num_purchases,)`, places in `user_ids`, rising."""
        return np.repeat(np.arange(len(self)), [len(items) for items in self.later])

    def split(self, split: str) -> tuple[list[np.ndarray], np.ndarray | None]:
        """As [`leave_one_out`] gives "train" and "validation"; nothing tests.

        A history validates with each purchase of `later`, of the user that `owners` names; each time as it was when
        validation began.

        Raises:
            ValueError: another split.
        """
        if split == "train":
            return [*self.items, *self.short_items], None
        if split != "validation":
            raise ValueError(f"Expected split 'train' or 'validation', got {split!r}: nothing tests before a date.")
        targets = np.concatenate([np.zeros(0, dtype=np.int32), *self.later])
        return [self.items[user] for user in self.owners], targets


def split_at(interactions: pd.DataFrame, row_of: Mapping[str, int], cut: Cut) -> FutureUsers:
    """Parts the purchases at a cut, those of the cut's own day being later ones.

    Args:
        interactions: as [`read_interactions`] returns them.
        row_of: item id → row of the table.
        cut: a date such as "2020-03-01"; where the timestamps are no dates, a number to compare them with.

    Raises:
        ValueError: a cut of another kind, nothing before it or nothing from it on, an item sold before it that the
            table lacks.
    """
    moments = Moments.of(interactions["timestamp"])
    known, later = _parted(interactions, moments, moments.at(cut), "cut")
    before = user_histories(known, row_of, min_interactions=1)
    unknown = [str(item) for item in later["item_id"].unique() if item not in row_of]
    beyond = {item: len(row_of) + place for place, item in enumerate(unknown)}
    after = user_histories(later, {**row_of, **beyond}, min_interactions=1)
    history_of, nothing = dict(zip(before.user_ids, before.items, strict=True)), np.zeros(0, dtype=np.int32)
    unseen = np.ones(len(row_of) + len(unknown), dtype=bool)
    unseen[np.concatenate(before.items)] = False
    later_ids = set(after.user_ids)
    others = [user for user in before.user_ids if user not in later_ids]
    day = np.full(len(after), moments.at(cut), dtype=np.int64) if moments.are_days else None
    return FutureUsers(
        after.user_ids,
        [history_of.get(user, nothing) for user in after.user_ids],
        np.concatenate(after.items).astype(np.int64),
        np.repeat(np.arange(len(after)), [len(items) for items in after.items]),
        unseen,
        unknown,
        before.items,
        len(others),
        others,
        moments.name(moments.at(cut)),
        day,
        before.days if moments.are_days else None,
    )


def items_before(interactions: pd.DataFrame, until: Cut) -> set[str]:
    """Ids of the items that were sold before a date: those that may be learned from.

    Args:
        interactions, until: as for [`histories_until`].

    Raises:
        ValueError: a date of another kind, or no purchase before it.
    """
    return set(purchases_before(interactions, until)["item_id"])


def purchases_before(interactions: pd.DataFrame, until: Cut | None) -> pd.DataFrame:
    """The purchases before a date; all without one.

    Args:
        interactions, until: as for [`histories_until`].

    Raises:
        ValueError: a date of another kind, or no purchase before it.
    """
    if until is None:
        return interactions
    moments = Moments.of(interactions["timestamp"])
    return _parted(interactions, moments, moments.at(until, "until"), "until", nothing_later=True)[0]


def histories_until(interactions: pd.DataFrame, row_of: Mapping[str, int], until: Cut) -> HistoriesUntil:
    """What training may learn before a date; later purchases are not looked at.

    Validation begins on the day from which on most nearly a fifth of the purchases before the date were made. Each
    user who had bought before that day and buys again before the date validates, with every purchase from that day on
    as a target. Training has every purchase before that day, of everybody.

    Args:
        interactions, row_of: as for [`split_at`].
        until: as its `cut`.

    Raises:
        ValueError: a date of another kind, no purchase before it, an item sold before it that the table lacks, or
            nobody who buys both before validation begins and after.
    """
    moments = Moments.of(interactions["timestamp"])
    end = moments.at(until, "until")
    earlier = moments.values[moments.values < end]
    start = _validation_start(earlier, moments, end)
    known, _ = _parted(interactions, moments, end, "until", nothing_later=True)
    counted = user_histories(known, row_of, min_interactions=1)
    before = user_histories(known[earlier < start], row_of, min_interactions=1)
    between = user_histories(known[earlier >= start], row_of, min_interactions=1)
    later_of = dict(zip(between.user_ids, between.items, strict=True))
    known_ids = set(before.user_ids)
    validates = np.array([user in later_of for user in before.user_ids])
    if not validates.any():
        raise ValueError(
            f"until: expected a customer who buys before {moments.name(start)} and again before {moments.name(end)}, "
            "to validate, got none. Choose a later date, or is user_id the right column?"
        )
    yes, no = np.flatnonzero(validates), np.flatnonzero(~validates)
    return HistoriesUntil(
        [before.user_ids[user] for user in yes],
        [before.items[user] for user in yes],
        [before.user_ids[user] for user in no],
        [before.items[user] for user in no],
        days=None if before.days is None else [before.days[user] for user in yes],
        short_days=None if before.days is None else [before.days[user] for user in no],
        later=[later_of[before.user_ids[user]] for user in yes],
        newcomers=[items for user, items in later_of.items() if user not in known_ids],
        counted=counted.items,
        first_day=int(start) if moments.are_days else None,
        until=moments.name(end),
        validates_from=moments.name(start),
        has_later=len(known) < len(interactions),
    )


def is_later(one: str, other: str) -> bool:
    """Whether the first of two names of moments is later than the other, or may be.

    A date and a number, of files that write their moments differently, cannot be compared: text would call 2024-12-31
    earlier than 20240101, because a hyphen comes before digits.
    """
    first, second = _number(one), _number(other)
    if first is None and second is None:
        return one > other
    return first is None or second is None or first > second


def _number(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None


def _parted(
    interactions: pd.DataFrame, moments: Moments, cut: float, what: str, nothing_later: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The purchases before a cut and the others, neither empty."""
    early = moments.values < cut
    if not early.any() or (early.all() and not nothing_later):
        side = f"from {moments.name(cut)} on" if early.any() else f"before {moments.name(cut)}"
        raise ValueError(f"{what}: expected purchases {side}, got none: those of the file are of {moments.span}.")
    return interactions[early], interactions[~early]


def _validation_start(earlier: np.ndarray, moments: Moments, end: float) -> float:
    """The day from which on most nearly a fifth of the purchases were made."""
    if len(days := np.unique(earlier)) < 2:
        raise ValueError(
            f"until: expected purchases of at least two days before {moments.name(end)}, some to train and some to "
            f"validate, got {len(days)}: those of the file are of {moments.span}."
        )
    return _latest_fifth(earlier)


def _latest_fifth(moments: np.ndarray) -> float:
    """The one from which on most nearly a fifth of them lie; there are at least two different ones."""
    values, counts = np.unique(moments, return_counts=True)
    share = counts[::-1].cumsum()[::-1][1:] / len(moments)
    return float(values[1:][np.argmin(np.abs(share - VALIDATION_SHARE))])
