"""What the search computes by itself: with which products, and of which models.

The search does not call a T5's blocks, layers and attentions: it reads their weights. That is right as long as each
of them is exactly what transformers makes and nobody has hooked into it. [`departure`] names the first that is not;
such a model is searched through its own forward pass (`model_decoding.py`).
"""

from collections.abc import Callable, Sequence
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

ALIGNED = 16  # numbers between rows of an additive mask: others SDPA copies
_LINEARS = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo", "lm_head")
_EMBEDDINGS = ("embed_tokens", "item_positions", "relative_attention_bias")
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
        if cls not in classes and not _is_searched(cls, classes):
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


def _is_searched(cls: type[nn.Module], classes: tuple[type, ...]) -> bool:
    """Whether a class of ours, below one of the classes, has the forward pass that the search follows."""
    return issubclass(cls, classes) and cls.forward is getattr(cls, "_searched_forward", None)


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


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """What scores of a model of this dtype are summed in: float64 for float64, float32 for the others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


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


@dataclass
class DecoderPast:
    """Self-attention keys and values of the positions so far, each row's at its place.

    Attributes:
        layers: `layers[layer][position]` is float `(batch_size, rows or 1, 2, num_heads, d_kv)`; 1 where all rows of a
            user share the position, as they do the decoder start token.
        bias: `(positions, 1, 1, num_heads)`, added to the scores of a row's past and its own position.
    """

    layers: list[list[torch.Tensor]]
    bias: torch.Tensor | None = None

    @classmethod
    def empty(cls, num_layers: int) -> "DecoderPast":
        """Before the first position."""
        return cls([[] for _ in range(num_layers)])

    @property
    def place(self) -> int:
        """Positions so far."""
        return len(self.layers[0])

    def reorder(self, parents: torch.Tensor) -> "DecoderPast":
        """The past of rows that continue the rows `parents`: long `(batch_size, rows)`, or `(rows,)` for all users."""
        return DecoderPast([[take_rows(states, parents) for states in positions] for positions in self.layers])

    def grown(self, tokens: torch.Tensor, bias: torch.Tensor) -> "DecoderPast":
        """A copy that [`attended`] gives a position for `tokens`, long `(batch_size, rows)`, layer by layer."""
        return DecoderPast([list(positions) for positions in self.layers], bias)

    def attended(self, layer: int, queries: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """What the rows read of their past and of themselves, `(batch_size * rows, inner)`.

        Args:
            queries: `(batch_size, rows, num_heads, d_kv)`.
            states: keys and values of the new position, `(batch_size, rows, 2, num_heads, d_kv)`.
        """
        self.layers[layer].append(states)
        return _self_attention(queries, self.layers[layer], cast(torch.Tensor, self.bias))


@dataclass
class SharedPast:
    """[`DecoderPast`] in which nothing is moved: a row attends to all states of its user, and most are masked.

    With twenty beams a step moves the states of all positions and layers, or masks two thirds of sixty. On a GPU the
    second is one kernel of attention a layer.

    Attributes:
        layers: `(batch_size, states, 2, num_heads, d_kv)` of each layer: the rows of one position behind the other's.
        ancestors: for each position long `(batch_size, rows)`: which of its rows each row of the last continues.
        sizes: rows of each position.
        bias: `(batch_size, num_heads, rows, states)`, added to scores.
    """

    layers: list[torch.Tensor | None]
    ancestors: list[torch.Tensor]
    sizes: list[int]
    bias: torch.Tensor | None = None

    @classmethod
    def empty(cls, num_layers: int) -> "SharedPast":
        """Before the first position."""
        return cls([None] * num_layers, [], [])

    @property
    def place(self) -> int:
        """Positions so far."""
        return len(self.sizes)

    def reorder(self, parents: torch.Tensor) -> "SharedPast":
        """The past of rows that continue the rows `parents`: long `(batch_size, rows)`."""
        return SharedPast(self.layers, [before.gather(1, parents) for before in self.ancestors], self.sizes)

    def grown(self, tokens: torch.Tensor, bias: torch.Tensor) -> "SharedPast":
        """As of [`DecoderPast`]."""
        rows = torch.arange(tokens.shape[1], device=tokens.device)
        ancestors = [before.expand_as(tokens) for before in (*self.ancestors, rows)]
        sizes = [*self.sizes, len(rows)]
        firsts = [sum(sizes[:place]) for place in range(len(sizes))]
        own = torch.stack([before + first for before, first in zip(ancestors, firsts, strict=True)], dim=2)
        seen = torch.zeros(*tokens.shape, _aligned(sum(sizes)), dtype=torch.bool, device=tokens.device)
        seen = seen.scatter(2, own, True).unsqueeze(1)
        columns = torch.cat([of.expand(size, 1, -1) for of, size in zip(bias.squeeze(2), sizes, strict=True)])
        columns = nn.functional.pad(columns, (0, 0, 0, 0, 0, seen.shape[3] - len(columns))).permute(2, 1, 0)
        bias = columns.contiguous().where(seen, torch.finfo(bias.dtype).min)[..., : sum(sizes)]
        return SharedPast(list(self.layers), ancestors, sizes, bias)

    def attended(self, layer: int, queries: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """As of [`DecoderPast`]."""
        before = self.layers[layer]
        both = states
        if before is not None:  # flat: of more than four dimensions a GPU copies each part by a slow kernel
            both = torch.cat([before.flatten(2), states.flatten(2)], dim=1).unflatten(2, states.shape[2:])
        self.layers[layer] = both
        keys, values = both.permute(2, 0, 3, 1, 4)
        return attended(queries.transpose(1, 2), keys, values, self.bias)


Past = DecoderPast | SharedPast


def in_aligned_rows(bias: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """`bias + mask`, on a GPU in rows of memory that attention reads where they are and does not have to copy."""
    if bias.device.type == "cpu":
        return bias if mask is None else bias + mask
    length = bias.shape[-1]
    # Of whole rows `pad` makes a copy that lies as the bias does, heads last: SDPA's kernel refuses such a sum.
    bias = nn.functional.pad(bias, (0, _aligned(length) - length)).contiguous()
    if mask is not None:
        bias = bias + nn.functional.pad(mask, (0, _aligned(length) - length))
    return bias[..., :length]


def _aligned(length: int) -> int:
    return -(-length // ALIGNED) * ALIGNED


def by_head(projected: torch.Tensor, batch_size: int, attention: T5Attention, parts: int) -> torch.Tensor:
    """`(parts, batch_size, num_heads, length, d_kv)` of `(batch_size * length, parts * inner)`."""
    length = len(projected) // max(batch_size, 1)
    split = projected.view(batch_size, length, parts, attention.n_heads, attention.key_value_proj_dim)
    return split.permute(2, 0, 3, 1, 4)


def attended(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """`(batch_size * length, inner)` of what [`by_head`] gives."""
    attended = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=1.0)
    return attended.transpose(1, 2).reshape(-1, attended.shape[1] * attended.shape[3])


def _self_attention(queries: torch.Tensor, positions: Sequence[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    """Each row attends to the few positions before it and to itself; a product per position beats tiny matrices.

    Args:
        queries: `(batch_size, rows, num_heads, d_kv)`.
        positions: see [`DecoderPast`].
        bias: `(positions, 1, 1, num_heads)`.

    Returns:
        `(batch_size * rows, inner)`.
    """
    product = torch.empty_like(queries)
    scores = queries.new_empty(len(positions), *queries.shape[:-1])
    keys, values = zip(*(states.unbind(2) for states in positions), strict=True)
    for key, score in zip(keys, scores.unbind(), strict=True):
        torch.sum(torch.mul(queries, key, out=product), -1, out=score)
    weights = torch.softmax(scores.add_(bias), 0, dtype=score_dtype(scores.dtype)).to(scores.dtype)
    first, *others = weights.unsqueeze(-1).unbind()
    attended = torch.mul(first, values[0], out=product)
    for weight, value in zip(others, values[1:], strict=True):
        attended.addcmul_(weight, value)
    return attended.view(-1, queries.shape[2] * queries.shape[3])
