import pytest
import torch

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.cpu import accelerate, has_bf16_units
from macrec_hf.model.losses import alignment_loss


@pytest.mark.parametrize(
    "known, wanted",
    [({"avx512_bf16": True, "amx_bf16": False}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_which_processors(monkeypatch, known, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known)
    assert has_bf16_units() is wanted


def test_similarities_are_compared_in_float32_under_autocast():
    first, second = torch.randn(2, 40, 16, generator=torch.Generator().manual_seed(0)).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        found = alignment_loss(first, second, 0.1)
    assert torch.equal(found, alignment_loss(first, second, 0.1))
    rounded = alignment_loss(first.bfloat16(), second.bfloat16(), 0.1)
    assert rounded.dtype == torch.float32 and rounded == pytest.approx(float(found), rel=0.02)


def learned(autocast: bool) -> tuple[float, float]:
    """First and last loss of a small model that learns 64 pairs by heart."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=60, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, num_levels=3)
    model = accelerate(MacRecForConditionalGeneration(MacRecConfig(**sizes, dropout_rate=0.1))).train()
    sources, labels = torch.randint(3, 60, (64, 7)), torch.randint(3, 60, (64, 3))
    items = torch.randint(3, 60, (2, 20, 3))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(150):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(sources, torch.ones_like(sources), labels=labels, alignment_input_ids=items).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[0], sum(losses[-10:]) / 10


def test_bf16_autocast_learns_as_well():
    (start, end), (half_start, half_end) = learned(False), learned(True)
    assert half_start == pytest.approx(start, rel=0.02)
    assert end < 0.5 * start and half_end == pytest.approx(end, rel=0.1)
