"""What the processes of a training step hold together, so that W processes × B rows are one process × W · B rows.

Distributed training averages the gradients of its processes. So each process computes its *share*: the mean over its
own rows, weighed by how many they are ([`Everyone.share`]); the mean of the shares is the mean over all rows, whoever
has how many. Where a row is compared with the whole batch, the candidates come from [`Everyone.gather`], through which
gradients flow back to the process that they came from. Nothing is exchanged outside training mode, so that a single
process may evaluate.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def num_processes() -> int:
    """Processes that train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _GatherRows(torch.autograd.Function):
    """Rows of all processes, in the order of the processes; the gradient is summed over all that used them."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: list[int], rank: int) -> torch.Tensor:
        ctx.start, ctx.stop = sum(counts[:rank]), sum(counts[: rank + 1])
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[ctx.start : ctx.stop], None, None


@dataclass
class Everyone:
    """How many rows each process has, and which are ours.

    Attributes:
        counts: rows of each process.
        rank: our place among the processes.
        seed: a random number that all processes share: what they draw with it is the same everywhere.
    """

    counts: list[int]
    rank: int = 0
    seed: int = 0

    @classmethod
    def around(cls, module: nn.Module, num_rows: int, device: torch.device) -> "Everyone":
        """Asks the other processes, if `module` is training; else we are alone.

        The seed comes from torch's CPU generator, the first process's where there are several; without gradient it is
        0, so that an evaluation leaves the generator as it was.
        """
        # A process alone draws too: it and the first of many then go through the same random numbers.
        seed = int(torch.randint(2**62, ())) if torch.is_grad_enabled() else 0
        if num_processes() == 1 or not (module.training and torch.is_grad_enabled()):
            return cls([num_rows], 0, seed)
        mine = torch.tensor([num_rows, seed], dtype=torch.long, device=device)
        received = [torch.empty_like(mine) for _ in range(num_processes())]
        dist.all_gather(received, mine)
        pairs = torch.stack(received).tolist()
        return cls([count for count, _ in pairs], dist.get_rank(), pairs[0][1])

    @property
    def alone(self) -> bool:
        return len(self.counts) == 1

    @property
    def mine(self) -> slice:
        """Our rows among all."""
        start = sum(self.counts[: self.rank])
        return slice(start, start + self.counts[self.rank])

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """`(our rows, …)` → `(all rows, …)`, in the order of the processes, with gradient."""
        return rows if self.alone else _GatherRows.apply(rows, self.counts, self.rank)

    def share(self, mean: torch.Tensor, own: torch.Tensor | int, total: torch.Tensor | int) -> torch.Tensor:
        """The mean over `own` of our rows as our share of the mean over `total` rows; itself when alone."""
        if self.alone:
            return mean
        # Counts only multiply and divide: a quotient of two of them would be rounded to float32.
        return mean * (own * len(self.counts)) / (total.clamp(min=1) if torch.is_tensor(total) else max(total, 1))

    def parts_of(self, num_rows: int) -> "Everyone":
        """Rows that all processes know, dealt out in equal parts, one after the other."""
        size = len(self.counts)
        bounds = [num_rows * place // size for place in range(size + 1)]
        counts = [stop - start for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]
        return Everyone(counts, self.rank, self.seed)

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator from the shared seed."""
        return torch.Generator(device=device).manual_seed(self.seed)
