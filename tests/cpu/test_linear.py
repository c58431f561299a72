import copy

import pytest
import torch
from torch import nn

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration
from macrec_hf.cpu import accelerate
from macrec_hf.cpu import linear as cpu_linear
from macrec_hf.cpu.linear import CpuLinear, linear, onednn_pays, product_by_onednn, use_cpu_linear


@pytest.fixture
def held_back(monkeypatch):
    """As on a processor whose AVX-512 torch's products leave idle, and with products of any size."""
    monkeypatch.setattr(cpu_linear, "products_are_held_back", lambda: True)
    monkeypatch.setattr(cpu_linear, "_LEAST_WORK", 0)


@pytest.mark.parametrize("shape", [(48, 5, 7), (336, 7), (3, 107, 7), (1, 7), (7,)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_is_the_linear_map_and_its_gradients(held_back, shape, biased, threads):
    torch.manual_seed(0)
    hidden, layer = torch.randn(shape, requires_grad=True), nn.Linear(7, 11, bias=biased)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = linear(hidden, layer.weight, layer.bias)
        assert "_Linear" in type(found.grad_fn.next_functions[0][0]).__name__
        wanted = torch.einsum("...i,oi->...o", hidden, layer.weight) + (layer.bias if biased else 0)
        change, inputs = torch.randn_like(wanted), (hidden, *layer.parameters())
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        mine = torch.autograd.grad(found, inputs, change)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(mine, torch.autograd.grad(wanted, inputs, change), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_only_the_gradients_that_are_wanted(held_back):
    hidden, layer = torch.randn(9, 7), nn.Linear(7, 11)
    linear(hidden, layer.weight.detach(), layer.bias).sum().backward()  # its gradient has no strides
    assert layer.weight.grad is None and torch.equal(layer.bias.grad, torch.full((11,), 9.0))
    with torch.no_grad():
        assert linear(hidden, layer.weight).grad_fn is None


def test_gradients_have_gradients(held_back):
    torch.manual_seed(0)
    hidden, weight = torch.randn(9, 7, requires_grad=True), torch.randn(11, 7, requires_grad=True)

    def curvature(function):
        (slope,) = torch.autograd.grad(function(hidden, weight).pow(3).sum(), hidden, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), (hidden, weight))

    for found, wanted in zip(curvature(linear), curvature(lambda h, w: h @ w.T), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-2)


def test_matrices_of_any_strides():
    torch.manual_seed(0)
    left, right = torch.randn(30, 40), torch.randn(40, 50)
    for some in (left, left.T.contiguous().T, left.repeat(1, 2)[:, :40], left[:1].expand(30, -1)):
        for other in (right, right.T.contiguous().T, right.repeat(2, 2)[::2, ::2], right[:, :1].expand(-1, 50)):
            torch.testing.assert_close(product_by_onednn(some, other), some @ other, rtol=0, atol=1e-4)


def test_where_it_does_not_pay(held_back, monkeypatch):
    hidden, weight = torch.randn(320, 8), torch.randn(4, 8)
    assert onednn_pays(hidden, weight)
    assert not onednn_pays(hidden.double(), weight.double())
    assert not onednn_pays(hidden.bfloat16(), weight.bfloat16())
    assert not onednn_pays(hidden, weight.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not onednn_pays(hidden, weight)
        assert CpuLinear(8, 4)(hidden).dtype == torch.bfloat16
    monkeypatch.setattr(cpu_linear, "_LEAST_WORK", 320 * 8 * 4)
    assert onednn_pays(hidden, weight) and not onednn_pays(hidden[1:], weight)


def test_a_model_gives_the_same_with_the_same_weights(held_back):
    torch.manual_seed(0)
    config = MacRecConfig(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    model = accelerate(MacRecForConditionalGeneration(config).eval())
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert linears and all(type(module) is CpuLinear for module in linears)
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if type(module) is CpuLinear:
            module.__class__ = nn.Linear
    assert plain.state_dict().keys() == model.state_dict().keys()
    inputs, labels = torch.randint(3, 40, (32, 17)), torch.randint(3, 40, (32, 4))
    found, wanted = (each(input_ids=inputs, labels=labels) for each in (model, plain))
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)
    for each in (found, wanted):
        each.loss.backward()
    for mine, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_other_kinds_of_layers_and_other_processors_stay(held_back, monkeypatch):
    class Adapted(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), Adapted(2, 2))
    use_cpu_linear(model)
    assert [type(module) for module in model] == [CpuLinear, Adapted]
    monkeypatch.setattr(cpu_linear, "products_are_held_back", lambda: False)
    model = nn.Sequential(nn.Linear(2, 2))
    use_cpu_linear(model)
    assert type(model[0]) is nn.Linear
    assert not onednn_pays(torch.randn(320, 8), torch.randn(4, 8))


@pytest.mark.parametrize(
    "maker, capability, mkl, wanted",
    [
        ("AuthenticAMD", "AVX512", True, True),
        ("GenuineIntel", "AVX512", True, False),
        ("AuthenticAMD", "AVX2", True, False),
        ("AuthenticAMD", "AVX512", False, False),
    ],
)
def test_which_processors(monkeypatch, tmp_path, maker, capability, mkl, wanted):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {maker}\n")
    monkeypatch.setattr(cpu_linear, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert cpu_linear.products_are_held_back.__wrapped__() is wanted
