"""What both trainers share: the same batches on any number of processes, and checkpoints that survive anything."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer_utils import TrainOutput, has_length, seed_worker
from transformers.utils import logging

from ..cpu import accelerate
from ..cpu.memory import keep_freed_memory
from ..cpu.threads import use_threads
from ..model.files import follow_umask
from .batches import EpochOrder, keep_to_one_gpu, micro_batch_weights, warn_of_accumulation
from .checkpoints import (
    SAVING,
    SETTINGS,
    discard,
    keep_newest,
    last_intact_checkpoint,
    move_into_place,
    seal,
    what_is_wrong,
)
from .global_batches import GlobalBatches
from .sharding import shard_tied_model
from .trainer_losses import LossPartsTrainer
from .trainer_state import best_whole_checkpoint, had_ended, metric_of_step, restore_callbacks
from .training_args import MacRecQuantizerTrainingArguments, MacRecTrainingArguments, own_copy

logger = logging.get_logger(__name__)


class MacRecTrainerBase(LossPartsTrainer):
    """[`~transformers.Trainer`] with batches from [`GlobalBatches`], whole checkpoints and an error for a NaN loss.

    `train(resume_from_checkpoint=True)` takes the newest checkpoint that is whole.

    Args:
        args: of `arguments_class`; a copy is kept, so that the caller's object stays as it is. `None`: the defaults of
            that class, with `default_output_dir`.
        **kwargs: the other arguments of [`~transformers.Trainer`].

    Raises:
        TypeError: `args` of another class.
        ValueError: an argument that the trainer would not follow.
    """

    arguments_class: type[MacRecTrainingArguments] | type[MacRecQuantizerTrainingArguments]
    default_output_dir: str
    # Arguments of Trainer's constructor that are refused, each with the reason and the remedy.
    not_followed: dict[str, str] = {
        "compute_loss_func": "The model computes its loss itself: override compute_loss in a subclass of the trainer.",
    }
    args: MacRecTrainingArguments | MacRecQuantizerTrainingArguments

    run_settings: Mapping[str, Any] | None = None  # what decides on the result, kept in each checkpoint
    _saving_to: Path | None = None
    _threads: int | None = None  # that torch had when training began
    # Factors for the losses of this step's remaining micro-batches, and that of the current one, which compute_loss
    # multiplies by: a scalar, or one for each part of the loss. None where a step has one micro-batch.
    _weights: Sequence[torch.Tensor] = ()
    _weight: torch.Tensor | None = None

    def __init__(
        self,
        model: PreTrainedModel | torch.nn.Module | None = None,
        args: TrainingArguments | None = None,
        **kwargs: Any,
    ):
        for name, reason in self.not_followed.items():
            if kwargs.get(name) is not None:
                raise ValueError(f"{name}: expected None, got {kwargs[name]!r}. {reason}")
        args = own_copy(self.arguments_class(self.default_output_dir) if args is None else args, self.arguments_class)
        keep_to_one_gpu(args)
        self._unseen: list[tuple[int, torch.Tensor]] = []  # steps and their losses, not looked at yet
        super().__init__(model=model, args=args, **kwargs)
        self.args.logging_nan_inf_filter = False  # it would ask the device in every step, as `_check_losses` need not
        if self.args.use_cpu_kernels and self.args.device.type == "cpu":
            accelerate(cast(nn.Module, self.model))
        self.add_callback(EpochOrder())

    # ---- batches ----

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process, see [`GlobalBatches`]."""
        dataset, args = self.train_dataset, self.args
        strategy = args.train_sampling_strategy
        if dataset is None or strategy == "batch_rebalance":
            return super().get_train_dataloader()
        rare, share = self._rare_rows(dataset)
        if not has_length(dataset):
            return super().get_train_dataloader()
        batches = GlobalBatches(
            len(dataset),
            self._train_batch_size,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            rank=args.process_index,
            num_processes=args.world_size,
            accumulation=args.gradient_accumulation_steps,
            lengths=self._row_lengths(dataset) if strategy == "group_by_length" else None,
            shuffle=strategy != "sequential",
            drop_last=args.dataloader_drop_last,
            rare=rare,
            share=share,
        )
        # Not `accelerator.prepare`d, which would deal the batches out a second time.
        return DataLoader(
            cast(Dataset, self._rows_at_a_time(dataset)),
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )

    def num_examples(self, dataloader: DataLoader) -> int:
        """Examples of a pass, of which the log's `train_samples_per_second` is told."""
        batches = dataloader.batch_sampler
        return batches.num_rows if isinstance(batches, GlobalBatches) else super().num_examples(dataloader)

    def _rare_rows(self, dataset: Any) -> tuple[Sequence[int] | np.ndarray, float]:
        """Rows of which an epoch has only a share, and the share."""
        return (), 1.0

    def _rows_at_a_time(self, dataset: Any) -> Any:
        """What the loader reads a batch from. Here the data set itself, row by row."""
        return dataset

    def _row_lengths(self, dataset: Any) -> Sequence[int] | None:
        """Length of each row, for batches of rows of similar length; None if rows have no length."""
        return None

    def warn_of_accumulation(self, losses: Sequence[str]) -> None:
        """Warns, with accumulation, that these losses compare the rows of one micro-batch only."""
        rows = self._train_batch_size * self.args.world_size
        warn_of_accumulation(losses, rows, self.args.gradient_accumulation_steps)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: str | None
    ) -> tuple[nn.Module, DataLoader]:
        if self.is_fsdp_enabled and self.accelerator.is_fsdp2:
            shard_tied_model(cast(nn.Module, self.model), self.accelerator)
        cast(Any, self.model).gather_across_processes = True
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor | int | None]:
        """The micro-batches of a step; notes the factor for the loss of each."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._weights = []
        if len(batches) > 1:
            dtype = torch.promote_types(self.accelerator.unwrap_model(self.model).dtype, torch.float32)
            self._weights = micro_batch_weights([self._size_of(batch) for batch in batches], self.accelerator, dtype)
        return batches, num_items

    def _size_of(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Number of target tokens, or items, that the loss of a batch is the mean of. Here 1: all weigh the same.

        A scalar, or (num_parts,) of a loss whose parts are means over different items.
        """
        return torch.ones(())

    # ---- nothing lost ----

    def train(
        self,
        resume_from_checkpoint: str | Path | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """[`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint: a folder, or True: the newest whole checkpoint of `args.output_dir`.

        Raises:
            ValueError: the checkpoint is not whole, or there is none.
            RuntimeError: the loss became NaN or infinite.
            OSError: a checkpoint could not be written.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_intact_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise ValueError(f"{self.args.output_dir}: expected a checkpoint to resume from, found none.")
        elif resume_from_checkpoint and (wrong := what_is_wrong(resume_from_checkpoint)):
            raise ValueError(
                f"{resume_from_checkpoint}: expected a whole checkpoint, but {wrong}. resume_from_checkpoint=True "
                "takes the newest one that is whole."
            )
        self._before_training(resuming=bool(resume_from_checkpoint))
        self._threads, few = torch.get_num_threads(), False
        if self.args.use_cpu_kernels and self.args.device.type == "cpu":
            keep_freed_memory()
            few = self._small_steps()
        try:
            with use_threads(1 if few else self._threads):
                output = super().train(str(resume_from_checkpoint or "") or None, trial, ignore_keys_for_eval)
            self._check_losses()
            return output
        finally:
            self._threads = None
            self._unseen.clear()
            cast(Any, self.model).gather_across_processes = False  # on since `_prepare_for_training`
            self._after_training()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """[`~transformers.Trainer.evaluate`], on all threads, also amid a training whose steps take one."""
        with use_threads(self._threads or torch.get_num_threads()):
            return super().evaluate(*args, **kwargs)

    def _before_training(self, resuming: bool) -> None:
        """Called by `train` once the checkpoint is known to be whole; subclasses prepare their data and warn here."""

    def _after_training(self) -> None:
        """Called by `train` at its end, also of one that fails."""

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Trainer's step, with the factor of the micro-batch; RuntimeError for a loss that is NaN or infinite.

        On a CPU before the optimizer's step: the weights are still those of the step before. On other devices at the
        next log line or checkpoint, since to ask for a loss is to wait for it.
        """
        if self._weights:
            self._weight, *self._weights = self._weights
        try:
            loss = self._with_gradients(model, inputs, num_items_in_batch)
        finally:
            self._weight = None
        self._unseen.append((self.state.global_step + 1, loss.detach()))
        if loss.device.type == "cpu":
            self._check_losses()
        return loss

    def _with_gradients(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """The loss of a micro-batch, whose gradients are added to those of the weights."""
        return super().training_step(model, inputs, num_items_in_batch)

    def _small_steps(self) -> bool:
        """Whether the operations of a step are so small that on a CPU one thread is faster than several."""
        return False

    def _check_losses(self) -> None:
        """RuntimeError where one of the losses since the last look was NaN or infinite."""
        steps, losses = [step for step, _ in self._unseen], [loss for _, loss in self._unseen]
        self._unseen.clear()
        for step, loss in zip(steps, torch.stack(losses).tolist() if losses else [], strict=True):
            if not math.isfinite(loss):
                self._not_finite(f"the loss of step {step} is {loss}")

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's, with the parts of the loss; first the look at the losses that no step on a GPU waited for."""
        self._check_losses()
        super().log(logs, *args, **kwargs)

    def _prepare_input(self, data: Any) -> Any:
        """Trainer's, but copies out of pinned memory are not waited for."""
        if isinstance(data, torch.Tensor) and data.is_pinned() and not self.is_deepspeed_enabled:
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def _not_finite(self, what: str) -> None:
        raise RuntimeError(
            f"Training stopped: {what}, where finite numbers were expected. The usual causes are a learning rate that "
            "is too high, half precision, and numbers in the data that are not finite or huge. "
            + self._last_good_state()
        )

    def _last_good_state(self) -> str:
        try:
            last = last_intact_checkpoint(str(self.args.output_dir))
        except ValueError:
            last = None
        return (
            f"The last good state is {last}: --resume goes on there." if last else "No checkpoint was written before."
        )

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        place = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        callbacks = self.callback_handler.callbacks
        if resume_from_checkpoint is not None:
            restore_callbacks(callbacks, self.state)
            # Trainer looks only after a step whether there is one to make: a run cut short between its last
            # checkpoint and the writing of the model would go on past its end.
            if had_ended(callbacks, self.state, max_steps):
                return num_train_epochs, 0
        return place

    def _load_best_model(self) -> None:
        """The best checkpoint, or where it is damaged the best of those that are whole, or else the last weights."""
        state, metric = self.state, self.args.metric_for_best_model
        best = state.best_model_checkpoint
        if best and (wrong := what_is_wrong(best)):
            found = best_whole_checkpoint(Path(best).parent, state, metric, self.args.greater_is_better)
            path, value = found or (None, metric_of_step(state, metric, state.global_step))
            logger.warning(
                "The best checkpoint %s (%s %.6g) cannot be loaded: %s. %s instead: %s %s.",
                best, metric, state.best_metric, wrong, f"{path} is taken" if path else "The last weights stay",
                metric, "was not measured there" if value is None else f"{value:.6g}",
            )  # fmt: skip
            state.best_model_checkpoint, state.best_metric = str(path) if path else None, value
        if state.best_model_checkpoint:
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Trainer's warnings, without the tied weights, which a checkpoint holds under one of their names."""
        tied = getattr(self.model, "all_tied_weights_keys", None) or {}
        missing = [name for name in load_result.missing_keys if name not in tied]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._saving_to is None else str(self._saving_to)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Trainer's checkpoint, written into `.saving/`, sealed and moved into place by the main process."""
        self._check_losses()
        weights = cast(torch.nn.Module, self.model).named_parameters()
        bad = [name for name, weight in weights if not torch.isfinite(weight).all()]
        if bad:
            self._not_finite(f"the weights {bad[0]} hold NaN or infinity after step {self.state.global_step}")
        run_dir = Path(self._get_output_dir(trial))
        written = run_dir / SAVING / f"checkpoint-{self.state.global_step}"
        place = run_dir / written.name
        try:
            if self.args.should_save:
                discard(run_dir / SAVING)
            self.accelerator.wait_for_everyone()
            with self._saving_into(run_dir / SAVING):
                super()._save_checkpoint(model, trial)
            if self.state.best_model_checkpoint == str(written):
                self.state.best_model_checkpoint = str(place)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(str(written / "trainer_state.json"))
                if self.run_settings is not None:
                    (written / SETTINGS).write_text(json.dumps(self.run_settings, indent=1), encoding="utf-8")
                follow_umask(*written.glob("*.safetensors"))
                seal(written)
                move_into_place(written, place)
                keep_newest(run_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
            self.accelerator.wait_for_everyone()
            # Another machine without a file system in common has its own random states to keep.
            if self.args.local_process_index == 0 and written.is_dir():
                move_into_place(written, place)
        except (OSError, RuntimeError, SafetensorError) as error:
            discard(run_dir / SAVING)
            raise OSError(
                f"{place} could not be written: {error}. Is the disk full, or the folder not writable? "
                + self._last_good_state()
            ) from error
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(place))

    @contextmanager
    def _saving_into(self, folder: Path) -> Iterator[None]:
        # Uploading waits until the checkpoint is in its place.
        pushing, self.args.push_to_hub, self._saving_to = self.args.push_to_hub, False, folder
        try:
            yield
        finally:
            self.args.push_to_hub, self._saving_to = pushing, None
