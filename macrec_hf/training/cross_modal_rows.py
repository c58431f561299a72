"""Which training examples lead from one modality to another: an epoch may go through a share of them."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from transformers.trainer_utils import has_length

from ..model.tokenization_macrec import all_tasks


def cross_modal_rows(dataset: Any, modalities: Iterable[str]) -> np.ndarray:
    """Rows of the tasks whose source and target are of two modalities, int64.

    Args:
        dataset: the training split of `RecommendationTasksBuilder`.
        modalities: of the table, in its order.

    Raises:
        ValueError: a data set without the column `task`, or one that is streamed.
    """
    streamed = not has_length(dataset)
    if streamed or "task" not in getattr(dataset, "column_names", ()):
        raise ValueError(
            "cross_modal_rate: expected 1 for a train_dataset that is streamed, or has no column 'task', which says "
            "what an example is. Take the split of RecommendationTasksBuilder as it is, or give a rate of 1."
        )
    crossing = [place for place, task in enumerate(all_tasks(modalities).values()) if task.token]
    tasks = dataset.select_columns("task").with_format("numpy")["task"][:]
    return np.flatnonzero(np.isin(tasks, crossing))


def rows_of_an_epoch(num_rows: int, num_rare: int, share: float) -> int:
    """How many rows an epoch has that takes a share of some of them, rounded up."""
    return num_rows - num_rare + math.ceil(share * num_rare)


def examples_of_an_epoch(dataset: Any, modalities: Iterable[str], rate: float) -> int:
    """How many examples an epoch has with a `cross_modal_rate`; arguments as of [`cross_modal_rows`]."""
    rare = 0 if rate == 1.0 else len(cross_modal_rows(dataset, modalities))
    return rows_of_an_epoch(len(dataset), rare, rate)
