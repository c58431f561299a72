import copy

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.cpu import accelerate
from macrec_hf.cpu import attention as cpu_attention
from macrec_hf.cpu.byte_dropout import ByteDropout

SIZES = dict(
    vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, dropout_rate=0.0
)


MASKS = {
    "padding": torch.arange(9) < torch.tensor([9, 4, 1, 7, 9]).view(5, 1, 1, 1),
    "added": torch.randn(5, 1, 9, 9, dtype=torch.float64),
    "none": None,
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("given", MASKS)
def test_is_softmax_of_the_scores_times_the_mask_of_the_dropout(given, causal):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 5, 2, 9, 4, dtype=torch.float64).requires_grad_().unbind()
    bias = torch.randn(1, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    layer = T5Attention(MacRecConfig(**SIZES), layer_idx=0, is_causal=causal)
    torch.manual_seed(3)
    found, _ = cpu_attention.attention(layer, query, key, value, MASKS[given], 0.5, 1.0, bias)

    seen = torch.ones(9, 9).tril().bool() if causal and given == "none" else torch.ones(9, 9).bool()
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key) + bias
    if given == "added":
        scores = scores + MASKS[given]
    elif given == "padding":
        seen = MASKS[given]
    raised = scores.exp() * seen
    torch.manual_seed(3)
    kept = ByteDropout(0.5)(torch.ones(5, 2, 9, 9, dtype=torch.float64))
    assert 0.3 < (kept == 0).double().mean() < 0.7
    wanted = torch.einsum("bhqk,bhkd->bqhd", raised / raised.sum(-1, keepdim=True) * kept, value)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    change = torch.randn_like(found)
    inputs = (query, key, value, bias)
    for mine, other in zip(
        torch.autograd.grad(found, inputs, change), torch.autograd.grad(wanted, inputs, change), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("reference", ["eager", "sdpa"])
def test_without_dropout_the_model_is_transformers_own(mode, reference):
    torch.manual_seed(0)
    model = accelerate(getattr(MacRecForConditionalGeneration(MacRecConfig(**SIZES)).double(), mode)())
    other = copy.deepcopy(model)
    for module in other.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = reference
    inputs, labels = torch.randint(3, 40, (5, 9)), torch.randint(3, 40, (5, 4))
    mask = MASKS["padding"].view(5, 9).long()
    found, wanted = (each(input_ids=inputs, attention_mask=mask, labels=labels).logits for each in (model, other))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_weights_are_dropped_at_the_rate():
    torch.manual_seed(0)
    model = MacRecForConditionalGeneration(MacRecConfig(**SIZES))
    layer = model.encoder.block[0].layer[0].SelfAttention
    query = torch.zeros(64, 2, 50, 4)
    bias = torch.zeros(1, 2, 50, 50)
    # Equal weights of 1/50 over values of 1: what comes out is the share that stays, scaled.
    out, _ = cpu_attention.attention(layer, query, query, torch.ones_like(query), None, 0.25, 1.0, bias)
    assert out.shape == (64, 50, 2, 4)
    # A weight is 0 or 1/0.75 of its 1/50: the variance of their sum is 0.25/0.75/50.
    assert out.mean() == pytest.approx(1, abs=0.01) and out.std() == pytest.approx((0.25 / 0.75 / 50) ** 0.5, rel=0.05)


def test_every_part_of_the_model_attends_so_and_other_choices_stay():
    model = accelerate(MacRecForConditionalGeneration(MacRecConfig(**SIZES)))
    assert {module.config._attn_implementation for module in model.modules() if isinstance(module, T5Attention)} == {
        cpu_attention.NAME
    }
    assert isinstance(model.encoder.dropout, ByteDropout)
    eager = accelerate(MacRecForConditionalGeneration._from_config(MacRecConfig(**SIZES), attn_implementation="eager"))
    assert eager.config._attn_implementation == eager.encoder.config._attn_implementation == "eager"


def test_nothing_of_it_is_written_to_a_folder(tmp_path):
    accelerate(MacRecForConditionalGeneration(MacRecConfig(**SIZES))).save_pretrained(tmp_path)
    assert cpu_attention.NAME not in (tmp_path / "config.json").read_text()
    model = MacRecForConditionalGeneration.from_pretrained(tmp_path)
    assert model.decoder.config._attn_implementation == "sdpa"
