import pytest
import torch
from decoding_tools import all_leaf_scores, padded_batch, random_trie, tiny_model, tiny_trie
from hypothesis import given, settings
from hypothesis import strategies as st

from macrec_hf.model.logits_process import SemanticIdLogitsProcessor

VOCAB_SIZE = 31


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_allows_exactly_what_brute_force_allows(data):
    num_levels, codebook_size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    code = st.integers(0, codebook_size - 1)
    item = st.lists(code, min_size=num_levels, max_size=num_levels)
    codes = data.draw(st.lists(item, min_size=1, max_size=25))
    trie = tiny_trie(codes, codebook_size)
    tokens = [[5 + level * codebook_size + code for level, code in enumerate(row)] for row in codes]
    depth = data.draw(st.integers(0, num_levels + 1))
    rows = data.draw(st.lists(st.sampled_from(tokens), min_size=1, max_size=6))
    prefixes = [[*row, 1][:depth] for row in rows]
    scores = torch.randn(len(rows), VOCAB_SIZE)
    before = scores.clone()
    input_ids = torch.tensor([[0, *prefix] for prefix in prefixes])
    processed = SemanticIdLogitsProcessor(trie)(input_ids, scores)
    assert torch.equal(scores, before)
    for row, prefix in enumerate(prefixes):
        expected = torch.full((VOCAB_SIZE,), -torch.inf)
        if depth >= num_levels:
            expected[1] = 0.0
        for item_tokens in tokens:
            if depth < num_levels and item_tokens[:depth] == prefix:
                expected[item_tokens[depth]] = before[row, item_tokens[depth]]
        assert torch.equal(processed[row], expected)


def test_has_no_memory_of_earlier_calls():
    trie = random_trie()
    processor = SemanticIdLogitsProcessor(trie)
    tokens = trie.leaf_tokens(torch.arange(trie.num_leaves))
    input_ids = torch.cat([torch.zeros(trie.num_leaves, 1, dtype=torch.long), tokens[:, :2]], dim=1)
    scores = torch.randn(trie.num_leaves, VOCAB_SIZE)
    expected = processor(input_ids, scores)
    order = torch.randperm(trie.num_leaves, generator=torch.Generator().manual_seed(0))
    processor(input_ids[:1, :1], scores[:1])  # another request in between
    assert torch.equal(processor(input_ids[order], scores[order]), expected[order])


@pytest.mark.parametrize("prefix", [[1], [5, 5], [30], [5, 11, 17, 17][:3]])
def test_refuses_a_prefix_that_no_item_has(prefix):
    trie = tiny_trie([[0, 0, 1], [1, 1, 1]], 6)
    with pytest.raises(ValueError, match=r"begin no item's ID.*does no other logits processor"):
        SemanticIdLogitsProcessor(trie)(torch.tensor([[0, *prefix]]), torch.zeros(1, VOCAB_SIZE))


def test_with_several_tries_the_first_code_decides():
    text, image = tiny_trie([[0, 0], [0, 1]], 6), tiny_trie([[2, 3], [5, 0]], 6, first_code=17)
    processor, scores = SemanticIdLogitsProcessor(text, image), torch.randn(3, VOCAB_SIZE)
    start = processor(torch.zeros(3, 1, dtype=torch.long), scores)
    second = processor(torch.tensor([[0, 5], [0, 22], [0, 19]]), scores)
    for found, wanted in ((start, [[5, 19, 22]] * 3), (second, [[11, 12], [23], [26]])):
        for row, tokens in enumerate(wanted):
            assert torch.nonzero(found[row] > -torch.inf).flatten().tolist() == tokens
            assert torch.equal(found[row, tokens], scores[row, tokens])
    assert (processor(torch.tensor([[0, 5, 11], [0, 22, 23], [0, 19, 26]]), scores).argmax(1) == 1).all()
    with pytest.raises(ValueError, match=r"the tokens \[20\] in row 1, which begin no item's ID"):
        processor(torch.tensor([[0, 5], [0, 20], [0, 19]]), scores)


@pytest.mark.parametrize("depths, got", [((), r"\[\]"), ((2, 3), r"\[2, 3\]")])
def test_refuses_no_trie_and_tries_of_different_depths(depths, got):
    with pytest.raises(ValueError, match=f"tries: expected one or more of one number of levels, got {got}"):
        SemanticIdLogitsProcessor(*(random_trie(num_levels=depth) for depth in depths))


def test_refuses_a_trie_on_another_device():
    processor = SemanticIdLogitsProcessor(random_trie().to("meta"))
    with pytest.raises(ValueError, match=r"on the device of input_ids \(cpu\), got meta.*trie.to\('cpu'\)"):
        processor(torch.tensor([[0]]), torch.zeros(1, VOCAB_SIZE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_generate_with_a_beam_for_each_id_ranks_as_teacher_forcing(dtype, padding):
    trie, model = random_trie(), tiny_model(VOCAB_SIZE, dtype)
    input_ids, attention_mask = padded_batch([7, 3, 5], left=(1, 2) if padding == "left" else ())
    out = model.generate(
        input_ids,
        attention_mask=attention_mask,
        num_beams=trie.num_leaves,
        num_return_sequences=trie.num_leaves,
        max_new_tokens=trie.num_levels,
        logits_processor=[SemanticIdLogitsProcessor(trie)],
        output_scores=True,
        return_dict_in_generate=True,
    )
    leaves = trie.leaf_of_tokens(out.sequences[:, 1:]).view(3, -1)
    expected, order = all_leaf_scores(model, input_ids, attention_mask, trie).sort(descending=True)
    assert torch.equal(leaves, order)
    torch.testing.assert_close(out.sequences_scores.view(3, -1), expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("max_new_tokens", [3, 4, 9])  # the codes, then </s>, then what waits for other beams
@pytest.mark.parametrize("codes", [[[0, 0, 0]], [[0, 0, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0], [5, 5, 5]]])
def test_plain_generate_survives_more_beams_than_items(codes, max_new_tokens):
    trie, model = tiny_trie(codes, 6), tiny_model(VOCAB_SIZE)
    input_ids, attention_mask = padded_batch([4, 2])
    out = model.generate(
        input_ids,
        attention_mask=attention_mask,
        num_beams=6,
        num_return_sequences=6,
        max_new_tokens=max_new_tokens,
        logits_processor=[SemanticIdLogitsProcessor(trie)],
        output_scores=True,
        return_dict_in_generate=True,
    )
    leaves, scores = trie.leaf_of_tokens(out.sequences[:, 1:4]).view(2, 6), out.sequences_scores.view(2, 6)
    for user in range(2):
        # Surplus places are repetitions or empty, which generate marks with -1e9.
        assert sorted(leaves[user, scores[user] > -1e8].tolist()) == list(range(trie.num_leaves))
        assert set(leaves[user].tolist()) <= {-1, *range(trie.num_leaves)}
    assert out.sequences[:, 4:].le(1).all()


def test_greedy_search_and_sampling_write_ids():
    trie, model = random_trie(), tiny_model(VOCAB_SIZE)
    input_ids, attention_mask = padded_batch([4, 2, 6])
    settings = {"attention_mask": attention_mask, "max_new_tokens": 5}
    settings["logits_processor"] = [SemanticIdLogitsProcessor(trie)]
    for extra in ({"num_beams": 1}, {"do_sample": True, "num_return_sequences": 4}):
        sequences = model.generate(input_ids, **settings, **extra)
        assert (trie.leaf_of_tokens(sequences[:, 1:4]) >= 0).all()
        assert (sequences[:, 4] == 1).all() and sequences.shape[1] == 5
