"""How a batch of users is cut into the parts that a CPU decodes best."""

import math
from collections.abc import Callable

import torch

from ..model.search_kernels import Part
from .threads import map_parts

# By timing on two cores: more users or tokens outgrow the caches, fewer wait for Python and for each other.
_CPU_USERS = 36
_FEWEST_CPU_USERS = 32  # for which one more thread has a part of its own; fewer share the threads in each operation
_CPU_TOKENS = 1280  # the padded tokens of a part, so that long histories do not outgrow what the users' number allows


def run_parts(
    search: Callable[[Part], None], attention_mask: torch.Tensor | None, users: torch.Tensor, length: int, rows: int
) -> None:
    """`search` of each part of the users, on as many threads as torch may use: `SearchKernels.run_parts` on a CPU.

    On another device all at once: an accelerated model may be moved there.
    """
    if users.device.type != "cpu":
        search((users, slice(length)))
        return
    map_parts(search, split_users(attention_mask, len(users), length, rows))


def split_users(attention_mask: torch.Tensor | None, batch_size: int, length: int, rows: int) -> list[Part]:
    """Users that are decoded together, and the columns that they need: a few at a time, of like lengths.

    The parts take about the same time, and there is one for each thread, or two, three, ...: a thread that ends before
    the others has nothing left to do.

    Args:
        attention_mask: `(batch_size, length)`, 0 = padding; `None`: no padding.
        rows: of the decoder, for each user in all steps; one costs about as much as a token of the history.

    Returns:
        Parts of users, long `(num_users,)` each, and the slice of the columns in which any of them has a token. Every
        user is in one part.
    """
    everyone = torch.arange(batch_size)
    if batch_size == 0:
        return [(everyone, slice(length))]
    lengths = torch.full((batch_size,), length)
    if attention_mask is not None:
        lengths, everyone = attention_mask.sum(dim=1).sort(stable=True, descending=True)
    parts: list[Part] = []
    for users in everyone.split(_part_sizes(lengths, rows)):
        columns = slice(length)
        if attention_mask is not None:
            users = users.sort().values
            used = torch.nonzero(attention_mask[users].any(dim=0)).flatten()
            columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else columns
        parts.append((users, columns))
    return parts


def _part_sizes(lengths: torch.Tensor, rows: int) -> list[int]:
    """Numbers of users, for descending lengths of their histories."""
    batch_size = len(lengths)
    threads = min(torch.get_num_threads(), max(1, batch_size // _FEWEST_CPU_USERS))
    fewest = max(batch_size / _CPU_USERS, int(lengths.sum()) / _CPU_TOKENS, 1)
    costs = lengths + rows
    middles = (costs.cumsum(0) - costs / 2) / costs.sum()
    for num_parts in range(math.ceil(fewest / threads) * threads, batch_size, threads):
        sizes = torch.bincount((middles * num_parts).long(), minlength=num_parts)
        longest = lengths[(sizes.cumsum(0) - sizes).clamp(max=batch_size - 1)]
        if sizes.max() <= _CPU_USERS and (sizes * longest).max() <= _CPU_TOKENS:
            return [size for size in sizes.tolist() if size]  # a user may cost more than a part is to
    return [1] * batch_size
