"""An accelerated model is the same model: names, weights, values, gradients; nothing happens before it is asked."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecQuantizer, MacRecQuantizerConfig
from macrec_hf.cpu import accelerate, accelerated
from macrec_hf.cpu import linear as cpu_linear
from macrec_hf.cpu.byte_dropout import ByteDropout
from macrec_hf.cpu.linear import onednn_pays
from macrec_hf.model.search_kernels import departure

SIZES = dict(vocab_size=80, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, num_levels=4)


def batch(rows=64):
    generator = torch.Generator().manual_seed(1)
    sources = torch.randint(3, 80, (rows, 9), generator=generator)
    mask = (torch.arange(9) < torch.randint(2, 10, (rows, 1), generator=generator)).long()
    return {"input_ids": sources, "attention_mask": mask, "labels": sources[:, :4].flip(0)}


@pytest.mark.parametrize("gated", [False, True])
def test_without_dropout_losses_and_gradients_are_transformers_own(gated):
    torch.manual_seed(0)
    config = MacRecConfig(**SIZES, dropout_rate=0.0, feed_forward_proj="gated-gelu" if gated else "relu")
    model = MacRecForConditionalGeneration(config).double()
    plain = T5ForConditionalGeneration(copy.deepcopy(config)).double()
    plain.load_state_dict(model.state_dict())
    found, wanted = accelerate(model.train())(**batch()).loss, plain.train()(**batch()).loss
    assert found.item() == pytest.approx(wanted.item(), abs=1e-7)
    found.backward()
    wanted.backward()
    for (name, mine), (_, other) in zip(model.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-7, msg=name)


def test_twice_is_once_and_the_names_stay():
    model = MacRecForConditionalGeneration(MacRecConfig(**SIZES))
    names = list(model.state_dict())
    accelerate(model)
    kinds = [type(module) for module in model.modules()]
    assert accelerate(model) is model
    assert [type(module) for module in model.modules()] == kinds and list(model.state_dict()) == names
    assert ByteDropout in kinds


@pytest.fixture
def held_back(monkeypatch):
    """As on a processor whose products MKL holds back, wherever oneDNN's can be had."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no linear map of oneDNN")
    monkeypatch.setattr(cpu_linear, "products_are_held_back", lambda: True)


def test_in_float32_what_is_replaced_computes_the_same(held_back, monkeypatch):
    """Products large enough for oneDNN, and dropout at a rate: the parts are called, and their results are used."""
    torch.manual_seed(0)
    sizes = SIZES | dict(d_model=64, d_ff=256)
    model = MacRecForConditionalGeneration(MacRecConfig(**sizes, dropout_rate=0.0)).train()
    plain, given = copy.deepcopy(model), batch(256)
    called = []
    product = cpu_linear.product_by_onednn
    monkeypatch.setattr(cpu_linear, "product_by_onednn", lambda *them: (called.append(1), product(*them))[1])
    found, wanted = accelerate(model)(**given), plain(**given)
    assert called
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    found.loss.backward()
    wanted.loss.backward()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_dropout_is_on_in_training_and_off_in_eval_mode():
    torch.manual_seed(0)
    model = MacRecForConditionalGeneration(MacRecConfig(**SIZES, dropout_rate=0.5)).eval()
    plain = model(**batch()).logits
    assert torch.allclose(accelerate(model)(**batch()).logits, plain, atol=1e-5)
    model.train()
    first, second = model(**batch()).logits, model(**batch()).logits
    assert not torch.equal(first, second) and first.isfinite().all()


def test_a_quantizer_encodes_as_before(held_back):
    torch.manual_seed(0)
    config = MacRecQuantizerConfig(modalities={"text": 96, "image": 64}, hidden_sizes=(128,), codebook_size=8)
    quantizer = MacRecQuantizer(config).eval()
    embeddings = {"text": torch.randn(400, 96), "image": torch.randn(400, 64)}
    before = {name: quantizer.encode_latents({name: rows})[name] for name, rows in embeddings.items()}
    accelerate(quantizer)
    assert onednn_pays(embeddings["text"], torch.empty(128, 96))
    for name, rows in embeddings.items():
        torch.testing.assert_close(quantizer.encode_latents({name: rows})[name], before[name], rtol=1e-4, atol=1e-5)


def test_it_can_be_taken_back_and_leaves_the_callers_configuration():
    config = MacRecConfig(**SIZES, dropout_rate=0.25)
    model = MacRecForConditionalGeneration(config).eval()
    before = [(type(module), module.training) for module in model.modules()]
    with accelerated(model):
        assert type(model.encoder.dropout) is ByteDropout and departure(model) is None
        other = MacRecForConditionalGeneration(config)  # of the same configuration object
        assert other.encoder.config._attn_implementation == "sdpa" and departure(other) is None
    assert [(type(module), module.training) for module in model.modules()] == before
    assert model.encoder.dropout.p == 0.25 and model.decoder.config._attn_implementation == "sdpa"
    assert "search_kernels" not in vars(model) and departure(model) is None
    accelerate(model)
    with accelerated(model):  # already: it stays
        pass
    assert type(model.encoder.dropout) is ByteDropout


@pytest.mark.parametrize("train", [False, True])
def test_an_accelerated_model_compiles_in_one_piece(train):
    torch.manual_seed(0)
    model = accelerate(MacRecForConditionalGeneration(MacRecConfig(**SIZES))).train(train)
    torch._dynamo.reset()
    given = batch(4)
    explained = torch._dynamo.explain(lambda: model(**given, use_cache=False).logits)()
    assert explained.graph_break_count == 0, explained.break_reasons


def test_nothing_is_patched_before_it_is_asked():
    script = """
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.models.t5 import modeling_t5
classes = [kind for kind in vars(modeling_t5).values() if isinstance(kind, type)] + [nn.Linear, nn.Dropout, nn.Module]
def state():
    registered = [dict(each().items()) for each in (AttentionInterface, AttentionMaskInterface)]
    methods = [{name: value for name, value in vars(kind).items() if callable(value)} for kind in classes]
    return methods, {name: value for name, value in vars(modeling_t5).items() if callable(value)}, registered
T5 = dict(vocab_size=8, d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=1)
modeling_t5.T5ForConditionalGeneration(modeling_t5.T5Config(**T5))  # transformers adds to nn.Module what it needs
before = state()
import macrec_hf
from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.model import beam_search, model_decoding, recommender
model = MacRecForConditionalGeneration(MacRecConfig())
assert state() == before
ours = {type(module) for module in model.modules() if type(module).__module__.startswith("macrec_hf")}
assert ours == {MacRecForConditionalGeneration}, ours
assert model.config._attn_implementation == "sdpa"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_hooks_and_adapters_on_layers_are_followed():
    model = accelerate(MacRecForConditionalGeneration(MacRecConfig(**SIZES))).eval()
    before = model(**batch()).logits
    for block in (model.encoder.block[0], model.decoder.block[1].layer[2], model.decoder.block[0].layer[1]):
        handle = block.register_forward_hook(
            lambda module, given, out: (out[0] * 1.5, *out[1:]) if isinstance(out, tuple) else out * 1.5
        )
        assert not torch.allclose(model(**batch()).logits, before)
        handle.remove()
    assert torch.equal(model(**batch()).logits, before)
    assert isinstance(model.encoder.block[0].layer[1].DenseReluDense.wi, nn.Linear)
