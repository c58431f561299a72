"""The seam between the search and what makes it faster on a processor: the search itself knows none of them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

Part = tuple[torch.Tensor, slice]  # users that are decoded together, long, and the columns that they need


def _add_linear(hidden: torch.Tensor, change: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return hidden.addmm_(change, weight.t())


def _all_at_once(
    search: Callable[[Part], None], attention_mask: torch.Tensor | None, users: torch.Tensor, length: int, rows: int
) -> None:
    search((users, slice(length)))


@dataclass(frozen=True)
class SearchKernels:
    """What the search multiplies with and how it cuts a batch. `macrec_hf.cpu.accelerate` sets others for a processor.

    Attributes:
        linear: `(hidden, weight)` → `hidden · weightᵀ`.
        add_linear: `(hidden, change, weight)` → `hidden + change · weightᵀ`, written to `hidden`.
        linear_classes: classes of which a call is one product with the weight.
        run_parts: `(search, attention_mask, users, length, rows)`: calls `search` with parts of the users, long
            `(batch_size,)`, and the columns of `length` that each needs; `rows` are decoder rows for each user.
    """

    linear: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = nn.functional.linear
    add_linear: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] = _add_linear
    linear_classes: tuple[type[nn.Module], ...] = (nn.Linear,)
    run_parts: Callable[[Callable[[Part], None], torch.Tensor | None, torch.Tensor, int, int], None] = _all_at_once


def search_kernels(model: nn.Module) -> SearchKernels:
    """Those that were set on the model, else plain ones."""
    return getattr(model, "search_kernels", SearchKernels())


def is_called_as_is(module: nn.Module) -> bool:
    """Whether calling the module is its class's forward pass and nothing else."""
    return "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks
