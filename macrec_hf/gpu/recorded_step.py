"""Forward and backward of a training step as recordings, one for each bucket of shapes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..model.search_kernels import departure
from .recordings import Recordings, taken_in

LOSSES = ("loss", "generation_loss", "alignment_loss")
Gradients = list[torch.Tensor | None]


class RecordedStep:
    """Losses and gradients of a batch, by a recording of that batch's shapes once there is one.

    The random numbers of dropout are new in each call. Gradients are left in the weights' `grad`, as by `backward()`,
    but in the recording's memory: a later call overwrites them, so clone those that are to be kept. What a recording
    would not follow is left to the caller: hooks, adapters, autocast around it, weights that have gradients already,
    and a loss of which there is none.

    Args:
        device_type: where it records.
        seen: see [`Recordings`].
    """

    def __init__(self, device_type: str = "cuda", seen: int = 2):
        self.device_type, self.recordings = device_type, Recordings(seen)

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
        """The losses, scalars without a graph; `None`: nothing was done, take the step as usual.

        Args:
            model: in training mode; called as it is, with the autocast that accelerate wraps around its forward pass.
            batch: arguments of its forward pass, tensors on its device.
        """
        if not self._records(model, batch):
            return None
        weights, names = [weight for weight in model.parameters() if weight.requires_grad], list(batch)

        def run(*values: torch.Tensor) -> tuple[dict[str, torch.Tensor], Gradients]:
            try:
                outputs = model(**dict(zip(names, values, strict=True)))
                outputs["loss"].backward()
                losses = {name: outputs[name].detach() for name in LOSSES if outputs.get(name) is not None}
                return losses, [weight.grad for weight in weights]
            finally:  # also of a step that failed: they are not to be added to those of the next
                for weight in weights:
                    weight.grad = None

        shapes = tuple((name, values.shape, values.dtype) for name, values in batch.items())
        key = taken_in(model), torch.backends.cuda.matmul.fp32_precision, shapes
        inputs = list(batch.values())
        with self.recordings.lock:
            recording = self.recordings.of(key, run, inputs)
            if recording is None:
                return None
            losses, gradients = recording(*inputs)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            return {name: value.clone() for name, value in losses.items()}

    def _records(self, model: nn.Module, batch: Mapping[str, Any]) -> bool:
        return (
            all(
                isinstance(values, torch.Tensor) and values.device.type == self.device_type
                for values in batch.values()
            )
            and "labels" in batch
            and len(batch["labels"]) > 0
            and model.training
            and torch.is_grad_enabled()
            and not torch.is_anomaly_enabled()
            and not torch.is_autocast_enabled(self.device_type)  # it would keep cast weights between steps
            and all(weight.grad is None and not _watched(weight) for weight in model.parameters())
            and not any(_unlike(module) for module in model.modules())
            and departure(model) is None
        )


def _watched(weight: nn.Parameter) -> bool:
    return bool(weight._backward_hooks) or bool(getattr(weight, "_post_accumulate_grad_hooks", None))


def _unlike(module: nn.Module) -> bool:
    """Whether a module does more, or something else, each time it is called."""
    hooks = module._backward_hooks or module._backward_pre_hooks  # those of the forward pass: see `departure`
    checkpoints = getattr(module, "gradient_checkpointing", False)
    return bool(hooks) or bool(checkpoints) or type(module).__module__.startswith("peft.")
