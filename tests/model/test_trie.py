import time

import pytest
import torch
from decoding_tools import tiny_trie
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec_hf.model.trie import SemanticIdTrie


@st.composite
def catalogues(draw):
    """Codes with shared IDs and items without one, from dense trees to wide, sparse ones."""
    codebook_size = draw(st.sampled_from([1, 2, 3, 7, 300, 2**20]))
    num_levels = draw(st.integers(1, 5))
    code = st.integers(0, codebook_size - 1)
    item = st.one_of(st.just([-1] * num_levels), st.lists(code, min_size=num_levels, max_size=num_levels))
    items = draw(st.lists(item, min_size=1, max_size=30))
    items.append(draw(st.lists(code, min_size=num_levels, max_size=num_levels)))
    twice = draw(st.lists(st.sampled_from(items), max_size=5))
    return items + twice, codebook_size


@settings(max_examples=150, deadline=None)
@given(catalogues())
def test_agrees_with_brute_force(catalogue):
    codes, codebook_size = catalogue
    trie = tiny_trie(codes, codebook_size)
    ids = sorted({tuple(row) for row in codes if row[0] >= 0})
    assert (trie.num_items, trie.num_leaves, trie.num_levels) == (len(codes), len(ids), len(codes[0]))
    assert [tuple(row) for row in trie.leaf_codes(torch.arange(len(ids))).tolist()] == ids
    assert trie.leaf_of(torch.tensor(ids)).tolist() == list(range(len(ids)))
    for leaf, identifier in enumerate(ids):
        assert trie.leaf_items(leaf).tolist() == [row for row, item in enumerate(codes) if tuple(item) == identifier]
    assert trie.item_leaf.tolist() == [ids.index(tuple(row)) if row[0] >= 0 else -1 for row in codes]
    for depth in range(trie.num_levels):
        prefixes = sorted({row[:depth] for row in ids})
        assert trie.find(torch.tensor(prefixes, dtype=torch.long).view(len(prefixes), depth)).tolist() == [
            *range(len(prefixes))
        ]
        children, exists = trie.children(depth, torch.arange(len(prefixes)))
        tokens = trie.child_tokens(depth, children) - trie.level_offsets[depth]
        for prefix, row, real in zip(prefixes, tokens.tolist(), exists.tolist(), strict=True):
            expected = sorted({identifier[depth] for identifier in ids if identifier[:depth] == prefix})
            assert row == expected + [expected[-1]] * (len(row) - len(expected))
            assert real == [place < len(expected) for place in range(len(row))]


@settings(max_examples=60, deadline=None)
@given(catalogues(), st.integers(0, 2**32))
def test_finds_nothing_that_is_not_there(catalogue, seed):
    codes, codebook_size = catalogue
    trie = tiny_trie(codes, codebook_size)
    generator = torch.Generator().manual_seed(seed)
    depth = int(torch.randint(1, trie.num_levels + 1, (), generator=generator))
    probes = torch.randint(-2, codebook_size + 2, (50, depth), generator=generator)
    known = {tuple(row[:depth]) for row in codes if row[0] >= 0}
    found = trie.find(probes)
    assert ((found >= 0).tolist()) == [tuple(row) in known for row in probes.tolist()]


def test_positions_and_ranges_are_consistent():
    generator = torch.Generator().manual_seed(0)
    trie = tiny_trie(torch.randint(4, (200, 4), generator=generator), 4)
    rows = torch.arange(200)
    assert (trie.leaf_rows[trie.item_position] == rows).all()
    assert (torch.searchsorted(trie.leaf_start, trie.item_position, right=True) - 1 == trie.item_leaf).all()
    for depth in range(1, 5):
        above = trie.ancestors(torch.arange(trie.num_leaves), depth)
        assert (above == trie.find(trie.leaf_codes(torch.arange(trie.num_leaves))[:, :depth])).all()


def test_leaf_of_tokens():
    trie = tiny_trie([[0, 1], [1, 0]], 2)
    assert trie.leaf_tokens(torch.tensor([0, 1])).tolist() == [[5, 8], [6, 7]]
    # </s>, a code of the wrong level, and a missing combination are no IDs
    assert trie.leaf_of_tokens(torch.tensor([[5, 8], [6, 7], [5, 1], [7, 7], [5, 7]])).tolist() == [0, 1, -1, -1, -1]


def test_items_may_be_in_any_order():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(9, (500, 3), generator=generator)
    shuffle = torch.randperm(500, generator=generator)
    first, second = tiny_trie(codes, 9), tiny_trie(codes[shuffle], 9)
    assert (first.item_leaf[shuffle] == second.item_leaf).all()


def test_to_moves_every_tensor():
    trie = tiny_trie([[0, 1], [1, 0], [0, 1]], 2)
    moved = trie.to("meta")
    assert trie.to("cpu") is trie and trie.device.type == "cpu" and moved.device.type == "meta"
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    tensors += [entry for value in vars(moved).values() if isinstance(value, list) for entry in value]
    assert {tensor.device.type for tensor in tensors if isinstance(tensor, torch.Tensor)} == {"meta"}
    assert len([tensor for tensor in tensors if isinstance(tensor, torch.Tensor)]) >= 10


def test_building_is_fast_and_linear():
    """200,000 items of the paper's IDs; a Python loop over items would take seconds."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(256, (200_000, 4), generator=generator)
    start = time.process_time()
    trie = SemanticIdTrie(codes, 256, [0, 256, 512, 768])
    assert time.process_time() - start < 5
    assert trie.num_leaves == len(torch.unique(codes, dim=0))


@pytest.mark.parametrize(
    "codes, codebook_size, message",
    [
        (torch.tensor([[0, 4]]), 4, r"expected codes in \[0, 4\).*got \[0, 4\] in row 0.*the quantizer's"),
        (torch.tensor([[1, 1], [0, -1]]), 4, r"a whole row of -1.*got \[0, -1\] in row 1"),
        (torch.tensor([[-1, -1]]), 4, "at least one item with an ID, got none"),
        (torch.zeros(3, 2), 4, "codes: expected a tensor of integers, got torch.float32"),
        ([[0, 1]], 4, "tensor of integers.*got list"),
    ],
)
def test_refuses_bad_codes(codes, codebook_size, message):
    with pytest.raises(ValueError, match=message):
        SemanticIdTrie(codes, codebook_size, [5, 9])


def test_refuses_other_shapes():
    with pytest.raises(ValueError, match="level_offsets: expected .* each of the 2 levels, got 1"):
        SemanticIdTrie(torch.tensor([[0, 1]]), 4, [5])
    with pytest.raises(ValueError, match=r"codes: expected shape \(n, 2\).*got \(1, 3\)"):
        tiny_trie([[0, 1]], 2).leaf_of(torch.tensor([[0, 1, 0]]))


def test_from_table():
    pytest.importorskip("macrec_hf.model.tokenization_macrec")
    from macrec_hf.model.semantic_ids import SemanticIdTable
    from macrec_hf.model.tokenization_macrec import SemanticIdTokenizer

    codes = {"text": torch.tensor([[0, 1], [1, 0], [0, 1]]), "image": torch.tensor([[2, 2], [-1, -1], [0, 0]])}
    table = SemanticIdTable(["i0", "i1", "i2"], codes, codebook_size=3)
    tokenizer = SemanticIdTokenizer.from_table(table)
    trie = SemanticIdTrie.from_table(table, tokenizer, "image")
    assert trie.item_leaf.tolist() == [1, -1, 0]
    assert tokenizer.convert_ids_to_tokens(trie.leaf_tokens(trie.item_leaf[0]).tolist()) == table.tokens("i0", "image")
    with pytest.raises(ValueError, match="expected one of the table's .*'text'.*got 'video'"):
        SemanticIdTrie.from_table(table, tokenizer, "video")


def test_its_repr_says_what_is_in_it():
    trie = SemanticIdTrie(torch.tensor([[0, 1], [0, 2], [0, 1], [-1, -1]]), codebook_size=4, level_offsets=(3, 7))
    assert repr(trie) == "SemanticIdTrie(num_items=4, num_leaves=2, num_levels=2, codebook_size=4, device='cpu')"
