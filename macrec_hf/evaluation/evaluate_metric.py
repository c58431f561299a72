"""`model/ranked_lists.py` as an `evaluate` metric. Nothing else imports this file: `import evaluate` takes seconds."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from .ranking_metrics import hit_rate, ndcg, tied_ranks

_DESCRIPTION = "Hit rate and NDCG at K of ranked item lists with one relevant item each, ties by their expected value."
_INPUTS = """
Args:
    predictions: ranked items of each user, best first, `(num_users, width)`: whole numbers, -1 in places without an
        item, or item ids as strings, "" in places without one.
    references: the relevant item of each user, `(num_users,)`.
    ks: the cut-offs; (1, 5, 10) by default, as in the paper.
    scores: the items' scores, `(num_users, width)`, of all users; equal ones are ties. Without them the order counts.

Returns:
    {"hr@1": ..., "hr@5": ..., "hr@10": ..., "ndcg@1": ..., "ndcg@5": ..., "ndcg@10": ...}
"""


class RankingMetrics(evaluate.Metric):
    """HR@K and NDCG@K as an [`evaluate.Metric`]; works without a network.

    Example:

    ```python
    >>> RankingMetrics().compute(predictions=[[3, 1, 2], [5, 4, 0]], references=[1, 5], ks=(1, 2))
    {'hr@1': 0.5, 'hr@2': 1.0, 'ndcg@1': 0.5, 'ndcg@2': 0.8154648767857288}
    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        # Strings come first: `datasets` would turn the id "0108775" into a number, but never a number into a string.
        features = [
            datasets.Features(predictions=datasets.List(datasets.Value(kind)), references=datasets.Value(kind))
            for kind in ("string", "int64")
        ]
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description=_INPUTS, features=features
        )

    def _compute(
        self,
        predictions: Sequence[Sequence[Any]],
        references: Sequence[Any],
        ks: Sequence[int] = (1, 5, 10),
        scores: Sequence[Sequence[float]] | None = None,
    ) -> dict[str, float]:
        if len({len(ranked) for ranked in predictions}) > 1:
            raise ValueError(
                "predictions: expected lists of one length, got several: pad the short ones with -1, or with '' where "
                "the items are strings."
            )
        items, targets = _as_rows(predictions, references)
        ranks = tied_ranks(items, targets, None if scores is None else np.asarray(scores))
        figures = {f"hr@{k}": hit_rate(ranks, k) for k in ks} | {f"ndcg@{k}": ndcg(ranks, k) for k in ks}
        return {name: float(values.mean()) for name, values in figures.items()}


def _as_rows(predictions: Sequence[Sequence[Any]], references: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Items as numbers: ids are numbered, an empty one is -1."""
    items, targets = np.asarray(predictions), np.asarray(references)
    if items.dtype.kind in "iu":
        return items, targets
    names, numbers = np.unique(np.concatenate([items.ravel(), targets]), return_inverse=True)
    numbers = np.where(names[numbers] == "", -1, numbers)
    return numbers[: items.size].reshape(items.shape), numbers[items.size :]
