import math

import torch

from macrec_hf.model.vector_quantization import (
    codebook_health,
    collision_rate,
    nearest_code,
    residual_quantize,
    straight_through,
)


def test_nearest_code_is_brute_forces_argmin():
    torch.manual_seed(0)
    points, codebook = torch.randn(50, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    brute = (points[:, None] - codebook[None]).square().sum(-1).argmin(-1)
    assert torch.equal(nearest_code(points, codebook), brute)


def test_residual_quantize_by_hand():
    # 7 → 8 (code 1), −1 left → −1 (code 0), 0 left; 1.5 → 0 (code 0), 1.5 left → 1 (code 1).
    codebooks = torch.tensor([[[0.0], [8.0]], [[-1.0], [1.0]]])
    parts = residual_quantize(torch.tensor([[7.0], [1.5]]), codebooks)
    assert parts.codes.tolist() == [[1, 0], [0, 1]]
    assert parts.residuals.squeeze(-1).tolist() == [[7.0, 1.5], [-1.0, 1.5]]
    assert parts.quantized.squeeze(-1).tolist() == [7.0, 1.0]


def test_residuals_keep_the_latents_gradient_at_every_level():
    latents = torch.randn(4, 3, requires_grad=True)
    parts = residual_quantize(latents, torch.randn(3, 5, 3))
    for residual in parts.residuals:
        (grad,) = torch.autograd.grad(residual.sum(), latents, retain_graph=True)
        assert torch.equal(grad, torch.ones_like(grad))


def test_straight_through_is_the_quantized_value_with_the_latents_gradient():
    latents, quantized = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    value = straight_through(latents, quantized)
    torch.testing.assert_close(value, quantized)
    value.sum().backward()
    assert torch.equal(latents.grad, torch.ones(2, 3)) and quantized.grad is None


def test_collision_rate_and_health_by_hand():
    codes = torch.tensor([[0, 1], [0, 1], [0, 2], [3, 1]])
    assert collision_rate(codes, 4) == 0.25  # three distinct tuples, four items
    absent = torch.full((3, 2), -1)
    assert collision_rate(torch.cat([absent, codes]), 4) == 0.25 and collision_rate(absent, 4) == 0.0
    first, second = codebook_health(codes, 4)
    assert first["usage"] == 0.5 and first["dead_codes"] == 2
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert math.isclose(first["perplexity"], math.exp(entropy), rel_tol=1e-12)
    assert math.isclose(second["perplexity"], math.exp(entropy), rel_tol=1e-12)


def test_codes_under_autocast_are_those_of_float32():
    torch.manual_seed(0)
    latents, codebooks = torch.randn(3000, 16), torch.randn(3, 64, 16)
    expected = residual_quantize(latents, codebooks)
    rounded = nearest_code(latents.bfloat16(), codebooks[0].bfloat16())
    assert 0 < float((rounded != expected.codes[:, 0]).float().mean()) < 0.1  # what bfloat16 would confuse
    with torch.autocast("cpu", torch.bfloat16):
        found = residual_quantize(latents, codebooks)
        assert torch.equal(nearest_code(latents, codebooks[0]), expected.codes[:, 0])
    for name in ("codes", "residuals", "codewords", "quantized"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_half_precision_latents_are_searched_in_float32():
    torch.manual_seed(0)
    latents, codebooks = torch.randn(500, 8).bfloat16(), torch.randn(2, 32, 8)
    found, expected = residual_quantize(latents, codebooks), residual_quantize(latents.float(), codebooks)
    assert torch.equal(found.codes, expected.codes)
    assert found.residuals.dtype == found.quantized.dtype == torch.float32
    assert straight_through(latents, found.quantized).dtype == torch.float32
