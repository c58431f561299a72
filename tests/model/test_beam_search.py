import pytest
import torch
from decoding_tools import all_leaf_scores, padded_batch, random_trie, tiny_model, tiny_trie
from torch import nn
from transformers import LogitsProcessor

from macrec_hf.model.beam_search import beam_search, semantic_id_beam_search
from macrec_hf.model.logits_process import SemanticIdLogitsProcessor

VARIANTS = [
    {},
    {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    {"feed_forward_proj": "gelu", "num_layers": 3, "num_decoder_layers": 1},
]


def plain_generate(model, batch, trie, num_beams, **settings):
    return model.generate(
        batch[0],
        attention_mask=batch[1],
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=trie.num_levels,
        logits_processor=[SemanticIdLogitsProcessor(trie)],
        output_scores=True,
        return_dict_in_generate=True,
        **settings,
    )


def fast_generate(model, batch, trie, num_beams, num_return_sequences=None, **settings):
    return model.generate(
        batch[0],
        attention_mask=batch[1],
        num_beams=num_beams,
        num_return_sequences=num_return_sequences or num_beams,
        custom_generate=semantic_id_beam_search,
        trie=trie,
        return_dict_in_generate=True,
        **settings,
    )


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("num_beams", [2, 5, 20, 33])
@pytest.mark.parametrize("first_code", [5, 23])  # the second modality's codes come after the first's
@pytest.mark.parametrize("lengths, left", [([1], ()), ([7, 3, 5], ()), ([2, 6, 4, 6], (0, 2))])
def test_the_lists_of_generate(config, num_beams, first_code, lengths, left):
    trie, model = random_trie(first_code=first_code), tiny_model(45, **config)
    batch = padded_batch(lengths, left=left)
    expected, got = plain_generate(model, batch, trie, num_beams), fast_generate(model, batch, trie, num_beams)
    assert torch.equal(got.sequences, expected.sequences)
    torch.testing.assert_close(got.sequences_scores, expected.sequences_scores, atol=1e-4, rtol=0)
    assert got.sequences_scores.dtype == torch.float32


def test_one_beam_is_greedy_search():
    trie, model, batch = random_trie(), tiny_model(), padded_batch([7, 3, 5])
    greedy = plain_generate(model, batch, trie, 1)
    assert torch.equal(fast_generate(model, batch, trie, 1).sequences, greedy.sequences)


@pytest.mark.parametrize("config", VARIANTS)
@pytest.mark.parametrize("num_levels, codebook_size", [(1, 18), (3, 6), (6, 3)])
def test_float64_scores_are_exact(config, num_levels, codebook_size):
    trie = random_trie(num_levels=num_levels, codebook_size=codebook_size)
    model, batch = tiny_model(dtype=torch.float64, **config), padded_batch([7, 3, 5], left=(1,))
    expected, order = all_leaf_scores(model, *batch, trie).sort(descending=True)
    result = beam_search(model, *batch, trie, trie.num_leaves)
    assert torch.equal(result.leaves, order)
    torch.testing.assert_close(result.scores, expected, atol=1e-9, rtol=0)
    few = fast_generate(model, batch, trie, 5)
    scored = all_leaf_scores(model, *batch, trie).gather(1, trie.leaf_of_tokens(few.sequences[:, 1:]).view(3, 5))
    torch.testing.assert_close(few.sequences_scores.view(3, 5), scored, atol=1e-9, rtol=0)


def test_bfloat16_agrees_on_nine_of_the_first_ten():
    trie = random_trie(num_items=400, codebook_size=12, first_code=5)
    model = tiny_model(5 + 36, torch.bfloat16, d_model=64, d_ff=128, num_heads=4)
    batch = padded_batch([9, 3, 5, 7] * 4, vocab_size=41)
    expected, got = plain_generate(model, batch, trie, 20), fast_generate(model, batch, trie, 20)
    pairs = zip(
        trie.leaf_of_tokens(expected.sequences[:, 1:]).view(-1, 20)[:, :10].tolist(),
        trie.leaf_of_tokens(got.sequences[:, 1:]).view(-1, 20)[:, :10].tolist(),
        strict=True,
    )
    overlap = [len(set(first) & set(second)) / 10 for first, second in pairs]
    assert sum(overlap) / len(overlap) >= 0.9
    assert got.sequences_scores.dtype == torch.float32


def test_fewer_items_than_beams_leave_places_empty():
    trie, model, batch = tiny_trie([[0, 0, 1], [1, 0, 0], [0, 0, 1]], 6), tiny_model(), padded_batch([4, 2])
    out = fast_generate(model, batch, trie, 6, num_return_sequences=4)
    leaves = trie.leaf_of_tokens(out.sequences[:, 1:]).view(2, 4)
    assert [sorted(row) for row in leaves.tolist()] == [[-1, -1, 0, 1]] * 2
    assert (leaves[:, 2:] == -1).all()
    assert (out.sequences.view(2, 4, 4)[:, 2:] == 0).all()
    assert torch.equal(out.sequences_scores.view(2, 4) == -torch.inf, leaves == -1)


def test_more_beams_than_a_level_has_codes():
    trie, model, batch = random_trie(num_items=200), tiny_model(dtype=torch.float64), padded_batch([4, 2])
    result = beam_search(model, *batch, trie, 500)
    best = all_leaf_scores(model, *batch, trie).sort(descending=True)
    assert torch.equal(result.leaves[:, : trie.num_leaves], best.indices)
    assert (result.leaves[:, trie.num_leaves :] == -1).all() and result.leaves.shape == (2, 500)


def test_results_do_not_depend_on_batch_mates():
    trie, model = random_trie(), tiny_model(dtype=torch.float64)
    input_ids, attention_mask = padded_batch([7, 3, 5, 1])
    together = beam_search(model, input_ids, attention_mask, trie, 6)
    for user, length in enumerate([7, 3, 5, 1]):
        alone = beam_search(model, input_ids[user : user + 1, :length], None, trie, 6)
        assert torch.equal(alone.leaves[0], together.leaves[user])
        torch.testing.assert_close(alone.scores[0], together.scores[user], atol=1e-12, rtol=0)


def test_nothing_is_remembered_between_calls():
    trie, model, batch = random_trie(), tiny_model(), padded_batch([7, 3])
    first = beam_search(model, *batch, trie, 6)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    beam_search(model, *padded_batch([4, 2, 9], seed=1), random_trie(seed=1), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    changed = beam_search(model, *batch, trie, 6)
    model.load_state_dict(state)
    again = beam_search(model, *batch, trie, 6)
    assert torch.equal(first.scores, again.scores) and not torch.equal(first.scores, changed.scores)


def test_there_is_no_dropout_in_training_mode():
    trie, batch = random_trie(), padded_batch([7, 3])
    model = tiny_model(dropout_rate=0.5)
    expected = beam_search(model, *batch, trie, 6)
    assert torch.equal(beam_search(model.train(), *batch, trie, 6).scores, expected.scores)
    assert model.training


def test_encoder_states_that_were_computed_elsewhere():
    trie, model, batch = random_trie(), tiny_model(), padded_batch([7, 3], left=(1,))
    outputs = model.encoder(input_ids=batch[0], attention_mask=batch[1])
    result = beam_search(model, None, batch[1], trie, 6, encoder_outputs=outputs)
    expected = beam_search(model, *batch, trie, 6)
    torch.testing.assert_close(result.scores, expected.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(expected.encoder_hidden_states, outputs[0], atol=1e-5, rtol=0)


class Adapted(nn.Linear):
    """As an adapter library wraps a layer: its output is more than the product with its weight."""

    def forward(self, hidden):
        return super().forward(hidden) + hidden.mean(-1, keepdim=True)


def test_layers_that_are_more_than_their_weight_are_called():
    trie, model, batch = random_trie(), tiny_model(dtype=torch.float64), padded_batch([7, 3, 5])
    plain = beam_search(model, *batch, trie, 5).scores
    adapted = [name for name, _ in model.named_modules() if name.endswith((".q", ".v", ".wi", ".o", "lm_head"))]
    for name in adapted:
        model.get_submodule(name).__class__ = Adapted
    result = beam_search(model, *batch, trie, 5)
    expected = all_leaf_scores(model, *batch, trie).gather(1, result.leaves)
    torch.testing.assert_close(result.scores, expected, atol=1e-9, rtol=0)
    assert not torch.allclose(result.scores, plain)


def test_generation_config_with_beams_repeats_the_inputs():
    trie, model, batch = random_trie(), tiny_model(), padded_batch([7, 3, 5])
    expected = fast_generate(model, batch, trie, 4)
    model.generation_config.num_beams = model.generation_config.num_return_sequences = 4
    unnamed = model.generate(
        batch[0], attention_mask=batch[1], custom_generate=semantic_id_beam_search, trie=trie, max_new_tokens=3
    )
    assert torch.equal(unnamed, expected.sequences)


def test_called_directly():
    trie, model, batch = random_trie(), tiny_model(), padded_batch([7, 3, 5])
    settings = {"attention_mask": batch[1], "trie": trie, "num_beams": 4, "num_return_sequences": 4}
    out = semantic_id_beam_search(model, batch[0], return_dict_in_generate=True, **settings)
    expected = fast_generate(model, batch, trie, 4)
    assert torch.equal(out.sequences, expected.sequences)
    assert torch.equal(semantic_id_beam_search(model, batch[0], **settings), expected.sequences)


class Other(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"logits_processor": [Other()]}, r"logits_processor: expected none.*got \['Other'\].*plain generate"),
        ({"do_sample": True}, "do_sample: expected False"),
        ({"max_new_tokens": 2}, "max_new_tokens: expected at least the 3 codes of an ID, got 2"),
        ({"num_beams": 2, "num_return_sequences": 3}, r"from 1 to num_beams \(2\), got 3"),
        ({"num_beams": 0}, "num_beams: expected a whole number of at least 1, got 0"),
        ({"decoder_input_ids": torch.tensor([[0, 5], [0, 6]])}, r"decoder_input_ids: .* alone, got \[0, 5\]"),
    ],
)
def test_refuses_what_it_would_ignore(settings, message):
    trie, model, batch = random_trie(), tiny_model(), padded_batch([7, 3])
    settings = {"num_beams": 2, "num_return_sequences": 2, **settings}
    with pytest.raises(ValueError, match=message):
        model.generate(
            batch[0], attention_mask=batch[1], custom_generate=semantic_id_beam_search, trie=trie, **settings
        )


def test_takes_the_processor_of_the_same_trie():
    trie, model, batch = random_trie(), tiny_model(), padded_batch([7, 3])
    out = fast_generate(model, batch, trie, 4, logits_processor=[SemanticIdLogitsProcessor(trie)])
    assert torch.equal(out.sequences, fast_generate(model, batch, trie, 4).sequences)


def test_refuses_misfits():
    trie, model, batch = random_trie(), tiny_model(), padded_batch([7, 3])
    with pytest.raises(ValueError, match=r"trie: expected on the model's device \(cpu\), got meta"):
        beam_search(model, *batch, trie.to("meta"), 2)
    with pytest.raises(ValueError, match=r"below the model's vocab_size \(20\).*some up to 22.*same tokenizer"):
        beam_search(tiny_model(20), *batch, trie, 2)
    with pytest.raises(ValueError, match=r"unknown arguments \['alowed_items'\]"):
        semantic_id_beam_search(model, batch[0], trie=trie, alowed_items=None)
    model.generation_config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id: expected a token id"):
        beam_search(model, *batch, trie, 2)


@pytest.mark.parametrize("left", [(), tuple(range(0, 70, 2))])
def test_large_batches_are_decoded_in_parts(left):
    trie, model = random_trie(num_items=60), tiny_model(dtype=torch.float64)
    lengths = torch.randint(1, 12, (70,), generator=torch.Generator().manual_seed(0)).tolist()
    input_ids, attention_mask = padded_batch(lengths, left=left)
    excluded = torch.randint(-1, 60, (70, 4), generator=torch.Generator().manual_seed(1))
    result = beam_search(model, input_ids, attention_mask, trie, 9, excluded_items=excluded)
    for users in (slice(0, 20), slice(50, 70)):
        few = beam_search(model, input_ids[users], attention_mask[users], trie, 9, excluded_items=excluded[users])
        assert torch.equal(few.leaves, result.leaves[users])
        torch.testing.assert_close(few.scores, result.scores[users], atol=1e-9, rtol=0)
    states = model.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
    seen = attention_mask.bool()
    torch.testing.assert_close(result.encoder_hidden_states[seen], states[seen], atol=1e-9, rtol=0)
    again = beam_search(model, None, attention_mask, trie, 9, encoder_outputs=(states,), excluded_items=excluded)
    assert torch.equal(again.leaves, result.leaves)
    unmasked = beam_search(model, input_ids, None, trie, 9)
    assert torch.equal(unmasked.leaves[40], beam_search(model, input_ids[40:41], None, trie, 9).leaves[0])


def test_under_autocast():
    trie, model, batch = random_trie(), tiny_model(), padded_batch([7, 3, 5])
    expected = beam_search(model, *batch, trie, trie.num_leaves)
    with torch.autocast("cpu", torch.bfloat16):
        result = beam_search(model, *batch, trie, trie.num_leaves)
    torch.testing.assert_close(result.scores, expected.scores, atol=0.1, rtol=0)
    assert not torch.equal(result.scores, expected.scores)


def test_parts_are_smaller_for_long_histories():
    trie, model = random_trie(num_items=60), tiny_model(dtype=torch.float64)
    input_ids, attention_mask = padded_batch([300, 290, 2, 280, 1, 270, 3], left=(1, 4))
    result = beam_search(model, input_ids, attention_mask, trie, 9)
    for user in range(7):
        seen = attention_mask[user : user + 1].bool()
        alone = beam_search(model, input_ids[user : user + 1][seen].unsqueeze(0), None, trie, 9)
        assert torch.equal(alone.leaves[0], result.leaves[user])
        torch.testing.assert_close(alone.scores[0], result.scores[user], atol=1e-9, rtol=0)
