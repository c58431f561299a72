"""Ranked lists → everything that there is to say about them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..model.ranked_lists import RankedLists
from .ranking_metrics import (
    KS,
    catalogue_coverage,
    paired_difference,
    resampled_means,
    sums_of_users,
    user_metrics,
)

COMPARED = ("hr@10", "ndcg@10")  # of these figures differences are told


def evaluation_report(
    lists: Mapping[str, RankedLists],
    targets: np.ndarray,
    num_items: int,
    ks: Sequence[int] = KS,
    num_resamples: int = 1000,
    seed: int = 0,
    summary_row: str | None = None,
    owners: np.ndarray | None = None,
) -> dict[str, dict]:
    """Everything that there is to say about ranked lists.

    Args:
        lists: `{name: RankedLists}` of the same users.
        targets: int, `(num_users,)`: the table row of the item that each user took next; with owners
            `(num_purchases,)`.
        num_items: items of the catalogue.
        ks: the cut-offs. Default 1, 5, 10 (paper, "Metrics").
        num_resamples, seed: as in [`bootstrap_interval`].
        summary_row: the list that the others are compared with, where `ks` hold 10; None: no comparison.
        owners: int, `(num_purchases,)`: whose list each target is to be found in, where users have several. Figures
            are means over the targets then, and users are resampled with all of theirs.

    Returns:
        Each of the lists' metrics under its name, as [`ranking_metrics`] gives them; and beside them "intervals": 95 %
        bootstrap bounds over users, `{name: {metric: [low, high]}}`, "coverage": `{name: share}`, the share of
        the catalogue that stands in somebody's first max(ks) places, and with a summary row "differences": that row
        minus the other on the same users, `{name: {metric: {"difference", "low", "high", "p_value"}}}`, see
        [`paired_bootstrap`].

    Raises:
        ValueError: no users, or lists of another number than the targets.
    """
    of_targets = lists if owners is None else {name: ranked.rows(owners) for name, ranked in lists.items()}
    figures = {name: user_metrics(ranked, targets, ks) for name, ranked in of_targets.items()}
    cells = [(name, metric) for name, metrics in figures.items() for metric in metrics]
    # All in one call: every figure is resampled with the same users, and the users are drawn once.
    values = np.stack([figures[name][metric] for name, metric in cells], axis=1)
    means, weights = values.mean(axis=0), None
    if owners is not None:
        values, weights = sums_of_users(values, owners)
    resampled = resampled_means(values, num_resamples, seed, weights)
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    report: dict[str, dict] = {name: {} for name in lists}
    intervals: dict[str, dict] = {name: {} for name in lists}
    for column, (name, metric) in enumerate(cells):
        report[name][metric] = float(means[column])
        intervals[name][metric] = [float(low[column]), float(high[column])]
    coverage = {name: catalogue_coverage(ranked.items, num_items, max(ks)) for name, ranked in lists.items()}
    report |= {"intervals": intervals, "coverage": coverage}
    if summary_row is not None:
        place = {cell: column for column, cell in enumerate(cells)}
        differences: dict[str, dict] = {name: {} for name in lists if name != summary_row}
        for name, told in differences.items():
            for metric in COMPARED:
                ours, theirs = place[summary_row, metric], place[name, metric]
                found = paired_difference(
                    float(means[ours] - means[theirs]), resampled[:, ours] - resampled[:, theirs]
                )
                told[metric] = found._asdict()
        report["differences"] = differences
    return report


def quoted_column(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of an evaluation's report that summaries quote: with own history shown, or hidden."""
    return report["hidden"] if report.get("quoted") == "hidden" else report


def shared_by(accelerator: Accelerator) -> dict[str, Any]:
    """Arguments with which the accelerator's processes share what `model.ensemble.rank_catalogue` ranks."""
    rank, num_processes = accelerator.process_index, accelerator.num_processes
    return {"rank": rank, "num_processes": num_processes, "gather": gather_object if num_processes > 1 else list}
