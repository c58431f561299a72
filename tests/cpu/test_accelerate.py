"""An accelerated model is the same model: names, weights, values, gradients; nothing happens before it is asked."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecQuantizer, MacRecQuantizerConfig
from macrec_hf.cpu import accelerate
from macrec_hf.cpu.byte_dropout import ByteDropout

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


def test_a_quantizer_encodes_as_before():
    torch.manual_seed(0)
    config = MacRecQuantizerConfig(modalities={"text": 6, "image": 5}, hidden_sizes=(16,), codebook_size=8)
    quantizer = MacRecQuantizer(config).eval()
    embeddings = {"text": torch.randn(200, 6), "image": torch.randn(200, 5)}
    before = quantizer.encode(embeddings)
    after = accelerate(quantizer).encode(embeddings)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_is_patched_before_it_is_asked():
    script = """
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.models.t5 import modeling_t5
before = dict(vars(modeling_t5)), dict(AttentionInterface().items())
import macrec_hf
from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.model import beam_search, recommender, scoring
model = MacRecForConditionalGeneration(MacRecConfig())
assert (dict(vars(modeling_t5)), dict(AttentionInterface().items())) == before
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
