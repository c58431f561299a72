"""T5's encoder, and its decoder one position at a time for many continuations of each user, without dropout.

`generate` holds the encoder's keys and values once for each beam and moves them at every step. Here they are projected
once for each user and all rows of that user attend to them together. The weights are the model's own, read anew for
each batch; projections of the same input are joined into one product. A projection that is more than a plain
`nn.Linear` (an adapter, a quantized or hooked layer) is called as the module that it is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import torch
from torch import nn
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import (
    T5Attention,
    T5Block,
    T5LayerCrossAttention,
    T5LayerFF,
    T5LayerNorm,
    T5Stack,
)

from .cpu_linear import CpuLinear, convolution_pays, linear

_MERGED_SPEED = 1.3  # by timing 0 (never), 1.3 and no limit: 96, 104 and 91 users a second on one core
_HEAD_ROWS = 512  # by timing 80 to 1,280 rows of 2,055 tokens on two cores: 320 and 640 are alike and best


def score_dtype(dtype: torch.dtype) -> torch.dtype:
    """What scores of a model of this dtype are summed in: float64 for float64, float32 for the others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def start_token(model: T5ForConditionalGeneration) -> int:
    """The token that the model's decoder starts with."""
    token = model.generation_config.decoder_start_token_id
    if token is None:
        raise ValueError(
            "decoder_start_token_id: expected a token id in model.generation_config, got None. Plain T5 configs have "
            "no such field: set model.generation_config.decoder_start_token_id (in T5 it is the pad token's)."
        )
    return token


class _Joined:
    """Linear maps of the same input as one product: their outputs side by side on the last axis.

    With a norm, of what that norm gives: its weight is then part of the product's, see [`_folds`].
    """

    def __init__(self, *modules: nn.Linear, norm: nn.Module | None = None):
        self.modules, self.norm = modules, norm
        self.weight: torch.Tensor | None = None
        if all(map(_is_plain, modules)):
            weight = torch.cat([module.weight for module in modules]) if len(modules) > 1 else modules[0].weight
            self.weight = _folded(norm, weight)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of states that [`_normed`] has seen, if there is a norm."""
        if self.weight is not None:
            return linear(hidden, self.weight)
        if _folds(self.norm):
            hidden = hidden * self.norm.weight
        return torch.cat([module(hidden) for module in self.modules], dim=-1)


class _Head:
    """Log-probabilities over the whole vocabulary.

    Rows of an odd width are slow to write (a third of the product's speed on AVX2), so the vocabulary is padded to
    whole vectors, with tokens that have the probability 0.
    """

    def __init__(self, model: T5ForConditionalGeneration):
        self.module = model.lm_head
        self.weight: torch.Tensor | None = None
        self.scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else None
        if _is_plain(self.module):
            weight = self.module.weight
            padding = -len(weight) % 16
            self.weight = nn.functional.pad(weight, (0, 0, 0, padding))
            self.bias = nn.functional.pad(weight.new_zeros(len(weight)), (0, padding), value=-torch.inf)

    def log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 (float64 for a float64 model), at least `vocab_size` on the last axis, any beyond that -inf."""
        hidden = hidden if self.scale is None else hidden * self.scale
        logits = self.module(hidden) if self.weight is None else linear(hidden, self.weight, self.bias)
        return torch.log_softmax(logits, dim=-1, dtype=score_dtype(logits.dtype))


def _is_plain(module: nn.Module) -> bool:
    """Whether calling the module is one product with its weight."""
    return type(module) in (nn.Linear, CpuLinear) and module.bias is None and _is_called_as_is(module)


def _is_called_as_is(module: nn.Module) -> bool:
    return "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks


def _folds(norm: nn.Module | None) -> TypeGuard[T5LayerNorm]:
    """Whether the norm's weight may be multiplied into that of the product behind it.

    In float32 alone: narrower types would notice that the weight is rounded once more, and of a float64 model T5 takes
    the variance in float32, which is only followed by calling the norm.
    """
    return type(norm) is T5LayerNorm and norm.weight.dtype == torch.float32 and _is_called_as_is(norm)


def _folded(norm: nn.Module | None, weight: torch.Tensor) -> torch.Tensor:
    return weight * norm.weight if _folds(norm) else weight


def _normed(norm: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """What the norm gives, without the factor of its weight where [`_folds`]."""
    if not _folds(norm):
        return norm(hidden)
    scale = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).square_().div_(hidden.shape[-1])
    return hidden * scale.add_(norm.variance_epsilon).rsqrt_()


def _layers(stack: T5Stack) -> list[list[Any]]:
    """The layers of each block: self-attention, in a decoder cross-attention, feed-forward."""
    return [list(block.layer) for block in cast("Iterable[T5Block]", stack.block)]


def encode(
    model: T5ForConditionalGeneration, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The encoder's states; what `model.encoder` returns in eval mode.

    Args:
        model: any `T5ForConditionalGeneration`.
        input_ids: long, `(batch_size, sequence_length)`.
        attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.

    Returns:
        float, `(batch_size, sequence_length, d_model)`.
    """
    encoder = model.encoder
    hidden = encoder.embed_tokens(input_ids)
    length = input_ids.shape[1]
    blocks = _layers(encoder)
    bias = blocks[0][0].SelfAttention.compute_bias(length, length)
    mask = _additive_mask(attention_mask, hidden.dtype)
    bias = bias if mask is None else bias + mask
    for layer, dense_layer in blocks:
        attention, norm = layer.SelfAttention, layer.layer_norm
        projected = _Joined(attention.q, attention.k, attention.v, norm=norm)(_normed(norm, hidden))
        queries, keys, values = _by_head(projected, attention, 3)
        attended = nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
        hidden = _add_product(hidden, attention.o, attended.transpose(1, 2).flatten(2))
        hidden = _Dense(dense_layer).added(hidden)
    return encoder.final_layer_norm(hidden)


@dataclass
class DecoderPast:
    """Self-attention keys and values of the positions so far.

    `layers[layer][position]` is float `(batch_size, rows or 1, 2, num_heads, d_kv)`; 1 where all rows of a user share
    the position, as they do the decoder start token.
    """

    layers: list[list[torch.Tensor]]

    def reorder(self, parents: torch.Tensor) -> "DecoderPast":
        """The past of rows that continue the rows `parents`: long `(batch_size, rows)`, or `(rows,)` for all users."""
        return DecoderPast([[_take(states, parents) for states in positions] for positions in self.layers])


class DecoderSteps:
    """The decoder of one batch of users: what cross-attention reads of the encoder's states is computed once.

    Args:
        model: any `T5ForConditionalGeneration`.
        encoder_hidden_states: float, `(batch_size, sequence_length, d_model)`.
        attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.
        expected_rows: rows of a user in all steps together, to choose the cheaper form of cross-attention.
    """

    def __init__(
        self,
        model: T5ForConditionalGeneration,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        expected_rows: int = 1,
    ):
        self.model, self.decoder = model, model.decoder
        self.batch_size, self.device = len(encoder_hidden_states), encoder_hidden_states.device
        self.score_dtype = score_dtype(encoder_hidden_states.dtype)
        self.head = _Head(model)
        mask = _additive_mask(attention_mask, encoder_hidden_states.dtype)
        self.layers = []
        for layer, cross_layer, dense_layer in _layers(self.decoder):
            attention, norm = layer.SelfAttention, layer.layer_norm
            merged = _merging_pays(cross_layer, encoder_hidden_states, expected_rows)
            cross = (_MergedCrossAttention if merged else _CrossAttention)(cross_layer, encoder_hidden_states, mask)
            queries = _Joined(attention.q, norm=norm)
            states = _Joined(attention.k, attention.v, norm=norm)
            self.layers.append((norm, queries, states, attention, cross, _Dense(dense_layer)))

    def start(self) -> tuple[torch.Tensor, DecoderPast]:
        """What the first position reads: the decoder start token, long `(batch_size, 1)`, and an empty past."""
        tokens = torch.full((self.batch_size, 1), start_token(self.model), device=self.device)
        return tokens, DecoderPast([[] for _ in self.layers])

    def step(self, tokens: torch.Tensor, past: DecoderPast) -> tuple[torch.Tensor, DecoderPast]:
        """Reads one more token of each row.

        Args:
            tokens: long, `(batch_size, rows)`.
            past: [`DecoderPast`] of the same rows.

        Returns:
            `(hidden, past)`: float `(batch_size, rows, d_model)` after the last norm, and the past with this position.
        """
        hidden = self.decoder.embed_tokens(tokens)
        place = len(past.layers[0])
        first = self.layers[0][3]  # its bias is that of all layers
        bias = first.compute_bias(1, place + 1, past_seen_tokens=place)[0, :, 0]
        layers: list[list[torch.Tensor]] = []
        for (norm, to_queries, to_states, attention, cross, dense), positions in zip(
            self.layers, past.layers, strict=True
        ):
            shape = attention.n_heads, attention.key_value_proj_dim
            if layers:
                normed = _normed(norm, hidden)
                queries, states = to_queries(normed), to_states(normed)
            else:
                queries, states = self._of_tokens(tokens, norm, to_queries, to_states)
            positions = [*positions, states.view(*tokens.shape, 2, *shape)]
            layers.append(positions)
            attended = _self_attention(queries.view(*tokens.shape, *shape), positions, bias)
            hidden = _add_product(hidden, attention.o, attended)
            hidden = dense.added(cross.added(hidden))
        return self.decoder.final_layer_norm(hidden), DecoderPast(layers)

    def _of_tokens(
        self, tokens: torch.Tensor, norm: nn.Module, to_queries: _Joined, to_states: _Joined
    ) -> list[torch.Tensor]:
        """The first layer reads tokens alone: each distinct one is projected once."""
        distinct, places = tokens.unique(return_inverse=True)
        normed = _normed(norm, self.decoder.embed_tokens(distinct))
        return [to(normed).index_select(0, places.flatten()) for to in (to_queries, to_states)]

    def log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the next token, `(batch_size, rows, vocab_size or more)`, see [`_Head`]."""
        return self.head.log_probs(hidden)

    def token_log_probs(self, hidden: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Those of `tokens` alone, long `(batch_size, rows, n)`.

        On the CPU some rows at a time: the vocabulary's logits are by far the largest tensor, and written anew for a
        whole batch they cost more in fresh memory than in arithmetic.
        """
        rows = len(hidden) if hidden.device.type != "cpu" else max(1, _HEAD_ROWS // max(1, hidden.shape[1]))
        parts = zip(hidden.split(rows), tokens.split(rows), strict=True)
        return torch.cat([self.head.log_probs(part).gather(-1, wanted) for part, wanted in parts])


class _CrossAttention:
    """Cross-attention as T5 writes it, with keys and values projected once."""

    def __init__(self, layer: T5LayerCrossAttention, states: torch.Tensor, mask: torch.Tensor | None):
        self.norm, self.attention, self.mask = layer.layer_norm, layer.EncDecAttention, mask
        self.to_queries = _Joined(self.attention.q, norm=self.norm)
        projected = _Joined(self.attention.k, self.attention.v)(states)
        keys, values = _by_head(projected, self.attention, 2).flatten(1, 2)
        self.keys, self.values = keys.transpose(1, 2).contiguous(), values.contiguous()

    def added(self, hidden: torch.Tensor) -> torch.Tensor:
        attention = self.attention
        queries = _by_head(self.to_queries(_normed(self.norm, hidden)), attention, 1)[0].flatten(0, 1)
        scores = torch.bmm(queries, self.keys).unflatten(0, (-1, attention.n_heads))
        if self.mask is not None:
            scores.add_(self.mask)
        attended = torch.bmm(_softmax(scores).flatten(0, 1), self.values).unflatten(0, (-1, attention.n_heads))
        return _add_product(hidden, attention.o, attended.transpose(1, 2).flatten(2))


class _MergedCrossAttention:
    """Cross-attention whose query and output projections are applied to the keys and values instead.

    The score of head h, `(Q_h x)·(K_h e)`, is `x·(Q_h' K_h e)`, and what it adds, `O_h (V_h e)`, is `(O_h V_h) e`. So
    one product of each user's rows with `num_heads * sequence_length` vectors gives the scores of all heads, and a
    second one their sum: fewer, larger products than two projections of every row and two small ones a head.
    """

    def __init__(self, layer: T5LayerCrossAttention, states: torch.Tensor, mask: torch.Tensor | None):
        self.norm, attention = layer.layer_norm, layer.EncDecAttention
        self.num_heads, (batch_size, length, d_model) = attention.n_heads, states.shape
        heads = (self.num_heads, attention.key_value_proj_dim, d_model)
        queries = _folded(self.norm, attention.q.weight).view(heads)
        keys, values = attention.k.weight.view(heads), attention.v.weight.view(heads)
        outputs = attention.o.weight.t().view(heads)
        weight = torch.cat([torch.bmm(keys.mT, queries), torch.bmm(values.mT, outputs)])  # heads, encoder, decoder
        merged = states.flatten(0, 1) @ weight.transpose(0, 1).flatten(1)
        merged = merged.view(batch_size, length, 2, -1, d_model).permute(2, 0, 3, 1, 4).contiguous()
        self.keys, self.values = merged[0].flatten(1, 2).mT, merged[1].flatten(1, 2)
        self.mask = None if mask is None else mask.expand(-1, -1, self.num_heads, -1).flatten(2)

    def added(self, hidden: torch.Tensor) -> torch.Tensor:
        normed = _normed(self.norm, hidden)
        scores = torch.bmm(normed, self.keys) if self.mask is None else self.mask.baddbmm(normed, self.keys)
        weights = _softmax(scores.unflatten(-1, (self.num_heads, -1))).flatten(2)
        return hidden.baddbmm_(weights, self.values)


def _merging_pays(layer: T5LayerCrossAttention, states: torch.Tensor, rows: int) -> bool:
    """By the products of both forms; in float32 and float64 alone, because merged weights are rounded once more."""
    attention, (_, length, d_model) = layer.EncDecAttention, states.shape
    modules = attention.q, attention.k, attention.v, attention.o
    exact = states.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(states.device.type)
    if not exact or not all(map(_is_plain, modules)):
        return False
    wide = attention.n_heads * d_model
    merged = length * wide * (d_model + rows)
    separate = (rows + length) * d_model * attention.inner_dim + rows * length * attention.inner_dim
    return merged < _MERGED_SPEED * separate


class _Dense:
    """The feed-forward layer."""

    def __init__(self, layer: T5LayerFF):
        self.norm, self.dense = layer.layer_norm, layer.DenseReluDense
        self.gated = hasattr(self.dense, "wi_0")  # T5 v1.1: one of two input layers gates the other
        first = (self.dense.wi_0, self.dense.wi_1) if self.gated else (self.dense.wi,)
        self.first = [_Joined(cast(nn.Linear, module), norm=self.norm) for module in first]

    def added(self, hidden: torch.Tensor) -> torch.Tensor:
        dense, normed = self.dense, _normed(self.norm, hidden)
        inner = self.first[0](normed)
        inner = inner.relu_() if isinstance(dense.act, nn.ReLU) else dense.act(inner)
        if self.gated:
            inner = inner * self.first[1](normed)
        return _add_product(hidden, dense.wo, inner.to(dense.wo.weight.dtype))  # float16 models keep it in float32


def _additive_mask(attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """`(batch_size, 1, 1, sequence_length)`: 0, or the lowest number where there is padding; None without padding."""
    if attention_mask is None or attention_mask.all():
        return None
    closed = attention_mask[:, None, None, :] == 0
    # Not -inf: a row of padding alone must stay finite, as in T5.
    return torch.zeros_like(closed, dtype=dtype).masked_fill_(closed, torch.finfo(dtype).min)


def _by_head(projected: torch.Tensor, attention: T5Attention, parts: int) -> torch.Tensor:
    """`(parts, batch_size, num_heads, length, d_kv)` of `(batch_size, length, parts * inner)`."""
    batch_size, length, _ = projected.shape
    split = projected.view(batch_size, length, parts, attention.n_heads, attention.key_value_proj_dim)
    return split.permute(2, 0, 3, 1, 4)


def _self_attention(queries: torch.Tensor, positions: Sequence[torch.Tensor], bias: torch.Tensor) -> torch.Tensor:
    """Each row attends to the few positions before it and to itself; a product per position beats tiny matrices."""
    product = torch.empty_like(queries)
    scores = queries.new_empty(*queries.shape[:-1], len(positions))
    for place, states in enumerate(positions):
        torch.sum(torch.mul(queries, states[:, :, 0], out=product), -1, out=scores[..., place])
    weights = _softmax(scores.add_(bias)).unsqueeze(-1)
    attended = torch.mul(weights[..., 0, :], positions[0][:, :, 1], out=product)
    for place, states in enumerate(positions[1:], start=1):
        attended.addcmul_(weights[..., place, :], states[:, :, 1])
    return attended.flatten(2)


def _add_product(hidden: torch.Tensor, module: nn.Linear, change: torch.Tensor) -> torch.Tensor:
    """`hidden + module(change)`, written to `hidden` where one product can add to it."""
    if _is_plain(module) and hidden.dtype == change.dtype == module.weight.dtype != torch.float16:
        if convolution_pays(change, module.weight):
            return hidden.add_(linear(change, module.weight))
        hidden.view(-1, hidden.shape[-1]).addmm_(change.flatten(0, 1), module.weight.t())
        return hidden
    hidden = hidden + module(change)
    if hidden.dtype == torch.float16:  # T5 keeps float16 finite this way
        limit = torch.finfo(hidden.dtype).max - 1000
        hidden = hidden.clamp(-limit, limit)
    return hidden


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    return torch.softmax(scores, -1, dtype=score_dtype(scores.dtype)).to(scores.dtype)


def _take(states: torch.Tensor, parents: torch.Tensor) -> torch.Tensor:
    if states.shape[1] == 1:
        return states
    if parents.dim() == 1:
        return states.index_select(1, parents)
    batch_size, rows = states.shape[:2]
    offsets = torch.arange(batch_size, device=parents.device).unsqueeze(1) * rows
    return states.flatten(0, 1).index_select(0, (parents + offsets).flatten()).view(*parents.shape, *states.shape[2:])
