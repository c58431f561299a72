"""A model accelerated for a GPU is the same model on any device: names, weights, values, gradients."""

import copy

import decoding_tools
import pytest
import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, MacRecQuantizer, MacRecQuantizerConfig
from macrec_hf.cpu import accelerate as accelerate_cpu
from macrec_hf.gpu import accelerate, restore
from macrec_hf.gpu.attention import JoinedAttention
from macrec_hf.gpu.norm import FusedNorm
from macrec_hf.model.beam_search import beam_search
from macrec_hf.model.search_kernels import ALIGNED, departure

SIZES = dict(vocab_size=80, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, num_levels=4)


def batch(rows=8, length=9, padded=True):
    generator = torch.Generator().manual_seed(1)
    sources = torch.randint(3, 80, (rows, length), generator=generator)
    lengths = torch.randint(2, length + 1, (rows, 1), generator=generator) if padded else torch.tensor([[length]])
    mask = (torch.arange(length) < lengths).expand(rows, -1).long()
    items = torch.randint(3, 80, (2, 5, 4), generator=generator)
    return {
        "input_ids": sources,
        "attention_mask": mask,
        "labels": sources[:, :4].flip(0),
        "alignment_input_ids": items,
    }


def two(dtype=torch.float64, **changed):
    """A plain model in training mode, and an accelerated copy."""
    torch.manual_seed(0)
    model = MacRecForConditionalGeneration(MacRecConfig(**SIZES | {"dropout_rate": 0.0} | changed)).to(dtype).train()
    return model, accelerate(copy.deepcopy(model))


def assert_same_step(plain, fast, given, tolerance):
    wanted, found = plain(**given), fast(**given)
    for name in ("loss", "generation_loss", "alignment_loss", "logits"):
        torch.testing.assert_close(found[name], wanted[name], rtol=tolerance, atol=tolerance)
    wanted.loss.backward()
    found.loss.backward()
    for (name, mine), other in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("length", [9, 16])
@pytest.mark.parametrize("gated", [False, True])
def test_losses_and_gradients_are_transformers_own(padded, length, gated):
    plain, fast = two(feed_forward_proj="gated-gelu" if gated else "relu")
    assert_same_step(plain, fast, batch(length=length, padded=padded), 1e-6)  # T5's variance is float32


def test_in_float32_norms_are_one_kernel_and_the_same():
    plain, fast = two(torch.float32)
    assert_same_step(plain, fast, batch(), 2e-5)


def test_in_bfloat16_it_is_no_further_from_float32_than_the_plain_model():
    exact, _ = two(torch.float32)
    plain, fast = (model.bfloat16().eval() for model in two(torch.float32))
    given = batch()
    with torch.no_grad():
        wanted = exact.eval()(**given).logits
        errors = [(model(**given).logits.float() - wanted).square().mean().sqrt() for model in (plain, fast)]
    assert 0 < errors[1] < 1.5 * errors[0]


def test_under_autocast_attention_is_in_half_precision_and_losses_are_in_float32():
    plain, fast = two(torch.float32)
    given, seen = batch(), []
    attention = fast.encoder.block[1].layer[0].SelfAttention
    attention.o.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted, found = plain(**given), fast(**given)
    assert seen == [torch.bfloat16] * 2 and found.alignment_loss.dtype == torch.float32
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=0.02)
    found.loss.backward()
    assert all(weight.grad.isfinite().all() and weight.grad.dtype == torch.float32 for weight in fast.parameters())


def test_its_parts_are_used_and_twice_is_once():
    _, model = two()
    names, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    assert {JoinedAttention, FusedNorm} <= set(kinds) and departure(model) is None
    assert accelerate(model) is model and [type(module) for module in model.modules()] == kinds
    assert names == list(two()[0].state_dict())


def test_it_can_be_taken_back_and_leaves_the_callers_configuration():
    config = MacRecConfig(**SIZES)
    model = MacRecForConditionalGeneration(config)
    before = [type(module) for module in model.modules()]
    accelerate(model)
    other = MacRecForConditionalGeneration(config)  # of the same configuration object
    assert other.encoder.config._attn_implementation == "sdpa" and departure(other) is None
    restore(model)
    assert [type(module) for module in model.modules()] == before and "search_kernels" not in vars(model)
    assert model.encoder.config._attn_implementation == "sdpa" and departure(model) is None
    kernels = accelerate_cpu(model).search_kernels
    assert restore(model).search_kernels is kernels  # another room's are not its own to take


def test_a_quantizer_stays_as_it_is():
    model = MacRecQuantizer(MacRecQuantizerConfig(modalities={"text": 6, "image": 4}, codebook_size=8))
    before = [type(module) for module in model.modules()]
    assert [type(module) for module in accelerate(model).modules()] == before


def test_hooks_and_adapters_on_projections_are_followed():
    _, model = two()
    given = batch()
    before = model(**given).logits
    for module in (model.encoder.block[1].layer[0].SelfAttention.v, model.decoder.block[0].layer[1].EncDecAttention.k):
        handle = module.register_forward_hook(lambda module, inputs, out: out * 1.5)
        changed = model(**given).logits
        handle.remove()
        assert not torch.allclose(changed, before)
    torch.testing.assert_close(model(**given).logits, before)
    attention = model.encoder.block[0].layer[0].SelfAttention
    attention.q = nn.Sequential(attention.q)  # what an adapter does: a module of another class in its place
    torch.testing.assert_close(model(**given).logits, before)
    watched = []
    attention.k.register_full_backward_hook(lambda *them: watched.append(1))
    model(**given).loss.backward()
    assert watched


def test_a_hook_on_every_module_is_followed():
    _, model = two()
    called = set()
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: called.add(module))
    try:
        model(**batch())
    finally:
        hook.remove()
    assert model.decoder.block[1].layer[0].SelfAttention.k in called


def test_eager_attention_and_checkpointing_stay_transformers_own():
    torch.manual_seed(0)
    config = MacRecConfig(**SIZES, attn_implementation="eager")
    eager = accelerate(MacRecForConditionalGeneration(config).eval())
    out = eager(**batch(), output_attentions=True)
    assert out.encoder_attentions[0].shape == (8, 2, 9, 9)
    plain, fast = two()
    fast.activation_checkpointing_enable()
    assert_same_step(plain, fast, batch(), 1e-6)


def test_generate_with_its_cache_writes_the_same():
    plain, fast = (model.eval() for model in two())
    given = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    written = [model.generate(**given, num_beams=3, num_return_sequences=3) for model in (plain, fast)]
    assert torch.equal(*written)


def test_a_left_padded_and_an_empty_history_stay_finite():
    plain, fast = two()
    given = batch()
    given["attention_mask"] = given["attention_mask"].flip(1)
    given["attention_mask"][2] = 0
    torch.testing.assert_close(fast(**given).logits, plain(**given).logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_it_compiles_in_one_piece(train):
    _, model = two()
    torch._dynamo.reset()
    explained = torch._dynamo.explain(model.train(train))(**batch())
    assert explained.graph_count == 1 and explained.graph_break_count == 0, explained.break_reasons
    torch._dynamo.reset()


def test_buckets_made_in_a_decoding_serve_a_training():
    _, model = two()
    given = batch(length=11)
    with torch.inference_mode():
        model.eval()(**given)
    model.train()(**given).loss.backward()


def test_weights_go_to_plain_t5_and_back(tmp_path):
    _, model = two(torch.float32)
    model.save_pretrained(tmp_path / "ours")
    assert "sdpa_joined" not in (tmp_path / "ours" / "config.json").read_text()
    plain, report = T5ForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    given = {name: batch()[name] for name in ("input_ids", "attention_mask", "labels")}
    torch.testing.assert_close(plain.eval()(**given).logits, model.eval()(**given).logits, rtol=1e-5, atol=1e-5)
    plain.save_pretrained(tmp_path / "plain")
    config = MacRecConfig(**SIZES)
    again = MacRecForConditionalGeneration.from_pretrained(tmp_path / "plain", config=config)
    for name, weight in again.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


@pytest.mark.parametrize("length", [9, 16, 28, 96])
def test_attention_reads_masks_where_they_lie(length, monkeypatch):
    """Rows of adjoining numbers that are aligned; for others a GPU's kernel copies, or torch multiplies matrices."""
    attention, seen = nn.functional.scaled_dot_product_attention, []

    def watched(*given, attn_mask=None, **named):
        if attn_mask is not None:
            seen.append(attn_mask)
        return attention(*given, attn_mask=attn_mask, **named)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    _, model = two(torch.float32)
    model(**batch(length=length))
    trie = decoding_tools.random_trie().to("meta")
    tokens = torch.zeros(8, length, dtype=torch.long, device="meta")
    beam_search(model.to("meta"), tokens, torch.ones_like(tokens), trie, 20)
    of_users = [mask for mask in seen if len(mask) > 1 and mask.shape[-2] > 1]  # others are small
    assert len(of_users) > 10 and {mask.stride(-1) for mask in seen} == {1}
    assert not any(mask.stride(-2) % ALIGNED for mask in of_users)
