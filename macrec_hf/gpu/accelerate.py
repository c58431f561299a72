"""One call that makes a recommender fast on a GPU: fewer and larger kernels, and no waiting for the device."""

from typing import Any, TypeVar

from torch import nn
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention, T5LayerNorm

from ..model.search_kernels import SearchKernels, search_kernels
from .attention import NAME, JoinedAttention
from .norm import FusedNorm
from .recorded_search import RecordedSearch

Model = TypeVar("Model", bound=nn.Module)
_PARTS: tuple[tuple[type[nn.Module], type[nn.Module]], ...] = (
    (T5Attention, JoinedAttention),
    (T5LayerNorm, FusedNorm),
)


def accelerate(model: Model) -> Model:
    """Puts parts that launch fewer kernels into a recommender that works on a GPU; names and weights stay.

    Queries, keys and values come from one product, the mask and the position bias are made once for all layers, and a
    norm is one kernel. On another device they compute the same. The search is recorded as a CUDA graph for each bucket
    of users and lengths. Calling it twice changes nothing more; [`restore`] takes it back. Compiling is left to the
    caller (`torch_compile=True` of the trainer): the parts compile in one piece.

    Args:
        model: changed in place; its configuration is not. What is no T5 stays as it is, a quantizer for one.

    Returns:
        The model.
    """
    if isinstance(model, T5ForConditionalGeneration):
        _replace(model, "sdpa", NAME)
        for plain, fast in _PARTS:
            _change(model, plain, fast)
        if not isinstance(search_kernels(model).run_batch, RecordedSearch):
            vars(model)["search_kernels"] = SearchKernels(run_batch=RecordedSearch(), **_SEARCHED)
    return model


def restore(model: Model) -> Model:
    """Takes [`accelerate`] back: transformers' own parts, as if it had never been called.

    Args:
        model: changed in place.

    Returns:
        The model.
    """
    _replace(model, NAME, "sdpa")
    for plain, fast in _PARTS:
        _change(model, fast, plain)
    if isinstance(search_kernels(model).run_batch, RecordedSearch):  # else those of another room
        vars(model).pop("search_kernels")
    return model


def _change(model: nn.Module, before: type[nn.Module], after: type[nn.Module]) -> None:
    for module in model.modules():
        if type(module) is before:
            module.__class__ = after


def _replace(model: nn.Module, before: str, after: str) -> None:
    """The attention of the stacks, which have configurations of their own; the model's may be the caller's."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and config is not model.config and config._attn_implementation == before:
            config._attn_implementation = after


_SEARCHED: Any = {
    "norm_classes": (T5LayerNorm, FusedNorm),
    "attention_classes": (T5Attention, JoinedAttention),
    "attention_names": (*SearchKernels.attention_names, NAME),
}
