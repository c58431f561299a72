"""What it takes to ask a model about many rows: eval mode for the time of the question, rows padded to one width."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar, cast

import numpy as np
import torch
from torch import nn

P = ParamSpec("P")
Result = TypeVar("Result")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """No dropout and no gradient inside; afterwards each module is in the mode that it was in, whatever happened."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def in_eval_mode(function: Callable[P, Result]) -> Callable[P, Result]:
    """[`eval_mode`] of a function's first argument, a model, while the function runs."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Result:
        with eval_mode(cast(nn.Module, args[0] if args else kwargs["model"])):
            return function(*args, **kwargs)

    return inside


def check_at_least_one(name: str, value: object) -> None:
    """ValueError unless a value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}.")


def chosen_device(device: str | torch.device) -> torch.device:
    """The device that is meant; "auto": the accelerator if there is one, else the CPU.

    Raises:
        ValueError: no such device, or torch was not built for it.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    expected = "device: expected 'auto' or a device that is there, such as 'cpu' or 'cuda'"
    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"{expected}, got {device!r}.")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"{expected}, got {device!r}: {str(error).splitlines()[0]}") from error


def chosen_dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    """The type of weights that is meant; "auto" stays.

    Raises:
        ValueError: no type of floating-point numbers.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if found != "auto" and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise ValueError(f"dtype: expected 'auto', or a type such as torch.bfloat16 or 'bfloat16', got {dtype!r}.")
    return found


def pad_rows(rows: Sequence[Sequence[int] | np.ndarray], fill: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unequal length as one array, filled at their ends.

    Returns:
        padded: int64, `(num_rows, longest)`.
        inside: bool, the same shape, False where `fill` stands behind a row's end.

    Example:

    ```python
    >>> pad_rows([[3, 5], [7]])[0].tolist()
    [[3, 5], [7, -1]]
    ```
    """
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    inside = np.arange(lengths.max(initial=0)) < lengths[:, None]
    padded = np.full(inside.shape, fill, dtype=np.int64)
    padded[inside] = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    return padded, inside
