"""The blend's lists in an evaluation: its weights as they were saved, its counts made anew."""

import numpy as np

from ..data.purchase_counting import count_purchases
from ..data.splits import SplitUsers
from ..data.time_split import FutureUsers
from ..model.blend import Blend, BlendInputs, find_candidates
from ..model.limits import Limits
from ..model.ranked_lists import RankedLists
from ..model.recommender import MacRecRecommender
from ..model.served_catalogue import content_of
from .ranking_metrics import KS

_USERS_AT_A_TIME = 512


def blend_inputs(recommender: MacRecRecommender, users: SplitUsers | FutureUsers, window: int) -> BlendInputs:
    """The counts of the purchases that may be counted for a split, never those of the model directory."""
    num_items = recommender.table.num_items
    counts = count_purchases(users.counted, num_items, window=window, days=users.counted_days)
    return BlendInputs(counts, content_of(recommender.table, recommender.quantizer))


def blend_lists(
    blend: Blend,
    inputs: BlendInputs,
    users: SplitUsers | FutureUsers,
    lists: dict[str, RankedLists],
    limits: Limits | None,
) -> RankedLists:
    """The ten best of each user.

    Args:
        lists: the model's, of the same users and limits, by modality.
        limits: of the users; None: own items may appear.
    """
    parts = []
    for start in range(0, len(users), _USERS_AT_A_TIME):
        block = np.arange(start, min(start + _USERS_AT_A_TIME, len(users)))
        candidates = find_candidates(
            inputs,
            [users.histories[user] for user in block],
            {name: ranked.rows(block) for name, ranked in lists.items()},
            days=None if users.days is None else users.days[block],
            limits=limits,
            users=block,
        )
        parts.append(candidates.ranked(blend.serving_weights, max(KS)))
    width = max((part.items.shape[1] for part in parts), default=0)
    pad = [((0, 0), (0, width - part.items.shape[1])) for part in parts]
    items = [np.pad(part.items, by, constant_values=-1) for part, by in zip(parts, pad, strict=True)]
    scores = [np.pad(part.scores, by, constant_values=-np.inf) for part, by in zip(parts, pad, strict=True)]
    return RankedLists(np.concatenate(items), np.concatenate(scores))
