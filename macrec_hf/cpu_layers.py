"""T5's layers as a CPU trains them fastest: the weights, their names and the values are T5's own.

Where a layer is what T5 made it and gradients are wanted on a CPU, its arithmetic goes through [`cpu_functions`]; in
every other case (no gradients, other devices, half precision, autocast, compiling, a cache, adapters or hooks on its
parts) T5's own forward pass is called.
"""

from typing import Any

import torch
from torch import nn
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5DenseActDense,
    T5LayerCrossAttention,
    T5LayerFF,
    T5LayerNorm,
    T5LayerSelfAttention,
)

from .byte_dropout import ByteDropout, dropped_of
from .cpu_attention import NAME, added_mask
from .cpu_functions import FeedForward, JoinedAttention, SelfAttention
from .cpu_linear import is_called_as_is, is_plain

_SHORT = 32  # tokens, by timing 4 to 33: of longer sequences the attention itself is too much of a layer


def use_cpu_layers(model: nn.Module) -> None:
    """Makes a CPU layer of every layer of a T5; weights and their names stay."""
    for module in model.modules():
        if type(module) in _LAYERS:
            module.__class__ = _LAYERS[type(module)]


class CpuFeedForward(T5LayerFF):
    """[`~transformers.models.t5.modeling_t5.T5LayerFF`] through [`FeedForward`]."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        dense: nn.Module = self.DenseReluDense
        if not (
            _suits(hidden_states, self.layer_norm, self.dropout)
            and type(dense) is T5DenseActDense
            and type(dense.act) is nn.ReLU
            and is_called_as_is(dense)
            and is_called_as_is(dense.act)
            and _is_dropout(dense.dropout)
            and _are_plain(hidden_states, dense.wi, dense.wo)
        ):
            return super().forward(hidden_states)
        return FeedForward.apply(
            hidden_states.reshape(-1, hidden_states.shape[-1]),
            self.layer_norm.weight,
            dense.wi.weight,
            dense.wo.weight,
            self.layer_norm.variance_epsilon,
            _dropped(dense.dropout),
            _dropped(self.dropout),
        ).view(hidden_states.shape)


class CpuSelfAttention(T5LayerSelfAttention):
    """[`~transformers.models.t5.modeling_t5.T5LayerSelfAttention`] through [`SelfAttention`]."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        attention, length = self.SelfAttention, hidden_states.shape[1]
        if not (
            _suits(hidden_states, self.layer_norm, self.dropout)
            and _attends_plainly(attention, hidden_states, attention_mask)
            and past_key_values is None
        ):
            return super().forward(hidden_states, attention_mask, position_bias, past_key_values, **kwargs)
        if position_bias is None:
            if attention.has_relative_attention_bias:
                position_bias = attention.compute_bias(length, length, device=hidden_states.device)
            else:
                position_bias = hidden_states.new_zeros(1, attention.n_heads, length, length)
        bias = position_bias
        if attention_mask is not None:
            if bool((attention_mask == attention_mask[:, :, :1]).all()):
                attention_mask = attention_mask[:, :, :1]  # the same for each query, as padding is
        elif attention.is_causal:
            later = torch.ones(length, length, dtype=torch.bool).triu(1)
            bias = bias.masked_fill(later, torch.finfo(bias.dtype).min)
        norm, hidden = self.layer_norm.weight, hidden_states.contiguous()
        q, k, v, o = _weights(attention)
        rest = bias, *_rest(self, attention, hidden, attention_mask)
        if length <= _SHORT and _joining_pays(attention):
            joined = _joined(q * norm, k * norm, v * norm, o, attention.n_heads)
            out = JoinedAttention.apply(hidden, None, *joined, *rest)
        else:
            out = SelfAttention.apply(hidden, norm, q, k, v, o, *rest)
        return out, position_bias, None


class CpuCrossAttention(T5LayerCrossAttention):
    """[`~transformers.models.t5.modeling_t5.T5LayerCrossAttention`] without keys and values of the source.

    With few queries it is less arithmetic to bring them to the source's states, through the keys' weight, than the
    states to them; and to take the values' weight of what was attended than of every state.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        attention = self.EncDecAttention
        (users, queries, size), length = hidden_states.shape, key_value_states.shape[1]
        heads, width = attention.n_heads, attention.key_value_proj_dim
        if not (
            _suits(hidden_states, self.layer_norm, self.dropout)
            and _attends_plainly(attention, hidden_states, attention_mask)
            and key_value_states.dtype == hidden_states.dtype
            and past_key_values is None
            and queries * size < (queries + size) * width
        ):
            return super().forward(
                hidden_states, key_value_states, attention_mask, position_bias, past_key_values, **kwargs
            )
        if position_bias is None:
            position_bias = hidden_states.new_zeros(1, heads, queries, length)  # T5 has none here
        if _joining_pays(attention):
            q, k, v, o = _weights(attention)
            joined = _joined(q * self.layer_norm.weight, k, v, o, heads)
            hidden, source = hidden_states.contiguous(), key_value_states.contiguous()
            rest = _rest(self, attention, hidden, attention_mask)
            out = JoinedAttention.apply(hidden, source, *joined, None, *rest)
            return out, position_bias, None

        def by_head(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            """(heads, users · queries, in), (heads, in, out) → (users, heads · queries, out)."""
            product = torch.bmm(values, weight).view(heads, users, queries, -1)
            return product.transpose(0, 1).reshape(users, heads * queries, -1)

        query = attention.q(self.layer_norm(hidden_states)).view(-1, heads, width).transpose(0, 1)
        query = by_head(query, attention.k.weight.view(heads, width, size))
        scores = torch.bmm(query, key_value_states.transpose(1, 2)).view(users, heads, queries, length)
        if attention_mask is not None:
            scores = scores.add_(added_mask(attention_mask, scores.dtype))
        weights = torch.softmax(scores, dim=-1)
        if attention.training and attention.dropout:
            weights = ByteDropout(attention.dropout)(weights)
        states = torch.bmm(weights.view(users, heads * queries, length), key_value_states)
        states = states.view(users, heads, queries, size).transpose(0, 1).reshape(heads, -1, size)
        values = by_head(states, attention.v.weight.view(heads, width, size).transpose(1, 2))
        values = values.view(users, heads, queries, width).transpose(1, 2).reshape(users, queries, -1)
        return hidden_states + self.dropout(attention.o(values)), position_bias, None


def _suits(hidden: torch.Tensor, norm: nn.Module, dropout: nn.Module) -> bool:
    """Whether gradients are wanted of a tensor on a CPU, and the norm and the dropout around a layer are T5's."""
    return (
        torch.is_grad_enabled()
        and hidden.device.type == "cpu"
        and hidden.dtype in (torch.float32, torch.float64)
        and hidden.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and type(norm) is T5LayerNorm
        and norm.weight.dtype == hidden.dtype
        and is_called_as_is(norm)
        and _is_dropout(dropout)
    )


def _is_dropout(module: nn.Module) -> bool:
    if not isinstance(module, nn.Dropout) or type(module) not in (nn.Dropout, ByteDropout):
        return False
    return module.p < 1 and is_called_as_is(module)


def _are_plain(hidden: torch.Tensor, *linears: nn.Module) -> bool:
    return all(is_plain(linear) and linear.weight.dtype == hidden.dtype for linear in linears)


def _attends_plainly(attention: T5Attention, hidden: torch.Tensor, mask: torch.Tensor | None) -> bool:
    return (
        attention.config._attn_implementation == NAME
        and is_called_as_is(attention)
        and _are_plain(hidden, attention.q, attention.k, attention.v, attention.o)
        and attention.dropout < 1
        and (mask is None or mask.ndim == 4)
    )


def _weights(attention: T5Attention) -> tuple[torch.Tensor, ...]:
    return tuple(linear.weight for linear in (attention.q, attention.k, attention.v, attention.o))


def _rest(
    layer: T5LayerSelfAttention | T5LayerCrossAttention,
    attention: T5Attention,
    hidden: torch.Tensor,
    mask: torch.Tensor | None,
) -> tuple[torch.Tensor | None, float, int, int]:
    """What both functions of attention take last: mask, epsilon, and how many of 256 bytes drop their element."""
    if mask is not None:
        mask = added_mask(mask, hidden.dtype).expand(len(hidden), -1, -1, -1)
    on_weights = dropped_of(attention.dropout) if attention.training else 0
    return mask, layer.layer_norm.variance_epsilon, on_weights, _dropped(layer.dropout)


def _joining_pays(attention: T5Attention) -> bool:
    """Whether a product with the product of two weights of a head is no more than two products."""
    return attention.d_model <= 2 * attention.key_value_proj_dim


def _joined(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, o: torch.Tensor, heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each head qᵀ · k and vᵀ · oᵀ, as [`JoinedAttention`] takes them."""
    size = q.shape[1]
    q, k, v, o = (weight.view(heads, -1, size) for weight in (q, k, v, o.t()))
    into = torch.bmm(q.transpose(1, 2), k).transpose(0, 1).reshape(size, -1)
    return into, torch.bmm(v.transpose(1, 2), o).view(-1, size)


def _dropped(dropout: nn.Dropout) -> int:
    return dropped_of(dropout.p) if dropout.training else 0


_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    T5LayerFF: CpuFeedForward,
    T5LayerSelfAttention: CpuSelfAttention,
    T5LayerCrossAttention: CpuCrossAttention,
}
