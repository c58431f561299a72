"""Rows of the tasks a batch at a time, cut out of arrays: `datasets` reads each row and each number by itself."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

MEMORY = 2**30  # bytes of columns that are held in memory; a larger data set is read from its files, row by row


class TaskBatch(NamedTuple):
    """Rows of [`TaskRows`].

    Attributes:
        input_ids: int64, (batch_size, longest source); anything where `inside` is False.
        inside: bool, the same shape.
        labels: int64, (batch_size, num_levels).
        item: int64, (batch_size,), table row of the target.
    """

    input_ids: np.ndarray
    inside: np.ndarray
    labels: np.ndarray
    item: np.ndarray


class TaskRows(Dataset):
    """A split of `RecommendationTasksBuilder` for a `DataLoader`, which gets a [`TaskBatch`] for the rows of a batch.

    Args:
        table: the split's columns input_ids, labels and item. They are copied into memory once; worker processes that
            are forked share them.
    """

    def __init__(self, table: pa.Table):
        sources, labels = (_one_array(table.column(name)) for name in ("input_ids", "labels"))
        self.tokens, self.offsets = np.asarray(sources.values), np.asarray(sources.offsets)
        ends = np.asarray(labels.offsets)
        self.labels = np.asarray(labels.values)[ends[0] : ends[-1]].reshape(len(labels), -1)
        self.item = np.asarray(_one_array(table.column("item")))

    @classmethod
    def of(cls, dataset: Any) -> "TaskRows | None":
        """Of a data set as the builder gives it; None of any other, which has to be read row by row.

        Others are those with another format, a transform or a selection of rows, missing columns, missing values,
        labels of several lengths, and more than `MEMORY`.
        """
        names = ["input_ids", "labels", "item"]
        if not isinstance(dataset, datasets.Dataset) or dataset.format["type"] or dataset._indices is not None:
            return None
        if not set(names) <= set(dataset.column_names) or not len(dataset):
            return None
        table = dataset.data.table.select(names)
        # The widths of labels are read off their own column: a split may have been made elsewhere.
        lists = [pa.types.is_list(table.schema.field(name).type) for name in names[:2]]
        if not all(lists) or table.nbytes > MEMORY or any(column.null_count for column in table.columns):
            return None
        widths = {width for part in table.column("labels").chunks for width in np.unique(np.diff(part.offsets))}
        return cls(table) if len(widths) == 1 else None

    def __len__(self) -> int:
        return len(self.item)

    def __getitem__(self, row: int) -> TaskBatch:
        return self.__getitems__([row])

    def __getitems__(self, rows: Sequence[int]) -> TaskBatch:
        """What a `DataLoader` asks for: all rows of a batch."""
        chosen = np.asarray(rows, dtype=np.int64)
        begin = self.offsets[chosen].astype(np.int64)
        lengths = self.offsets[chosen + 1] - begin
        places = np.arange(lengths.max(initial=0))
        inside = places < lengths[:, None]
        read = np.minimum(begin[:, None] + places, max(len(self.tokens) - 1, 0))
        taken = (self.tokens[read], inside, self.labels[chosen], self.item[chosen])
        return TaskBatch(*(values if values.dtype == bool else values.astype(np.int64) for values in taken))


def _one_array(column: pa.ChunkedArray) -> Any:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
