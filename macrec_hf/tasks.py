"""Histories → (source, target) token ids for the six tasks (paper, "Explicit Alignment" and "Training Objections").

With two modalities: text→text and image→image bare, text→image and image→text sequences and the two item tasks each
behind a task token of its own, so that no source has two targets. With more modalities every ordered pair has its
tasks.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from .semantic_ids import SemanticIdTable
from .tokenization_macrec import SemanticIdTokenizer

SEQUENCE, ITEM = "sequence", "item"
MAX_HISTORY = 20  # authors' code
EXAMPLES_AT_A_TIME = 100_000  # of one task: bounds the memory (8 million tokens) whatever the number of users


class Task(NamedTuple):
    """What a task reads and writes; `kind` is "sequence" or "item"."""

    kind: str
    source: str
    target: str

    @property
    def name(self) -> str:
        return f"{'item_' if self.kind == ITEM else ''}{self.source}_to_{self.target}"

    @property
    def token(self) -> str | None:
        """The token that opens the source; a bare task has none."""
        return None if self.source == self.target else f"<{self.kind}_{self.source}_to_{self.target}>"


def all_tasks(modalities: Iterable[str]) -> dict[str, Task]:
    """`{name: task}`: the bare tasks, then the cross-modal sequence tasks, then the item tasks.

    Raises:
        ValueError: modalities whose tasks would share a name, such as "text" beside "item_text".
    """
    names = list(modalities)
    pairs = list(permutations(names, 2))
    tasks = [Task(SEQUENCE, name, name) for name in names]
    tasks += [Task(kind, *pair) for kind in (SEQUENCE, ITEM) for pair in pairs]
    by_name = {task.name: task for task in tasks}
    if len(by_name) < len(tasks):
        twice = next(task for task in tasks if by_name[task.name] is not task)
        raise ValueError(
            f"modalities: expected names whose tasks can be told apart, got two tasks called {twice.name!r} "
            f"from {names}. Rename a modality."
        )
    return by_name


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


def task_names(modalities: Iterable[str]) -> list[str]:
    """Names of all tasks in a fixed order; a row's `task` column is the place in this list.

    >>> task_names(["text", "image"])
    ['text_to_text', 'image_to_image', 'text_to_image', 'image_to_text', 'item_text_to_image', 'item_image_to_text']
    """
    return list(all_tasks(modalities))


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


class TaskEncoder:
    """Writes histories of table rows as token ids.

    Args:
        tokenizer: the tokenizer of the table.
        table: the catalogue's semantic IDs.
        max_history: items of a history that are read, the latest ones. Default 20 (authors' code).

    Raises:
        ValueError: a tokenizer of other modalities, levels or codebooks than the table's, or `max_history` below one.
    """

    def __init__(self, tokenizer: SemanticIdTokenizer, table: SemanticIdTable, max_history: int = MAX_HISTORY):
        if tuple(tokenizer.modalities) != tuple(table.modalities) or tokenizer.num_levels != table.num_levels:
            raise ValueError(
                f"tokenizer: expected the table's modalities {list(table.modalities)} with {table.num_levels} levels, "
                f"got {list(tokenizer.modalities)} with {tokenizer.num_levels}. Make it with "
                "SemanticIdTokenizer.from_table(table)."
            )
        if max_history < 1:
            raise ValueError(f"max_history: expected at least 1 item, got {max_history}.")
        self.max_history, self.num_levels = max_history, table.num_levels
        self.tasks = all_tasks(table.modalities)
        self.eos = tokenizer.eos_token_id
        self.modalities = tuple(table.modalities)
        # int32, (num_modalities, num_items, num_levels); pad where the item has no ID in that modality
        self.item_token_ids = np.stack([tokenizer.item_token_ids(table, name) for name in table.modalities])
        self.present = {name: table.codes[name].numpy()[:, 0] >= 0 for name in table.modalities}
        self.task_ids = {
            name: [] if task.token is None else [tokenizer.convert_tokens_to_ids(task.token)]
            for name, task in self.tasks.items()
        }

    def task(self, name: str) -> Task:
        """The task of a name; `ValueError` for an unknown one."""
        if name not in self.tasks:
            raise ValueError(f"task: expected one of {list(self.tasks)}, got {name!r}.")
        return self.tasks[name]

    def tokens(self, modality: str) -> np.ndarray:
        """Every item's codes as token ids, int32 (num_items, num_levels)."""
        return self.item_token_ids[self.modalities.index(modality)]

    def source(self, history: Sequence[int] | np.ndarray, task: str) -> list[int]:
        """Token ids of one source: task token, codes of the last items that have the modality, `</s>`.

        Args:
            history: table rows, oldest first; for an item task the one item.

        Returns:
            Where no item of the history has the source modality, nothing stands before `</s>` but the task token.
        """
        rows = np.asarray(history, dtype=np.int64)
        modality = self.task(task).source
        rows = rows[self.present[modality][rows]][-self.max_history :]
        return [*self.task_ids[task], *self.tokens(modality)[rows].ravel().tolist(), self.eos]

    def target(self, row: int, task: str) -> list[int]:
        """Token ids of one target: the item's codes, without `</s>`; pad where it has no ID in the target modality."""
        return self.tokens(self.task(task).target)[row].tolist()

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

    def item_examples(self, task: str) -> TaskExamples:
        """Examples of an item task: each item that has both modalities once.

        Raises:
            ValueError: an unknown task or a sequence task.
        """
        which = self.task(task)
        if which.kind != ITEM:
            raise ValueError(f"task: expected an item task, got {task!r}. Its examples come from sequence_examples.")
        rows = np.flatnonzero(self.present[which.source] & self.present[which.target])
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
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        chosen = rows[np.repeat(begin, counts) + within]
        places = np.repeat(offsets[:-1] + len(opening), counts) + within * levels
        input_ids[places[:, None] + np.arange(levels)] = self.tokens(task.source)[chosen]
        labels = self.tokens(task.target)[item]
        return TaskExamples(input_ids, offsets, labels, user.astype(np.int32), item.astype(np.int32))
