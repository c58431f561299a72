"""Flags made from the fields of a Trainer's arguments, those of transformers included, with the fields' defaults.

Fields with a short name are spelled by it alone. Fields that a verb sets itself are refused, each with what to do.
"""

import argparse
import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..training.bounds import BOUNDS, Bounds
from .common import add_device_flag, add_overwrite_flag, named_device, num_processes, read_bool
from .fields import Field, default_of, fields_of, own_fields
from .numbers import ANY, Number
from .run_folder import CHECKPOINTS
from .tracking import add_tracking_flag, tracking_arguments

if TYPE_CHECKING:
    from transformers import TrainingArguments

_Arguments = TypeVar("_Arguments", bound="TrainingArguments")
SHORT = {  # field → the only flag that spells it
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "warmup_steps": "warmup",
    "generation_num_beams": "num_beams",
    "num_eval_users": "eval_users",
}
OWN_BOUNDS = {  # of flags that mean something else than their field
    "num_eval_users": Bounds(0),  # all
    "warmup_steps": Bounds(0, 1, below=True),  # a share
    "learning_rate": Bounds(0, above=True),  # a run that learns nothing is a mistake
    "embedding_learning_rate": Bounds(0, above=True),
}
OWN_DEFAULTS = {  # a verb is not a Trainer: it ranks often, and every verb's seed is 0
    "num_eval_users": 2000,
    "seed": 0,
    "save_total_limit": 2,
    "dataloader_pin_memory": False,
}
FOLLOWING = {  # fields whose default follows from other flags
    "per_device_eval_batch_size": "as --batch-size",
    "logging_steps": "a fifth of those between two evaluations",
    "run_name": "after the folder of --output",
    "project": "macrec_hf",
    "hub_model_id": "the folder name of --output",
}
_ELSEWHERE = {
    **{name: f"use --{flag.replace('_', '-')}" for name, flag in SHORT.items()},
    "output_dir": "use --output",
    "resume_from_checkpoint": "use --resume",
    "use_cpu": "use --device cpu",
    "gradient_checkpointing": "use --activation-checkpointing",
    "gradient_checkpointing_kwargs": "use --activation-checkpointing-kwargs",
    "hub_token": "the command line is kept in the model card: use the variable HF_TOKEN, or `hf auth login`",
    "local_rank": "use accelerate launch or torchrun",
    "parallelism_config": "use accelerate launch --config_file",
}
_BY_THE_VERB = (
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "remove_unused_columns", "label_names",
    "label_smoothing_factor", "length_column_name", "do_train", "do_eval", "do_predict", "prediction_loss_only",
    "include_for_metrics", "batch_eval_metrics", "eval_do_concat_batches", "eval_use_gather_object",
    "predict_with_generate", "generation_max_length", "generation_config", "sortish_sampler",
)  # fmt: skip
# Fields that say what is told, kept and sent, and how the work is divided: a run may be resumed with others.
_NOT_DECIDING = (
    "output_dir", "logging_", "log_", "include_num_input", "disable_tqdm", "report_to", "run_name", "project",
    "trackio_", "eval_strategy", "eval_steps", "per_device_eval", "eval_accumulation", "save_", "enable_jit",
    "push_to_hub", "hub_", "accelerator_config", "parallelism_config", "dataloader_num", "dataloader_pin",
    "dataloader_persistent", "dataloader_prefetch", "dataloader_multi", "ddp_", "fsdp", "deepspeed", "debug",
    "skip_memory", "local_rank", "resume_from", "torch_empty_cache",
)  # fmt: skip
_MADE_ELSEWHERE = ("report_to",)  # by `tracking.add_tracking_flag`


class Refused(argparse.Action):
    """A flag that is no flag of the verb, with what to do instead; the help does not show it."""

    def __init__(self, option_strings: list[str], dest: str, remedy: str):
        super().__init__(option_strings, dest, nargs="?", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.remedy = remedy

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        raise argparse.ArgumentError(None, f"{self.option_strings[0]} is no flag of {parser.prog}: {self.remedy}.")


def add_trainer_flags(
    parser: argparse.ArgumentParser, arguments_class: str, elsewhere: Mapping[str, str], sized: Collection[str]
) -> None:
    """The flags that both training verbs have, and one for every field of a Trainer's arguments that is not refused.

    Args:
        arguments_class: its name; it is not loaded where `fields` knows it.
        elsewhere: further fields that are refused, each with what to do.
        sized: fields that follow `--size`: `None` where they are not given.
    """
    by_verb = dict.fromkeys(_BY_THE_VERB, f"{parser.prog} sets this itself")
    refused = by_verb | _ELSEWHERE | dict(elsewhere)
    group = parser.add_argument_group("training")
    length = group.add_mutually_exclusive_group()
    more = parser.add_argument_group("more arguments of transformers' Trainer")
    fields = fields_of(arguments_class)
    for field in sorted(fields, key=lambda field: field.source is None):  # ours first, each part in its own order
        name = field.name
        if name in refused:
            parser.add_argument("--" + name.replace("_", "-"), action=Refused, remedy=refused[name])
        if name in _MADE_ELSEWHERE or (name in refused and name not in SHORT):
            continue
        place = length if name in ("num_train_epochs", "max_steps") else more if field.source is None else group
        flag = SHORT.get(name, name)
        place.add_argument("--" + flag.replace("_", "-"), dest=flag, **_options(field, name in sized))
    group.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in --output (default: start anew)"
    )
    group.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="keep checkpoints/ of --output, so that --resume can make the run longer (default: removed at the end)",
    )
    add_overwrite_flag(group)
    add_device_flag(group, "auto, the accelerator if there is one")
    add_tracking_flag(group)


def training_steps(args: argparse.Namespace, num_rows: int) -> tuple[int, int]:
    """Steps of one epoch and of the whole training, over all processes.

    Args:
        num_rows: rows of an epoch.
    """
    batches = num_rows / (args.batch_size * num_processes())
    batches = math.floor(batches) if getattr(args, "dataloader_drop_last", False) else math.ceil(batches)
    of_an_epoch = max(1, math.ceil(batches / getattr(args, "gradient_accumulation_steps", 1)))
    return of_an_epoch, args.max_steps if args.max_steps > 0 else math.ceil(of_an_epoch * args.epochs)


def settings_of_run(args: argparse.Namespace, arguments_class: type["TrainingArguments"]) -> dict[str, Any]:
    """`{flag: value}` of what decides on the result of a training, as far as both verbs have it; None: not given.

    The batch is that of all processes together: it may be divided among others when a run is resumed.
    """
    names = [field.name for field in dataclasses.fields(arguments_class) if not field.name.startswith(_NOT_DECIDING)]
    flags = [SHORT.get(name, name) for name in sorted({*names, *own_fields(arguments_class)})]
    settings = {flag: getattr(args, flag, None) for flag in [*flags, "patience"]}
    settings["batch_size"] = args.batch_size * num_processes()
    length = {"epochs": None} if args.max_steps > 0 else {"max_steps": None}  # the one that does not count
    return settings | length


def training_settings(
    args: argparse.Namespace, arguments_class: type["TrainingArguments"], output: Path, num_rows: int, every: int
) -> dict[str, Any]:
    """What the flags of both training verbs say, as arguments of their class.

    Args:
        output: folder of the verb.
        num_rows: rows of an epoch.
        every: steps between evaluations, and between checkpoints.
    """
    _, steps = training_steps(args, num_rows)
    names = {field.name: SHORT.get(field.name, field.name) for field in dataclasses.fields(arguments_class)}
    return {
        "output_dir": str(output / CHECKPOINTS),
        "per_device_eval_batch_size": args.batch_size,
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        **{name: OWN_DEFAULTS[name] for name in names if name in OWN_DEFAULTS},
        **tracking_arguments(args, output),
        **{name: getattr(args, flag) for name, flag in names.items() if flag in args},
        "warmup_steps": round(steps * args.warmup),
        "use_cpu": named_device(args) == "cpu",
    }


def checked_arguments(arguments_class: type[_Arguments], settings: Mapping[str, Any]) -> _Arguments:
    """The arguments, whose optimizer and schedule can be made: nothing is lost to a misspelt name of theirs.

    Raises:
        ValueError: with the flag.
    """
    import torch
    from transformers import Trainer, get_scheduler

    try:
        made = arguments_class(**settings)
    except (TypeError, OSError) as error:
        if (given := settings.get("accelerator_config")) is None:
            raise
        raise ValueError(f"--accelerator-config: expected fields of accelerate's, got {given}: {error}.") from error
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=made.learning_rate)
    given = cast(dict, made.lr_scheduler_kwargs or {})
    schedule, optim = (getattr(name, "value", name) for name in (made.lr_scheduler_type, made.optim))
    try:
        rates = get_scheduler(made.lr_scheduler_type, optimizer, 1, 10, scheduler_specific_kwargs=given)
        follows_a_metric = "metrics" in inspect.signature(rates.step).parameters  # as that of a plateau
        for _ in range(0 if follows_a_metric else 4):
            optimizer.step()
            rates.step()
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(
            f"--lr-scheduler-kwargs: expected settings of the schedule {schedule}, got {given}: {error}."
        ) from error
    try:
        Trainer.get_optimizer_cls_and_kwargs(made)
    except ImportError as error:
        raise ValueError(f"--optim: expected an optimizer that is installed, got {optim}: {error}") from error
    except (ValueError, TypeError) as error:  # some optimizers want the model, which is looked at later
        if made.optim_args:
            raise ValueError(
                f"--optim-args: expected pairs such as rank=8,eps=1e-6, of {optim}, got {made.optim_args!r}: {error}."
            ) from error
    return made


def defaults_of(arguments_class: type["TrainingArguments"], names: Iterable[str]) -> dict[str, Any]:
    """`{field: default}` of those of the fields that the arguments have."""
    fields = {field.name: field for field in dataclasses.fields(arguments_class)}
    return {name: OWN_DEFAULTS.get(name, default_of(fields[name])) for name in names if name in fields}


def _options(field: Field, is_sized: bool) -> dict[str, Any]:
    """How argparse reads a field, and what its help says."""
    default = OWN_DEFAULTS.get(field.name, field.default)
    shown = ("by --size, or " if is_sized else "") + FOLLOWING.get(field.name, _shown(default))
    shown += "" if field.source is None else f"; {field.source}"
    is_default = field.source is not None and field.name not in FOLLOWING
    reader, metavar = READERS[field.kind]
    within = OWN_BOUNDS.get(field.name, BOUNDS.get(field.name))
    if within is not None:
        reader = Number(within, is_whole=field.kind == "int")
    reading = {"type": reader, "metavar": metavar}
    if field.choices is not None:
        reading = {"choices": field.choices, "metavar": "|".join(field.choices) if len(field.choices) < 5 else "NAME"}
    return {
        "default": None if is_sized else default if is_default else argparse.SUPPRESS,
        "help": f"{field.meaning} (default: {shown})".replace("%", "%%"),
        **reading,
    }


def _shown(default: Any) -> str:
    if default in (None, "", []):
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _read_json(text: str) -> Any:
    """A JSON object, or the path of a file with one."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"expected a JSON object or the path of one, got {text!r}") from error


def _bool_or_text(text: str) -> bool | str:
    return text.lower() == "true" if text.lower() in ("true", "false") else text


def _text_or_list(text: str) -> str | list[str]:
    return [part.strip() for part in text.split(",")] if "," in text else text


READERS: dict[str, tuple[Callable[[str], Any], str]] = {  # kind of a field → how its flag is read, and shown
    "json": (_read_json, "JSON"),
    "bool": (read_bool, "true|false"),
    "bool or text": (_bool_or_text, "true|false"),
    "list": (_text_or_list, "LIST"),
    "int": (Number(ANY, is_whole=True), "N"),
    "float": (Number(ANY, is_whole=False), "X"),
    "text": (str, "TEXT"),
}
