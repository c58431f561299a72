"""The second table of an evaluation: lists without what the user has already, and when that is the table to quote."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ..model.inference import pad_rows
from ..model.ranked_lists import RankedLists

OFTEN = 0.1  # ours: lines of one order foretell each other, which is no forecast
FEW_REPEATS = 0.01  # ours: below it nearly nobody buys twice, and lists with own items only waste places

History = Sequence[np.ndarray]


def repeat_rate(histories: History, targets: np.ndarray) -> float:
    """Share of the users whose target stands in their history: they took again what they had."""
    repeats = [target in history for history, target in zip(histories, targets.tolist(), strict=True)]
    return float(np.mean(repeats))


def of_one_moment(interactions: pd.DataFrame, split: str) -> tuple[int, int]:
    """How many users bought what tests them in the same moment as something before, as in one order, and of how many.

    Args:
        interactions: as [`read_interactions`] returns them.
        split: "test" or "validation".
    """
    back = 1 if split == "test" else 2
    ordered = interactions.sort_values("timestamp", kind="stable").groupby("user_id", sort=False)["timestamp"]
    times = {place: ordered.nth(-place) for place in (back, back + 1)}
    users = interactions["user_id"]
    last, before = (times[place].set_axis(users[times[place].index]) for place in (back, back + 1))
    counts = users.value_counts()
    tested = counts.index[counts >= 3]
    return int(np.sum(last.reindex(tested).to_numpy() == before.reindex(tested).to_numpy())), len(tested)


def quoted(rate: float) -> str:
    """Which table the summary quotes, fixed by the repeat rate and not by the figures: "hidden" below 1 %."""
    return "hidden" if rate < FEW_REPEATS else "shown"


def without_own(lists: RankedLists, histories: History, width: int | None = None) -> RankedLists:
    """Each list without the items of its user's history; what is left moves up.

    Args:
        lists: items `(num_users, n)`.
        histories: table rows of each user.
        width: places to keep; None: all.

    Returns:
        `(num_users, width or n)`, -1 and -inf in places that nothing is left for. `leaf_ranks` are dropped: the places
        among distinct IDs are no longer known.
    """
    own, _ = pad_rows(histories)
    first = np.arange(len(own))[:, None] * (int(max(lists.items.max(initial=0), own.max(initial=0))) + 2) + 1
    keep = (lists.items >= 0) & ~np.isin(lists.items + first, own + first)
    order = np.argsort(~keep, axis=1, kind="stable")[:, :width]
    keep = np.take_along_axis(keep, order, axis=1)
    items = np.where(keep, np.take_along_axis(lists.items, order, axis=1), -1)
    return RankedLists(items, np.where(keep, np.take_along_axis(lists.scores, order, axis=1), -np.inf))


def refilled(
    make_lists: Callable[[History, int], dict[str, RankedLists]], histories: History, width: int
) -> dict[str, RankedLists]:
    """Lists of `width` places without the users' own items, from lists that are long enough to lose these.

    Args:
        make_lists: `(histories, width)` to lists by name.
        histories: table rows of each user. Users with histories of about one length get lists of one length.
        width: places to keep.
    """
    lengths = np.array([len(np.unique(history)) for history in histories], dtype=np.int64)
    found: dict[str, RankedLists] = {}
    sizes = _next_power_of_two(lengths)
    for size in np.unique(sizes):
        users = np.flatnonzero(sizes == size)
        some = [histories[int(user)] for user in users]
        for name, lists in make_lists(some, width + int(size)).items():
            kept = without_own(lists, some, width)
            if name not in found:
                shape = (len(histories), width)
                found[name] = RankedLists(np.full(shape, -1), np.full(shape, -np.inf, dtype=kept.scores.dtype))
            found[name].items[users], found[name].scores[users] = kept.items, kept.scores
    return found


def _next_power_of_two(lengths: np.ndarray) -> np.ndarray:
    return 2 ** np.ceil(np.log2(np.maximum(lengths, 8))).astype(np.int64)
