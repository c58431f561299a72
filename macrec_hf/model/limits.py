"""Which items may be recommended to whom, and which nodes of a catalogue's trie still lead to one of them.

A beam search over the whole catalogue with a filter at its end can come back with nothing although allowed items
exist. Here a node is open only while an allowed item lies below it, so that every beam that survives ends at one.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import cast

import numpy as np
import torch
from transformers.utils import logging

from .inference import pad_rows
from .trie import SemanticIdTrie

logger = logging.get_logger(__name__)

ItemIds = Sequence[str] | Sequence[Sequence[str]]  # for everybody, or one list a user


class Limits:
    """Allowed items, excluded items and left-out histories of a number of users, checked once.

    Args:
        num_users: the users.
        num_items: items of the catalogue.
        allowed_items, excluded_items: bool `(num_items,)` for all users, bool `(num_users, num_items)`, or table rows
            as long `(num_users, n)` padded with -1; `None`: no limit. An item that is in both is excluded.
        histories: table rows of each user's history, which are excluded too; `None`: a history may come again.

    Attributes:
        allowed, excluded: bool `(1 or num_users, num_items)`, long `(num_users, n)`, or None.

    Raises:
        ValueError: another type or shape, or rows that the table does not have.

    Example:

    ```python
    >>> limits = Limits(2, num_items=4, allowed_items=torch.tensor([True, True, True, False]), histories=[[0], [1, 2]])
    >>> limits.keep(np.array([[0, 1, 2, 3], [0, 1, 2, 3]]), users=np.array([0, 1])).tolist()
    [[-1, 1, 2, -1], [0, -1, -1, -1]]
    ```
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        allowed_items: torch.Tensor | None = None,
        excluded_items: torch.Tensor | None = None,
        histories: Sequence[Sequence[int] | np.ndarray] | None = None,
    ):
        self.num_users, self.num_items = num_users, num_items
        self.allowed = self._checked("allowed_items", allowed_items)
        self.excluded = self._checked("excluded_items", excluded_items)
        if histories is not None:
            own = self._checked("histories", torch.from_numpy(pad_rows(histories)[0]))
            self.excluded = _union(self.excluded, cast(torch.Tensor, own))

    @classmethod
    def from_ids(
        cls,
        row_of: Mapping[str, int],
        num_users: int,
        allowed_items: ItemIds | None = None,
        excluded_items: ItemIds | None = None,
        histories: Sequence[Sequence[int] | np.ndarray] | None = None,
        *,
        skip_unknown: bool = False,
    ) -> "Limits":
        """The same from item ids.

        Args:
            row_of: `{item id: table row}`, `SemanticIdTable.row_of`.
            allowed_items, excluded_items: item ids for everybody, or one list of them a user; `None`: no limit.
            histories: table rows, as in the class.
            skip_unknown: whether ids that the table lacks are left out; else they are refused.

        Raises:
            ValueError: an unknown id, or lists of another number than the users.
        """
        allowed = _rows_of(row_of, allowed_items, "allowed_items", num_users, skip_unknown)
        excluded = _rows_of(row_of, excluded_items, "excluded_items", num_users, skip_unknown)
        return cls(num_users, len(row_of), allowed, excluded, histories)

    def _checked(self, name: str, items: torch.Tensor | None) -> torch.Tensor | None:
        """The argument with a leading dimension (1 for a mask of all users), or None."""
        if items is None:
            return None
        expected = (
            f"{name}: expected bool ({self.num_items},) or ({self.num_users}, {self.num_items}), or table rows as "
            f"long ({self.num_users}, n) padded with -1"
        )
        if not isinstance(items, torch.Tensor):
            raise ValueError(f"{expected}, got {type(items).__name__}. Make it a tensor.")
        shape = tuple(items.shape)
        if items.dtype == torch.bool:
            items = items.unsqueeze(0) if items.dim() == 1 else items
            fits = items.dim() == 2 and items.shape[0] in (1, self.num_users) and items.shape[1] == self.num_items
        else:
            fits = items.dtype == torch.long and items.dim() == 2 and items.shape[0] == self.num_users
        if not fits:
            raise ValueError(f"{expected}, got {items.dtype} {shape}.")
        if items.dtype == torch.long and items.numel():
            first, last = int(items.min()), int(items.max())
            if first < -1 or last >= self.num_items:
                raise ValueError(f"{expected}, got rows from {first} to {last}. Rows count from 0.")
        return items

    def on_trie(self, trie: SemanticIdTrie, users: np.ndarray | None = None) -> "TrieLimits | None":
        """The limits of some users, in their order (`None`: of all), per node of a trie; None where there are none.

        Args:
            trie: the catalogue in one modality; the result is on its device.
            users: int `(batch_size,)`, which of the users.

        Raises:
            ValueError: a trie of a catalogue of another size.
        """
        if trie.num_items != self.num_items:
            raise ValueError(
                f"limits: expected those of the trie's {trie.num_items} items, got those of {self.num_items}. Were "
                "they made for another catalogue?"
            )
        if self.allowed is None and self.excluded is None:
            return None
        chosen = (_of_users(limit, users) for limit in (self.allowed, self.excluded))
        return TrieLimits(trie, *(None if limit is None else limit.to(trie.device) for limit in chosen))

    def keep(self, items: np.ndarray, users: np.ndarray) -> np.ndarray:
        """The items that may appear, -1 in the places of the others.

        An ID that items share can be open for one of them and closed for another: nodes cannot tell, items can.

        Args:
            items: int `(batch_size, num_candidates)`, table rows, -1 where there is none.
            users: int `(batch_size,)`, whose candidates they are.
        """
        for limit, wanted in ((_of_users(self.allowed, users), True), (_of_users(self.excluded, users), False)):
            if limit is not None:
                items = np.where(self._holds(limit.cpu().numpy(), items) == wanted, items, -1)
        return items

    def _holds(self, limit: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether each user's limit names the item."""
        if limit.dtype == bool:
            return np.take_along_axis(
                np.broadcast_to(limit, (len(items), self.num_items)), np.maximum(items, 0), axis=1
            )
        # lists: one number for each user and row, so that nothing grows with the catalogue
        first = np.arange(len(items))[:, None] * (self.num_items + 1) + 1
        return np.isin(items + first, limit + first)


def check_histories(histories: Sequence[Sequence[str]], top_k: int | None, on_unknown: str) -> None:
    """Refuses item ids where histories should be, lists without a length, and another `on_unknown`."""
    expected = 'histories: expected a list of histories such as [["i1", "i7"], ["i3"]]'
    if isinstance(histories, (str, bytes, Mapping)) or not hasattr(histories, "__len__"):
        raise ValueError(f"{expected}, got {type(histories).__name__}. Put the histories into a list.")
    if any(isinstance(history, str) for history in histories):
        raise ValueError(
            f"{expected}, got item ids where histories should be. Put a single history into a list: "
            "recommend([history])."
        )
    for user, history in enumerate(histories):
        if isinstance(history, (bytes, Mapping, Set)) or not isinstance(history, Iterable):
            raise ValueError(
                f"{expected}, got {repr(history)[:60]} as history {user}. A history is a list, oldest first; an empty "
                "one is []."
            )
    if top_k is None:  # a list as long as what the beams hold is for evaluations
        raise ValueError("top_k: expected a whole number of at least 1, got None.")
    if on_unknown not in ("raise", "skip"):
        raise ValueError(f"on_unknown: expected 'raise' or 'skip', got {on_unknown!r}.")


def item_rows(row_of: Mapping[str, int], items: Iterable[str], where: str, skip_unknown: bool = False) -> np.ndarray:
    """Table rows of item ids, int64 `(num_items,)`; unknown ones are left out, or refused with `where` they stand."""
    items = list(items)
    for other in items:
        if not isinstance(other, str):
            raise ValueError(
                f"{where}: expected item ids as texts, got {repr(other)[:60]} ({type(other).__name__}). Ids are "
                "strings, leading zeros count: write them as the catalogue does."
            )
    known = [item for item in items if item in row_of]
    if len(known) < len(items) and not skip_unknown:
        unknown = next(item for item in items if item not in row_of)
        bare = str(unknown).strip().lstrip("0").casefold()
        near = next((item for item in row_of if item.strip().lstrip("0").casefold() == bare), None)
        meant = "" if near is None else f" Did you mean {near!r}?"
        raise ValueError(
            f"Unknown item {unknown!r} in {where}: it is not among the {len(row_of)} items of the table. Ids are "
            f"strings, leading zeros count. on_unknown='skip' leaves such items out.{meant}"
        )
    return np.array([row_of[item] for item in known], dtype=np.int64)


def _rows_of(
    row_of: Mapping[str, int], items: ItemIds | None, name: str, num_users: int, skip_unknown: bool
) -> torch.Tensor | None:
    """Item ids for everybody, or one list a user → table rows, long `(num_users, n)` padded with -1."""
    if items is None:
        return None
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise ValueError(
            f"{name}: expected a list of item ids, got {repr(items)[:60]} ({type(items).__name__}). Put a single id "
            "into a list; None is no limit."
        )
    items = list(items)
    if all(isinstance(item, str) for item in items):
        rows = item_rows(row_of, cast(list[str], items), name, skip_unknown)
        _tell_unknown(row_of, [items], [rows], name)
        return torch.from_numpy(rows).expand(num_users, -1)
    if len(items) != num_users or any(isinstance(item, str) or not isinstance(item, Iterable) for item in items):
        raise ValueError(
            f"{name}: expected item ids, or one list of item ids for each of the {num_users} histories, got "
            f"{len(items)} entries."
        )
    items = [list(of_user) for of_user in items]
    each = [
        item_rows(row_of, of_user, f"{name} of history {user}", skip_unknown) for user, of_user in enumerate(items)
    ]
    _tell_unknown(row_of, items, each, name)
    return torch.from_numpy(pad_rows(each)[0])


def _tell_unknown(row_of: Mapping[str, int], items: Sequence[Sequence], rows: Sequence[np.ndarray], name: str) -> None:
    """A notice of the ids in an argument that were left out, and of users for whom that leaves none."""
    if sum(map(len, items)) == sum(map(len, rows)):
        return
    unknown = [item for of_user in items for item in of_user if item not in row_of]
    emptied = sum(bool(given) and not len(kept) for given, kept in zip(items, rows, strict=True))
    whose = "" if len(items) == 1 else f" for {emptied:,} of {len(items):,} histories"
    nothing = (
        f" Nothing is left of it{whose}, so nothing is allowed there." if emptied and name.startswith("a") else ""
    )
    logger.warning(f"Left out {len(unknown):,} unknown items of {name}, such as {unknown[:3]}.{nothing}")


def _of_users(limit: torch.Tensor | None, users: np.ndarray | None) -> torch.Tensor | None:
    """The rows of some users; a mask of all users stays the one row that it is."""
    if limit is None or users is None or (limit.dtype == torch.bool and len(limit) == 1):
        return limit
    return limit[torch.from_numpy(users).to(limit.device)]


def _union(excluded: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """Excluded items in any form, and the rows `(num_users, n)` besides."""
    if excluded is None:
        return rows
    rows = rows.to(excluded.device)
    if excluded.dtype != torch.bool:
        return torch.cat([excluded, rows], dim=1)
    mask = torch.nn.functional.pad(excluded.expand(len(rows), -1), (0, 1))  # a last column for -1
    return mask.scatter(1, rows % mask.shape[1], True)[:, :-1]


class TrieLimits:
    """[`Limits`] per node of one trie, as [`Limits.on_trie`] makes them.

    The items below a node are one range of `trie.leaf_rows`. How many of them are allowed comes from a running count
    for a mask, and from bisecting a sorted list for a list, so lists cost nothing that grows with the catalogue.

    Args:
        trie: [`SemanticIdTrie`].
        allowed, excluded: bool `(1 or batch_size, num_items)`, or long `(batch_size, n)` padded with -1, on the trie's
            device; `None`: no limit.
    """

    def __init__(self, trie: SemanticIdTrie, allowed: torch.Tensor | None, excluded: torch.Tensor | None):
        self.trie = trie
        self._running_count: torch.Tensor | None = None
        self._allowed_list: torch.Tensor | None = None
        self._removed_list: torch.Tensor | None = None
        if allowed is not None and allowed.dtype != torch.bool:
            self._allowed_list = self._without(self._positions(allowed), excluded)
            return
        mask = None if allowed is None else allowed[:, trie.leaf_rows]
        if excluded is not None and excluded.dtype == torch.bool:
            mask = ~excluded[:, trie.leaf_rows] if mask is None else mask & ~excluded[:, trie.leaf_rows]
        elif excluded is not None:
            self._removed_list = self._within(self._positions(excluded), mask)
        if mask is not None:
            counts = mask.cumsum(dim=1, dtype=torch.int32)
            self._running_count = torch.nn.functional.pad(counts, (1, 0))

    def select(self, users: torch.Tensor) -> "TrieLimits":
        """The limits of some of the requests: long `(n,)`."""
        return self.of({name: values[users] if len(values) > 1 else values for name, values in self.tensors().items()})

    def tensors(self) -> dict[str, torch.Tensor]:
        """What it holds, by name: a running count, int32 `(1 or batch_size, items + 1)`, or lists, long
        `(batch_size, n)`, filled up with the number of items."""
        return {name: values for name, values in vars(self).items() if isinstance(values, torch.Tensor)}

    def of(self, tensors: Mapping[str, torch.Tensor]) -> "TrieLimits":
        """The limits of other users: [`tensors`] of the same names."""
        others = object.__new__(type(self))
        vars(others).update(vars(self) | dict(tensors))
        return others

    def open(self, depth: int, nodes: torch.Tensor) -> torch.Tensor:
        """Which nodes of one depth (at least 1) have an allowed item below: long `(batch_size, ...)` to bool."""
        trie = self.trie
        ends = nodes, nodes + 1
        leaves = ends if depth == trie.num_levels else [trie.node_leaf_start[depth][node] for node in ends]
        start, end = (trie.leaf_start[leaf].flatten(1) for leaf in leaves)
        if self._allowed_list is not None:
            left = _count(self._allowed_list, start, end)
        elif self._running_count is not None:
            running = self._running_count.expand(len(nodes), -1)
            left = running.gather(1, end) - running.gather(1, start)
        else:
            left = end - start
        if self._removed_list is not None:
            left = left - _count(self._removed_list, start, end)
        return (left > 0).view(nodes.shape)

    def _positions(self, rows: torch.Tensor) -> torch.Tensor:
        """Sorted distinct places of the rows in `leaf_rows`; the places left over are beyond the last."""
        beyond = len(self.trie.leaf_rows)
        positions = self.trie.item_position[rows.clamp(min=0)]
        return _sorted_distinct(torch.where((rows < 0) | (positions < 0), beyond, positions), beyond)

    def _without(self, positions: torch.Tensor, excluded: torch.Tensor | None) -> torch.Tensor:
        """`positions` without those excluded."""
        if excluded is None:
            return positions
        beyond = len(self.trie.leaf_rows)
        if excluded.dtype == torch.bool:
            rows = self.trie.leaf_rows[positions.clamp(max=beyond - 1)]
            hit = excluded.expand(len(positions), -1).gather(1, rows)
        else:
            hit = _count(self._positions(excluded), positions, positions + 1) > 0
        return torch.where(hit, beyond, positions).sort(dim=1).values

    def _within(self, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Those of `positions` that `mask` (over places) allows: what is not allowed need not be taken away again."""
        if mask is None:
            return positions
        beyond = len(self.trie.leaf_rows)
        hit = mask.expand(len(positions), -1).gather(1, positions.clamp(max=beyond - 1))
        return torch.where(hit, positions, beyond).sort(dim=1).values


def _count(sorted_positions: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """How many of a row's sorted positions lie in each range."""
    return torch.searchsorted(sorted_positions, end) - torch.searchsorted(sorted_positions, start)


def _sorted_distinct(positions: torch.Tensor, beyond: int) -> torch.Tensor:
    positions = positions.sort(dim=1).values
    repeated = torch.zeros_like(positions, dtype=torch.bool)
    repeated[:, 1:] = positions[:, 1:] == positions[:, :-1]
    return torch.where(repeated, beyond, positions).sort(dim=1).values
