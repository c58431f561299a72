"""Hit rate and NDCG with ties, of users and on average, and their intervals. NumPy only.

Axes: `num_users` rows, `width` places of a ranked list, best first. An item is its row in the table, -1 an empty
place, whose score is -inf. Exactly equal scores are ties.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np

from ..model.ranked_lists import RankedLists

KS = (1, 5, 10)  # paper, "Metrics"


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


def user_metrics(lists: RankedLists, targets: np.ndarray, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
    """Each user's own figures, float64 `(num_users,)`: "hr@k", "ndcg@k" and, where IDs were ranked, "string_hr@k".

    "hr" and "ndcg" are about items, ties by their expected value, unless the order counts. "string_hr" counts a hit
    when the target's ID is among the first k distinct IDs, whoever else has it: the figure of papers that compare
    strings.

    Args:
        lists: [`RankedLists`] of `num_users` users.
        targets: int, `(num_users,)`: the table row of the item that each user took next.
        ks: the cut-offs. Default 1, 5, 10 (paper, "Metrics").

    Raises:
        ValueError: another number of targets than of lists, targets or cut-offs that are no whole numbers, or scores
            of another shape than the items.
    """
    if not len(ks) or any(isinstance(k, bool) or not isinstance(k, Integral) or k < 1 for k in ks):
        raise ValueError(f"ks: expected cut-offs such as {KS}, whole numbers of at least 1, got {ks!r}.")
    targets = np.asarray(targets)
    if len(targets) and targets.dtype.kind not in "iu":  # NaN and None would count as missed by every list
        raise ValueError(f"targets: expected rows of the catalogue, whole numbers, got {targets.dtype}.")
    ranks = tied_ranks(lists.items, targets, None if lists.order_counts else lists.scores)
    figures = {f"hr@{k}": hit_rate(ranks, k) for k in ks} | {f"ndcg@{k}": ndcg(ranks, k) for k in ks}
    if lists.leaf_ranks is not None:
        found = lists.items == np.asarray(targets)[:, None]
        for k in ks:
            figures[f"string_hr@{k}"] = (found & (lists.leaf_ranks < k)).any(axis=1).astype(np.float64)
    return figures


def ranking_metrics(
    lists: Mapping[str, RankedLists], targets: np.ndarray, ks: Sequence[int] = KS
) -> dict[str, dict[str, float]]:
    """Means over all users of [`user_metrics`], for each of the lists: `{"text": {"hr@1": …, "ndcg@10": …}, …}`.

    Args:
        lists: `{name: RankedLists}`, as [`rank_catalogue`] and [`baseline_lists`] give them.
        targets, ks: as in [`user_metrics`].

    Raises:
        ValueError: as [`user_metrics`].
    """
    return {
        name: {metric: float(values.mean()) for metric, values in user_metrics(ranked, targets, ks).items()}
        for name, ranked in lists.items()
    }


def catalogue_coverage(items: np.ndarray, num_items: int, k: int = 10) -> float:
    """Share of the catalogue that appears in somebody's first `k` places."""
    shown = np.asarray(items)[:, :k]
    return len(np.unique(shown[shown >= 0])) / num_items


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap of the mean over users.

    Users are resampled with replacement, so the interval shows which users happened to be in the sample, not the
    randomness of training.

    Args:
        values: float, `(num_users,)` or `(num_users, num_metrics)`: each user's own figure.
        level: share of the resampled means between the two bounds.
        num_resamples: 1,000 puts the error of a 95 % bound well below its distance from the mean.
        seed: of the resampling.

    Returns:
        (low, high): float64, `()` or `(num_metrics,)`.

    Raises:
        ValueError: without users, a figure that is NaN or infinite, or a level that is no share.
    """
    low, high = np.quantile(resampled_means(values, num_resamples, seed), _tails(level), axis=0)
    return low, high


def _tails(level: float) -> list[float]:
    """The two quantiles between which a share `level` lies."""
    if not 0 < level < 1:
        raise ValueError(f"level: expected a share between 0 and 1, such as 0.95, got {level}.")
    return [(1 - level) / 2, (1 + level) / 2]


class PairedDifference(NamedTuple):
    """What `paired_bootstrap` found.

    Attributes:
        difference: mean over users of first minus second.
        low, high: bounds of its percentile bootstrap interval.
        p_value: two-sided, of no difference.
    """

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Compares two methods on the same users: whole users are resampled, so that what makes a user easy cancels out.

    The p-value is the share of resamples whose mean difference lies at least as far from the one found as that one
    lies from 0, the one found counted in: (1 + hits) / (1 + num_resamples), so never 0. Comparing many methods with
    one makes some small p-values by chance; nothing is corrected for that here.

    Args:
        first: float, `(num_users,)`: each user's own figure under one method, as `user_metrics` gives.
        second: same shape and order of users, under the other.
        level: share of the resampled differences between the two bounds.
        num_resamples: 10,000 makes 0.0001 the smallest p-value.
        seed: of the resampling.

    Returns:
        `(difference, low, high, p_value)` as named fields: mean over users of first minus second, the bounds of its
        interval, and the two-sided p-value of no difference.

    Raises:
        ValueError: shapes that differ, no users, a figure that is NaN or infinite, or a level that is no share.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"Expected one figure a user from either method, got shapes {first.shape} and {second.shape}: evaluate "
            "both on the same users, in the same order."
        )
    means = resampled_means(first - second, num_resamples, seed)
    return paired_difference(float((first - second).mean()), means, level)


def paired_difference(difference: float, means: np.ndarray, level: float = 0.95) -> PairedDifference:
    """What `paired_bootstrap` says, from the difference found and that of every resample, float `(num_resamples,)`."""
    low, high = np.quantile(means, _tails(level))
    hits = (np.abs(means - difference) >= abs(difference) - 1e-12).sum()  # rounding must not hide an exact tie
    return PairedDifference(difference, float(low), float(high), float((1 + hits) / (1 + len(means))))


def sums_of_users(values: np.ndarray, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each user's sum over their purchases, and how many these are: what a mean over purchases is resampled from.

    Args:
        values: float, `(num_purchases, num_metrics)`.
        owners: int, `(num_purchases,)`, whose purchase each is.

    Returns:
        float64 `(num_owners, num_metrics)` and int64 `(num_owners,)`, by rising number of the owner.
    """
    found, place, counts = np.unique(owners, return_inverse=True, return_counts=True)
    sums = np.zeros((len(found), values.shape[1]))
    np.add.at(sums, place, values)
    return sums, counts


def resampled_means(
    values: np.ndarray, num_resamples: int, seed: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Means over users drawn with replacement: `(num_resamples,)`, or `(num_resamples, num_metrics)`.

    Args:
        values: `(num_users,)` or `(num_users, num_metrics)`: each user's figure, or with weights the sum over their
            purchases.
        weights: `(num_users,)`, each user's number of purchases: the means are then over the purchases of the users
            drawn, a ratio of sums. None: one each.

    Raises:
        ValueError: without users, or a figure that is NaN or infinite.
    """
    values = np.asarray(values, dtype=np.float64)
    num_users = len(values)
    if not num_users:
        raise ValueError("Expected the figures of at least one user, got none: the split holds no users.")
    if not np.isfinite(values).all():  # compared with NaN nothing is far away: the p-value would be the smallest
        user = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(f"Expected a finite figure of every user, got {values[user]} of user {user}.")
    generator = np.random.default_rng(seed)
    chunk = max(1, 2_000_000 // num_users)  # resamples at a time: bounds the memory
    means = []
    for start in range(0, num_resamples, chunk):
        rows = min(chunk, num_resamples - start)
        drawn = generator.integers(num_users, size=(rows, num_users)) + np.arange(rows)[:, None] * num_users
        counts = np.bincount(drawn.ravel(), minlength=rows * num_users).reshape(rows, num_users)
        sizes = np.full(rows, num_users) if weights is None else counts @ weights
        means.append(((counts @ values).T / sizes).T)
    return np.concatenate(means)
