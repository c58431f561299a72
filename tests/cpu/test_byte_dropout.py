import pytest
import torch
from torch import nn

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.cpu import accelerate
from macrec_hf.cpu.byte_dropout import ByteDropout, use_byte_dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_keeps_the_mean_and_drops_the_rate(rate):
    torch.manual_seed(0)
    out = ByteDropout(rate)(torch.ones(400, 501))
    used = round(rate * 256) / 256
    assert (out == 0).double().mean() == pytest.approx(used, abs=0.005)
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - used)))
    # neighbours, which share a random number, fall independently
    pairs = ((out[:, :-1] == 0) & (out[:, 1:] == 0)).double().mean()
    assert pairs == pytest.approx(used**2, abs=0.005)


def test_the_gradient_passes_where_the_value_does():
    torch.manual_seed(0)
    hidden = torch.randn(7, 13, dtype=torch.float64, requires_grad=True)
    out = ByteDropout(0.3)(hidden)
    out.sum().backward()
    torch.testing.assert_close(hidden.grad, (out / hidden).detach())


def test_same_seed_same_mask_and_another_call_another_mask():
    dropout, ones = ByteDropout(0.5), torch.ones(64, 64)
    torch.manual_seed(3)
    first, second = dropout(ones), dropout(ones)
    torch.manual_seed(3)
    assert torch.equal(dropout(ones), first) and not torch.equal(first, second)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_nothing_and_everything(rate):
    ones = torch.ones(5, 3)
    assert torch.equal(ByteDropout(rate)(ones), ones * (1 - rate))


def test_a_small_rate_still_drops():
    torch.manual_seed(0)
    assert (ByteDropout(0.001)(torch.ones(300, 300)) == 0).double().mean() == pytest.approx(1 / 256, rel=0.2)


def test_eval_mode_changes_nothing():
    ones = torch.ones(5, 3)
    assert ByteDropout(0.5).eval()(ones) is ones


def test_replaces_every_dropout_of_a_model_and_no_weight():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.2), nn.ReLU()))
    names = list(model.state_dict())
    use_byte_dropout(model.eval())
    assert type(model[1][0]) is ByteDropout and model[1][0].p == 0.2 and not model[1][0].training
    assert list(model.state_dict()) == names


def test_the_recommender_has_it_and_its_attention_a_rate_of_its_own():
    sizes = dict(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_decoder_layers=1, num_heads=2)
    model = MacRecForConditionalGeneration(MacRecConfig(**sizes, dropout_rate=0.2, attention_dropout_rate=0.0))
    assert {type(module) for module in model.modules() if isinstance(module, nn.Dropout)} == {nn.Dropout}
    accelerate(model)
    assert {type(module) for module in model.modules() if isinstance(module, nn.Dropout)} == {ByteDropout}
    attentions = [module for module in model.modules() if type(module).__name__ == "T5Attention"]
    assert len(attentions) == 3 and {module.dropout for module in attentions} == {0.0}
    with pytest.raises(ValueError, match=r"attention_dropout_rate: expected a number in \[0, 1\)"):
        MacRecConfig(attention_dropout_rate=1.0)
