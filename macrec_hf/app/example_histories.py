"""Histories to click on: of nobody, made from what is popular and what was bought together."""

import numpy as np

from ..model.recommender import MacRecRecommender

NUM_EXAMPLES, LENGTH = 4, 3
_FEW = 3  # customers; a pair that fewer bought could tell what one of them bought


def example_histories(recommender: MacRecRecommender) -> list[list[str]]:
    """At most `NUM_EXAMPLES` histories of `LENGTH` item ids, oldest first, no item twice and each of another kind.

    A history begins with the most popular item whose kind, the first code of the first modality, has none yet. It
    goes on with what most customers bought near its last item, at least `_FEW` of them; where the recommender knows of
    no such item, with what is most popular of the last one's kind.
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
            history += [item for item in near if item not in used and item not in history][:1]
        if len(history) == LENGTH:
            histories.append(history)
            used.update(history)
    return [[recommender.table.item_ids[row] for row in history] for history in histories]


def _near(recommender: MacRecRecommender, row: int, popular: np.ndarray, kinds: np.ndarray) -> list[int]:
    """Rows that go well with a row, the best first."""
    alike = popular[kinds[popular] == kinds[row]]
    counts = recommender.purchase_counts
    if counts is None:
        return alike.tolist()
    pairs = slice(counts.starts[row], counts.starts[row + 1])
    customers = counts.customers[pairs]
    order = np.argsort(-customers, kind="stable")
    return [*counts.others[pairs][order[customers[order] >= _FEW]].tolist(), *alike.tolist()]
