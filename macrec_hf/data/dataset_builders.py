"""`datasets` builders: a catalogue, its interactions, and the examples of the six tasks.

builder = RecommendationTasksBuilder(interactions="interactions.csv", semantic_ids="ids/")
builder.download_and_prepare(num_proc=2)       # once; afterwards the cache is used
train = builder.as_dataset(split="train")
for row in builder.as_streaming_dataset(split="train"): ...   # or without writing anything
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa

from ..model import semantic_ids, tokenization_macrec
from ..model.semantic_ids import SemanticIdTable
from ..model.tokenization_macrec import ITEM, MAX_HISTORY, SemanticIdTokenizer
from .histories import Histories, user_histories
from .readers import ITEM_COLUMN, TIME_COLUMN, USER_COLUMN, read_interactions, read_items
from .splits import leave_one_out
from .table_files import file_digest
from .task_examples import EXAMPLES_AT_A_TIME, TaskExampleEncoder, TaskExamples, chunk_by_length
from .time_split import Cut, HistoriesUntil, histories_until

ITEMS_AT_A_TIME = 10_000
SPLITS = ("train", "validation", "test")
NO_TASK = "none"  # the shards of users of whom no task makes an example
_HERE = os.path.dirname(__file__)
SOURCES = [
    *(os.path.join(_HERE, name) for name in sorted(os.listdir(_HERE)) if name.endswith(".py")),
    str(semantic_ids.__file__),
    str(tokenization_macrec.__file__),
]
"""The code that decides on the rows."""


class _Builder(datasets.ArrowBasedBuilder):
    """What the three builders share: a cache key made of code, settings and the contents of the input files.

    `datasets` names its cache after the module, knows nothing of edited code, and reads only the time stamps of
    `data_files`: two builders of one module would get each other's data, and an edited file its old examples.

    The input is read and checked while the splits are made: what is raised there arrives as it is, whereas errors
    while rows are made arrive wrapped in a `DatasetGenerationError`.
    """

    def __init__(
        self, data_file: str | os.PathLike[str], settings: Mapping[str, Any], cache_dir: str | os.PathLike[str] | None
    ):
        # No pathlib in this module: `datasets` replaces `Path` and `open` in the modules of builders once one is made.
        if not isinstance(data_file, (str, os.PathLike)):
            raise ValueError(
                f"{type(self).__name__}: expected the path of one file, got {type(data_file).__name__}. "
                "Join several files into one first."
            )
        self.data_file = data_file
        digest = hashlib.sha256(repr(sorted(settings.items())).encode())
        for path in (*SOURCES, data_file):
            digest.update(file_digest(path).encode())
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            dataset_name=type(self).__name__,
            hash=digest.hexdigest()[:32],
        )

    def _as_dataset(self, split: Any = "train", in_memory: bool = False) -> datasets.Dataset:
        # `datasets` refuses to open a split without rows; ours can be empty, where users have three interactions each
        if self.info.splits[str(split)].num_examples == 0:
            return datasets.Dataset.from_dict({name: [] for name in self.info.features}, features=self.info.features)
        return super()._as_dataset(split, in_memory)


class ItemsBuilder(_Builder):
    """A catalogue as a dataset: one split `train` with `item_id`, `title`, `text` and `image` (decoded when read).

    Args:
        data_files: a `.jsonl`, `.csv`, `.tsv` or `.parquet`, see `docs/data_formats.md`.
        item_column: the name of the column of ids.
        cache_dir: where Arrow files go. Default: the cache of `datasets`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: from `download_and_prepare`, whatever `read_items` finds wrong.

    Example:

    ```python
    >>> builder = ItemsBuilder("shop/items.jsonl")
    >>> builder.download_and_prepare()
    >>> builder.as_dataset(split="train")[0]["title"]
    ```
    """

    def __init__(
        self,
        data_files: str | os.PathLike[str],
        cache_dir: str | os.PathLike[str] | None = None,
        item_column: str = ITEM_COLUMN,
    ):
        self._item_column = item_column
        # Photos are named relative to the file, so the same file elsewhere is another dataset.
        super().__init__(data_files, {"file": os.path.abspath(data_files), "item_column": item_column}, cache_dir)

    def _info(self) -> datasets.DatasetInfo:
        columns = {name: datasets.Value("string") for name in ("item_id", "title", "text")}
        return datasets.DatasetInfo(features=datasets.Features({**columns, "image": datasets.Image()}))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        self._items = read_items(self.data_file, self._item_column)
        starts = list(range(0, len(self._items), ITEMS_AT_A_TIME))
        return [datasets.SplitGenerator(name="train", gen_kwargs={"starts": starts})]

    def _generate_tables(self, starts: list[int]) -> Iterator[tuple[datasets.builder.Key, pa.Table]]:
        for number, start in enumerate(starts):
            items = self._items.iloc[start : start + ITEMS_AT_A_TIME]
            columns = {name: pa.array(items[name].tolist(), pa.string()) for name in ("item_id", "title", "text")}
            images = [_picture(photo) for photo in items["image"].tolist()]
            columns["image"] = pa.array(images, datasets.Image().pa_type)
            yield datasets.builder.Key(number, 0), pa.table(columns)


def _picture(photo: str | bytes | None) -> dict[str, str | bytes | None] | None:
    if photo is None:
        return None
    return {"bytes": photo, "path": None} if isinstance(photo, bytes) else {"bytes": None, "path": photo}


class InteractionsBuilder(_Builder):
    """Leave-one-out splits: `user_id`, `history` (item ids, oldest first) and `target` (an item id).

    `test` holds each user's last item with everything before it as history, `validation` the one before; in `train`
    history and target together are what is left, of users who have two items left. Users with fewer than three
    interactions only train, with all that they have.

    Args:
        data_files: a `.csv`, `.jsonl`, `.tsv`, `.parquet` or `X.inter.json`, see `docs/data_formats.md`.
        cache_dir: where Arrow files go. Default: the cache of `datasets`.
        user_column, item_column, time_column: the names of the columns.

    Raises:
        FileNotFoundError: no such file.
        ValueError: from `download_and_prepare`, whatever `read_interactions` and `user_histories` find wrong.

    Example:

    ```python
    >>> builder = InteractionsBuilder("shop/interactions.csv")
    >>> builder.download_and_prepare()
    >>> builder.as_dataset(split="test")[0]["target"]
    ```
    """

    def __init__(
        self,
        data_files: str | os.PathLike[str],
        cache_dir: str | os.PathLike[str] | None = None,
        user_column: str = USER_COLUMN,
        item_column: str = ITEM_COLUMN,
        time_column: str = TIME_COLUMN,
    ):
        self._columns = {"user_column": user_column, "item_column": item_column, "time_column": time_column}
        super().__init__(data_files, self._columns, cache_dir)

    def _info(self) -> datasets.DatasetInfo:
        text = datasets.Value("string")
        features = {"user_id": text, "history": datasets.List(text), "target": text}
        return datasets.DatasetInfo(features=datasets.Features(features))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        interactions = read_interactions(self.data_file, **self._columns)
        self._item_ids = interactions["item_id"].unique().astype(object)
        self._histories = user_histories(interactions, {item: row for row, item in enumerate(self._item_ids)})
        return _user_shards(self._histories)

    def _generate_tables(self, shards: list[tuple[str, int, int]]) -> Iterator[tuple[datasets.builder.Key, pa.Table]]:
        for number, (split, start, stop) in enumerate(shards):
            histories = _part(self._histories, start, stop)
            rows, targets = leave_one_out(histories, split)
            users = histories.user_ids
            if split == "train":
                users = users + histories.short_ids
                users = [user for user, row in zip(users, rows, strict=True) if len(row) > 1]
                rows = [row for row in rows if len(row) > 1]
                rows, targets = [row[:-1] for row in rows], np.array([row[-1] for row in rows], dtype=np.int64)
            names = self._item_ids[np.concatenate([*rows, np.zeros(0, dtype=np.int64)]).astype(np.int64)]
            offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int32)
            columns = {
                "user_id": pa.array(users, pa.string()),
                "history": pa.ListArray.from_arrays(offsets, pa.array(names.tolist(), pa.string())),
                "target": pa.array(self._item_ids[targets].tolist(), pa.string()),
            }
            yield datasets.builder.Key(number, 0), pa.table(columns)


class RecommendationTasksBuilder(_Builder):
    """The tasks' examples as token ids.

    `train`: all tasks, every prefix of a training history, item tasks once per item. `validation` and `test`: the bare
    tasks only, one row per user and modality. Users with fewer than three interactions only train.

    Columns: `input_ids` and `labels` (lists of int32), `length` (of the source, for batches of like lengths), `task`
    (place in `model.tokenization_macrec.task_names(modalities)`), `user` (place of the history, -1 for item tasks),
    `item` (table row of the target), `history` (in `validation` and `test` the user's whole history as table rows, for
    the ranking). A user of whom no modality makes an example, because history or target has no ID there, still has one
    row in these two splits: its task is -1, its labels are -100, and it is ranked like the others.

    With `until` only the purchases before that date are looked at, see `data.time_split.histories_until`: the latest
    fifth of them validates, one row per purchase and modality, `train` has what came before (item tasks: of the items
    sold by then), and there is no `test`. `history` then stands in the first of a user's rows of each task alone.

    Args:
        interactions: as for `InteractionsBuilder`.
        semantic_ids: the table, or what `SemanticIdTable.from_pretrained` takes: a folder or a Hub repository.
        tasks: names of the training tasks. Default: all, see `model.tokenization_macrec.task_names`.
        max_history: items of a history that are read, the latest ones. Default 20 (authors' code).
        cache_dir: where Arrow files go. Default: the cache of `datasets`.
        user_column, item_column, time_column: the names of the columns of `interactions`.
        until: a date such as "2020-03-01", or a number where the timestamps are no dates. Default: leave-one-out.

    Raises:
        FileNotFoundError: no such interactions or semantic IDs.
        ValueError: no task or an unknown one, `max_history` below 1; from `download_and_prepare`, whatever the
            readers find wrong, such as interactions that name unknown items, and a date before which there are too
            few purchases.

    Example:

    ```python
    >>> builder = RecommendationTasksBuilder(interactions="shop/interactions.csv", semantic_ids="ids")
    >>> builder.download_and_prepare()
    >>> builder.as_dataset(split="train")[0]["input_ids"]
    ```
    """

    def __init__(
        self,
        interactions: str | os.PathLike[str],
        semantic_ids: str | os.PathLike[str] | SemanticIdTable,
        tasks: list[str] | None = None,
        max_history: int = MAX_HISTORY,
        cache_dir: str | os.PathLike[str] | None = None,
        user_column: str = USER_COLUMN,
        item_column: str = ITEM_COLUMN,
        time_column: str = TIME_COLUMN,
        until: Cut | None = None,
    ):
        self._columns = {"user_column": user_column, "item_column": item_column, "time_column": time_column}
        self._until = until
        if isinstance(semantic_ids, SemanticIdTable):
            table = semantic_ids
        else:
            table = SemanticIdTable.from_pretrained(semantic_ids)
        self._encoder = TaskExampleEncoder(SemanticIdTokenizer.from_table(table), table, max_history)
        self._row_of = table.row_of
        self._names = list(self._encoder.tasks)
        self._chosen = self._names if tasks is None else _check_tasks(tasks, self._names)
        settings = {"semantic_ids": table.fingerprint(), "tasks": self._chosen, "max_history": max_history}
        settings["until"] = None if until is None else str(until)
        super().__init__(interactions, settings | self._columns, cache_dir)

    def _info(self) -> datasets.DatasetInfo:
        ids, number = datasets.List(datasets.Value("int32")), datasets.Value("int32")
        columns = {"input_ids": ids, "labels": ids, "length": number}
        columns |= {"task": datasets.Value("int16"), "user": number, "item": number, "history": ids}
        return datasets.DatasetInfo(features=datasets.Features(columns))

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        interactions = read_interactions(self.data_file, **self._columns)
        if self._until is None:
            self._histories = user_histories(interactions, self._row_of)
        else:
            self._histories = histories_until(interactions, self._row_of, self._until)
        learned, _ = _split(self._histories, "train")
        self._items = np.unique(np.concatenate(learned)) if self._until is not None else None
        self._check_that_something_is_learned(max(len(items) for items in learned))
        bare = [f"{modality}_to_{modality}" for modality in self._encoder.modalities]
        splits = []
        for users in _user_shards(self._histories):
            if users.name == "test" and self._until is not None:
                continue
            names = self._chosen if users.name == "train" else bare
            # An item task is one shard: it has no users.
            sequences = [name for name in names if self._encoder.task(name).kind != ITEM]
            shards = [(name, *shard) for name in sequences for shard in users.gen_kwargs["shards"]]
            shards += [(name, "train", 0, 0) for name in names if name not in sequences]
            if users.name != "train":
                shards += [(NO_TASK, *shard) for shard in users.gen_kwargs["shards"]]
            splits.append(datasets.SplitGenerator(name=users.name, gen_kwargs={"shards": shards}))
        return splits

    def _check_that_something_is_learned(self, longest: int) -> None:
        """Refuses training histories of one item each, unless item tasks are chosen."""
        if longest > 1 or any(self._encoder.task(name).kind == ITEM for name in self._chosen):
            return
        if self._until is None:
            expected, got = "a user with 4 interactions, one to test, one to validate, and two", f"{longest + 2}"
        else:
            expected, got = (
                f"a user with 2 interactions before validation begins, some time before {self._until},",
                "1",
            )
        raise ValueError(
            f"{self.data_file}: expected {expected} from which the tasks {self._chosen} can learn, but the longest "
            f"history has {got}."
        )

    def _generate_tables(
        self, shards: list[tuple[str, str, int, int]]
    ) -> Iterator[tuple[datasets.builder.Key, pa.Table]]:
        for number, (name, split, start, stop) in enumerate(shards):
            task = -1 if name == NO_TASK else self._names.index(name)
            shard = _part(self._histories, start, stop)
            rows, targets = _split(shard, split)
            owners = np.arange(len(rows))
            if isinstance(shard, HistoriesUntil) and targets is not None:
                owners = shard.owners
            for part, examples in enumerate(self._examples(name, rows, targets)):
                table = _as_table(examples, task, start + owners, rows if targets is not None else None)
                yield datasets.builder.Key(number, part), table

    def _examples(self, name: str, rows: list[np.ndarray], targets: np.ndarray | None) -> Iterator[TaskExamples]:
        if name == NO_TASK:
            yield from self._encoder.users_without_example(rows, cast(np.ndarray, targets))
        elif self._encoder.task(name).kind == ITEM:
            yield self._encoder.item_examples(name, self._items)
        else:
            yield from self._encoder.sequence_examples(rows, name, targets)


def _user_shards(histories: Histories) -> list[datasets.SplitGenerator]:
    """One generator a split; its list of shards is what `num_proc` and streaming workers divide among themselves.

    A shard is `(split, start, stop)`: places among the users, after whom come the short ones, who only train.
    """
    generators = []
    for split in SPLITS:
        items = [*histories.items, *histories.short_items] if split == "train" else histories.items
        runs = chunk_by_length([len(rows) for rows in items], EXAMPLES_AT_A_TIME)
        generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"shards": [(split, *run) for run in runs]}))
    return generators


def _part(histories: Histories, start: int, stop: int) -> Histories:
    long, short = slice(start, stop), slice(max(0, start - len(histories)), max(0, stop - len(histories)))
    changes: dict[str, Any] = {"user_ids": histories.user_ids[long], "items": histories.items[long]}
    changes |= {"short_ids": histories.short_ids[short], "short_items": histories.short_items[short]}
    if isinstance(histories, HistoriesUntil):
        changes["later"] = histories.later[long]
    return replace(histories, **changes, days=None, short_days=None)


def _split(histories: Histories, split: str) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Histories and targets of a split, by time or leave-one-out."""
    return histories.split(split) if isinstance(histories, HistoriesUntil) else leave_one_out(histories, split)


def _check_tasks(tasks: list[str], names: list[str]) -> list[str]:
    chosen = list(tasks) if not isinstance(tasks, str) else [tasks]
    unknown = [name for name in chosen if name not in names]
    if unknown or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"tasks: expected at least one of {names}, each at most once, got {chosen}.")
    return chosen


def _as_table(
    examples: TaskExamples, task: int, owners: np.ndarray, histories: list[np.ndarray] | None = None
) -> pa.Table:
    """Arrow's rows of one task's examples.

    Args:
        owners: the user of each history.
        histories: that the examples are of; None: the column is empty.
    """
    number, levels = examples.labels.shape
    ends = np.arange(number + 1, dtype=np.int32) * levels
    user = examples.user.astype(np.int32)  # below 0: of no user
    user[user >= 0] = owners[user[user >= 0]]
    read = [np.zeros(0, dtype=np.int32)] * number
    if histories is not None:  # by time a user has a row for each purchase: one of them is enough
        first = np.diff(user, prepend=-1) != 0
        read = [
            histories[place] if new else nothing
            for place, new, nothing in zip(examples.user, first, read, strict=True)
        ]
    read_ends = np.cumsum([0, *map(len, read)]).astype(np.int32)
    return pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(examples.offsets.astype(np.int32), examples.input_ids),
            "labels": pa.ListArray.from_arrays(ends, examples.labels.ravel()),
            "length": np.diff(examples.offsets).astype(np.int32),
            "task": np.full(number, task, dtype=np.int16),
            "user": user,
            "item": examples.item,
            "history": pa.ListArray.from_arrays(read_ends, np.concatenate([*read, np.zeros(0, dtype=np.int32)])),
        }
    )
