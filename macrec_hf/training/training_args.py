"""The arguments of both trainers: those of transformers, with defaults for this task, and a few fields of our own.

Every default that differs from the one of transformers says where it comes from: "paper" is *Multi-Aspect Cross-modal
Quantization for Generative Recommendation* (MACRec), "authors' code" what its public implementation does where the
paper is silent, "ours" a choice of this package.
"""

import copy
import os
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers import Seq2SeqTrainingArguments, TrainingArguments
from transformers.trainer_utils import SchedulerType

from ..cpu import has_bf16_units
from ..model.configuration_macrec import NUM_BEAMS
from .bounds import check_bounds

Arguments = TypeVar("Arguments", bound=TrainingArguments)


def _default(value: Any, meaning: str, source: str, **more: Any) -> Any:
    # One text: HfArgumentParser hands the metadata on to argparse, which knows "help" but no "source".
    return field(default=value, metadata={"help": f"{meaning} ({source})", **more})


@dataclass
class MacRecTrainingArguments(Seq2SeqTrainingArguments):
    """Arguments of [`MacRecTrainer`]: those of [`~transformers.Seq2SeqTrainingArguments`], and these.

    Args:
        metric_for_best_model: The metric of `load_best_model_at_end` and early stopping. A trainer without a `table`
            ranks nothing: name `"loss"` there.
        num_eval_users: Rank at most this many users of the evaluation set, evenly spaced, by time
            with all their purchases; `None` ranks all.
        embedding_learning_rate: Learning rate of the token embeddings, which then have no weight decay; `None` takes
            `learning_rate` for them too. T5's embeddings start with a standard deviation of 1 and its matrices with
            one of `d_model ** -0.5`, while AdamW moves both by the same amount; ten times the learning rate evens
            that out.
        cross_modal_rate: Share of the cross-modal tasks' examples that an epoch goes through, above 0 and at most 1;
            the next ones in each epoch. The tasks that recommend are trained on all of theirs. Below 1 a `table` is
            needed.
        use_cpu_kernels: On a CPU, replace layers of the model by faster ones with the same weights
            (`macrec_hf.cpu.accelerate`), and keep the memory that a step freed for the next step.
        use_gpu_kernels: On a CUDA device, replace layers of the model by ones that launch fewer kernels, with the same
            weights (`macrec_hf.gpu.accelerate`), and record forward and backward of a step as a CUDA graph for each
            bucket of shapes. `grad` is then the recording's memory: the next step overwrites it.
        bf16: Compute in bfloat16 where torch's autocast does; weights, optimizer, losses and the ranking of an
            evaluation stay in float32. `None`: on a CPU that multiplies bfloat16 (AVX-512 BF16, AMX), unless
            `accelerate launch` was told a precision.

    Raises:
        ValueError: arguments of transformers that this trainer does not follow: `remove_unused_columns=True`,
            `label_smoothing_factor` other than 0. A number that no training can have, such as a batch of no rows.

    Example:

    ```python
    >>> MacRecTrainingArguments("out", num_train_epochs=20, eval_strategy="epoch").metric_for_best_model
    'ndcg@10'
    ```
    """

    num_train_epochs: float = _default(200.0, "passes over the examples, at most", "authors' code")
    per_device_train_batch_size: int = _default(256, "examples per step and process", "ours")
    per_device_eval_batch_size: int = _default(256, "examples, or users to rank, at a time", "ours")
    learning_rate: float = _default(1e-3, "AdamW's learning rate", "ours")
    weight_decay: float = _default(0.1, "AdamW's weight decay", "ours")
    lr_scheduler_type: SchedulerType | str = _default("cosine", "how the learning rate falls", "ours")
    warmup_steps: float = _default(0.1, "steps with a rising learning rate; below 1 their share of all steps", "ours")
    train_sampling_strategy: str = _default(
        "group_by_length", "how batches are drawn: by default of histories of like length", "ours",
        choices=["random", "sequential", "group_by_length", "batch_rebalance"],
    )  # fmt: skip
    generation_num_beams: int = _default(NUM_BEAMS, "beam width of the evaluations", "authors' code")
    metric_for_best_model: str | None = _default("ndcg@10", "metric that chooses the best checkpoint", "ours")
    num_eval_users: int | None = _default(None, "users to rank at most, evenly spaced; None: all", "ours")
    embedding_learning_rate: float | None = _default(
        None, "learning rate of the token embeddings; None: learning_rate", "ours"
    )
    cross_modal_rate: float = _default(
        1.0,
        "share of the cross-modal tasks' examples in an epoch; the other tasks have all of theirs",
        "authors' code",
    )
    use_cpu_kernels: bool = _default(True, "on a CPU, faster layers with the same weights", "ours")
    use_gpu_kernels: bool = _default(True, "on a CUDA device, faster layers and recorded steps", "ours")
    bf16: bool | None = _default(  # type: ignore[assignment]  # a bool when the object is made
        None, "bfloat16 autocast; None: on CPUs that multiply bfloat16", "ours"
    )
    remove_unused_columns: bool = _default(
        False, "False: the collator and the sampler read columns that no argument of forward names", "ours"
    )

    def __post_init__(self) -> None:
        _refuse_what_is_not_followed(self)
        if self.label_names is None:
            self.label_names = ["labels"]
        if self.bf16 is None:
            chosen = self.fp16 or "ACCELERATE_MIXED_PRECISION" in os.environ
            on_cpu = self.use_cpu or not torch.accelerator.is_available()
            self.bf16 = on_cpu and not chosen and has_bf16_units()
        _look_at_the_machine(self)
        super().__post_init__()


@dataclass
class MacRecQuantizerTrainingArguments(TrainingArguments):
    """Arguments of [`MacRecQuantizerTrainer`]: those of [`~transformers.TrainingArguments`], and these.

    Args:
        lr_scheduler_type: By default the learning rate falls to 0 over the planned steps: the weights that are kept
            are the last ones, and at a constant rate codewords and latents are still on the move then. A run that
            ends before the planned steps ends at a rate that has not fallen.
        metric_for_best_model: The metric of `load_best_model_at_end` and early stopping. The collision rate is a bad
            choice, because it is often lowest at the first checkpoint: k-means seeds spread the codes, and training
            brings alike items together.
        use_cpu_kernels: On a CPU, replace layers of the model by faster ones with the same weights
            (`macrec_hf.cpu.accelerate`), and keep the memory that a step freed for the next step.

    Raises:
        ValueError: arguments of transformers that this trainer does not follow: `remove_unused_columns=True`,
            `label_smoothing_factor` other than 0, `train_sampling_strategy="group_by_length"`. A number
            that no training can have, such as a batch of no rows.

    Example:

    ```python
    >>> MacRecQuantizerTrainingArguments("out", num_train_epochs=50).per_device_train_batch_size
    1024
    ```
    """

    num_train_epochs: float = _default(1000.0, "passes over the catalogue", "authors' code")
    per_device_train_batch_size: int = _default(1024, "items per step and process", "paper")
    per_device_eval_batch_size: int = _default(1024, "items encoded at a time", "ours")
    learning_rate: float = _default(1e-3, "AdamW's learning rate", "paper")
    lr_scheduler_type: SchedulerType | str = _default("linear", "how the learning rate falls", "ours")
    warmup_steps: float = _default(0.05, "steps with a rising learning rate; below 1 their share of all steps", "ours")
    metric_for_best_model: str | None = _default(
        "reconstruction_loss", "metric that chooses the best checkpoint, where one is chosen", "ours"
    )
    use_cpu_kernels: bool = _default(True, "on a CPU, faster layers with the same weights", "ours")
    remove_unused_columns: bool = _default(
        False, "False: rows are numbers, which the collator makes into embeddings", "ours"
    )

    def __post_init__(self) -> None:
        _refuse_what_is_not_followed(self)
        if self.train_sampling_strategy == "group_by_length":
            raise ValueError(
                "train_sampling_strategy: expected 'random' or 'sequential', got 'group_by_length'. All embeddings of "
                "a modality are of one length. Leave the argument out."
            )
        if self.label_names is None:
            self.label_names = []  # the inputs are dicts of tensors, none of them labels in Trainer's sense
        _look_at_the_machine(self)
        super().__post_init__()


def _look_at_the_machine(arguments: TrainingArguments) -> None:
    """Without an accelerator transformers takes bfloat16 for a GPU's, and torch warns of pinned memory."""
    if not torch.accelerator.is_available():
        arguments.use_cpu = arguments.use_cpu or arguments.bf16
        arguments.dataloader_pin_memory = False


def _refuse_what_is_not_followed(arguments: TrainingArguments) -> None:
    check_bounds(arguments)
    if arguments.remove_unused_columns:
        raise ValueError(
            "remove_unused_columns: expected False, got True. The collators of both stages read what no argument of "
            "forward names; without it no batch can be made. Leave the argument out."
        )
    if arguments.label_smoothing_factor:
        raise ValueError(
            f"label_smoothing_factor: expected 0, got {arguments.label_smoothing_factor}. The losses are the paper's "
            "and are computed by the model, which does not smooth labels. Leave the argument out."
        )
    if getattr(arguments, "cross_modal_rate", 1.0) != 1.0 and arguments.train_sampling_strategy == "batch_rebalance":
        raise ValueError(
            "cross_modal_rate: expected 1 beside train_sampling_strategy='batch_rebalance', which draws transformers' "
            "own batches, of all rows. Give a rate of 1, or leave the strategy out."
        )


def own_copy(arguments: TrainingArguments, expected: type[Arguments]) -> Arguments:
    """A copy for a trainer to change, so that the caller's object stays as it is.

    Raises:
        TypeError: arguments of another class, such as those of transformers, which lack our fields and defaults.
    """
    if not isinstance(arguments, expected):
        raise TypeError(
            f"args: expected {expected.__name__}, got {type(arguments).__name__}. It takes the same arguments, has "
            f"defaults for this trainer and fields of its own: from macrec_hf import {expected.__name__}."
        )
    return copy.copy(arguments)
