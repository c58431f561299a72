"""Attention whose dropout is [`ByteDropout`]'s: on a CPU, SDPA draws a random number for every weight, one by one."""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import create_position_bias_mask, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ..model.t5_decoding import added_mask
from .byte_dropout import ByteDropout

NAME = "sdpa_byte_dropout"


def use_byte_dropout_attention(model: nn.Module) -> None:
    """Lets every part of a T5 that attends by SDPA attend by `sdpa_byte_dropout`; other choices stay.

    The stacks have configurations of their own; the model's may be the caller's and is left alone.
    """
    _replace(model, "sdpa", NAME)


def use_plain_attention(model: nn.Module) -> None:
    """Takes [`use_byte_dropout_attention`] back."""
    _replace(model, NAME, "sdpa")


def _replace(model: nn.Module, before: str, after: str) -> None:
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and config is not model.config and config._attn_implementation == before:
            config._attn_implementation = after


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """T5's attention in training on a CPU; everything else is transformers' SDPA.

    Args:
        query, key, value: (batch_size, num_heads, length, d_kv), of queries or of keys.
        attention_mask: (batch_size, 1 or num_heads, 1 or query_length, key_length), bool, True = attend, or what is
            added to the scores; `None`: all, or in causal modules what came before.
        dropout: rate, of the attention weights.
        scaling: factor of the scores.
        position_bias: (1, num_heads, query_length, key_length), added to the scores.

    Returns:
        (batch_size, query_length, num_heads, d_kv), and `None`.
    """
    if not dropout or query.device.type != "cpu" or position_bias is None or scaling != 1.0:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            position_bias=position_bias,
            **kwargs,
        )
    scores = torch.matmul(query, key.transpose(2, 3))
    if attention_mask is None:
        causal = getattr(module, "is_causal", False) and query.shape[2] > 1
        scores = scores.add_(create_position_bias_mask(position_bias, None, causal, query, key))
    else:
        # One after the other, in place: their sum would be as large as the scores.
        scores = scores.add_(position_bias).add_(added_mask(attention_mask, scores.dtype))
    weights = ByteDropout(dropout)(torch.softmax(scores, dim=-1))
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
