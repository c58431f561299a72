"""What a shop can do without a model: the figures that a recommender has to beat.

Every baseline takes `(train_histories, histories, num_items, width, seed)`: the purchases to learn from, a sequence a
user (all but the last two, whole where there are fewer than three; by time all before the cut), the histories to
answer (lists of int arrays of item rows, oldest first), the size of the catalogue and the length of the lists. It
returns int64 `(num_users, width)` rows, best first, without repeats, -1 where the catalogue is exhausted. Only
`random_items` uses the seed.
"""

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from ..cpu.threads import map_parts
from ..data.item_regression import MOST_PURCHASES, ROOM, with_item_regression
from ..data.purchase_counting import count_purchases
from ..model.inference import pad_rows
from ..model.purchase_counts import TOGETHER_WINDOW, PurchaseCounts
from ..model.ranked_lists import RankedLists
from .ranking_metrics import KS

WINDOWS = (3, 5, 10)  # distances that `best_window` chooses from; ours
_WINDOW_USERS = 2000
_USERS_AT_A_TIME = 256  # bounds the memory of the scores; smaller blocks stay in a core's cache

# What the neighbours of a history's items vote with, and whether its own items are left out.
VOTES = {
    "co_visitation": ("together", False),
    "co_occurrence": ("near", False),
    "co_visitation_new_items": ("together", True),
    "markov_chain": ("last_next", False),
    "item_regression": ("regression", False),
}

History = Sequence[np.ndarray]


class Counted:
    """Training sequences, and what the baselines count in them: once, however many lists they make.

    Args:
        histories: the training sequences.
        num_items: of the catalogue.
        window: the largest distance of `co_occurrence`; None: that of [`best_window`].
    """

    def __init__(self, histories: History, num_items: int, window: int | None = None):
        self.histories, self.num_items, self.window = histories, num_items, window

    @cached_property
    def counts(self) -> PurchaseCounts:
        """Pairs by distance."""
        window = best_window(self.histories, self.num_items) if self.window is None else self.window
        return count_purchases(self.histories, self.num_items, window=window)

    @cached_property
    def regressed(self) -> PurchaseCounts:
        """The same with what each item says of each other beside all others; without where it would take too long."""
        return with_item_regression(self.counts, ROOM)

    @property
    def names(self) -> list[str]:
        """Those of [`VOTES`] that can be told: without a regression where there is none."""
        return [name for name in VOTES if name != "item_regression" or self.regressed.regression is not None]

    @cached_property
    def order(self) -> np.ndarray:
        """All rows, the bestsellers first: see [`popularity_order`]."""
        return popularity_order(self.histories, self.num_items)

    def votes(self, histories: History, width: int, names: Sequence[str] = tuple(VOTES)) -> dict[str, np.ndarray]:
        """Lists by the neighbours of a history's items, by name of [`VOTES`]: equal values by popularity, then the
        bestsellers; a block of users on each thread."""
        blocks = [histories[at : at + _USERS_AT_A_TIME] for at in range(0, len(histories), _USERS_AT_A_TIME)]
        regressed = any(VOTES[name][0] == "regression" for name in names)
        counts = self.regressed if regressed else self.counts
        if regressed and counts.regression is None:
            bought = f"{MOST_PURCHASES // ROOM:,} purchases, got {counts.popularity.sum():,}"
            raise ValueError(f"item_regression: expected sequences of at most {bought}. Its lists are left out there.")
        place = counts.places  # counted here, not by each thread
        found = map_parts(partial(self._votes_of_some, counts, width, names, place), blocks)
        nobody = np.zeros((0, width), dtype=np.int64)
        return {name: np.concatenate([nobody, *(block[name] for block in found)]) for name in names}

    def _votes_of_some(
        self, counts: PurchaseCounts, width: int, names: Sequence[str], place: np.ndarray, histories: History
    ) -> dict[str, np.ndarray]:
        own, _ = pad_rows(histories)
        longest: dict[str, int] = {}
        for values, hides in (VOTES[name] for name in names):
            longest[values] = max(longest.get(values, 0), width + own.shape[1] * hides)
        scores = counts.neighbours(histories, names=list(longest))
        best = {values: scores.best(values, len(histories), longest[values], place) for values in longest}
        lists = {}
        for name in names:
            values, hides = VOTES[name]
            lists[name] = _fill(best[values], self.order, width, own if hides else None)
        return lists


def random_items(
    train_histories: History, histories: History, num_items: int, width: int, seed: int = 0
) -> np.ndarray:
    """Items drawn without looking: what chance alone would hit."""
    generator = np.random.default_rng(seed)
    drawn = min(width, num_items)
    lists = np.full((len(histories), width), -1, dtype=np.int64)
    for row in lists:
        row[:drawn] = generator.choice(num_items, drawn, replace=False)
    return lists


def popularity_order(train_histories: History, num_items: int) -> np.ndarray:
    """All rows by falling number of purchases in the training sequences, equal counts by row: int64."""
    return np.argsort(-_counts(train_histories, num_items), kind="stable")


def popularity(train_histories: History, histories: History, num_items: int, width: int, seed: int = 0) -> np.ndarray:
    """The bestsellers for everybody. A purchase counts once each time, so repeats count too."""
    best = popularity_order(train_histories, num_items)[:width]
    return np.repeat(np.pad(best, (0, width - len(best)), constant_values=-1)[None], len(histories), axis=0)


def recent_then_popularity(
    train_histories: History, histories: History, num_items: int, width: int, seed: int = 0
) -> np.ndarray:
    """The user's own items, the last one first, then the bestsellers: what a shop can do that only sees repeats."""
    own, _ = pad_rows([history[::-1] for history in histories])
    return _fill(own, popularity_order(train_histories, num_items), width)


def co_visitation(
    train_histories: History, histories: History, num_items: int, width: int, seed: int = 0
) -> np.ndarray:
    """Items that other users bought within five steps of the history's items, then the bestsellers.

    The j-th last item of a history votes with weight 1 / j. A bought item can be proposed again, as its neighbours
    vote for it.
    """
    return _voted("co_visitation", train_histories, histories, num_items, width, TOGETHER_WINDOW)


def co_visitation_new_items(
    train_histories: History, histories: History, num_items: int, width: int, seed: int = 0
) -> np.ndarray:
    """`co_visitation` without the items of the history, which shows what the neighbours alone are worth."""
    return _voted("co_visitation_new_items", train_histories, histories, num_items, width, TOGETHER_WINDOW)


def co_occurrence(
    train_histories: History, histories: History, num_items: int, width: int, seed: int = 0
) -> np.ndarray:
    """Items bought near those of the history, each pair weighted by 1 / distance, then the bestsellers.

    The j-th last item of a history votes with weight 1 / j; how far apart purchases may be is chosen by
    [`best_window`].
    """
    return _voted("co_occurrence", train_histories, histories, num_items, width)


def markov_chain(
    train_histories: History, histories: History, num_items: int, width: int, seed: int = 0
) -> np.ndarray:
    """Items that other users bought right after the history's last item, the most often first, then the bestsellers.

    The transitions of a first-order Markov chain, as they were counted, to another item than the last. The strongest
    count where each purchase follows from the one before, such as the next volume of a series.
    """
    return _voted("markov_chain", train_histories, histories, num_items, width, TOGETHER_WINDOW)


def item_regression(
    train_histories: History, histories: History, num_items: int, width: int, seed: int = 0
) -> np.ndarray:
    """Items that those of the history explain best, each beside all others, then the bestsellers.

    The j-th last item of a history votes with weight 1 / j times its weight in the regression of
    [`~data.item_regression.with_item_regression`], after Steck's EASE (2019, https://arxiv.org/abs/1905.03375): what
    two bestsellers have in common with everything counts little.
    """
    return _voted("item_regression", train_histories, histories, num_items, width)


def _voted(
    name: str, train_histories: History, histories: History, num_items: int, width: int, window: int | None = None
) -> np.ndarray:
    window = best_window(train_histories, num_items, histories) if window is None else window
    return Counted(train_histories, num_items, window).votes(histories, width, [name])[name]


def best_window(
    train_histories: History,
    num_items: int,
    histories: History = (),
    targets: np.ndarray | None = None,
    owners: np.ndarray | None = None,
) -> int:
    """The distance of `co_occurrence` out of 3, 5 and 10 that best predicts the validation purchases.

    By NDCG@10 of at most 2,000 purchases, evenly spaced; equal ones: the smallest. Where there is no purchase to
    predict: of the last items of the training sequences, with counts that lack these.

    Args:
        train_histories: what is counted, as for [`baseline_lists`].
        histories: what was bought before each purchase to predict.
        targets: int, `(num_purchases,)`, table rows of these. None: they are the last items of those `histories` that
            go on from a training sequence by one item and are none themselves, as those of a test split do.
        owners: int, `(num_purchases,)`, whose purchase each is, a place in `histories`; None: one each.
    """
    earlier = train_histories
    if targets is None:
        trained = {tuple(np.asarray(history).tolist()) for history in train_histories}
        long = [h for h in map(np.asarray, histories) if len(h) > 1 and tuple(h[:-1].tolist()) in trained]
        histories, targets = without_last([h for h in long if tuple(h.tolist()) not in trained])
    if not len(targets):
        histories, targets = without_last([history for history in train_histories if len(history) > 1])
        earlier, owners = histories, None
    if not len(targets):
        return WINDOWS[0]
    chosen = np.unique(np.linspace(0, len(targets) - 1, min(_WINDOW_USERS, len(targets))).astype(np.int64))
    asked = [histories[user] for user in (chosen if owners is None else owners[chosen])]
    found = {}
    for window in WINDOWS:
        hits = _voted("co_occurrence", earlier, asked, num_items, max(KS), window) == targets[chosen][:, None]
        found[window] = (hits / np.log2(np.arange(max(KS)) + 2.0)).sum()
    return max(WINDOWS, key=lambda window: found[window])


def without_last(sequences: History) -> tuple[History, np.ndarray]:
    """All but the last item of each, and the last ones: int64, `(num_sequences,)`."""
    return [items[:-1] for items in sequences], np.array([items[-1] for items in sequences], dtype=np.int64)


BASELINES = {
    "random": random_items,
    "popularity": popularity,
    "recent_then_popularity": recent_then_popularity,
    "co_visitation": co_visitation,
    "co_occurrence": co_occurrence,
    "co_visitation_new_items": co_visitation_new_items,
    "markov_chain": markov_chain,
    "item_regression": item_regression,
}


def _counts(histories: History, num_items: int) -> np.ndarray:
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *histories])
    return np.bincount(rows, minlength=num_items)


def _fill(own: np.ndarray, order: np.ndarray, width: int, hidden: np.ndarray | None = None) -> np.ndarray:
    """Each user's own list, then `order`; every item at its first place only, none of the hidden ones."""
    hidden = np.zeros((len(own), 0), dtype=np.int64) if hidden is None else hidden
    rest = order[: width + own.shape[1] + hidden.shape[1]]
    items = np.concatenate([hidden, own, np.repeat(rest[None], len(own), axis=0)], axis=1)
    by_item = np.argsort(items, axis=1, kind="stable")  # stable: of equal items the first place comes first
    ordered = np.take_along_axis(items, by_item, axis=1)
    repeated = np.zeros_like(items, dtype=bool)
    again = np.concatenate([np.zeros((len(items), 1), dtype=bool), ordered[:, 1:] == ordered[:, :-1]], axis=1)
    np.put_along_axis(repeated, by_item, again, axis=1)
    items = np.where(repeated, -1, items)[:, hidden.shape[1] :]
    front = np.argsort(items < 0, axis=1, kind="stable")[:, :width]
    items = np.take_along_axis(items, front, axis=1)
    return np.pad(items, ((0, 0), (0, width - items.shape[1])), constant_values=-1)


def baseline_lists(
    train_histories: History | Counted,
    histories: History,
    num_items: int,
    width: int = max(KS),
    seed: int = 0,
) -> dict[str, RankedLists]:
    """What a shop can do without a model, the figures to beat; scores are the places, so there are no ties.

    Args:
        train_histories: int arrays of table rows, oldest first, a user each, to count in: all but the last two items;
            or these as `Counted`, which several calls can share.
        histories: the same of the users to answer, up to the item that is asked for.
        num_items: items of the catalogue.
        width: length of the lists. Default 10, the largest K.
        seed: of `random`; the others draw nothing.

    Returns:
        `{name: RankedLists}`: "random", "popularity", "recent_then_popularity" (the user's own items, the last one
        first), "co_visitation" (items bought within five steps of the history's), "co_visitation_new_items" (the
        same without the history), "co_occurrence" (pairs weighted by 1 / distance), "markov_chain" (what was bought
        right after the last item) and "item_regression" (what the history's items explain, each beside all others;
        left out where there are too many purchases for it, see [`~data.item_regression.is_made`]).
    """
    known = train_histories.histories if isinstance(train_histories, Counted) else train_histories
    if isinstance(train_histories, Counted) and train_histories.num_items == num_items:
        counted = train_histories
    else:
        counted = Counted(known, num_items, best_window(known, num_items, histories))
    voted, found = counted.votes(histories, width, counted.names), {}
    for name, baseline in BASELINES.items():
        if name in VOTES and name not in voted:
            continue
        items = voted[name] if name in voted else baseline(counted.histories, histories, num_items, width, seed)
        scores = np.where(items >= 0, -np.arange(width, dtype=np.float32), -np.inf)
        found[name] = RankedLists(items, scores)
    return found
