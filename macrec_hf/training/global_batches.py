"""Batches for several processes, cut from one order of the rows that depends on seed and epoch alone."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from .cross_modal_rows import rows_of_an_epoch


class GlobalBatches(Sampler[list[int]]):
    """This process's part of every batch. Together the parts of all processes are the batch of a single process.

    Every row comes once an epoch, whatever the number of processes: the last, smaller batch is split too. (If it has
    fewer rows than there are processes, the processes without a row repeat its last one.) Of rare rows an epoch has a
    share, the next ones of an order of their own, so that none comes a second time before all have come. The orders do
    not depend on the process's random state, so a resumed run needs only the number of the epoch.

    Args:
        num_rows: rows of the dataset.
        batch_size: rows per batch and process.
        seed: of the order, together with the epoch ([`mixed_seed`]).
        rank, num_processes: the part of this process.
        accumulation: batches per optimizer step; length groups are formed over the whole step.
        lengths: of each row: batches of like length, in random order. `None`: any rows together.
        shuffle: False keeps the order of the dataset.
        drop_last: leave out a last batch that is not full.
        rare: rows of which an epoch has only a `share`, above 0 and at most 1.

    Example:

    ```python
    >>> list(GlobalBatches(6, batch_size=2, num_processes=2, rank=1, shuffle=False))
    [[2, 3], [5]]
    ```
    """

    def __init__(
        self,
        num_rows: int,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        num_processes: int = 1,
        accumulation: int = 1,
        lengths: Sequence[int] | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        rare: Sequence[int] | np.ndarray = (),
        share: float = 1.0,
    ):
        self.rows, self.rare = np.delete(np.arange(num_rows), rare), np.asarray(rare, dtype=np.int64)
        self.num_rows, self.seed, self.epoch = rows_of_an_epoch(num_rows, len(self.rare), share), seed, 0
        self.rank, self.num_processes = rank, num_processes
        self.lengths, self.shuffle, self.drop_last = lengths, shuffle, drop_last
        self.global_size = batch_size * num_processes
        self.group_size = self.global_size * accumulation

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's order the next pass takes, the same in every process."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows // self.global_size if self.drop_last else -(-self.num_rows // self.global_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        for start in range(0, len(self) * self.global_size, self.global_size):
            batch = order[start : start + self.global_size]
            first, last = (len(batch) * place // self.num_processes for place in (self.rank, self.rank + 1))
            yield batch[first:last] or batch[-1:]

    def _order(self) -> list[int]:
        rows = self._rows()
        if not self.shuffle:
            return rows.tolist()
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        if self.lengths is None:
            order = torch.randperm(self.num_rows, generator=generator).numpy()
        else:
            lengths = np.asarray(self.lengths)[rows].tolist()
            order = np.array(get_length_grouped_indices(lengths, self.group_size, generator=generator), dtype=np.int64)
        return rows[order].tolist()

    def _rows(self) -> np.ndarray:
        """Those of this epoch, in the order of the dataset."""
        taken = self.num_rows - len(self.rows)
        if not taken:
            return self.rows
        order = torch.randperm(len(self.rare), generator=torch.Generator().manual_seed(mixed_seed(self.seed, -1)))
        places = np.arange(self.epoch * taken, (self.epoch + 1) * taken) % len(self.rare)
        return np.sort(np.concatenate([self.rows, self.rare[order.numpy()[places]]]))


def mixed_seed(seed: int, epoch: int) -> int:
    """One number of 63 bits for a pair.

    Were the two added, seed 0 would take in epoch 1 the order of seed 1 in epoch 0.

    Args:
        seed: any whole number.
        epoch: a whole number; -1 is no epoch's own.
    """
    state = np.random.SeedSequence((seed % 2**64, epoch % 2**64)).generate_state(1, np.uint64)
    return int(state[0]) >> 1
