import pytest
import torch
from decoding_tools import all_leaf_scores, padded_batch, random_trie, tiny_model

from macrec_hf.model.beam_search import beam_search
from macrec_hf.model.model_decoding import candidate_scores, exact_scores

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("config", [{}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}])
@pytest.mark.parametrize("max_rows", [1, 7, 4096])
def test_exact_scores_are_those_of_teacher_forcing(dtype, config, max_rows):
    trie, model = random_trie(), tiny_model(dtype=dtype, **config)
    batch = padded_batch([7, 3, 5], left=(1,))
    scores = exact_scores(model, *batch, trie, max_rows=max_rows)
    by_leaf = all_leaf_scores(model, *batch, trie)
    assert scores.shape == (3, trie.num_items) and scores.dtype == dtype
    has_id = trie.item_leaf >= 0
    torch.testing.assert_close(scores[:, has_id], by_leaf[:, trie.item_leaf[has_id]], atol=TOLERANCE[dtype], rtol=0)
    assert (scores[:, ~has_id] == -torch.inf).all() and (~has_id).any()
    assert torch.equal(scores[:, 3], scores[:, 4])  # one ID, one score


def test_the_catalogue_holds_no_more_than_all_probability():
    model, trie = tiny_model(dtype=torch.float64), random_trie()
    scores = exact_scores(model, *padded_batch([5, 2]), trie)
    distinct = torch.zeros(2, trie.num_leaves, dtype=scores.dtype)
    distinct[:, trie.item_leaf[trie.item_leaf >= 0]] = scores[:, trie.item_leaf >= 0].exp()
    assert (distinct.sum(1) < 1).all() and (distinct.sum(1) > 0).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_candidate_scores_are_those_of_teacher_forcing(dtype):
    trie, model = random_trie(), tiny_model(dtype=dtype)
    input_ids, attention_mask = padded_batch([7, 3, 5])
    leaves = torch.randint(-1, trie.num_leaves, (3, 9), generator=torch.Generator().manual_seed(0))
    leaves[0, 0] = -1
    states = model.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
    scores = candidate_scores(model, states, attention_mask, trie, leaves)
    expected = all_leaf_scores(model, input_ids, attention_mask, trie).gather(1, leaves.clamp(min=0))
    expected[leaves < 0] = -torch.inf
    torch.testing.assert_close(scores, expected, atol=TOLERANCE[dtype], rtol=0)
    assert candidate_scores(model, states, attention_mask, trie, leaves[:, :0]).shape == (3, 0)


def test_candidates_complete_what_the_beams_found():
    trie, model = random_trie(), tiny_model(dtype=torch.float64)
    batch = padded_batch([7, 3, 5])
    result = beam_search(model, *batch, trie, 8)
    again = candidate_scores(model, result.encoder_hidden_states, batch[1], trie, result.leaves)
    torch.testing.assert_close(again, result.scores, atol=1e-12, rtol=0)


def test_refuses_leaves_of_another_batch():
    trie, model = random_trie(), tiny_model()
    states = model.encoder(input_ids=padded_batch([3, 2])[0])[0]
    with pytest.raises(ValueError, match=r"expected shape \(2, num_candidates\).*got \(3, 4\)"):
        candidate_scores(model, states, None, trie, torch.zeros(3, 4, dtype=torch.long))
