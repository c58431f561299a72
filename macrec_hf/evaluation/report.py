"""Ranked lists → everything that there is to say about them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..model.ranked_lists import RankedLists
from .ranking_metrics import KS, bootstrap_interval, catalogue_coverage, user_metrics


def evaluation_report(
    lists: Mapping[str, RankedLists],
    targets: np.ndarray,
    num_items: int,
    ks: Sequence[int] = KS,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict]:
    """Everything that there is to say about ranked lists.

    Args:
        lists: `{name: RankedLists}` of the same users.
        targets: int, `(num_users,)`: the table row of the item that each user took next.
        num_items: items of the catalogue.
        ks: the cut-offs. Default 1, 5, 10 (paper, "Metrics").
        num_resamples, seed: as in [`bootstrap_interval`].

    Returns:
        Each of the lists' metrics under its name, as [`ranking_metrics`] gives them; and beside them "intervals": 95 %
        bootstrap bounds over users, `{name: {metric: [low, high]}}`, and "coverage": `{name: share}`, the share of
        the catalogue that stands in somebody's first max(ks) places.

    Raises:
        ValueError: no users, or lists of another number than the targets.
    """
    figures = {name: user_metrics(ranked, targets, ks) for name, ranked in lists.items()}
    cells = [(name, metric) for name, metrics in figures.items() for metric in metrics]
    # All in one call: every figure is resampled with the same users, and the users are drawn once.
    values = np.stack([figures[name][metric] for name, metric in cells], axis=1)
    low, high = bootstrap_interval(values, 0.95, num_resamples, seed)
    report: dict[str, dict] = {name: {} for name in lists}
    intervals: dict[str, dict] = {name: {} for name in lists}
    for column, (name, metric) in enumerate(cells):
        report[name][metric] = float(values[:, column].mean())
        intervals[name][metric] = [float(low[column]), float(high[column])]
    coverage = {name: catalogue_coverage(ranked.items, num_items, max(ks)) for name, ranked in lists.items()}
    return report | {"intervals": intervals, "coverage": coverage}


def shared_by(accelerator: Accelerator) -> dict[str, Any]:
    """Arguments with which the accelerator's processes share what `model.catalogue_ranking.rank_catalogue` ranks."""
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    return {"rank": rank, "num_processes": num_processes, "gather": gather_object if num_processes > 1 else list}
