"""T5's encoder, and its decoder one position at a time for many continuations of each user, without dropout.

`generate` holds the encoder's keys and values once for each beam and moves them at every step. Here they are projected
once for each user and all rows of that user attend to them together. The weights are the model's own, read anew for
each batch; projections of the same input are joined into one product. A projection that is more than a plain
`nn.Linear` (an adapter, a quantized or hooked layer) is called as the module that it is.
"""

from dataclasses import dataclass

import torch
from torch import nn

_HEAD_ROWS = 512  # by timing 80 to 1,280 rows of 2,055 tokens on two cores: 320 and 640 are alike and best


def score_dtype(dtype):
    """What scores of a model of this dtype are summed in: float64 for float64, float32 for the others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def start_token(model):
    """The token that the model's decoder starts with."""
    token = model.generation_config.decoder_start_token_id
    if token is None:
        raise ValueError(
            "decoder_start_token_id: expected a token id in model.generation_config, got None. Plain T5 configs have "
            "no such field: set model.generation_config.decoder_start_token_id (in T5 it is the pad token's)."
        )
    return token


class _Joined:
    """Linear maps of the same input as one product: their outputs side by side on the last axis."""

    def __init__(self, *modules):
        self.modules = modules
        self.weight = torch.cat([module.weight for module in modules]) if all(map(_is_plain, modules)) else None

    def __call__(self, hidden):
        if self.weight is None:
            return torch.cat([module(hidden) for module in self.modules], dim=-1)
        return nn.functional.linear(hidden, self.weight)


class _Head:
    """Log-probabilities over the whole vocabulary.

    Rows of an odd width are slow to write (a third of the product's speed on AVX2), so the vocabulary is padded to
    whole vectors, with tokens that have the probability 0.
    """

    def __init__(self, model):
        self.module, self.weight = model.lm_head, None
        self.scale = model.model_dim**-0.5 if model.config.scale_decoder_outputs else None
        if _is_plain(self.module):
            weight = self.module.weight
            padding = -len(weight) % 16
            self.weight = nn.functional.pad(weight, (0, 0, 0, padding))
            self.bias = nn.functional.pad(weight.new_zeros(len(weight)), (0, padding), value=-torch.inf)

    def log_probs(self, hidden):
        """float32 (float64 for a float64 model), at least `vocab_size` on the last axis, any beyond that -inf."""
        hidden = hidden if self.scale is None else hidden * self.scale
        logits = self.module(hidden) if self.weight is None else nn.functional.linear(hidden, self.weight, self.bias)
        return torch.log_softmax(logits, dim=-1, dtype=score_dtype(logits.dtype))


def _is_plain(module):
    """Whether calling the module is one product with its weight."""
    called_as_is = "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks
    return type(module) is nn.Linear and module.bias is None and called_as_is


def encode(model, input_ids, attention_mask=None):
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
    bias = encoder.block[0].layer[0].SelfAttention.compute_bias(length, length)
    mask = _additive_mask(attention_mask, hidden.dtype)
    bias = bias if mask is None else bias + mask
    for block in encoder.block:
        layer, dense_layer = block.layer
        attention = layer.SelfAttention
        projected = _Joined(attention.q, attention.k, attention.v)(layer.layer_norm(hidden))
        queries, keys, values = _by_head(projected, attention, 3)
        scores = torch.bmm(queries, keys.transpose(1, 2))
        scores.view(-1, attention.n_heads, length, length).add_(bias)
        attended = torch.bmm(_softmax(scores), values)
        hidden = _added(hidden, attention.o(_rows(attended, attention.n_heads)))
        hidden = _added(hidden, _dense(dense_layer.DenseReluDense, dense_layer.layer_norm(hidden)))
    return encoder.final_layer_norm(hidden)


@dataclass
class DecoderPast:
    """Self-attention keys and values of the positions so far.

    `layers[layer][position]` is float `(batch_size, rows or 1, 2, num_heads, d_kv)`; 1 where all rows of a user share
    the position, as they do the decoder start token.
    """

    layers: list

    def reorder(self, parents):
        """The past of rows that continue the rows `parents`: long `(batch_size, rows)`, or `(rows,)` for all users."""
        return DecoderPast([[_take(states, parents) for states in positions] for positions in self.layers])


class DecoderSteps:
    """The decoder of one batch of users: cross-attention keys and values computed once.

    Args:
        model: any `T5ForConditionalGeneration`.
        encoder_hidden_states: float, `(batch_size, sequence_length, d_model)`.
        attention_mask: `(batch_size, sequence_length)`, 0 = padding; `None`: no padding.
    """

    def __init__(self, model, encoder_hidden_states, attention_mask=None):
        self.model, self.decoder = model, model.decoder
        self.batch_size = len(encoder_hidden_states)
        self.score_dtype = score_dtype(encoder_hidden_states.dtype)
        self.head = _Head(model)
        self.mask = _additive_mask(attention_mask, encoder_hidden_states.dtype)
        self.self_states, self.cross_states = [], []
        for block in self.decoder.block:
            attention, cross_attention = block.layer[0].SelfAttention, block.layer[1].EncDecAttention
            self.self_states.append(_Joined(attention.k, attention.v))
            cross_states = _Joined(cross_attention.k, cross_attention.v)(encoder_hidden_states)
            keys, values = _by_head(cross_states, cross_attention, 2)
            self.cross_states.append((keys.transpose(1, 2).contiguous(), values.contiguous()))

    def start(self):
        """What the first position reads: the decoder start token, long `(batch_size, 1)`, and an empty past."""
        tokens = torch.full((self.batch_size, 1), start_token(self.model), device=self.cross_states[0][0].device)
        return tokens, DecoderPast([[] for _ in self.decoder.block])

    def step(self, tokens, past):
        """Reads one more token of each row.

        Args:
            tokens: long, `(batch_size, rows)`.
            past: [`DecoderPast`] of the same rows.

        Returns:
            `(hidden, past)`: float `(batch_size, rows, d_model)` after the last norm, and the past with this position.
        """
        hidden = self.decoder.embed_tokens(tokens)
        place = len(past.layers[0])
        bias = self.decoder.block[0].layer[0].SelfAttention.compute_bias(1, place + 1, past_seen_tokens=place)[0, :, 0]
        layers = []
        for number, (block, positions) in enumerate(zip(self.decoder.block, past.layers, strict=True)):
            self_layer, cross_layer, dense_layer = block.layer
            normed = self_layer.layer_norm(hidden)
            attention = self_layer.SelfAttention
            shape = (*tokens.shape, 2, attention.n_heads, attention.key_value_proj_dim)
            positions = [*positions, self.self_states[number](normed).view(shape)]
            layers.append(positions)
            hidden = _added(hidden, _self_attention(attention, normed, positions, bias))
            normed = cross_layer.layer_norm(hidden)
            hidden = _added(hidden, self._cross_attention(cross_layer.EncDecAttention, normed, number))
            hidden = _added(hidden, _dense(dense_layer.DenseReluDense, dense_layer.layer_norm(hidden)))
        return self.decoder.final_layer_norm(hidden), DecoderPast(layers)

    def log_probs(self, hidden):
        """Log-probabilities of the next token, `(batch_size, rows, vocab_size or more)`, see [`_Head`]."""
        return self.head.log_probs(hidden)

    def token_log_probs(self, hidden, tokens):
        """Those of `tokens` alone, long `(batch_size, rows, n)`.

        On the CPU some rows at a time: the vocabulary's logits are by far the largest tensor, and written anew for a
        whole batch they cost more in fresh memory than in arithmetic.
        """
        rows = len(hidden) if hidden.device.type != "cpu" else max(1, _HEAD_ROWS // max(1, hidden.shape[1]))
        parts = zip(hidden.split(rows), tokens.split(rows), strict=True)
        return torch.cat([self.head.log_probs(part).gather(-1, wanted) for part, wanted in parts])

    def _cross_attention(self, attention, hidden, number):
        keys, values = self.cross_states[number]
        (queries,) = _by_head(attention.q(hidden), attention, 1)
        scores = torch.bmm(queries, keys)
        if self.mask is not None:
            scores.view(len(hidden), attention.n_heads, *scores.shape[1:]).add_(self.mask)
        return attention.o(_rows(torch.bmm(_softmax(scores), values), attention.n_heads))


def _additive_mask(attention_mask, dtype):
    """`(batch_size, 1, 1, sequence_length)`: 0, or the lowest number where there is padding; None without padding."""
    if attention_mask is None or attention_mask.all():
        return None
    closed = attention_mask[:, None, None, :] == 0
    # Not -inf: a row of padding alone must stay finite, as in T5.
    return torch.zeros_like(closed, dtype=dtype).masked_fill_(closed, torch.finfo(dtype).min)


def _by_head(projected, attention, parts):
    """`parts` tensors `(batch_size * num_heads, length, d_kv)` of one `(batch_size, length, parts * inner)`."""
    batch_size, length, _ = projected.shape
    split = projected.view(batch_size, length, parts, attention.n_heads, attention.key_value_proj_dim)
    return split.permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)


def _rows(attended, num_heads):
    """`(batch_size, length, inner)` of `(batch_size * num_heads, length, d_kv)`."""
    return attended.unflatten(0, (-1, num_heads)).transpose(1, 2).flatten(2)


def _self_attention(attention, hidden, positions, bias):
    """Each row attends to the few positions before it and to itself; a product per position beats tiny matrices."""
    queries = attention.q(hidden).view(*hidden.shape[:2], attention.n_heads, attention.key_value_proj_dim)
    weights = _softmax(torch.stack([(queries * state[:, :, 0]).sum(-1) for state in positions], dim=-1) + bias)
    attended = weights[..., 0, None] * positions[0][:, :, 1]
    for place, state in enumerate(positions[1:], start=1):
        attended.addcmul_(weights[..., place, None], state[:, :, 1])
    return attention.o(attended.flatten(2))


def _dense(dense, hidden):
    if hasattr(dense, "wi_0"):  # T5 v1.1: one of two input layers gates the other
        hidden = dense.act(dense.wi_0(hidden)) * dense.wi_1(hidden)
    elif isinstance(dense.act, nn.ReLU):
        hidden = dense.wi(hidden).relu_()
    else:
        hidden = dense.act(dense.wi(hidden))
    return dense.wo(hidden.to(dense.wo.weight.dtype))  # float16 models keep this one in float32


def _added(hidden, change):
    hidden = hidden + change
    if hidden.dtype == torch.float16:  # T5 keeps float16 finite this way
        limit = torch.finfo(hidden.dtype).max - 1000
        hidden = hidden.clamp(-limit, limit)
    return hidden


def _softmax(scores):
    return torch.softmax(scores, -1, dtype=score_dtype(scores.dtype)).to(scores.dtype)


def _take(states, parents):
    if states.shape[1] == 1:
        return states
    if parents.dim() == 1:
        return states.index_select(1, parents)
    batch_size, rows = states.shape[:2]
    offsets = torch.arange(batch_size, device=parents.device).unsqueeze(1) * rows
    return states.flatten(0, 1).index_select(0, (parents + offsets).flatten()).view(*parents.shape, *states.shape[2:])
