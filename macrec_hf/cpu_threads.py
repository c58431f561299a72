"""Independent parts of one CPU computation on Python threads, which share the threads that torch may use."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part, Result = TypeVar("Part"), TypeVar("Result")


def map_parts(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """`[function(part) for part in parts]`, on as many threads as torch may use.

    torch splits each operation among its threads and waits for all of them at its end. Operations of a millisecond
    lose a third of the second core that way; whole parts lose nothing until the last one. Each thread calls torch with
    its share of the threads, and follows the caller's grad and inference modes. Under autocast, whose state belongs to
    the calling thread, the parts run one after the other.

    Args:
        function: called with one part; must not depend on the order of the calls.
        parts: any number of them.

    Returns:
        What the calls return, in the order of `parts`. An error in a call is raised here.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(parts))
    if workers < 2 or torch.is_autocast_enabled("cpu"):
        return [function(part) for part in parts]
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def call(part: Part) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad and not inference):
            return function(part)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            return list(pool.map(call, parts))
    finally:
        torch.set_num_threads(threads)  # the number that later threads begin with; the caller's own never changed
