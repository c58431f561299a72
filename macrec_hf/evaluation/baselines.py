"""What a shop can do without a model: the figures that a recommender has to beat.

Every baseline takes `(train_histories, histories, num_items, width, seed)`: the training sequences to learn from (all
but the last two items of each user), the histories to answer (lists of int arrays of item rows, oldest first), the
size of the catalogue and the length of the lists. It returns int64 `(num_users, width)` rows, best first, without
repeats, -1 where the catalogue is exhausted. Only `random_items` uses the seed.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from ..model.inference import pad_rows
from ..model.ranked_lists import RankedLists
from .ranking_metrics import KS

CO_VISITATION_WINDOW = 5  # steps between two purchases that still count as bought together; ours
CO_VISITATION_HISTORY = 20  # the last items of a history that vote; the recommender's own limit
_USERS_AT_A_TIME = 1024  # bounds the memory of the co-visitation scores

History = Sequence[np.ndarray]


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
    train_histories: History,
    histories: History,
    num_items: int,
    width: int,
    seed: int = 0,
    hide_history: bool = False,
) -> np.ndarray:
    """Items that other users bought within five steps of the history's items, then the bestsellers.

    The j-th last item of a history votes with weight 1 / j. A bought item can be proposed again, as its neighbours
    vote for it; `hide_history=True` leaves the history out, which shows what the neighbours alone are worth.
    """
    order = popularity_order(train_histories, num_items)
    neighbours = _neighbour_counts(train_histories, num_items)
    blocks = [
        _best_neighbours(histories[start : start + _USERS_AT_A_TIME], neighbours, order, width, hide_history)
        for start in range(0, len(histories), _USERS_AT_A_TIME)
    ]
    return np.concatenate(blocks) if blocks else np.zeros((0, width), dtype=np.int64)


def co_visitation_new_items(
    train_histories: History, histories: History, num_items: int, width: int, seed: int = 0
) -> np.ndarray:
    """`co_visitation` without the items of the history."""
    return co_visitation(train_histories, histories, num_items, width, seed, hide_history=True)


BASELINES = {
    "random": random_items,
    "popularity": popularity,
    "recent_then_popularity": recent_then_popularity,
    "co_visitation": co_visitation,
    "co_visitation_new_items": co_visitation_new_items,
}


def _counts(histories: History, num_items: int) -> np.ndarray:
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *histories])
    return np.bincount(rows, minlength=num_items)


def _neighbour_counts(histories: History, num_items: int) -> sparse.csr_matrix:
    """How often two different items stand within the window of each other: symmetric, (num_items, num_items)."""
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *histories])
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    counts = sparse.csr_matrix((num_items, num_items))
    for step in range(1, CO_VISITATION_WINDOW + 1):
        first, second = rows[:-step], rows[step:]
        together = (users[:-step] == users[step:]) & (first != second)
        pairs = (first[together], second[together])
        counts = counts + sparse.csr_matrix((np.ones(len(pairs[0])), pairs), shape=counts.shape)
    return (counts + counts.T).tocsr()


def _best_neighbours(
    histories: History, neighbours: sparse.csr_matrix, order: np.ndarray, width: int, hide_history: bool
) -> np.ndarray:
    """The lists of one block of users."""
    num_items = neighbours.shape[0]
    recent = [history[::-1][:CO_VISITATION_HISTORY] for history in histories]
    lengths = np.array([len(history) for history in recent])
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    weights = 1.0 / (np.arange(lengths.sum()) - starts + 1)
    voters = np.repeat(np.arange(len(histories)), lengths)
    votes = (voters, np.concatenate([np.zeros(0, dtype=np.int64), *recent]))
    scores = sparse.csr_matrix((weights, votes), shape=(len(histories), num_items)) @ neighbours
    # Sums of 1 / j differ in the last bits by the order of addition: without rounding equal scores would not be equal.
    scores.data = np.round(scores.data, 9)
    hidden = pad_rows(histories)[0] if hide_history else None
    keep = width + (0 if hidden is None else hidden.shape[1])
    place = np.empty(num_items, dtype=np.int64)
    place[order] = np.arange(num_items)
    return _fill(pad_rows(_best_of_each_row(scores, place, keep))[0], order, width, hidden)


def _best_of_each_row(scores: sparse.csr_matrix, place: np.ndarray, keep: int) -> list[np.ndarray]:
    """The `keep` columns with the highest scores of each row, equal scores by `place`."""
    best = []
    for start, end in zip(scores.indptr[:-1], scores.indptr[1:], strict=True):
        values, columns = scores.data[start:end], scores.indices[start:end]
        if len(values) > keep:  # sorting everything would take ten times as long
            wanted = values >= np.partition(values, len(values) - keep)[len(values) - keep]
            values, columns = values[wanted], columns[wanted]
        best.append(columns[np.lexsort((place[columns], -values))[:keep]])
    return best


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
    train_histories: Sequence[np.ndarray],
    histories: Sequence[np.ndarray],
    num_items: int,
    width: int = max(KS),
    seed: int = 0,
) -> dict[str, RankedLists]:
    """What a shop can do without a model, the figures to beat; scores are the places, so there are no ties.

    Args:
        train_histories: int arrays of table rows, oldest first, a user each, to count in: all but the last two items.
        histories: the same of the users to answer, up to the item that is asked for.
        num_items: items of the catalogue.
        width: length of the lists. Default 10, the largest K.
        seed: of `random`; the others draw nothing.

    Returns:
        `{name: RankedLists}`: "random", "popularity", "recent_then_popularity" (the user's own items, the last one
        first), "co_visitation" (items bought within five steps of the history's) and "co_visitation_new_items" (the
        same without the history).
    """
    found = {}
    for name, baseline in BASELINES.items():
        items = baseline(train_histories, histories, num_items, width, seed)
        scores = np.where(items >= 0, -np.arange(width, dtype=np.float32), -np.inf)
        found[name] = RankedLists(items, scores)
    return found
