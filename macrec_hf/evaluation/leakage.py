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
from ..model.inference import joined_ranges
from ..model.recommender import MacRecRecommender

logger = logging.get_logger(__name__)
Tested = Sequence[tuple[np.ndarray, np.ndarray]]
CANNOT_BE_TOLD = "Whether the model was trained on what tests it cannot be told from this file."
NO_RECORD = "Whether the model was trained on what tests it cannot be told: it keeps no record of what it has learned."
_ALIKE = 0.5  # ours
_DRAWS = 5  # of other people's later purchases, to see what chance finds; ours


@dataclass(frozen=True)
class Leakage:
    """The histories that a model was trained on, as they are found in another file.

    Attributes:
        num_learned: all of them.
        num_missing: those that are not in the file as they were.
        num_strangers: customers of the file who have none of the learned histories, at least: new ones, or changed
            ones. A learned history is one customer's, so no more can have one than were found.
        num_tested: strangers who have, with later purchases, a history of one customer alone that was learned and is
            missing. Of a customer who lost two purchases or more, or has fewer than three with them, that is not
            known.
        most_by_chance: as many may look so because customers buy alike: the mean and three standard deviations of a
            binomial count, by the share of the other customers who look so, or of the strangers with later purchases
            of somebody else, whichever is larger.
        share_alike: which share of the customers would have a learned history without the one that is theirs: near 1
            where they have bought little among few items, or in an order that items prescribe, so that it says nothing
            that a customer has one. Of histories longer than one purchase, since one is the beginning of too many; 1
            where all have one.
    """

    num_learned: int
    num_missing: int
    num_strangers: int
    num_tested: int
    most_by_chance: float
    share_alike: float

    @property
    def is_real(self) -> bool:
        """Whether the model has learned what tests it."""
        return self.num_tested > self.most_by_chance

    @property
    def is_possible(self) -> bool:
        """Whether learned histories are missing, and the file has customers who may be theirs, with others."""
        return self.num_missing > 0 and (self.num_strangers > 0 or self.share_alike > _ALIKE)


def find_leakage(recommender: MacRecRecommender, purchases: Histories | FutureUsers) -> tuple[Leakage | None, str]:
    """Warns where the model was trained on, or chosen by, purchases that test it, or where that cannot be told.

    A file that has grown since the training holds all that was learned; one that has shrunk, that is sorted otherwise
    or another one may test what was learned.

    Args:
        purchases: everybody's, as leave-one-out or a cut parts them.

    Returns:
        What was found, None of a model that keeps no fingerprints; and a sentence for the verdict, "" where there is
        no doubt.
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
        logger.warning(f"{NO_RECORD} Where it was, its figures are too good. `macrec train` keeps such a record.")
        return None, NO_RECORD
    learned, hashes = recommender.learned_histories.numpy(), item_hashes(item_ids)
    found = leakage(learned, known, tested, hashes)
    if found.is_real:
        doubt = f"the model seems to have learned what tests it, of at least {found.num_tested:,} customers."
        by_time = isinstance(purchases, FutureUsers)
        remedy = (
            "By time, train anew with --until the cut, or give such a model the file that it was trained on"
            if by_time
            else "Give the file that it was trained on, in the same order, or a grown one, or train anew on this one"
        )
        logger.warning(f"{doubt.capitalize()} Its figures are too good. {remedy}.")
        return found, f"Not to be trusted: {doubt}"
    said = (
        f"{found.num_missing:,} of the {found.num_learned:,} histories that the model has learned are not in this file"
    )
    if found.is_possible:
        why = (
            f", and {found.num_strangers:,} of its customers or more have none of them. If these are other people, "
            "that does no harm. If they are the same with fewer or other purchases, the model may have learned what "
            "is to be predicted, and its figures be too good"
        )
        if not found.num_strangers:
            why = (
                ". With so few items and such short histories most customers would have one of somebody, so it cannot "
                "be told who was left out and who has lost purchases"
            )
        logger.warning(f"{said}{why}: evaluate on the file that the model was trained on.")
        return found, CANNOT_BE_TOLD
    if found.num_missing:
        logger.warning(
            f"{said}, where nobody is new: as when customers were left out, which does no harm. Where their purchases "
            "were given to others, as of accounts that were joined, the model has learned what tests it."
        )
    elif num_more := _num_not_learned(learned, known, hashes):
        logger.warning(
            f"Of {num_more:,} customers not all purchases before those that test were learned by the model, as of a "
            "file that has grown: ways of counting know them, and so more than the model. Train anew to compare them."
        )
    return found, ""


def _num_not_learned(learned: np.ndarray, known: Sequence[np.ndarray], hashes: np.ndarray) -> int:
    """How many customers have a history that was not learned as it is, up to its end."""
    values, counts = np.unique(history_fingerprints(known, hashes), return_counts=True)
    return int(np.maximum(counts - how_often(values, learned), 0).sum())


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
    strangers = _strangers([history for history, _ in tested], learned, hashes)
    fingerprints, owners = _with_later(tested, hashes)
    gone = values[(missing > 0) & (counts == 1)]  # what several had is bought together, and may be anybody's
    found, alike = (np.isin(np.arange(len(tested)), owners[np.isin(fingerprints, among)]) for among in (gone, values))
    num_same = int((~strangers).sum())
    # Laplace's rule: a half where nobody is the same; at most a half, since those who are so by chance alone look so.
    chance = min(0.5, ((alike & ~strangers).sum() + 1) / (num_same + 2))
    chance = max(chance, _found_with_others(tested, np.flatnonzero(strangers), gone, hashes))
    num_strangers, num_missing = len(tested) - num_same, int(missing.sum())
    most = num_strangers * chance + 3 * sqrt(num_strangers * chance * (1 - chance))
    others = int(_strangers(known, learned, hashes).sum())
    others = max(others, sum(len(rows) > 0 for rows in known) - (len(learned) - num_missing))
    others += sum(len(history) == 0 for history, _ in tested)
    num_tested = min(int((found & strangers).sum()), num_missing)
    share_alike = float(any(len(history) for history, _ in tested))
    if longer := [history for history, _ in tested if len(history) > 1]:
        share_alike = 1 - float(_strangers(longer, learned, hashes, besides_own=True).mean())
    return Leakage(len(learned), num_missing, others, num_tested, float(most), share_alike)


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


def _strangers(
    histories: Sequence[np.ndarray], learned: np.ndarray, hashes: np.ndarray, besides_own: bool = False
) -> np.ndarray:
    """Bool, `(num_histories,)`: of whom less than half was learned, or the first purchase, which is of somebody.

    Args:
        besides_own: whether it does not count that the longest beginning which was learned was so once.
    """
    lengths, owners, places = _placed(histories)
    times = how_often(beginnings(histories, hashes), learned)
    if besides_own:
        longest = np.full(len(histories), -1)
        np.maximum.at(longest, owners[times > 0], places[times > 0])
        times = times - (places == longest[owners])
    enough = (times > 0) & (2 * (places + 1) >= lengths[owners]) & (places + 1 >= np.minimum(lengths, 2)[owners])
    return ~np.isin(np.arange(len(histories)), owners[enough])


def _found_with_others(tested: Tested, strangers: np.ndarray, among: np.ndarray, hashes: np.ndarray) -> float:
    """The share of the strangers found among some fingerprints with later purchases that were drawn from all."""
    generator, found = np.random.default_rng(0), 0
    for _ in range(_DRAWS * bool(len(among))):
        later = generator.integers(0, len(tested), len(strangers))
        drawn = [(tested[user][0], tested[other][1]) for user, other in zip(strangers, later, strict=True)]
        fingerprints, owners = _with_later(drawn, hashes)
        found += len(np.unique(owners[np.isin(fingerprints, among)]))
    return found / max(1, _DRAWS * len(strangers))


def _placed(histories: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How long each history is; and of each purchase, one history after the other, whose it is and its place there."""
    lengths = np.array([len(rows) for rows in histories], dtype=np.int64)
    owners, places = joined_ranges(np.zeros_like(lengths), lengths)
    return lengths, owners, places


def _with_later(tested: Tested, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fingerprints of what a model has learned that knows later purchases, and whose they are, places in `tested`.

    That is each beginning that ends in a later purchase; and, where only one is later, all purchases but another one,
    as when rows of equal times stood in another order. Of three purchases at least: one is the beginning of too many
    histories, and two are bought together by many, as a case with a telephone.
    """
    whole = [np.concatenate(parts) for parts in tested]
    lengths, owners, places = _placed(whole)
    num_later = np.array([len(later) for _, later in tested], dtype=np.int64)
    begun = beginnings(whole, hashes)
    is_later = (places >= (lengths - num_later)[owners]) & (places > 1)
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *whole]).astype(np.int64)
    ends = (np.cumsum(lengths) - 1)[owners]
    all_but_one = begun[ends] - hashes[rows].view(np.int64)
    exchanged = (
        (num_later == 1)[owners] & (lengths > 3)[owners] & (places < lengths[owners] - 1) & (rows != rows[ends])
    )
    return (
        np.concatenate([begun[is_later], all_but_one[exchanged]]),
        np.concatenate([owners[is_later], owners[exchanged]]),
    )
