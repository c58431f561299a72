"""What a training step is made of: one GPU per process, the epoch's order, micro-batches that weigh what they hold."""

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
    """Tells the batches which epoch begins; also a resumed one, whose loader skips what was seen."""

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
    """Takes one GPU where Trainer, without `accelerate launch`, would spread each batch over all (`nn.DataParallel`).

    Its copies of the model see a part of the batch each and do not know of one another: the losses that compare the
    rows of a batch would compare those of one part.
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


def micro_batch_weights(sizes: Sequence[int], accelerator: Accelerator) -> list[float]:
    """What the mean of each micro-batch counts for in its step: 1 where all hold as much as each other.

    Trainer averages the means of the micro-batches; weighed by what they hold, over all processes, their average is
    the mean over the step, also at the end of an epoch, where the last micro-batch is smaller.

    Args:
        sizes: target tokens, or items, of each of our micro-batches.
    """
    totals = torch.tensor(sizes, dtype=torch.float32, device=accelerator.device)  # whole numbers below 2**24: exact
    if accelerator.num_processes > 1:
        totals = accelerator.reduce(totals, "sum")
    totals = totals.double().cpu()
    return (totals * len(totals) / totals.sum().clamp(min=1)).tolist()


def warn_of_accumulation(losses: Sequence[str], rows: int, steps: int) -> None:
    """Accumulated micro-batches are compared each within itself.

    Args:
        losses: names of the losses that compare rows.
        rows: of a micro-batch, over all processes.
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
