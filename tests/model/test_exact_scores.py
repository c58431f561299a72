import numpy as np
import pytest
import torch
from decoding_tools import all_leaf_scores, padded_batch, random_trie, tiny_model

from macrec_hf.model import model_decoding
from macrec_hf.model.beam_search import beam_search
from macrec_hf.model.model_decoding import candidate_scores, exact_scores, score_items

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


def drawn_sources(seed):
    """Ten users; some have no source in one modality, one has none at all."""
    random = np.random.default_rng(seed)
    sources = {
        name: [[*random.integers(5, 31, random.integers(1, 9)).tolist(), 1] for _ in range(10)] for name in ("a", "b")
    }
    sources["a"][3] = sources["b"][5] = sources["a"][7] = sources["b"][7] = None
    return sources


def test_items_are_scored_by_teacher_forcing_whoever_is_asked_for(monkeypatch):
    tries, model = {name: random_trie(seed=seed) for seed, name in enumerate("ab")}, tiny_model(dtype=torch.float64)
    sources, random = drawn_sources(0), np.random.default_rng(1)
    num_items = min(trie.num_items for trie in tries.values())
    users = random.permutation(10)
    items = np.stack([random.permutation(num_items)[:8] for _ in users])
    items[2, 5:] = items[4] = -1
    found = score_items(model, tries, sources, items, users)
    for name, trie in tries.items():
        for row, user in enumerate(users):
            wanted = torch.full((8,), -torch.inf, dtype=torch.float64)
            if source := sources[name][user]:
                scores = exact_scores(model, torch.tensor([source]), None, trie)[0]
                wanted = torch.where(torch.from_numpy(items[row]) >= 0, scores[items[row]], -torch.inf)
            torch.testing.assert_close(torch.from_numpy(found[name][row]), wanted, atol=1e-9, rtol=0)
    assert np.isfinite(found["a"]).any() and (found["a"][list(users).index(3)] == -np.inf).all()
    monkeypatch.setattr(model_decoding, "_SCORED_ROWS", 5)  # a user at a time, in two pieces
    parts = []
    for rank in (0, 1):
        share = {"rank": rank, "num_processes": 2, "gather": lambda part: parts.extend(part) or []}
        score_items(model, tries, sources, items, users, **share)
    again = score_items(model, tries, sources, items, users, gather=lambda part: parts)
    assert len(parts) > 4 and all(np.allclose(again[name], found[name], atol=1e-9) for name in tries)


def test_nobody_and_nothing_are_scored():
    tries, model = {"a": random_trie()}, tiny_model()
    assert score_items(model, tries, {"a": []}, np.zeros((0, 4), dtype=np.int64))["a"].shape == (0, 4)
    assert score_items(model, tries, {"a": [[5, 1]]}, np.zeros((1, 0), dtype=np.int64))["a"].shape == (1, 0)
    assert np.array_equal(score_items(model, tries, {"a": [None]}, np.array([[0, 1]]))["a"], [[-np.inf] * 2])
