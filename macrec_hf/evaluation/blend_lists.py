"""The blend's lists in an evaluation: its weights as they were saved, its counts made anew."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import numpy as np
from transformers.utils import logging

from ..data.item_regression import with_item_regression
from ..data.purchase_counting import count_purchases
from ..data.splits import SplitUsers
from ..data.time_split import FutureUsers
from ..model.blend import Blend, BlendInputs, find_candidates
from ..model.limits import Limits
from ..model.model_files import tell_of_lost_terms
from ..model.ranked_lists import Candidates, RankedLists
from ..model.recommender import MacRecRecommender
from ..model.served_catalogue import codes_of, content_of
from .ranking_metrics import KS

USERS_AT_A_TIME = 512


class Known(Protocol):
    """What is known of users before a purchase: `SplitUsers`, `FutureUsers`, `training.blend_purchases.Explained`."""

    histories: list[np.ndarray]
    days: np.ndarray | None
    counted: list[np.ndarray]
    counted_days: list[np.ndarray] | None


def blend_inputs(recommender: MacRecRecommender, users: Known, window: int, room: int = 1) -> BlendInputs:
    """The counts of the purchases that may be counted for these users, never those of the model directory.

    Args:
        window: as for [`~data.purchase_counting.count_purchases`].
        room: as for [`~data.item_regression.with_item_regression`].
    """
    num_items = recommender.table.num_items
    counts = count_purchases(users.counted, num_items, window=window, days=users.counted_days)
    table = recommender.table
    return BlendInputs(with_item_regression(counts, room), content_of(table, recommender.quantizer), codes_of(table))


def inputs_of_weights(recommender: MacRecRecommender, users: Known, blend: Blend) -> BlendInputs:
    """[`blend_inputs`] for weights that were fitted, with notices where these go by more than can be told."""
    inputs, newcomers = blend_inputs(recommender, users, blend.about["window"]), not all(map(len, users.histories))
    tell_of_lost_terms(blend, inputs.counts.regression is not None, inputs.counts.sale_days is not None, newcomers)
    return inputs


def candidates_of(
    inputs: BlendInputs,
    users: Known,
    block: np.ndarray,
    lists: Mapping[str, RankedLists],
    limits: Limits | None,
    wanted: int = 10,
) -> Candidates:
    """The candidates of a block of users.

    Args:
        block: int, places of users; one may stand there several times.
        lists: the model's, of all users, by modality.
        limits: of all users; None: own items may appear.
        wanted: as in [`~model.blend.find_candidates`].
    """
    return find_candidates(
        inputs,
        [users.histories[user] for user in block],
        {name: ranked.rows(block) for name, ranked in lists.items()},
        days=None if users.days is None else users.days[block],
        limits=limits,
        users=block,
        wanted=wanted,
    )


def blend_lists(
    blend: Blend,
    inputs: BlendInputs,
    users: SplitUsers | FutureUsers,
    lists: Mapping[str, RankedLists],
    limits: Limits | None,
    score: Callable[..., dict[str, np.ndarray]],
    progress: bool = False,
) -> RankedLists:
    """The ten best of each user, judged as they are shown: counts are often equal, and baselines are judged so too.

    Args:
        lists: the model's, of the same users and limits, by modality.
        limits: of the users; None: own items may appear.
        score: of some users' items, `model.model_decoding.score_items` of the model that made the lists.
        progress: whether to show a progress bar.
    """
    parts = []
    starts = range(0, len(users), USERS_AT_A_TIME)
    for start in logging.tqdm(starts, desc="blending", unit=f"{USERS_AT_A_TIME} users", disable=not progress):
        block = np.arange(start, min(start + USERS_AT_A_TIME, len(users)))
        candidates = candidates_of(inputs, users, block, lists, limits)
        candidates = blend.scored(candidates, partial(score, users=block))
        parts.append(blend.ranked(candidates, [users.histories[user] for user in block], max(KS)))
    width = max((part.items.shape[1] for part in parts), default=0)
    pad = [((0, 0), (0, width - part.items.shape[1])) for part in parts]
    items = [np.pad(part.items, by, constant_values=-1) for part, by in zip(parts, pad, strict=True)]
    scores = [np.pad(part.scores, by, constant_values=-np.inf) for part, by in zip(parts, pad, strict=True)]
    return RankedLists(np.concatenate(items), np.concatenate(scores), order_counts=True)
