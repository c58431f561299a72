"""The examples of the six tasks in one call."""

import os
from typing import Any, cast

import datasets

from ..model.semantic_ids import SemanticIdTable
from .dataset_builders import RecommendationTasksBuilder


def load_recommendation_tasks(
    interactions: str | os.PathLike[str],
    semantic_ids: str | os.PathLike[str] | SemanticIdTable,
    **settings: Any,
) -> datasets.DatasetDict:
    """Makes the examples of a recommender's tasks, or takes them from the cache; all splits of
    [`RecommendationTasksBuilder`].

    Args:
        interactions, semantic_ids: as for the builder.
        **settings: its other arguments, such as `tasks`, `max_history` and `until`.

    Returns:
        `{"train": …, "validation": …, "test": …}`; no test with `until`.

    Raises:
        FileNotFoundError, ValueError: as the builder.

    Example:

    ```python
    >>> load_recommendation_tasks("shop/interactions.csv", "ids", max_history=10)["train"].column_names[:2]
    ['input_ids', 'labels']
    ```
    """
    builder = RecommendationTasksBuilder(interactions, semantic_ids, **settings)
    builder.download_and_prepare()
    return cast(datasets.DatasetDict, builder.as_dataset())
