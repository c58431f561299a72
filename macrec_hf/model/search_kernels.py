"""What the search computes by itself: with which products, and of which models.

The search does not call a T5's blocks, layers and attentions: it reads their weights. That is right as long as each
of them is exactly what transformers makes and nobody has hooked into it. [`departure`] names the first that is not;
such a model is searched through its own forward pass (`model_decoding.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from transformers import T5Config, T5ForConditionalGeneration
from transformers.activations import ACT2FN
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5Block,
    T5DenseActDense,
    T5DenseGatedActDense,
    T5LayerCrossAttention,
    T5LayerFF,
    T5LayerNorm,
    T5LayerSelfAttention,
    T5Stack,
)

Part = tuple[torch.Tensor, slice]  # users that are decoded together, long, and the columns that they need
RunParts = Callable[[Callable[[Part], None], torch.Tensor | None, torch.Tensor, int, int], None]
RunBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

_LINEARS = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo", "lm_head")
_EMBEDDINGS = ("embed_tokens", "relative_attention_bias")
# Hooks and classes of these libraries gather weights, record states or set the precision, and leave the computation.
_TRANSPARENT = ("torch.distributed.", "transformers.utils.output_capturing", "accelerate.utils.operations")
_READ = (
    nn.Embedding, nn.Linear, nn.Dropout, T5Attention, T5Block, T5DenseActDense, T5DenseGatedActDense,
    T5LayerCrossAttention, T5LayerFF, T5LayerNorm, T5LayerSelfAttention, T5Stack, T5ForConditionalGeneration,
)  # fmt: skip
_FORWARDS = {cls: cls.forward for cls in _READ}  # as they are when this is imported: a patch comes later
_ADAPTERS = "peft."  # its layers are called as they are: like what they adapt, they treat each row by itself


def _add_linear(hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden.addmm_(change, weight.t())


def all_at_once(
    search: Callable[[Part], None], attention_mask: torch.Tensor | None, users: torch.Tensor, length: int, rows: int
) -> None:
    """`search` of all users in one part."""
    search((users, slice(length)))


def by_itself(search: RunBatch, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`search` of its arguments."""
    return search(*arguments)


@dataclass(frozen=True)
class SearchKernels:
    """What the search multiplies with and how it cuts a batch; `accelerate` of `cpu/` and `gpu/` sets others.

    Attributes:
        linear: `(hidden, weight)` → `hidden · weightᵀ`.
        add_linear: `(hidden, change, weight)` → `hidden + change · weightᵀ`, written to `hidden`.
        linear_classes: classes of which a call is one product with the weight.
        dropout_classes: classes of which a call in eval mode is nothing.
        norm_classes, attention_classes: classes that compute what `T5LayerNorm` and `T5Attention` do.
        attention_names: attention implementations that are softmax attention with T5's position bias.
        run_parts: `(search, attention_mask, users, length, rows)`: calls `search` with parts of the users, long
            `(batch_size,)`, and the columns of `length` that each needs; `rows` are decoder rows for each user.
        run_batch: `(search, *arguments)`: calls `search` of all users with its arguments, or does the same in another
            way.
    """

    linear: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = nn.functional.linear
    add_linear: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = _add_linear
    linear_classes: tuple[type[nn.Module], ...] = (nn.Linear,)
    dropout_classes: tuple[type[nn.Module], ...] = (nn.Dropout,)
    norm_classes: tuple[type[nn.Module], ...] = (T5LayerNorm,)
    attention_classes: tuple[type[nn.Module], ...] = (T5Attention,)
    attention_names: tuple[str | None, ...] = (None, "eager", "sdpa", "flex_attention")
    run_parts: RunParts = all_at_once
    run_batch: RunBatch = by_itself


def search_kernels(model: nn.Module) -> SearchKernels:
    """Those that were set on the model, else plain ones."""
    return getattr(model, "search_kernels", SearchKernels())


def departure(model: nn.Module) -> str | None:
    """The first module that does more than the search would compute by itself, and why; `None`: there is none.

    A walk over the modules, without any tensor: some tenths of a millisecond.

    Args:
        model: any `T5ForConditionalGeneration`, or what stands in the place of one.
    """
    if torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks:
        return "torch has a global forward hook"
    for patched, forward in _FORWARDS.items():
        if patched.forward is not forward:
            return f"the class {patched.__name__} has another forward pass than its library gave it"
    cls = _plain_class(model)
    searched = getattr(cls, "_searched_forward", T5ForConditionalGeneration.forward)
    if cls.forward is not searched or cls.__call__ is not nn.Module.__call__:
        return f"{cls.__name__} has a forward pass of its own"
    reason = _hooked(model)
    if reason:
        return f"the model{reason}"
    kernels = search_kernels(model)
    return _departure(model, "", _expected(cast(T5ForConditionalGeneration, model).config, kernels), kernels)


def _expected(config: T5Config, kernels: SearchKernels) -> dict[str, tuple[type, ...]]:
    """The classes of T5's modules, by the name under which their parents call them; `[]` for entries of a list."""
    return {
        **dict.fromkeys(("encoder", "decoder"), (T5Stack,)),
        **dict.fromkeys(("block", "layer"), (nn.ModuleList,)),
        "block[]": (T5Block,),
        "layer[]": (T5LayerSelfAttention, T5LayerCrossAttention, T5LayerFF),
        **dict.fromkeys(("SelfAttention", "EncDecAttention"), kernels.attention_classes),
        "DenseReluDense": (T5DenseActDense, T5DenseGatedActDense),
        "act": (type(ACT2FN[config.dense_act_fn]),),
        **dict.fromkeys(_EMBEDDINGS, (nn.Embedding,)),
        **dict.fromkeys(("layer_norm", "final_layer_norm"), kernels.norm_classes),
        "dropout": kernels.dropout_classes,
        **dict.fromkeys(_LINEARS, kernels.linear_classes),
    }


def _departure(
    parent: nn.Module, own_name: str, expected: dict[str, tuple[type, ...]], kernels: SearchKernels
) -> str | None:
    """[`departure`] below one module; what T5 does not call (the shared embedding, additions) is passed over."""
    module: Any  # the names say of which class it should be
    for name, module in parent._modules.items():
        classes = expected.get(f"{own_name}[]" if name.isdigit() else name)
        if classes is None or module is None:
            continue
        cls = type(module) if type(module) in classes else _plain_class(module)
        found = None
        if cls is not nn.ModuleList:  # nobody calls a list
            found = _hooked(module)
        if cls not in classes:
            if not (cls.__module__.startswith(_ADAPTERS) and name in (*_LINEARS, *_EMBEDDINGS)):
                found = f" is a {cls.__name__} where a {classes[0].__name__} was expected"
        elif issubclass(cls, T5Attention) and module.config._attn_implementation not in kernels.attention_names:
            found = f" attends by {module.config._attn_implementation!r}"
        elif issubclass(cls, T5Attention) and module.scaling != 1.0:
            found = f" scales its scores by {module.scaling}"
        elif cls is T5Block and len(module.layer) != 2 + module.is_decoder:
            found = f" has {len(module.layer)} layers"
        elif found is None and module._modules and (below := _departure(module, name, expected, kernels)):
            found = f".{below}"
        if found:
            return f"{name}{found}"
    return None


def _hooked(module: nn.Module) -> str | None:
    """How calling the module is more than its class's forward pass; backward hooks change nothing that is searched."""
    if module._forward_hooks and not all(map(_is_transparent, module._forward_hooks.values())):
        return " has a forward hook"
    if module._forward_pre_hooks and not all(map(_is_transparent, module._forward_pre_hooks.values())):
        return " has a forward pre-hook"
    forward = module.__dict__.get("forward")
    if forward is not None and not (_is_transparent(forward) and _had_its_own(module)):
        return " has a forward pass of its own"
    return None


def _had_its_own(module: nn.Module) -> bool:
    """Whether accelerate, which sets the precision around a forward pass, found the class's own there."""
    before = vars(module).get("_original_forward")
    return getattr(before, "__func__", None) is type(module).forward


def _is_transparent(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "").startswith(_TRANSPARENT)


def _plain_class(module: nn.Module) -> type[nn.Module]:
    """The module's class, or the one that FSDP has made a subclass of."""
    cls = type(module)
    if len(cls.__bases__) == 2 and cls.__bases__[0].__module__.startswith(_TRANSPARENT):
        return cast(type[nn.Module], cls.__bases__[1])
    return cls


def may_look(values: torch.Tensor) -> bool:
    """Whether the search may read values to save work: a GPU would be waited for, and a compiled search cannot."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def take_rows(states: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
    """The rows `parents` (long `(batch_size, rows)`, or `(rows,)` for all users) of `(batch_size, rows or 1, …)`."""
    if states.shape[1] == 1:
        return states
    if parents.dim() == 1:
        return states.index_select(1, parents)
    batch_size, rows = states.shape[:2]
    offsets = torch.arange(batch_size, device=parents.device).unsqueeze(1) * rows
    return states.flatten(0, 1).index_select(0, (parents + offsets).flatten()).view(*parents.shape, *states.shape[2:])
