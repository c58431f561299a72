"""T5's norm as one kernel; transformers' takes eight, and six more backward."""

import torch
from torch import nn
from transformers.models.t5.modeling_t5 import T5LayerNorm


class FusedNorm(T5LayerNorm):
    """[`~transformers.models.t5.modeling_t5.T5LayerNorm`] through [`torch.nn.functional.rms_norm`].

    Both take the variance in float32. In half precision this one rounds once, at its end, where T5's rounds before
    its weight too. Of a float64 model T5 takes the variance in float32 as well, so there its own is called.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # Of two types torch would not take the one kernel, and T5 has rules of its own for float16.
        if self.weight.dtype == torch.float64 or hidden_states.dtype != self.weight.dtype:
            return super().forward(hidden_states)
        return nn.functional.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
