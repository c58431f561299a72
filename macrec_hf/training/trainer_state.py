"""Reads the state that a checkpoint holds: for a resumed run, and to replace a best checkpoint that is damaged."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState

from .checkpoints import checkpoints_in, what_is_wrong


def restore_callbacks(callbacks: Iterable[TrainerCallback], state: TrainerState) -> None:
    """Restores what callbacks had counted, such as evaluations without progress, but not their arguments.

    Trainer restores counts and arguments together or, by default, neither. Then a resumed run counts its patience from
    zero again, and ends at another step than an uninterrupted run.
    """
    for callback in callbacks:
        if isinstance(callback, ExportableState):
            # A callback that the earlier run did not have gets its place here: Trainer's saving expects one.
            known = cast(dict[str, Any], state.stateful_callbacks)  # Trainer makes a dict of the list it was given
            saved = known.setdefault(type(callback).__name__, callback.state())
            if isinstance(saved, dict):
                for name, value in saved.get("attributes", {}).items():
                    setattr(callback, name, value)


def had_ended(callbacks: Iterable[TrainerCallback], state: TrainerState, max_steps: int) -> bool:
    """Whether a run had made its last step, or had been stopped early, when its checkpoint was written."""
    patience_over = any(
        callback.early_stopping_patience_counter >= callback.early_stopping_patience
        for callback in callbacks
        if isinstance(callback, EarlyStoppingCallback)
    )
    return state.global_step >= max_steps or patience_over


def metric_of_step(state: TrainerState, metric: str | None, step: int) -> float | None:
    """What an evaluation logged under `metric` (with or without `eval_`) at a step; None: nothing."""
    name = f"eval_{(metric or '').removeprefix('eval_')}"
    return next((line[name] for line in reversed(state.log_history) if line["step"] == step and name in line), None)


def best_whole_checkpoint(
    directory: str | Path, state: TrainerState, metric: str | None, greater_is_better: bool | None
) -> tuple[Path, float] | None:
    """The whole checkpoint with the best logged metric, and that metric; None where none is whole and evaluated."""
    found = []
    for path in checkpoints_in(directory):
        value = metric_of_step(state, metric, int(re.sub(r"\D", "", path.name)))
        if value is not None and what_is_wrong(path) is None:
            found.append((path, value))
    return (max if greater_is_better else min)(found, key=lambda pair: pair[1], default=None)
