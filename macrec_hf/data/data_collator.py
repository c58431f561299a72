"""From rows of the tasks to the recommender's batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..gpu.buckets import bucket_of
from ..model.inference import pad_rows
from .task_rows import TaskBatch


@dataclass
class RecommendationCollator:
    """Pads rows of `RecommendationTasksBuilder` and adds the items for the implicit alignment.

    Args:
        item_token_ids: int32 (num_modalities, num_items, num_levels): every item's codes as token ids, pad where the
            item has no ID in that modality (`TaskEncoder.item_token_ids`).
        pad_token_id: fills the ends of shorter sources. Default 0, the tokenizer's `<pad>`.
        max_alignment_items: at most so many items are aligned, drawn at random from the batch's (of each process's
            part, where there are several); `None` takes all, as the paper's equations 16-18 do.
        in_buckets: sources are padded, and items without an ID added, up to one of few lengths (`gpu.buckets`): the
            loss stays, and a compiled step is compiled for few shapes.

    Returns (from a call with a list of rows):
        `input_ids` and `attention_mask`, long (batch_size, longest source); `labels`, long (batch_size, num_levels);
        `alignment_input_ids`, long (num_modalities, num_unique_items, num_levels): the batch's target items, each
        once, in table order; absent with one modality, where there is nothing to align. Items that share their ID in
        every modality appear once: the model could not tell them apart.

    A [`TaskBatch`] gives the same as its rows in a list, many times faster.

    Raises:
        ValueError: a row lacks a column that the batch needs.

    A worked batch. Two modalities, three items, two levels; item 2 has no image:

    >>> item_token_ids = np.array([[[3, 5], [4, 6], [3, 6]], [[7, 9], [8, 10], [0, 0]]], dtype=np.int32)
    >>> collator = RecommendationCollator(item_token_ids)
    >>> batch = collator([
    ...     {"input_ids": [3, 5, 4, 6, 1], "labels": [3, 6], "item": 2},  # text of items 0, 1 → text of item 2
    ...     {"input_ids": [7, 9, 1], "labels": [8, 10], "item": 1},  # image of item 0 → image of item 1
    ...     {"input_ids": [2, 4, 6, 1], "labels": [8, 10], "item": 1},  # task token, text of item 1 → its image
    ... ])
    >>> batch["input_ids"]
    tensor([[3, 5, 4, 6, 1],
            [7, 9, 1, 0, 0],
            [2, 4, 6, 1, 0]])
    >>> batch["attention_mask"]
    tensor([[1, 1, 1, 1, 1],
            [1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0]])
    >>> batch["labels"]
    tensor([[ 3,  6],
            [ 8, 10],
            [ 8, 10]])
    >>> batch["alignment_input_ids"]  # items 1 and 2, first as text, then as image
    tensor([[[ 4,  6],
             [ 3,  6]],
    <BLANKLINE>
            [[ 8, 10],
             [ 0,  0]]])
    """

    item_token_ids: np.ndarray
    pad_token_id: int = 0
    max_alignment_items: int | None = None
    in_buckets: bool = False

    def __post_init__(self) -> None:
        rows = np.concatenate(list(self.item_token_ids), axis=1)
        _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        # The first item with the same IDs; None where every item is the first.
        self._first_alike = None if len(first) == len(rows) else first[inverse.reshape(-1)]

    def __call__(self, rows: Sequence[Mapping[str, Any]] | TaskBatch) -> dict[str, torch.Tensor]:
        """Rows of [`RecommendationTasksBuilder`] → a batch as in the example; ValueError for a missing column."""
        align = len(self.item_token_ids) > 1
        read = rows if isinstance(rows, TaskBatch) else _joined(rows, align)
        input_ids, inside = np.where(read.inside, read.input_ids, self.pad_token_id), read.inside
        if self.in_buckets:
            missing = bucket_of(inside.shape[1]) - inside.shape[1]
            input_ids = np.pad(input_ids, ((0, 0), (0, missing)), constant_values=self.pad_token_id)
            inside = np.pad(inside, ((0, 0), (0, missing)))
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(inside.astype(np.int64)),
            "labels": torch.from_numpy(read.labels),
        }
        if align:
            items = read.item if self._first_alike is None else self._first_alike[read.item]
            tokens = self.item_token_ids[:, self._choose(np.unique(items))].astype(np.int64)
            if self.in_buckets:
                missing = bucket_of(tokens.shape[1]) - tokens.shape[1]
                tokens = np.pad(tokens, ((0, 0), (0, missing), (0, 0)), constant_values=self.pad_token_id)
            batch["alignment_input_ids"] = torch.from_numpy(tokens)
        return batch

    def _choose(self, items: np.ndarray) -> np.ndarray:
        if self.max_alignment_items is None or len(items) <= self.max_alignment_items:
            return items
        # torch's generator is the one that Trainer seeds, also in the workers of a DataLoader
        return items[np.sort(torch.randperm(len(items))[: self.max_alignment_items].numpy())]


def _joined(rows: Sequence[Mapping[str, Any]], align: bool) -> TaskBatch:
    """Rows as mappings → arrays; without `align` they need no item."""
    for column in ("input_ids", "labels") + ("item",) * align:
        if any(column not in row for row in rows):
            raise ValueError(
                f"Expected rows with input_ids, labels and item, got one without {column!r}. Trainer drops the "
                "columns that forward does not name: set remove_unused_columns=False."
            )
    labels = np.array([row["labels"] for row in rows], dtype=np.int64)
    item = np.array([row["item"] if align else -1 for row in rows], dtype=np.int64)
    return TaskBatch(*pad_rows([row["input_ids"] for row in rows]), labels, item)
