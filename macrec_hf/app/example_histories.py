"""Histories to click on: of nobody, made from what is popular and what was bought together."""

import numpy as np

from ..model.recommender import MacRecRecommender

NUM_EXAMPLES, LENGTH = 4, 3
_FOLLOWERS = 20  # candidates for the next item


def example_histories(recommender: MacRecRecommender) -> list[list[str]]:
    """At most `NUM_EXAMPLES` histories of `LENGTH` item ids, oldest first, no item twice and each of another kind.

    A history begins with the most popular item whose kind, the first code of the first modality, has none yet. It
    goes on with what customers bought most near its last item; without `purchase_counts` with what is most popular
    of its kind.
    """
    kinds = recommender.table.codes[recommender.table.modalities[0]][:, 0].numpy()
    counts = recommender.item_counts
    popular = np.arange(len(kinds)) if counts is None else np.argsort(-counts.numpy(), kind="stable")
    histories: list[list[int]] = []
    used: set[int] = set()
    for first in popular[kinds[popular] >= 0].tolist():
        if len(histories) == NUM_EXAMPLES:
            break
        if first in used or kinds[first] in (kinds[history[0]] for history in histories):
            continue
        history = [first]
        for _ in range(LENGTH - 1):
            near = _near(recommender, history[-1], popular, kinds)
            history += [item for item in near if item >= 0 and item not in used and item not in history][:1]
        if len(history) == LENGTH:
            histories.append(history)
            used.update(history)
    return [[recommender.table.item_ids[row] for row in history] for history in histories]


def _near(recommender: MacRecRecommender, row: int, popular: np.ndarray, kinds: np.ndarray) -> list[int]:
    """Rows that go well with a row, the best first; -1 in empty places."""
    counts = recommender.purchase_counts
    if counts is None:
        return popular[kinds[popular] == kinds[row]].tolist()
    return counts.neighbours([np.array([row])]).best("near", 1, _FOLLOWERS)[0].tolist()
