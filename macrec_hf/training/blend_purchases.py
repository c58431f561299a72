"""The purchases that the blend's weights are fitted on: neither the model was trained on them nor do the counts hold
them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from transformers.utils import logging

from ..data.histories import Histories, user_histories
from ..data.item_regression import ROOM
from ..data.splits import SplitUsers, split_users, validation_halves
from ..data.time_split import HistoriesUntil, histories_until
from ..evaluation.baselines import best_window
from ..evaluation.blend_lists import USERS_AT_A_TIME, blend_inputs, candidates_of
from ..evaluation.own_history import quoted, repeat_rate
from ..model.blend import POPULARITY, BlendInputs, by_popularity, find_candidates
from ..model.ensemble import ENSEMBLE, Decoding, history_sources, rank_catalogue
from ..model.limits import Limits
from ..model.model_decoding import score_items
from ..model.ranked_lists import Candidates, RankedLists
from ..model.recommender import MacRecRecommender

TOO_FEW_USERS = 20  # tell nothing: no weights are fitted, and newcomers choose no count; ours
FEW_USERS = 200  # with fewer in the half that chose nothing, all validation users are explained; ours
_USERS = 10_000  # more say little more, and memory grows with them


@dataclass
class Explained:
    """Purchases to explain, of some users, and what was known before.

    Attributes:
        histories: the table rows of what each user had bought before, oldest first, `num_users` of them.
        owners: int64, `(num_purchases,)`, whose purchase each is: a place in `histories`, rising.
        targets: int64, `(num_purchases,)`, table rows.
        days: int64, `(num_users,)`, as of which the terms are made; None where the purchases have no dates.
        counted, counted_days: the purchases that may be counted, a sequence a user, of everybody, and their days.
        repeat_rate: how many of the validation purchases, of all users, were bought before.
        newcomers: by time, what customers bought who had bought nothing before; leave-one-out knows none.
    """

    histories: list[np.ndarray]
    owners: np.ndarray
    targets: np.ndarray
    days: np.ndarray | None
    counted: list[np.ndarray]
    counted_days: list[np.ndarray] | None
    repeat_rate: float
    newcomers: list[np.ndarray] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """What `blend.json` says of the purchases, naming nobody.

        Returns:
            "purchases", how many were counted; "from" and "to", the days of the first and the last of these, and
            "as_of", the day as of which the terms are made where it is one for all, each None where there is none;
            "fingerprint", a hash of the table rows that each user bought, counted and explained, the same for the
            same purchases in any order of the users.
        """
        days = np.concatenate(self.counted_days) if self.counted_days else np.zeros(0, dtype=np.int64)
        as_of = np.unique(np.zeros(0) if self.days is None else self.days)
        ends = np.searchsorted(self.owners, np.arange(len(self.histories) + 1))
        explained = [
            np.concatenate([history, [-1], self.targets[first:last]])
            for history, first, last in zip(self.histories, ends[:-1], ends[1:], strict=True)
        ]
        each = [sorted(rows.astype("<i4").tobytes() for rows in part) for part in (self.counted, explained)]
        hashed = hashlib.sha256()
        for rows in chain(*each):
            hashed.update(len(rows).to_bytes(8, "little") + rows)
        return {
            "purchases": sum(map(len, self.counted)),
            "from": _day(days.min()) if len(days) else None,
            "to": _day(days.max()) if len(days) else None,
            "as_of": _day(as_of[0]) if len(as_of) == 1 else None,
            "fingerprint": hashed.hexdigest()[:16],
        }


def _day(day: int) -> str:
    return str(np.datetime64(int(day), "D"))


def purchases_to_explain(interactions: pd.DataFrame, row_of: dict[str, int], until: str | None) -> Explained:
    """Those of the users that chose nothing else, or of all where that half has fewer than 200 users.

    Args:
        interactions: as `read_interactions` returns them.
        row_of: item id → row of the table.
        until: `trained_until` of the model's configuration. None: leave-one-out, where the last but one purchase of a
            user is explained and the counts hold all before. A date: every purchase of the latest fifth before it is,
            from the day D' on with which validation began, as of D', and the counts end there; items that were first
            sold from D' on are new.

    Raises:
        ValueError: see `user_histories` and `histories_until`.
    """
    return _leave_one_out(interactions, row_of) if until is None else _by_time(interactions, row_of, until)


def _leave_one_out(interactions: pd.DataFrame, row_of: dict[str, int]) -> Explained:
    everyone = split_users(user_histories(interactions, row_of), "validation")
    users = _chosen(everyone.user_ids)
    return Explained(
        [everyone.histories[user] for user in users],
        np.arange(len(users)),
        everyone.targets[users].astype(np.int64),
        None if everyone.days is None else everyone.days[users],
        everyone.counted,
        everyone.counted_days,
        share_bought_again(everyone),
    )


def _by_time(interactions: pd.DataFrame, row_of: dict[str, int], until: str) -> Explained:
    known = histories_until(interactions, row_of, until)
    users = _chosen(known.user_ids)
    bought = [known.later[user] for user in users]
    days = None if known.first_day is None else np.full(len(users), known.first_day, dtype=np.int64)
    return Explained(
        [known.items[user] for user in users],
        np.repeat(np.arange(len(users)), [len(items) for items in bought]),
        np.concatenate(bought).astype(np.int64),
        days,
        [*known.items, *known.short_items],
        None if known.days is None else [*known.days, *(known.short_days or [])],
        share_bought_again(known),
        known.newcomers,
    )


def share_bought_again(known: SplitUsers | HistoriesUntil) -> float:
    """How many of all validation purchases are of an item that the customer had, which decides whether lists hide it.

    Args:
        known: the users of the validation split; by time those of `--until`, all of whose later purchases count.
    """
    if isinstance(known, SplitUsers):
        return repeat_rate(known.histories, known.targets)
    return repeat_rate([known.items[user] for user in known.owners], np.concatenate(known.later))


def hides_history(histories: Histories) -> bool:
    """Whether lists leave out what a customer has, for the configuration of a model that learns from these histories.

    Args:
        histories: as `user_histories` gives them, or by time `histories_until`.
    """
    known = histories if isinstance(histories, HistoriesUntil) else split_users(histories, "validation")
    return quoted(share_bought_again(known)) == "hidden"


def _chosen(user_ids: list[str]) -> np.ndarray:
    """Places of the users whose purchases are explained."""
    _, half = validation_halves(user_ids)
    half = half if len(half) >= FEW_USERS else np.arange(len(user_ids))
    return half[np.unique(np.linspace(0, len(half) - 1, min(_USERS, len(half))).astype(np.int64))]


@dataclass
class Weighed:
    """A block of purchases to explain.

    Attributes:
        candidates: of each.
        targets, owners: int64, `(num_purchases,)`, the table row of each purchase, and whose it is.
    """

    candidates: Candidates
    targets: np.ndarray
    owners: np.ndarray


def candidates_to_weigh(
    recommender: MacRecRecommender,
    known: Explained,
    *,
    gather: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> tuple[list[Weighed], RankedLists, dict[str, Any]]:
    """The candidates of purchases to explain, the ensemble's lists, and how both were made.

    Args:
        gather: `evaluation.report.shared_by` of the processes that share the ranking; None: this process ranks alone.
        progress: whether to show a progress bar.
    """
    table, users = recommender.table, known.histories
    window = best_window(known.counted, table.num_items, users, known.targets, known.owners)
    inputs = blend_inputs(recommender, known, window, ROOM)
    limits = Limits(len(users), table.num_items, histories=users) if quoted(known.repeat_rate) == "hidden" else None
    sources = history_sources(recommender.task_encoder, users, table.modalities)
    lists = rank_catalogue(
        recommender.model,
        recommender.tries,
        sources,
        Decoding(),
        limits=limits,
        progress=progress,
        **(gather or {}),
    )
    of_model, blocks = {name: lists[name] for name in table.modalities}, []
    starts, shows = range(0, len(known.owners), USERS_AT_A_TIME), progress and not (gather or {}).get("rank")
    for start in logging.tqdm(starts, desc="scoring", unit=f"{USERS_AT_A_TIME} purchases", disable=not shows):
        block = slice(start, start + USERS_AT_A_TIME)
        candidates = candidates_of(inputs, known, known.owners[block], of_model, limits)
        owners, first, again = np.unique(known.owners[block], return_index=True, return_inverse=True)
        scores = score_items(
            recommender.model, recommender.tries, sources, candidates.items[first], owners, **(gather or {})
        )
        candidates = candidates.with_scores({name: of_owners[again] for name, of_owners in scores.items()})
        # What beams missed is scored now, so that these terms of earlier releases say nothing more.
        candidates = candidates.without("model_", "missed_")
        if recommender.model.config.trained_until is None:
            candidates = _without_families(candidates)
        blocks.append(Weighed(candidates, known.targets[block], known.owners[block]))
    about: dict[str, Any] = {"repeat_rate": known.repeat_rate, "hides_history": limits is not None, "window": window}
    about["without_history"] = _best_popularity(inputs, known)
    return blocks, lists[ENSEMBLE].rows(known.owners), about


def _without_families(candidates: Candidates) -> Candidates:
    """Without the terms of new items' families, which leave-one-out cannot teach.

    Items that no counted purchase holds are there mostly because an explained one does: a fit would learn that
    whatever is new sells, and lists would fill with what `add_items` brings.
    """
    return candidates.without("family")


def _best_popularity(inputs: BlendInputs, known: Explained) -> str:
    """The one of [`~model.blend.POPULARITY`] that ranks best what newcomers bought, by NDCG@10; equal ones: the first.

    The first, all sales, where newcomers are too few to go by: a window of some days may hold hardly a sale.
    """
    if len(known.newcomers) < TOO_FEW_USERS:
        return POPULARITY[0]
    day = None if known.days is None else known.days[:1]  # by time one day for everybody, and so one list
    candidates = find_candidates(inputs, [np.zeros(0, dtype=np.int64)], {}, days=day)
    targets = np.concatenate(known.newcomers)
    terms = [term for term in POPULARITY if term in candidates.terms]
    return max(terms, key=lambda term: ndcg(candidates.ranked(by_popularity(term), 10), targets).sum())


def ndcg(lists: RankedLists, targets: np.ndarray) -> np.ndarray:
    """NDCG@10 of each purchase from ranked items, `(num_purchases,)`; of one list for all of them, too."""
    hit = lists.items[:, :10] == targets[:, None]
    return np.where(hit, 1 / np.log2(np.arange(hit.shape[1]) + 2.0), 0.0).sum(axis=1)
