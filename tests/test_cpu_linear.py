import copy

import pytest
import torch
from torch import nn

from macrec_hf import MacRecConfig, MacRecForConditionalGeneration, cpu_linear
from macrec_hf.cpu_linear import CpuLinear, convolution_pays, linear, linear_as_convolution, use_cpu_linear


@pytest.fixture
def held_back(monkeypatch):
    """As on a processor whose AVX-512 torch's products leave idle."""
    monkeypatch.setattr(cpu_linear, "products_are_held_back", lambda: True)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape, images", [((48, 5, 7), 16), ((336, 7), 21), ((3, 107, 7), 1)])
@pytest.mark.parametrize("biased", [True, False])
def test_is_the_linear_map_and_its_gradients(dtype, tolerance, shape, images, biased):
    torch.manual_seed(0)
    hidden = torch.randn(shape, dtype=dtype, requires_grad=True)
    layer = nn.Linear(7, 11, bias=biased, dtype=dtype)
    found = linear_as_convolution(hidden, layer.weight, layer.bias, images)
    wanted = torch.einsum("...i,oi->...o", hidden, layer.weight) + (layer.bias if biased else 0)
    change = torch.randn_like(wanted)
    inputs = (hidden, *layer.parameters())
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
    for mine, other in zip(
        torch.autograd.grad(found, inputs, change), torch.autograd.grad(wanted, inputs, change), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=100 * tolerance)


def test_a_tensor_that_is_not_contiguous():
    hidden = torch.randn(7, 320).T
    weight = torch.randn(3, 7)
    torch.testing.assert_close(linear_as_convolution(hidden, weight, images=20), hidden @ weight.T)


@pytest.mark.parametrize("rows", [256, 257, 320, 8 * 33])
@pytest.mark.parametrize("threads", [1, 2])
def test_any_number_of_rows_on_any_number_of_threads(held_back, rows, threads):
    before = torch.get_num_threads()
    hidden, weight = torch.randn(rows, 128), torch.randn(96, 128)
    torch.set_num_threads(threads)
    try:
        # Rows that nothing from 16 to 32 divides are left to the product on one thread.
        assert convolution_pays(hidden, weight) == (threads > 1 or rows != 257)
        torch.testing.assert_close(linear(hidden, weight), hidden @ weight.T, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_where_it_does_not_pay(held_back):
    hidden, weight = torch.randn(320, 8), torch.randn(4, 8)
    assert convolution_pays(hidden, weight)
    assert not convolution_pays(hidden[:240], weight)
    assert not convolution_pays(hidden.double(), weight.double())
    assert not convolution_pays(hidden.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not convolution_pays(hidden, weight)
        assert CpuLinear(8, 4)(hidden).dtype == torch.bfloat16


def test_a_model_gives_the_same_with_the_same_weights(held_back):
    torch.manual_seed(0)
    config = MacRecConfig(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    model = MacRecForConditionalGeneration(config).eval()
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
    assert not convolution_pays(torch.randn(320, 8), torch.randn(4, 8))


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
