"""Parts of a training step: one GPU per process, the order of an epoch's rows, and the weights of micro-batches."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from .global_batches import GlobalBatches

logger = logging.get_logger(__name__)


class EpochOrder(TrainerCallback):
    """Tells [`GlobalBatches`] which epoch begins, so that a resumed run goes through the rows in the same order."""

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader | None = None,
        **kwargs: Any,
    ) -> None:
        batches = getattr(train_dataloader, "batch_sampler", None)
        if isinstance(batches, GlobalBatches):
            batches.set_epoch(int(state.epoch or 0))


def keep_to_one_gpu(args: TrainingArguments) -> None:
    """Uses one GPU and warns, where Trainer without `accelerate launch` would use all through `nn.DataParallel`.

    `nn.DataParallel` gives each GPU a part of the batch. Losses that compare the rows of a batch would then compare
    the rows of one part only.

    Args:
        args: changed in place.
    """
    if args.n_gpu > 1:
        logger.warning(
            "This machine has %d GPUs, and one process uses one of them. To train on all, start a process for each: "
            "accelerate launch --multi_gpu --num_processes %d -m macrec_hf.cli … (or your script instead of "
            "-m macrec_hf.cli).",
            args.n_gpu,
            args.n_gpu,
        )
        args._n_gpu = 1


def micro_batch_weights(
    sizes: Sequence[torch.Tensor], accelerator: Accelerator, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    """Factor for the loss of each micro-batch of an optimizer step; 1 for each when all are equally large.

    Trainer takes the plain average over micro-batches. With these factors it becomes the mean over all tokens or items
    of the step and of all processes, also at the end of an epoch, where the last micro-batch is smaller. Nothing is
    read on the host.

    Args:
        sizes: number of target tokens, or items, in each micro-batch of this process, a scalar; or as many numbers for
            each as its loss has parts, (num_parts,), and a factor comes back for each part.
        dtype: of the factors, the loss's.
    """
    # Whole numbers below 2**24: exact in float32.
    totals = torch.stack(list(sizes)).float().to(accelerator.device, non_blocking=True)
    if accelerator.num_processes > 1:
        totals = accelerator.reduce(totals, "sum")
    totals = totals.to(dtype)
    return list(totals * len(totals) / totals.sum(0).clamp(min=1))


def warn_of_accumulation(losses: Sequence[str], rows: int, steps: int) -> None:
    """Warns that losses which compare rows see the rows of one micro-batch, not those of a whole optimizer step.

    Args:
        losses: names of the losses that compare rows; without any there is no warning.
        rows: rows of a micro-batch, over all processes.
        steps: micro-batches per optimizer step.
    """
    if losses and steps > 1:
        logger.warning(
            "gradient_accumulation_steps=%d: %s compare items with their batch-mates, and see the %d rows of a "
            "micro-batch, not the %d of a step. More processes or a larger batch size widen their view.",
            steps,
            " and ".join(losses),
            rows,
            rows * steps,
        )
