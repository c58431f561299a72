"""T5's attention with one product for its projections, and mask and position bias made once for all layers of a batch.

transformers adds the mask to the position bias in every layer, in float32, and asks the device in every batch whether
there is any padding. On a GPU each of these is a kernel, a copy of the size of all scores, or a wait.
"""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as torch_module
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.t5.modeling_t5 import T5Attention

from ..model.search_kernels import ALIGNED

NAME = "sdpa_joined"


class JoinedAttention(T5Attention):
    """[`~transformers.models.t5.modeling_t5.T5Attention`], with the same results in fewer kernels.

    What it hands on to the next layer as its position bias is the bias and the mask together. Projections that are
    hooked, adapted or replaced, a cache, another attention than `sdpa_joined`, gradient checkpointing and
    `output_attentions` go through transformers' forward pass; for it a mask that is already in the bias is none the
    worse.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Shapes and results as of `T5Attention.forward`: `(output, position_bias, None)`."""
        if past_key_values is not None or kwargs.get("output_attentions") or not self._joins():
            return super().forward(hidden_states, mask, key_value_states, position_bias, past_key_values, **kwargs)
        if key_value_states is None:
            query, key, value = self._projected(hidden_states, self.q, self.k, self.v)
        else:
            (query,) = self._projected(hidden_states, self.q)
            key, value = self._projected(key_value_states, self.k, self.v)
        position_bias = self._added(position_bias, query, key, mask)
        dropout = self.dropout if self.training else 0.0
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=position_bias, dropout_p=dropout, scale=self.scaling
        )
        return self.o(attended.transpose(1, 2).flatten(2)), position_bias, None

    def _joins(self) -> bool:
        own = self.config._attn_implementation == NAME and not (self.gradient_checkpointing and self.training)
        hooked = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
        return own and not hooked and all(map(_is_plain, (self.q, self.k, self.v)))

    def _projected(self, states: torch.Tensor, *maps: nn.Linear) -> tuple[torch.Tensor, ...]:
        """`(batch_size, num_heads, length, d_kv)` of each map, by one product."""
        weight = torch.cat([each.weight for each in maps]) if len(maps) > 1 else maps[0].weight
        parts = nn.functional.linear(states, weight).chunk(len(maps), dim=-1)
        return tuple(part.unflatten(-1, (self.n_heads, self.key_value_proj_dim)).transpose(1, 2) for part in parts)

    def _added(
        self, bias: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What is added to the scores in the precision of the products; `None`: nothing.

        `(1 or batch_size, num_heads, query_length, key_length)`, the middle ones 1 where they are all alike. With a
        mask inside it has a row for each of the batch; so one of which there is one, of a layer that is not ours,
        gets the mask here.
        """
        (rows, _, places, _), length = query.shape, key.shape[2]
        if mask is None and self.is_causal and places > 1:
            mask = torch.ones(places, length, dtype=torch.bool, device=query.device).tril().expand(rows, 1, -1, -1)
        if bias is not None and (mask is None or len(bias) == rows > 1):
            return bias
        if bias is None and self.has_relative_attention_bias:
            bias = self.relative_attention_bias(_buckets_of(self, places, length, query.device)).permute(2, 0, 1)[None]
        if bias is None:
            bias = None if mask is None else query.new_zeros(1, 1, 1, length)
        if bias is None or mask is None:
            return None if bias is None else bias.to(query.dtype).contiguous()
        # Rows that are aligned, of which the scores' are the first columns: SDPA then reads them where they are.
        room = (0, -length % ALIGNED)
        bias = nn.functional.pad(bias.to(query.dtype), room).contiguous()
        mask = nn.functional.pad(mask, room)
        if mask.dtype != torch.bool:
            return (bias + mask.to(query.dtype)).expand(rows, -1, -1, -1)[..., :length]
        return bias.where(mask, torch.finfo(query.dtype).min)[..., :length]


class _Choice:
    """Which kernels torch may take for attention: one choice for all threads, which the last to leave takes back."""

    def __init__(self) -> None:
        self.lock, self.inside, self.before = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before.enter_context(sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]))
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.before.close()


_CHOICE = _Choice()


def of_short_sequences(device_type: str) -> AbstractContextManager[None]:
    """Attention by the kernel that is fastest for some dozen keys, which torch would not choose by itself.

    Measured on an H200, 12,288 times 20 queries and 28 keys in bfloat16: 0.17 ms, cuDNN's kernel 0.31 ms. Where that
    kernel was switched off nothing changes.
    """
    on = device_type == "cuda" and torch.backends.cuda.mem_efficient_sdp_enabled()
    return _CHOICE if on else nullcontext()


def _is_plain(module: nn.Module) -> bool:
    """Whether calling the module is one product with its weight, which nobody watches."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return type(module) is nn.Linear and module.bias is None and not hooks and "forward" not in vars(module)


def _buckets_of(attention: T5Attention, places: int, length: int, device: torch.device) -> torch.Tensor:
    """The row of the position bias's table for each pair of places: long, `(places, length)`."""
    numbers = attention.relative_attention_num_buckets, attention.relative_attention_max_distance
    arguments = places, length, not attention.is_decoder, *numbers, device
    if torch.compiler.is_compiling() or (device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
        return _made_buckets(*arguments)  # what is kept may be freed while a recording still reads it
    return _kept_buckets(*arguments)


def _made_buckets(
    places: int, length: int, bidirectional: bool, num_buckets: int, max_distance: int, device: torch.device
) -> torch.Tensor:
    with torch.inference_mode(False):  # a training may want what a decoding has made
        distance = torch.arange(length, device=device)[None, :] - torch.arange(places, device=device)[:, None]
        return T5Attention._relative_position_bucket(distance, bidirectional, num_buckets, max_distance)


_kept_buckets = lru_cache(maxsize=128)(_made_buckets)  # of a length each, a few kilobytes; fifteen kernels saved


def joined_mask(
    attention_mask: torch.Tensor | None = None, allow_is_bidirectional_skip: bool = False, **kwargs: Any
) -> torch.Tensor | None:
    """transformers' mask for SDPA, `None` where nobody gave one; the device is never asked what the mask hides."""
    if attention_mask is None and allow_is_bidirectional_skip:
        return None
    kwargs["allow_is_causal_skip"] = attention_mask is None and kwargs.get("allow_is_causal_skip", True)
    return sdpa_mask(attention_mask=attention_mask, allow_is_bidirectional_skip=False, **kwargs)


AttentionInterface.register(NAME, sdpa_attention_forward)
AttentionMaskInterface.register(NAME, joined_mask)
