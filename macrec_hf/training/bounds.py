"""Which numbers a Trainer's arguments may have: transformers checks few, and batches of -1 rows train nothing.

Nothing is loaded here, since the command line reads the bounds before any library.
"""

import math
from typing import Any, NamedTuple


class Bounds(NamedTuple):
    """The numbers that a field may have.

    Args:
        least: the smallest.
        most: the largest.
        above: whether `least` itself is too small.
        below: whether `most` itself is too large.
        besides: one number that means something of its own.
        remedy: a sentence for whoever wants what no such number says.
    """

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False
    besides: float | None = None
    remedy: str = ""

    def hold(self, value: float) -> bool:
        """Whether a number is within; NaN and infinity never are."""
        if value == self.besides:
            return True
        inside = (value > self.least if self.above else value >= self.least) and math.isfinite(value)
        return inside and (value < self.most if self.below else value <= self.most)

    def __str__(self) -> str:
        """Such as `a number of at least 1`."""
        words = f"above {self.least:g}" if self.above else f"of at least {self.least:g}"
        if self.most < math.inf:
            words += f" and {'below' if self.below else 'at most'} {self.most:g}"
        return f"a number {words}" + ("" if self.besides is None else f", or {self.besides:g}")


_COUNT, _SHARE, _SEED = Bounds(1), Bounds(0, 1, below=True), Bounds(0, 2**32, below=True)
BOUNDS = {  # field of the arguments → what its numbers may be; None stays None
    "num_train_epochs": Bounds(0, above=True),
    "max_steps": Bounds(1, besides=-1),
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "eval_accumulation_steps": _COUNT,
    "learning_rate": Bounds(0),
    "embedding_learning_rate": Bounds(0),
    "cross_modal_rate": Bounds(
        0, 1, above=True,
        remedy="To leave the tasks between modalities out, name the others: --tasks text_to_text,image_to_image, or "
        "tasks of load_recommendation_tasks in Python.",
    ),
    "weight_decay": Bounds(0),
    "warmup_steps": Bounds(0),
    "max_grad_norm": Bounds(0),
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": Bounds(0, above=True),
    "label_smoothing_factor": _SHARE,
    "logging_steps": Bounds(0, above=True),
    "eval_steps": Bounds(0, above=True),
    "save_steps": Bounds(0, above=True),
    "eval_delay": Bounds(0),
    "save_total_limit": _COUNT,
    "dataloader_num_workers": Bounds(0),
    "dataloader_prefetch_factor": _COUNT,
    "ddp_timeout": Bounds(0, above=True),
    "ddp_bucket_cap_mb": _COUNT,
    "seed": _SEED,
    "data_seed": _SEED,
    "num_eval_users": _COUNT,
    "generation_num_beams": _COUNT,
    "torch_empty_cache_steps": _COUNT,
}  # fmt: skip


def check_bounds(arguments: Any) -> None:
    """Refuses arguments with a number that no training can have.

    Raises:
        ValueError: a number outside its bounds, NaN, or something else than a number.
    """
    for name, bounds in BOUNDS.items():
        value = getattr(arguments, name, None)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not bounds.hold(value):
            raise ValueError(f"{name}: expected {bounds}, got {value!r}. {bounds.remedy}".rstrip())
