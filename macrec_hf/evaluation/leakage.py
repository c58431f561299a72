"""Whether a model has learned what an evaluation asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from transformers.utils import logging

from ..data.fingerprints import beginnings, how_often, item_hashes
from ..data.histories import Histories
from ..data.splits import before_test
from ..data.time_split import FutureUsers
from ..model.recommender import MacRecRecommender

logger = logging.get_logger(__name__)
_Tested = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Leakage:
    """The histories that a model was trained on, as they are found in another file.

    Attributes:
        num_learned: all of them.
        num_tested: those that hold purchases which only the test should know.
        num_elsewhere: those that are not in the file as they were.
        num_strangers: customers of the file who have none of the learned histories: new ones, or changed ones.
        num_by_chance: so many would look like tested ones because customers buy alike: of those that are missing
            the share that, of all, is there and looks so too.
    """

    num_learned: int
    num_tested: int
    num_elsewhere: int
    num_strangers: int
    num_by_chance: float

    @property
    def is_real(self) -> bool:
        """Whether there are more of them than chance makes, by three standard deviations of a Poisson count."""
        return self.num_tested > self.num_by_chance + 3 * sqrt(self.num_by_chance)

    @property
    def is_possible(self) -> bool:
        """Whether learned histories are missing, and the file has customers who may be theirs, with others."""
        return min(self.num_tested + self.num_elsewhere, self.num_strangers) > 0


def find_leakage(recommender: MacRecRecommender, purchases: Histories | FutureUsers) -> Leakage | None:
    """Warns where the model was trained on, or chosen by, purchases that test it, or where that cannot be told.

    A file that has grown since the training holds all that was learned; one that has shrunk, that is sorted otherwise
    or another one may test what was learned.

    Args:
        purchases: everybody's, as leave-one-out or a cut parts them.

    Returns:
        What was found; None of a model that keeps no fingerprints, of which only numbers of purchases are compared.
    """
    if isinstance(purchases, FutureUsers):
        known = purchases.counted
        ends = np.searchsorted(purchases.owners, np.arange(1, len(purchases)))
        tested = list(zip(purchases.histories, np.split(purchases.targets, ends), strict=True))
        item_ids = [*recommender.table.item_ids, *purchases.unknown_ids]
    else:
        known, item_ids = before_test(purchases), recommender.table.item_ids
        tested = [(rows[:-1], rows[-1:]) for rows in purchases.items]
    if recommender.learned_histories is None:
        _compare_numbers(recommender, known)
        return None
    found = leakage(recommender.learned_histories.numpy(), known, tested, item_hashes(item_ids))
    if found.is_real:
        logger.warning(
            f"The model was trained on what tests it: {found.num_tested:,} of the {found.num_learned:,} histories "
            "that it has learned hold purchases which only a test should know. Its figures are too good. Give the "
            "file that it was trained on, in the same order, or one that has grown from it, or train anew on this one."
        )
    elif missing := found.num_elsewhere + found.num_tested:
        said = f"{missing:,} of the {found.num_learned:,} histories that the model has learned are not in this file"
        logger.warning(
            f"{said}, and {found.num_strangers:,} of its customers have none of them. If these are other people, that "
            "does no harm. If they are the same with fewer or other purchases, the model may have learned what is to "
            "be predicted, and its figures be too good: evaluate on the file that it was trained on."
            if found.is_possible
            else f"{said}, where everybody is one who was learned: customers were left out, which does no harm."
        )
    return found


def leakage(learned: np.ndarray, known: Sequence[np.ndarray], tested: _Tested, hashes: np.ndarray) -> Leakage:
    """Compares learned histories with those of a file.

    Args:
        learned: of [`history_fingerprints`], of the purchases that the model has learned or was chosen by.
        known: everybody's purchases before those that test, rows, oldest first.
        tested: `(known, later)` of each user whose later purchases test.
        hashes: of the items that the rows name, of [`item_hashes`].
    """
    values, counts = np.unique(learned, return_counts=True)
    begun = beginnings(known, hashes)
    there = np.minimum(counts, how_often(values, begun))
    looks_tested = np.isin(values, _with_later(tested, hashes))
    missing = counts - there
    num_tested = int(missing[looks_tested].sum())
    by_chance = there[looks_tested].sum() / max(1, len(learned)) * missing.sum()
    owners = np.repeat(np.arange(len(known)), [len(rows) for rows in known])
    strangers = len(known) - len(np.unique(owners[np.isin(begun, values)]))
    return Leakage(len(learned), num_tested, int(missing.sum()) - num_tested, strangers, float(by_chance))


def _with_later(tested: _Tested, hashes: np.ndarray) -> np.ndarray:
    """Fingerprints of what a model may have learned that should not have known the later purchases.

    That is each beginning that ends in a later purchase; and, where only one is later, all purchases but another one,
    as when rows of equal times stood in another order. A single purchase is the beginning of too many histories.
    """
    whole = [np.concatenate(parts) for parts in tested]
    lengths, num_later = (np.array([len(part) for part in parts], dtype=np.int64)
                          for parts in (whole, [later for _, later in tested]))  # fmt: skip
    begun, owners = beginnings(whole, hashes), np.repeat(np.arange(len(whole)), lengths)
    places = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    num_known = (lengths - num_later)[owners]
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *whole]).astype(np.int64)
    last = rows[np.cumsum(lengths) - 1][owners]
    all_but_one = begun[np.cumsum(lengths) - 1][owners] - hashes[rows].view(np.int64)
    exchanged = (num_later == 1)[owners] & (lengths > 2)[owners] & (places < num_known) & (rows != last)
    return np.concatenate([begun[(places >= num_known) & (places > 0)], all_but_one[exchanged]])


def _compare_numbers(recommender: MacRecRecommender, known: Sequence[np.ndarray]) -> None:
    """Warns where the model was saved with more purchases of an item than are known here."""
    counts = recommender.item_counts
    if counts is None:
        return
    here = np.bincount(np.concatenate([np.zeros(0, dtype=np.int64), *known]), minlength=len(counts))
    more = np.maximum(counts.numpy() - here, 0)
    if more.any():
        items = [recommender.table.item_ids[row] for row in np.flatnonzero(more)[:3]]
        logger.warning(
            f"The model was saved with {int(more.sum()):,} purchases, of items such as {items}, that are not among "
            "those before the tested ones here. Was it trained on another file, or has this one lost its last "
            "purchases? Where the model has learned what is tested, its figures are too good."
        )
