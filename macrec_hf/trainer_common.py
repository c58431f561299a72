"""What both trainers share: the same batches on any number of processes, and checkpoints that survive anything."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import has_length, seed_worker
from transformers.utils import logging

from .checkpoints import SAVING, discard, keep_newest, last_intact_checkpoint, move_into_place, seal, what_is_wrong
from .global_batches import GlobalBatches

logger = logging.get_logger(__name__)


class _EpochOrder(TrainerCallback):
    """Tells the batches which epoch begins; also a resumed one, whose loader skips what was seen."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        batches = getattr(train_dataloader, "batch_sampler", None)
        if isinstance(batches, GlobalBatches):
            batches.set_epoch(int(state.epoch or 0))


class MacRecTrainerBase(Trainer):
    """[`~transformers.Trainer`] with batches from [`GlobalBatches`], whole checkpoints and an error for a NaN loss.

    `train(resume_from_checkpoint=True)` takes the newest checkpoint that is whole.
    """

    _saving_to: Path | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(_EpochOrder())

    # ---- batches ----

    def get_train_dataloader(self) -> DataLoader:
        """Our part of every global batch, on one process as on many."""
        dataset, args = self.train_dataset, self.args
        strategy = args.train_sampling_strategy
        if dataset is None or not has_length(dataset) or strategy == "batch_rebalance":
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
        )
        # Not `accelerator.prepare`d, which would deal the batches out a second time.
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
        )

    def _row_lengths(self, dataset) -> Sequence[int] | None:
        """Length of each row, for batches of like length; None: there are no lengths to group by."""
        return None

    def means(self, parts: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, float]:
        """Mean of each list, and over the processes: of shares the whole. Every process has to call it."""
        if not parts:
            return {}
        values = torch.stack([torch.stack(list(value)).double().mean() for value in parts.values()])
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values, "mean")
        return dict(zip(parts, values.tolist(), strict=True))

    def warn_of_accumulation(self, losses: Sequence[str]) -> None:
        """Accumulated micro-batches are compared each within itself."""
        if losses and self.args.gradient_accumulation_steps > 1:
            logger.warning(
                "gradient_accumulation_steps=%d: %s compare items with their batch-mates, and see the %d rows of a "
                "micro-batch, not the %d of a step. More processes or a larger batch size widen their view.",
                self.args.gradient_accumulation_steps,
                " and ".join(losses),
                self._train_batch_size * self.args.world_size,
                self._train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps,
            )

    # ---- nothing lost ----

    def train(self, resume_from_checkpoint=None, **kwargs):
        """[`~transformers.Trainer.train`].

        Args:
            resume_from_checkpoint: a folder, or True: the newest whole checkpoint of `args.output_dir`.

        Raises:
            ValueError: the checkpoint is not whole, or there is none.
            RuntimeError: the loss became NaN or infinite.
            OSError: a checkpoint could not be written.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_intact_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"{self.args.output_dir}: expected a checkpoint to resume from, found none.")
        elif resume_from_checkpoint and (wrong := what_is_wrong(resume_from_checkpoint)):
            raise ValueError(
                f"{resume_from_checkpoint}: expected a whole checkpoint, but {wrong}. resume_from_checkpoint=True "
                "takes the newest one that is whole."
            )
        return super().train(resume_from_checkpoint=str(resume_from_checkpoint or "") or None, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        # Before the optimizer's step: the weights are still those of the step before. Trainer looks at it as well.
        if not torch.isfinite(loss):
            self._not_finite(f"the loss of step {self.state.global_step + 1} is {float(loss)}")
        return loss

    def _not_finite(self, what: str) -> None:
        raise RuntimeError(
            f"Training stopped: {what}, where finite numbers were expected. The usual causes are a learning rate that "
            "is too high, half precision, and numbers in the data that are not finite or huge. "
            + self._last_good_state()
        )

    def _last_good_state(self) -> str:
        try:
            last = last_intact_checkpoint(self.args.output_dir)
        except ValueError:
            last = None
        return (
            f"The last good state is {last}: --resume goes on there." if last else "No checkpoint was written before."
        )

    def _load_best_model(self):
        best = self.state.best_model_checkpoint
        if best and (wrong := what_is_wrong(best)):
            raise ValueError(
                f"The best checkpoint {best} cannot be loaded: {wrong}. {self._last_good_state()} Training is over: "
                "what is lost is the choice of the best step."
            )
        super()._load_best_model()

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._saving_to is None else str(self._saving_to)

    def _save_checkpoint(self, model, trial):
        """Trainer's checkpoint, written into `.saving/`, sealed and moved into place by the main process."""
        bad = [name for name, weight in self.model.named_parameters() if not torch.isfinite(weight).all()]
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
    def _saving_into(self, folder: Path):
        # Uploading waits until the checkpoint is in its place.
        pushing, self.args.push_to_hub, self._saving_to = self.args.push_to_hub, False, folder
        try:
            yield
        finally:
            self.args.push_to_hub, self._saving_to = pushing, None
