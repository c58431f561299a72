"""The report of lists made at a cut: every later purchase is a target, of seen items, unseen ones, new customers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.learned_purchases import not_fitted_before
from ..data.time_split import FutureUsers, Moments
from ..model.ranked_lists import RankedLists
from ..model.semantic_ids import SemanticIdTable
from .ranking_metrics import KS
from .report import evaluation_report

PARTS = ("seen", "unseen", "new_customers")
"""What the later purchases are parted into: items sold before the cut, items that were not, and, of both kinds, the
purchases of customers who had bought nothing before it."""


def column_by_time(
    lists: Mapping[str, RankedLists], users: FutureUsers, num_items: int, seed: int, summary_row: str
) -> dict[str, Any]:
    """One column of the report, own history shown or hidden.

    Returns:
        What [`evaluation_report`] says of all later purchases; under each of `PARTS` the same about some of them
        without coverage and differences, with "num_purchases" and "num_users" (nothing else where there are none);
        and "unseen_places": `{list: share of the first ten places that hold an item not sold before the cut}`.
    """
    report: dict[str, Any] = evaluation_report(
        lists, users.targets, num_items, seed=seed, summary_row=summary_row, owners=users.owners
    )
    report["unseen_places"] = {name: _share_unseen(ranked.items, users.unseen) for name, ranked in lists.items()}
    unseen = users.unseen[users.targets]
    is_new = np.array([len(history) == 0 for history in users.histories])
    for name, chosen in zip(PARTS, (~unseen, unseen, is_new[users.owners]), strict=True):
        owners = users.owners[chosen]
        part: dict[str, Any] = {"num_purchases": int(chosen.sum()), "num_users": len(np.unique(owners))}
        if len(owners):
            part |= evaluation_report(lists, users.targets[chosen], num_items, seed=seed, owners=owners)
            part.pop("coverage")
        report[name] = part
    return report


def answered(lists: Mapping[str, RankedLists], unread: np.ndarray, popular: RankedLists) -> dict[str, RankedLists]:
    """The model's lists with what its recommender answers where it can read nothing of a history: what is popular.

    Args:
        lists: of the model.
        unread: bool, `(num_users,)`, whose history it cannot read.
        popular: the lists of the baseline "popularity". Where lists have `leaf_ranks`, these are the places then.
    """
    width = popular.items.shape[1]
    found = {}
    for name, ranked in lists.items():
        wider = max(0, width - ranked.items.shape[1])
        items = np.pad(ranked.items, ((0, 0), (0, wider)), constant_values=-1)
        scores = np.pad(ranked.scores, ((0, 0), (0, wider)), constant_values=-np.inf)
        items[unread], scores[unread] = -1, -np.inf
        items[unread, :width], scores[unread, :width] = popular.items[unread], popular.scores[unread]
        leaves = None
        if ranked.leaf_ranks is not None:
            leaves = np.pad(ranked.leaf_ranks, ((0, 0), (0, wider)), constant_values=-1)
            leaves[unread] = np.arange(leaves.shape[1])
        found[name] = RankedLists(items, scores, leaves)
    return found


def check_cut(trained_until: str | None, moments: Moments, cut: Any) -> str | None:
    """Refuses a cut before the day until which the model has learned; returns a warning where that is unknown.

    Raises:
        ValueError: an earlier cut, or one of another kind.
    """
    at = moments.at(cut)
    if trained_until is None:
        return (
            "The model does not say until when it has learned (no --until in its training). If it has seen purchases "
            f"from {moments.name(at)} on, its figures are too good: train with macrec train --until "
            f"{moments.name(at)}."
        )
    if at < moments.at(trained_until):
        raise ValueError(
            f"cut: expected {trained_until} or later, until which the model has learned, got {moments.name(at)}: it "
            "knows purchases that it would have to predict. Choose a later cut, or train with an earlier --until."
        )
    return None


def said_of_ids(table: SemanticIdTable, users: FutureUsers) -> str:
    """A warning where semantic IDs may have been fitted on items that were first sold at the cut or later."""
    later = np.unique(users.targets[users.targets < table.num_items])
    num_later = int(users.unseen[later].sum())
    said = not_fitted_before(table.report, table.modalities, users.cut) if num_later else ""
    if not said:
        return ""
    return (
        f"{said}, and {num_later:,} of {table.num_items:,} items were first sold from {users.cut} on: what the codes "
        "know of these makes figures by time too good. macrec embed and macrec quantize take --until."
    )


def _share_unseen(items: np.ndarray, unseen: np.ndarray) -> float:
    shown = items[:, : max(KS)]
    shown = shown[shown >= 0]
    return float(unseen[shown].mean()) if len(shown) else 0.0
