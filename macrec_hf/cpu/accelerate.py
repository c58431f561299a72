"""One call that makes a model fast on a CPU, and the search with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from transformers import T5ForConditionalGeneration

from ..model.search_kernels import SearchKernels
from .attention import NAME, use_byte_dropout_attention, use_plain_attention
from .beam_parts import run_parts
from .byte_dropout import ByteDropout, use_byte_dropout, use_plain_dropout
from .linear import CpuLinear, linear, onednn_pays, use_cpu_linear, use_plain_linear

Model = TypeVar("Model", bound=nn.Module)


def accelerate(model: Model) -> Model:
    """Puts faster parts of the same names and weights into a recommender or a quantizer that works on a CPU.

    Dropout that costs a byte an element, linear maps through oneDNN where torch's own leave the processor half idle,
    and a search that cuts a batch of users into parts that fit the caches. On another device they do what the plain
    ones do. Calling it twice changes nothing more; [`restore`] takes it back.

    Args:
        model: changed in place; its configuration is not.

    Returns:
        The model.
    """
    use_byte_dropout(model)
    use_cpu_linear(model)
    if isinstance(model, T5ForConditionalGeneration):
        use_byte_dropout_attention(model)
        vars(model)["search_kernels"] = _SEARCH
    return model


def restore(model: Model) -> Model:
    """Takes [`accelerate`] back: torch's and transformers' own parts, as if it had never been called.

    Args:
        model: changed in place.

    Returns:
        The model.
    """
    use_plain_dropout(model)
    use_plain_linear(model)
    use_plain_attention(model)
    vars(model).pop("search_kernels", None)
    return model


@contextmanager
def accelerated(model: nn.Module) -> Iterator[None]:
    """The model accelerated inside, where its weights lie on a CPU; afterwards as it was."""
    parameter = next(model.parameters(), None)
    before = {type(module) for module in model.modules()}
    if parameter is None or parameter.device.type != "cpu" or before & {ByteDropout, CpuLinear}:
        yield
        return
    accelerate(model)
    try:
        yield
    finally:
        restore(model)


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
