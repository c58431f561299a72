"""Kernels of a function, recorded once as a CUDA graph and from then on launched by one call.

A small model's step or search is hundreds of kernels of some microseconds each; starting them one by one from Python
takes longer than they work. A recording starts them all at once, at the addresses and in the shapes of the first time.
"""

import gc
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import RLock
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from transformers.utils import logging

logger = logging.get_logger(__name__)

Outputs = TypeVar("Outputs")
_NOTED = 1024  # shapes whose calls are counted
ROOM = 0.25  # of a card's memory, which has to be free for a recording to be made


class Recording(Generic[Outputs]):
    """A function of tensors that launches the same kernels whatever they hold.

    Args:
        function: reads nothing of its arguments on the host. On another device than a GPU it is called each time.
        inputs: tensors of one device, of which copies are kept as the places that the kernels read.
        beside: a recording that never runs at the same time, whose memory this one may use.
    """

    def __init__(
        self, function: Callable[..., Outputs], inputs: Sequence[torch.Tensor], beside: "Recording | None" = None
    ):
        with torch.inference_mode(False):  # else only calls in inference mode could write to them
            self.inputs = [values.clone() for values in inputs]
        self.function: Callable[..., Outputs] | None = function
        self.graph: Any = None
        if self.inputs[0].device.type == "cuda":
            pool = torch.cuda.graph_pool_handle() if beside is None else beside.graph.pool()
            self.graph, self.outputs = self._recorded(function, pool)
            self.function = None  # with all that it holds

    def __call__(self, *inputs: torch.Tensor) -> Outputs:
        """What the function returns of inputs of the same shapes; the next call of any recording overwrites it."""
        for kept, values in zip(self.inputs, inputs, strict=True):
            kept.copy_(values, non_blocking=True)
        if self.function is not None:
            return self.function(*self.inputs)
        self.graph.replay()
        return self.outputs

    def _recorded(self, function: Callable[..., Outputs], pool: Any) -> tuple[Any, Outputs]:
        device = self.inputs[0].device
        here, side = torch.cuda.current_stream(device), _side_stream(device)
        side.wait_stream(here)
        draws = torch.cuda.get_rng_state(device)
        generator = torch.cuda.default_generators[device.index or 0]
        before = generator.clone_state()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(side), _no_collection():
            function(*self.inputs)  # libraries ask for memory of their own at the first call
            torch.cuda.synchronize(device)
            torch.cuda.set_rng_state(draws, device)
            try:
                graph.capture_begin(pool, capture_error_mode="thread_local")
                try:
                    outputs = function(*self.inputs)
                finally:
                    graph.capture_end()
            except RuntimeError:
                generator.graphsafe_set_state(before)  # the one that was recorded refuses to draw from then on
                raise
        here.wait_stream(side)
        return graph, outputs


class Recordings:
    """The recordings of a function, by whatever makes its kernels others. They are not copied with their owner.

    Calls on a stream of the caller's own are not recorded, since recordings share memory and must follow each other;
    and none is made while most of a card's memory is taken, since others may need the rest.

    Args:
        seen: calls in like shapes after which one is recorded: a recording costs about three of them.
        at_most: recordings that are kept, the latest used.
    """

    def __init__(self, seen: int = 2, at_most: int = 32):
        self.seen, self.at_most, self.lock = seen, at_most, RLock()
        self.failed = False
        self.kept: OrderedDict[Hashable, Recording] = OrderedDict()
        self._calls: OrderedDict[Hashable, int] = OrderedDict()

    def __deepcopy__(self, memo: dict) -> "Recordings":
        return type(self)(self.seen, self.at_most)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.seen, self.at_most)

    def of(self, key: Hashable, function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Recording[Any] | None:
        """The recording of a key; `None`: launch the kernels. Hold `lock` until its outputs are read.

        Args:
            function, inputs: see [`Recording`].
        """
        device = inputs[0].device
        if self.failed or not _on_the_default_stream(device):
            return None
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key]
        if not self._is_due(key) or not _has_room(device):
            return None
        beside = (recording for recording in self.kept.values() if recording.inputs[0].device == device)
        try:
            made = Recording(function, inputs, next(beside, None))
        except RuntimeError as error:
            self.failed = True
            logger.warning(
                f"Kernels are launched one by one: recording them failed ({str(error).splitlines()[0]}). Results are "
                "the same; use_gpu_kernels=False leaves recording out."
            )
            return None
        self.kept[key] = made
        del self._calls[key]  # one that has to go is not made again at once
        if len(self.kept) > self.at_most:
            self.kept.popitem(last=False)
        return made

    def forget(self) -> None:
        """Gives the memory of all recordings back."""
        with self.lock:
            self.kept.clear()

    def _is_due(self, key: Hashable) -> bool:
        """Whether there were enough calls in like shapes, this one counted in."""
        calls = self._calls.pop(key, 0) + 1
        self._calls[key] = calls
        if len(self._calls) > _NOTED:
            self._calls.popitem(last=False)
        return calls > self.seen


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all recordings: memory that was used on another stream is not used again."""
    return torch.cuda.Stream(device)


def _on_the_default_stream(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.current_stream(device) == torch.cuda.default_stream(device)


def _has_room(device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, total = torch.cuda.mem_get_info(device)
    return free >= ROOM * total


def taken_in(model: nn.Module) -> Hashable:
    """What a recording has taken in of a model: where its weights lie, and the numbers that Python reads.

    The weights' values are none of it: they are read anew each time.
    """
    modules = list(model.modules())  # the walk takes longer than all the rest
    weights = tuple(
        (weight.data_ptr(), weight.dtype, weight.requires_grad)
        for module in modules
        for weight in module._parameters.values()
        if weight is not None
    )
    rates = tuple(module.p for module in modules if isinstance(module, nn.Dropout))
    return weights, rates, repr(vars(model.config))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without a garbage collection in between, which might free what a recording must not."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
