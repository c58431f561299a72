"""What a purchase of one item says of another beside all others: a ridge regression between items, from counts.

Two bestsellers have many customers in common, whoever buys what. So each item is explained by those that its customers
bought near it, all at once: what one of these says already is not said again by the next. With `G` the customers that
two items have in common, and their purchases on its diagonal, the weights of an item's neighbours `N` are

    weights = (G[N, N] + penalty · I)⁻¹ G[N, item]

which is the closed form of EASE (Steck 2019, https://arxiv.org/abs/1905.03375) on the neighbours that are most like
the item, as SLIM has it with features selected (Ning and Karypis 2011). Weights below 0 are left out.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ..cpu.threads import map_parts
from ..model.purchase_counts import WEIGHT_UNIT, PurchaseCounts

PENALTY = 200.0  # purchases that every item seems to have besides; of 20 to 1,000 good on three shops; ours
NEIGHBOURS = 200  # of an item at most; with 100 a little is lost, with all nothing is gained that can be seen; ours
MOST_PAIRS = 4_000_000  # of counts with more nothing is made: it would take minutes of a core; ours
NEEDED = ("others", "customers")  # columns of the pairs
_ITEMS_AT_A_TIME = 64


def is_made(num_pairs: int, room: int = 1) -> bool:
    """Whether a regression is made of so many pairs: at most [`MOST_PAIRS`], with room for so many times as many."""
    return num_pairs * room <= MOST_PAIRS


def with_item_regression(counts: PurchaseCounts, room: int = 1) -> PurchaseCounts:
    """The same counts with `regression`; as they are where they have too many pairs, see [`is_made`]."""
    if not is_made(len(counts.others), room):
        return counts
    weights = item_weights(counts.starts, counts.others, counts.customers, counts.popularity)
    return replace(counts, regression=weights)


def item_weights(starts: np.ndarray, others: np.ndarray, customers: np.ndarray, popularity: np.ndarray) -> np.ndarray:
    """The `regression` of [`~model.purchase_counts.PurchaseCounts`] from its columns of these names.

    Returns:
        int64, `(num_pairs,)`: of pair `(i, j)` the weight of item `i` where `j` is explained, at least 0 and at most
        1, in units of 1 / WEIGHT_UNIT.
    """
    degrees = np.diff(starts)
    items = np.argsort(degrees, kind="stable")  # those with as many neighbours are solved together
    items = items[degrees[items] > 0]
    blocks = [items[at : at + _ITEMS_AT_A_TIME] for at in range(0, len(items), _ITEMS_AT_A_TIME)]
    explained = np.zeros(len(others), dtype=np.int64)
    for pairs, weights in map_parts(partial(_explained, starts, others, customers, popularity), blocks):
        explained[pairs] = weights
    # Pairs stand both ways. So the pairs sorted by the other item are, one for one, the transposed ones.
    turned = np.zeros_like(explained)
    turned[np.argsort(others, kind="stable")] = explained
    return turned


def _explained(
    starts: np.ndarray, others: np.ndarray, customers: np.ndarray, popularity: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs tell of the neighbours by which some items are explained, and the weights of these neighbours."""
    chosen = [_most_alike(starts, others, customers, popularity, item) for item in items]
    width = max(map(len, chosen))
    grams, shared = np.zeros((len(items), width, width)), np.zeros((len(items), width))
    place = np.full(len(popularity), -1)
    for gram, right, pairs in zip(grams, shared, chosen, strict=True):
        neighbours = others[pairs]
        lengths = starts[neighbours + 1] - starts[neighbours]
        rows = np.repeat(np.arange(len(pairs)), lengths)
        entries = np.arange(len(rows)) + np.repeat(starts[neighbours] - (lengths.cumsum() - lengths), lengths)
        place[neighbours] = np.arange(len(pairs))
        columns = place[others[entries]]
        inside = np.flatnonzero(columns >= 0)
        gram[rows[inside], columns[inside]] = customers[entries[inside]]
        gram[np.arange(len(pairs)), np.arange(len(pairs))] = popularity[neighbours]
        right[: len(pairs)] = customers[pairs]
        place[neighbours] = -1
    weights = np.rint(np.maximum(_solved(grams, shared), 0.0) * WEIGHT_UNIT).astype(np.int64)
    found = [row[: len(pairs)] for row, pairs in zip(weights, chosen, strict=True)]
    return np.concatenate(chosen), np.concatenate(found)


def _most_alike(
    starts: np.ndarray, others: np.ndarray, customers: np.ndarray, popularity: np.ndarray, item: int
) -> np.ndarray:
    """The pairs of an item with the neighbours that are most like it, by cosine, equal ones by row."""
    pairs = np.arange(starts[item], starts[item + 1])
    if len(pairs) <= NEIGHBOURS:
        return pairs
    likeness = customers[pairs] / np.sqrt(popularity[others[pairs]])
    return np.sort(pairs[np.argsort(-likeness, kind="stable")[:NEIGHBOURS]])


def _solved(grams: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """`(gram + penalty · I)⁻¹ shared` of each item, float64 `(num_items, width)`; both are 0 in empty places.

    Counts within a few purchases are no Gram matrix to the last one, so that the penalty may not be enough. It is
    raised until the matrix is positive definite and no weight is above 1, which one neighbour alone never has.
    """
    matrices, right = torch.from_numpy(grams), torch.from_numpy(shared)[..., None]
    penalty = torch.full((len(grams), 1), PENALTY, dtype=matrices.dtype)
    while True:
        factors, failed = torch.linalg.cholesky_ex(matrices + torch.diag_embed(penalty.expand(-1, grams.shape[1])))
        weights = torch.cholesky_solve(right, factors)[..., 0]
        again = (failed != 0) | ~(weights.amax(dim=1) <= 1)
        if not again.any():
            return weights.numpy()
        penalty[again] *= 4
