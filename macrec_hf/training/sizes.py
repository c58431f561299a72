"""Sizes of both models and lengths of both trainings from a shop's numbers: pure functions, a source for each rule.

The defaults of the configurations and of the training arguments stay the paper's, which suit its ten thousand items.
`benchmarks/sizes.py` measures what the rules here give.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ARGUMENTS = (  # fields of the training arguments; the others are fields of the configurations
    "num_train_epochs", "per_device_train_batch_size", "learning_rate", "embedding_learning_rate", "cross_modal_rate",
)  # fmt: skip
ITEMS_A_CODE = 8  # the least that `macrec doctor` is content with
IDS_AN_ITEM = 50  # the same: at 50 IDs an item one in a hundred shares its ID by chance
QUANTIZER_STEPS = 1000
SMALL = {"d_model": 64, "d_kv": 16, "d_ff": 256, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2}
PAPER = {"d_model": 128, "d_kv": 64, "d_ff": 1024, "num_heads": 6, "num_layers": 4, "num_decoder_layers": 4}
SMALL_UP_TO = 1_000_000  # examples
SEEN_AT_MOST = 1_500_000  # examples, all epochs together
CROSS_MODAL_RATE = 0.05
COPYING = 4.0  # learned to repeat sooner than 1 on H&M, than 8 on the demo shop (ours, `docs/training.md`)
EPOCHS_AT_MOST = 40


class _Sizes:
    """What both stages' sizes can do."""

    @property
    def config(self) -> dict[str, Any]:
        """The fields of the configuration, `{name: value}`."""
        return {name: value for name, value in asdict(self).items() if name not in ARGUMENTS}  # type: ignore[call-overload]

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields of the training arguments, `{name: value}`."""
        return {name: value for name, value in asdict(self).items() if name in ARGUMENTS}  # type: ignore[call-overload]


@dataclass(frozen=True)
class QuantizerSizes(_Sizes):
    """Sizes of a quantizer and of its training, see [`quantizer_sizes`].

    The fields have the names, meanings and units of [`MacRecQuantizerConfig`] and
    [`MacRecQuantizerTrainingArguments`]; `config` and `arguments` are the fields of each, as dicts.
    """

    num_levels: int
    codebook_size: int
    hidden_sizes: tuple[int, ...]
    num_pseudo_labels: int
    num_train_epochs: float
    per_device_train_batch_size: int


@dataclass(frozen=True)
class RecommenderSizes(_Sizes):
    """Sizes of a recommender and of its training, see [`recommender_sizes`].

    The fields have the names, meanings and units of [`MacRecConfig`] and [`MacRecTrainingArguments`]; `config` and
    `arguments` are the fields of each, as dicts.
    """

    d_model: int
    d_kv: int
    d_ff: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    dropout_rate: float
    copy_initializer_factor: float
    max_history: int
    num_train_epochs: float
    per_device_train_batch_size: int
    learning_rate: float
    embedding_learning_rate: float | None
    cross_modal_rate: float


def quantizer_sizes(
    num_items: int,
    modalities: Mapping[str, int],
    num_processes: int = 1,
    *,
    codebook_size: int | None = None,
    num_later_items: int = 0,
) -> QuantizerSizes:
    """Sizes of a quantizer for a catalogue, and of its training.

    - `codebook_size`: eight items a code (the doctor's rule), between 8 and the paper's 256; or as given.
    - `num_levels`: the fewest with 50 IDs an item (the doctor's rule), later items too, at least 3: the paper's
      contrastive loss begins at the third level.
    - `hidden_sizes`: powers of two down to 128, from the one nearest, by its logarithm, to the largest embedding size,
      or to the number of items if that is less; at most the 2,048 of the authors' code (ours).
    - `num_pseudo_labels`: twice the codes, as the paper's 512 are of its 256.
    - `per_device_train_batch_size`: the paper's 1,024 items over all processes, or the whole catalogue.
    - `num_train_epochs`: 1,000 steps, after which the losses of the demo shop hardly fall; at least 20 passes, at most
      the 1,000 of the authors' code (ours).

    Args:
        num_items: that the quantizer learns from.
        modalities: `{name: embedding size}`.
        num_processes: that share a batch.
        codebook_size: codes of a level, of at least 2, where they are chosen already.
        num_later_items: that get IDs without being learned from.

    Raises:
        ValueError: a number below 1, fewer than 2 codes, or no modality.

    Example:

    ```python
    >>> quantizer_sizes(200, {"text": 199, "image": 128}).config
    {'num_levels': 3, 'codebook_size': 25, 'hidden_sizes': (256, 128), 'num_pseudo_labels': 50}
    ```
    """
    _check(
        num_items=num_items, num_processes=num_processes, **{f"modalities[{n!r}]": s for n, s in modalities.items()}
    )
    if not modalities:
        raise ValueError("modalities: expected at least one, {name: embedding size}, got none.")
    codes = min(256, max(8, num_items // ITEMS_A_CODE)) if codebook_size is None else codebook_size
    if codes < 2:
        raise ValueError(f"codebook_size: expected at least 2 codes, got {codes}: with one all items share their ID.")
    batch = min(1024, num_items)
    steps_of_an_epoch = math.ceil(num_items / batch)
    return QuantizerSizes(
        num_levels=max(3, _digits(IDS_AN_ITEM * (num_items + num_later_items), codes)),
        codebook_size=codes,
        hidden_sizes=_widths(min(2048, max(modalities.values()), num_items)),
        num_pseudo_labels=2 * codes,
        num_train_epochs=float(min(1000, max(20, math.ceil(QUANTIZER_STEPS / steps_of_an_epoch)))),
        per_device_train_batch_size=math.ceil(batch / num_processes),
    )


def recommender_sizes(
    num_users: int,
    num_purchases: int,
    num_tasks: int = 6,
    num_processes: int = 1,
    *,
    num_cross_modal: int | None = None,
    num_held_out: int = 2,
    bought_again: bool = False,
) -> RecommenderSizes:
    """Sizes of a recommender for a shop, and of its training.

    Examples are for every task each purchase that is learned from: all but a user's first, which has no history, and
    those held out, by leave-one-out the last two, which validate and test.

    - `d_model` and the other widths: those of the demo shop up to a million examples, the paper's beyond: wider models
      learned no better on small shops and take four times as long (ours).
    - `dropout_rate`: T5's 0.1.
    - `copy_initializer_factor`: 4 where customers buy the same again, which is learned sooner then (ours,
      `docs/training.md`); else 0, T5's own start.
    - `max_history`: the purchases of a user, between 5 and the 20 of the authors' code.
    - `cross_modal_rate`: an epoch has a twentieth of the examples of the tasks between two modalities, all where there
      are no others: what a step of these gains is less than what it costs (ours, `benchmarks/NOTES.md`).
    - `num_train_epochs`: 40, or as many as 1.5 million examples make, at least 2 (ours, `benchmarks/sizes.py`).
    - `per_device_train_batch_size`: 64 over all processes for the small model, 256 for the paper's (ours).
    - `learning_rate`: 0.004 and 0.001 for these batches; `embedding_learning_rate` ten times that, since embeddings
      start ten times as large as matrices (ours).

    Args:
        num_users, num_purchases: in all of the interactions.
        num_tasks: that are trained; two modalities have six.
        num_cross_modal: of these, between two modalities; `None`: four of six, none of others.
        num_processes: that share a batch.
        num_held_out: purchases of each user that are not learned from: by leave-one-out two, before a date none.
        bought_again: whether at least 1 % of the validation purchases are of an item that the customer had.

    Raises:
        ValueError: a number below 1, or of held-out purchases below 0; more tasks between two modalities than tasks.

    Example:

    ```python
    >>> recommender_sizes(num_users=300, num_purchases=3000).arguments["num_train_epochs"]
    40.0
    ```
    """
    _check(num_users=num_users, num_purchases=num_purchases, num_tasks=num_tasks, num_processes=num_processes)
    if num_cross_modal is not None and not 0 <= num_cross_modal <= num_tasks:
        raise ValueError(f"num_cross_modal: expected 0 to {num_tasks}, as many as num_tasks, got {num_cross_modal}.")
    if num_held_out < 0:
        raise ValueError(f"num_held_out: expected at least 0, got {num_held_out}.")
    examples = num_tasks * max(num_users, num_purchases - (1 + num_held_out) * num_users)
    small = examples <= SMALL_UP_TO
    batch, rate = (64, 4e-3) if small else (256, 1e-3)
    widths = SMALL if small else PAPER
    crossing = {6: 4}.get(num_tasks, 0) if num_cross_modal is None else num_cross_modal
    share = CROSS_MODAL_RATE if crossing < num_tasks else 1.0
    of_an_epoch = examples / num_tasks * (num_tasks - crossing + share * crossing)
    return RecommenderSizes(
        **widths,
        dropout_rate=0.1,
        copy_initializer_factor=COPYING if bought_again else 0.0,
        max_history=min(20, max(5, math.ceil(num_purchases / num_users))),
        num_train_epochs=float(max(2, min(EPOCHS_AT_MOST, SEEN_AT_MOST // of_an_epoch))),
        per_device_train_batch_size=math.ceil(batch / num_processes),
        learning_rate=rate,
        embedding_learning_rate=10 * rate,
        cross_modal_rate=share,
    )


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}. Is a file empty?")


def _digits(count: int, base: int) -> int:
    """The fewest digits that write `count` different numbers in a base."""
    needed, room = 0, 1
    while room < count:
        needed, room = needed + 1, room * base
    return needed


def _widths(wanted: int, least: int = 128) -> tuple[int, ...]:
    """Powers of two, falling, from the one nearest, by its logarithm, to what is wanted, to the least."""
    first, last = round(math.log2(max(wanted, least))), round(math.log2(least))
    return tuple(2**power for power in range(first, last - 1, -1))
