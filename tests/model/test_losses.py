import math

import pytest
import torch

from macrec_hf.model.losses import (
    alignment_loss,
    contrastive_loss,
    draw_positives,
    info_nce,
    quantization_loss,
    reconstruction_loss,
)


def test_positives_share_the_label_and_are_never_the_item_itself():
    labels = torch.randint(0, 40, (200,), generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(labels, minlength=40)
    for seed in range(20):
        positives = draw_positives(labels, torch.Generator().manual_seed(seed))
        assert torch.equal(labels[positives], labels)
        alone = counts[labels] == 1
        assert torch.equal(positives == torch.arange(200), alone)


def test_positives_are_uniform_over_the_other_members():
    labels = torch.tensor([3, 1, 3, 3, 1, 9, 3])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([draw_positives(labels, generator) for _ in range(6000)])
    for item, mates in {0: [2, 3, 6], 3: [0, 2, 6], 1: [4], 5: [5]}.items():
        shares = torch.bincount(drawn[:, item], minlength=7) / 6000
        for mate in range(7):
            # three mates: 1/3 each; standard deviation of the share 0.006
            assert shares[mate] == pytest.approx(1 / len(mates) if mate in mates else 0.0, abs=0.03)


def test_info_nce_by_hand():
    # scores of the first anchor: 1, 0 at τ = 0.5 → 2, 0; −log(e² / (e² + 1)) = log(1 + e⁻²); of the second,
    # whose target is 0 too: 0, 2; −log(1 / (1 + e²)) = log(1 + e²).
    anchors = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    candidates = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert float(info_nce(anchors, candidates, torch.tensor([0, 0]), 0.5)) == pytest.approx(expected, rel=1e-6)
    # raw inner products at τ = 2: first 5, 0; second 0, 1.5
    expected = (math.log(1 + math.exp(-5)) + math.log(1 + math.exp(1.5))) / 2
    raw = info_nce(anchors, candidates, torch.tensor([0, 0]), 2.0, normalize=False)
    assert float(raw) == pytest.approx(expected, rel=1e-6)


def test_contrastive_loss_keeps_the_item_itself_in_the_denominator():
    # Three orthogonal residuals, positives 1, 0, 2 at τ = 1: for items 0 and 1 the scores are 1 (itself), 0, 0 and the
    # positive scores 0: log(e + 2); item 2 is its own positive: log(e + 2) − 1.
    expected = math.log(math.e + 2) - 1 / 3
    value = contrastive_loss(torch.eye(3), torch.tensor([1, 0, 2]), 1.0)
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_alignment_loss_is_both_directions():
    # Identical orthogonal pairs: each direction −log(e / (e + 1)).
    assert float(alignment_loss(torch.eye(2), 3 * torch.eye(2), 1.0)) == pytest.approx(2 * math.log(1 + math.exp(-1)))


def test_reconstruction_and_quantization_by_hand():
    # errors 1 and 3 over 2 × 2 numbers: (1 + 9) / 4
    assert float(reconstruction_loss(torch.tensor([[1.0, 0], [0, 3]]), torch.zeros(2, 2))) == pytest.approx(2.5)
    # two levels, one item, two dimensions: (4 / 2 + 16 / 2) · 1.25
    residuals, words = torch.tensor([[[2.0, 0]], [[0, 4.0]]]), torch.zeros(2, 1, 2)
    assert float(quantization_loss(residuals, words, 0.25)) == pytest.approx(12.5)


def test_empty_batches_are_zero_and_differentiable():
    empty = torch.zeros(0, 4, requires_grad=True)
    total = info_nce(empty, empty, torch.zeros(0, dtype=torch.long), 0.1) + reconstruction_loss(
        empty, torch.zeros(0, 4)
    )
    total = total + quantization_loss(empty[None], empty[None], 0.25)
    total.backward()
    assert float(total) == 0.0


def test_rows_that_are_hardly_there_are_no_anchor_no_positive_and_no_negative():
    torch.manual_seed(0)
    long = torch.randn(6, 4, dtype=torch.float64)
    positives = torch.tensor([1, 0, 3, 2, 5, 4])
    expected = contrastive_loss(long, positives, 0.3)
    short = 1e-5 * torch.randn(3, 4, dtype=torch.float64)
    rows = torch.cat([short[:1], long[:2], short[1:], long[2:]])
    places = torch.tensor([1, 2, 5, 6, 7, 8])  # of the long ones
    targets = torch.zeros(9, dtype=torch.long)
    targets[places] = places[positives]
    torch.testing.assert_close(contrastive_loss(rows, targets, 0.3), expected)
    # And by hand: cosines of the long ones alone.
    units = long / long.norm(dim=1, keepdim=True)
    chances = torch.softmax(units @ units.T / 0.3, dim=1)[torch.arange(6), positives]
    torch.testing.assert_close(expected, -chances.log().mean())


@pytest.mark.parametrize("lengths", [(1.0, 0.0, 1e-9), (0.0, 0.0, 1e-9)])
def test_rows_that_are_hardly_there_have_no_gradient_and_leave_that_of_the_others_small(lengths):
    torch.manual_seed(0)
    rows = torch.randn(12, 4) * torch.tensor(lengths).repeat(4)[:, None]
    rows.requires_grad_()
    loss = contrastive_loss(rows, torch.arange(12).roll(3), 0.1)
    loss.backward()
    there = torch.tensor(lengths).repeat(4) > 1e-4
    assert torch.isfinite(loss) and torch.isfinite(rows.grad).all() and rows.grad.abs().max() < 100
    assert (rows.grad[~there] == 0).all() and bool((rows.grad[there] != 0).any()) == bool(there.any())


def test_a_row_that_is_nan_is_not_hidden():
    rows = torch.randn(4, 3)
    rows[2] = math.nan
    assert math.isnan(contrastive_loss(rows, torch.arange(4), 0.1))


def test_losses_are_float32_under_autocast():
    torch.manual_seed(0)
    anchors, candidates = torch.randn(7, 5), torch.randn(9, 5)
    targets = torch.arange(7)
    expected = info_nce(anchors, candidates, targets, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(anchors, candidates, targets, 0.1), expected)
        half = reconstruction_loss(anchors.bfloat16(), anchors)
        assert half.dtype == torch.float32 and 0 < float(half) < 1e-4
