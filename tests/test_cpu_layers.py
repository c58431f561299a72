import copy

import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5 import modeling_t5

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, cpu_layers, cpu_linear
from macrec_hf.cpu_layers import CpuCrossAttention, CpuFeedForward, CpuSelfAttention, use_cpu_layers

SIZES = dict(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=3)
OURS = {CpuFeedForward, CpuSelfAttention, CpuCrossAttention}
ENCODED = {"FeedForwardBackward", "JoinedAttentionBackward"}
ANY = ENCODED | {"SelfAttentionBackward"}
WIDE = dict(d_model=24)  # more than twice d_kv


def recommender(dropout_rate=0.0, **sizes):
    torch.manual_seed(0)
    model = MacRecForConditionalGeneration(MacRecConfig(**{**SIZES, **sizes}, dropout_rate=dropout_rate))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.uniform_(0.5, 1.5)
    return model.train()


def transformers_own(model):
    other = copy.deepcopy(model)
    for module in other.modules():
        if type(module) in OURS:
            module.__class__ = type(module).__base__
    return other


def batch(padded=True):
    torch.manual_seed(1)
    inputs, labels, aligned = (torch.randint(3, 40, shape) for shape in ((7, 9), (7, 4), (2, 5, 4)))
    lengths = [9, 4, 1, 7, 9, 2, 3] if padded else [9] * 7
    mask = (torch.arange(9) < torch.tensor(lengths).view(-1, 1)).long()
    return dict(input_ids=inputs, attention_mask=mask, labels=labels, alignment_input_ids=aligned)


def functions_behind(tensor):
    """Names of the autograd functions that a tensor came from."""
    found, left = set(), [tensor.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [before for before, _ in node.next_functions]
    return {node.name() for node in found}


def encoded(model, **kwargs):
    return model.encoder(input_ids=batch()["input_ids"], **kwargs).last_hidden_state


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-7), (torch.float32, 1e-4)])
@pytest.mark.parametrize("attention", ["joined", "too wide", "too long"])
@pytest.mark.parametrize("held_back", [False, True])
def test_values_and_gradients_are_transformers_own(held_back, attention, dtype, tolerance, padded, mode, monkeypatch):
    monkeypatch.setattr(cpu_linear, "products_are_held_back", lambda: held_back)
    if attention == "too long":
        monkeypatch.setattr(cpu_layers, "_SHORT", 3)
    model = getattr(recommender(**(WIDE if attention == "too wide" else {})).to(dtype), mode)()
    other = transformers_own(model)
    found, wanted = (each(**batch(padded)) for each in (model, other))
    behind = ANY & functions_behind(found.loss)
    if attention == "too long":  # for itself; not for the source
        assert behind == ANY
    else:
        assert behind == (ENCODED if attention == "joined" else ANY - {"JoinedAttentionBackward"})
    assert not ANY & functions_behind(wanted.loss)
    value_tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=value_tolerance)
    torch.testing.assert_close(found.loss, wanted.loss, rtol=0, atol=value_tolerance)
    for each in (found, wanted):
        each.loss.backward()
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert mine.grad.abs().max() > 0, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("size", [16, 24])
def test_a_mask_of_its_own_for_each_query_and_one_to_add(size):
    model = recommender(d_model=size).double()
    other = transformers_own(model)
    mask = torch.rand(7, 1, 9, 9) < 0.7
    mask[..., 0] = True
    hidden, bias = torch.randn(7, 9, size, dtype=torch.float64), torch.randn(1, 3, 9, 9, dtype=torch.float64)
    added = torch.randn(7, 3, 9, 9, dtype=torch.float64)
    for given in (mask, added, added[:1, :, :1]):
        found, wanted = (each.encoder.block[1].layer[0](hidden, given, bias)[0] for each in (model, other))
        assert ("JoinedAttentionBackward" if size == 16 else "SelfAttentionBackward") in functions_behind(found)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    source = torch.randn(7, 6, size, dtype=torch.float64)
    seen = torch.rand(7, 1, 9, 6) < 0.7
    seen[..., 0] = True
    for queries in (3, 9):  # 9 are too many for it to be less arithmetic
        arguments = hidden[:, :queries], source, seen[:, :, :queries]
        found, wanted = (each.decoder.block[0].layer[1](*arguments) for each in (model, other))
        torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-12)
        assert not found[1].any() and found[1].shape == (1, 3, queries, 6)


def test_dropout_drops_in_every_place_and_follows_the_seed():
    def loss(seed, **sizes):
        model, inputs = recommender(**sizes), batch()
        torch.manual_seed(seed)
        out = model(**inputs).loss
        out.backward()
        return torch.cat([out.detach().view(1), *(weight.grad.flatten() for weight in model.parameters())])

    none, one = loss(0), loss(0, dropout_rate=0.2)
    assert torch.equal(one, loss(0, dropout_rate=0.2))
    attention_alone = loss(0, attention_dropout_rate=0.2)
    without_attention = loss(0, dropout_rate=0.2, attention_dropout_rate=0.0)
    results = [none, one, loss(1, dropout_rate=0.2), attention_alone, without_attention]
    assert len({float(result[0]) for result in results}) == len(results)


def test_the_mean_over_dropout_is_what_comes_without():
    torch.manual_seed(0)
    model = recommender(0.1)
    hidden = torch.randn(1, 9, 16).expand(20_000, -1, -1)
    layer = model.encoder.block[0].layer[1]
    out = layer(hidden)
    assert "FeedForwardBackward" in functions_behind(out) and out.std(0).min() > 0
    torch.testing.assert_close(out.mean(0), layer.eval()(hidden[:1])[0], rtol=0, atol=0.05)


def test_only_where_the_layer_is_t5s_and_the_cpu_computes_gradients():
    model = recommender()
    assert ENCODED <= functions_behind(encoded(model))
    with torch.no_grad():
        assert encoded(model).grad_fn is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not ANY & functions_behind(encoded(model))
    assert not ANY & functions_behind(encoded(recommender().bfloat16()))
    gated = recommender(feed_forward_proj="gated-gelu")
    assert ANY & functions_behind(encoded(gated)) == {"JoinedAttentionBackward"}
    eager = MacRecForConditionalGeneration._from_config(MacRecConfig(**SIZES), attn_implementation="eager")
    assert ANY & functions_behind(encoded(eager)) == {"FeedForwardBackward"}
    out = eager(**batch(), output_attentions=True)
    assert out.encoder_attentions[0].shape == (7, 3, 9, 9) and out.cross_attentions[1].shape == (7, 3, 4, 9)


def test_adapters_and_hooks_on_a_layers_parts_are_heard():
    class Adapted(nn.Linear):
        def forward(self, hidden):
            return super().forward(hidden) * 0

    model, heard = recommender(), []
    block = model.encoder.block[0]
    block.layer[0].SelfAttention.q.register_forward_hook(lambda *call: heard.append("q"))
    block.layer[1].DenseReluDense.dropout.register_forward_pre_hook(lambda *call: heard.append("dropout"))
    model.decoder.block[0].layer[1].EncDecAttention.o.register_forward_hook(lambda *call: heard.append("o"))
    model(**batch())
    assert sorted(set(heard)) == ["dropout", "o", "q"]
    model = recommender()
    hidden = torch.randn(7, 9, 16)
    without = model.encoder.block[1].layer[1]
    wanted = without(hidden)
    without.DenseReluDense.dropout = nn.Identity()
    assert not ANY & functions_behind(without(hidden))
    torch.testing.assert_close(without(hidden), wanted)
    model.encoder.block[0].layer[1].DenseReluDense.wo.__class__ = Adapted
    torch.testing.assert_close(model.encoder.block[0].layer[1](hidden), hidden)


def test_a_cache_still_is_filled():
    model = recommender()
    inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    out = model(**inputs, decoder_input_ids=batch()["labels"], use_cache=True)
    assert out.past_key_values.get_seq_length() == 4
    assert model(**batch()).past_key_values is None
    assert model(**batch(), use_cache=True).past_key_values.get_seq_length() == 4


def test_gradient_checkpointing_gives_the_same_gradients():
    model, inputs = recommender(0.2), batch()
    gradients = []
    for checkpointed in (False, True):
        model.zero_grad()
        if checkpointed:
            model.activation_checkpointing_enable()
        torch.manual_seed(5)
        model(**inputs).loss.backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-5, atol=1e-6)


def test_every_layer_of_a_t5_and_no_weight():
    model = T5ForConditionalGeneration(T5Config(**SIZES))
    names = list(model.state_dict())
    use_cpu_layers(model)
    kinds = {type(layer) for stack in (model.encoder, model.decoder) for block in stack.block for layer in block.layer}
    assert kinds == OURS and list(model.state_dict()) == names
    assert isinstance(model.encoder.block[0].layer[1], modeling_t5.T5LayerFF)
