"""Linear maps at full speed on CPUs whose vector units torch's own matrix products leave half idle.

torch multiplies float32 matrices with MKL, which keeps to AVX2 on AVX-512 processors of other makers than Intel.
oneDNN, which torch has for its convolutions and for what `torch.compile` makes of linear maps, does not ask who made
the processor: on an AMD EPYC with AVX-512 it is 2.2 times as fast, forward and backward, in the same float32.
"""

import platform
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

_LEAST_WORK = 2**21  # multiplications, by timing 1 to 640 rows: below, a call costs what the product gains
_CPUINFO = Path("/proc/cpuinfo")


def use_cpu_linear(model: nn.Module) -> None:
    """Makes a [`CpuLinear`] of every `nn.Linear` of a model, where that pays; weights and their names stay."""
    if products_are_held_back():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = CpuLinear


def use_plain_linear(model: nn.Module) -> None:
    """Takes [`use_cpu_linear`] back."""
    for module in model.modules():
        if type(module) is CpuLinear:
            cast(nn.Module, module).__class__ = nn.Linear


class CpuLinear(nn.Linear):
    """[`~torch.nn.Linear`] through [`linear`]."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return linear(hidden, self.weight, self.bias)


def linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[`torch.nn.functional.linear`], through oneDNN where that is faster.

    Args:
        hidden: (…, in_features).
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (…, out_features).
    """
    if not onednn_pays(hidden, weight):
        return nn.functional.linear(hidden, weight, bias)
    product = _Linear.apply(hidden.reshape(-1, hidden.shape[-1]), weight, bias)
    return product.view(*hidden.shape[:-1], len(weight))


class _Linear(torch.autograd.Function):
    """hidden · weightᵀ + bias. Its gradients are such maps themselves, and so have gradients."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight)
        return product_by_onednn(hidden, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        return (
            _Linear.apply(grad_output, weight.t(), None) if wanted[0] else None,
            _Linear.apply(grad_output.t(), hidden.t(), None) if wanted[1] else None,
            grad_output.sum(0) if wanted[2] else None,
        )


def product_by_onednn(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """(m, k) · (k, n) + (n,) → (m, n), float32, without a gradient; only where [`multiplies_by_onednn`]."""
    return torch.ops.mkldnn._linear_pointwise(_dense(left), _dense(right).t(), bias, "none", [], "")


def _dense(matrix: torch.Tensor) -> torch.Tensor:
    """The matrix, or a copy where neither it nor its transpose is contiguous: for oneDNN a hundred times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def multiplies_by_onednn(values: torch.Tensor) -> bool:
    """Whether [`product_by_onednn`] is the faster product for these values, of a CPU."""
    return values.dtype == torch.float32 and products_are_held_back()


def onednn_pays(hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether [`linear`] goes through oneDNN for these."""
    return (
        hidden.device.type == "cpu"
        and not torch.compiler.is_compiling()  # before what a compiler cannot follow
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and multiplies_by_onednn(hidden)
        and weight.dtype == torch.float32
        and hidden.numel() * len(weight) >= _LEAST_WORK
    )


@cache
def products_are_held_back() -> bool:
    """Whether torch's float32 products on this CPU do not use AVX-512 although it has it, and oneDNN's can be had."""
    backends = torch.backends
    if not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # not one of torch's documented names
        return False
    return backends.cpu.get_cpu_capability() == "AVX512" and not _made_by_intel()


def _made_by_intel() -> bool:
    try:
        return "GenuineIntel" in _CPUINFO.read_text()
    except OSError:  # not Linux
        return "AuthenticAMD" not in platform.processor()
