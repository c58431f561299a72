"""What a purchase of one item says of another beside all others: a ridge regression between items, from counts.

Two bestsellers have many customers in common, whoever buys what. So each item is explained by those that were bought
together with it, all at once: what one of these says already is not said again by the next. With `G` how often two
items were bought within five purchases of each other, but no more than the rarer one was bought, and their purchases
on its diagonal, the weights of an item's neighbours `N` are

    weights = (G[N, N] + penalty · I)⁻¹ G[N, item]

which is the closed form of EASE (Steck 2019, https://arxiv.org/abs/1905.03375) on the neighbours that are most like
the item, as SLIM has it with features selected (Ning and Karypis 2011). Weights below 0 are left out, and those above
1 are 1. Where `G[N, N]` is far from a Gram matrix, `_solved` takes the nearest one and a higher penalty.

Customers who buy a few things in turns make several pairs with each purchase. Without the limit three such accounts,
4.5 % of a shop's purchases, halved what the regression found for everybody else.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256

import numpy as np
import torch

from ..cpu.threads import map_parts
from ..model.inference import joined_ranges, values_at
from ..model.purchase_counts import WEIGHT_UNIT, PurchaseCounts

logger = logging.getLogger(__name__)

PENALTY = 200.0  # purchases that every item seems to have besides; of 20 to 1,000 good on three shops; ours
NEIGHBOURS = 200  # of an item at most; with 100 a little is lost, with all nothing is gained that can be seen; ours
MOST_PURCHASES = 1_000_000  # of counts of more nothing is made: it would take minutes of a core; ours
ROOM = 2  # times as many purchases are left to grow by before weights that go by a regression find none; ours
NEEDED = ("others", "together")  # columns of the pairs
_ITEMS_AT_A_TIME = 64
_TIMES = 4  # with 0, 1 or 2 less is found where most buy the volumes of a series one after the other; ours
_SEARCH = 25  # reading so many entries takes as long as searching for one
_LAST: dict[bytes, np.ndarray] = {}  # what was made last: an evaluation asks twice


def is_made(popularity: np.ndarray, room: int = 1) -> bool:
    """Whether a regression is made of these purchases of items: of at most [`MOST_PURCHASES`].

    Args:
        room: by how many times they shall be able to grow. [`ROOM`] where weights are fitted and baselines are judged.
    """
    return int(popularity.sum()) * room <= MOST_PURCHASES


def with_item_regression(counts: PurchaseCounts, room: int = 1) -> PurchaseCounts:
    """The same counts with `regression`; as they are, with a notice, of too many purchases, see [`is_made`]."""
    if not is_made(counts.popularity, room):
        logger.warning(
            "No item regression is made %sof more than %s purchases; these are %s.",
            "for a table or new weights " if room > 1 else "",
            f"{MOST_PURCHASES // room:,}",
            f"{counts.popularity.sum():,}",
        )
        return counts
    return replace(counts, regression=item_weights(counts.starts, counts.others, counts.together, counts.popularity))


@dataclass(frozen=True)
class _Pairs:
    """The pairs that were bought together, as `PurchaseCounts` holds them."""

    starts: np.ndarray
    others: np.ndarray
    together: np.ndarray
    popularity: np.ndarray
    keys: np.ndarray  # `item * num_items + other`, ascending


def item_weights(starts: np.ndarray, others: np.ndarray, together: np.ndarray, popularity: np.ndarray) -> np.ndarray:
    """The `regression` of [`~model.purchase_counts.PurchaseCounts`] from its columns of these names.

    Returns:
        int64, `(num_pairs,)`: of pair `(i, j)` the weight of item `i` where `j` is explained, at least 0 and at most
        1, in units of 1 / WEIGHT_UNIT.
    """
    num_items = len(popularity)
    near = np.flatnonzero(together)  # others are further apart, within the window of the counts alone
    items = np.repeat(np.arange(num_items), np.diff(starts))[near]
    starts = np.searchsorted(items, np.arange(num_items + 1))
    others, most = others[near], np.minimum(popularity[items], popularity[others[near]])
    pairs = _Pairs(starts, others, np.minimum(together[near], most), popularity, items * num_items + others)
    turned = np.zeros(len(together), dtype=np.int64)
    # Pairs stand both ways. So the pairs sorted by the other item are, one for one, the turned ones.
    turned[near[np.argsort(pairs.others, kind="stable")]] = _of_all(pairs)
    return turned


def _of_all(pairs: _Pairs) -> np.ndarray:
    """Of each pair the weight of the other item where the first is explained, int64."""
    parts = (pairs.keys, pairs.together, pairs.popularity)
    key = sha256(b"".join(part.tobytes() for part in parts) + repr((NEIGHBOURS, PENALTY, _TIMES)).encode()).digest()
    if key in _LAST:
        return _LAST[key]
    degrees = np.diff(pairs.starts)
    order = np.argsort(degrees, kind="stable")  # items with as many neighbours are solved together
    order = order[degrees[order] > 0]
    blocks = [order[at : at + _ITEMS_AT_A_TIME] for at in range(0, len(order), _ITEMS_AT_A_TIME)]
    explained = np.zeros(len(pairs.others), dtype=np.int64)
    for places, weights in map_parts(partial(_explained, pairs), blocks):
        explained[places] = weights
    _LAST.clear()
    _LAST[key] = explained
    return explained


def _explained(pairs: _Pairs, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs tell of the neighbours by which some items are explained, and the weights of these neighbours."""
    chosen = [_most_alike(pairs, item) for item in items]
    width = max(map(len, chosen))
    grams, shared = np.zeros((len(items), width, width)), np.zeros((len(items), width))
    place = np.full(len(pairs.popularity), -1)
    for gram, right, places in zip(grams, shared, chosen, strict=True):
        size, neighbours = len(places), pairs.others[places]
        gram[:size, :size] = _together(pairs, neighbours, place)
        gram[np.arange(size), np.arange(size)] = pairs.popularity[neighbours]
        right[:size] = pairs.together[places]
    weights = np.rint(np.maximum(_solved(grams, shared), 0.0) * WEIGHT_UNIT).astype(np.int64)
    found = [row[: len(places)] for row, places in zip(weights, chosen, strict=True)]
    return np.concatenate(chosen), np.concatenate(found)


def _most_alike(pairs: _Pairs, item: int) -> np.ndarray:
    """The pairs of an item with the neighbours that are most like it, by cosine, equal ones by row."""
    places = np.arange(pairs.starts[item], pairs.starts[item + 1])
    if len(places) <= NEIGHBOURS:
        return places
    likeness = pairs.together[places] / np.sqrt(pairs.popularity[pairs.others[places]])
    return np.sort(places[np.argsort(-likeness, kind="stable")[:NEIGHBOURS]])


def _together(pairs: _Pairs, items: np.ndarray, place: np.ndarray) -> np.ndarray:
    """How often some items, in rising order, were bought together, `(num_items of these,) * 2`.

    Args:
        place: int64, -1 for each item of the catalogue, and so again afterwards.
    """
    found, size = np.zeros((len(items), len(items))), len(items)
    lengths = pairs.starts[items + 1] - pairs.starts[items]
    if lengths.sum() > _SEARCH * size**2:  # bestsellers, which have pairs with everything
        _, (found,) = values_at(pairs.keys, items[:, None] * np.int64(len(place)) + items, pairs.together)
        return found
    rows, entries = joined_ranges(pairs.starts[items], lengths)
    place[items] = np.arange(size)
    columns = place[pairs.others[entries]]
    place[items] = -1
    inside = np.flatnonzero(columns >= 0)
    found[rows[inside], columns[inside]] = pairs.together[entries[inside]]
    return found


def _solved(grams: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """`(gram + penalty · I)⁻¹ shared` of each item, float64 `(num_items, width)`; both are 0 in empty places.

    Counts within a few purchases are no Gram matrix to the last one. Where an eigenvalue is so far below 0 that
    [`_TIMES`] as much is more than the penalty, the nearest Gram matrix is taken, whose eigenvalues below 0 are 0
    (Higham 1988), and that much as the penalty. No weight is above 1.
    """
    matrices, right = torch.from_numpy(grams), torch.from_numpy(shared)[..., None]
    penalty = PENALTY * torch.eye(grams.shape[1], dtype=matrices.dtype)
    _, failed = torch.linalg.cholesky_ex(matrices + penalty / _TIMES)
    weights = torch.cholesky_solve(right, torch.linalg.cholesky_ex(matrices + penalty).L)
    if len(places := failed.nonzero()[:, 0]):
        values, vectors = torch.linalg.eigh(matrices[places])  # the lowest value stands first
        raised = (-_TIMES * values[:, :1]).clamp(min=PENALTY)
        along = vectors.mT @ right[places] / (values.clamp(min=0) + raised)[..., None]
        weights[places] = vectors @ along
    return weights[..., 0].clamp(max=1).numpy()
