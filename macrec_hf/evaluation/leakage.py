"""Whether a model has learned what an evaluation asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from transformers.utils import logging

from ..data.fingerprints import beginnings, history_fingerprints, how_often, item_hashes
from ..data.histories import Histories
from ..data.splits import before_test
from ..data.time_split import FutureUsers
from ..model.recommender import MacRecRecommender

logger = logging.get_logger(__name__)
Tested = Sequence[tuple[np.ndarray, np.ndarray]]
CANNOT_BE_TOLD = "Whether the model was trained on what tests it cannot be told from this file."


@dataclass(frozen=True)
class Leakage:
    """The histories that a model was trained on, as they are found in another file.

    Attributes:
        num_learned: all of them.
        num_missing: those that are not in the file as they were.
        num_strangers: customers of the file who have none of the learned histories: new ones, or changed ones.
        num_tested: strangers whose later purchases are known to be among what was learned. Of a customer who lost two
            purchases or more, that is not known.
        most_by_chance: as many may look so because customers buy alike: the mean and three standard deviations of a
            binomial count, by the share of the other customers who look so.
    """

    num_learned: int
    num_missing: int
    num_strangers: int
    num_tested: int
    most_by_chance: float

    @property
    def is_real(self) -> bool:
        """Whether the model has learned what tests it."""
        return self.num_tested > self.most_by_chance

    @property
    def is_possible(self) -> bool:
        """Whether learned histories are missing, and the file has customers who may be theirs, with others."""
        return min(self.num_missing, self.num_strangers) > 0


def find_leakage(recommender: MacRecRecommender, purchases: Histories | FutureUsers) -> tuple[Leakage | None, str]:
    """Warns where the model was trained on, or chosen by, purchases that test it, or where that cannot be told.

    A file that has grown since the training holds all that was learned; one that has shrunk, that is sorted otherwise
    or another one may test what was learned.

    Args:
        purchases: everybody's, as leave-one-out or a cut parts them.

    Returns:
        What was found, None of a model that keeps no fingerprints, of which only numbers of purchases are compared;
        and a sentence for the verdict, "" where there is no doubt.
    """
    item_ids = recommender.table.item_ids
    if isinstance(purchases, FutureUsers):
        known = purchases.counted
        ends = np.searchsorted(purchases.owners, np.arange(1, len(purchases)))
        tested = list(zip(purchases.histories, np.split(purchases.targets, ends), strict=True))
        item_ids = [*item_ids, *purchases.unknown_ids]
    else:
        known, tested = before_test(purchases), left_out(purchases)
    if recommender.learned_histories is None:
        return None, CANNOT_BE_TOLD * _has_fewer(recommender, known)
    found = leakage(recommender.learned_histories.numpy(), known, tested, item_hashes(item_ids))
    if found.is_real:
        doubt = f"the model was trained on what tests it, of at least {found.num_tested:,} customers."
        logger.warning(
            f"{doubt.capitalize()} Its figures are too good. Give the file that it was trained on, in the same order, "
            "or one that has grown from it, or train anew on this one."
        )
        return found, f"Not to be trusted: {doubt}"
    said = (
        f"{found.num_missing:,} of the {found.num_learned:,} histories that the model has learned are not in this file"
    )
    if found.is_possible:
        logger.warning(
            f"{said}, and {found.num_strangers:,} of its customers have none of them. If these are other people, that "
            "does no harm. If they are the same with fewer or other purchases, the model may have learned what is to "
            "be predicted, and its figures be too good: evaluate on the file that it was trained on."
        )
        return found, CANNOT_BE_TOLD
    if found.num_missing:
        logger.warning(f"{said}, where everybody is one who was learned: others were left out, which does no harm.")
    return found, ""


def leakage(learned: np.ndarray, known: Sequence[np.ndarray], tested: Tested, hashes: np.ndarray) -> Leakage:
    """Compares learned histories with those of a file.

    Args:
        learned: of [`history_fingerprints`], of the purchases that the model has learned or was chosen by.
        known: everybody's purchases before those that test, rows, oldest first.
        tested: `(known, later)` of each user whose later purchases test.
        hashes: of the items that the rows name, of [`item_hashes`].
    """
    values, counts = np.unique(learned, return_counts=True)
    missing = counts - np.minimum(counts, how_often(values, beginnings(known, hashes)))
    strangers = _strangers([history for history, _ in tested], values, hashes)
    fingerprints, owners = _with_later(tested, hashes)
    found, alike = (
        np.isin(np.arange(len(tested)), owners[np.isin(fingerprints, among)])
        for among in (values[missing > 0], values)
    )
    num_same = int((~strangers).sum())
    # Laplace's rule: a half where nobody is the same; at most a half, since those who are so by chance alone look so.
    chance = min(0.5, ((alike & ~strangers).sum() + 1) / (num_same + 2))
    num_strangers = len(tested) - num_same
    most = num_strangers * chance + 3 * sqrt(num_strangers * chance * (1 - chance))
    others = int(_strangers(known, values, hashes).sum()) + sum(len(history) == 0 for history, _ in tested)
    return Leakage(len(learned), int(missing.sum()), others, int((found & strangers).sum()), float(most))


def left_out(histories: Histories) -> list[tuple[np.ndarray, np.ndarray]]:
    """What leave-one-out tests: of each user all purchases but the last, and the last."""
    return [(rows[:-1], rows[-1:]) for rows in histories.items]


def learned_with(
    earlier: np.ndarray | None, known: Sequence[np.ndarray], tested: Tested, hashes: np.ndarray
) -> np.ndarray | None:
    """The fingerprints of a model that has learned more, each customer's latest alone.

    Args:
        earlier: what it had learned; None: that is not known.
        known, tested, hashes: as for [`leakage`], of what it has learned since.

    Returns:
        None where it is not known what the model has learned: also where it may have learned before what is tested
        now, so that no later evaluation can tell.
    """
    if earlier is None or leakage(earlier, known, tested, hashes).is_possible:
        return None
    values, counts = np.unique(earlier, return_counts=True)
    gone = np.repeat(values, np.maximum(counts - how_often(values, beginnings(known, hashes)), 0))
    return np.sort(np.concatenate([gone, history_fingerprints(known, hashes)]))


def _strangers(histories: Sequence[np.ndarray], values: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Bool, `(num_histories,)`: of whom less than half was learned, or the first purchase, which is of somebody."""
    lengths, owners, places = _placed(histories)
    is_learned = np.isin(beginnings(histories, hashes), values)
    longest = np.zeros(len(histories), dtype=np.int64)
    np.maximum.at(longest, owners[is_learned], places[is_learned] + 1)
    return (2 * longest < lengths) | (longest < np.minimum(lengths, 2)) | (lengths == 0)


def _placed(histories: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How long each history is; and of each purchase, one history after the other, whose it is and its place there."""
    lengths = np.array([len(rows) for rows in histories], dtype=np.int64)
    owners = np.repeat(np.arange(len(histories)), lengths)
    return lengths, owners, np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _with_later(tested: Tested, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints of what a model has learned that knows later purchases, and whose they are, places in `tested`.

    That is each beginning that ends in a later purchase; and, where only one is later, all purchases but another one,
    as when rows of equal times stood in another order. A single purchase is the beginning of too many histories.
    """
    whole = [np.concatenate(parts) for parts in tested]
    lengths, owners, places = _placed(whole)
    num_later = np.array([len(later) for _, later in tested], dtype=np.int64)
    begun = beginnings(whole, hashes)
    is_later = (places >= (lengths - num_later)[owners]) & (places > 0)
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *whole]).astype(np.int64)
    ends = (np.cumsum(lengths) - 1)[owners]
    all_but_one = begun[ends] - hashes[rows].view(np.int64)
    exchanged = (
        (num_later == 1)[owners] & (lengths > 2)[owners] & (places < lengths[owners] - 1) & (rows != rows[ends])
    )
    return (
        np.concatenate([begun[is_later], all_but_one[exchanged]]),
        np.concatenate([owners[is_later], owners[exchanged]]),
    )


def _has_fewer(recommender: MacRecRecommender, known: Sequence[np.ndarray]) -> bool:
    """Whether fewer purchases of an item are known here than the model was saved with; warns of them."""
    counts = recommender.item_counts
    if counts is None:
        return False
    here = np.bincount(np.concatenate([np.zeros(0, dtype=np.int64), *known]), minlength=len(counts))
    more = np.maximum(counts.numpy() - here, 0)
    if more.any():
        items = [recommender.table.item_ids[row] for row in np.flatnonzero(more)[:3]]
        logger.warning(
            f"The model was saved with {int(more.sum()):,} purchases, of items such as {items}, that are not among "
            "those before the tested ones here. Was it trained on another file, or has this one lost its last "
            "purchases? Where the model has learned what is tested, its figures are too good."
        )
    return bool(more.any())
