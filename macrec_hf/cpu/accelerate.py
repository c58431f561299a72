"""One call that makes a model fast on a CPU, and the search with it."""

from typing import TypeVar

import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from ..model.search_kernels import SearchKernels
from .attention import NAME, use_byte_dropout_attention
from .beam_parts import run_parts
from .byte_dropout import ByteDropout, use_byte_dropout
from .linear import CpuLinear, linear, onednn_pays, use_cpu_linear

Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Puts faster parts of the same names and weights into a recommender or a quantizer that works on a CPU.

    Dropout that costs a byte an element, linear maps through oneDNN where torch's own leave the processor half idle,
    and a search that cuts a batch of users into parts that fit the caches. On another device they do what the plain
    ones do. Calling it twice changes nothing more.

    Args:
        model: changed in place.

    Returns:
        The model.
    """
    use_byte_dropout(model)
    use_cpu_linear(model)
    if isinstance(model, T5ForConditionalGeneration):
        use_byte_dropout_attention(model)
        vars(model)["search_kernels"] = _SEARCH
    return model


def _add_linear(hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if onednn_pays(change, weight):
        return hidden.add_(linear(change, weight))
    return hidden.addmm_(change, weight.t())


_SEARCH = SearchKernels(
    linear=linear,
    add_linear=_add_linear,
    linear_classes=(nn.Linear, CpuLinear),
    dropout_classes=(nn.Dropout, ByteDropout),
    attention_names=(*SearchKernels.attention_names, NAME),
    run_parts=run_parts,
)
