"""Whether a model knows what an evaluation asks for."""

from collections.abc import Sequence

import numpy as np
from transformers.utils import logging

from ..data.histories import Histories
from ..data.learned_purchases import LearnedHere, learned_here
from ..data.splits import before_test
from ..data.time_split import FutureUsers
from ..model.recommender import MacRecRecommender

logger = logging.get_logger(__name__)


def find_learned(recommender: MacRecRecommender, purchases: Histories | FutureUsers) -> LearnedHere | None:
    """Warns where the model has learned, or was chosen by, purchases that test it, or where that cannot be told.

    A file that has grown since the training holds all that was learned; one that has shrunk, or another one, may test
    what was learned.

    Args:
        purchases: everybody's, leave-one-out or parted at a cut.

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
    found = learned_here(recommender.learned_histories.numpy(), known, tested, item_ids)
    if found.num_tested:
        logger.warning(
            f"The model has learned what tests it: {found.num_tested:,} of the {found.num_learned:,} histories that "
            "it was trained on end in purchases that are to be predicted here. Its figures are too good. Give the "
            "file that it was trained on, or one that has grown from it, or train anew on this one."
        )
    elif found.num_elsewhere:
        logger.warning(
            f"{found.num_elsewhere:,} of the {found.num_learned:,} histories that the model was trained on are not in "
            "this file. That does no harm where whole customers were left out. Where single purchases or items were, "
            "or times changed, the model may have learned what is to be predicted, and its figures be too good."
        )
    return found


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
