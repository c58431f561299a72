"""Linear maps at full speed on CPUs whose vector units torch's own matrix products leave half idle.

torch multiplies float32 matrices with MKL, which keeps to AVX2 on AVX-512 processors of other makers than Intel.
oneDNN does not ask who made the processor, and torch takes its convolutions from there; a linear map is a convolution
with a 1 × 1 kernel. On an AMD EPYC with AVX-512 that is 2.2 times as fast, forward and backward, in the same float32.
Where the gradient is worked out by hand ([`cpu_functions`]) oneDNN's own linear map is called, which autograd does not
know and which costs less a call.
"""

import platform
from functools import cache
from pathlib import Path

import torch
from torch import nn

_FEWEST_ROWS = 256  # by timing 20 to 640 rows: below, a call costs what the product gains
_CPUINFO = Path("/proc/cpuinfo")
# torch gives a 1 x 1 convolution to oneDNN on one thread only if there are at least 16 images.
_IMAGES = range(16, 33)


def use_cpu_linear(model: nn.Module) -> None:
    """Makes a [`CpuLinear`] of every `nn.Linear` of a model, where that pays; weights and their names stay."""
    if products_are_held_back():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = CpuLinear


class CpuLinear(nn.Linear):
    """[`~torch.nn.Linear`] through [`linear`]."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return linear(hidden, self.weight, self.bias)


def is_plain(module: nn.Module) -> bool:
    """Whether calling the module is one product with its weight."""
    return type(module) in (nn.Linear, CpuLinear) and module.bias is None and is_called_as_is(module)


def is_called_as_is(module: nn.Module) -> bool:
    """Whether calling the module is its class's forward pass and nothing else."""
    return "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks


def linear(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[`torch.nn.functional.linear`], as a convolution where that is faster.

    Args:
        hidden: (…, in_features).
        weight: (out_features, in_features).
        bias: (out_features,).

    Returns:
        (…, out_features).
    """
    if convolution_pays(hidden, weight):
        return linear_as_convolution(hidden, weight, bias, _num_images(hidden))
    return nn.functional.linear(hidden, weight, bias)


def linear_as_convolution(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, images: int = 1
) -> torch.Tensor:
    """[`linear`] by a convolution with a 1 × 1 kernel over rows that are laid out as images one pixel wide.

    Args:
        hidden: (…, in_features).
        weight: (out_features, in_features).
        bias: (out_features,).
        images: into how many images the rows are cut; divides their number.
    """
    pixels = hidden.reshape(images, -1, 1, hidden.shape[-1]).permute(0, 3, 1, 2)  # channels last: nothing is copied
    product = nn.functional.conv2d(pixels, weight[:, :, None, None], bias)
    return product.permute(0, 2, 3, 1).reshape(*hidden.shape[:-1], len(weight))


@cache
def products_are_held_back() -> bool:
    """Whether torch's float32 products on this CPU do not use AVX-512 although it has it."""
    backends = torch.backends
    if not (backends.mkl.is_available() and backends.mkldnn.is_available()):
        return False
    return backends.cpu.get_cpu_capability() == "AVX512" and not _made_by_intel()


def _made_by_intel() -> bool:
    try:
        return "GenuineIntel" in _CPUINFO.read_text()
    except OSError:  # not Linux
        return "AuthenticAMD" not in platform.processor()


@cache
def _has_onednn_product() -> bool:
    """Whether torch still has the operator, which is one of those that `torch.compile` writes for CPUs."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiplies_by_onednn(values: torch.Tensor) -> bool:
    """Whether [`product_by_onednn`] is the faster product for these values, of a CPU."""
    return values.dtype == torch.float32 and products_are_held_back() and _has_onednn_product()


def product_by_onednn(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(m, k) · (k, n) → (m, n), without a gradient.

    Args:
        left, right: float32, contiguous or the transpose of a contiguous matrix; any other strides are a hundred times
            slower.
    """
    return torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")


def convolution_pays(hidden: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether [`linear`] takes a convolution for these."""
    return (
        products_are_held_back()
        and hidden.device.type == "cpu"
        and hidden.dtype == weight.dtype == torch.float32
        and hidden.numel() >= _FEWEST_ROWS * hidden.shape[-1]
        and bool(_num_images(hidden))
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _num_images(hidden: torch.Tensor) -> int:
    """Into how many images the rows are cut; 0: one thread alone would not be faster."""
    rows = hidden.numel() // hidden.shape[-1]
    for images in _IMAGES:
        if rows % images == 0:
            return images
    return 1 if torch.get_num_threads() > 1 else 0
