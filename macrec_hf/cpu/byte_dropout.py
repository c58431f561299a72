"""Dropout whose mask costs a byte of randomness an element: on a CPU several times faster than `nn.Dropout`."""

import torch
from torch import nn

_LEVELS = 256  # a byte


class ByteDropout(nn.Dropout):
    """[`~torch.nn.Dropout`] with the rate in steps of 1/256, so that one random number serves eight elements.

    On a CPU `nn.Dropout` draws a number for every element, one by one, which in a small T5 is a third of a training
    step. On other devices, for rates of 0 and 1 and in eval mode this is `nn.Dropout` itself. What is kept is scaled
    by the exact inverse of the rate in use, so the mean is unchanged.

    Args:
        p: rate, in [0, 1]. On the CPU a rate between them becomes the nearest multiple of 1/256, at least 1/256.

    Example:

    ```python
    >>> ByteDropout(0.1)(torch.ones(4, 8))  # in training mode: zeros and 256 / 230
    ```
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        plain = not self.training or self.p in (0.0, 1.0)
        if plain or hidden.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(hidden)
        dropped = dropped_of(self.p)
        draws = torch.empty(-(-hidden.numel() // 8), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        kept = draws.view(torch.uint8)[: hidden.numel()].view(hidden.shape) >= dropped
        # As numbers, scaled: the backward pass is then one product, with nothing to convert.
        return hidden * kept.to(hidden.dtype).mul_(scale_of(dropped))


def dropped_of(rate: float) -> int:
    """Of 256 bytes, how many drop their element: 0 only for a rate of 0."""
    return max(1, min(_LEVELS - 1, round(rate * _LEVELS))) if rate else 0


def scale_of(dropped: int) -> float:
    """What kept elements are multiplied by, so that the mean is unchanged."""
    return _LEVELS / (_LEVELS - dropped)


def use_byte_dropout(model: nn.Module) -> None:
    """Puts a [`ByteDropout`] in the place of every `nn.Dropout` of a model; weights, names and modes stay."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, ByteDropout(child.p).train(child.training))


def use_plain_dropout(model: nn.Module) -> None:
    """Takes [`use_byte_dropout`] back."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is ByteDropout:
                setattr(module, name, nn.Dropout(child.p).train(child.training))
