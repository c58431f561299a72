"""The parts of a loss, gathered without waiting for the device, and their means in the log."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from transformers import Trainer

# {(name, modality or pair): [(mean, how many rows it is over), …]}
Noted: TypeAlias = dict[tuple[str, str], list[tuple[torch.Tensor, torch.Tensor | int]]]


class LossPartsTrainer(Trainer):
    """[`~transformers.Trainer`] whose log lines also hold the means of the parts that a loss was made of."""

    def __init__(self, *args: Any, **kwargs: Any):
        # Since the last log line, of training and of evaluation: by name and modality or pair.
        self._parts: dict[str, Noted] = {"train": defaultdict(list), "eval": defaultdict(list)}
        super().__init__(*args, **kwargs)

    def _note(
        self, name: str, value: torch.Tensor, kind: str = "train", of: str = "", rows: torch.Tensor | int = 1
    ) -> None:
        """Keeps a mean for the next log line.

        Args:
            of: modality or pair; the means of each are added up.
            rows: that the value is a mean over, in all processes: its weight in the mean over batches.
        """
        self._parts[kind][name, of].append((value.detach(), rows))

    def log(self, logs: dict[str, float], start_time: float | None = None, **kwargs: Any) -> None:
        """Adds the means of the loss parts since the last line of the same kind, training or evaluation."""
        kind = "eval" if any(name.startswith("eval_") for name in logs) else "train"
        if (kind == "eval" or "loss" in logs) and self._parts[kind]:
            means = self._means(self._parts[kind])
            self._parts[kind].clear()
            self._look_at(means)
            prefix = "eval_" if kind == "eval" else ""
            logs = {**logs, **{prefix + name: round(value, 6) for name, value in means.items()}}
        super().log(logs, start_time, **kwargs)

    def _means(self, parts: Noted) -> dict[str, float]:
        """Means over the rows of all batches and processes, those of one name added up. Every process has to call it.

        A process's loss is its share of the loss of the whole batch, which is the mean over the processes.
        """
        values = torch.stack([_mean_over_rows(noted) for noted in parts.values()])
        if self.args.world_size > 1:
            values = self.accelerator.reduce(values, "mean")
        means: dict[str, float] = defaultdict(float)
        for (name, _), value in zip(parts, values.tolist(), strict=True):
            means[name] += value
        return dict(means)

    def _look_at(self, means: Mapping[str, float]) -> None:
        """Called with the means before they are logged; subclasses warn of bad ones."""


def _mean_over_rows(noted: Sequence[tuple[torch.Tensor, torch.Tensor | int]]) -> torch.Tensor:
    means = torch.stack([mean for mean, _ in noted]).double()
    rows = torch.stack([torch.as_tensor(count, device=means.device) for _, count in noted])
    return (means * rows).sum() / rows.sum().clamp(min=1)
