import itertools
import math

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5ForConditionalGeneration

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration

TINY = dict(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=2, num_levels=3)


def make_model(seed=0, **changes) -> MacRecForConditionalGeneration:
    torch.manual_seed(seed)
    return MacRecForConditionalGeneration(MacRecConfig(**(TINY | changes))).double().eval()


def make_batch(batch_size=4, num_modalities=2, num_items=3):
    generator = torch.Generator().manual_seed(1)
    draw = {"generator": generator}
    input_ids = torch.randint(3, 40, (batch_size, 7), **draw)
    attention_mask = torch.ones_like(input_ids)
    input_ids[0, 5:], attention_mask[0, 5:] = 0, 0
    labels = torch.randint(3, 40, (batch_size, 3), **draw)
    return input_ids, attention_mask, labels, torch.randint(3, 40, (num_modalities, num_items, 3), **draw)


def call(model, input_ids, attention_mask, labels, alignment_input_ids=None):
    return model(input_ids, attention_mask, labels=labels, alignment_input_ids=alignment_input_ids)


def train_on_histories(model, steps, rate, length, labels_of):
    """The loss of each step on random histories of items of one code, whose next item `labels_of` chooses."""
    model.float().train()
    optimizer = torch.optim.Adam(model.parameters(), rate)
    generator = torch.Generator().manual_seed(2)
    losses = []
    for _ in range(steps):
        history = torch.randint(10, 40, (64, length), generator=generator)
        ids = torch.cat([history, torch.ones(64, 1, dtype=torch.long)], dim=1)
        optimizer.zero_grad()
        losses.append(model(ids, labels=labels_of(history, generator)).loss)
        losses[-1].backward()
        optimizer.step()
    return torch.stack(losses).detach()


def reference_alignment(model, ids, temperature):
    """Eq. 14-18, one item and one encoder pass at a time."""
    pooled = [[model.encoder(item[None])[0][0].mean(dim=0) if item.all() else None for item in rows] for rows in ids]
    total = 0.0
    for a, b in itertools.permutations(range(len(ids)), 2):
        both = [i for i in range(ids.shape[1]) if pooled[a][i] is not None and pooled[b][i] is not None]
        for i in both:
            scores = torch.stack(
                [torch.cosine_similarity(pooled[a][i], pooled[b][j], dim=0) / temperature for j in both]
            )
            total -= (scores[both.index(i)] - scores.logsumexp(0)) / len(both)
    return total


@pytest.mark.parametrize("num_modalities", [2, 3])
def test_loss_and_its_parts(num_modalities):
    model = make_model(implicit_alignment_weight=0.3)
    input_ids, mask, labels, items = make_batch(num_modalities=num_modalities)
    items[1, 2] = 0  # no ID there
    out = call(model, input_ids, mask, labels, items)
    plain = T5ForConditionalGeneration.forward(model, input_ids=input_ids, attention_mask=mask, labels=labels)
    log_probs = plain.logits.log_softmax(-1).gather(-1, labels[..., None])
    torch.testing.assert_close(out.generation_loss, -log_probs.mean())  # mean over users and levels
    torch.testing.assert_close(out.alignment_loss, reference_alignment(model, items, 0.1), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(out.loss, out.generation_loss + 0.3 * out.alignment_loss)


def test_alignment_needs_its_items_and_its_weight():
    input_ids, mask, labels, items = make_batch()
    out = call(make_model(), input_ids, mask, labels)
    assert out.alignment_loss is None and torch.equal(out.loss, out.generation_loss)
    assert call(make_model(implicit_alignment_weight=0.0), input_ids, mask, labels, items).alignment_loss is None


def test_alignment_trains_the_encoder_only():
    model = make_model()
    model.implicit_alignment_loss(make_batch()[3]).backward()
    assert all(
        weight.grad.abs().sum() > 0 for name, weight in model.encoder.named_parameters() if "relative" not in name
    )
    assert all(w.grad is None for n, w in model.decoder.named_parameters() if "embed_tokens" not in n)


def test_labels_are_named_because_t5_takes_something_else_there():
    with pytest.raises(TypeError, match="positional arguments"):
        make_model()(*make_batch()[:3])


def test_wrong_alignment_shape_is_named():
    with pytest.raises(ValueError, match=r"expected shape \(num_modalities, num_items, num_levels\)"):
        call(make_model(), *make_batch()[:3], torch.ones(2, 3, dtype=torch.long))


def test_every_parameter_changes_and_comes_back(tmp_path):
    model = make_model().float().train()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        call(model, *make_batch()).loss.backward()
        optimizer.step()
    assert all(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
    model.eval().save_pretrained(tmp_path)
    loaded, info = MacRecForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    batch = make_batch()
    assert torch.equal(call(loaded, *batch).logits, call(model, *batch).logits)
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained(tmp_path), MacRecForConditionalGeneration)
    generation = loaded.generation_config
    assert (generation.max_new_tokens, generation.length_penalty, generation.decoder_start_token_id) == (3, 0.0, 0)


def test_reordering_the_self_attention_alone_changes_no_beam():
    model = make_model()
    input_ids, mask, *_ = make_batch()
    settings = dict(num_beams=6, num_return_sequences=6, return_dict_in_generate=True, output_scores=True)
    ours = model.generate(input_ids, attention_mask=mask, **settings)
    plain = T5ForConditionalGeneration(model.config).double().eval()
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    theirs = plain.generate(input_ids, attention_mask=mask, **settings)
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores)


def test_defaults_are_the_papers_size():
    config = MacRecConfig()
    assert (config.num_layers, config.num_decoder_layers, config.num_heads, config.d_kv) == (4, 4, 6, 64)
    assert (config.implicit_alignment_weight, config.alignment_temperature) == (0.01, 0.1)
    assert MacRecForConditionalGeneration.accepts_loss_kwargs is False


def test_history_dropout_leaves_out_whole_items_and_nothing_else():
    model = make_model(history_dropout_rate=0.5)
    input_ids = torch.tensor(
        [
            [5, 6, 7, 8, 9, 10, 11, 12, 13, 1, 0],  # three items
            [3, 5, 6, 7, 8, 9, 10, 1, 0, 0, 0],  # a task token, two items
            [4, 5, 6, 7, 1, 0, 0, 0, 0, 0, 0],  # a task token, one item, which is never left out
        ]
    )
    mask = (input_ids != 0).long()
    torch.manual_seed(0)
    draws = torch.stack([model._history_dropout(input_ids, mask) for _ in range(2000)])
    always = [[9], [0, 7], [0, 1, 2, 3, 4]]
    items = [[(0, 3), (3, 6), (6, 9)], [(1, 4), (4, 7)], []]
    for row, (stay, spans) in enumerate(zip(always, items, strict=True)):
        assert draws[:, row, stay].all()
        assert not draws[:, row, int(mask[row].sum()) :].any()
        for start, stop in spans:
            kept = draws[:, row, start:stop]
            assert torch.equal(kept.amin(-1), kept.amax(-1))
            assert kept.float().mean().item() == pytest.approx(0.5, abs=0.05)
    pairs = draws[:, 0, 0] * draws[:, 0, 3]  # items fall independently
    assert pairs.float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_history_dropout_is_for_training_alone():
    input_ids, mask, labels, _ = make_batch()
    plain, model = make_model(), make_model(history_dropout_rate=0.9)
    torch.testing.assert_close(call(model, input_ids, mask, labels).loss, call(plain, input_ids, mask, labels).loss)
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(call(model, input_ids, mask, labels).loss, call(plain, input_ids, mask, labels).loss)
    with pytest.raises(ValueError, match=r"history_dropout_rate: expected a number in \[0, 1\)"):
        MacRecConfig(history_dropout_rate=1.0)
    with pytest.raises(ValueError, match="0 where num_levels is 1"):
        MacRecConfig(history_dropout_rate=0.1, num_levels=1)


def test_a_code_is_told_how_many_items_before_the_end_it_stands():
    encoder = make_model(num_item_positions=3).encoder
    rows = [  # </s> is 1, padding 0; items of three codes
        [7, 8, 9, 4, 5, 6, 1, 0],
        [0, 7, 8, 9, 4, 5, 6, 1],
        [3, 7, 8, 9, 4, 5, 6, 1],  # a task token before them
        [0, 0, 0, 0, 0, 7, 8, 9],  # an item by itself, as the alignment loss reads it
        [7, 8, 9, 0, 0, 0, 0, 0],
    ]
    places = [
        [2, 2, 2, 1, 1, 1, 0, 0],
        [3, 2, 2, 2, 1, 1, 1, 0],
        [3, 2, 2, 2, 1, 1, 1, 0],
        [3, 3, 2, 2, 2, 1, 1, 1],
        [1, 1, 1, 0, 0, 0, 0, 0],
    ]
    ids = torch.tensor(rows)
    assert encoder.positions_of(ids).tolist() == places
    long = torch.tensor([[9] * 30 + [1]])
    assert encoder.positions_of(long).tolist() == [[3] * 24 + [2] * 3 + [1] * 3 + [0]]
    expected = encoder.embed_tokens.weight[ids] + encoder.item_positions.weight[torch.tensor(places)]
    torch.testing.assert_close(encoder.embedded(ids), expected)
    by_embeddings = encoder(inputs_embeds=expected)[0]
    torch.testing.assert_close(encoder(input_ids=ids)[0], by_embeddings)


def test_without_item_positions_the_weights_are_t5s():
    plain, told = make_model(), make_model(num_item_positions=3)
    assert set(plain.state_dict()) == set(T5ForConditionalGeneration(plain.config).state_dict())
    assert set(told.state_dict()) - set(plain.state_dict()) == {"encoder.item_positions.weight"}
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, told.state_dict()[name]), name
    assert told.encoder.embed_tokens.weight is told.shared.weight  # tied, as T5's


def test_item_positions_are_saved_and_loaded(tmp_path):
    model = make_model(num_item_positions=3)
    model.save_pretrained(tmp_path)
    loaded = MacRecForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64).eval()
    batch = make_batch()
    torch.testing.assert_close(call(loaded, *batch).loss, call(model, *batch).loss)


def test_the_last_item_is_found_soon_where_it_decides():
    """The next item depends on the last alone, which T5's cross-attention, without any places, finds late."""
    found = {}
    for positions in (0, 6):
        model = make_model(num_item_positions=positions, dropout_rate=0.0, num_levels=1)
        losses = train_on_histories(model, 150, 3e-3, 6, lambda history, _: 10 + (history[:, -1:] * 7) % 30)
        found[positions] = losses[-1].item()
    assert found[6] < 0.5 < 1.2 < found[0], found


@pytest.mark.parametrize("heads", [1, 2, 3])  # narrower than d_model, as wide, wider
def test_cross_attention_that_copies_adds_what_it_reads(heads):
    plain, copying = make_model(num_heads=heads), make_model(num_heads=heads, copy_initializer_factor=3.0)
    for block in copying.decoder.block:
        attention = block.layer[1].EncDecAttention
        both = attention.o.weight @ attention.v.weight / 3  # identity, or a projection on as much as the heads hold
        torch.testing.assert_close(both @ both, both, rtol=0, atol=1e-6)
        torch.testing.assert_close(both.trace().item(), float(min(8 * heads, 16)), rtol=0, atol=1e-5)
    theirs = dict(copying.named_parameters())
    assert {name: weight.shape for name, weight in plain.named_parameters()} == {
        name: weight.shape for name, weight in theirs.items()
    }
    drawn = {name: weight.std().item() for name, weight in plain.named_parameters() if weight.numel() > 100}
    others = [name for name in drawn if "EncDecAttention.v" not in name and "EncDecAttention.o" not in name]
    assert len(others) > 10
    assert all(theirs[name].std().item() == pytest.approx(drawn[name], rel=0.4) for name in others)


def test_weights_that_are_loaded_stay_as_they_are_where_cross_attention_began_as_a_copy(tmp_path):
    model = make_model(copy_initializer_factor=3.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(5))
    model.save_pretrained(tmp_path)
    loaded = MacRecForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.config.copy_initializer_factor == 3.0
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name


def test_what_was_bought_before_is_found_soon_where_it_is_bought_again():
    """The next item is one of the history, which T5's random matrices find late."""

    def one_of_the_history(history, generator):
        return history.gather(1, torch.randint(3, (64, 1), generator=generator))

    found = {}
    for factor in (0.0, 4.0):
        model = make_model(copy_initializer_factor=factor, dropout_rate=0.0, num_levels=1)
        losses = train_on_histories(model, 120, 1e-2, 3, one_of_the_history)
        found[factor] = losses[-20:].mean().item()
    assert math.log(3) < found[4.0] < found[0.0] - 0.2, found
