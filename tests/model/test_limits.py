import numpy as np
import pytest
import torch
from decoding_tools import all_leaf_scores, padded_batch, random_trie, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec_hf.model.beam_search import beam_search, semantic_id_beam_search
from macrec_hf.model.limits import Limits, check_histories, item_rows

NUM_ITEMS = 60
TRIE = random_trie(NUM_ITEMS, codebook_size=4)
MODEL = tiny_model(dtype=torch.float64)
BATCH = padded_batch([5, 2, 3])
SCORES = all_leaf_scores(MODEL, *BATCH, TRIE)


@st.composite
def limits(draw):
    """`None` or one of the three forms, and the set of items that it means for each of the three users."""
    form = draw(st.sampled_from(["none", "mask", "masks", "lists"]))
    # a share, so that full, empty and nearly full sets all come up
    share = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.95, 1.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    masks = torch.rand(1 if form == "mask" else 3, NUM_ITEMS, generator=generator) < share
    sets = [set(torch.nonzero(mask).flatten().tolist()) for mask in masks.expand(3, -1)]
    if form == "none":
        return None, [None] * 3
    if form == "lists":
        width = max(map(len, sets)) + draw(st.integers(0, 3))
        rows = torch.full((3, width), -1)
        for row, members in enumerate(sets):
            # repeated and in any order, with the padding anywhere
            chosen = list(members) + [-1] * (width - len(members))
            rows[row] = torch.tensor(chosen, dtype=torch.long)[torch.randperm(width, generator=generator)]
        return torch.cat([rows, rows[:, :2]], dim=1), sets
    return (masks[0] if form == "mask" else masks), sets


def open_leaves(allowed, excluded):
    """By brute force: the leaves that keep an item."""
    items = set(range(NUM_ITEMS)) if allowed is None else allowed
    return {int(TRIE.item_leaf[item]) for item in items - (excluded or set()) if TRIE.item_leaf[item] >= 0}


@settings(max_examples=120, deadline=None)
@given(limits(), limits(), st.integers(1, 60))
def test_beams_under_limits(allowed, excluded, num_beams):
    result = beam_search(MODEL, *BATCH, TRIE, num_beams, allowed_items=allowed[0], excluded_items=excluded[0])
    for user in range(3):
        found = [leaf for leaf in result.leaves[user].tolist() if leaf >= 0]
        expected = open_leaves(allowed[1][user], excluded[1][user])
        assert len(found) == min(num_beams, len(expected))  # full unless fewer IDs are allowed
        assert len(set(found)) == len(found) and set(found) <= expected
        if len(expected) <= num_beams:  # then nothing was pruned: the exact order
            assert found == sorted(expected, key=lambda leaf: -SCORES[user, leaf])
        torch.testing.assert_close(result.scores[user, : len(found)], SCORES[user, found], atol=1e-9, rtol=0)
        assert (result.scores[user, len(found) :] == -torch.inf).all()


@settings(max_examples=60, deadline=None)
@given(limits(), limits(), st.integers(1, 3))
def test_open_nodes_agree_with_brute_force(allowed, excluded, depth):
    nodes = torch.arange(TRIE.num_nodes[depth]).expand(3, -1)
    got = Limits(3, NUM_ITEMS, allowed[0], excluded[0]).on_trie(TRIE)
    got = torch.ones(3, TRIE.num_nodes[depth], dtype=torch.bool) if got is None else got.open(depth, nodes)
    above = TRIE.ancestors(torch.arange(TRIE.num_leaves), depth).tolist()
    for user in range(3):
        expected = {above[leaf] for leaf in open_leaves(allowed[1][user], excluded[1][user])}
        assert set(torch.nonzero(got[user]).flatten().tolist()) == expected


@settings(max_examples=60, deadline=None)
@given(limits(), limits(), st.booleans())
def test_items_kept_agree_with_brute_force(allowed, excluded, hide):
    histories = [[3, 3, 7], [], [59, 0]]
    checked = Limits(3, NUM_ITEMS, allowed[0], excluded[0], histories if hide else None)
    users = np.array([2, 0])  # some of the users, in another order
    items = np.array([[-1, *range(NUM_ITEMS), 5, -1]] * 2)
    kept = checked.keep(items, users)
    on_trie = checked.on_trie(TRIE, users)
    nodes = torch.arange(TRIE.num_leaves).expand(2, -1)
    is_open = torch.ones_like(nodes, dtype=torch.bool) if on_trie is None else on_trie.open(TRIE.num_levels, nodes)
    for place, user in enumerate(users):
        gone = (excluded[1][user] or set()) | set(histories[user] if hide else ())
        expected = (set(range(NUM_ITEMS)) if allowed[1][user] is None else allowed[1][user]) - gone
        assert kept[place].tolist() == [item if item in expected else -1 for item in items[place]]
        leaves = open_leaves(allowed[1][user], gone)
        assert set(torch.nonzero(is_open[place]).flatten().tolist()) == leaves


def test_limits_from_item_ids():
    row_of = {"a": 0, "b": 1, "c": 2, "d": 3}
    everything = np.arange(4)[None].repeat(2, axis=0)

    def kept(*args, **options):
        return Limits.from_ids(row_of, 2, *args, **options).keep(everything, np.arange(2)).tolist()

    assert kept() == everything.tolist()
    assert kept(["b", "d"]) == [[-1, 1, -1, 3]] * 2
    assert kept([["b"], []], ["a"]) == [[-1, 1, -1, -1], [-1] * 4]
    assert kept(None, [["a"], ["c", "d"]], [[1, 2], [0]]) == [[-1, -1, -1, 3], [-1, 1, -1, -1]]
    assert kept(["x", "b"], ["y"], skip_unknown=True) == [[-1, 1, -1, -1]] * 2
    assert item_rows(row_of, ["c", "x", "c"], "here", skip_unknown=True).tolist() == [2, 2]
    with pytest.raises(ValueError, match="Unknown item 'x' in history 4: it is not among the 4 items"):
        item_rows(row_of, ["a", "x"], "history 4")
    with pytest.raises(ValueError, match="Unknown item 'x' in excluded_items of history 1: .* on_unknown='skip'"):
        kept(None, [["a"], ["x"]])
    for items in ([["a"]], ["a", ["b"]]):
        with pytest.raises(ValueError, match="allowed_items: expected item ids, or one list .* the 2 histories"):
            kept(items)


def test_limits_of_another_catalogue():
    with pytest.raises(ValueError, match="allowed_items: expected a list of item ids, got 'i1' .str."):
        Limits.from_ids({"i": 0, "1": 1}, 2, allowed_items="i1")
    with pytest.raises(ValueError, match="limits: expected those of the trie's 60 items, got those of 61"):
        Limits(3, 61).on_trie(TRIE)
    with pytest.raises(ValueError, match="histories: .* got torch.int64"):
        Limits(3, NUM_ITEMS, histories=[[1], [2]])
    with pytest.raises(ValueError, match="histories: .* got rows from -1 to 60"):
        Limits(2, NUM_ITEMS, histories=[[1, 60], [2]])


def test_a_filter_at_the_end_would_have_come_back_empty():
    free = beam_search(MODEL, *BATCH, TRIE, 5)
    worst = SCORES.argmin(1)
    allowed = torch.stack([TRIE.leaf_items(int(leaf))[:1] for leaf in worst])
    assert not (free.leaves == worst.unsqueeze(1)).any()
    limited = beam_search(MODEL, *BATCH, TRIE, 5, allowed_items=allowed)
    assert torch.equal(limited.leaves[:, 0], worst) and (limited.leaves[:, 1:] == -1).all()


def test_through_generate():
    mask = torch.zeros(NUM_ITEMS, dtype=torch.bool)
    mask[10:20] = True
    excluded = torch.tensor([[10, -1], [11, 12], [-1, -1]])
    sequences = MODEL.generate(
        BATCH[0],
        attention_mask=BATCH[1],
        num_beams=12,
        num_return_sequences=12,
        custom_generate=semantic_id_beam_search,
        trie=TRIE,
        allowed_items=mask,
        excluded_items=excluded,
    )
    leaves = TRIE.leaf_of_tokens(sequences[:, 1:]).view(3, 12).tolist()
    for user, gone in enumerate([{10}, {11, 12}, set()]):
        assert set(leaves[user]) - {-1} == open_leaves(set(range(10, 20)), gone)


@pytest.mark.parametrize(
    "items, message",
    [
        ([1, 2], "got list. Make it a tensor"),
        (torch.ones(4, dtype=torch.bool), r"expected bool \(60,\) or \(3, 60\).*got torch.bool \(4,\)"),
        (torch.ones(2, 60, dtype=torch.bool), r"got torch.bool \(2, 60\)"),
        (torch.ones(3, 2), r"got torch.float32 \(3, 2\)"),
        (torch.ones(2, 2, dtype=torch.long), r"got torch.int64 \(2, 2\)"),
        (torch.full((3, 2), 60), "got rows from 60 to 60. Rows count from 0"),
        (torch.full((3, 2), -2), "got rows from -2 to -2"),
    ],
)
@pytest.mark.parametrize("name", ["allowed_items", "excluded_items"])
def test_refuses_limits_of_another_form(name, items, message):
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        beam_search(MODEL, *BATCH, TRIE, 2, **{name: items})


@pytest.mark.parametrize(
    "items, message",
    [
        (3, r"allowed_items: expected a list of item ids, got 3 \(int\)"),
        (b"a", "allowed_items: expected a list"),
        ([None], "got 1 entries"),
        ([["a"], None], "got 2 entries"),
        ([["a"], [7]], r"history 1: expected .* got 7 \(int\)"),
        ([["a"], [["b"]]], r"got \['b'\] \(list\)"),
    ],
)
def test_limits_that_are_no_ids_are_refused(items, message):
    with pytest.raises(ValueError, match=message):
        Limits.from_ids({"a": 0, "b": 1}, 2, allowed_items=items)


@pytest.mark.parametrize(
    "histories, got",
    [
        (None, "NoneType"),
        (3, "int"),
        ({"u": ["a"]}, "dict"),
        (iter([["a"]]), "iterator"),
        ([None], "None as history 0"),
        ([["a"], {"b"}], "as history 1"),
        ([["a"], {"b": 1}], "as history 1"),
        ([b"a"], "as history 0"),
        (["a"], "item ids"),
    ],
)
def test_histories_that_are_none_are_refused(histories, got):
    with pytest.raises(ValueError, match=f"histories: expected a list of histories such as .*{got}"):
        check_histories(histories, 3, "raise")
