"""What a run of the command line says of itself, and when it may stop early."""

import math
import time
from typing import Any

from torch import nn
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

UNCUT = 0.8  # share of the planned steps that patience leaves alone
LONG = 3600.0  # seconds


class LateStopping(EarlyStoppingCallback):
    """[`~transformers.EarlyStoppingCallback`] that ends a run in the last fifth of its planned steps only.

    The learning rate falls over the planned steps. A run that ends long before has not seen low rates, with which the
    metric improves last (ours).
    """

    def on_evaluate(  # type: ignore[override]  # as in the parent
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any,
        **kwargs: Any,
    ) -> None:
        ends_anyway = control.should_training_stop  # another callback's wish
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if state.global_step < UNCUT * state.max_steps:
            # Below the limit: a resumed run takes a full count for a run that had ended.
            self.early_stopping_patience_counter = min(
                self.early_stopping_patience_counter, self.early_stopping_patience - 1
            )
            control.should_training_stop = ends_anyway


class Announcement(TrainerCallback):
    """Says before the first step what is trained and for how long, soon after how much time is left.

    Args:
        first_line: of the header.
        num_examples: of a pass.
        patience: evaluations of [`LateStopping`]; 0: none.
        faster: what makes a long run shorter, by flags.
    """

    def __init__(self, first_line: str, num_examples: int, patience: int, faster: str):
        self.first_line, self.num_examples, self.patience, self.faster = first_line, num_examples, patience, faster
        self.first_step, self.began = 0, 0.0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        if not self._speaks(args, state):
            return
        weights = sum(weight.numel() for weight in model.parameters()) if model is not None else 0
        end = f"ends at step {state.max_steps:,}"
        if self.patience and (earliest := self._earliest(state)):
            end += f", or from step {earliest:,} on after {self.patience} evaluations without progress"
        tqdm.write(self.first_line)
        tqdm.write(
            f"{self.num_examples:,} examples an epoch, {weights:,} parameters, on {args.device}: {state.max_steps:,} "
            f"steps ({state.num_train_epochs:g} epochs), {end}."
        )

    def _earliest(self, state: TrainerState) -> int | None:
        """The first step at which patience may end the run; None where too few evaluations are planned for that."""
        every = max(1, int(state.eval_steps))
        # The first evaluation is progress, so that patience ends with one more than it has.
        first = every * max(self.patience + 1, math.ceil(UNCUT * state.max_steps / every))
        return first if first < state.max_steps else None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.began:  # the first step makes buffers and is slower
            self.first_step, self.began = state.global_step, time.monotonic()
        elif state.global_step - self.first_step == max(20, state.max_steps // 50) and self._speaks(args, state):
            a_step = (time.monotonic() - self.began) / (state.global_step - self.first_step)
            seconds = a_step * (state.max_steps - state.global_step)
            tqdm.write(f"About {in_words(seconds)} left at {a_step:.2g} s a step, evaluations apart.")
            if seconds > LONG:
                tqdm.write(f"Faster: {self.faster}.")

    @staticmethod
    def _speaks(args: TrainingArguments, state: TrainerState) -> bool:
        return state.is_world_process_zero and not args.disable_tqdm


def in_words(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
