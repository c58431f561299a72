"""Per-request limits on a catalogue's trie: which nodes still lead to an item that may be recommended.

A beam search over the whole catalogue with a filter at its end can come back with nothing although allowed items
exist. Here a node is open only while an allowed item lies below it, so that every beam that survives ends at one.
"""

import torch

from .trie import SemanticIdTrie


class TrieLimits:
    """Allowed and excluded items of each request, answered per node of the trie.

    The items below a node are one range of `trie.leaf_rows`. How many of them are allowed comes from a running count
    for a mask, and from bisecting a sorted list for a list, so lists cost nothing that grows with the catalogue.

    Args:
        trie: [`SemanticIdTrie`].
        batch_size: number of requests.
        allowed_items, excluded_items: bool `(num_items,)` for all requests, bool `(batch_size, num_items)`, or table
            rows as long `(batch_size, n)` padded with -1; `None`: no limit. An item that is in both is excluded.

    Raises:
        ValueError: another type or shape, or rows that the table does not have.
    """

    def __init__(
        self,
        trie: SemanticIdTrie,
        batch_size: int,
        allowed_items: torch.Tensor | None = None,
        excluded_items: torch.Tensor | None = None,
    ):
        self.trie = trie
        allowed = _checked("allowed_items", allowed_items, trie, batch_size)
        excluded = _checked("excluded_items", excluded_items, trie, batch_size)
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
        chosen = object.__new__(type(self))
        for name, value in vars(self).items():
            per_user = isinstance(value, torch.Tensor) and len(value) > 1
            setattr(chosen, name, value[users] if per_user else value)
        return chosen

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


def _checked(name: str, items: torch.Tensor | None, trie: SemanticIdTrie, batch_size: int) -> torch.Tensor | None:
    """The argument on the trie's device with a leading batch dimension (1 for a shared mask), or None."""
    if items is None:
        return None
    expected = (
        f"{name}: expected bool ({trie.num_items},) or ({batch_size}, {trie.num_items}), or table rows as long "
        f"({batch_size}, n) padded with -1"
    )
    if not isinstance(items, torch.Tensor):
        raise ValueError(f"{expected}, got {type(items).__name__}. Make it a tensor.")
    items, shape = items.to(trie.device), tuple(items.shape)
    if items.dtype == torch.bool:
        items = items.unsqueeze(0) if items.dim() == 1 else items
        fits = items.dim() == 2 and items.shape[0] in (1, batch_size) and items.shape[1] == trie.num_items
    else:
        fits = items.dtype == torch.long and items.dim() == 2 and items.shape[0] == batch_size
    if not fits:
        raise ValueError(f"{expected}, got {items.dtype} {shape}.")
    if items.dtype == torch.long and items.numel() and not -1 <= int(items.min()) <= int(items.max()) < trie.num_items:
        raise ValueError(f"{expected}, got rows from {int(items.min())} to {int(items.max())}. Rows count from 0.")
    return items
