"""Histories → the examples of the six tasks as token ids, many users at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..model.inference import joined_ranges
from ..model.tokenization_macrec import ITEM, Task, TaskEncoder

EXAMPLES_AT_A_TIME = 100_000  # of one task: bounds the memory (8 million tokens) whatever the number of users


def chunk_by_length(lengths: Sequence[int], size: int) -> list[tuple[int, int]]:
    """Cuts a sequence of histories into runs `(start, stop)` of about `size` items each, at least one history a run.

    >>> chunk_by_length([3, 3, 9, 1], size=6)
    [(0, 2), (2, 3), (3, 4)]
    """
    runs, start, held = [], 0, 0
    for place, length in enumerate(lengths):
        if place > start and held + length > size:
            runs.append((start, place))
            start, held = place, 0
        held += length
    return [*runs, (start, len(lengths))] if len(lengths) else []


@dataclass
class TaskExamples:
    """Examples of one task, sources end to end.

    Attributes:
        input_ids: int32, all sources one after another.
        offsets: int64, (num_examples + 1,): source i is `input_ids[offsets[i] : offsets[i + 1]]`.
        labels: int32, (num_examples, num_levels).
        user: int32, (num_examples,), place of the history; -1 for item tasks.
        item: int32, (num_examples,), table row of the target.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    user: np.ndarray
    item: np.ndarray

    def __len__(self) -> int:
        return len(self.item)

    def source(self, example: int) -> np.ndarray:
        """Token ids of one source."""
        return self.input_ids[self.offsets[example] : self.offsets[example + 1]]


class TaskExampleEncoder(TaskEncoder):
    """[`TaskEncoder`] that also writes whole data sets of examples."""

    def sequence_examples(
        self, histories: Sequence[np.ndarray], task: str, targets: np.ndarray | None = None
    ) -> Iterator[TaskExamples]:
        """Examples of a sequence task, many users at a time.

        Args:
            histories: table rows of each user, oldest first.
            task: name of a sequence task.
            targets: an item per history: one example per user, the whole history → its target. `None`: every prefix of
                one item or more → the next item.

        An example whose target lacks the target modality, or whose history has no item of the source modality, is left
        out; other histories skip such items and reach further back.

        Raises:
            ValueError: an unknown task or an item task.
        """
        which = self.task(task)
        if which.kind == ITEM:
            raise ValueError(f"task: expected a sequence task, got {task!r}. Its examples come from item_examples.")
        for start, stop in chunk_by_length([len(history) for history in histories], EXAMPLES_AT_A_TIME):
            chunk = [np.asarray(history, dtype=np.int64) for history in histories[start:stop]]
            chosen = None if targets is None else np.asarray(targets[start:stop], dtype=np.int64)
            yield self._sequences(chunk, which, task, chosen, start)

    def _sequences(
        self, histories: Sequence[np.ndarray], task: Task, name: str, targets: np.ndarray | None, first_user: int
    ) -> TaskExamples:
        lengths = np.array([len(history) for history in histories], dtype=np.int64)
        rows = np.concatenate([*histories, np.zeros(0, dtype=np.int64)])
        has_source = self.present[task.source][rows]
        kept = rows[has_source]
        # seen[i] = how many of the first i rows have the source modality: a history's kept items are a slice of `kept`
        seen = np.concatenate([[0], np.cumsum(has_source)])
        begins = np.cumsum(lengths) - lengths
        if targets is None:
            user = np.repeat(np.arange(len(histories)), lengths)
            end = np.arange(len(rows))  # the example at place i reads its user's rows before i
            item = rows
        else:
            user, end, item = np.arange(len(histories)), begins + lengths, targets
        stop = seen[end]
        begin = np.maximum(seen[begins[user]], stop - self.max_history)
        good = (stop > begin) & self.present[task.target][item]
        return self._join(kept, begin[good], stop[good], name, task, user[good] + first_user, item[good])

    def users_without_example(self, histories: Sequence[np.ndarray], targets: np.ndarray) -> Iterator[TaskExamples]:
        """The users of whom no bare task makes an example: sources of `</s>` alone, labels -100, which no loss counts.

        Args as in `sequence_examples`, with targets; many users at a time, too.
        """
        for start, stop in chunk_by_length([len(history) for history in histories], EXAMPLES_AT_A_TIME):
            yield self._without_example(histories[start:stop], np.asarray(targets[start:stop]), start)

    def _without_example(self, histories: Sequence[np.ndarray], targets: np.ndarray, first_user: int) -> TaskExamples:
        lengths = [len(history) for history in histories]
        users, rows = np.repeat(np.arange(len(histories)), lengths), np.concatenate([*histories, np.zeros(0, int)])
        told = np.zeros(len(histories), dtype=bool)
        for present in self.present.values():
            readable = np.bincount(users[present[rows]], minlength=len(histories)) > 0
            told |= readable & present[targets]
        (left,) = np.nonzero(~told)
        labels = np.full((len(left), self.num_levels), -100, dtype=np.int32)
        sources = np.full(len(left), self.eos, dtype=np.int32)
        users, item = (left + first_user).astype(np.int32), targets[left].astype(np.int32)
        return TaskExamples(sources, np.arange(len(left) + 1), labels, users, item)

    def item_examples(self, task: str, items: np.ndarray | None = None) -> TaskExamples:
        """Examples of an item task: each item that has both modalities once.

        Args:
            items: table rows of the items that may be learned from; None: all.

        Raises:
            ValueError: an unknown task or a sequence task.
        """
        which = self.task(task)
        if which.kind != ITEM:
            raise ValueError(f"task: expected an item task, got {task!r}. Its examples come from sequence_examples.")
        rows = np.flatnonzero(self.present[which.source] & self.present[which.target])
        rows = rows if items is None else np.intersect1d(rows, items)
        places = np.arange(len(rows))
        return self._join(rows, places, places + 1, task, which, np.full(len(rows), -1), rows)

    def _join(
        self,
        rows: np.ndarray,
        begin: np.ndarray,
        stop: np.ndarray,
        name: str,
        task: Task,
        user: np.ndarray,
        item: np.ndarray,
    ) -> TaskExamples:
        """Cuts `rows[begin[i] : stop[i]]` for every example and writes them as token ids, all at once."""
        opening, levels = self.task_ids[name], self.num_levels
        counts = stop - begin
        widths = len(opening) + counts * levels + 1
        offsets = np.concatenate([[0], np.cumsum(widths)])
        input_ids = np.full(offsets[-1], self.eos, dtype=np.int32)
        if opening:
            input_ids[offsets[:-1]] = opening[0]
        # place of each item within its example, and from there the places of its tokens
        example, within = joined_ranges(np.zeros_like(counts), counts)
        chosen = rows[begin[example] + within]
        places = (offsets[:-1] + len(opening))[example] + within * levels
        input_ids[places[:, None] + np.arange(levels)] = self.tokens(task.source)[chosen]
        labels = self.tokens(task.target)[item]
        return TaskExamples(input_ids, offsets, labels, user.astype(np.int32), item.astype(np.int32))
