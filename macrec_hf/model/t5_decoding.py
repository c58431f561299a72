"""T5's encoder, and its decoder one position at a time for many continuations of each user, without dropout.

`generate` holds the encoder's keys and values once for each beam and moves them at every step. Here they are projected
once for each user and all rows of that user attend to them together. The weights are the model's own, read anew for
each call of the search; projections of the same input are joined into one product. An adapter in the place of a
projection is called as the module that it is. What else a model may do is followed in `model_decoding.py`.
"""

from collections.abc import Iterable
from typing import Any, TypeGuard, cast

import torch
from torch import nn
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import (
    T5Block,
    T5LayerCrossAttention,
    T5LayerFF,
    T5LayerNorm,
    T5Stack,
)

from .search_kernels import (
    DecoderPast,
    Past,
    SearchKernels,
    SharedPast,
    attended,
    by_head,
    in_aligned_rows,
    may_look,
    score_dtype,
    search_kernels,
)

_PLACES = 8  # of the decoder, whose position bias is made at once: the codes of an ID are fewer
_WIDTHS = 8  # numbers: of half precision they are the 16 bytes that a GPU reads at once
_SHARED_ROWS = 512  # of a user: of more the mask, which grows with their square, takes more memory than their states
_HEAD_ROWS = 640  # by timing 80 to 1,280 rows of 2,055 tokens on two cores: 320 and 640 are alike and best


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

    def __init__(self, kernels: SearchKernels, *modules: nn.Linear, norm: nn.Module | None = None):
        self.kernels, self.modules, self.norm = kernels, modules, norm
        self.weight: torch.Tensor | None = None
        if all(_is_plain(module, kernels) for module in modules):
            weight = torch.cat([module.weight for module in modules]) if len(modules) > 1 else modules[0].weight
            self.weight = weight * norm.weight if _folds(norm) else weight

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of states that [`_normed`] has seen, if there is a norm."""
        if self.weight is not None:
            return self.kernels.linear(hidden, self.weight)
        if _folds(self.norm):
            hidden = hidden * self.norm.weight
        return torch.cat([module(hidden) for module in self.modules], dim=-1)


class _Added:
    """A linear map whose output is added to the states that a layer was given."""

    def __init__(self, kernels: SearchKernels, module: nn.Linear):
        self.kernels, self.module = kernels, module
        self.weight = module.weight if _is_plain(module, kernels) else None

    def added(self, hidden: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """`hidden + module(change)`, `(rows, d_model)`, written to `hidden` where one product can add to it."""
        if self.weight is not None and hidden.dtype == change.dtype == self.weight.dtype != torch.float16:
            return self.kernels.add_linear(hidden, change, self.weight)
        hidden = hidden + self.module(change)
        if hidden.dtype == torch.float16:  # T5 keeps float16 finite this way
            limit = torch.finfo(hidden.dtype).max - 1000
            hidden = hidden.clamp(-limit, limit)
        return hidden


class _Head:
    """Log-probabilities over the whole vocabulary."""

    def __init__(self, model: T5ForConditionalGeneration):
        self.module, self.kernels = model.lm_head, search_kernels(model)
        self.weight = self.module.weight if _is_plain(self.module, self.kernels) else None
        self.tokens: int | None = None
        if self.weight is not None and self.weight.device.type != "cpu" and len(self.weight) % _WIDTHS:
            self.tokens = len(self.weight)  # GPUs are slow at products of odd widths
            self.weight = nn.functional.pad(self.weight, (0, 0, 0, -self.tokens % _WIDTHS))
        self.scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else None

    def log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """float32 (float64 for a float64 model), `vocab_size` on the last axis."""
        hidden = hidden if self.scale is None else hidden * self.scale
        logits = self.module(hidden) if self.weight is None else self.kernels.linear(hidden, self.weight)
        logits = logits[..., : self.tokens]
        return torch.log_softmax(logits, dim=-1, dtype=score_dtype(logits.dtype))


def _is_plain(module: nn.Module, kernels: SearchKernels) -> bool:
    """Whether calling the module is one product with its weight."""
    return type(module) in kernels.linear_classes and module.bias is None


def _folds(norm: nn.Module | None) -> TypeGuard[T5LayerNorm]:
    """Whether the norm's weight may be multiplied into that of the product behind it.

    In float32 alone: narrower types would notice that the weight is rounded once more, and of a float64 model T5 takes
    the variance in float32, which is only followed by calling the norm.
    """
    return isinstance(norm, T5LayerNorm) and norm.weight.dtype == torch.float32


def _normed(norm: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """What the norm gives, without the factor of its weight where [`_folds`]."""
    if not _folds(norm):
        return norm(hidden)
    return nn.functional.rms_norm(hidden, hidden.shape[-1:], eps=norm.variance_epsilon)


def _layers(stack: T5Stack) -> list[list[Any]]:
    """The layers of each block: self-attention, in a decoder cross-attention, feed-forward."""
    return [list(block.layer) for block in cast("Iterable[T5Block]", stack.block)]


class EncoderPass:
    """A plain model's encoder. Its weights are read when this is made: make one for each call.

    Args:
        model: a `T5ForConditionalGeneration` without a `search_kernels.departure`.
    """

    def __init__(self, model: T5ForConditionalGeneration):
        self.encoder, kernels = model.encoder, search_kernels(model)
        self.layers = []
        for layer, dense in _layers(self.encoder):
            attention, norm = layer.SelfAttention, layer.layer_norm
            joined = _Joined(kernels, attention.q, attention.k, attention.v, norm=norm)
            self.layers.append((norm, attention, joined, _Added(kernels, attention.o), _Dense(kernels, dense)))

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """The encoder's states; what `model.encoder` returns in eval mode.

        Args:
            input_ids: long, `(batch_size, sequence_length)`.
            attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.

        Returns:
            float, `(batch_size, sequence_length, d_model)`.
        """
        batch_size, length = input_ids.shape
        hidden = getattr(self.encoder, "embedded", self.encoder.embed_tokens)(input_ids).flatten(0, 1)
        first = self.layers[0][1]  # its bias is that of all layers
        bias, mask = first.compute_bias(length, length), _additive_mask(attention_mask, hidden.dtype)
        bias = in_aligned_rows(bias, mask)
        for norm, attention, joined, output, dense in self.layers:
            queries, keys, values = by_head(joined(_normed(norm, hidden)), batch_size, attention, 3)
            hidden = dense.added(output.added(hidden, attended(queries, keys, values, bias)))
        return self.encoder.final_layer_norm(hidden).view(batch_size, length, hidden.shape[-1])


class DecoderWeights:
    """A plain model's decoder. Its weights are read when this is made: make one for each call.

    Args:
        model: a `T5ForConditionalGeneration` without a `search_kernels.departure`.
    """

    def __init__(self, model: T5ForConditionalGeneration):
        self.model, self.head, kernels = model, _Head(model), search_kernels(model)
        self.layers = []
        for layer, cross, dense in _layers(model.decoder):
            attention, norm = layer.SelfAttention, layer.layer_norm
            queries = _Joined(kernels, attention.q, norm=norm)
            states = _Joined(kernels, attention.k, attention.v, norm=norm)
            blocks = _Added(kernels, attention.o), _CrossAttention(kernels, cross), _Dense(kernels, dense)
            self.layers.append((norm, attention, queries, states, *blocks))


class DecoderSteps:
    """The decoder of one batch of users: what cross-attention reads of the encoder's states is computed once.

    Args:
        weights: [`DecoderWeights`]; threads may share them.
        encoder_hidden_states: float, `(batch_size, sequence_length, d_model)`.
        attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ):
        self.model, self.layers, self.head = weights.model, weights.layers, weights.head
        self.batch_size, self.device = len(encoder_hidden_states), encoder_hidden_states.device
        self.score_dtype = score_dtype(encoder_hidden_states.dtype)
        mask = _additive_mask(attention_mask, encoder_hidden_states.dtype)
        self.mask = None if mask is None else in_aligned_rows(mask)
        self.encoded = [cross.keys_and_values(encoder_hidden_states) for *_, cross, _ in self.layers]
        self.bias = self._bias_of(_PLACES - 1)

    def _bias_of(self, place: int) -> torch.Tensor:
        """`(place + 1, 1, 1, num_heads)`, added to the scores of a row's past; of an earlier place its last."""
        first = self.layers[0][1]  # its bias is that of all layers
        return first.compute_bias(1, place + 1, past_seen_tokens=place)[0, :, 0].t()[:, None, None]

    def start(self, rows: int | None = None) -> tuple[torch.Tensor, Past]:
        """What the first position reads: the decoder start token, long `(batch_size, 1)`, and an empty past.

        Args:
            rows: of each user, at most, whose parents differ from user to user. Where they are few, a device on which
                moving states costs more than skipping them holds their past as one, see [`SharedPast`].
        """
        tokens = torch.full((self.batch_size, 1), start_token(self.model), device=self.device)
        shared = rows is not None and rows <= _SHARED_ROWS and not may_look(tokens)
        return tokens, (SharedPast if shared else DecoderPast).empty(len(self.layers))

    def step(self, tokens: torch.Tensor, past: Past) -> tuple[torch.Tensor, Past]:
        """Reads one more token of each row.

        Args:
            tokens: long, `(batch_size, rows)`.
            past: [`DecoderPast`] or [`SharedPast`] of the same rows.

        Returns:
            `(hidden, past)`: float `(batch_size, rows, d_model)` after the last norm, and the past with this position.
        """
        hidden = self.model.decoder.embed_tokens(tokens).flatten(0, 1)
        place = past.place
        if place >= len(self.bias):
            self.bias = self._bias_of(2 * place)
        past = past.grown(tokens, self.bias[len(self.bias) - 1 - place :])
        for layer, ((norm, attention, to_queries, to_states, output, cross, dense), encoded) in enumerate(
            zip(self.layers, self.encoded, strict=True)
        ):
            shape = attention.n_heads, attention.key_value_proj_dim
            if layer:
                normed = _normed(norm, hidden)
                queries, states = to_queries(normed), to_states(normed)
            else:
                queries, states = self._of_tokens(tokens, norm, to_queries, to_states)
            queries, states = queries.view(*tokens.shape, *shape), states.view(*tokens.shape, 2, *shape)
            hidden = output.added(hidden, past.attended(layer, queries, states))
            hidden = dense.added(cross.added(hidden, encoded, self.mask))
        hidden = self.model.decoder.final_layer_norm(hidden)
        return hidden.view(*tokens.shape, hidden.shape[-1]), past

    def _of_tokens(
        self, tokens: torch.Tensor, norm: nn.Module, to_queries: _Joined, to_states: _Joined
    ) -> list[torch.Tensor]:
        """The first layer reads tokens alone: each distinct one is projected once, where counting them is no wait."""
        if not may_look(tokens):
            normed = _normed(norm, self.model.decoder.embed_tokens(tokens).flatten(0, 1))
            return [to(normed) for to in (to_queries, to_states)]
        distinct, places = tokens.unique(return_inverse=True)
        normed = _normed(norm, self.model.decoder.embed_tokens(distinct))
        return [to(normed).index_select(0, places.flatten()) for to in (to_queries, to_states)]

    def log_probs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of the next token, `(batch_size, rows, vocab_size)`."""
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
    """Cross-attention, of keys and values that are projected once."""

    def __init__(self, kernels: SearchKernels, layer: T5LayerCrossAttention):
        self.norm, self.attention = layer.layer_norm, layer.EncDecAttention
        self.to_queries = _Joined(kernels, self.attention.q, norm=self.norm)
        self.to_states = _Joined(kernels, self.attention.k, self.attention.v)
        self.output = _Added(kernels, self.attention.o)

    def keys_and_values(self, states: torch.Tensor) -> torch.Tensor:
        """`(2, batch_size, num_heads, sequence_length, d_kv)` of the encoder's states."""
        return by_head(self.to_states(states.flatten(0, 1)), len(states), self.attention, 2)

    def added(self, hidden: torch.Tensor, encoded: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`hidden` and what its rows read of `encoded`, which is [`keys_and_values`]."""
        (queries,) = by_head(self.to_queries(_normed(self.norm, hidden)), encoded.shape[1], self.attention, 1)
        keys, values = encoded
        return self.output.added(hidden, attended(queries, keys, values, mask))


class _Dense:
    """The feed-forward layer."""

    def __init__(self, kernels: SearchKernels, layer: T5LayerFF):
        self.norm, self.dense = layer.layer_norm, layer.DenseReluDense
        self.gated = hasattr(self.dense, "wi_0")  # T5 v1.1: one of two input layers gates the other
        first = (self.dense.wi_0, self.dense.wi_1) if self.gated else (self.dense.wi,)
        self.first = [_Joined(kernels, cast(nn.Linear, module), norm=self.norm) for module in first]
        self.output = _Added(kernels, self.dense.wo)

    def added(self, hidden: torch.Tensor) -> torch.Tensor:
        dense, normed = self.dense, _normed(self.norm, hidden)
        inner = self.first[0](normed)
        inner = inner.relu_() if isinstance(dense.act, nn.ReLU) else dense.act(inner)
        if self.gated:
            inner = inner * self.first[1](normed)
        return self.output.added(hidden, inner.to(dense.wo.weight.dtype))  # float16 models keep it in float32


def _additive_mask(attention_mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """`(batch_size, 1, 1, sequence_length)`: 0, or the lowest number where there is padding; None without padding."""
    if attention_mask is None or (may_look(attention_mask) and attention_mask.all()):
        return None
    return added_mask(attention_mask[:, None, None, :] != 0, dtype)


def added_mask(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask as what is added to scores: of a bool one, 0 where it is True and the type's least number elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    # Not -inf: a row of padding alone must stay finite, as in T5.
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
