"""Histories → (source, target) token ids for the six tasks (paper, "Explicit Alignment" and "Training Objections").

With two modalities: text→text and image→image bare, text→image and image→text sequences and the two item tasks each
behind a task token of its own, so that no source has two targets. With more modalities every ordered pair has its
tasks.
"""

from collections.abc import Iterable, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from .semantic_ids import SemanticIdTable
from .tokenization_macrec import SemanticIdTokenizer

SEQUENCE, ITEM = "sequence", "item"
MAX_HISTORY = 20  # authors' code


class Task(NamedTuple):
    """What a task reads and writes; `kind` is "sequence" or "item"."""

    kind: str
    source: str
    target: str

    @property
    def name(self) -> str:
        """As in [`task_names`]."""
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


def task_names(modalities: Iterable[str]) -> list[str]:
    """Names of all tasks in a fixed order; the column `task` of [`RecommendationTasksBuilder`] is the place in it.

    Args:
        modalities: in the order of the table.

    Raises:
        ValueError: modalities whose tasks would share a name, such as "text" beside "item_text".

    Example:

    ```python
    >>> task_names(["text", "image"])
    ['text_to_text', 'image_to_image', 'text_to_image', 'image_to_text', 'item_text_to_image', 'item_image_to_text']
    ```
    """
    return list(all_tasks(modalities))


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
