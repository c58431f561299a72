"""The catalogue's prefix tree of semantic IDs as flat tensors.

Depth 0 is the root, depth `d` holds one node for each distinct prefix of `d` codes, and depth `num_levels` holds the
leaves, one for each distinct ID. The nodes of a depth are numbered in lexicographic order, so that the children of a
node, the leaves below it and the items below it are each one contiguous range.
"""

import torch

_DENSE_ENTRIES = 2**16  # prefixes up to this many are looked up in one table; two levels of the paper's 256 codes


class SemanticIdTrie:
    """Prefix tree of one modality's semantic IDs.

    Items that share an ID are one leaf with several rows; an item without an ID (a row of -1) is in no leaf. All state
    is tensors, `trie.to(device)` returns the trie there, and nothing changes after the construction, so one trie may
    serve any number of threads.

    Args:
        codes: long, `(num_items, num_levels)`, each in `[0, codebook_size)`; a row of -1: no ID.
        codebook_size: codes of a level.
        level_offsets: token id of code 0 for each level.
        pad_token_id, eos_token_id: of the tokenizer.

    Attributes:
        num_items, num_leaves, num_levels, codebook_size: sizes; `num_items` counts the rows without an ID too.
        num_nodes: number of nodes of each depth, `num_levels + 1` of them.
        max_children: the largest number of children of a node, for each depth but the last.
        node_codes: for each depth the last code of its nodes, int32 `(num_nodes[depth],)`; `None` for the root.
        child_start: for each depth but the last, long `(num_nodes[depth] + 1,)`: node `n` has the children
            `child_start[depth][n] : child_start[depth][n + 1]` of the next depth.
        node_leaf_start: the same with the leaves below a node.
        leaf_start, leaf_rows: leaf `n` holds the items `leaf_rows[leaf_start[n] : leaf_start[n + 1]]`, in table order.
        item_leaf: long `(num_items,)`, -1 for an item without an ID.
        item_position: long `(num_items,)`, where `leaf_rows` holds the item, -1 for an item without an ID.

    Raises:
        ValueError: codes of another shape, out of range, half missing, or no item with an ID.

    Example:

    ```python
    >>> trie = SemanticIdTrie(torch.tensor([[0, 1], [0, 2], [0, 1]]), codebook_size=4, level_offsets=(3, 7))
    >>> trie.num_leaves, trie.leaf_items(0).tolist()
    (2, [0, 2])
    ```
    """

    def __init__(self, codes, codebook_size, level_offsets, *, pad_token_id=0, eos_token_id=1):
        _check_codes(codes, codebook_size, level_offsets)
        self.codebook_size = int(codebook_size)
        self.level_offsets = tuple(int(offset) for offset in level_offsets)
        self.pad_token_id = int(pad_token_id)
        self.eos_token_id = int(eos_token_id)
        self.num_items, self.num_levels = codes.shape
        present = torch.nonzero(codes[:, 0] >= 0).squeeze(1)
        self._build(codes, present)
        self._dense = self._dense_tables()

    @classmethod
    def from_table(cls, table, tokenizer, modality):
        """The trie of one modality of a [`SemanticIdTable`], in the token ids of `tokenizer`."""
        if modality not in table.modalities:
            raise ValueError(
                f"modality: expected one of the table's {list(table.modalities)}, got {modality!r}. A modality is "
                "named as in the codes of the SemanticIdTable."
            )
        offsets = [tokenizer.code_token_id(modality, level) for level in range(table.num_levels)]
        return cls(
            table.codes[modality],
            table.codebook_size,
            offsets,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )

    def _build(self, codes, present):
        device = codes.device
        order = present[_lexicographic_order(codes[present], self.codebook_size)]
        num_present = len(order)
        starts_node = torch.zeros(num_present, dtype=torch.bool, device=device)  # differs from the row before it
        starts_node[0] = True
        first_of_node, self.node_codes = [torch.zeros(1, dtype=torch.long, device=device)], [None]
        for level in range(self.num_levels):
            level_codes = codes[order, level]
            starts_node[1:] |= level_codes[1:] != level_codes[:-1]
            first = torch.nonzero(starts_node).squeeze(1)
            first_of_node.append(first)
            self.node_codes.append(level_codes[first].to(torch.int32))
        self.num_nodes = [len(first) for first in first_of_node]
        self.num_leaves = self.num_nodes[-1]
        self.leaf_rows = order
        self.leaf_start = _closed(first_of_node[-1], num_present)
        self.item_position, self.item_leaf = self._item_maps()
        self.child_start, self.node_leaf_start = [], []
        for depth in range(self.num_levels):
            self.child_start.append(_ranges(first_of_node[depth], first_of_node[depth + 1]))
            deepest = depth + 1 == self.num_levels
            self.node_leaf_start.append(
                self.child_start[-1] if deepest else _ranges(first_of_node[depth], first_of_node[-1])
            )
        self.max_children = [int(start.diff().max()) for start in self.child_start]

    def _item_maps(self):
        """Where each item stands in `leaf_rows`, and in which leaf; one tensor for both while no ID is shared."""
        rows = self.leaf_rows
        position = torch.full((self.num_items,), -1, dtype=torch.long, device=rows.device)
        position[rows] = torch.arange(len(rows), device=rows.device)
        if self.num_leaves == len(rows):
            return position, position
        leaf = torch.full_like(position, -1)
        leaf[rows] = torch.repeat_interleave(torch.arange(self.num_leaves, device=rows.device), self.leaf_start.diff())
        return position, leaf

    def _dense_tables(self):
        """For each depth whose prefixes are few: prefix read as a number in base `codebook_size` -> node, or -1."""
        tables, prefixes = [], torch.zeros(1, dtype=torch.long, device=self.leaf_rows.device)
        for depth in range(1, self.num_levels + 1):
            size = self.codebook_size**depth
            if size > _DENSE_ENTRIES:
                break
            parents = torch.repeat_interleave(prefixes, self.child_start[depth - 1].diff())
            prefixes = parents * self.codebook_size + self.node_codes[depth]
            table = torch.full((size,), -1, dtype=torch.long, device=prefixes.device)
            table[prefixes] = torch.arange(len(prefixes), device=prefixes.device)
            tables.append(table)
        return tables

    @property
    def device(self):
        """Where the tensors are."""
        return self.leaf_rows.device

    def to(self, device):
        """The trie with its tensors on `device` (itself if they are there already), as `torch.Tensor.to`."""
        moved = object.__new__(type(self))
        done = {}  # tensors that are one here stay one there

        def move(value):
            if isinstance(value, torch.Tensor):
                return done.setdefault(id(value), value.to(device))
            return [move(entry) for entry in value] if isinstance(value, list) else value

        for name, value in vars(self).items():
            setattr(moved, name, move(value))
        return self if moved.leaf_rows is self.leaf_rows else moved

    def find(self, codes):
        """The nodes of prefixes.

        Args:
            codes: long, `(num_prefixes, depth)` with `depth <= num_levels`; may hold anything.

        Returns:
            long, `(num_prefixes,)`: nodes of that depth, -1 where the catalogue has no such prefix.
        """
        depth = codes.shape[1]
        inside = ((codes >= 0) & (codes < self.codebook_size)).all(dim=1)
        codes = codes.clamp(0, self.codebook_size - 1)
        known = min(depth, len(self._dense))
        nodes = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
        if known:
            for level in range(known):
                nodes = nodes * self.codebook_size + codes[:, level]
            nodes = self._dense[known - 1][nodes]
        for level in range(known, depth):
            nodes = self._child(level, nodes, codes[:, level])
        return torch.where(inside, nodes, -1)

    def _child(self, depth, nodes, codes):
        """The child of each node with that code, or -1: all bisect their sorted children at once."""
        start = self.child_start[depth]
        low, end = start[nodes.clamp(min=0)], start[nodes.clamp(min=0) + 1]
        high, children = end, self.node_codes[depth + 1]
        for _ in range(self.max_children[depth].bit_length()):
            middle = (low + high) // 2
            below = (low < high) & (children[middle.clamp(max=len(children) - 1)] < codes)
            low, high = torch.where(below, middle + 1, low), torch.where(below, high, middle)
        found = (nodes >= 0) & (low < end) & (children[low.clamp(max=len(children) - 1)] == codes)
        return torch.where(found, low, -1)

    def leaf_of(self, codes):
        """The leaf of each ID; `codes` long `(n, num_levels)`. Returns long `(n,)`, -1 where it is no item's ID."""
        if codes.dim() != 2 or codes.shape[1] != self.num_levels:
            raise ValueError(
                f"codes: expected shape (n, {self.num_levels}), one column for each level, got {tuple(codes.shape)}."
            )
        return self.find(codes)

    def leaf_of_tokens(self, tokens):
        """[`leaf_of`] for token ids `(n, num_levels)`, without the decoder start token."""
        return self.leaf_of(tokens - tokens.new_tensor(self.level_offsets))

    def ancestors(self, leaves, depth):
        """The node of `depth` (at least 1) above each leaf; long, any shape."""
        if depth == self.num_levels:
            return leaves
        return torch.searchsorted(self.node_leaf_start[depth], leaves, right=True) - 1

    def leaf_codes(self, leaves):
        """The IDs of `leaves` (long, any shape, none negative): long, that shape + `(num_levels,)`."""
        levels = [
            self.node_codes[depth][self.ancestors(leaves, depth)].long() for depth in range(1, self.num_levels + 1)
        ]
        return torch.stack(levels, dim=-1)

    def leaf_tokens(self, leaves):
        """The IDs of `leaves` as token ids, shaped as [`leaf_codes`]."""
        codes = self.leaf_codes(leaves)
        return codes + codes.new_tensor(self.level_offsets)

    def leaf_items(self, leaf):
        """The table rows of the items of one leaf, ascending; long."""
        return self.leaf_rows[self.leaf_start[leaf] : self.leaf_start[leaf + 1]]

    def children(self, depth, nodes):
        """The children of `nodes` (long, any shape) of one depth, as a rectangle.

        Returns:
            `(children, exists)`: long and bool, the shape of `nodes` + `(max_children[depth],)`. Places beyond the
            children of a node repeat its last one, with `exists` False.
        """
        start, end = self.child_start[depth][nodes].unsqueeze(-1), self.child_start[depth][nodes + 1].unsqueeze(-1)
        children = start + torch.arange(self.max_children[depth], device=nodes.device)
        return torch.minimum(children, end - 1), children < end

    def child_tokens(self, depth, children):
        """Token ids of nodes `children` of depth `depth + 1`; long, the same shape."""
        return self.node_codes[depth + 1][children].long() + self.level_offsets[depth]

    def __repr__(self):
        return (
            f"SemanticIdTrie(num_items={self.num_items}, num_leaves={self.num_leaves}, num_levels={self.num_levels}, "
            f"codebook_size={self.codebook_size}, device={str(self.device)!r})"
        )


def _check_codes(codes, codebook_size, level_offsets):
    if not isinstance(codes, torch.Tensor) or codes.dim() != 2 or codes.shape[1] < 1 or codes.is_floating_point():
        got = f"{codes.dtype} {tuple(codes.shape)}" if isinstance(codes, torch.Tensor) else type(codes).__name__
        raise ValueError(f"codes: expected a tensor of integers of shape (num_items, num_levels), got {got}.")
    if len(level_offsets) != codes.shape[1]:
        raise ValueError(
            f"level_offsets: expected the token id of code 0 for each of the {codes.shape[1]} levels, got "
            f"{len(level_offsets)} of them."
        )
    absent = codes == -1
    bad = ((codes < -1) | (codes >= codebook_size)).any(dim=1) | (absent.any(dim=1) & ~absent.all(dim=1))
    if bad.any():
        row = int(torch.nonzero(bad)[0])
        raise ValueError(
            f"codes: expected codes in [0, {codebook_size}), or -1 throughout for an item without an ID, got "
            f"{codes[row].tolist()} in row {row}. Was the table made with another codebook_size?"
        )
    if absent.all():
        raise ValueError(
            "codes: expected at least one item with an ID, got none. Is this the modality that the items have?"
        )


def _lexicographic_order(codes, codebook_size):
    """Stable order of the rows: as many columns as fit in an int64 are sorted at once, the last ones first."""
    columns, span = 1, codebook_size
    while columns < codes.shape[1] and span * codebook_size < 2**63:
        columns, span = columns + 1, span * codebook_size
    order = None
    for end in range(codes.shape[1], 0, -columns):
        keys = torch.zeros(len(codes), dtype=torch.long, device=codes.device)
        for level in range(max(end - columns, 0), end):
            keys.mul_(codebook_size).add_(codes[:, level])
        ranks = torch.sort(keys if order is None else keys[order], stable=True).indices
        order = ranks if order is None else order[ranks]
    return order


def _closed(first, total):
    return torch.cat([first, first.new_tensor([total])])


def _ranges(first, first_below):
    """Where the nodes below start: both arguments are first places in one sorted list, `first` a subset."""
    return _closed(torch.searchsorted(first_below, first), len(first_below))
