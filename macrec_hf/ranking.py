"""Hit rate, NDCG, ties and the fusing of ranked lists. NumPy only: what is computed here needs no model.

Axes: `num_users` rows, `width` places of a ranked list, best first. An item is its row in the table, -1 an empty
place, whose score is -inf. Exactly equal scores are ties.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FUSIONS = ("average", "authors")


@dataclass
class RankedLists:
    """Ranked items, a row a user, best first.

    Attributes:
        items: int64, `(num_users, width)`, rows of the table; -1 in places without an item.
        scores: float, same shape, falling; log-probabilities (or their fusion), -inf in places without an item.
        leaf_ranks: int64, same shape: at which place, from 0, the item's ID was found among the distinct IDs; items
            that share an ID share it. None for lists that do not come from one modality's IDs.
    """

    items: np.ndarray
    scores: np.ndarray
    leaf_ranks: np.ndarray | None = None


class TiedRanks(NamedTuple):
    """Where the targets stand. Both arrays are int64, `(num_users,)`.

    Attributes:
        above: number of items that are strictly better than the target.
        tied: number of items that share the target's score, itself included; 0 where the list lacks the target.
    """

    above: np.ndarray
    tied: np.ndarray


def tied_ranks(items: np.ndarray, targets: np.ndarray, scores: np.ndarray | None = None) -> TiedRanks:
    """Finds each target in its ranked list.

    Args:
        items: int, `(num_users, width)`, best first, -1 where a place is empty.
        targets: int, `(num_users,)`.
        scores: float, `(num_users, width)`, falling along each row; None: the order of the list counts, without ties.

    Raises:
        ValueError: if the shapes disagree.
    """
    items, targets = np.asarray(items), np.asarray(targets)
    if items.ndim != 2 or targets.shape != items.shape[:1]:
        raise ValueError(
            f"Expected ranked lists of shape (num_users, width) and one target a user, got {items.shape} lists and "
            f"{targets.shape} targets: pad short lists with -1 and pass as many targets as lists."
        )
    found = (items == targets[:, None]) & (items >= 0)
    place = found.argmax(axis=1) if items.shape[1] else np.zeros(len(items), dtype=np.int64)
    is_found = found.any(axis=1)
    if scores is None:
        return TiedRanks(place, is_found.astype(np.int64))
    scores = np.asarray(scores)
    if scores.shape != items.shape:
        raise ValueError(f"Expected one score an item, got {scores.shape} scores for {items.shape} items.")
    if not items.shape[1]:
        return TiedRanks(place, is_found.astype(np.int64))
    of_target = np.take_along_axis(scores, place[:, None], axis=1)
    above = ((scores > of_target) & (items >= 0)).sum(axis=1)
    tied = ((scores == of_target) & (items >= 0)).sum(axis=1)
    return TiedRanks(np.where(is_found, above, 0), np.where(is_found, tied, 0))


def hit_rate(ranks: TiedRanks, k: int) -> np.ndarray:
    """Hit rate at `k`, expected over the orders of the tied items: float64, `(num_users,)`.

    With `a` items above and `t` tied, the target is equally likely at each rank from a + 1 to a + t, so it is among
    the first k with probability clip((k - a) / t, 0, 1). Paper, "Metrics": HR@K; the ties are ours.
    """
    return np.where(ranks.tied > 0, np.clip((k - ranks.above) / np.maximum(ranks.tied, 1), 0.0, 1.0), 0.0)


def ndcg(ranks: TiedRanks, k: int) -> np.ndarray:
    """NDCG at `k` with one relevant item, expected over the orders of the tied items: float64, `(num_users,)`.

    The mean of 1 / log2(rank + 1), 0 beyond rank k, over the `t` ranks that the target can take. One relevant item
    makes the ideal gain 1. Paper, "Metrics": NDCG@K; the ties are ours.
    """
    gains = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])  # gains[r]: sum over ranks 1 … r
    last, first = np.minimum(ranks.above + ranks.tied, k), np.minimum(ranks.above, k)
    return np.where(ranks.tied > 0, (gains[last] - gains[first]) / np.maximum(ranks.tied, 1), 0.0)


def fuse(scores: np.ndarray, fusion: str = "average") -> np.ndarray:
    """One score an item from one score a modality.

    Args:
        scores: float, `(num_modalities, ...)`, -inf where a modality has nothing to say of an item.
        fusion: "average": the mean over the modalities that score the item. "authors": the rule of the authors' code,
            that mean plus 1 for an item in both lists, else the one score; each further list adds another 1.

    Returns:
        `(...)`, -inf where no modality scores the item.

    Raises:
        ValueError: for any other `fusion`.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}.")
    scores = np.asarray(scores)
    known = scores > -np.inf
    count = known.sum(axis=0)
    mean = np.where(known, scores, 0).sum(axis=0, dtype=scores.dtype) / np.maximum(count, 1).astype(scores.dtype)
    bonus = np.maximum(count - 1, 0).astype(scores.dtype) if fusion == "authors" else np.zeros_like(mean)
    return np.where(count > 0, mean + bonus, -np.inf).astype(scores.dtype)


def sort_lists(
    items: np.ndarray, scores: np.ndarray, *others: np.ndarray, width: int | None = None
) -> tuple[np.ndarray, ...]:
    """Sorts each row by falling score, tied items by their number, so that equal input gives equal lists.

    Args:
        items: int, `(num_users, num_candidates)`, -1 where a place is empty.
        scores: float, same shape.
        others: further arrays of that shape to bring into the same order.
        width: how many places to keep; None: all.
    """
    scores = np.where(items >= 0, scores, -np.inf).astype(scores.dtype)
    items = np.where(scores > -np.inf, items, -1)
    order = np.lexsort((items, -scores), axis=1)[:, :width]
    return tuple(np.take_along_axis(array, order, axis=1) for array in (items, scores, *others))


def unique_rows(items: np.ndarray) -> np.ndarray:
    """Every item once a row, ascending, then -1; as narrow as the longest row allows."""
    items = np.sort(items, axis=1)
    items[:, 1:][items[:, 1:] == items[:, :-1]] = -1
    order = np.argsort(items < 0, axis=1, kind="stable")
    items = np.take_along_axis(items, order, axis=1)
    return items[:, : int((items >= 0).sum(axis=1).max(initial=0))]


def catalogue_coverage(items: np.ndarray, num_items: int, k: int = 10) -> float:
    """Share of the catalogue that appears in somebody's first `k` places."""
    shown = np.asarray(items)[:, :k]
    return len(np.unique(shown[shown >= 0])) / num_items


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap of the mean over users: who would have come to the shop is the chance that is resampled.

    Args:
        values: float, `(num_users,)` or `(num_users, num_metrics)`: each user's own figure.
        level: share of the resampled means between the two bounds.
        num_resamples: 1,000 puts the error of a 95 % bound well below its distance from the mean.
        seed: of the resampling.

    Returns:
        (low, high): float64, `()` or `(num_metrics,)`.

    Raises:
        ValueError: without users.
    """
    values = np.asarray(values, dtype=np.float64)
    num_users = len(values)
    if not num_users:
        raise ValueError("Expected the figures of at least one user, got none: the split holds no users.")
    generator = np.random.default_rng(seed)
    chunk = max(1, 2_000_000 // num_users)  # resamples at a time: bounds the memory
    means = []
    for start in range(0, num_resamples, chunk):
        rows = min(chunk, num_resamples - start)
        drawn = generator.integers(num_users, size=(rows, num_users)) + np.arange(rows)[:, None] * num_users
        counts = np.bincount(drawn.ravel(), minlength=rows * num_users).reshape(rows, num_users)
        means.append(counts @ values / num_users)
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high
